//! A node as a client meets it, without Tor: the real `bentod`, the real jail, real Python.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod abuse;
mod bounds;
mod bundles;
mod detached;
mod disk;
mod escapes;
mod files;
mod invocations;
mod lasting;
mod life;
mod links;
mod many;
mod network;
mod policy;
mod ready;
mod remote;
mod storing;
mod support;
