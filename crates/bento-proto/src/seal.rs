//! The key that what a node keeps of a function is sealed under.
//!
//! Derived from the invocation token (HKDF, RFC 5869, with SHA-256), so that nobody who has only the disk can make it: the node keeps
//! the token's digest alone. A client sends it with the install, since it sends the token itself only with the first invocation.

use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::token::InvocationToken;

const PREFIX: &str = "bento-seal-";

/// What is sealed under it can be read by whoever has the function's invocation token. 256 bits.
#[derive(Clone, Eq, PartialEq)]
pub struct SealKey(Zeroizing<[u8; 32]>);

/// A text that is no such key. Never holds the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this is no key for sealing: it begins with `{PREFIX}` and 52 letters and digits follow")]
pub struct NotASealKey;

impl SealKey {
    /// The key that belongs to a token.
    pub fn of(token: &InvocationToken) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        // Fails for more than 8,160 bytes only.
        let _ = Hkdf::<Sha256>::new(None, token.reveal().as_bytes()).expand(b"bento seal 1", key.as_mut());
        Self(key)
    }

    /// A key of its own for one purpose.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        let _ = Hkdf::<Sha256>::new(None, self.0.as_ref()).expand(purpose.as_bytes(), key.as_mut());
        key
    }

    /// The text form, which is the secret itself.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", BASE32_NOPAD.encode(self.0.as_ref()).to_ascii_lowercase()))
    }
}

impl FromStr for SealKey {
    type Err = NotASealKey;

    fn from_str(text: &str) -> Result<Self, NotASealKey> {
        let body = text.strip_prefix(PREFIX).filter(|body| !body.bytes().any(|byte| byte.is_ascii_uppercase())).ok_or(NotASealKey)?;
        let bytes = Zeroizing::new(BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes()).map_err(|_| NotASealKey)?);
        bytes.as_slice().try_into().map(|bytes| Self(Zeroizing::new(bytes))).map_err(|_| NotASealKey)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SealKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_from_the_token_and_is_neither_the_token_nor_its_digest() {
        let token = InvocationToken::from_random([7; 32]);
        let key = SealKey::of(&token);
        assert_eq!(key, SealKey::of(&token.reveal().parse().unwrap()));
        assert_ne!(key, SealKey::of(&InvocationToken::from_random([8; 32])));
        assert_ne!(key.reveal()[PREFIX.len()..], token.reveal()["bento-invoke-".len()..]);
        assert_ne!(key.derive("one"), key.derive("two"));
        assert_eq!(key.reveal().parse::<SealKey>().unwrap(), key);
        assert!(!format!("{key:?}").contains(&key.reveal()[PREFIX.len()..]));
    }

    #[test]
    fn near_misses_are_no_keys() {
        let text = SealKey::of(&InvocationToken::from_random([7; 32])).reveal();
        for wrong in [&text[1..], &text[..text.len() - 1], &text.to_uppercase(), &format!("{}a", *text), ""] {
            assert_eq!(wrong.parse::<SealKey>(), Err(NotASealKey), "{wrong}");
        }
    }
}
