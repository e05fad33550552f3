//! The network's consensus: its times and parameters, and what it says of each relay.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use data_encoding::BASE64_NOPAD;

use super::ids::Fingerprint;

/// A consensus.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Consensus {
    /// From when on it is valid, in seconds since 1970.
    pub valid_after: u64,
    /// Until when there is no newer one.
    pub fresh_until: u64,
    /// Until when it is valid.
    pub valid_until: u64,
    /// The shared random value of the protocol run before the last one, in base64.
    pub shared_random_previous: Option<String>,
    /// The shared random value of the last run, in base64.
    pub shared_random_current: Option<String>,
    /// Parameters of the network, by name.
    pub params: BTreeMap<String, i64>,
    /// How relays are weighted by their place on a path, in ten thousandths, by the name of the weight.
    pub weights: BTreeMap<String, i64>,
    /// The relays.
    pub relays: Vec<Relay>,
}

/// A relay, as consensus, microdescriptor and table of countries have it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Relay {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// The name that it gives itself.
    pub nickname: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The port where it takes circuits.
    pub or_port: u16,
    /// What the authorities say of it, such as `Exit` or `Guard`.
    pub flags: Vec<String>,
    /// Its weight.
    pub bandwidth: u64,
    /// The summary of its exit policy for IPv4; none where it accepts nothing, or is not known.
    pub exit: Option<String>,
    /// Its ed25519 identity in base64 without padding, if it is known.
    pub ed25519: Option<String>,
    /// Relays of whose family it says to be, by fingerprint.
    pub family: Vec<Fingerprint>,
    /// Families whose key has signed that it is of them.
    pub family_ids: Vec<String>,
    /// Its country, in two small letters, if it is known.
    pub country: Option<String>,
    /// The digest of its microdescriptor.
    pub(super) microdescriptor: Option<[u8; 32]>,
}

impl Relay {
    /// Have the authorities said this of it?
    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }

    /// Are the two of one family? By fingerprints each must name the other.
    pub fn is_family_of(&self, other: &Self) -> bool {
        let names = |one: &Self, other: &Self| one.family.contains(&other.fingerprint);
        (names(self, other) && names(other, self)) || self.family_ids.iter().any(|id| other.family_ids.contains(id))
    }

    /// Does its exit policy accept this port of most addresses?
    pub fn exits_to(&self, port: u16) -> bool {
        self.exit.as_deref().is_some_and(|summary| accepts(summary, port))
    }
}

impl Consensus {
    /// Reads a consensus of the flavor `microdesc` (dir-spec, "Consensus format"):
    /// ```text
    /// network-status-version 3 microdesc
    /// valid-after 2026-11-28 00:59:15
    /// params hsdir_interval=1440 …
    /// shared-rand-current-value 3 a/ufXA+Q7N7fHpyDJl/PMSiSu4xS38rCnil5Y88vzrQ=
    /// r middle2 OZJJRcuNwNgueKePl4AKRW7XIHA 2038-01-01 00:00:00 127.22.0.1 5001 0
    /// m Jz/05noduCgOIFNh6g6xCNrQ7GrMa6NPJHvVnIMGHTQ
    /// s Fast Guard HSDir Running Stable V2Dir Valid
    /// w Bandwidth=147 Unmeasured=1
    /// directory-footer
    /// bandwidth-weights Wbd=0 Wbe=0 Wbg=4131 …
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        if !text.starts_with("network-status-version 3 microdesc") {
            return None;
        }
        let mut consensus = Self::default();
        for line in text.lines() {
            let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
            // Lines of a relay follow its `r`, and those that cannot be read say nothing.
            match key {
                "valid-after" => consensus.valid_after = seconds(rest)?,
                "fresh-until" => consensus.fresh_until = seconds(rest)?,
                "valid-until" => consensus.valid_until = seconds(rest)?,
                "shared-rand-previous-value" => consensus.shared_random_previous = rest.split(' ').nth(1).map(str::to_owned),
                "shared-rand-current-value" => consensus.shared_random_current = rest.split(' ').nth(1).map(str::to_owned),
                "params" => consensus.params = numbers(rest),
                "bandwidth-weights" => consensus.weights = numbers(rest),
                "r" => consensus.relays.extend(relay(rest)),
                "m" | "s" | "w" => {
                    if let Some(relay) = consensus.relays.last_mut() {
                        match key {
                            "m" => relay.microdescriptor = digest(rest),
                            "s" => relay.flags = rest.split(' ').map(str::to_owned).collect(),
                            _ => relay.bandwidth = numbers(rest).get("Bandwidth").map_or(0, |weight| u64::try_from(*weight).unwrap_or(0)),
                        }
                    }
                }
                _ => {}
            }
        }
        (consensus.valid_after > 0).then_some(consensus)
    }
}

/// ```text
/// middle2 OZJJRcuNwNgueKePl4AKRW7XIHA 2038-01-01 00:00:00 127.22.0.1 5001 0
/// ```
fn relay(text: &str) -> Option<Relay> {
    let words: Vec<&str> = text.split(' ').collect();
    let [nickname, identity, _, _, address, or_port, ..] = words.as_slice() else { return None };
    let identity: [u8; 20] = BASE64_NOPAD.decode(identity.as_bytes()).ok()?.try_into().ok()?;
    Some(Relay {
        fingerprint: Fingerprint::new(identity),
        nickname: (*nickname).to_owned(),
        address: address.parse().ok()?,
        or_port: or_port.parse().ok()?,
        flags: Vec::new(),
        bandwidth: 0,
        exit: None,
        ed25519: None,
        family: Vec::new(),
        family_ids: Vec::new(),
        country: None,
        microdescriptor: None,
    })
}

fn digest(text: &str) -> Option<[u8; 32]> {
    BASE64_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
}

fn numbers(text: &str) -> BTreeMap<String, i64> {
    text.split(' ').filter_map(|word| word.split_once('=')).filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?))).collect()
}

/// Seconds since 1970 of a time such as `2026-11-28 00:59:15`, in UTC.
fn seconds(text: &str) -> Option<u64> {
    let number = |at: std::ops::Range<usize>| text.get(at)?.parse::<i64>().ok();
    let shape: String = text.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    if shape != "0000-00-00 00:00:00" {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // The year begins in March here, so that the day that a leap year has more is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok()
}

/// Does this summary of an exit policy accept a port?
/// ```text
/// accept 80,443,8000-8100
/// reject 25,119
/// ```
fn accepts(summary: &str, port: u16) -> bool {
    let Some((verb, ports)) = summary.split_once(' ') else { return false };
    let named = ports.split(',').any(|span| {
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
    });
    match verb {
        "accept" => named,
        "reject" => !named,
        _ => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const TEXT: &str = "network-status-version 3 microdesc\nvote-status consensus\nvalid-after 2026-11-28 00:59:15\n\
        fresh-until 2026-11-28 00:59:35\nvalid-until 2026-11-28 01:00:15\nparams hsdir_interval=1440 CircuitPriorityHalflifeMsec=30000\n\
        shared-rand-previous-value 3 eabMhx2bHoTDzanMR3FYXg3UjLP9e8HIpl5rxayJ6Hg=\n\
        r exit2 Iup1ZpFGEffgAbIiIu5IsIoEXv4 2038-01-01 00:00:00 127.32.0.1 5001 0\nm QKdZGo7z08tWLw+g6HsnQAHgC32hFZAOPD01Z+NUNW4\n\
        s Exit Fast Guard HSDir Running V2Dir Valid\nv Tor 0.4.9.11\nw Bandwidth=82 Unmeasured=1\n\
        r broken Iup1 2038-01-01 00:00:00 127.32.0.1 5001 0\n\
        r middle2 OZJJRcuNwNgueKePl4AKRW7XIHA 2038-01-01 00:00:00 127.22.0.1 5001 0\ns Fast Guard Running Valid\nw Bandwidth=147\n\
        directory-footer\nbandwidth-weights Wbd=0 Wgg=5869 Wmg=4131\ndirectory-signature sha256 65F5 B778\n";

    #[test]
    fn a_consensus_is_read_and_other_documents_are_not() {
        let consensus = Consensus::parse(TEXT).unwrap();
        assert_eq!((consensus.valid_after, consensus.valid_until - consensus.valid_after), (1_795_827_555, 60));
        assert_eq!((consensus.params["hsdir_interval"], consensus.weights["Wmg"]), (1440, 4131));
        assert_eq!(consensus.shared_random_previous.as_deref(), Some("eabMhx2bHoTDzanMR3FYXg3UjLP9e8HIpl5rxayJ6Hg="));
        assert_eq!(consensus.shared_random_current, None);
        let [exit, middle] = consensus.relays.as_slice() else { panic!("{:?}", consensus.relays) };
        assert_eq!(exit.fingerprint.to_string(), "22EA7566914611F7E001B22222EE48B08A045EFE");
        assert_eq!((exit.nickname.as_str(), exit.address, exit.or_port), ("exit2", [127, 32, 0, 1].into(), 5001));
        assert!(exit.is("Exit") && !middle.is("Exit") && exit.microdescriptor.is_some());
        assert_eq!((exit.bandwidth, middle.bandwidth), (82, 147));
        for other in ["", "network-status-version 3\nvalid-after 2026-11-28 00:59:15\n", "network-status-version 3 microdesc\n"] {
            assert_eq!(Consensus::parse(other), None);
        }
    }

    #[test]
    fn times_are_seconds() {
        for (text, told) in [
            ("1970-01-01 00:00:00", Some(0)),
            ("2000-02-29 12:00:00", Some(951_825_600)),
            ("2024-03-01 00:00:00", Some(1_709_251_200)),
            ("2026-11-28 00:59:15", Some(1_795_827_555)),
            ("2026-13-28 00:59:15", None),
            ("2026-11-28T00:59:15", None),
            ("1969-12-31 23:59:59", None),
            ("2026-11-28 00:59", None),
            ("\u{e9}026-11-28 00:59:15", None),
        ] {
            assert_eq!(seconds(text), told, "{text}");
        }
    }

    #[test]
    fn summaries_of_exit_policies_say_which_ports() {
        assert!(accepts("accept 80,443,8000-8100", 8050) && !accepts("accept 80,443", 81));
        assert!(accepts("reject 25,119", 80) && !accepts("reject 20-30", 25));
        assert!(!accepts("accept", 80) && !accepts("permit 80", 80) && !accepts("accept 90-70", 80) && !accepts("", 80));
    }

    #[test]
    fn a_family_is_one_that_both_name_or_that_has_signed_both() {
        let relays = Consensus::parse(TEXT).unwrap().relays;
        let (mut one, mut other) = (relays[0].clone(), relays[1].clone());
        assert!(!one.is_family_of(&other));
        one.family.push(other.fingerprint);
        assert!(!one.is_family_of(&other) && !other.is_family_of(&one));
        other.family.push(one.fingerprint);
        assert!(one.is_family_of(&other));
        other.family.clear();
        (one.family_ids, other.family_ids) = (vec!["ed25519:a".into()], vec!["ed25519:b".into(), "ed25519:a".into()]);
        assert!(other.is_family_of(&one));
    }
}
