//! What Bento asks of Tor: streams through its SOCKS port, commands and events over its control port, onion services, and a
//! `tor` process of our own.
//!
//! It speaks to the unmodified C `tor` daemon and knows nothing of Bento. Every wait has a deadline. Nothing here writes a log: errors
//! carry what happened and a hint, and whoever calls decides who may read them.
#![forbid(unsafe_code)]

mod backends;
mod control;
mod find;
mod managed;
pub mod process;
mod publication;
mod socks;

pub use backends::{Backend, BackendError, Backends};
#[cfg(fuzzing)]
pub use control::fuzzing;
pub use control::{
    Auth, Bootstrap, COMMAND_DEADLINE, CircuitEvent, CircuitId, CircuitStatus, Consensus, ControlAddr, ControlError, Controller,
    Descriptor, DescriptorContent, Event, Events, Fingerprint, FingerprintError, Hop, Onion, OnionService, Order, Pow, Relay, Reply,
    ReplyLine, ServiceDescriptor, Step, Stored, StreamEvent, StreamId, StreamStatus, Target,
};
pub use find::{find_tor, system_socks};
pub use managed::{Managed, ManagedError, Setup};
pub use publication::{Patience, Publication, PublicationError, Told, Unreached};
pub use socks::{Isolation, Socks, SocksError, Stream};
