//! The words that both sides of Bento speak: manifest, policy, grant, destinations, tokens, refusals, outcomes.
//!
//! Pure: no input or output, no clock, no randomness, nothing asynchronous. What needs one of them is handed it.
#![forbid(unsafe_code)]

pub mod address;
pub mod bundle;
pub mod call;
pub mod exit_policy;
pub mod explain;
pub mod grant;
pub mod limits;
mod lines;
pub mod manifest;
pub mod node;
pub mod outcome;
pub mod pad;
pub mod policy;
pub mod refusal;
pub mod relay;
pub mod seal;
pub mod syscalls;
pub mod token;
pub mod unit;

pub use call::CallPattern;
pub use exit_policy::ExitPolicy;
pub use explain::{Explained, explain};
pub use grant::{Grant, Line};
pub use manifest::{Egress, Manifest, Needs};
pub use outcome::{Bound, Outcome};
pub use policy::{Policy, PolicyFile};
pub use refusal::{Problem, Refusal};
pub use seal::SealKey;
pub use syscalls::Syscalls;
pub use token::{Digest, InvocationToken, ShutdownToken};
pub use unit::{Rate, Share, Size, Span};
