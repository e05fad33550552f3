//! ADD_ONION: an onion service of the function's own.
//!
//! Where its streams go is a port of the function itself. Tor lets a target be any address; here that would open the operator's network.

use std::net::IpAddr;

use super::{Reply, command::bad_arguments, words::Word};

/// Most ports of one service.
const PORTS_MAX: usize = 16;

/// What is to be made.
#[derive(Clone, Eq, PartialEq)]
pub struct AddOnion {
    /// Its key; none for a new one. Base64 of an expanded ed25519 key, 64 bytes.
    pub key: Option<String>,
    /// The key is not to be told.
    pub discard: bool,
    /// It outlives the connection.
    pub detach: bool,
    /// Most streams of one circuit; 0 is any number.
    pub max_streams: u16,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A port of a service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Port {
    /// As clients see it.
    pub outside: u16,
    /// The function's own, on 127.0.0.1.
    pub inside: u16,
}

/// A key must not end in a log by way of `{:?}`.
impl std::fmt::Debug for AddOnion {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { discard, detach, max_streams, ports, .. } = self;
        out.debug_struct("AddOnion")
            .field("discard", discard)
            .field("detach", detach)
            .field("max_streams", max_streams)
            .field("ports", ports)
            .finish_non_exhaustive()
    }
}

impl AddOnion {
    /// ```text
    /// ADD_ONION NEW:BEST Port=80
    /// ADD_ONION NEW:ED25519-V3 Flags=DiscardPK,Detach MaxStreams=10 Port=80,127.0.0.1:5000 Port=443,5001
    /// ADD_ONION ED25519-V3:wLSVWvjsn0pQPZa9xncY4Q5j…A== Port=80,5000
    ///
    /// 512 Missing 'Port' argument
    /// 513 Invalid key type
    /// 512 Failed to decode ED25519-V3 key
    /// 512 Invalid VIRTPORT/TARGET
    /// 512 Invalid 'Flags' argument: "Foo"
    /// 512 Invalid MaxStreams
    /// ```
    pub(super) fn parse(key: &str, words: &[Word]) -> Result<Self, Reply> {
        let mut service = Self { key: None, discard: false, detach: false, max_streams: 0, ports: Vec::new() };
        for word in words {
            if word.is("Port") {
                service.ports.push(Port::parse(&word.value).ok_or_else(|| Reply::new(512, "Invalid VIRTPORT/TARGET"))?);
            } else if word.is("Flags") {
                service.flags(&word.value)?;
            } else if word.is("MaxStreams") {
                service.max_streams = word.value.parse().map_err(|_| Reply::new(512, "Invalid MaxStreams"))?;
            } else {
                let key = word.key.as_deref().unwrap_or_default();
                return Err(bad_arguments("ADD_ONION", &format!("Unrecognized keyword argument \"{key}\"")));
            }
        }
        if service.ports.is_empty() {
            return Err(Reply::new(512, "Missing 'Port' argument"));
        }
        if service.ports.len() > PORTS_MAX {
            return Err(bad_arguments("ADD_ONION", &format!("Cannot accept more than {PORTS_MAX} ports")));
        }
        service.key = match key.split_once(':') {
            Some(("NEW", "BEST" | "ED25519-V3")) => None,
            Some(("ED25519-V3", key)) => {
                let decoded = data_encoding::BASE64.decode(key.as_bytes()).ok().filter(|decoded| decoded.len() == 64);
                decoded.ok_or_else(|| Reply::new(512, "Failed to decode ED25519-V3 key"))?;
                Some(key.to_owned())
            }
            _ => return Err(Reply::new(513, "Invalid key type")),
        };
        Ok(service)
    }

    fn flags(&mut self, flags: &str) -> Result<(), Reply> {
        if flags.is_empty() {
            return Err(Reply::new(512, "Invalid 'Flags' argument"));
        }
        for flag in flags.split(',') {
            match flag.to_ascii_lowercase().as_str() {
                "discardpk" => self.discard = true,
                "detach" => self.detach = true,
                // Circuits with too many streams are left open: the streams are refused, which is what the flag is for.
                "maxstreamsclosecircuit" => {}
                "nonanonymous" => return Err(Reply::new(512, "Tor is in anonymous hidden service mode")),
                _ => return Err(Reply::new(512, format!("Invalid 'Flags' argument: \"{flag}\""))),
            }
        }
        Ok(())
    }
}

impl Port {
    /// `80`, `80,5000`, `80,127.0.0.1:5000` or `80,localhost:5000`.
    fn parse(text: &str) -> Option<Self> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let (outside, target) = text.split_once(',').map_or((text, None), |(outside, target)| (outside, Some(target.trim())));
        let outside = port(outside.trim())?;
        let Some(target) = target else { return Some(Self { outside, inside: outside }) };
        let (host, inside) = target.rsplit_once(':').map_or((None, target), |(host, inside)| (Some(host), inside));
        let own = host.is_none_or(|host| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|host| host.is_loopback()));
        own.then_some(Self { outside, inside: port(inside)? })
    }
}
