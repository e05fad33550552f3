//! A Bento node: listener, sessions, functions, containers, function API, meter.
//!
//! `bentod` is this library with a command line around it.
#![forbid(unsafe_code)]

pub mod archive;
pub mod broker;
pub mod cgroup;
pub mod check;
pub mod conclave;
pub mod config;
pub mod container;
pub mod controller;
pub mod cpu;
pub mod daemon;
mod day;
pub mod detached;
pub mod egress;
pub mod explain;
pub mod functions;
pub mod http;
pub mod image;
pub mod jail;
pub mod keep;
pub mod lease;
pub mod link;
mod links;
mod machines;
pub mod meter;
pub mod node;
mod pace;
pub mod places;
pub mod policy;
pub mod pool;
pub mod process;
pub mod program;
pub mod remote;
mod said;
pub mod seal;
pub mod sending;
pub mod share;
pub mod store;
mod storing;
pub mod vsock;
