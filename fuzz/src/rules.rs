//! Rules of an exit policy made at random, and a second reading of them that shares no line with `bento-proto`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::Arbitrary;

/// One rule, before it is a text.
#[derive(Arbitrary, Clone, Debug)]
pub struct Rule {
    accept: bool,
    to: To,
    ports: Ports,
}

#[derive(Arbitrary, Clone, Debug)]
enum To {
    All,
    AllV4,
    AllV6,
    Private,
    V4 {
        bits: u32,
        prefix: u8,
    },
    V6 {
        bits: u128,
        prefix: u8,
    },
    /// A place where private and public meet.
    Edge {
        which: u8,
        wider: u8,
    },
    Mapped {
        bits: u32,
    },
}

#[derive(Arbitrary, Clone, Debug)]
enum Ports {
    All,
    One(u16),
    Range(u16, u16),
    Web(bool),
}

/// Tor's `private`, RFC 6890 and its successors, and the IPv6 blocks that carry an IPv4 address.
const PRIVATE_V4: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
];
const PRIVATE_V6: &[&str] = &[
    "::/8",
    "100::/8",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

fn blocks<T: std::str::FromStr>(list: &'static [&'static str]) -> impl Iterator<Item = (T, u32)> {
    list.iter().filter_map(|text| {
        let (address, prefix) = text.split_once('/')?;
        Some((address.parse().ok()?, prefix.parse().ok()?))
    })
}

/// The address itself, where IPv6 only wraps it.
fn bare(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        v4 => v4,
    }
}

fn within(address: IpAddr, block: IpAddr, prefix: u32) -> bool {
    match (bare(address), block) {
        (IpAddr::V4(a), IpAddr::V4(b)) => prefix == 0 || (a.to_bits() ^ b.to_bits()) >> (32 - prefix) == 0,
        (IpAddr::V4(a), IpAddr::V6(b)) => prefix == 0 || (a.to_ipv6_mapped().to_bits() ^ b.to_bits()) >> (128 - prefix) == 0,
        (IpAddr::V6(a), IpAddr::V6(b)) => prefix == 0 || (a.to_bits() ^ b.to_bits()) >> (128 - prefix) == 0,
        (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Is it nobody's on the public Internet?
pub fn is_private(address: IpAddr) -> bool {
    match bare(address) {
        IpAddr::V4(_) => blocks::<Ipv4Addr>(PRIVATE_V4).any(|(block, prefix)| within(address, block.into(), prefix)),
        IpAddr::V6(_) => blocks::<Ipv6Addr>(PRIVATE_V6).any(|(block, prefix)| within(address, block.into(), prefix)),
    }
}

/// Does one private block hold all of it?
fn names_private(block: IpAddr, prefix: u32) -> bool {
    let (lies_in, own) = match (bare(block), block) {
        // `[::ffff:10.0.0.0]/104` is 10.0.0.0/8, and what is wider than the mapped block is IPv6.
        (IpAddr::V4(v4), IpAddr::V6(_)) if prefix >= 96 => (IpAddr::V4(v4), prefix - 96),
        _ => (block, prefix),
    };
    match lies_in {
        IpAddr::V4(_) => blocks::<Ipv4Addr>(PRIVATE_V4).any(|(private, length)| own >= length && within(lies_in, private.into(), length)),
        // `::/8` is private but for the mapped IPv4 addresses in it; a block that holds those is not private as a whole.
        IpAddr::V6(v6) => {
            let holds_mapped = within(Ipv6Addr::from_bits(0xffff_0000_0000).into(), lies_in, own);
            !holds_mapped && {
                let _ = v6;
                blocks::<Ipv6Addr>(PRIVATE_V6).any(|(private, length)| own >= length && within(lies_in, private.into(), length))
            }
        }
    }
}

impl Rule {
    fn block(&self) -> Option<(IpAddr, u32)> {
        let v4 = |bits: u32, prefix: u32| {
            let prefix = prefix % 33;
            let kept = if prefix == 0 { 0 } else { bits >> (32 - prefix) << (32 - prefix) };
            (Ipv4Addr::from_bits(kept).into(), prefix)
        };
        let v6 = |bits: u128, prefix: u32| {
            let prefix = prefix % 129;
            let kept = if prefix == 0 { 0 } else { bits >> (128 - prefix) << (128 - prefix) };
            (Ipv6Addr::from_bits(kept).into(), prefix)
        };
        match &self.to {
            To::V4 { bits, prefix } => Some(v4(*bits, (*prefix).into())),
            To::V6 { bits, prefix } => Some(v6(*bits, (*prefix).into())),
            To::Mapped { bits } => Some(v6(Ipv4Addr::from_bits(*bits).to_ipv6_mapped().to_bits(), 128)),
            To::Edge { which, wider } => {
                let all: Vec<(IpAddr, u32)> = blocks::<Ipv4Addr>(PRIVATE_V4)
                    .map(|(block, prefix)| (block.into(), prefix))
                    .chain(blocks::<Ipv6Addr>(PRIVATE_V6).map(|(block, prefix)| (block.into(), prefix)))
                    .collect();
                let (block, prefix) = all[usize::from(*which) % all.len()];
                // One bit wider, the same, or one narrower.
                let prefix = (prefix + u32::from(*wider % 3)).saturating_sub(1);
                Some(match block {
                    IpAddr::V4(block) => v4(block.to_bits(), prefix),
                    IpAddr::V6(block) => v6(block.to_bits(), prefix),
                })
            }
            _ => None,
        }
    }

    fn ports(&self) -> (u16, u16) {
        match self.ports {
            Ports::All => (1, 65535),
            Ports::One(port) => (port.max(1), port.max(1)),
            Ports::Range(a, b) => (a.min(b).max(1), a.max(b).max(1)),
            Ports::Web(true) => (80, 80),
            Ports::Web(false) => (443, 443),
        }
    }

    /// As an operator or an author writes it.
    pub fn text(&self) -> String {
        let to = match (&self.to, self.block()) {
            (To::All, _) => "*".into(),
            (To::AllV4, _) => "*4".into(),
            (To::AllV6, _) => "*6".into(),
            (To::Private, _) => "private".into(),
            (_, Some((IpAddr::V4(block), prefix))) => format!("{block}/{prefix}"),
            (_, Some((IpAddr::V6(block), prefix))) => format!("[{block}]/{prefix}"),
            (_, None) => "*".into(),
        };
        let ports = match self.ports() {
            (1, 65535) => "*".into(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        format!("{} {to}:{ports}", if self.accept { "accept" } else { "reject" })
    }

    /// Does it speak of this place?
    fn matches(&self, address: IpAddr, port: u16) -> bool {
        let (first, last) = self.ports();
        if port < first || port > last {
            return false;
        }
        let public_only = self.accept;
        match (&self.to, self.block()) {
            (To::Private, _) => is_private(address),
            (To::AllV4, _) => bare(address).is_ipv4() && !(public_only && is_private(address)),
            (To::AllV6, _) => bare(address).is_ipv6() && !(public_only && is_private(address)),
            (_, Some((block, prefix))) => {
                within(address, block, prefix) && (!public_only || names_private(block, prefix) || !is_private(address))
            }
            _ => !(public_only && is_private(address)),
        }
    }

    /// Places worth a look: just outside, at the edges, just inside.
    pub fn places(&self) -> Vec<(IpAddr, u16)> {
        let (first, last) = self.ports();
        let number = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let (low, high) = match self.block() {
            Some((block, prefix)) => {
                let width = if block.is_ipv4() { 32 } else { 128 } - prefix;
                let span = if width == 128 { u128::MAX } else { (1u128 << width) - 1 };
                (number(block), number(block).saturating_add(span))
            }
            None => (0, u128::MAX),
        };
        let addresses =
            [low.wrapping_sub(1), low, low.wrapping_add(1), high.wrapping_sub(1), high, high.wrapping_add(1), low / 2 + high / 2];
        let ports = [first.saturating_sub(1), first, last, last.saturating_add(1)];
        let addresses = addresses.map(|bits| Ipv6Addr::from_bits(bits).to_canonical());
        addresses.into_iter().flat_map(|address| ports.map(|port| (address, port.max(1)))).collect()
    }
}

/// The first rule that speaks of a place decides; what none speaks of is rejected.
pub fn accepts(rules: &[Rule], address: IpAddr, port: u16) -> bool {
    rules.iter().find(|rule| rule.matches(address, port)).is_some_and(|rule| rule.accept)
}

/// Addresses at both sides of every border between private and public.
pub fn borders() -> impl Iterator<Item = IpAddr> {
    let v4 = blocks::<Ipv4Addr>(PRIVATE_V4).flat_map(|(block, prefix)| {
        let last = block.to_bits() | (u32::MAX >> prefix);
        [block.to_bits().wrapping_sub(1), block.to_bits(), last, last.wrapping_add(1)].map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
    });
    let v6 = blocks::<Ipv6Addr>(PRIVATE_V6).flat_map(|(block, prefix)| {
        let last = block.to_bits() | (u128::MAX >> prefix);
        [block.to_bits().wrapping_sub(1), block.to_bits(), last, last.wrapping_add(1)].map(|bits| Ipv6Addr::from_bits(bits).to_canonical())
    });
    v4.chain(v6)
}
