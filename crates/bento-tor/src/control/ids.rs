//! Names that Tor gives: relays, circuits, streams.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXUPPER;

use super::ControlError;

/// Longest identifier of a circuit or stream (control-spec, "CircuitID").
const ID_CHARS_MAX: usize = 16;

/// A relay's fingerprint: the digest of its identity key.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fingerprint([u8; 20]);

/// A text is no fingerprint.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a relay is named by its fingerprint, 40 hexadecimal digits")]
pub struct FingerprintError;

impl Fingerprint {
    /// From the digest itself.
    pub fn new(digest: [u8; 20]) -> Self {
        Self(digest)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    /// Takes it as people write it, and with Tor's `$` in front.
    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits = text.strip_prefix('$').unwrap_or(text).to_ascii_uppercase();
        let bytes = HEXUPPER.decode(digits.as_bytes()).map_err(|_| FingerprintError)?;
        bytes.try_into().map(Self).map_err(|_| FingerprintError)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXUPPER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A relay on a circuit's path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hop {
    /// Which.
    pub fingerprint: Fingerprint,
    /// The name that it gives itself, if Tor knows it.
    pub nickname: Option<String>,
}

impl Hop {
    /// ```text
    /// $62B250DE403BA8DB38A79133C36111C0D217C74C~middle1
    /// ```
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (fingerprint, nickname) = match text.split_once(['~', '=']) {
            Some((fingerprint, nickname)) => (fingerprint, Some(nickname.to_owned())),
            None => (text, None),
        };
        Some(Self { fingerprint: fingerprint.strip_prefix('$')?.parse().ok()?, nickname })
    }

    /// The hops of a path, with commas between.
    pub(super) fn path(text: &str) -> Option<Vec<Self>> {
        text.split(',').map(Self::parse).collect()
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(Box<str>);

        impl $name {
            /// None where the text is `0`, Tor's word for none, or no identifier at all.
            pub(super) fn parse(text: &str) -> Option<Self> {
                let is_id = (1..=ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
                (is_id && text != "0").then(|| Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ControlError;

            fn from_str(text: &str) -> Result<Self, ControlError> {
                Self::parse(text).ok_or(ControlError::Argument("this is no identifier of a circuit or stream"))
            }
        }
    };
}

id! {
    /// What Tor calls a circuit.
    CircuitId
}

id! {
    /// What Tor calls a stream.
    StreamId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_tor_writes_them_and_nothing_else_is() {
        let text = "62B250DE403BA8DB38A79133C36111C0D217C74C";
        let fingerprint: Fingerprint = text.parse().unwrap();
        assert_eq!(fingerprint.to_string(), text);
        assert_eq!(format!("${}", text.to_lowercase()).parse(), Ok(fingerprint));
        for wrong in ["", "middle1", &text[1..], &format!("{text}0"), &format!("{text} SIGNAL HALT"), &text.replace('6', "G")] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
        let path = Hop::path(&format!("${text}~middle1,${text}=middle1,${text}")).unwrap();
        assert_eq!(path.iter().map(|hop| hop.nickname.as_deref()).collect::<Vec<_>>(), [Some("middle1"), Some("middle1"), None]);
        assert_eq!(Hop::path("PURPOSE=GENERAL"), None);
        assert_eq!(CircuitId::parse("10").unwrap().to_string(), "10");
        for none in ["0", "", "1 2", "1\r\n", "12345678901234567", "$1"] {
            assert!(CircuitId::parse(none).is_none(), "{none:?}");
        }
    }
}
