//! A private Tor network on loopback: real `tor` daemons, a resolver for their exits, a certificate authority, and a helper that
//! starts programs and surely ends them.
//!
//! For tests, benchmarks and the demo. Bento's programs are started as a person would start them; none of its code is called.
#![forbid(unsafe_code)]

pub mod bento;
mod ca;
mod claim;
mod dns;
mod layout;
mod network;
pub mod observer;
mod prepare;
mod program;
mod trouble;

pub use ca::{Ca, Server};
pub use dns::Names;
pub use layout::{Relay, Role};
pub use network::{Network, default_directory};
pub use prepare::prepare;
pub use program::{Program, binary};
pub use trouble::Trouble;
