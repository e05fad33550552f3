//! What can go wrong at the control port.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Tor's control port did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nothing listens where the control port should be, or we may not open it.
    #[error("Tor's control port cannot be reached at {place}")]
    Unreachable {
        /// Where it was looked for.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection has ended: Tor stopped, or broke the protocol.
    #[error("the control connection has ended")]
    Closed,
    /// No reply in time.
    #[error("Tor did not answer {command} within {} s", .deadline.as_secs_f32())]
    Deadline {
        /// The command's name, without its arguments.
        command: String,
        /// How long was waited.
        deadline: Duration,
    },
    /// Tor refused the command.
    #[error("Tor refused {command}: {code} {text}")]
    Refused {
        /// The command's name, without its arguments.
        command: String,
        /// Tor's code, such as 551.
        code: u16,
        /// Tor's text.
        text: String,
    },
    /// Tor accepts none of the ways to authenticate that we know.
    #[error("Tor accepts neither a cookie nor an open control port, only {0}")]
    NoMethod(String),
    /// The cookie that proves we may control Tor cannot be read.
    #[error("reading the authentication cookie {}", path.display())]
    Cookie {
        /// Where Tor says it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Who listens does not know the cookie, so it is not the Tor that wrote it.
    #[error("what listens at the control port does not know Tor's cookie")]
    Impostor,
    /// An argument that cannot be written into a command.
    #[error("this cannot be sent to Tor: {0}")]
    Argument(&'static str),
    /// The peer does not speak the control protocol.
    #[error("the control port sent something that cannot be read: {0}")]
    Protocol(&'static str),
    /// The subscriber read too slowly.
    #[error("{0} events were lost because they were not read in time")]
    EventsLost(u64),
}

impl ControlError {
    /// What the person may try, in one line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "start Tor with `ControlSocket` or `ControlPort` set, or let Bento start its own",
            Self::Closed => "look at Tor's log for why it stopped",
            Self::Deadline { .. } => "Tor is stuck or very busy; look at its log, or restart it",
            Self::Refused { .. } => "look at Tor's version and at its log",
            Self::NoMethod(_) => "set `CookieAuthentication 1` in Tor's configuration",
            Self::Cookie { .. } => "run as a member of Tor's group (debian-tor), and set `CookieAuthFileGroupReadable 1`",
            Self::Impostor => "look what else listens there, or where the right cookie is",
            Self::Argument(_) => "look at the name, the path or the key given",
            Self::Protocol(_) => "give the address of Tor's control port",
            Self::EventsLost(_) => "ask Tor for the present state",
        }
    }
}
