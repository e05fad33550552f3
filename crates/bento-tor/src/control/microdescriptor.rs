//! Microdescriptors: what relays say of themselves, found by digest.

use std::collections::HashMap;

use super::consensus::Relay;

/// Microdescriptors by the SHA-256 of their text.
pub(super) struct Microdescriptors<'a>(HashMap<[u8; 32], &'a str>);

impl<'a> Microdescriptors<'a> {
    /// Reads the value of `md/all` (dir-spec, "Computing microdescriptors"):
    /// ```text
    /// onion-key
    /// -----BEGIN RSA PUBLIC KEY-----
    /// MIGJAoGBAJ3njE4LjYgPe3I3C3R7N0RaOJCcerPfU+STcgfdyPU3jYpgTYUkoFPm
    /// …
    /// -----END RSA PUBLIC KEY-----
    /// ntor-onion-key vcwUoAs7f15p+Bt40jVBG64TT95ydNh4T4/ldjknojg
    /// family $62B250DE403BA8DB38A79133C36111C0D217C74C $8DE37FAD6205E81A80E052968183A9AF4C7D9782
    /// p accept 80,443
    /// id ed25519 9snoMdkvOMGaOh5sXiPwwDdga7Naf3s2VfLcmjJ9TiI
    /// onion-key
    /// …
    /// ```
    pub(super) fn parse(text: &'a str, digest: impl Fn(&[u8]) -> [u8; 32]) -> Self {
        const START: &str = "onion-key\n";
        let mut starts: Vec<usize> =
            text.match_indices(START).map(|(at, _)| at).filter(|at| *at == 0 || text.as_bytes()[at - 1] == b'\n').collect();
        starts.push(text.len());
        let each = starts.windows(2).filter_map(|pair| text.get(pair[0]..pair[1]));
        Self(each.map(|one| (digest(one.as_bytes()), one)).collect())
    }

    /// Tells of a relay what its microdescriptor says.
    pub(super) fn tell(&self, relay: &mut Relay) {
        let Some(text) = relay.microdescriptor.and_then(|digest| self.0.get(&digest)) else { return };
        for line in text.lines() {
            let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "p" if rest != "reject 1-65535" => relay.exit = Some(rest.to_owned()),
                "id" => {
                    if let Some(identity) = rest.strip_prefix("ed25519 ") {
                        relay.ed25519 = Some(identity.to_owned());
                    }
                }
                "family" => relay.family = rest.split(' ').filter_map(|one| one.parse().ok()).collect(),
                "family-ids" => relay.family_ids = rest.split(' ').map(str::to_owned).collect(),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::consensus::{Consensus, tests::TEXT};
    use super::*;

    #[test]
    fn what_a_relay_says_is_found_by_digest_and_what_others_say_is_not() {
        let exit = "onion-key\n-----BEGIN RSA PUBLIC KEY-----\nMIGJ\n-----END RSA PUBLIC KEY-----\nntor-onion-key vcwU\n\
            family $62B250DE403BA8DB38A79133C36111C0D217C74C somebody\np accept 80,443\nid ed25519 9sno\nfamily-ids ed25519:x ed25519:y\n";
        let other = "onion-key\n-----BEGIN RSA PUBLIC KEY-----\nMIGJ\n-----END RSA PUBLIC KEY-----\nntor-onion-key akiE\np reject 1-65535\nid ed25519 F2OA\n";
        let (text, mut relays) = (format!("{exit}{other}"), Consensus::parse(TEXT).unwrap().relays);
        // A digest that can be seen through: how long it is.
        let digest = |bytes: &[u8]| [bytes.len() as u8; 32];
        let found = Microdescriptors::parse(&text, digest);
        relays[0].microdescriptor = Some(digest(exit.as_bytes()));
        found.tell(&mut relays[0]);
        assert_eq!((relays[0].exit.as_deref(), relays[0].ed25519.as_deref()), (Some("accept 80,443"), Some("9sno")));
        assert_eq!((relays[0].family.len(), relays[0].family_ids.len()), (1, 2));
        relays[1].microdescriptor = Some(digest(other.as_bytes()));
        found.tell(&mut relays[1]);
        assert_eq!((relays[1].exit.as_deref(), relays[1].ed25519.as_deref()), (None, Some("F2OA")));
        relays[1].microdescriptor = Some([0; 32]);
        found.tell(&mut relays[1]);
        assert!(Microdescriptors::parse("", digest).0.is_empty() && Microdescriptors::parse("x\n", digest).0.is_empty());
    }
}
