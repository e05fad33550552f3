//! One function's broker, as the front asks it.

use std::sync::Arc;

use tokio::{net::UnixStream, sync::mpsc};

use bento_proto::Grant;
use bento_tor::{Fingerprint, Hop};

use super::{
    backend::{Backend, Change, Happening, Relay, Service},
    command::Router,
};
use crate::{
    broker::{Broker, Circuit, CircuitStatus, Directory, Event, Events, OnionWish, ServiceStatus, Via, Wish},
    container::Container,
    egress::Stream,
    link::{CallError, CallErrorKind},
    meter::{self, Meter},
};

/// Happenings that wait to be taken up. The broker keeps what does not fit.
const HAPPENINGS_MAX: usize = 64;

/// Relays of a circuit that the node chooses, as of those that Tor builds by itself.
const HOPS: usize = 3;

/// What a function has of Tor, for its control connections.
pub(crate) struct Own {
    broker: Arc<Broker>,
    grant: Arc<Grant>,
    meter: Arc<Meter>,
}

impl Own {
    pub(crate) fn new(broker: Arc<Broker>, container: &Container) -> Self {
        Self { broker, grant: Arc::clone(&container.grant), meter: Arc::clone(&container.meter) }
    }

    async fn text(&self, what: Directory) -> Result<Option<String>, CallError> {
        self.broker.directory(what).await
    }
}

impl Backend for Own {
    fn permits(&self, call: &'static str) -> Result<(), CallError> {
        self.grant.permits_call(call).map_err(|refusal| CallError::new(CallErrorKind::Refused, refusal.to_string()))
    }

    async fn join(&self, function: UnixStream, far: Box<dyn Stream>) {
        meter::join(function, far, &*self.meter).await;
    }

    fn traffic(&self) -> (u64, u64) {
        (self.meter.received(), self.meter.sent())
    }

    async fn slow(&self, bytes: usize) {
        self.meter.slow(bytes).await;
    }

    async fn version(&self) -> Result<String, CallError> {
        self.text(Directory::Version).await.map(Option::unwrap_or_default)
    }

    async fn relay(&self, router: &Router) -> Result<Option<Relay>, CallError> {
        let network = self.broker.network().await?;
        let mut found = network.relays.iter().filter(|relay| match router {
            Router::Nickname(name) => relay.nickname.eq_ignore_ascii_case(name),
            Router::Fingerprint(name) => relay.fingerprint.to_string() == *name,
        });
        let first = found.next().map(|relay| Relay { fingerprint: relay.fingerprint.to_string(), nickname: relay.nickname.clone() });
        Ok(first.filter(|_| found.next().is_none()))
    }

    async fn status(&self, relay: Option<&Relay>) -> Result<Option<String>, CallError> {
        match relay {
            None => self.text(Directory::Statuses).await,
            Some(relay) => self.text(Directory::Status(fingerprint(&relay.fingerprint)?)).await,
        }
    }

    async fn microdescriptor(&self, relay: Option<&Relay>) -> Result<Option<String>, CallError> {
        match relay {
            None => self.text(Directory::Microdescriptors).await,
            Some(relay) => self.text(Directory::Microdescriptor(fingerprint(&relay.fingerprint)?)).await,
        }
    }

    async fn consensus(&self) -> Result<[u64; 3], CallError> {
        let network = self.broker.network().await?;
        Ok([network.valid_after, network.fresh_until, network.valid_until])
    }

    async fn circuit(&self) -> Result<u64, CallError> {
        let relays = self.broker.choose(&Wish { length: HOPS, ..Wish::default() }).await?;
        self.broker.begin_circuit(&relays).await.map(|building| building.number)
    }

    async fn path(&self, relays: &[String]) -> Result<u64, CallError> {
        self.broker.begin_circuit(&fingerprints(relays)?).await.map(|building| building.number)
    }

    async fn extend(&self, circuit: u64, relays: &[String]) -> Result<(), CallError> {
        self.broker.extend_circuit(circuit, &fingerprints(relays)?).await.map(drop)
    }

    async fn close_circuit(&self, circuit: u64) {
        // One that has ended meanwhile is closed as well.
        let _ = self.broker.close_circuit(circuit).await;
    }

    async fn circuit_connect(&self, circuit: u64, host: &str, port: u16) -> Result<Box<dyn Stream>, CallError> {
        let connected = self.broker.connect(host, port, &Via::Circuit(circuit)).await?;
        Ok(Box::new(connected.stream))
    }

    async fn connect(&self, host: &str, port: u16, isolation: &str) -> Result<Box<dyn Stream>, CallError> {
        let connected = self.broker.connect(host, port, &Via::Isolated(Some(isolation.to_owned()))).await?;
        Ok(Box::new(connected.stream))
    }

    async fn onion_service(&self, ports: &[u16], key: Option<&str>, max_streams: Option<u16>) -> Result<Service, CallError> {
        let wish = OnionWish { ports: ports.to_vec(), key: key.map(str::to_owned), max_streams, ..OnionWish::default() };
        let made = self.broker.onion_service(&wish).await?;
        let address = made.address.trim_end_matches(".onion").to_owned();
        Ok(Service { number: made.number, address, key: made.key.unwrap_or_default() })
    }

    async fn accept(&self, service: u64) -> Result<Option<(u16, Box<dyn Stream>)>, CallError> {
        Ok(self.broker.accept(service).await?.map(|incoming| (incoming.port, incoming.stream)))
    }

    async fn close_service(&self, service: u64) {
        let _ = self.broker.close_service(service).await;
    }

    async fn descriptor(&self, address: &str, servers: &[String]) -> Result<(String, String), CallError> {
        let (hsdir, text) = self.broker.descriptor(&format!("{address}.onion"), &fingerprints(servers)?).await?;
        Ok((hsdir.to_string(), text))
    }

    async fn publish(&self, address: &str, servers: &[String], descriptor: &str) -> Result<Vec<(String, Option<String>)>, CallError> {
        let published = self.broker.publish(&format!("{address}.onion"), descriptor, &fingerprints(servers)?).await?;
        let took = published.took.iter().map(|hsdir| (hsdir.to_string(), None));
        let refused = published.refused.into_iter().map(|(hsdir, reason)| (hsdir.to_string(), Some(reason)));
        Ok(took.chain(refused).collect())
    }

    fn happenings(&self) -> mpsc::Receiver<Happening> {
        let (sender, receiver) = mpsc::channel(HAPPENINGS_MAX);
        // Heard before it is asked what there is, so that nothing is missed between.
        if let Ok(events) = self.broker.events() {
            tokio::spawn(tell(events, self.broker.circuits(), sender));
        }
        receiver
    }
}

/// Passes on what happens, after what there is already, until nobody hears it or the function's process has ended.
async fn tell(mut events: Events, circuits: Vec<Circuit>, sender: mpsc::Sender<Happening>) {
    for Circuit { number, path, built } in circuits {
        let status = if built { "BUILT" } else { "EXTENDED" };
        let change = Change { status, path: names(&path), reason: None };
        if sender.send(Happening::Circuit(number, change)).await.is_err() {
            return;
        }
    }
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = sender.closed() => return,
        };
        let Some(event) = event else { return };
        if let Some(happening) = happening(event)
            && sender.send(happening).await.is_err()
        {
            return;
        }
    }
}

fn happening(event: Event) -> Option<Happening> {
    match event {
        Event::Circuit { circuit, status, path, reason, remote_reason } => {
            let status = match status {
                CircuitStatus::Launched => "LAUNCHED",
                CircuitStatus::Extended => "EXTENDED",
                CircuitStatus::Built => "BUILT",
                CircuitStatus::Failed => "FAILED",
                CircuitStatus::Closed => "CLOSED",
            };
            let remote = remote_reason.map(|reason| format!(" REMOTE_REASON={reason}")).unwrap_or_default();
            let reason = reason.map(|reason| reason + &remote);
            Some(Happening::Circuit(circuit, Change { status, path: names(&path), reason }))
        }
        Event::Service { service, status, hsdir, reason } => {
            let failed = (status == ServiceStatus::Failed).then(|| reason.unwrap_or_else(|| "UNEXPECTED".into()));
            Some(Happening::Uploaded { service, directory: hsdir.map(|hsdir| hsdir.to_string()), failed })
        }
        // Streams of control connections are told of by the view, which knows more of them; and circuits that are lost with Tor each by itself.
        _ => None,
    }
}

fn names(path: &[Hop]) -> String {
    let name = |hop: &Hop| format!("${}~{}", hop.fingerprint, hop.nickname.as_deref().unwrap_or("Unnamed"));
    path.iter().map(name).collect::<Vec<_>>().join(",")
}

fn fingerprint(text: &str) -> Result<Fingerprint, CallError> {
    text.parse().map_err(|error: bento_tor::FingerprintError| CallError::new(CallErrorKind::BadCall, error.to_string()))
}

fn fingerprints(texts: &[String]) -> Result<Vec<Fingerprint>, CallError> {
    texts.iter().map(|text| fingerprint(text)).collect()
}
