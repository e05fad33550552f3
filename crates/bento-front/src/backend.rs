//! What a backend's descriptor gives to the front's.

use std::fmt;
use std::time::SystemTime;

use tor_checkable::TimeBound;
use tor_linkspec::{EncodedLinkSpec, LinkSpecType};
use tor_netdoc::doc::hsdesc::{HsDesc, IntroPointDesc};
use tor_protover::Protocols;

use crate::{Address, FrontError, Period, Revision};

/// A relay's identity, as a descriptor has it. A descriptor without one, which Tor does not make, is at some relay like others of that kind.
pub(crate) type Relay = Option<EncodedLinkSpec>;

/// A backend, as its descriptor has it.
#[derive(Clone)]
pub struct Backend {
    pub(crate) points: Vec<IntroPointDesc>,
    /// At which relay each is.
    relays: Vec<Relay>,
    pub(crate) flow_control: Option<(Protocols, u8)>,
    pub(crate) protocols: Protocols,
    pub(crate) is_single: bool,
    revision: Revision,
    period: Period,
}

impl Backend {
    /// Reads a descriptor that was fetched: that of `address`, of one of `periods`.
    pub fn read(text: &str, address: &Address, periods: &[Period], now: SystemTime) -> Result<Self, FrontError> {
        let key = address.key()?;
        let mut wrong = "it is of another period".to_owned();
        for period in periods {
            let (blinded, subcredential) = key.compute_blinded_key(period.0).map_err(|_| FrontError::Address)?;
            // The signature is checked with the key in the descriptor, so this alone says whose it is.
            let read = HsDesc::parse(text, &blinded.id());
            if read.is_err() {
                continue;
            }
            let read = HsDesc::parse_decrypt_validate(text, &blinded.id(), &subcredential, None);
            match read.map(|bound| bound.if_valid_at(&now)) {
                Ok(Ok(descriptor)) => return Ok(Self::new(&descriptor, *period)),
                Ok(Err(error)) => wrong = error.to_string(),
                Err(error) => wrong = error.to_string(),
            }
        }
        Err(FrontError::Backend(wrong))
    }

    fn new(descriptor: &HsDesc, period: Period) -> Self {
        Self {
            points: descriptor.intro_points().to_vec(),
            relays: descriptor.intro_points().iter().map(relay).collect(),
            flow_control: descriptor.flow_control().map(|(protocols, increment)| (protocols, increment.get())),
            protocols: descriptor.declared_capabilities().clone(),
            is_single: descriptor.is_single_onion_service(),
            revision: Revision(*descriptor.revision()),
            period,
        }
    }

    /// How many introduction points it has.
    pub fn introduction_points(&self) -> usize {
        self.points.len()
    }

    pub(crate) fn relays(&self) -> &[Relay] {
        &self.relays
    }

    /// The public keys by which its introduction points know it, in hexadecimal digits: what two descriptors can be compared by.
    pub fn point_keys(&self) -> Vec<String> {
        self.points.iter().map(|point| data_encoding::HEXLOWER.encode(point.ipt_sid_key().as_ref().as_bytes())).collect()
    }

    /// Which revision of its descriptor this is.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Which period it was published for.
    pub fn period(&self) -> Period {
        self.period
    }
}

fn relay(point: &IntroPointDesc) -> Relay {
    point.link_specifiers().iter().find(|specifier| specifier.lstype() == LinkSpecType::RSAID).cloned()
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { points, revision, period, .. } = self;
        f.debug_struct("Backend").field("points", &points.len()).field("revision", revision).field("period", period).finish_non_exhaustive()
    }
}
