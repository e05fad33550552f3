//! GETINFO: what can be asked for.
//!
//! The public directory, the function's own objects, and that Tor works. Not the node's address, guards, connections, configuration or
//! traffic, and nothing of other functions: those keys are as unknown as any word.

use super::command::{Router, is_service};

/// What one key of GETINFO means.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Key {
    /// `version`: of the node's `tor`.
    Version,
    /// One whose answer is always the same.
    Fixed(&'static str),
    /// `info/names`, `events/names`, `signal/names`, `features/names`: what there is.
    Names(&'static str),
    /// `circuit-status`: its circuits.
    Circuits,
    /// `stream-status`: its streams.
    Streams,
    /// `onions/current`: its onion services that end with this connection.
    Services,
    /// `onions/detached`: those that do not.
    Detached,
    /// `status/bootstrap-phase`, `status/circuit-established`, `status/enough-dir-info`, `network-liveness`: does Tor work?
    Working(Working),
    /// `ns/all`, `ns/id/…`, `ns/name/…`: entries of the consensus.
    Status(Which),
    /// `md/all`, `md/id/…`, `md/name/…`: microdescriptors.
    Microdescriptor(Which),
    /// `desc/id/…`, `desc/name/…`: server descriptors, which a Tor client has none of.
    Descriptor(&'static str),
    /// `consensus/valid-after`, `consensus/fresh-until`, `consensus/valid-until`: the first, second or third time of a consensus.
    Consensus(usize),
    /// `hs/client/desc/id/…`: a descriptor that this function has fetched.
    Fetched(String),
    /// `fingerprint`, `address`: of a relay, or hidden; with Tor's words for it.
    Absent(&'static str),
    /// Anything else.
    Unknown,
}

/// Which relays.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Which {
    /// All.
    All,
    /// This one.
    One(Router),
    /// One whose name can be none: it has Tor's words for it.
    Malformed,
}

/// Ways to ask whether Tor works.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Working {
    /// `status/bootstrap-phase`.
    Bootstrap,
    /// `status/circuit-established` and `status/enough-dir-info`.
    Flag,
    /// `network-liveness`.
    Liveness,
}

/// The same for every function.
const FIXED: [(&str, &str); 14] = [
    ("accounting/enabled", "0"),
    ("desc/all-recent", ""),
    ("desc/download-enabled", "0"),
    ("dormant", "0"),
    ("ip-to-country/ipv4-available", "0"),
    ("ip-to-country/ipv6-available", "0"),
    ("md/download-enabled", "1"),
    ("net/listeners/control", "\"127.0.0.1:9051\""),
    ("net/listeners/dns", ""),
    ("net/listeners/extor", ""),
    ("net/listeners/or", ""),
    ("net/listeners/socks", "\"127.0.0.1:9050\""),
    ("net/listeners/trans", ""),
    ("process/descriptor-limit", "-1"),
];

/// What `info/names` lists, without the fixed ones.
const NAMES: [(&str, &str); 24] = [
    ("circuit-status", "List of current circuits originating here."),
    ("consensus/fresh-until", "Time at which our consensus will stop being fresh."),
    ("consensus/valid-after", "Time at which our consensus becomes valid."),
    ("consensus/valid-until", "Time at which our consensus will no longer be valid."),
    ("events/names", "Events that the controller can ask for with SETEVENTS."),
    ("features/names", "What arguments can USEFEATURE take?"),
    ("hs/client/desc/id/*", "Hidden Service descriptor in client's cache by onion."),
    ("info/names", "List of GETINFO options, types, and documentation."),
    ("md/all", "All known microdescriptors."),
    ("md/id/*", "Microdescriptors by ID"),
    ("md/name/*", "Microdescriptors by name"),
    ("network-liveness", "Current opinion on whether the network is live"),
    ("ns/all", "Brief summary of router status (v2 directory format)"),
    ("ns/id/*", "Brief summary of router status by ID (v2 directory format)."),
    ("ns/name/*", "Brief summary of router status by nickname (v2 directory format)."),
    ("onions/current", "Onion services owned by the current control connection."),
    ("onions/detached", "Onion services detached from the control connection."),
    ("signal/names", "Signal names recognized by the SIGNAL command"),
    ("status/bootstrap-phase", "The last bootstrap phase status event that Tor sent."),
    ("status/circuit-established", "Whether we think client functionality is working."),
    ("status/enough-dir-info", "Whether we have enough up-to-date directory information to build circuits."),
    ("stream-status", "List of current streams."),
    ("version", "The current version of Tor."),
    ("fingerprint", "Identity fingerprint of a relay: there is none."),
];

impl Key {
    /// Every word is a key, if only an unknown one.
    pub fn parse(text: &str) -> Self {
        let which = |name: &str, is_id: bool| {
            let router = Router::parse(name);
            match (is_id, router) {
                (true, Some(router @ Router::Fingerprint(_))) => Which::One(router),
                (true, _) => Which::Malformed,
                (false, Some(router)) => Which::One(router),
                (false, None) => Which::Malformed,
            }
        };
        if let Some((_, value)) = FIXED.iter().find(|(key, _)| *key == text) {
            return Self::Fixed(value);
        }
        match text {
            "version" => Self::Version,
            "info/names" => Self::Names("info/names"),
            "events/names" => Self::Names("events/names"),
            "signal/names" => Self::Names("signal/names"),
            "features/names" => Self::Names("features/names"),
            "circuit-status" => Self::Circuits,
            "stream-status" => Self::Streams,
            "onions/current" => Self::Services,
            "onions/detached" => Self::Detached,
            "status/bootstrap-phase" => Self::Working(Working::Bootstrap),
            "status/circuit-established" | "status/enough-dir-info" => Self::Working(Working::Flag),
            "network-liveness" => Self::Working(Working::Liveness),
            "ns/all" => Self::Status(Which::All),
            "md/all" => Self::Microdescriptor(Which::All),
            "consensus/valid-after" => Self::Consensus(0),
            "consensus/fresh-until" => Self::Consensus(1),
            "consensus/valid-until" => Self::Consensus(2),
            "fingerprint" => Self::Absent("Not running in server mode"),
            "address" | "address/v4" | "address/v6" => Self::Absent("Address unknown"),
            _ => {
                let after = |start: &str| text.strip_prefix(start);
                if let Some(name) = after("ns/id/") {
                    Self::Status(which(name, true))
                } else if let Some(name) = after("ns/name/") {
                    Self::Status(which(name, false))
                } else if let Some(name) = after("md/id/") {
                    Self::Microdescriptor(which(name, true))
                } else if let Some(name) = after("md/name/") {
                    Self::Microdescriptor(which(name, false))
                } else if after("desc/id/").is_some() {
                    Self::Descriptor("id")
                } else if after("desc/name/").is_some() {
                    Self::Descriptor("name")
                } else if let Some(address) = after("hs/client/desc/id/") {
                    if is_service(address) { Self::Fetched(address.to_ascii_lowercase()) } else { Self::Absent("Invalid address") }
                } else if after("ip-to-country/").is_some() {
                    Self::Absent("GeoIP data not loaded")
                } else {
                    Self::Unknown
                }
            }
        }
    }

    /// What `…/names` answers.
    pub fn names(which: &str) -> String {
        match which {
            "events/names" => super::event::Kind::names().join(" "),
            "signal/names" => "NEWNYM CLEARDNSCACHE".into(),
            "features/names" => "VERBOSE_NAMES EXTENDED_EVENTS".into(),
            _ => {
                let mut lines: Vec<String> = NAMES.iter().map(|(name, what)| format!("{name} -- {what}")).collect();
                lines.extend(FIXED.iter().map(|(name, _)| format!("{name} -- The same for every function.")));
                lines.sort();
                lines.push(String::new());
                lines.join("\n")
            }
        }
    }
}
