//! What a node keeps on its disk: which functions it has, and what each of them stores. Everything of a function is sealed.
//!
//! A function has a random data key. It lies on the disk wrapped under a key that only the invocation token gives (`SealKey`), so that
//! the disk alone tells how many functions and objects there are, how large, and when they changed, and nothing else. What was
//! changed, swapped, taken away or put back to an earlier state is noticed and named, and never handed out.
//!
//! All calls block. This module knows nothing of manifests, tokens or HTTP, and decides nothing about who may do what.

mod base;
mod files;
mod links;
mod object;
mod reader;
mod registry;
mod seal;
mod vault;
mod writer;

#[cfg(test)]
mod tests;

use std::{fmt, io};

use data_encoding::HEXLOWER;
use thiserror::Error;

pub use links::NewLink;
pub use reader::Reader;
pub use registry::{Away, New, Record, Registry, Used};
pub use vault::{Space, Store, Usage, Vault};
pub use writer::{Mode, Writer};

/// Longest name of an object, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 512;

/// What an object counts against `storage` besides its bytes: its record, its name, its share of pages and directories.
pub const OBJECT_BYTES: u64 = 1024;

/// Longest head. A bundle is at most that.
pub const HEAD_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;

/// Objects are sealed in pieces of this size; what is left at the end is kept in the database.
const CHUNK: usize = 64 * 1024;

/// The name of a function on this node's disk. Random, so that it says nothing.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Id([u8; 16]);

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Id({self})")
    }
}

/// Why something could not be stored or read. Never holds a client's names or data.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no such object, or no such function.
    #[error("there is nothing of this name")]
    Missing,
    /// A name that no object can have.
    #[error("a name has 1 to {NAME_BYTES_MAX} bytes")]
    BadName,
    /// The object is being written.
    #[error("this name is being written already")]
    Busy,
    /// The function's storage is used up. Nothing was changed.
    #[error("the {limit} bytes of storage are used up")]
    Full {
        /// How much it may keep.
        limit: u64,
    },
    /// The node's disk is used up. Nothing was changed.
    #[error("the node's disk is full")]
    DiskFull,
    /// What is on the disk is not what was put there.
    #[error("{what} is not what was stored")]
    Damaged {
        /// Which part.
        what: String,
    },
    /// The machine did not do what was asked.
    #[error("{0}")]
    System(&'static str, #[source] Cause),
}

/// What the machine said.
#[derive(Debug, Error)]
pub enum Cause {
    /// To a file.
    #[error(transparent)]
    File(#[from] io::Error),
    /// To a database.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
}

impl StoreError {
    fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }
}
