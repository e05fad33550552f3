//! Why evidence is not accepted.

use thiserror::Error;

use crate::kind::Kind;
use crate::wire::Malformed;

/// Evidence that is not accepted: a client sends nothing to who gave it.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Refused {
    /// It cannot be read.
    #[error("the evidence cannot be read: {0}")]
    Malformed(#[from] Malformed),
    /// A simulator's where hardware is asked for, or the reverse.
    #[error("the evidence is of kind {offered}, and only {wanted} is accepted here")]
    Assurance {
        /// What came.
        offered: Kind,
        /// What is accepted.
        wanted: &'static str,
    },
    /// Collateral of another maker.
    #[error("the collateral does not belong to evidence of kind {0}")]
    Collateral(Kind),
    /// A format that no root is known for.
    #[error("there is no root for evidence of kind {0}")]
    NoRoot(Kind),
    /// A signature, a certificate or a date is wrong.
    #[error("the evidence does not hold together: {0}")]
    Chain(String),
    /// Not over what was asked.
    #[error("the evidence is for another key, nonce, configuration or node")]
    ReportData,
    /// Whoever runs the machine may look inside.
    #[error("the conclave runs in debug mode")]
    Debug,
    /// It could be moved to another machine, by who holds a key for that.
    #[error("the conclave may be moved to another machine")]
    Migratable,
    /// Something below it is in control.
    #[error("the report is of privilege level {0}, and only level 0 is accepted")]
    Vmpl(u32),
    /// The chip that signed is not the one in the certificate.
    #[error("the certificate is another chip's")]
    Chip,
    /// Its firmware is not the one in the certificate.
    #[error("the certificate is for other firmware than the report's")]
    Firmware,
    /// A feature of the machine that the policy does not accept.
    #[error("the machine {0}")]
    Machine(&'static str),
    /// Firmware or microcode with known holes.
    #[error("the machine's state is {status}, which is not accepted{}", listed(advisories))]
    Tcb {
        /// Its maker's word.
        status: String,
        /// What its maker published about it.
        advisories: Vec<String>,
    },
    /// Older than is accepted.
    #[error("the machine's {what} has version {is}, and {least} is the least that is accepted")]
    Old {
        /// Of what.
        what: &'static str,
        /// What it has.
        is: u32,
        /// The least.
        least: u32,
    },
    /// Nothing says how old its firmware may be.
    #[error("the list of measurements does not say which firmware of {0} is accepted")]
    NoMinimum(&'static str),
    /// Collateral from some time ago could hide what is known by now.
    #[error("{what} is {days} days old, and {max} are the most")]
    Stale {
        /// What.
        what: &'static str,
        /// Its age.
        days: u64,
        /// The most.
        max: u64,
    },
    /// Not valid yet: a clock is wrong, here or there.
    #[error("{0} is from the future, or this machine's clock is wrong")]
    Future(&'static str),
    /// Not valid any more.
    #[error("{0} has expired")]
    Expired(&'static str),
    /// Its maker took it back.
    #[error("{0} is revoked")]
    Revoked(&'static str),
    /// There is none.
    #[error("there is no list of revoked certificates")]
    NoCrl,
    /// It runs something that is not known.
    #[error("the conclave runs something that is not in the list of measurements: {0}")]
    Measurement(String),
    /// The list of measurements is not accepted.
    #[error("the list of measurements {0}")]
    List(String),
    /// What is given as a development root is none.
    #[error("this is no development root: {0}")]
    Root(&'static str),
}

impl Refused {
    /// From a library's words, which may quote what the other side sent.
    pub(crate) fn chain(error: impl ToString) -> Self {
        let text = error.to_string();
        Self::Chain(text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect())
    }
}

fn listed(advisories: &[String]) -> String {
    if advisories.is_empty() { String::new() } else { format!(" ({})", advisories.join(", ")) }
}
