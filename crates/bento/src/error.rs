//! What can go wrong between a client and a node.

use std::{io, time::Duration};

use bento_proto::{Bound, Outcome, Problem};
use bento_tor::SocksError;

/// A wait in which nothing has been sent yet.
pub(crate) const CONNECTING: &str = "connecting";

/// A request was not done. Tells apart whose doing that is: Tor's, the node's, the function's, or our own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The node is an onion service, and no Tor was given.
    #[error("the node is an onion service, and there is no Tor to reach it")]
    NoTor,
    /// Tor opened no stream.
    #[error("{0}")]
    Tor(#[source] SocksError),
    /// A node on this machine does not take connections.
    #[error("nothing answers at the node's address")]
    NotThere(#[source] io::Error),
    /// The node will not do it.
    #[error("the node refused: {}", .0.detail)]
    Refused(Box<Problem>),
    /// The function ended before it wrote anything.
    #[error("the function {0}")]
    Ended(Outcome),
    /// The node failed, and says so.
    #[error("the node failed: {0}")]
    Trouble(String),
    /// A wait reached its bound.
    #[error("{what} took longer than {} s", .bound.as_secs_f32())]
    Late {
        /// What was waited for.
        what: &'static str,
        /// The bound.
        bound: Duration,
    },
    /// A conclave is to be spoken to, and nothing says which are accepted.
    #[error("nothing says which conclaves are accepted")]
    NoDemand,
    /// The node has no conclave that is accepted. Nothing was said to it.
    #[error("the conclave is not accepted: {text}")]
    Evidence {
        /// Why.
        text: String,
        /// What the person may try.
        hint: &'static str,
    },
    /// The stream ended before what was said was whole.
    #[error("the node broke off: {0}")]
    Broken(String),
    /// The node does not speak as a node does.
    #[error("the node does not keep to the protocol: {0}")]
    Violation(String),
    /// What is to be sent cannot be.
    #[error("{0}")]
    Request(String),
    /// Our own input could not be read.
    #[error("reading the input")]
    Input(#[source] io::Error),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

impl ClientError {
    /// What the person may try, in one line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoTor => "start Tor, or say where its SOCKS port is",
            Self::Tor(error) => error.hint(),
            Self::NotThere(_) => "look at the address, and whether `bentod` runs there",
            Self::Refused(problem) => match problem.code() {
                "not-offered" => "`bento nodes --fit DIR` lists the nodes that can take it",
                "unknown-token" => "it may have come to the end of its lifetime; `bento install` puts it there again",
                "busy" | "stopping" | "full" => "try again later, or another node",
                "unknown-method" => "the function's manifest names its methods",
                "no-link" => "ask its sender whether it has expired, or was erased",
                "spent" => "install it again, or ask for more in its manifest",
                "bad-bundle" => "look at the function's files, then try again",
                "unloadable" => "look at its code, and whether the node's image has the packages it imports",
                "token-in-use" => "install it under another name",
                "rolled-back" => {
                    "its node's operator put an old copy of the disk back, or somebody did: do not believe what it says; `bento shutdown` ends it"
                }
                _ => "look at what the node says; its policy is shown by `bento policy NODE`",
            },
            Self::Ended(Outcome::Killed { bound: Bound::Stop }) => "its node is stopping; try again later, or elsewhere",
            Self::Ended(Outcome::Killed { bound: Bound::Shutdown }) => "somebody with its shutdown token ended it",
            Self::Ended(Outcome::Killed { bound: Bound::Idle }) => "no byte passed in either direction for longer than the node allows",
            Self::Ended(Outcome::Killed { .. }) => {
                "it reached that bound of its grant; its manifest may ask for more, up to what the node offers"
            }
            Self::Ended(_) => "look at the function's traceback",
            Self::Trouble(_) => "try again later, or another node",
            Self::Late { what: CONNECTING, .. } => "try again; the node may be down, or Tor slow",
            Self::Late { .. } => "try again, or allow more time with `--wait`",
            Self::NoDemand => "give a list of measurements and its publisher's key: `--measurements FILE --publisher KEY`",
            Self::Evidence { hint, .. } => hint,
            Self::Broken(_) => "try again; if it stays so, try another node",
            Self::Violation(_) => "look at the address, or try another node",
            Self::Request(_) => "correct it and try again",
            Self::Input(_) => "look whether the input can be read",
            Self::Random(_) => "look at the system's random number generator",
        }
    }

    /// Is it Tor itself that is missing, rather than the node behind it?
    pub fn is_tor_unreachable(&self) -> bool {
        match self {
            Self::NoTor => true,
            Self::Tor(error) => {
                matches!(error, SocksError::NoTor { .. } | SocksError::Broken(_) | SocksError::Protocol(_) | SocksError::Unsupported)
            }
            _ => false,
        }
    }

    /// May the node have done what was asked, though its answer did not arrive?
    pub fn is_undecided(&self) -> bool {
        match self {
            Self::Late { what, .. } => *what != CONNECTING,
            other => matches!(other, Self::Broken(_) | Self::Violation(_) | Self::Trouble(_)),
        }
    }
}

/// What an error of the HTTP stream means.
pub(crate) fn of_stream(error: &hyper::Error) -> ClientError {
    // Only hyper's own words, which are fixed, so that nothing of the node's gets into the text.
    let text = error.to_string();
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        return ClientError::Violation(text);
    }
    let reason = std::error::Error::source(error).map(|source| format!("{text}: {source}"));
    ClientError::Broken(crate::text::line(&reason.unwrap_or(text)))
}
