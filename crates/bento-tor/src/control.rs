//! Tor's control port.
//!
//! [`Controller`] is a handle that can be cloned; a task of its own keeps replies and events apart. One small type per reply, with the
//! sample reply above its parser. It offers what Bento asks of Tor, and [`Controller::command`] for the rest.

mod auth;
mod connection;
mod descriptor;
mod error;
mod event;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hsdir;
mod onion;
mod wire;

pub use auth::Auth;
pub use descriptor::{Descriptor, Step};
pub use error::ControlError;
pub use event::{Bootstrap, Event, Events};
pub use hsdir::Stored;
pub use onion::{Onion, OnionService, Target};
pub use wire::{Reply, ReplyLine};

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use connection::Request;

/// How long one command may take. Tor answers most at once; those that write to disk or wait for its event loop take a second or two.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(20);

/// Commands that may be on their way at once. More wait for a place, within their deadline.
const COMMANDS_MAX: usize = 64;

/// Events kept for a subscriber that does not read. Older ones are then lost, and it is told so.
const EVENTS_MAX: usize = 1024;

/// Where Tor's control port is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ControlAddr {
    /// A TCP address, such as 127.0.0.1:9051.
    Tcp(SocketAddr),
    /// A Unix socket, such as /run/tor/control.
    Unix(PathBuf),
}

impl std::fmt::Display for ControlAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// An authenticated control connection. The connection closes when the last clone (and the last [`Events`]) is dropped.
#[derive(Clone, Debug)]
pub struct Controller {
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<Event>,
    /// The kinds of event asked for so far. SETEVENTS replaces the whole set, so it only grows.
    kinds: Arc<Mutex<BTreeSet<String>>>,
    deadline: Duration,
}

impl Controller {
    /// Connects and authenticates.
    pub async fn connect(address: &ControlAddr, auth: &Auth) -> Result<Self, ControlError> {
        let unreachable = |source| ControlError::Unreachable { place: address.to_string(), source };
        let connected = async {
            match address {
                ControlAddr::Tcp(address) => TcpStream::connect(address).await.map(Self::over),
                ControlAddr::Unix(path) => UnixStream::connect(path).await.map(Self::over),
            }
        };
        let controller = match timeout(COMMAND_DEADLINE, connected).await {
            Ok(connected) => connected.map_err(unreachable)?,
            Err(_) => return Err(ControlError::Deadline { command: "connecting".into(), deadline: COMMAND_DEADLINE }),
        };
        auth::authenticate(&controller, auth).await?;
        Ok(controller)
    }

    /// Speaks over a stream that needs no authentication, such as the one a managed `tor` inherits.
    pub(crate) fn over<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (requests, inbox) = mpsc::channel(COMMANDS_MAX);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        tokio::spawn(connection::run(stream, inbox, events.clone()));
        Self { requests, events, kinds: Arc::default(), deadline: COMMAND_DEADLINE }
    }

    /// The same connection with another deadline for each command.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// Sends one command line, and gives Tor's reply if it is a good one (2xx).
    pub async fn command(&self, line: &str) -> Result<Reply, ControlError> {
        if line.contains(['\r', '\n', '\0']) {
            return Err(ControlError::Argument("a command is a single line"));
        }
        let mut text = String::with_capacity(line.len() + 2);
        text.push_str(line);
        text.push_str("\r\n");
        self.send(text).await
    }

    /// Sends a command with data after it (`+COMMAND`): a first line, then any text.
    pub async fn command_with_data(&self, line: &str, data: &str) -> Result<Reply, ControlError> {
        if line.contains(['\r', '\n', '\0']) || !line.starts_with('+') {
            return Err(ControlError::Argument("a command with data is a single line that starts with `+`"));
        }
        let mut text = format!("{line}\r\n");
        for line in data.lines() {
            // A dot at the start is doubled, because a dot alone ends the data.
            if line.starts_with('.') {
                text.push('.');
            }
            text.push_str(line);
            text.push_str("\r\n");
        }
        text.push_str(".\r\n");
        self.send(text).await
    }

    async fn send(&self, text: String) -> Result<Reply, ControlError> {
        // Errors name the first word alone: what follows may be a key, a cookie or an address.
        let name = || text.split([' ', '\r']).next().unwrap_or_default().to_owned();
        let command = name();
        let (answer, reply) = oneshot::channel();
        let exchange = async {
            self.requests.send(Request { text, answer }).await.map_err(|_| ControlError::Closed)?;
            reply.await.map_err(|_| ControlError::Closed)?
        };
        let reply = match timeout(self.deadline, exchange).await {
            Ok(reply) => reply?,
            Err(_) => return Err(ControlError::Deadline { command, deadline: self.deadline }),
        };
        if reply.is_good() {
            return Ok(reply);
        }
        Err(ControlError::Refused { command, code: reply.code(), text: reply.text().to_owned() })
    }

    /// Asks for one value.
    pub async fn get_info(&self, key: &str) -> Result<String, ControlError> {
        word(key)?;
        let reply = self.command(&format!("GETINFO {key}")).await?;
        info(reply, key).ok_or(ControlError::Protocol("GETINFO answered without the key"))
    }

    /// Asks for an option: all its values, none if it has only its default.
    pub async fn get_conf(&self, option: &str) -> Result<Vec<String>, ControlError> {
        word(option)?;
        let reply = self.command(&format!("GETCONF {option}")).await?;
        Ok(conf(&reply))
    }

    /// Sets options, all at once or none. `None` gives an option its default back.
    ///
    /// The same option may occur several times. Every HiddenServiceDir of this Tor must be in one call: each call replaces them all.
    pub async fn set_conf(&self, options: &[(&str, Option<&str>)]) -> Result<(), ControlError> {
        let mut line = String::from("SETCONF");
        for (option, value) in options {
            word(option)?;
            line.push(' ');
            line.push_str(option);
            if let Some(value) = value {
                line.push('=');
                line.push_str(&wire::quote(value)?);
            }
        }
        self.command(&line).await.map(drop)
    }

    /// Gives options their value from Tor's configuration file back.
    pub async fn reset_conf(&self, options: &[&str]) -> Result<(), ControlError> {
        let mut line = String::from("RESETCONF");
        for option in options {
            word(option)?;
            line.push(' ');
            line.push_str(option);
        }
        self.command(&line).await.map(drop)
    }

    /// Makes an onion service that lives as long as this connection (or longer with the flag `Detach`).
    pub async fn add_onion(&self, service: &OnionService) -> Result<Onion, ControlError> {
        let reply = self.command(&service.command()?).await?;
        Onion::parse(&reply, service.key.clone())
    }

    /// Ends an onion service, given by its address with or without `.onion`.
    pub async fn del_onion(&self, address: &str) -> Result<(), ControlError> {
        let id = address.strip_suffix(".onion").unwrap_or(address);
        word(id)?;
        self.command(&format!("DEL_ONION {id}")).await.map(drop)
    }

    /// Subscribes to kinds of event, such as `STATUS_CLIENT` or `HS_DESC`. It misses none from the moment this returns.
    pub async fn events(&self, kinds: &[&str]) -> Result<Events, ControlError> {
        for kind in kinds {
            word(kind)?;
        }
        let receiver = self.events.subscribe();
        let line = {
            let mut all = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(kinds.iter().map(|kind| kind.to_ascii_uppercase()));
            all.iter().fold(String::from("SETEVENTS"), |line, kind| line + " " + kind)
        };
        self.command(&line).await?;
        Ok(Events::new(self.clone(), receiver, kinds))
    }

    /// How far Tor's connection to the network has come.
    pub async fn bootstrap(&self) -> Result<Bootstrap, ControlError> {
        let text = self.get_info("status/bootstrap-phase").await?;
        Bootstrap::parse(&text).ok_or(ControlError::Protocol("the bootstrap phase cannot be read"))
    }

    /// A relay's own exit policy, one rule an item, as tor writes them: `accept6` and `reject6` are for IPv6 addresses.
    ///
    /// Refused with 551 while the relay has no descriptor yet, and with 552 by a Tor that is no relay.
    pub async fn exit_policy(&self) -> Result<Vec<String>, ControlError> {
        self.get_info("exit-policy/full").await.map(|text| exit_policy(&text))
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.requests.closed().await;
    }
}

/// Refuses what is not one word of a command.
fn word(text: &str) -> Result<(), ControlError> {
    let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'=' && byte != b'"');
    good.then_some(()).ok_or(ControlError::Argument("a key, an option or a kind is one word"))
}

/// ```text
/// 250-version=0.4.9.11
/// 250 OK
/// ```
/// or, with more than one line:
/// ```text
/// 250+config-text=
/// ControlPort 9051
/// .
/// 250 OK
/// ```
fn info(reply: Reply, key: &str) -> Option<String> {
    for line in reply.lines {
        let Some(value) = line.text.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')) else { continue };
        return Some(line.data.unwrap_or_else(|| value.to_owned()));
    }
    None
}

/// ```text
/// 250+exit-policy/full=
/// accept *:80
/// accept6 *:80
/// reject *:*
/// reject6 *:*
/// .
/// 250 OK
/// ```
/// or, from a relay that is no exit:
/// ```text
/// 250-exit-policy/full=reject *:*
/// 250 OK
/// ```
fn exit_policy(text: &str) -> Vec<String> {
    text.split(['\n', ',']).map(str::trim).filter(|rule| !rule.is_empty()).map(str::to_owned).collect()
}

/// ```text
/// 250-Log=notice stdout
/// 250 Log=notice file /var/log/tor/log
/// ```
/// or, for an option that has its default:
/// ```text
/// 250 ExitNodes
/// ```
fn conf(reply: &Reply) -> Vec<String> {
    reply.lines.iter().filter_map(|line| line.text.split_once('=')).map(|(_, value)| wire::unquote(value)).collect()
}

#[cfg(test)]
mod tests;
