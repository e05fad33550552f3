//! Where evidence comes from: files that the kernel of a confidential VM, or Gramine, has in an enclave.
//!
//! No TEE is an error, and nothing here ever falls back to a simulator: that is a program of its own.

mod gramine;
mod tsm;

#[cfg(test)]
mod fake;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use thiserror::Error;

pub use self::gramine::Gramine;
pub use self::tsm::Tsm;
use crate::evidence::REPORT_BYTES_MAX;
use crate::kind::Kind;
use crate::report::report_data;

/// Asks the hardware to sign.
pub trait Source: Send {
    /// What its evidence is.
    fn kind(&self) -> Kind;

    /// A quote or report over these 64 bytes. It takes milliseconds, during which the thread waits.
    ///
    /// # Errors
    /// The hardware gave none, or not the one that was asked for.
    fn quote(&mut self, asked: &[u8; 64]) -> Result<Vec<u8>, NoEvidence>;
}

/// Why there is no evidence.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NoEvidence {
    /// This machine has no such hardware, or it is not handed to this program.
    #[error("this is no TEE that Bento knows: there is neither configfs-tsm nor Gramine's /dev/attestation")]
    NoTee,
    /// There is something, and it is not known here.
    #[error("the TEE `{0}` is not one that Bento knows")]
    Unknown(String),
    /// A file could not be used.
    #[error("{doing}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else used the same entry meanwhile.
    #[error("the quote may be another's: its entry was written {0} times instead of once")]
    Raced(u64),
    /// The quote is for something else.
    #[error("the quote has not the report data that was asked for")]
    NotAsked,
    /// The provider changed between two quotes.
    #[error("the TEE was `{was}`, and is `{now}` now")]
    Changed {
        /// Before.
        was: String,
        /// Now.
        now: String,
    },
    /// Longer than any.
    #[error("the quote has more than {REPORT_BYTES_MAX} bytes")]
    Long,
}

/// The four things that are done with such files.
pub trait Files: Send {
    /// Makes a directory, which must not be there.
    ///
    /// # Errors
    /// As the kernel says.
    fn make(&mut self, directory: &str) -> io::Result<()>;

    /// Writes a whole file at once.
    ///
    /// # Errors
    /// As the kernel says.
    fn write(&mut self, file: &str, bytes: &[u8]) -> io::Result<()>;

    /// Reads a whole file, at most one byte more than any quote has.
    ///
    /// # Errors
    /// As the kernel says.
    fn read(&mut self, file: &str) -> io::Result<Vec<u8>>;

    /// Removes a directory. In configfs its files go with it; they cannot be removed one by one.
    ///
    /// # Errors
    /// As the kernel says.
    fn remove(&mut self, directory: &str) -> io::Result<()>;
}

/// The machine's own.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

impl Files for Machine {
    fn make(&mut self, directory: &str) -> io::Result<()> {
        fs::create_dir(directory)
    }

    fn write(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        // Neither created nor cut: these files are there, and one write is one request.
        File::options().write(true).open(file)?.write_all(bytes)
    }

    fn read(&mut self, file: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(file)?.take(REPORT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn remove(&mut self, directory: &str) -> io::Result<()> {
        fs::remove_dir(directory)
    }
}

/// The source that this machine has. Looks for a confidential VM first.
///
/// # Errors
/// There is none, or one that is not known here.
pub fn detect() -> Result<Box<dyn Source>, NoEvidence> {
    if Path::new(tsm::DIRECTORY).is_dir() {
        return Ok(Box::new(Tsm::open(Machine)?));
    }
    if Path::new(gramine::DIRECTORY).is_dir() {
        return Ok(Box::new(Gramine::open(Machine)?));
    }
    Err(NoEvidence::NoTee)
}

/// What was read is a quote of this kind over those bytes, or an error.
fn checked(kind: Kind, quote: Vec<u8>, asked: &[u8; 64]) -> Result<Vec<u8>, NoEvidence> {
    if quote.len() > REPORT_BYTES_MAX {
        return Err(NoEvidence::Long);
    }
    if report_data(kind.format(), &quote).as_ref() != Some(asked) {
        return Err(NoEvidence::NotAsked);
    }
    Ok(quote)
}

fn file(doing: &'static str) -> impl Fn(io::Error) -> NoEvidence {
    move |source| NoEvidence::File { doing, source }
}

/// The text of a file, without the line's end.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).trim().to_owned()
}
