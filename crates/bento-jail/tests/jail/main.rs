//! What a function in a jail can and cannot do. Each act is tried in a jail of its own, by Python, with a watchdog outside; each forbidden act has
//! an allowed one beside it.
//!
//! All of it is run as the present user, and if that is root once more as an ordinary one.

// So that clippy knows the helpers for tests as well, where `unwrap` is as it should be.
#![cfg(test)]

mod bounds;
mod files;
mod harness;
mod identity;
mod life;
mod network;
#[path = "../shared/ordinary.rs"]
mod ordinary;
mod python;
mod spec;
#[path = "../shared/start.rs"]
mod start;
