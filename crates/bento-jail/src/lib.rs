//! The walls around a function, and the words in which they are asked for.
//!
//! This library holds what a caller needs: the [`Spec`] of a jail, the [`Report`] lines that come back, the system calls that are
//! open when nothing else is said, and the files that Python needs. It starts nothing and holds no wall itself: that is the program
//! `bento-jail`, the only place in Bento with unsafe code, which the caller runs with
//!
//! - descriptor 0: an `AF_UNIX` `SOCK_SEQPACKET` socket whose first message is the [`Spec`] as JSON. What follows on it belongs to the
//!   jailed program, which finds the socket as descriptor [`SOCKET`];
//! - descriptor 1: a pipe, on which one [`Report`] comes per line. When nobody reads it any more, the jail ends;
//! - descriptor 2: `/dev/null` or a file; only trouble of `bento-jail` itself is written there.
//!
//! `bento-jail` knows nothing of policies, tokens or functions.

#![forbid(unsafe_code)]

mod elf;
mod openings;
mod report;
mod spec;
mod syscalls;

pub use elf::interpreter;
pub use openings::{library_openings, python_openings};
pub use report::Report;
pub use spec::{Flaw, Opening, SPEC_BYTES_MAX, Scratch, Spec};
pub use syscalls::{default_syscalls, never_syscalls};

/// The descriptor on which the jailed program finds the socket. 0, 1 and 2 are `/dev/null`, and no other is open.
pub const SOCKET: i32 = 3;

/// Where the scratch is, inside. It is also the working directory, and the only place where anything can be written.
pub const SCRATCH: &str = "/tmp";
