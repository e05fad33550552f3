//! Periods of onion services, and which directories are asked for a descriptor in which of them.

use std::fmt;
use std::time::Duration;

use tor_checkable::{ExternallySigned, TimeBound};
use tor_hscrypto::pk::HsBlindId;
use tor_hscrypto::time::TimePeriod;
use tor_netdir::{MdReceiver, NetDir, PartialNetDir};
use tor_netdoc::AllowAnnotations;
use tor_netdoc::doc::microdesc::MicrodescReader;
use tor_netdoc::doc::netstatus::{MdConsensus, NetParams};

use crate::{Address, FrontError};

/// How many voting intervals make a period on a testing network: there, `tor` goes by this and not by the consensus's `hsdir_interval`.
const TESTING_INTERVALS: u64 = 24;

/// A time period of onion services: for each, a service has another blinded key and other directories.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Period(pub(crate) TimePeriod);

impl Period {
    /// Its number, counted from 1970.
    pub fn number(&self) -> u64 {
        self.0.interval_num()
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Period({})", self.number())
    }
}

/// A consensus with what is needed to find the directories of a descriptor.
pub struct Directory(NetDir);

impl Directory {
    /// Reads a consensus of microdescriptors and the microdescriptors, as the control port has them (`dir/status-vote/current/consensus-microdesc`
    /// and `md/all`). Signatures are not looked at: the `tor` that the texts come from has done that.
    ///
    /// `is_testing` says that the network is one with `TestingTorNetwork 1`.
    pub fn read(consensus: &str, microdescriptors: &str, is_testing: bool) -> Result<Self, FrontError> {
        let unusable = |error: &dyn fmt::Display| FrontError::Consensus(error.to_string());
        let (_, _, unchecked) = MdConsensus::parse(consensus).map_err(|error| unusable(&error))?;
        let consensus = unchecked.dangerously_assume_timely().dangerously_assume_wellsigned();
        let mut replaced = NetParams::new();
        if is_testing {
            let minutes = consensus.lifetime().voting_period().as_secs() * TESTING_INTERVALS / 60;
            replaced.set("hsdir_interval".to_owned(), i32::try_from(minutes).unwrap_or(i32::MAX));
        }
        let mut partial = PartialNetDir::new(consensus, Some(&replaced));
        let reader = MicrodescReader::new(microdescriptors, &AllowAnnotations::AnnotationsNotAllowed).map_err(|error| unusable(&error))?;
        // One that cannot be read is one relay less, as it is for tor.
        for microdescriptor in reader.flatten() {
            partial.add_microdesc(microdescriptor.into_microdesc());
        }
        let missing = partial.n_missing();
        partial.unwrap_if_sufficient().map(Self).map_err(|_| FrontError::Consensus(format!("{missing} microdescriptors are missing")))
    }

    /// The periods that an onion service publishes for: the one in which clients fetch is first, the one before or after it is the other.
    pub fn periods(&self) -> Vec<Period> {
        self.0.hs_all_time_periods().iter().map(|parameters| Period(parameters.time_period())).collect()
    }

    /// How long it takes until there is another consensus: after that, directories may be others.
    pub fn interval(&self) -> Duration {
        self.0.lifetime().voting_period()
    }

    /// The directories that clients ask for this service's descriptor in this period: identities of 40 hexadecimal digits.
    pub fn directories(&self, service: &Address, period: Period) -> Result<Vec<String>, FrontError> {
        let (blinded, _) = service.key()?.compute_blinded_key(period.0).map_err(|_| FrontError::Address)?;
        let id: HsBlindId = blinded.id();
        let relays = self.0.hs_dirs_upload(id, period.0).map_err(|_| FrontError::Period)?;
        Ok(relays.map(|relay| relay.rsa_id().to_string().trim_start_matches('$').to_ascii_uppercase()).collect())
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("periods", &self.periods()).finish_non_exhaustive()
    }
}
