//! Onion services made over the control port.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::ControlError;
use super::wire::Reply;

/// Where Tor brings the streams of an onion service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A TCP address on this machine.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// An onion service to be made.
#[derive(Clone)]
pub struct OnionService {
    /// The key as Tor gave it before (`ED25519-V3:…`): the same key gives the same address. Without it Tor makes a new one.
    pub key: Option<String>,
    /// The ports that clients connect to, and where their streams go.
    pub ports: Vec<(u16, Target)>,
    /// Tor's flags, such as `Detach` or `DiscardPK`.
    pub flags: Vec<String>,
    /// Most streams on one circuit of a client.
    pub max_streams: Option<u16>,
    /// Who may connect, if not everybody: x25519 keys in base32.
    pub client_auth: Vec<String>,
    /// Whether clients have to prove work when there are many.
    pub pow: Option<Pow>,
}

/// Proof of work that clients have to do when more come than is expected (prop 327; needs a `tor` that is built with it).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pow {
    /// Clients a second that are let in.
    pub rate: u32,
    /// How many may come at once.
    pub burst: u32,
}

impl OnionService {
    /// An onion service with a new key and no flags.
    pub fn new(port: u16, target: Target) -> Self {
        Self { key: None, ports: vec![(port, target)], flags: Vec::new(), max_streams: None, client_auth: Vec::new(), pow: None }
    }

    /// ```text
    /// ADD_ONION NEW:ED25519-V3 Flags=Detach Port=80,127.0.0.1:8080
    /// ADD_ONION ED25519-V3:… Flags=V3Auth MaxStreams=20 PoWDefensesEnabled=1 PoWQueueRate=250 PoWQueueBurst=2500 Port=80,unix:/x Port=443,unix:/y ClientAuthV3=FSLC…
    /// ```
    pub(super) fn command(&self) -> Result<String, ControlError> {
        let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let key = self.key.as_deref().unwrap_or("NEW:ED25519-V3");
        if !word(key) || !key.contains(":") {
            return Err(ControlError::Argument("the onion service's key is not of the form ED25519-V3:…"));
        }
        if self.ports.is_empty() {
            return Err(ControlError::Argument("an onion service has at least one port"));
        }
        let mut command = format!("ADD_ONION {key}");
        let auth = (!self.client_auth.is_empty()).then_some("V3Auth");
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).chain(auth).collect();
        if !flags.is_empty() {
            let flags = flags.join(",");
            if !word(&flags) {
                return Err(ControlError::Argument("a flag is one word"));
            }
            command += &format!(" Flags={flags}");
        }
        if let Some(most) = self.max_streams {
            command += &format!(" MaxStreams={most}");
        }
        if let Some(Pow { rate, burst }) = self.pow {
            command += &format!(" PoWDefensesEnabled=1 PoWQueueRate={rate} PoWQueueBurst={burst}");
        }
        for (port, target) in &self.ports {
            let target = match target {
                Target::Tcp(address) => address.to_string(),
                // ADD_ONION splits at spaces and knows no quoting.
                Target::Unix(path) => match path.to_str().filter(|path| word(path)) {
                    Some(path) => format!("unix:{path}"),
                    None => return Err(ControlError::Argument("the socket's path has a space or is not ASCII")),
                },
            };
            command += &format!(" Port={port},{target}");
        }
        for client in &self.client_auth {
            if !(client.len() == 52 && client.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'))) {
                return Err(ControlError::Argument(
                    "a client of an onion service is named by an x25519 key, 52 letters and digits of base32",
                ));
            }
            command += &format!(" ClientAuthV3={client}");
        }
        Ok(command)
    }
}

/// An onion service that Tor has made.
#[derive(Clone, Eq, PartialEq)]
pub struct Onion {
    /// Its address, with `.onion` at its end.
    pub address: String,
    /// Its key, unless Tor was asked to forget it (`DiscardPK`). It belongs into a file of mode 0600.
    pub key: Option<String>,
}

impl Onion {
    /// ```text
    /// 250-ServiceID=2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid
    /// 250-PrivateKey=ED25519-V3:…
    /// 250 OK
    /// ```
    /// There is no PrivateKey line when the key was given.
    pub(super) fn parse(reply: &Reply, given: Option<String>) -> Result<Self, ControlError> {
        let id = reply.after("ServiceID=").ok_or(ControlError::Protocol("ADD_ONION answered without an address"))?;
        if id.len() != 56 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(ControlError::Protocol("ADD_ONION answered with an address that is not of version 3"));
        }
        let key = reply.after("PrivateKey=").map(str::to_owned).or(given);
        Ok(Self { address: format!("{id}.onion"), key })
    }
}

// A key must not end in a log by way of `{:?}`, so both types print without it.
impl fmt::Debug for OnionService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnionService").field("ports", &self.ports).field("flags", &self.flags).finish_non_exhaustive()
    }
}

impl fmt::Debug for Onion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Onion").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_carries_what_was_asked_and_nothing_else() {
        let mut service = OnionService::new(80, Target::Tcp(([127, 0, 0, 1], 8080).into()));
        assert_eq!(service.command().unwrap(), "ADD_ONION NEW:ED25519-V3 Port=80,127.0.0.1:8080");
        service.flags = vec!["Detach".into(), "DiscardPK".into()];
        service.ports = vec![(80, Target::Unix("/run/x/http".into()))];
        service.key = Some("ED25519-V3:abc=".into());
        assert_eq!(service.command().unwrap(), "ADD_ONION ED25519-V3:abc= Flags=Detach,DiscardPK Port=80,unix:/run/x/http");
        service.ports = vec![(80, Target::Unix("/run/x y".into()))];
        assert!(service.command().is_err());
        service.ports = vec![(80, Target::Unix("/run/x".into()))];
        service.key = Some("ED25519-V3:abc\r\nSIGNAL HALT".into());
        assert!(service.command().is_err());
    }

    #[test]
    fn what_guards_a_service_is_asked_for_and_only_as_it_can_be() {
        let mut service = OnionService::new(80, Target::Unix("/x".into()));
        service.ports.push((443, Target::Unix("/y".into())));
        (service.max_streams, service.pow) = (Some(20), Some(Pow { rate: 250, burst: 2500 }));
        let client = "FSLCGBKMRJQXWBYSXJSDJRQTIKBTPJHHGKJUOBRZPUCJYKWOMAPA";
        service.client_auth = vec![client.into()];
        assert_eq!(
            service.command().unwrap(),
            format!(
                "ADD_ONION NEW:ED25519-V3 Flags=V3Auth MaxStreams=20 PoWDefensesEnabled=1 PoWQueueRate=250 PoWQueueBurst=2500 Port=80,unix:/x Port=443,unix:/y ClientAuthV3={client}"
            )
        );
        for wrong in ["", "alice", &client.to_lowercase(), &format!("{client} Port=1"), &client.replace('F', "1")] {
            service.client_auth = vec![wrong.into()];
            assert!(service.command().is_err(), "{wrong}");
        }
        (service.client_auth, service.ports) = (Vec::new(), Vec::new());
        assert!(service.command().is_err());
    }

    #[test]
    fn a_key_is_never_printed() {
        let mut service = OnionService::new(80, Target::Unix("/x".into()));
        service.key = Some("ED25519-V3:secret".into());
        let onion = Onion { address: "a.onion".into(), key: service.key.clone() };
        assert!(!format!("{service:?}{onion:?}").contains("secret"));
    }
}
