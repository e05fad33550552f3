//! Where a function may connect: Tor's exit-policy grammar (tor's manual, `ExitPolicy`; dir-spec, "Exit policies").
//!
//! Two things differ from a relay's, both on the side of safety. What matches no rule is rejected. And an `accept` reaches a private
//! address only when it names one: `accept *:80`, or a block wider than a private one, means *public* addresses. So an operator
//! opens private ranges only by writing them down.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    address::{self, ALL, ALL_V4, Block, is_private},
    lines::from_text,
};

/// An ordered list of rules; the first that matches decides.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExitPolicy {
    rules: Vec<Rule>,
}

/// One rule: `accept 192.0.2.0/24:80-443`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(into = "String")]
pub struct Rule {
    accept: bool,
    addresses: Addresses,
    ports: RangeInclusive<u16>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Addresses {
    All,
    AllV4,
    AllV6,
    Private,
    Block { address: IpAddr, prefix: u32, block: Block },
}

/// Longest list of which each rule is looked at whether it matters: the cost grows with the fourth power.
const SIMPLIFIED_MAX: usize = 24;

/// Why a text is no rule.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// It does not begin with `accept` or `reject`.
    #[error("`{0}` begins with neither `accept` nor `reject`")]
    Verb(String),
    /// The address part cannot be read.
    #[error("`{0}` is no address pattern: write `*`, `*4`, `*6`, `private`, or an address such as `192.0.2.0/24` or `[2001:db8::]/32`")]
    Address(String),
    /// The address has bits below its prefix, or the prefix is too long.
    #[error("`{0}` has address bits beyond its prefix, or a prefix longer than the address")]
    Prefix(String),
    /// The port part cannot be read.
    #[error("`{0}` is no port: write `*`, a number from 1 to 65535, or a range such as `80-443`")]
    Port(String),
}

impl ExitPolicy {
    /// The policy with these rules.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// Its rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// May a connection go there?
    pub fn accepts(&self, address: IpAddr, port: u16) -> bool {
        self.rules.iter().find(|rule| rule.matches(address, port)).is_some_and(|rule| rule.accept)
    }

    /// Does any address pass at this port? Where none does, a name need not be resolved to say no.
    pub fn may_accept_port(&self, port: u16) -> bool {
        self.rules.iter().any(|rule| rule.accept && rule.ports.contains(&port))
    }

    /// May a connection go to an onion service at this port? Such a service has no address that a rule could name, so those rules decide
    /// that are about every address of a family, and both families must be accepted.
    pub fn accepts_onion(&self, port: u16) -> bool {
        let everywhere = |spans: fn(Addresses) -> bool| {
            self.rules.iter().find(|rule| rule.ports.contains(&port) && spans(rule.addresses)).is_some_and(|rule| rule.accept)
        };
        everywhere(Addresses::spans_v4) && everywhere(Addresses::spans_v6)
    }

    /// Rules for what both accept. Exact but for a few blocks around private addresses, where it may accept less; never more.
    #[must_use]
    pub fn both(&self, other: &Self) -> Self {
        // In this order, the first pair that matches a destination is made of the two rules that decide on it.
        let pairs = self.rules.iter().flat_map(|rule| other.rules.iter().filter_map(move |other| rule.both(other)));
        let mut rules: Vec<Rule> = Vec::new();
        for rule in pairs {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        Self { rules }.simplified()
    }

    /// The same with fewer rules, where that is easily seen.
    fn simplified(mut self) -> Self {
        self.rules.truncate(self.rules.iter().rposition(|rule| rule.accept).map_or(0, |last| last + 1));
        let mut index = 0;
        while self.rules.len() <= SIMPLIFIED_MAX && index < self.rules.len() {
            let mut without = self.clone();
            without.rules.remove(index);
            if without.first_uncovered(&self).is_none() && self.first_uncovered(&without).is_none() {
                self = without;
            } else {
                index += 1;
            }
        }
        self
    }

    /// A destination that `needs` accepts and this policy does not, if there is one.
    ///
    /// Exact: both policies are constant between the edges of their rules, so one point between each two edges decides for all.
    pub fn first_uncovered(&self, needs: &Self) -> Option<(IpAddr, u16)> {
        let both = || self.rules.iter().chain(&needs.rules);
        let blocks = both().map(|rule| rule.addresses.block()).chain(address::private_blocks().iter().copied());
        let mut addresses: Vec<u128> =
            [ALL_V4, ALL].into_iter().chain(blocks).flat_map(|block| [Some(block.first), block.last.checked_add(1)]).flatten().collect();
        let mut ports: Vec<u16> = both().flat_map(|rule| [Some(*rule.ports.start()), rule.ports.end().checked_add(1)]).flatten().collect();
        addresses.sort_unstable();
        addresses.dedup();
        ports.sort_unstable();
        ports.dedup();
        // Whose rules cover an address is asked once for all ports: what a stranger's manifest costs is the product of what is left.
        addresses.into_iter().map(address::address).find_map(|address| {
            let (theirs, ours) = (needs.covering(address), self.covering(address));
            let port = ports.iter().find(|port| decide(&theirs, **port) && !decide(&ours, **port))?;
            Some((address, *port))
        })
    }

    fn covering(&self, address: IpAddr) -> Vec<&Rule> {
        self.rules.iter().filter(|rule| rule.covers(address)).collect()
    }
}

/// What these rules, which all cover an address, say of a port there.
fn decide(rules: &[&Rule], port: u16) -> bool {
    rules.iter().find(|rule| rule.ports.contains(&port)).is_some_and(|rule| rule.accept)
}

impl Rule {
    /// Does it accept?
    pub fn accepting(&self) -> bool {
        self.accept
    }

    /// The block that it spans.
    pub(crate) fn block(&self) -> Block {
        self.addresses.block()
    }

    /// What this rule and the other decide on both, as a rule: it accepts if both do. Nothing, if that is nothing.
    fn both(&self, other: &Self) -> Option<Self> {
        let accept = self.accept && other.accept;
        let (first, last) = (*self.ports.start().max(other.ports.start()), *self.ports.end().min(other.ports.end()));
        // An accept that names a private block and one that does not have nothing in common.
        if first > last || accept && self.addresses.is_private() != other.addresses.is_private() {
            return None;
        }
        let addresses = match self.addresses.both(other.addresses) {
            Common::All(addresses) => addresses,
            // Rejecting more is on the side of safety, and so is accepting less.
            Common::Within(wider) if !accept => wider,
            Common::Within(_) | Common::None => return None,
        };
        Some(Self { accept, addresses, ports: first..=last })
    }

    fn matches(&self, address: IpAddr, port: u16) -> bool {
        self.ports.contains(&port) && self.covers(address)
    }

    fn covers(&self, address: IpAddr) -> bool {
        match self.addresses {
            Addresses::Private => is_private(address),
            // An accept reaches private addresses only where it names them; a reject reaches all it covers.
            addresses => {
                let number = address::number(address);
                let block = addresses.block();
                let inside = match addresses {
                    Addresses::AllV6 => !ALL_V4.holds(number),
                    _ => block.holds(number),
                };
                inside && (!self.accept || block.is_private() || !is_private(address))
            }
        }
    }
}

/// What two patterns have in common.
enum Common {
    None,
    /// All of this pattern.
    All(Addresses),
    /// A part of this pattern, or none of it.
    Within(Addresses),
}

impl Addresses {
    fn is_private(self) -> bool {
        match self {
            Self::Private => true,
            Self::Block { block, .. } => block.is_private(),
            Self::All | Self::AllV4 | Self::AllV6 => false,
        }
    }

    fn spans_v4(self) -> bool {
        matches!(self, Self::All | Self::AllV4 | Self::Block { prefix: 0, .. })
    }

    fn spans_v6(self) -> bool {
        matches!(self, Self::All | Self::AllV6 | Self::Block { address: IpAddr::V6(_), prefix: 0, .. })
    }

    fn both(self, other: Self) -> Common {
        let within = |inner: Block, outer: Block| outer.first <= inner.first && inner.last <= outer.last;
        match (self, other) {
            (one, other) if one == other => Common::All(one),
            (Self::All, one) | (one, Self::All) => Common::All(one),
            (Self::Private, one) | (one, Self::Private) => {
                if one.is_private() {
                    Common::All(one)
                } else {
                    Common::Within(Self::Private)
                }
            }
            (Self::AllV4, Self::AllV6) | (Self::AllV6, Self::AllV4) => Common::None,
            (Self::AllV6, one) | (one, Self::AllV6) => match one.block() {
                block if within(block, ALL_V4) => Common::None,
                block if within(ALL, block) => Common::All(Self::AllV6),
                block if within(ALL_V4, block) => Common::Within(one),
                _ => Common::All(one),
            },
            (one, other) if within(one.block(), other.block()) => Common::All(one),
            (one, other) if within(other.block(), one.block()) => Common::All(other),
            // Blocks lie within each other or apart.
            _ => Common::None,
        }
    }

    /// The block it spans; wider than what it matches for `*6` and `private`, whose true edges are among the edges used anyway.
    fn block(self) -> Block {
        match self {
            Self::All | Self::AllV6 | Self::Private => ALL,
            Self::AllV4 => ALL_V4,
            Self::Block { block, .. } => block,
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let cut = |text: &str| text.chars().take(60).collect::<String>();
        let (verb, rest) = text.trim().split_once(char::is_whitespace).ok_or_else(|| RuleError::Verb(cut(text)))?;
        let accept = match verb {
            "accept" => true,
            "reject" => false,
            _ => return Err(RuleError::Verb(cut(text))),
        };
        let rest = rest.trim();
        // The port follows the last colon, unless that colon is inside the brackets of an IPv6 address.
        let (pattern, ports) = match rest.rsplit_once(':') {
            Some((pattern, ports)) if !ports.contains(']') => (pattern, ports),
            _ => (rest, "*"),
        };
        Ok(Self { accept, addresses: parse_addresses(pattern, &cut)?, ports: parse_ports(ports, &cut)? })
    }
}

fn parse_addresses(pattern: &str, cut: &dyn Fn(&str) -> String) -> Result<Addresses, RuleError> {
    match pattern {
        "*" => return Ok(Addresses::All),
        "*4" => return Ok(Addresses::AllV4),
        "*6" => return Ok(Addresses::AllV6),
        "private" => return Ok(Addresses::Private),
        _ => {}
    }
    let no = || RuleError::Address(cut(pattern));
    let (text, prefix) = match pattern.split_once('/') {
        Some((text, prefix)) => (text, Some(digits(prefix).ok_or_else(no)?)),
        None => (pattern, None),
    };
    let address: IpAddr = match text.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
        Some(Some(inner)) => IpAddr::V6(inner.parse().map_err(|_| no())?),
        Some(None) => return Err(no()),
        None => IpAddr::V4(text.parse().map_err(|_| no())?),
    };
    let prefix = prefix.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
    let block = Block::new(address, prefix).ok_or_else(|| RuleError::Prefix(cut(pattern)))?;
    Ok(Addresses::Block { address, prefix, block })
}

fn parse_ports(text: &str, cut: &dyn Fn(&str) -> String) -> Result<RangeInclusive<u16>, RuleError> {
    if text == "*" {
        return Ok(1..=u16::MAX);
    }
    let no = || RuleError::Port(cut(text));
    let port = |text: &str| digits::<u16>(text).filter(|port| *port > 0).ok_or_else(no);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last { Err(no()) } else { Ok(first..=last) }
}

/// A number of digits alone: the standard library would take a plus sign as well.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.accept { "accept " } else { "reject " })?;
        match self.addresses {
            Addresses::All => out.write_str("*")?,
            Addresses::AllV4 => out.write_str("*4")?,
            Addresses::AllV6 => out.write_str("*6")?,
            Addresses::Private => out.write_str("private")?,
            Addresses::Block { address: IpAddr::V4(v4), prefix, .. } => write!(out, "{v4}/{prefix}")?,
            Addresses::Block { address: IpAddr::V6(v6), prefix, .. } => write!(out, "[{v6}]/{prefix}")?,
        }
        match (*self.ports.start(), *self.ports.end()) {
            (1, u16::MAX) => out.write_str(":*"),
            (first, last) if first == last => write!(out, ":{first}"),
            (first, last) => write!(out, ":{first}-{last}"),
        }
    }
}

impl fmt::Display for ExitPolicy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rule) in self.rules.iter().enumerate() {
            write!(out, "{}{rule}", if index == 0 { "" } else { ", " })?;
        }
        if self.rules.is_empty() { out.write_str("nothing") } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl FromIterator<Rule> for ExitPolicy {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        Self::new(rules.into_iter().collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(rules: &[&str]) -> ExitPolicy {
        rules.iter().map(|rule| rule.parse::<Rule>().unwrap()).collect()
    }

    fn accepts(policy: &ExitPolicy, address: &str, port: u16) -> bool {
        policy.accepts(address.parse().unwrap(), port)
    }

    #[test]
    fn a_star_opens_the_public_and_never_the_private() {
        let policy = policy(&["accept *:80"]);
        assert!(accepts(&policy, "93.184.216.34", 80) && accepts(&policy, "2a00::1", 80));
        assert!(!accepts(&policy, "93.184.216.34", 81));
        for private in ["127.0.0.1", "10.0.0.1", "::1", "::ffff:10.0.0.1", "169.254.169.254", "fd00::1"] {
            assert!(!accepts(&policy, private, 80), "{private}");
        }
    }

    #[test]
    fn a_private_range_opens_when_named_and_its_neighbours_stay_shut() {
        let policy = policy(&["accept 127.80.0.0/16:80", "accept *:80"]);
        assert!(accepts(&policy, "127.80.0.1", 80) && accepts(&policy, "::ffff:127.80.0.1", 80));
        assert!(!accepts(&policy, "127.81.0.1", 80) && !accepts(&policy, "127.80.0.1", 81));
        // A wide block does not name the private ones inside it.
        assert!(!accepts(&self::policy(&["accept 0.0.0.0/0:*"]), "127.0.0.1", 80));
    }

    #[test]
    fn the_first_match_decides_and_a_wide_reject_reaches_the_private() {
        let policy = policy(&["reject *:25", "accept 10.0.0.0/8:*"]);
        assert!(accepts(&policy, "10.0.0.1", 80) && !accepts(&policy, "10.0.0.1", 25));
    }

    #[test]
    fn an_onion_service_is_reached_by_rules_about_everywhere_and_by_no_others() {
        for (rules, accepted) in [
            (["accept *:80"].as_slice(), true),
            (&["accept *:*"], true),
            (&["accept *4:80", "accept *6:80"], true),
            (&["accept [::]/0:80"], true),
            (&["reject 198.51.100.7:*", "reject *:25", "accept *:80"], true),
            (&[], false),
            (&["accept *:81"], false),
            (&["accept *4:80"], false),
            (&["accept *6:80"], false),
            (&["accept 0.0.0.0/0:80"], false),
            (&["accept 8.0.0.0/8:80", "accept [2000::]/3:80"], false),
            (&["accept private:80"], false),
            (&["reject *6:80", "accept *:80"], false),
            (&["reject *:*", "accept *:80"], false),
        ] {
            assert_eq!(policy(rules).accepts_onion(80), accepted, "{rules:?}");
        }
    }

    #[test]
    fn rules_that_are_none_are_refused() {
        for wrong in [
            "",
            "accept",
            "allow *:80",
            "accept *:0",
            "accept *:65536",
            "accept *:90-80",
            "accept 127.0.0.1/8:80",
            "accept ::1:80",
            "accept [::1:80",
            "accept example.org:80",
            "accept 1.2.3.4/33:80",
            "accept *:80,443",
            "accept *:+80",
            "accept 1.2.3.4/+32:80",
        ] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong:?}");
        }
        for right in ["accept *:80", "reject private:*", "accept [2001:db8::]/32:80-443", "accept *6:1", "reject 0.0.0.0/0:25"] {
            assert_eq!(right.parse::<Rule>().unwrap().to_string(), right);
        }
        assert_eq!("reject private".parse::<Rule>().unwrap().to_string(), "reject private:*");
    }

    #[test]
    fn covering_is_exact_at_the_edges() {
        let offers = policy(&["reject private", "reject 93.184.216.0/24:*", "accept *:80", "accept *:443", "reject *:*"]);
        assert_eq!(offers.first_uncovered(&policy(&["accept 1.0.0.0/8:443"])), None);
        assert_eq!(offers.first_uncovered(&policy(&["accept *6:443"])), None);
        assert_eq!(offers.first_uncovered(&policy(&["accept *:443"])), Some(("93.184.216.0".parse().unwrap(), 443)));
        assert_eq!(offers.first_uncovered(&policy(&["accept 1.1.1.1:80-81"])), Some(("1.1.1.1".parse().unwrap(), 81)));
        assert!(offers.first_uncovered(&policy(&["accept 127.0.0.1:80"])).is_some());
    }

    #[test]
    fn what_two_policies_have_in_common_is_found() {
        for (needs, offers, both) in [
            (&["accept *:*"][..], &["reject private:*", "accept *:80", "accept *:443", "reject *:*"][..], "accept *:80, accept *:443"),
            (&["accept *:443"], &["reject 93.184.216.0/24:*", "accept *:80-500"], "reject 93.184.216.0/24:443, accept *:443"),
            (&["accept *:22"], &["accept *:80"], "nothing"),
            (&["accept *:80"], &["accept 10.0.0.0/8:80"], "nothing"),
            (&["accept 10.1.0.0/16:1-90"], &["accept 10.0.0.0/8:80"], "accept 10.1.0.0/16:80"),
            (&["accept *6:*"], &["accept *:80"], "accept *6:80"),
            (&["accept *4:*"], &["accept *6:80"], "nothing"),
        ] {
            assert_eq!(policy(needs).both(&policy(offers)).to_string(), both);
        }
    }

    pub(crate) fn rule() -> impl Strategy<Value = Rule> {
        let pattern = prop_oneof![
            Just("*".to_owned()),
            Just("*4".to_owned()),
            Just("*6".to_owned()),
            Just("private".to_owned()),
            (any::<u32>(), 0u32..=32).prop_map(|(bits, prefix)| {
                let bits = if prefix == 0 { 0 } else { bits & (u32::MAX << (32 - prefix)) };
                format!("{}/{prefix}", std::net::Ipv4Addr::from_bits(bits))
            }),
            (0u8..=20).prop_map(|low| format!("127.0.0.{low}")),
            (any::<u128>(), 0u32..=128).prop_map(|(bits, prefix)| {
                let bits = if prefix == 0 { 0 } else { bits & (u128::MAX << (128 - prefix)) };
                format!("[{}]/{prefix}", std::net::Ipv6Addr::from_bits(bits))
            }),
        ];
        (any::<bool>(), pattern, 1u16.., 0u16..2000).prop_map(|(accept, pattern, first, more)| {
            let verb = if accept { "accept" } else { "reject" };
            format!("{verb} {pattern}:{first}-{}", first.saturating_add(more)).parse().unwrap()
        })
    }

    proptest! {
        #[test]
        fn written_rules_are_read_back(rule in rule()) {
            prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
        }

        #[test]
        fn what_is_covered_is_accepted_everywhere(
            offers in prop::collection::vec(rule(), 0..6),
            needs in prop::collection::vec(rule(), 0..4),
            points in prop::collection::vec((any::<u128>(), any::<u32>(), 1u16..), 50),
        ) {
            let (offers, needs) = (ExitPolicy::new(offers), ExitPolicy::new(needs));
            match offers.first_uncovered(&needs) {
                Some((address, port)) => prop_assert!(needs.accepts(address, port) && !offers.accepts(address, port)),
                None => {
                    // Points at random rarely hit a small block, so the edges of the rules are tried as well.
                    let edges = needs.rules.iter().map(|rule| (rule.addresses.block().first, *rule.ports.start()));
                    let random = points.iter().flat_map(|(wide, narrow, port)| [(*wide, *port), (ALL_V4.first + u128::from(*narrow), *port)]);
                    for (number, port) in random.chain(edges) {
                        let address = address::address(number);
                        prop_assert!(!needs.accepts(address, port) || offers.accepts(address, port));
                    }
                }
            }
        }

        #[test]
        fn what_both_accept_is_accepted_by_each(
            one in prop::collection::vec(rule(), 0..6), other in prop::collection::vec(rule(), 0..6)
        ) {
            let (one, other) = (ExitPolicy::new(one), ExitPolicy::new(other));
            let both = one.both(&other);
            prop_assert_eq!(one.first_uncovered(&both), None, "{}", both);
            prop_assert_eq!(other.first_uncovered(&both), None, "{}", both);
        }

        #[test]
        fn no_private_address_passes_unless_named(number in any::<u128>(), port in 1u16..) {
            let address = address::address(number);
            prop_assert_eq!(policy(&["accept *:*"]).accepts(address, port), !is_private(address));
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = text.parse::<Rule>();
        }
    }
}
