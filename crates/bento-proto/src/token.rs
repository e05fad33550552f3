//! The rights to invoke and to end a function.
//!
//! A token is 256 random bits that the client makes; the node is told only its digest. In text a token is a prefix that says which of
//! the two it is, and 52 letters of base32 (RFC 4648, lower case, no padding).

use std::{fmt, str::FromStr};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The right to invoke a function and to see its state.
#[derive(Clone, Eq, PartialEq)]
pub struct InvocationToken([u8; 32]);

/// The right to end a function.
#[derive(Clone, Eq, PartialEq)]
pub struct ShutdownToken([u8; 32]);

/// What a node knows of a token: SHA-256 of its text form. In text, 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Why a text is not the token that is wanted. Never holds the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// It is the other kind of token.
    #[error("this is {is}, and {wanted} is wanted")]
    Swapped {
        /// What it is.
        is: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// It is no token.
    #[error("this is no token: {wanted} begins with `{prefix}` and 52 letters and digits follow")]
    Form {
        /// What it should be.
        wanted: &'static str,
        /// How that begins.
        prefix: &'static str,
    },
    /// It is no digest.
    #[error("this is no digest of a token: 64 hexadecimal digits in lower case")]
    Digest,
}

const INVOCATION: (&str, &str) = ("bento-invoke-", "an invocation token");
const SHUTDOWN: (&str, &str) = ("bento-shutdown-", "a shutdown token");

fn read(text: &str, own: (&'static str, &'static str), other: (&'static str, &'static str)) -> Result<[u8; 32], TokenError> {
    if text.starts_with(other.0) {
        return Err(TokenError::Swapped { is: other.1, wanted: own.1 });
    }
    let form = TokenError::Form { wanted: own.1, prefix: own.0 };
    let body = text.strip_prefix(own.0).ok_or(form)?;
    if body.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(form);
    }
    let bytes = BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes()).map_err(|_| form)?;
    bytes.try_into().map_err(|_| form)
}

macro_rules! token {
    ($name:ident, $own:ident, $other:ident) => {
        impl $name {
            /// The token of these random bytes. They must come from the operating system's generator.
            pub fn from_random(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The text form, which is the secret itself.
            pub fn reveal(&self) -> String {
                format!("{}{}", $own.0, BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
            }

            /// What the node may know.
            pub fn digest(&self) -> Digest {
                Digest(Sha256::digest(self.reveal()).into())
            }
        }

        impl FromStr for $name {
            type Err = TokenError;

            fn from_str(text: &str) -> Result<Self, TokenError> {
                read(text, $own, $other).map(Self)
            }
        }

        // A token must not reach a log through a careless `{:?}`.
        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

token!(InvocationToken, INVOCATION, SHUTDOWN);
token!(ShutdownToken, SHUTDOWN, INVOCATION);

impl FromStr for Digest {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| TokenError::Digest)?;
        bytes.try_into().map(Self).map_err(|_| TokenError::Digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl TryFrom<String> for Digest {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_is_read_back_and_never_as_the_other_kind(bytes in any::<[u8; 32]>()) {
            let (invoke, shutdown) = (InvocationToken::from_random(bytes), ShutdownToken::from_random(bytes));
            prop_assert_eq!(&invoke.reveal().parse::<InvocationToken>().unwrap(), &invoke);
            let swapped = |error| matches!(error, TokenError::Swapped { .. });
            prop_assert!(swapped(invoke.reveal().parse::<ShutdownToken>().unwrap_err()));
            prop_assert!(swapped(shutdown.reveal().parse::<InvocationToken>().unwrap_err()));
            prop_assert_ne!(invoke.digest(), shutdown.digest());
            prop_assert_eq!(invoke.digest().to_string().parse::<Digest>().unwrap(), invoke.digest());
            let debug = format!("{invoke:?}");
            prop_assert!(!debug.contains(&invoke.reveal()[13..]));
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = text.parse::<InvocationToken>();
            let _ = text.parse::<Digest>();
        }
    }

    #[test]
    fn near_misses_are_no_tokens() {
        let text = InvocationToken::from_random([7; 32]).reveal();
        for wrong in
            [text[..text.len() - 1].to_owned(), format!("{text}a"), text.to_uppercase(), text.replace("invoke", "Invoke"), String::new()]
        {
            assert!(wrong.parse::<InvocationToken>().is_err(), "{wrong}");
        }
    }
}
