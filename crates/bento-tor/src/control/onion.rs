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
    /// The port that clients connect to.
    pub port: u16,
    /// Where their streams go.
    pub target: Target,
    /// Tor's flags, such as `Detach` or `DiscardPK`.
    pub flags: Vec<String>,
}

impl OnionService {
    /// An onion service with a new key and no flags.
    pub fn new(port: u16, target: Target) -> Self {
        Self { key: None, port, target, flags: Vec::new() }
    }

    /// ```text
    /// ADD_ONION NEW:ED25519-V3 Flags=Detach Port=80,127.0.0.1:8080
    /// ```
    pub(super) fn command(&self) -> Result<String, ControlError> {
        let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let key = self.key.as_deref().unwrap_or("NEW:ED25519-V3");
        if !word(key) || !key.contains(":") {
            return Err(ControlError::Argument("the onion service's key is not of the form ED25519-V3:…"));
        }
        let mut command = format!("ADD_ONION {key}");
        if !self.flags.is_empty() {
            let flags = self.flags.join(",");
            if !word(&flags) {
                return Err(ControlError::Argument("a flag is one word"));
            }
            command += &format!(" Flags={flags}");
        }
        let target = match &self.target {
            Target::Tcp(address) => address.to_string(),
            // ADD_ONION splits at spaces and knows no quoting.
            Target::Unix(path) => match path.to_str().filter(|path| word(path)) {
                Some(path) => format!("unix:{path}"),
                None => return Err(ControlError::Argument("the socket's path has a space or is not ASCII")),
            },
        };
        command += &format!(" Port={},{target}", self.port);
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
        let Self { port, target, flags, .. } = self;
        f.debug_struct("OnionService").field("port", port).field("target", target).field("flags", flags).finish_non_exhaustive()
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
        service.target = Target::Unix("/run/x/http".into());
        service.key = Some("ED25519-V3:abc=".into());
        assert_eq!(service.command().unwrap(), "ADD_ONION ED25519-V3:abc= Flags=Detach,DiscardPK Port=80,unix:/run/x/http");
        service.target = Target::Unix("/run/x y".into());
        assert!(service.command().is_err());
        service.target = Target::Unix("/run/x".into());
        service.key = Some("ED25519-V3:abc\r\nSIGNAL HALT".into());
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
