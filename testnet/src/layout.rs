//! What the network consists of: nine daemons, each on its own loopback /16, and the lines of their configuration.
//!
//! Its own /16 for each, because a circuit never has two relays of one /16: so path selection needs no exception here. Ports on an address of
//! its own cannot be taken by a daemon that was left over elsewhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub(crate) const OR_PORT: u16 = 5001;
pub(crate) const DIR_PORT: u16 = 7001;
pub(crate) const CONTROL_PORT: u16 = 9051;
pub(crate) const SOCKS_PORT: u16 = 9050;

/// Where the resolver of the exits listens.
pub(crate) const DNS: SocketAddr = socket([127, 53, 0, 1], 5053);

/// Where whoever holds the network says so.
pub(crate) const CLAIM: SocketAddr = socket([127, 53, 0, 1], 5054);

const fn socket(ip: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3])), port)
}

/// What a daemon does in the network.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Votes on the consensus, and relays as well.
    Authority,
    /// Relays, and lets nothing out.
    Middle,
    /// Relays, and lets everything out.
    Exit,
    /// Has a SOCKS port, and relays nothing.
    Client,
}

/// One daemon of the network.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Relay {
    /// Its nickname, such as `exit1`.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Its address on loopback: all its ports are on it.
    pub address: Ipv4Addr,
    /// Its identity, 40 hexadecimal digits; none for a client.
    pub fingerprint: Option<String>,
    /// An authority's signing identity.
    pub v3ident: Option<String>,
}

/// The daemons, without the identities that they do not have yet.
pub(crate) fn plan() -> Vec<Relay> {
    let kinds = [(Role::Authority, "authority", 11, 3), (Role::Middle, "middle", 21, 3), (Role::Exit, "exit", 31, 2)];
    let mut relays = Vec::new();
    for (role, name, net, count) in kinds {
        for number in 0..count {
            relays.push(relay(role, format!("{name}{}", number + 1), net + number));
        }
    }
    relays.push(relay(Role::Client, "client1".into(), 41));
    relays
}

fn relay(role: Role, name: String, net: u8) -> Relay {
    Relay { name, role, address: Ipv4Addr::new(127, net, 0, 1), fingerprint: None, v3ident: None }
}

impl Relay {
    /// Where it takes connections from other relays and from clients.
    pub fn or_port(&self) -> SocketAddr {
        self.at(OR_PORT)
    }

    /// Its control port; the cookie lies in its directory.
    pub fn control_port(&self) -> SocketAddr {
        self.at(CONTROL_PORT)
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }

    /// `DirAuthority authority1 orport=5001 v3ident=14C1…97 127.11.0.1:7001 E0F1…41`, for an authority.
    pub(crate) fn authority_line(&self) -> Option<String> {
        let (fingerprint, v3ident) = (self.fingerprint.as_ref()?, self.v3ident.as_ref()?);
        let Self { name, address, .. } = self;
        Some(format!("DirAuthority {name} orport={OR_PORT} v3ident={v3ident} {address}:{DIR_PORT} {fingerprint}"))
    }
}

/// The lines that any daemon needs to be in this network.
pub(crate) fn common_lines(relays: &[Relay]) -> Vec<String> {
    let mut lines = vec![
        "TestingTorNetwork 1".to_owned(),
        // A client is ready when it knows two thirds of the paths, not nearly all: that saves seconds at a first start.
        "PathsNeededToBuildCircuits 0.67".to_owned(),
        "ShutdownWaitLength 0".to_owned(),
        "NumCPUs 1".to_owned(),
        // Its four second-hop relays are half of this network: often no path is left to an onion service, and streams hang for minutes.
        "VanguardsLiteEnabled 0".to_owned(),
    ];
    lines.extend(relays.iter().filter_map(Relay::authority_line));
    lines
}

/// Seconds between two consensuses. It makes the time period of onion services 24 times as long: 8 minutes.
pub(crate) const VOTING_INTERVAL: u64 = 20;

/// Seconds from the start of the daemons to their first consensus. They need some to send each other their descriptors.
const FIRST_CONSENSUS: u64 = 9;

/// How late within each voting interval a consensus comes, so that the first comes soon whenever the network is started.
pub(crate) fn voting_offset(now: SystemTime) -> u64 {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    (now + FIRST_CONSENSUS) % VOTING_INTERVAL
}

/// The lines of one daemon.
pub(crate) fn lines(relay: &Relay, relays: &[Relay], directory: &Path, offset: u64) -> Vec<String> {
    let ip = relay.address;
    let mut lines = common_lines(relays);
    let mut more = |text: String| lines.extend(text.lines().map(|line| line.trim().to_owned()));
    more(format!(
        "ControlPort {ip}:{CONTROL_PORT}
        CookieAuthentication 1"
    ));
    if relay.role == Role::Client {
        more(format!("SocksPort {ip}:{SOCKS_PORT} ExtendedErrors"));
        return lines;
    }
    more(format!(
        "SocksPort 0
        Nickname {}
        Address {ip}
        ORPort {ip}:{OR_PORT} IPv4Only
        OutboundBindAddress {ip}
        AssumeReachable 1",
        relay.name
    ));
    match relay.role {
        Role::Exit => more(format!(
            "ExitRelay 1
            ExitPolicyRejectPrivate 0
            ExitPolicy accept *:*
            ServerDNSResolvConfFile \"{}\"
            ServerDNSDetectHijacking 0
            ServerDNSAllowNonRFC953Hostnames 1
            ServerDNSTestAddresses {}",
            directory.join("resolv.conf").display(),
            crate::dns::SELF_TEST,
        )),
        _ => more("ExitRelay 0\nExitPolicy reject *:*".to_owned()),
    }
    if relay.role == Role::Authority {
        let exits: Vec<_> = relays.iter().filter(|relay| relay.role == Role::Exit).filter_map(|relay| relay.fingerprint.clone()).collect();
        // The first interval is as long as the later ones. Were it shorter, the time period of onion services would change its length with
        // the second consensus, and the directories would refuse descriptors as old.
        more(format!(
            "AuthoritativeDirectory 1
            V3AuthoritativeDirectory 1
            DirPort {ip}:{DIR_PORT}
            ContactInfo nobody@site.example
            TestingV3AuthInitialVotingInterval {VOTING_INTERVAL}
            TestingV3AuthInitialVoteDelay 2
            TestingV3AuthInitialDistDelay 2
            TestingV3AuthVotingStartOffset {offset}
            V3AuthVotingInterval {VOTING_INTERVAL}
            V3AuthVoteDelay 2
            V3AuthDistDelay 2
            V3AuthNIntervalsValid 3
            TestingDirAuthVoteGuard *
            TestingDirAuthVoteHSDir *
            TestingDirAuthVoteExit {}
            TestingMinExitFlagThreshold 0",
            exits.join(",")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_daemon_has_a_network_of_its_own() {
        let relays = plan();
        let mut networks: Vec<_> = relays.iter().map(|relay| relay.address.octets()[1]).collect();
        networks.dedup();
        assert_eq!(networks.len(), relays.len());
        assert_eq!(relays.iter().filter(|relay| relay.role == Role::Authority).count(), 3);
        assert!(relays.iter().all(|relay| relay.authority_line().is_none()));
    }
}
