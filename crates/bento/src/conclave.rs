//! What a client demands of conclaves, and what it is told of one.
//!
//! A demand travels as text to functions that are to reach other conclaves for their client. Only a program with feature `conclave` can read one: who hosts
//! a conclave judges nobody's evidence.

#[cfg(feature = "conclave")]
mod demand;
#[cfg(not(feature = "conclave"))]
mod none;

use serde::Serialize;

#[cfg(feature = "conclave")]
pub use demand::{Demand, DemandError, Pinned};
#[cfg(not(feature = "conclave"))]
pub use none::Demand;

/// Evidence that was accepted, in words and numbers for people. Texts that come from the node are stripped.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Attested {
    /// Its kind, such as `tdx` or `simulated-tdx`.
    pub kind: String,
    /// It is a simulator's, and protects from nobody.
    pub simulated: bool,
    /// What runs, as the list of measurements calls it,
    pub runs: String,
    /// and as the hardware measured it.
    pub measured: String,
    /// SHA-256 of its configuration and policy, in hexadecimal.
    pub configuration: String,
    /// The machine's state, in its maker's word,
    pub state: String,
    /// and what the maker published about that.
    pub advisories: Vec<String>,
    /// What else was found.
    pub facts: Vec<(String, String)>,
    /// When the first certificate or list that was relied on ends, in seconds since 1970.
    pub until: u64,
}
