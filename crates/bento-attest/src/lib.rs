//! Evidence that a conclave runs what it says, its verification, and the channel bound to it.
//!
//! - [`source`]: where a conclave has its evidence from.
//! - [`evidence`]: the messages between client and conclave, and what the hardware signs.
//! - [`channel`]: Noise NK with a key that the evidence vouches for; a reader and writer.
//! - With feature `verify`: `Roots` and `verify` judge evidence against a `Policy`, which has `Measurements`; `platform` says which machine a quote is of.
//!
//! No network and no clock: collateral and the time are handed in, and who waits sets the bounds. `spec/attestation.md` has the
//! formats, `docs/threat-model.md` says what all this is worth.

#![forbid(unsafe_code)]

pub mod channel;
pub mod evidence;
pub mod kind;
pub mod source;

mod report;
mod wire;

#[cfg(feature = "verify")]
mod appraise;
#[cfg(feature = "verify")]
pub mod measurements;
#[cfg(feature = "verify")]
pub mod platform;
#[cfg(feature = "verify")]
mod policy;
#[cfg(feature = "verify")]
mod refused;

#[cfg(feature = "verify")]
pub use self::appraise::{DEVELOPMENT_ROOT_PREFIX, Published, Roots, Verified, verify};
pub use self::kind::{Assurance, Format, Hardware, Kind, Simulated};
#[cfg(feature = "verify")]
pub use self::measurements::Measurements;
#[cfg(feature = "verify")]
pub use self::policy::{COLLATERAL_DAYS_MAX, Policy};
#[cfg(feature = "verify")]
pub use self::refused::Refused;
pub use self::report::report_data;
pub use self::wire::Malformed;
