//! Why there is no network.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bento_tor::{ControlError, ManagedError};
use thiserror::Error;

/// The network, or a program, is not there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Trouble {
    /// Another program runs the network: its addresses exist once on a machine.
    #[error("after {} s the network is still held by {by}", waited.as_secs())]
    Held {
        /// Who, in its own words.
        by: String,
        /// How long was waited.
        waited: Duration,
    },
    /// An address of the network belongs to something else.
    #[error("something else listens on {0}")]
    AddressTaken(SocketAddr),
    /// A file or a socket.
    #[error("{doing}")]
    System {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program that makes keys.
    #[error("{program} failed: {said}")]
    Keys {
        /// The program.
        program: &'static str,
        /// The end of what it wrote.
        said: String,
    },
    /// A daemon.
    #[error("the daemon {name}")]
    Daemon {
        /// Its name in the network.
        name: String,
        /// What is wrong with it.
        source: Box<ManagedError>,
    },
    /// A daemon's control port.
    #[error("controlling the daemon {name}")]
    Control {
        /// Its name in the network.
        name: String,
        /// What is wrong with it.
        source: Box<ControlError>,
    },
    /// A certificate cannot be made.
    #[error("making a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A program of ours is not built.
    #[error("the program {0} is not built")]
    NotBuilt(String),
    /// A program did not write what was waited for.
    #[error("{program} did not write the line that was waited for within {} s; it wrote:\n{wrote}", waited.as_secs_f32())]
    NoLine {
        /// The program.
        program: String,
        /// How long was waited.
        waited: Duration,
        /// The end of what it wrote instead.
        wrote: String,
    },
    /// A program ended before it wrote what was waited for, or did not end in time.
    #[error("{program} {how}; it wrote:\n{wrote}")]
    Program {
        /// The program.
        program: String,
        /// What it did.
        how: String,
        /// The end of what it wrote.
        wrote: String,
    },
}

impl Trouble {
    /// Makes a maker of system troubles: `.map_err(Trouble::doing("reading the keys"))`.
    pub fn doing(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing: doing.into(), source }
    }

    pub(crate) fn at(doing: &str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self + use<> {
        Self::doing(format!("{doing} {}", path.display()))
    }

    pub(crate) fn daemon(name: &str) -> impl FnOnce(ManagedError) -> Self + use<> {
        let name = name.to_owned();
        move |source| Self::Daemon { name, source: Box::new(source) }
    }

    /// What the person may try, in one line.
    pub fn hint(&self) -> String {
        match self {
            Self::Held { .. } => "end that program, or wait for it".into(),
            Self::AddressTaken(_) => "`ss -ltnp` shows what it is; end it".into(),
            Self::System { .. } => "look at the directory, its owner and the disk".into(),
            Self::Keys { .. } => "`apt install tor` brings `tor` and `tor-gencert`".into(),
            Self::Daemon { source, .. } => source.hint().into(),
            Self::Control { source, .. } => source.hint().into(),
            Self::Certificate(_) => "look at the names the certificate is for".into(),
            Self::NotBuilt(_) => "`cargo build --workspace` builds it".into(),
            Self::NoLine { .. } | Self::Program { .. } => "look at what it wrote".into(),
        }
    }
}
