//! The no that travels to the client: more was asked than policy, tokens or the function's grant allow.

use serde::{Deserialize, Serialize};

use crate::{grant::Line, outcome::Bound, token::TokenError, unit::Span};

/// The node will not do what was asked. Travels to the client as a [`Problem`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A line of the manifest asks for more than the policy offers.
    #[error("it needs {} of {}, and this node offers {}", .0.needs, .0.key, .0.offers)]
    NotOffered(Line),
    /// A function may pass on only what it was granted itself: a line of the manifest of what it would install asks for more.
    #[error("it needs {} of {}, and the function that installs it was granted {}", .0.needs, .0.key, .0.offers)]
    NotGranted(Line),
    /// The install comes through too many functions on other nodes.
    #[error("the install comes through {depth} functions on other nodes, and this node takes what comes through at most {limit}")]
    Depth {
        /// Through how many.
        depth: u32,
        /// Through how many it may.
        limit: u32,
    },
    /// No function here answers to the token. It may have ended.
    #[error("no function answers to this token")]
    UnknownToken,
    /// The token is of the wrong kind, or none.
    #[error("{0}")]
    BadToken(#[from] TokenError),
    /// No token came.
    #[error("this needs a token, in the header `Authorization: Bearer TOKEN`")]
    NoToken,
    /// Another function was installed with this token.
    #[error("a different function is installed under one of these tokens")]
    TokenInUse,
    /// What it stores is older than what its client has seen: somebody put an earlier state in its place.
    #[error(
        "what the function stores was changed {seen} times when its client saw it last, and {has} times now: an earlier state was put in its place"
    )]
    RolledBack {
        /// What the client saw.
        seen: u64,
        /// What is there.
        has: u64,
    },
    /// The function has no such method.
    #[error("the function has no method `{method}`; it has {methods}")]
    UnknownMethod {
        /// What was asked for.
        method: String,
        /// What there is.
        methods: String,
    },
    /// As many as may be at the same time are there already.
    #[error("the node has as many {what} as it takes ({limit}); try again later, or elsewhere")]
    Busy {
        /// Of what.
        what: &'static str,
        /// How many it takes.
        limit: u64,
    },
    /// As many as may come within 24 hours have come.
    #[error("the node has taken as many functions as it takes in 24 hours ({limit}); {}", next_place(.free_in))]
    BusyToday {
        /// How many it takes.
        limit: u64,
        /// When the next place is free; never where it takes none at all.
        free_in: Option<Span>,
    },
    /// There is no room on the node's disk for what is to be kept. Nothing of it is there.
    #[error("the node's disk is full; try again later, or elsewhere")]
    DiskFull,
    /// The function has used up what it was granted.
    #[error("the function has used up its {0}")]
    Spent(Bound),
    /// The bundle is wrong.
    #[error("the bundle is refused: {0}")]
    BadBundle(String),
    /// The request is wrong.
    #[error("{0}")]
    BadRequest(String),
    /// The body or a header is too long.
    #[error("{what} is longer than {limit} bytes")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// How long it may be.
        limit: u64,
    },
    /// The function's code could not be loaded.
    #[error("the function cannot be loaded: {error}")]
    Unloadable {
        /// In one line.
        error: String,
        /// As Python writes it.
        traceback: String,
    },
    /// The function's grant does not name the call.
    #[error("the function's manifest does not ask for the call `{0}`")]
    Call(String),
    /// The function's grant or the node's policy does not accept the destination. The address is the function's own affair, and not told.
    #[error("manifest and policy do not both accept a connection there, at port {port}")]
    Destination {
        /// The port.
        port: u16,
    },
    /// The node was started again since, and what it keeps of the function opens with the invocation token alone.
    #[error("since the node was started again, only the invocation token opens what it keeps of this function")]
    Sealed,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// An error in the words of RFC 9457, `application/problem+json`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:bento:problem:CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, for people.
    pub detail: String,
    /// The line of the policy that was hit, with what was needed and what is offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<ProblemLine>,
    /// The bound that ended the invocation, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// The function's own traceback, where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
}

/// A [`Line`] on the client's side, where keys are whatever the node says.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ProblemLine {
    /// The key.
    pub key: String,
    /// What was needed.
    pub needs: String,
    /// What is offered.
    pub offers: String,
}

fn next_place(free_in: &Option<Span>) -> String {
    match free_in.map(Span::as_seconds_up) {
        Some(seconds @ 0..120) => format!("the next place is free in {seconds} s"),
        Some(seconds @ 120..7200) => format!("the next place is free in {} min", seconds.div_ceil(60)),
        Some(seconds) => format!("the next place is free in {} h", seconds.div_ceil(3600)),
        None => "try elsewhere".into(),
    }
}

const URN: &str = "urn:bento:problem:";

impl Refusal {
    /// A short word for programs, stable over versions.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotOffered(_) => "not-offered",
            Self::NotGranted(_) => "not-granted",
            Self::Depth { .. } => "depth",
            Self::UnknownToken => "unknown-token",
            Self::BadToken(_) => "bad-token",
            Self::NoToken => "no-token",
            Self::TokenInUse => "token-in-use",
            Self::RolledBack { .. } => "rolled-back",
            Self::UnknownMethod { .. } => "unknown-method",
            Self::Busy { .. } | Self::BusyToday { .. } => "busy",
            Self::DiskFull => "full",
            Self::Spent(_) => "spent",
            Self::BadBundle(_) => "bad-bundle",
            Self::BadRequest(_) => "bad-request",
            Self::TooLong { .. } => "too-long",
            Self::Unloadable { .. } => "unloadable",
            Self::Call(_) => "call",
            Self::Destination { .. } => "destination",
            Self::Sealed => "sealed",
            Self::Stopping => "stopping",
        }
    }

    /// The HTTP status that goes with it (RFC 9110, RFC 6585, RFC 4918).
    pub fn status(&self) -> u16 {
        match self {
            Self::NotOffered(_) | Self::NotGranted(_) | Self::Depth { .. } | Self::Spent(_) | Self::Call(_) | Self::Destination { .. } => {
                403
            }
            Self::UnknownToken | Self::BadToken(_) | Self::NoToken => 401,
            Self::TokenInUse | Self::RolledBack { .. } | Self::Sealed => 409,
            Self::UnknownMethod { .. } => 404,
            Self::Busy { .. } | Self::BusyToday { .. } => 429,
            Self::BadBundle(_) | Self::Unloadable { .. } => 422,
            Self::BadRequest(_) => 400,
            Self::TooLong { .. } => 413,
            Self::Stopping => 503,
            Self::DiskFull => 507,
        }
    }
}

impl Problem {
    /// A problem with this code, status and text.
    pub fn new(code: &str, status: u16, detail: impl Into<String>) -> Self {
        Self { kind: format!("{URN}{code}"), status, detail: detail.into(), line: None, bound: None, traceback: None }
    }

    /// The code in its type.
    pub fn code(&self) -> &str {
        self.kind.strip_prefix(URN).unwrap_or(&self.kind)
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let mut problem = Self::new(refusal.code(), refusal.status(), refusal.to_string());
        match refusal {
            Refusal::NotOffered(line) | Refusal::NotGranted(line) => {
                problem.line = Some(ProblemLine { key: line.key.to_owned(), needs: line.needs.clone(), offers: line.offers.clone() });
            }
            Refusal::Spent(bound) => problem.bound = Some(*bound),
            Refusal::Unloadable { traceback, .. } => problem.traceback = Some(traceback.clone()),
            _ => {}
        }
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_late_in_the_day_is_told_when_to_come_again() {
        for (seconds, says) in [(1, "in 1 s"), (119, "in 119 s"), (121, "in 3 min"), (86_400, "in 24 h")] {
            let refusal = Refusal::BusyToday { limit: 5, free_in: Some(Span::seconds(seconds)) };
            let problem = Problem::from(&refusal);
            assert!(problem.detail.contains(says) && problem.detail.contains("(5)"), "{}", problem.detail);
            assert_eq!((problem.code(), problem.status), ("busy", 429));
        }
        assert!(Refusal::BusyToday { limit: 0, free_in: None }.to_string().ends_with("try elsewhere"));
    }
}
