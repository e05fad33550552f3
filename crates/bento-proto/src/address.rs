//! Blocks of IP addresses, and which of them are private.
//!
//! IPv4 and IPv6 addresses are compared in one space of 128 bits: an IPv4 address is its IPv4-mapped one (RFC 4291, 2.5.5.2), so that
//! `::ffff:127.0.0.1` can never pass where `127.0.0.1` may not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// First number of the IPv4-mapped block, `::ffff:0:0/96`.
const MAPPED: u128 = 0xffff_0000_0000;

/// All addresses from `first` to `last`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Block {
    /// The lowest address, as a number.
    pub first: u128,
    /// The highest, which belongs to it.
    pub last: u128,
}

/// All of IPv4.
pub const ALL_V4: Block = Block { first: MAPPED, last: MAPPED + 0xffff_ffff };

/// All of both families.
pub const ALL: Block = Block { first: 0, last: u128::MAX };

/// Addresses that are not anybody's on the public Internet, or that lead to such ones.
///
/// Tor's `private` (tor's manual, `ExitPolicy`), and besides: shared address space (RFC 6598), the blocks for documentation,
/// benchmarks, multicast and future use (IANA special-purpose registries), and the IPv6 blocks that carry an IPv4 address inside
/// (NAT64, 6to4, Teredo), since what is inside may be private.
const PRIVATE: &[Block] = &[
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 3),
    // ::/8 (NAT64 is in it) without the mapped IPv4 addresses, which are judged as IPv4.
    Block { first: 0, last: MAPPED - 1 },
    Block { first: MAPPED + 0x1_0000_0000, last: (1 << 120) - 1 },
    v6(0x0100_0000, 8),
    v6(0x2001_0000, 23),
    v6(0x2001_0db8, 32),
    v6(0x2002_0000, 16),
    v6(0x3fff_0000, 20),
    v6(0x5f00_0000, 16),
    v6(0xfc00_0000, 7),
    v6(0xfe80_0000, 10),
    v6(0xfec0_0000, 10),
    v6(0xff00_0000, 8),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u32) -> Block {
    let first = MAPPED + Ipv4Addr::new(a, b, c, d).to_bits() as u128;
    Block { first, last: first + ((1u128 << (32 - prefix)) - 1) }
}

const fn v6(top: u128, prefix: u32) -> Block {
    let first = top << 96;
    Block { first, last: first + ((1u128 << (128 - prefix)) - 1) }
}

/// The address as a number in the one space.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a number.
pub fn address(number: u128) -> IpAddr {
    Ipv6Addr::from_bits(number).to_canonical()
}

/// The blocks of private addresses.
pub fn private_blocks() -> &'static [Block] {
    PRIVATE
}

/// Is it private, or does it lead to a private one?
pub fn is_private(address: IpAddr) -> bool {
    let number = number(address);
    PRIVATE.iter().any(|block| block.holds(number))
}

impl Block {
    /// The block of an address and the length of its prefix, or nothing when the prefix is too long for the family or the address has
    /// bits below it.
    pub fn new(address: IpAddr, prefix: u32) -> Option<Self> {
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let span = match width.checked_sub(prefix)? {
            128 => u128::MAX,
            below => (1 << below) - 1,
        };
        // The mapped block's own bits lie above the 32 of an IPv4 address, so both families are judged by the address's bits alone.
        let bits = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let first = number(address);
        (bits & span == 0).then(|| Self { first, last: first + span })
    }

    /// Is the number in it?
    pub fn holds(&self, number: u128) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// Does it lie in one private block as a whole?
    pub fn is_private(&self) -> bool {
        PRIVATE.iter().any(|private| private.first <= self.first && self.last <= private.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known_and_their_public_neighbours_too() {
        for (private, public) in [
            ("127.0.0.1", "126.255.255.255"),
            ("10.255.255.255", "11.0.0.0"),
            ("172.16.0.0", "172.15.255.255"),
            ("169.254.169.254", "169.253.255.255"),
            ("100.64.0.1", "100.128.0.0"),
            ("255.255.255.255", "223.255.255.255"),
            ("::1", "2a00::1"),
            ("::ffff:127.0.0.1", "::ffff:8.8.8.8"),
            ("64:ff9b::7f00:1", "200::1"),
            ("2002:7f00:1::", "2003::"),
            ("fe80::1", "fe00::1"),
            ("fd00::1", "fb00::1"),
            ("ff02::1", "2001:4860::1"),
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn a_block_takes_its_prefix_and_no_bits_below_it() {
        let block = |text: &str, prefix| Block::new(text.parse().unwrap(), prefix);
        assert_eq!(block("0.0.0.0", 0), Some(ALL_V4));
        assert_eq!(block("::", 0), Some(ALL));
        assert!(block("127.0.0.0", 8).is_some() && block("127.0.0.1", 8).is_none());
        assert!(block("127.0.0.1", 32).is_some() && block("127.0.0.1", 33).is_none());
        assert!(block("::1", 128).is_some() && block("::1", 129).is_none() && block("::1", 64).is_none());
    }
}
