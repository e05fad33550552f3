//! A node as a client meets it, without Tor: the real `bentod`, the real jail, real Python.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod abuse;
mod bounds;
mod bundles;
mod escapes;
mod files;
mod invocations;
mod life;
mod network;
mod policy;
mod ready;
mod support;
