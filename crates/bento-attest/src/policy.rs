//! What a client accepts.

use crate::measurements::Measurements;

/// Oldest collateral. Its publishers' own limit is 30 days, in which a machine may have become known to be broken.
pub const COLLATERAL_DAYS_MAX: u64 = 7;

/// What a client accepts: what may run, and on machines in which state.
///
/// [`Policy::new`] accepts nothing but machines that are up to date; everything else is opted into, each by its name. Machines that
/// are out of date, and keys that were revoked, are never accepted.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What may run, and the least firmware of AMD's machines.
    pub measurements: Measurements,
    /// Accept Intel's `SWHardeningNeeded`: the program itself must withstand some side channel.
    pub hardening_needed: bool,
    /// Accept Intel's `ConfigurationNeeded`: the machine's firmware may be set up in a way that is not safe.
    pub configuration_needed: bool,
    /// Accept machines whose cores run two threads at once, of which one may watch the other. Nearly all do, so this is the default.
    pub threads: bool,
    /// Accept AMD's evidence without a list of revoked certificates.
    pub missing_crl: bool,
    /// Most days since Intel signed the collateral.
    pub collateral_days: u64,
}

impl Policy {
    /// The strict one.
    pub fn new(measurements: Measurements) -> Self {
        Self {
            measurements,
            hardening_needed: false,
            configuration_needed: false,
            threads: true,
            missing_crl: false,
            collateral_days: COLLATERAL_DAYS_MAX,
        }
    }
}
