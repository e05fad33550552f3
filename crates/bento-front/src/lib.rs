//! The descriptor of an onion service whose load is spread over others: its **front** is an address and a key alone, its **backends** are
//! onion services whose introduction points the front's descriptor names.
//!
//! Reads the backends' descriptors, chooses introduction points by weight, signs the front's descriptors with its key, and says which
//! directories are asked for them. It does no input or output and has no clock: texts, times and randomness are handed in, and who publishes
//! is somebody else.
//!
//! A backend is an onion service of an unmodified `tor` that was told the front's address (`HiddenServiceOnionBalanceInstance 1` and a file
//! `ob_config`). One that was not told cannot answer the front's clients, and nothing in its descriptor shows that.
//!
//! What cannot be kept is proof of work: its puzzle names the blinded key of the one who checks it, which is the backend, and a client solves it
//! for the front.
#![forbid(unsafe_code)]

mod backend;
mod descriptor;
mod directory;
mod error;
mod key;
mod seats;

pub use backend::Backend;
pub use descriptor::{ClientKey, DESCRIPTOR_BYTES_MAX, Front, INTRODUCTION_POINTS_MAX, Revision};
pub use directory::{Directory, Period};
pub use error::FrontError;
pub use key::{Address, FrontKey};
pub use seats::{Seat, seats};
