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
//! # What no wall stops
//!
//! - Timing: a function can measure what others on the machine do to its caches and its share of the CPU.
//! - The kernel's own memory on a function's behalf: page tables and areas of memory (some 5 % of the memory bound), buffers of its sockets and
//!   pipes (some 200 KiB a descriptor), file locks (some 200 bytes each, as many as its CPU time suffices for). Only a memory cgroup counts
//!   these, and this program sets up none.
//! - What the kernel and the processor themselves tell: the kernel's version (`uname`), how long the machine has been up (the clocks), how many
//!   cores it has, which processor it is. Neither host name nor any file; nor, unless a spec opens `sysinfo` or `statfs`, load, memory and disk.
//! - A crash of the machine's kernel through a call that is open.
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
