//! Keys and addresses of onion services, in the forms that Tor gives and takes.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use rand::CryptoRng;
use safelog::DisplayRedacted;
use tor_hscrypto::pk::{HsId, HsIdKey, HsIdKeypair};
use tor_llcrypto::pk::ed25519::ExpandedKeypair;
use zeroize::Zeroizing;

use crate::FrontError;

/// What stands before the key in ADD_ONION's reply.
const KIND: &str = "ED25519-V3:";

/// An onion service's address.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Address(pub(crate) HsId);

impl Address {
    pub(crate) fn key(&self) -> Result<HsIdKey, FrontError> {
        HsIdKey::try_from(self.0).map_err(|_| FrontError::Address)
    }
}

impl FromStr for Address {
    type Err = FrontError;

    /// With or without `.onion` at its end.
    fn from_str(text: &str) -> Result<Self, FrontError> {
        let id = text.strip_suffix(".onion").unwrap_or(text);
        // No subdomain, and the one form that Tor writes.
        if id.len() != 56 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(FrontError::Address);
        }
        let address = format!("{}.onion", id.to_ascii_lowercase()).parse().map(Self).map_err(|_| FrontError::Address)?;
        // A point that is not on the curve has no blinded keys.
        address.key().map(|_| address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display_unredacted())
    }
}

// Addresses are in no log.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(…)")
    }
}

/// The identity key of a front. Whoever has it is the onion service, so it stays where descriptors are signed.
pub struct FrontKey {
    bytes: Zeroizing<[u8; 64]>,
    pub(crate) keypair: HsIdKeypair,
}

impl FrontKey {
    /// A new key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        loop {
            let mut bytes = Zeroizing::new([0; 64]);
            rng.fill_bytes(bytes.as_mut_slice());
            // As Ed25519 has it (RFC 8032, 5.1.5): a multiple of the cofactor, and the highest bit at its place.
            bytes[0] &= 248;
            bytes[31] &= 63;
            bytes[31] |= 64;
            if let Some(key) = Self::new(bytes) {
                return key;
            }
        }
    }

    fn new(bytes: Zeroizing<[u8; 64]>) -> Option<Self> {
        let keypair = ExpandedKeypair::from_secret_key_bytes(*bytes)?;
        Some(Self { bytes, keypair: keypair.into() })
    }

    /// The address that it makes.
    pub fn address(&self) -> Address {
        Address(HsIdKey::from(&self.keypair).id())
    }

    /// As ADD_ONION takes it. It belongs where nobody else reads.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{KIND}{}", BASE64.encode(self.bytes.as_slice())))
    }
}

impl FromStr for FrontKey {
    type Err = FrontError;

    /// Reads what ADD_ONION gives:
    /// ```text
    /// ED25519-V3:GLVnRPiTFEUyYCzUOxz9PW1VAMUtd9m5W8n3bnlIfXJ…==
    /// ```
    fn from_str(text: &str) -> Result<Self, FrontError> {
        let bytes = text.strip_prefix(KIND).and_then(|text| BASE64.decode(text.as_bytes()).ok()).map(Zeroizing::new);
        let bytes: Option<[u8; 64]> = bytes.and_then(|bytes| bytes.as_slice().try_into().ok());
        let bytes = Zeroizing::new(bytes.ok_or(FrontError::Key)?);
        // What is not clamped is no key that Tor has made, and signs under another address than it seems to.
        if bytes[0] & 7 != 0 || bytes[31] & 192 != 64 {
            return Err(FrontError::Key);
        }
        Self::new(bytes).ok_or(FrontError::Key)
    }
}

impl fmt::Debug for FrontKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrontKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_text_and_its_address_and_is_never_printed() {
        let key = FrontKey::generate(&mut rand::rng());
        let again: FrontKey = key.to_text().parse().unwrap();
        assert_eq!(key.address(), again.address());
        assert_eq!(key.to_text(), again.to_text());
        assert_eq!(key.address().to_string().parse::<Address>().unwrap(), key.address());
        assert!(!format!("{key:?}{:?}", key.address()).contains(&key.address().to_string()[..8]));
    }

    #[test]
    fn what_is_not_a_key_or_an_address_is_refused() {
        let text = FrontKey::generate(&mut rand::rng()).to_text();
        let unclamped = format!("{KIND}{}", BASE64.encode(&[255; 64]));
        for bad in ["", KIND, &text[KIND.len()..], &text[..text.len() - 4], &unclamped] {
            assert!(bad.parse::<FrontKey>().is_err(), "{bad}");
        }
        let address = FrontKey::generate(&mut rand::rng()).address().to_string();
        let changed = if address.starts_with('a') { address.replacen('a', "b", 1) } else { format!("a{}", &address[1..]) };
        for bad in ["", ".onion", "example.com", &format!("www.{address}"), &changed] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert!(address.strip_suffix(".onion").unwrap().parse::<Address>().is_ok());
    }
}
