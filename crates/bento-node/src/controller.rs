//! Tor's control protocol as functions speak it: what existing scripts need, and the real Stem library.
//!
//! Every command is parsed into a type of its own and then done by the broker's typed calls; what a function wrote goes no further. It sees
//! its own circuits, streams and onion services and the public directory, as a `tor` of its own would show them; all else is answered as
//! Tor answers what it does not know. Replies are those of tor 0.4.9, which the samples above the parsers are from.

pub mod backend;
mod calls;
mod circuits;
pub mod command;
pub mod event;
pub mod info;
pub mod lines;
pub mod onion;
pub mod options;
mod own;
pub mod reply;
mod services;
mod session;
pub mod socks;
mod streams;
pub mod view;
mod words;

pub use command::Command;
pub use event::Event;
pub use lines::{Lines, Request, TooLong};
pub use reply::Reply;
pub use view::View;

pub(crate) use calls::{door, open, serve, serves};
pub(crate) use own::Own;

#[cfg(test)]
mod tests;
