//! Tor's control port.
//!
//! [`Controller`] is a handle that can be cloned; a task of its own keeps replies and events apart. One small type per reply, with the
//! sample reply above its parser. It offers what Bento asks of Tor, and [`Controller::command`] for the rest.

mod auth;
mod circuit;
mod connection;
mod consensus;
mod descriptor;
mod error;
mod event;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hsdir;
mod ids;
mod microdescriptor;
mod network;
mod onion;
mod order;
mod stream;
mod wire;

pub use auth::Auth;
pub use circuit::{CircuitEvent, CircuitStatus};
pub use consensus::{Consensus, Relay};
pub use descriptor::{Descriptor, DescriptorContent, ServiceDescriptor, Step};
pub use error::ControlError;
pub use event::{Bootstrap, Event, Events};
pub use hsdir::Stored;
pub use ids::{CircuitId, Fingerprint, FingerprintError, Hop, StreamId};
pub use onion::{Onion, OnionService, Pow, Target};
pub use order::Order;
pub use stream::{StreamEvent, StreamStatus};
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
use order::Heard;

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
    kinds: Arc<Mutex<Kinds>>,
    deadline: Duration,
}

/// Kinds of event that were asked for so far.
#[derive(Debug, Default)]
struct Kinds {
    /// All of them. SETEVENTS replaces the whole set, so it only grows.
    all: BTreeSet<String>,
    /// Those that somebody subscribes to. The many others, which only an observer hears, must not push these out of their queue.
    subscribed: BTreeSet<String>,
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
        let kinds: Arc<Mutex<Kinds>> = Arc::default();
        tokio::spawn(connection::run(stream, inbox, events.clone(), Arc::clone(&kinds)));
        Self { requests, events, kinds, deadline: COMMAND_DEADLINE }
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
        self.send_then(text, |_| Vec::new()).await
    }

    /// Sends a command whose reply `then` hears first, within the connection's task: before any later event is told, and also if nobody waits here
    /// any more. It must neither wait nor take long.
    async fn send_then(
        &self,
        text: String,
        then: impl FnOnce(&Result<Reply, ControlError>) -> Vec<Order> + Send + 'static,
    ) -> Result<Reply, ControlError> {
        // Errors name the first word alone: what follows may be a key, a cookie or an address.
        let command = text.split([' ', '\r']).next().unwrap_or_default().to_owned();
        let (answer, reply) = oneshot::channel();
        let name = command.clone();
        let heard: Heard = Box::new(move |reply| {
            let reply = reply.and_then(|reply| outcome(&name, reply));
            let orders = then(&reply);
            // Whoever asked may have met the deadline and gone.
            let _ = answer.send(reply);
            orders
        });
        let exchange = async {
            self.request(Request::Commands(vec![(text, heard)])).await?;
            reply.await.map_err(|_| ControlError::Closed)?
        };
        timeout(self.deadline, exchange).await.unwrap_or(Err(ControlError::Deadline { command, deadline: self.deadline }))
    }

    async fn request(&self, request: Request) -> Result<(), ControlError> {
        self.requests.send(request).await.map_err(|_| ControlError::Closed)
    }

    /// Gives orders, written as one. Waits until the connection has them, not for what Tor says.
    pub async fn order(&self, orders: Vec<Order>) -> Result<(), ControlError> {
        let command = "orders".to_owned();
        let commands = Request::Commands(orders.into_iter().map(Order::parts).collect());
        timeout(self.deadline, self.request(commands)).await.unwrap_or(Err(ControlError::Deadline { command, deadline: self.deadline }))
    }

    /// From now on each event of these kinds is heard by this, in order and without a gap, within the connection's task: it must neither wait nor take
    /// long. What it gives is written at once. Nothing is lost, however many there are: Tor waits for us.
    pub async fn observe(
        &self,
        kinds: &[&str],
        observer: impl Fn(&Event) -> Vec<Order> + Send + Sync + 'static,
    ) -> Result<(), ControlError> {
        let observed: BTreeSet<String> = kinds.iter().map(|kind| kind.to_ascii_uppercase()).collect();
        let observer = move |event: &Event| if observed.contains(&event.kind) { observer(event) } else { Vec::new() };
        self.request(Request::Observe(Arc::new(observer))).await?;
        self.ask_for(kinds).await
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

    /// Subscribes to kinds of event, such as `STATUS_CLIENT` or `HS_DESC`. It misses none from the moment this returns.
    pub async fn events(&self, kinds: &[&str]) -> Result<Events, ControlError> {
        let receiver = self.events.subscribe();
        self.kinds().subscribed.extend(kinds.iter().map(|kind| kind.to_ascii_uppercase()));
        self.ask_for(kinds).await?;
        Ok(Events::new(self.clone(), receiver, kinds))
    }

    async fn ask_for(&self, kinds: &[&str]) -> Result<(), ControlError> {
        for kind in kinds {
            word(kind)?;
        }
        let line = {
            let all = &mut self.kinds().all;
            all.extend(kinds.iter().map(|kind| kind.to_ascii_uppercase()));
            all.iter().fold(String::from("SETEVENTS"), |line, kind| line + " " + kind)
        };
        self.command(&line).await.map(drop)
    }

    fn kinds(&self) -> std::sync::MutexGuard<'_, Kinds> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A reply to this command, if it is a good one (2xx).
fn outcome(command: &str, reply: Reply) -> Result<Reply, ControlError> {
    if reply.is_good() {
        return Ok(reply);
    }
    Err(ControlError::Refused { command: command.to_owned(), code: reply.code(), text: reply.text().to_owned() })
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
