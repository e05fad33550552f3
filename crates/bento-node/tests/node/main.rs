//! A node as a client meets it, without Tor: the real `bentod`, the real jail, real Python.

mod bounds;
mod bundles;
mod files;
mod invocations;
mod life;
mod network;
mod support;
