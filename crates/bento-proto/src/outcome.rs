//! How an invocation ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How an invocation ended. What a node refuses is a [`Refusal`](crate::Refusal) and never becomes an invocation.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// The method came to its end.
    Returned,
    /// The method raised an error, its own.
    Failed {
        /// The error in one line.
        error: String,
        /// Where in the function's code, as Python writes it.
        #[serde(default)]
        traceback: String,
    },
    /// It ran into a bound of its grant, or was ended.
    Killed {
        /// Which.
        bound: Bound,
    },
}

/// What can end an invocation from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Address space.
    Memory,
    /// CPU time.
    Cpu,
    /// Its file system in memory.
    Scratch,
    /// Threads.
    Processes,
    /// Descriptors.
    Descriptors,
    /// Bytes that it may store.
    Storage,
    /// Bytes of its streams.
    Traffic,
    /// Time since install.
    Lifetime,
    /// Time without a byte in either direction.
    Idle,
    /// Its client ended it.
    Shutdown,
    /// Its node is stopping.
    Stop,
}

impl fmt::Display for Bound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Scratch => "scratch",
            Self::Processes => "processes",
            Self::Descriptors => "descriptors",
            Self::Storage => "storage",
            Self::Traffic => "traffic",
            Self::Lifetime => "lifetime",
            Self::Idle => "idle",
            Self::Shutdown => "shutdown",
            Self::Stop => "stop",
        })
    }
}

impl Outcome {
    /// Bytes of what the function itself says in it.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Failed { error, traceback } => error.len() + traceback.len(),
            Self::Returned | Self::Killed { .. } => 0,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned => out.write_str("returned"),
            Self::Failed { error, .. } => write!(out, "failed: {error}"),
            Self::Killed { bound } => write!(out, "killed: {bound}"),
        }
    }
}
