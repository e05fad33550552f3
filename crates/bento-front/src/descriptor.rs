//! The front's descriptor: built and signed.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use data_encoding::BASE32_NOPAD;
use rand::CryptoRng;
use tor_cell::chancell::msg::HandshakeType;
use tor_llcrypto::pk::{curve25519, ed25519};
use tor_netdoc::NetdocBuilder;
use tor_netdoc::doc::hsdesc::{HsDescBuilder, IntroPointDesc, create_desc_sign_key_cert};
use tor_protover::Protocols;

use crate::{Backend, FrontError, FrontKey, Period, Seat};

/// Longest descriptor that a directory stores (the consensus parameter `HSV3MaxDescriptorSize`).
pub const DESCRIPTOR_BYTES_MAX: usize = 50_000;

/// Most introduction points that a client accepts in a descriptor.
pub const INTRODUCTION_POINTS_MAX: usize = 20;

/// How long the certificates in a descriptor hold, as in C tor's: longer than any descriptor is kept.
const CERTIFICATES: Duration = Duration::from_secs(54 * 3600);

/// How long a directory keeps a descriptor, as in C tor's. A front publishes more often.
const LIFETIME_MINUTES: u16 = 180;

/// Which descriptor of one period is newer. A directory takes none that is not greater than what it has.
///
/// A thousand for each second since 1970: greater than anything that C tor counts (it encrypts the seconds of a period, to less than 2^35), so
/// that the descriptor of a service that was its own before is replaced at once; and it goes on after a restart and in a standby without anything
/// having been kept. It tells the directories the second on the publisher's clock, and no more.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Revision(pub u64);

impl Revision {
    /// The next one after `last`, by the clock or beyond it.
    pub fn next(last: Option<Self>, now: SystemTime) -> Self {
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let clock = Self(seconds.saturating_mul(1000));
        last.map_or(clock, |Self(last)| clock.max(Self(last.saturating_add(1))))
    }

    /// That of a descriptor, which is told to everybody:
    /// ```text
    /// revision-counter 1795827154000
    /// ```
    pub fn of(descriptor: &str) -> Option<Self> {
        descriptor.lines().find_map(|line| line.strip_prefix("revision-counter ")?.parse().ok()).map(Self)
    }
}

/// The public key of a client that may find the service, where not everybody may.
#[derive(Clone, Copy, Debug)]
pub struct ClientKey(curve25519::PublicKey);

impl FromStr for ClientKey {
    type Err = FrontError;

    /// Reads a line of Tor's `authorized_clients`:
    /// ```text
    /// descriptor:x25519:N2NU7BSRL6YODZCYPN4CREB54TYLKGIE2KYOQWLFYC23ZJVCE5DQ
    /// ```
    fn from_str(text: &str) -> Result<Self, FrontError> {
        let key = text.strip_prefix("descriptor:x25519:").and_then(|key| BASE32_NOPAD.decode(key.to_ascii_uppercase().as_bytes()).ok());
        let bytes: Option<[u8; 32]> = key.and_then(|key| key.try_into().ok());
        bytes.map(|bytes| Self(bytes.into())).ok_or(FrontError::ClientKey)
    }
}

/// A front that can be built: its key, and whom it names.
#[derive(Debug)]
pub struct Front<'a> {
    /// Its key.
    pub key: &'a FrontKey,
    /// Its backends.
    pub backends: &'a [Backend],
    /// Clients that alone may find it; everybody may if there are none here.
    pub clients: &'a [ClientKey],
}

impl Front<'_> {
    /// Builds and signs the descriptor of one period, with the introduction points that `seats` names.
    pub fn build(
        &self,
        period: Period,
        seats: &[Seat],
        revision: Revision,
        now: SystemTime,
        rng: &mut impl CryptoRng,
    ) -> Result<String, FrontError> {
        let failed = |error: &dyn std::fmt::Display| FrontError::Build(error.to_string());
        let point = |seat: &Seat| self.backends.get(seat.backend)?.points.get(seat.point).cloned();
        let points: Vec<IntroPointDesc> = seats.iter().take(INTRODUCTION_POINTS_MAX).filter_map(point).collect();
        if points.is_empty() {
            return Err(FrontError::NoIntroductionPoints);
        }
        let named = || seats.iter().filter_map(|seat| self.backends.get(seat.backend));
        let (flow_control, protocols) = common(named());

        let (blinded, keypair, subcredential) = self.key.keypair.compute_blinded_key(period.0).map_err(|error| failed(&error))?;
        let signing = ed25519::Keypair::generate(rng);
        let certificate =
            create_desc_sign_key_cert(&signing.verifying_key(), &keypair, now + CERTIFICATES).map_err(|error| failed(&error))?;
        let clients: Vec<curve25519::PublicKey> = self.clients.iter().map(|client| client.0).collect();
        HsDescBuilder::default()
            .blinded_id(&blinded)
            .hs_desc_sign(&signing)
            .hs_desc_sign_cert(certificate)
            .create2_formats(&[HandshakeType::NTOR])
            .auth_required(None)
            .is_single_onion_service(named().any(|backend| backend.is_single))
            .intro_points(&points)
            .intro_auth_key_cert_expiry(now + CERTIFICATES)
            .intro_enc_key_cert_expiry(now + CERTIFICATES)
            .flow_control(flow_control)
            .supported_protocols(protocols)
            .auth_clients((!clients.is_empty()).then_some(clients.as_slice()))
            .lifetime(LIFETIME_MINUTES.into())
            .revision_counter(revision.0.into())
            .subcredential(subcredential)
            .max_generated_len(DESCRIPTOR_BYTES_MAX)
            .build_sign(rng)
            .map_err(|error| failed(&error))
    }
}

/// What a client may rely on: only what each backend says of itself, for it does not know which one will answer.
fn common<'a>(backends: impl Iterator<Item = &'a Backend>) -> (Option<(Protocols, u8)>, Protocols) {
    let mut backends = backends.map(|backend| (&backend.flow_control, &backend.protocols));
    let Some((flow_control, protocols)) = backends.next() else { return Default::default() };
    let (mut is_same_flow, mut is_same_protocols) = (true, true);
    for (other_flow, other_protocols) in backends {
        is_same_flow &= other_flow == flow_control;
        is_same_protocols &= other_protocols == protocols;
    }
    (flow_control.clone().filter(|_| is_same_flow), if is_same_protocols { protocols.clone() } else { Protocols::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_grows_with_the_clock_and_without_it_and_is_greater_than_those_of_c_tor() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let first = Revision::next(None, at(1_800_000_000));
        assert_eq!(first, Revision(1_800_000_000_000));
        assert!(first.0 > 1 << 35);
        assert!(Revision::next(Some(first), at(1_800_000_000)) == Revision(first.0 + 1));
        assert!(Revision::next(Some(first), at(1_700_000_000)) > first, "the clock was set back");
        assert_eq!(Revision::next(Some(first), at(1_800_000_001)), Revision(1_800_000_001_000));
    }

    #[test]
    fn a_revision_is_read_from_a_descriptor() {
        assert_eq!(Revision::of("hs-descriptor 3\ndescriptor-lifetime 180\nrevision-counter 42\nsuperencrypted\n"), Some(Revision(42)));
        assert_eq!(Revision::of("hs-descriptor 3\nrevision-counter -1\n"), None);
    }

    #[test]
    fn a_clients_key_is_read_as_tor_writes_it() {
        let text = "descriptor:x25519:N2NU7BSRL6YODZCYPN4CREB54TYLKGIE2KYOQWLFYC23ZJVCE5DQ";
        assert!(text.parse::<ClientKey>().is_ok() && text.to_lowercase().parse::<ClientKey>().is_ok());
        for bad in ["", "descriptor:x25519:", &text[..text.len() - 1], &text.replace("x25519", "rsa"), &format!("{text}AA")] {
            assert!(bad.parse::<ClientKey>().is_err(), "{bad}");
        }
    }
}
