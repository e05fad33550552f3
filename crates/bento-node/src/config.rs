//! The operator's file `bentod.toml`. Every key is described in `packaging/bentod.toml`; an unknown one is refused with its line.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tokio::sync::Semaphore;

use bento::NodeAddress;
use bento_proto::{Rate, Size, Span};
use bento_tor::ControlAddr;

use crate::{policy::RelayTrouble, vsock::GUEST_MIN};

/// Most nodes that can be listed: what fits into one answer to a function, several times.
const NODES_MAX: usize = 64;

/// All of `bentod.toml`.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A name for people, shown on the node's page.
    pub name: String,
    /// How to reach the operator; shown as well.
    #[serde(default)]
    pub contact: Option<String>,
    /// Directory for what the node keeps: its onion service key, the managed tor's data, and what functions store, sealed.
    pub state: PathBuf,
    /// The policy file. A relative path is relative to this file.
    #[serde(default = "default_policy")]
    pub policy: PathBuf,
    /// A TCP address to listen at besides the onion service. Loopback only.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// The program that puts up the walls. Without it, `bento-jail` beside `bentod`.
    #[serde(default)]
    pub jail: Option<PathBuf>,
    /// Nodes that functions are told of. They may go to any onion service that is one, and to addresses of this machine only if they are here.
    #[serde(default)]
    pub nodes: Vec<Known>,
    /// The Tor client.
    #[serde(default)]
    pub tor: Tor,
    /// The relay beside this node, for a policy that takes over its exit policy.
    #[serde(default)]
    pub relay: Relay,
    /// Images by name. Without any, one `python3` with the standard library.
    #[serde(default)]
    pub images: BTreeMap<String, Image>,
    /// Bounds of the node as a whole.
    #[serde(default)]
    pub limits: Limits,
    /// DNS servers for direct egress. Without any, the system's.
    #[serde(default)]
    pub nameservers: Vec<SocketAddr>,
    /// The conclave beside this node.
    #[serde(default)]
    pub conclave: Conclave,
    /// Not in the file: the kind of conclave that this node runs in, where it does.
    #[serde(skip)]
    pub inside: Option<String>,
}

/// A conclave beside the node. What it is, it says itself, and clients believe its evidence only.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conclave {
    /// The directory with the sockets of both, if there is one. A relative path is relative to this file.
    pub directory: Option<PathBuf>,
    /// The number by which this machine knows the virtual machine that the conclave is in. Without it both are here.
    pub vsock: Option<u32>,
    /// What the hardware's maker published for this machine, as `spec/attestation.md` has it. A simulator needs none.
    pub collateral: Option<PathBuf>,
    /// Bytes of its sessions and streams together, averaged over a second. Without it, what the policy offers one function.
    pub rate: Option<Rate>,
    /// Bytes of its streams within any 24 hours. Without it, what the policy offers as many functions as it takes in a day.
    pub traffic: Option<Size>,
}

/// A node that functions are told of.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// A short name for it.
    pub name: String,
    /// Where it is.
    pub address: NodeAddress,
}

/// The Tor client that carries the onion service and, where egress `tor` is offered, functions' connections.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tor {
    /// No Tor at all: the node is reached at `listen` only. For trying out.
    pub off: bool,
    /// The tor program that the node starts as its own. Without it, the `tor` of the machine.
    pub program: Option<PathBuf>,
    /// More lines for its configuration.
    pub lines: Vec<String>,
    /// Instead of an own tor: the control port of one that runs, an address or `unix:PATH`.
    pub control: Option<String>,
    /// With `control`: that tor's SOCKS port.
    pub socks: Option<SocketAddr>,
}

/// A relay beside this node. It is asked one question, and nothing about it is changed.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Its control port: an address or `unix:PATH`.
    pub control: Option<String>,
}

/// A set of packages.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The interpreter.
    #[serde(default = "default_python")]
    pub python: PathBuf,
    /// Names of modules besides the standard library.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Where they are.
    #[serde(default = "default_packages_from")]
    pub packages_from: PathBuf,
    /// Certificates that functions trust by default.
    #[serde(default = "default_certificates")]
    pub certificates: PathBuf,
}

/// Bounds of the node as a whole. A function's own are in the policy.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sessions at the same time.
    pub sessions: usize,
    /// Streams of functions to elsewhere at the same time, all functions together.
    pub connections: usize,
    /// Circuits of functions at the same time, all functions together.
    pub circuits: usize,
    /// Onion services of functions at the same time, all functions together.
    pub onion_services: usize,
    /// Longest time for a request's head to come.
    pub head: Span,
    /// Longest time without a byte in either direction of a session.
    pub idle: Span,
    /// Longest time for a function's process to start and import its code.
    pub load: Span,
    /// Longest time for a name to be resolved and a connection made.
    pub connect: Span,
    /// Longest time that running invocations have to end when the node stops.
    pub stop: Span,
    /// Most memory that bundles of all functions may take together; those that are coming may take as much again.
    pub bundles: Size,
    /// Most that all functions together may be granted to store on disk.
    pub storage: Size,
    /// Jails kept ready.
    pub ready: usize,
    /// How long a function's process is kept without an invocation.
    pub sleep: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 256,
            connections: 1024,
            circuits: 256,
            onion_services: 64,
            head: Span::seconds(30),
            idle: Span::seconds(300),
            load: Span::seconds(30),
            connect: Span::seconds(60),
            stop: Span::seconds(10),
            bundles: Size::mib(64),
            storage: Size::mib(4096),
            ready: 4,
            sleep: Span::seconds(300),
        }
    }
}

impl Default for Image {
    fn default() -> Self {
        Self {
            python: default_python(),
            packages: Vec::new(),
            packages_from: default_packages_from(),
            certificates: default_certificates(),
        }
    }
}

fn default_policy() -> PathBuf {
    "policy.toml".into()
}

fn default_python() -> PathBuf {
    "/usr/bin/python3".into()
}

fn default_packages_from() -> PathBuf {
    "/usr/lib/python3/dist-packages".into()
}

fn default_certificates() -> PathBuf {
    "/etc/ssl/certs/ca-certificates.crt".into()
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("reading {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is wrong; it names the line.
    #[error("{path}: {text}")]
    Text {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// The relay does not tell its exit policy.
    #[error("asking the relay at {place} for its exit policy")]
    Relay {
        /// Its control port.
        place: String,
        /// Why.
        source: RelayTrouble,
    },
}

impl Config {
    /// Reads `bentod.toml`. The policy file that it names is read by [`policy::load`](crate::policy::load).
    ///
    /// # Errors
    /// When it is missing, has an unknown key, or a value that cannot be.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let wrong = |text: String| ConfigError::Text { path: path.to_owned(), text };
        let mut config: Self = toml::from_str(&read(path)?).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        let beside = path.parent().unwrap_or(Path::new("."));
        config.policy = beside.join(&config.policy);
        config.state =
            std::path::absolute(beside.join(&config.state)).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        if let Some(directory) = &mut config.conclave.directory {
            *directory =
                std::path::absolute(beside.join(&*directory)).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        }
        if let Some(file) = &mut config.conclave.collateral {
            *file = beside.join(&*file);
        }
        if config.images.is_empty() {
            config.images.insert("python3".into(), Image::default());
        }
        config.check().map_err(wrong)?;
        Ok(config)
    }

    /// Says what of a file does not belong into that of a conclave, where only its host has a network.
    ///
    /// # Errors
    /// When there is something.
    pub fn check_inside(&self) -> Result<(), String> {
        for (key, is_there) in [
            ("listen", self.listen.is_some()),
            ("[tor]", self.tor != Tor::default()),
            ("[relay]", self.relay != Relay::default()),
            ("nameservers", !self.nameservers.is_empty()),
            ("[conclave]", self.conclave != Conclave::default()),
        ] {
            if is_there {
                return Err(format!("{key} is for a node, and a conclave has no network but its host's"));
            }
        }
        Ok(())
    }

    /// The keys in which another configuration differs and that a running node does not take up.
    pub fn restart_needed(&self, other: &Self) -> Vec<&'static str> {
        // Taken apart, so that a new key is not forgotten here.
        let Self { name, contact, state, policy: _, listen, jail, nodes, tor, relay: _, images, limits, nameservers, conclave, inside: _ } =
            self;
        let changed = [
            ("name", *name != other.name),
            ("contact", *contact != other.contact),
            ("state", *state != other.state),
            ("listen", *listen != other.listen),
            ("jail", *jail != other.jail),
            ("nodes", *nodes != other.nodes),
            ("tor", *tor != other.tor),
            ("images", *images != other.images),
            ("limits", *limits != other.limits),
            ("nameservers", *nameservers != other.nameservers),
            ("conclave", *conclave != other.conclave),
        ];
        changed.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }

    fn check(&self) -> Result<(), String> {
        let one_line = |text: &str| !text.is_empty() && text.chars().count() <= 200 && !text.contains(char::is_control);
        if !one_line(&self.name) || !self.contact.as_deref().is_none_or(one_line) {
            return Err("name and contact must each be one line of 1 to 200 characters".into());
        }
        if let Some(listen) = self.listen.filter(|listen| !listen.ip().is_loopback()) {
            return Err(format!(
                "listen = \"{listen}\": only a loopback address, such as 127.0.0.1:8118; clients come through the onion service"
            ));
        }
        for (index, known) in self.nodes.iter().enumerate() {
            let is_name = (1..=40).contains(&known.name.chars().count()) && !known.name.contains(char::is_control);
            let before = &self.nodes[..index];
            if !is_name || before.iter().any(|other| other.name == known.name || other.address == known.address) {
                return Err("nodes: each has a name of 1 to 40 characters, and no two have the same name or address".into());
            }
        }
        if self.nodes.len() > NODES_MAX {
            return Err(format!("nodes: at most {NODES_MAX} can be listed"));
        }
        if self.tor.off && self.listen.is_none() {
            return Err("with `off = true` under [tor] and no `listen` nobody could reach this node".into());
        }
        if self.tor.control.is_some() != self.tor.socks.is_some() {
            return Err("[tor]: `control` and `socks` go together: both are those of the running tor".into());
        }
        if self.tor.control.is_some() && (self.tor.program.is_some() || !self.tor.lines.is_empty()) {
            return Err(
                "[tor]: `program` and `lines` are for a tor that the node starts, `control` is for one that runs: choose one".into()
            );
        }
        if let Some(control) = self.relay.control.as_deref().filter(|control| control_address(control).is_none()) {
            return Err(format!("[relay] control = \"{control}\" is neither an address such as 127.0.0.1:9051 nor unix:PATH"));
        }
        if let Some(guest) = self.conclave.vsock {
            if self.conclave.directory.is_none() {
                return Err("[conclave]: with `vsock`, `directory` says where the sockets of both are on this machine".into());
            }
            if !(GUEST_MIN..u32::MAX).contains(&guest) {
                return Err(format!("[conclave] vsock = {guest}: a virtual machine has a number from {GUEST_MIN} (guest-cid)"));
            }
        }
        if self.conclave.rate.is_some_and(|rate| rate.bytes_per_second() == 0)
            || self.conclave.traffic.is_some_and(|most| most.as_bytes() == 0)
        {
            return Err("[conclave]: `rate` and `traffic` must be more than nothing; without a `directory` there is no conclave".into());
        }
        let limits = &self.limits;
        for (key, amount) in [("sessions", limits.sessions), ("connections", limits.connections)] {
            if amount > Semaphore::MAX_PERMITS {
                return Err(format!("limits.{key} is more than can be counted"));
            }
        }
        for (key, zero) in [
            ("sessions", limits.sessions == 0),
            ("connections", limits.connections == 0),
            ("head", limits.head.as_millis() == 0),
            ("idle", limits.idle.as_millis() == 0),
            ("load", limits.load.as_millis() == 0),
            ("connect", limits.connect.as_millis() == 0),
            ("bundles", limits.bundles.as_bytes() == 0),
            ("sleep", limits.sleep.as_millis() == 0),
        ] {
            if zero {
                return Err(format!("limits.{key} must be more than nothing"));
            }
        }
        Ok(())
    }
}

/// Where a control port is, from its text: an address, or `unix:` and a path.
pub fn control_address(text: &str) -> Option<ControlAddr> {
    match text.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Some(ControlAddr::Unix(path.into())),
        Some(_) => None,
        None => text.parse().ok().map(ControlAddr::Tcp),
    }
}

pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONION: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

    fn read(nodes: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bentod.toml");
        std::fs::write(&path, format!("name = \"Test\"\nstate = \"state\"\nnodes = [\n{nodes}]\n")).unwrap();
        Config::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn listed_nodes_have_an_address_and_a_name_of_their_own() {
        let one = format!("{{name = \"anna\", address = \"{ONION}\"}},\n");
        let config = read(&format!("{one}{{name = \"here\", address = \"127.0.0.1:8118\"}}\n")).unwrap();
        assert_eq!(config.nodes.iter().map(|known| known.address.to_string()).collect::<Vec<_>>(), [ONION, "127.0.0.1:8118"]);
        assert_eq!(config.restart_needed(&read(&one).unwrap()), ["state", "nodes"]);
        for (wrong, says) in [
            ("{name = \"bob\", address = \"192.0.2.1:80\"}".to_owned(), "over Tor"),
            (format!("{{name = \"bob\", address = \"{}\"}}", ONION.replacen('p', "q", 1)), "checksum"),
            (format!("{{name = \"bob\", address = \"{ONION}\"}}"), "the same name or address"),
            ("{name = \"anna\", address = \"127.0.0.1:8118\"}".into(), "the same name or address"),
            ("{name = \"\", address = \"127.0.0.1:8118\"}".into(), "1 to 40 characters"),
            ("{name = \"bob\"}".into(), "address"),
            ("{name = \"bob\", address = \"127.0.0.1:1\", colour = \"red\"}".into(), "colour"),
            ((1..=64).map(|port| format!("{{name = \"{port}\", address = \"127.0.0.1:{port}\"}},\n")).collect(), "at most 64"),
        ] {
            let error = read(&format!("{one}{wrong}\n")).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_conclave_in_a_virtual_machine_has_a_directory_and_a_number_of_its_own() {
        let read = |conclave: &str| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("bentod.toml");
            std::fs::write(&path, format!("name = \"Test\"\nstate = \"state\"\n[conclave]\n{conclave}\n")).unwrap();
            Config::read(&path).map(|config| config.conclave.vsock).map_err(|error| error.to_string())
        };
        assert_eq!(read("directory = \"d\"\nvsock = 3").unwrap(), Some(3));
        assert!(read("vsock = 3").unwrap_err().contains("`directory` says where"));
        for number in [0, 2, u32::MAX] {
            assert!(read(&format!("directory = \"d\"\nvsock = {number}")).unwrap_err().contains("guest-cid"));
        }
    }
}
