//! A function's streams: through one of its circuits, or through one that Tor chooses, apart from everybody else's.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use tokio::{sync::oneshot, time::timeout};

use bento::NodeAddress;
use bento_tor::{CircuitId, Isolation, Order, Socks, SocksError, Stream};

use super::{
    Broker, bad_call, by_control, over,
    table::{Expected, reason_code},
};
use crate::{
    egress::{by_tor, check_name},
    link::{CallError, CallErrorKind},
};

/// Longest text that names an isolation, in bytes.
const ISOLATION_BYTES_MAX: usize = 100;

/// Which way a stream goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Via {
    /// Through this circuit of the function, and no other.
    Circuit(u64),
    /// Through circuits that Tor chooses, shared with streams of the same text at most; without a text, with none.
    Isolated(Option<String>),
    /// It waits until [`Broker::attach_stream`] says.
    Later,
}

/// A stream that is connected.
#[derive(Debug)]
pub struct Connected {
    /// Its number.
    pub number: u64,
    /// The address that it is connected to: an IP address, or that of an onion service.
    pub address: String,
    /// Its bytes.
    pub stream: Stream,
}

/// How a stream gets there.
struct Way<'a> {
    socks: &'a Socks,
    isolation: Isolation,
    /// The function's circuit that it has to be on.
    circuit: Option<(u64, CircuitId)>,
    /// It waits to be attached.
    later: bool,
}

/// Where a stream goes.
enum Place {
    Address(IpAddr),
    Name(String),
    Onion(String),
}

impl Broker {
    /// Connects to a host and port, as far as the grant permits the place.
    ///
    /// # Errors
    /// In the words of the function API.
    pub async fn connect(&self, host: &str, port: u16, via: &Via) -> Result<Connected, CallError> {
        let place = self.place(host, port, via)?;
        let circuit = match via {
            Via::Circuit(number) => Some((*number, self.circuit_id(*number)?)),
            _ => None,
        };
        self.count_try().await?;
        let running = self.tor.running()?;
        let connecting = async {
            // Kept until the stream is connected: until then Tor may take it off its circuit.
            let _hold = match via {
                Via::Isolated(_) => None,
                _ => Some(self.tor.hold(&running).await.map_err(|error| by_control(&error))?),
            };
            let way = Way { socks: &running.socks, isolation: self.isolation(via)?, circuit, later: *via == Via::Later };
            let address = match place {
                Place::Onion(address) => address,
                Place::Address(address) => address.to_string(),
                Place::Name(name) => {
                    let found = self.resolve(&name, &way).await?;
                    self.permits(found, port)?;
                    found.to_string()
                }
            };
            let (number, stream) = self.open(&address, port, &format!("{host}:{port}"), &way).await?;
            Ok(Connected { number, address, stream })
        };
        let late = |_| Err(CallError::new(CallErrorKind::Timeout, "no connection within the node's time"));
        timeout(self.tor.bounds.connect, connecting).await.unwrap_or_else(late)
    }

    /// Attaches a stream that waits ([`Via::Later`]): to a circuit of the function, or to one that Tor chooses.
    ///
    /// # Errors
    /// When the function has no such circuit, or no such stream that waits.
    pub async fn attach_stream(&self, stream: u64, circuit: Option<u64>) -> Result<(), CallError> {
        let circuit = circuit.map(|number| self.circuit_id(number).map(|id| (number, id))).transpose()?;
        let orders = self.tor.table().attach(self.owner, stream, circuit);
        let orders = orders.ok_or_else(|| CallError::new(CallErrorKind::Missing, "no stream of this number waits"))?;
        self.tor.running()?.controller.order(orders).await.map_err(|error| by_control(&error))
    }

    /// Ends a stream.
    ///
    /// # Errors
    /// When the function has no such stream.
    pub async fn close_stream(&self, number: u64) -> Result<(), CallError> {
        let id = self.tor.table().of(self.owner).and_then(|owned| owned.streams.get(&number)?.id.clone());
        let id = id.ok_or_else(|| CallError::new(CallErrorKind::Missing, "the function has no stream of this number"))?;
        let order = Order::close_stream(&id, reason_code("DONE"));
        self.tor.running()?.controller.order(vec![order]).await.map_err(|error| by_control(&error))
    }

    /// The function's streams, each with the circuit of the function that it is on, and its target.
    pub fn streams(&self) -> Vec<(u64, Option<u64>, String)> {
        let mut table = self.tor.table();
        let Some(owned) = table.of(self.owner) else { return Vec::new() };
        owned.streams.iter().map(|(number, stream)| (*number, stream.circuit, stream.target.clone())).collect()
    }

    /// What is asked for, if the grant permits as much of it as can be said before a name is resolved.
    fn place(&self, host: &str, port: u16, via: &Via) -> Result<Place, CallError> {
        let refused = |refusal: bento_proto::Refusal| CallError::new(CallErrorKind::Refused, refusal.to_string());
        if let Some(onion) = onion(host)? {
            if matches!(via, Via::Circuit(_)) {
                return Err(CallError::new(
                    CallErrorKind::Refused,
                    "an onion service is reached by tor.connect, through circuits of Tor's own",
                ));
            }
            self.grant.permits_onion(port).map_err(refused)?;
            return Ok(Place::Onion(onion));
        }
        self.grant.permits_port(port).map_err(refused)?;
        match host.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                self.permits(address, port).map(|()| Place::Address(address))
            }
            Err(_) => check_name(host).map(|()| Place::Name(host.to_owned())),
        }
    }

    fn permits(&self, address: IpAddr, port: u16) -> Result<(), CallError> {
        let permitted = self.grant.permits_destination(address, port);
        permitted.map_err(|refusal| CallError::new(CallErrorKind::Refused, refusal.to_string()))
    }

    fn isolation(&self, via: &Via) -> Result<Isolation, CallError> {
        match via {
            Via::Circuit(_) | Via::Later => Ok(self.attached.clone()),
            Via::Isolated(None) => Ok(Isolation::new(&format!("stream {} {}", self.owner.0, self.next_stream())).within(&self.isolation)),
            Via::Isolated(Some(text)) if text.len() > ISOLATION_BYTES_MAX => {
                Err(bad_call(format!("an isolation has at most {ISOLATION_BYTES_MAX} bytes")))
            }
            Via::Isolated(Some(text)) => Ok(Isolation::new(&format!("text {text}")).within(&self.isolation)),
        }
    }

    /// The address of a name, looked up where the stream will leave.
    async fn resolve(&self, name: &str, way: &Way<'_>) -> Result<IpAddr, CallError> {
        let why: Arc<OnceLock<String>> = Arc::default();
        let asked = way.socks.resolve(name, &way.isolation, self.tor.bounds.connect);
        let found = match way.circuit {
            // Any circuit of this isolation will do.
            None => asked.await,
            Some(_) => self.expected(None, way, &why, asked).await?,
        };
        found.map(|address| address.to_canonical()).map_err(|error| match (why.get(), error) {
            (Some(reason), _) => by_reason(reason),
            (None, SocksError::HostUnreachable) => CallError::new(CallErrorKind::Resolve, "there is no such name"),
            (None, error) => by_tor(&error),
        })
    }

    /// Opens a stream, as one of the function's own.
    async fn open(&self, address: &str, port: u16, target: &str, way: &Way<'_>) -> Result<(u64, Stream), CallError> {
        let why: Arc<OnceLock<String>> = Arc::default();
        let circuit = way.circuit.as_ref().map(|(number, _)| *number);
        let number = self.tor.table().add_stream(self.owner, circuit, target, way.later, Arc::clone(&why)).ok_or_else(over)?;
        let _unknown = Unknown { broker: self, number };
        let asked = way.socks.connect(address, port, &way.isolation, self.tor.bounds.connect);
        let opened = self.expected(Some(number), way, &why, asked).await?;
        opened.map(|stream| (number, stream)).map_err(|error| match why.get() {
            Some(reason) => by_reason(reason),
            None => by_tor(&error),
        })
    }

    /// Does what makes Tor open a stream, and has the stream recognised as the function's own when Tor tells of it.
    async fn expected<T>(
        &self,
        number: Option<u64>,
        way: &Way<'_>,
        why: &Arc<OnceLock<String>>,
        asked: impl Future<Output = Result<T, SocksError>>,
    ) -> Result<Result<T, SocksError>, CallError> {
        let turn = self.gate.lock().await;
        let (seen, mut told) = oneshot::channel();
        let circuit = way.circuit.as_ref().map(|(_, id)| id.clone());
        let is_bound = circuit.is_some() || way.later;
        let expected = Expected { owner: self.owner, number, circuit, later: way.later, seen, why: Arc::clone(why) };
        self.tor.table().expect(&way.isolation, expected);
        let forget = Forget { broker: self, isolation: &way.isolation };
        tokio::pin!(asked);
        let done = tokio::select! {
            _ = &mut told => None,
            done = &mut asked => Some(done),
        };
        drop((forget, turn));
        let Some(done) = done else { return Ok(asked.await) };
        // What is connected before Tor has told of it went where Tor wanted.
        if is_bound && done.is_ok() && told.try_recv().is_err() {
            let text = "the node's Tor does not tell whose streams are whose; it is too old for this";
            return Err(CallError::new(CallErrorKind::Failed, text));
        }
        Ok(done)
    }
}

/// A stream that came to nothing before Tor knew it is told as failed.
struct Unknown<'a> {
    broker: &'a Broker,
    number: u64,
}

impl Drop for Unknown<'_> {
    fn drop(&mut self) {
        self.broker.tor.table().drop_stream(self.broker.owner, self.number);
    }
}

/// Expects no more when its turn is over.
struct Forget<'a> {
    broker: &'a Broker,
    isolation: &'a Isolation,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.broker.tor.table().expect_no_more(self.isolation);
    }
}

/// The address of an onion service, if it is meant to be one.
pub(super) fn onion(host: &str) -> Result<Option<String>, CallError> {
    let bare = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if !bare.ends_with(".onion") {
        return Ok(None);
    }
    let address: NodeAddress = bare.parse().map_err(|error: bento::AddressError| bad_call(error.to_string()))?;
    match address.onion() {
        Some((onion, _)) if onion == bare => Ok(Some(bare)),
        _ => Err(bad_call("an onion service's address is 56 letters and digits and `.onion`")),
    }
}

/// Why a stream could not be connected, from Tor's word for it.
fn by_reason(reason: &str) -> CallError {
    let (kind, text) = match reason {
        "RESOLVEFAILED" => (CallErrorKind::Resolve, "there is no such name"),
        "CONNECTREFUSED" => (CallErrorKind::Unreachable, "the host refused the connection"),
        "EXITPOLICY" => (CallErrorKind::Unreachable, "the last relay's exit policy does not accept it"),
        "NOROUTE" => (CallErrorKind::Unreachable, "the last relay has no way to the host"),
        "TIMEOUT" => (CallErrorKind::Timeout, "no answer came through the circuit"),
        "DESTROY" | super::TOR_LOST => (CallErrorKind::Unreachable, "the circuit has ended"),
        _ => (CallErrorKind::Unreachable, "the last relay could not connect"),
    };
    CallError::new(kind, format!("{text} ({reason})"))
}
