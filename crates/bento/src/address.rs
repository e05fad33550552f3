//! Where a node is: an onion service, or this very machine.
//!
//! Nothing else is taken. A name that DNS would resolve, or an address elsewhere, would be reached outside Tor. With `/conclave` behind it, it is the
//! conclave there, and nothing is ever said to the node itself: who keeps such an address keeps that as well.

use std::{fmt, net::SocketAddr, str::FromStr};

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Deserializer, de};
use sha3::{Digest as _, Sha3_256};

/// The port of a node's onion service when none is given.
const PORT: u16 = 80;

/// Letters of a version 3 onion service address: 35 bytes in base32.
const LETTERS: usize = 56;

/// Bytes of its key.
const KEY_BYTES: usize = 32;

/// A node's address.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeAddress {
    place: Place,
    conclave: bool,
}

/// Behind the address of a node's conclave.
const CONCLAVE: &str = "/conclave";

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Place {
    /// `host` ends in `.onion` and is in lower case.
    Onion {
        host: String,
        port: u16,
    },
    Loopback(SocketAddr),
}

/// Why a text is no node's address.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AddressError {
    /// Neither of the two kinds.
    #[error("a node's address is 56 letters and digits and `.onion`, with `:PORT` behind it where the port is not 80")]
    Form,
    /// The wrong length.
    #[error("the address has {0} letters and digits before `.onion`, and a node's address has {LETTERS}")]
    Length(usize),
    /// The length that version 2 had.
    #[error("this is an onion service address of version 2, which Tor no longer has; a node's address has {LETTERS} letters and digits")]
    Version2,
    /// A letter that no address has.
    #[error("an onion service address has the letters a to z and the digits 2 to 7, and no `{0}`")]
    Letter(char),
    /// The checksum does not match.
    #[error("the address is mistyped: its checksum does not match")]
    Checksum,
    /// A version that nobody knows.
    #[error("the onion service address is of version {0}; only version 3 is known")]
    Version(u8),
    /// Not a port.
    #[error("behind the address must be `:` and a port from 1 to 65535")]
    Port,
    /// An address of another machine.
    #[error(
        "an IP address is taken for this machine only (127.0.0.1 or [::1]); other nodes are reached over Tor, at their `.onion` address"
    )]
    NotLoopback,
}

impl NodeAddress {
    /// Host and port of its onion service, when it is one.
    pub fn onion(&self) -> Option<(&str, u16)> {
        match &self.place {
            Place::Onion { host, port } => Some((host, *port)),
            Place::Loopback(_) => None,
        }
    }

    /// What names it in a conclave's evidence: the key of its onion service, or its place on this machine.
    pub fn identity(&self) -> Vec<u8> {
        match &self.place {
            Place::Onion { host, .. } => {
                let letters = host.get(..LETTERS).unwrap_or_default().to_ascii_uppercase();
                let mut bytes = BASE32_NOPAD.decode(letters.as_bytes()).unwrap_or_default();
                // Behind the key are a checksum and the version.
                bytes.truncate(KEY_BYTES);
                bytes
            }
            Place::Loopback(address) => address.to_string().into_bytes(),
        }
    }

    /// Its address on this machine, when it is here.
    pub fn loopback(&self) -> Option<SocketAddr> {
        match self.place {
            Place::Onion { .. } => None,
            Place::Loopback(address) => Some(address),
        }
    }

    /// Is it the conclave there, and never the node itself?
    pub fn is_conclave(&self) -> bool {
        self.conclave
    }

    /// The conclave there.
    #[must_use]
    pub fn in_conclave(&self) -> Self {
        Self { conclave: true, ..self.clone() }
    }

    /// The address without a word of a conclave, as HTTP and links have it.
    pub fn authority(&self) -> String {
        self.place.to_string()
    }
}

/// Checks the letters before `.onion` as rend-spec-v3 has them, section 6:
///
/// ```text
/// onion_address = base32(PUBKEY | CHECKSUM | VERSION) + ".onion"
/// CHECKSUM = SHA3-256(".onion checksum" | PUBKEY | VERSION)[:2]
/// VERSION is one byte, 3
/// ```
fn check(letters: &str) -> Result<(), AddressError> {
    if letters.contains('.') {
        return Err(AddressError::Form);
    }
    if let Some(wrong) = letters.chars().find(|letter| !matches!(letter, 'a'..='z' | '2'..='7')) {
        return Err(AddressError::Letter(if wrong.is_control() { ' ' } else { wrong }));
    }
    match letters.len() {
        LETTERS => {}
        16 => return Err(AddressError::Version2),
        other => return Err(AddressError::Length(other)),
    }
    let bytes = BASE32_NOPAD.decode(letters.to_ascii_uppercase().as_bytes()).map_err(|_| AddressError::Form)?;
    let [key @ .., one, two, version] = bytes.as_slice() else { return Err(AddressError::Form) };
    if *version != 3 {
        return Err(AddressError::Version(*version));
    }
    let digest = Sha3_256::new().chain_update(".onion checksum").chain_update(key).chain_update([*version]).finalize();
    if digest[..2] == [*one, *two] { Ok(()) } else { Err(AddressError::Checksum) }
}

impl FromStr for NodeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_suffix(CONCLAVE) {
            Some(place) => Ok(Self { place: place.parse()?, conclave: true }),
            None => Ok(Self { place: text.parse()?, conclave: false }),
        }
    }
}

impl FromStr for Place {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.ip().is_loopback() {
                _ if address.port() == 0 => Err(AddressError::Port),
                true => Ok(Self::Loopback(address)),
                false => Err(AddressError::NotLoopback),
            };
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let host = host.to_ascii_lowercase();
        check(host.strip_suffix(".onion").ok_or(AddressError::Form)?)?;
        let port = match port {
            None => PORT,
            // `u16`'s own reading takes a plus sign, which no one writes on purpose.
            Some(digits) if digits.starts_with('+') => return Err(AddressError::Port),
            Some(digits) => digits.parse().ok().filter(|port| *port != 0).ok_or(AddressError::Port)?,
        };
        Ok(Self::Onion { host, port })
    }
}

impl<'de> Deserialize<'de> for NodeAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}", self.place, if self.conclave { CONCLAVE } else { "" })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Onion { host, port: PORT } => out.write_str(host),
            Self::Onion { host, port } => write!(out, "{host}:{port}"),
            Self::Loopback(address) => write!(out, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The Tor Project's own, from rend-spec-v3.
    const GOOD: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

    fn read(text: &str) -> Result<NodeAddress, AddressError> {
        text.parse()
    }

    #[test]
    fn an_onion_service_address_is_taken_and_one_wrong_letter_is_told() {
        let address = read(GOOD).unwrap();
        assert_eq!(address.onion(), Some((GOOD, 80)));
        assert_eq!(address.to_string(), GOOD);
        assert_eq!(read(&format!("{}:8080", GOOD.to_uppercase())).unwrap().onion(), Some((GOOD, 8080)));
        assert_eq!(read(&GOOD.replacen('p', "q", 1)), Err(AddressError::Checksum));
        assert_eq!(read(&GOOD.replacen("pg", "gp", 1)), Err(AddressError::Checksum));
        assert_eq!(read(&GOOD.replacen('p', "0", 1)), Err(AddressError::Letter('0')));
        assert_eq!(read(&GOOD[1..]), Err(AddressError::Length(55)));
        assert_eq!(read(&GOOD.replace("ryd.", "ryc.")), Err(AddressError::Version(2)));
        assert_eq!(read("expyuzz4wqqyqhjn.onion"), Err(AddressError::Version2));
        assert_eq!(read(&format!("www.{GOOD}")), Err(AddressError::Form));
        for port in ["0", "65536", "", "+80", "80 ", "8o"] {
            assert_eq!(read(&format!("{GOOD}:{port}")), Err(AddressError::Port), "{port}");
        }
    }

    #[test]
    fn this_machine_is_reached_directly_and_no_other_one() {
        assert_eq!(read("127.0.0.1:8030").unwrap().loopback(), "127.0.0.1:8030".parse().ok());
        assert_eq!(read("[::1]:8030").unwrap().loopback(), "[::1]:8030".parse().ok());
        for other in ["192.0.2.1:80", "[2001:db8::1]:80", "0.0.0.0:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(read(other), Err(AddressError::NotLoopback), "{other}");
        }
        assert_eq!(read("127.0.0.1:0"), Err(AddressError::Port));
        for other in ["localhost:80", "127.0.0.1", "example.org", "", ".onion", "http://127.0.0.1:80"] {
            assert!(read(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_conclaves_address_is_its_nodes_and_stays_one() {
        let (node, conclave) = (read(GOOD).unwrap(), read(&format!("{GOOD}/conclave")).unwrap());
        assert!(conclave.is_conclave() && !node.is_conclave());
        assert_ne!(node, conclave);
        assert_eq!((node.in_conclave(), conclave.authority()), (conclave.clone(), node.to_string()));
        assert_eq!((conclave.identity(), conclave.identity().len()), (node.identity(), 32));
        assert_eq!(read("127.0.0.1:8030/conclave").unwrap().identity(), b"127.0.0.1:8030");
        for wrong in
            ["/conclave", "127.0.0.1:8030/", "127.0.0.1:8030/conclave/", "127.0.0.1:8030/conclave/conclave", "127.0.0.1:8030/Conclave"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_taken_is_read_back(text in ".{0,80}", port in any::<u16>()) {
            if let Ok(address) = read(&text) {
                prop_assert_eq!(read(&address.to_string()), Ok(address));
            }
            if let Ok(address) = read(&format!("{GOOD}:{port}")) {
                prop_assert_eq!(read(&address.to_string()), Ok(address));
            }
        }
    }
}
