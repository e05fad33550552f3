//! Why a `tor` of our own is not there.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use thiserror::Error;

use crate::control::{Bootstrap, ControlError};

/// A `tor` of our own could not be started, or did not become ready.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ManagedError {
    /// There is no `tor` program.
    #[error("there is no `tor` program here")]
    NoTor,
    /// The program could not be started.
    #[error("starting `tor`")]
    Spawn(#[source] io::Error),
    /// Its directory could not be prepared.
    #[error("preparing the directory of `tor`, {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A path or a configuration line that Tor's configuration cannot hold.
    #[error("the configuration of `tor` cannot hold this: {0}")]
    Line(String),
    /// It ended by itself.
    #[error("`tor` ended ({status}){}", last(log))]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log, without times and addresses.
        log: Vec<String>,
    },
    /// It runs, but does not take commands.
    #[error("`tor` does not answer within {} s", deadline.as_secs_f32())]
    Silent {
        /// How long was waited.
        deadline: Duration,
    },
    /// It did not connect to the network in time.
    #[error(
        "Tor is not connected after {} s: it came to {} % ({}){}",
        deadline.as_secs(), reached.percent, reached.summary, because(reached)
    )]
    NoBootstrap {
        /// How long was waited.
        deadline: Duration,
        /// How far it came.
        reached: Bootstrap,
    },
    /// It did not do what was asked.
    #[error("controlling `tor`")]
    Control(#[source] ControlError),
}

fn because(reached: &Bootstrap) -> String {
    reached.trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default()
}

/// The line that most likely says why: the last error or warning, else the last of all.
fn last(log: &[String]) -> String {
    let grave = |line: &&String| line.starts_with("[err]") || line.starts_with("[warn]");
    // Tor ends a failed start with "Reading config failed--see warnings above.", which says nothing.
    let telling = |line: &&String| grave(line) && !line.contains("see warnings above");
    let line = log.iter().rev().find(telling).or(log.last());
    line.map(|line| format!(": {line}")).unwrap_or_default()
}

impl ManagedError {
    /// What the person may try, in one line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoTor => "`apt install tor` brings it",
            Self::Spawn(_) => "look whether the program may be run by this user",
            Self::Directory { .. } | Self::Line(_) => "give another directory, on a disk with room",
            Self::Exited { .. } => "look at the configuration lines, and whether another `tor` uses the same directory",
            Self::Silent { .. } => "the machine may be very busy; try again",
            Self::NoBootstrap { .. } => "look at the clock and at the network; where Tor is blocked, bridges are needed",
            Self::Control(error) => error.hint(),
        }
    }
}
