//! The calls `tor.*`: frames into what a [`Broker`] does, and back.

use std::num::NonZeroU16;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::OwnedSemaphorePermit,
    time::{Duration, timeout},
};

use bento_tor::{Fingerprint, Pow};

use super::{Broker, Circuit, OnionWish, Route, Via, Wish, bad_call, network};
use crate::{
    container::Container,
    link::{Call, CallError, CallErrorKind, stream_pair},
    meter::{self, Way},
    process::{Process, TRY_BYTES, answer_call, connect_permit},
};

/// Longest descriptor that is taken, as directories have it.
const DESCRIPTOR_BYTES_MAX: usize = 50_000;

/// What a call takes while it goes on.
pub(crate) type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// Is it one of the calls here?
pub(crate) fn serves(call: &str) -> bool {
    call.starts_with("tor.")
}

/// Room for the call: each counts as a connection while it goes on, with a stream or without.
pub(crate) fn permit(container: &Container) -> Result<Permits, CallError> {
    connect_permit(container)
}

/// Does what a call asks for, until the last byte of its stream.
pub(crate) async fn serve(process: &Process, container: &Container, call: &Call) {
    let serving = Serving { process, container, broker: process.broker(), call };
    let served = match container.grant.permits_call(&call.name) {
        Err(refusal) => Err(CallError::new(CallErrorKind::Refused, refusal.to_string())),
        Ok(()) => serving.serve().await,
    };
    // What was answered before its stream is not answered again.
    if let Some(answer) = served.transpose() {
        let _ = answer_call(process.link(), call.number, answer, None).await;
    }
}

struct Serving<'a> {
    process: &'a Process,
    container: &'a Container,
    broker: &'a Broker,
    call: &'a Call,
}

impl Serving<'_> {
    async fn serve(&self) -> Result<Option<Value>, CallError> {
        match self.call.name.as_str() {
            "tor.relays" => self.relays().await.map(|()| None),
            "tor.consensus" => self.broker.network().await.map(|network| Some(network::consensus(&network))),
            "tor.circuit" => self.circuit().await.map(Some),
            "tor.path" => self.path().await.map(Some),
            "tor.extend" => self.extend().await.map(Some),
            "tor.close_circuit" => self.close_circuit().await.map(Some),
            "tor.circuit_connect" => self.circuit_connect().await.map(|()| None),
            "tor.connect" => self.connect().await.map(|()| None),
            "tor.onion_service" => self.onion_service().await.map(Some),
            "tor.accept" => self.accept().await,
            "tor.close_service" => self.close_service().await.map(Some),
            "tor.descriptor" => self.descriptor().await.map(|()| None),
            "tor.publish" => self.publish().await.map(|()| None),
            "tor.front" => self.broker.front(self.call).await.map(Some),
            "tor.events" => self.events().await.map(|()| None),
            _ => Err(bad_call("there is no such call")),
        }
    }

    async fn relays(&self) -> Result<(), CallError> {
        let network = self.broker.network().await?;
        let mut ours = self.hand_over(json!({"relays": network.relays.len()})).await?;
        for relays in network.relays.chunks(64) {
            let mut lines = Vec::new();
            for relay in relays {
                lines.extend_from_slice(network::relay(relay).to_string().as_bytes());
                lines.push(b'\n');
            }
            if !self.pour(&mut ours, &lines).await {
                return Ok(());
            }
        }
        let _ = ours.shutdown().await;
        Ok(())
    }

    async fn circuit(&self) -> Result<Value, CallError> {
        #[derive(Deserialize)]
        struct Asked {
            length: Option<usize>,
            #[serde(default)]
            flags: Vec<String>,
            country: Option<String>,
            exit_port: Option<u16>,
            #[serde(default)]
            exclude: Vec<String>,
        }
        let takes = "tor.circuit may take `length`, `flags`, `country`, `exit_port` and `exclude`";
        let Asked { length, flags, country, exit_port, exclude } = self.call.arguments(takes)?;
        let wish = Wish { length: length.unwrap_or(3), flags, country, exit_port, exclude: fingerprints(&exclude)? };
        self.broker.circuit(&Route::Chosen(wish)).await.map(|circuit| told(&circuit))
    }

    async fn path(&self) -> Result<Value, CallError> {
        #[derive(Deserialize)]
        struct Asked {
            relays: Vec<String>,
        }
        let Asked { relays } = self.call.arguments("tor.path takes `relays`, fingerprints")?;
        self.broker.circuit(&Route::Given(fingerprints(&relays)?)).await.map(|circuit| told(&circuit))
    }

    async fn extend(&self) -> Result<Value, CallError> {
        #[derive(Deserialize)]
        struct Asked {
            circuit: u64,
            relays: Vec<String>,
        }
        let Asked { circuit, relays } = self.call.arguments("tor.extend takes `circuit`, a number, and `relays`, fingerprints")?;
        let building = self.broker.extend_circuit(circuit, &fingerprints(&relays)?).await?;
        self.broker.built(building).await.map(|circuit| told(&circuit))
    }

    async fn close_circuit(&self) -> Result<Value, CallError> {
        #[derive(Deserialize)]
        struct Asked {
            circuit: u64,
        }
        let Asked { circuit } = self.call.arguments("tor.close_circuit takes `circuit`, a number")?;
        self.broker.close_circuit(circuit).await.map(|()| Value::Null)
    }

    async fn circuit_connect(&self) -> Result<(), CallError> {
        #[derive(Deserialize)]
        struct Asked {
            circuit: u64,
            host: String,
            port: NonZeroU16,
        }
        let takes = "tor.circuit_connect takes `circuit`, a number, `host`, a text, and `port`, 1 to 65535";
        let Asked { circuit, host, port } = self.call.arguments(takes)?;
        self.joined(&host, port.get(), Via::Circuit(circuit)).await
    }

    async fn connect(&self) -> Result<(), CallError> {
        #[derive(Deserialize)]
        struct Asked {
            host: String,
            port: NonZeroU16,
            isolation: Option<String>,
        }
        let takes = "tor.connect takes `host`, a text, `port`, 1 to 65535, and may take `isolation`, a text";
        let Asked { host, port, isolation } = self.call.arguments(takes)?;
        self.joined(&host, port.get(), Via::Isolated(isolation)).await
    }

    async fn joined(&self, host: &str, port: u16, via: Via) -> Result<(), CallError> {
        let connected = self.broker.connect(host, port, &via).await?;
        let told = json!({"stream": connected.number, "address": connected.address, "port": port});
        let ours = self.hand_over(told).await?;
        meter::join(ours, connected.stream, &*self.container.meter).await;
        Ok(())
    }

    async fn onion_service(&self) -> Result<Value, CallError> {
        #[derive(Deserialize)]
        struct Work {
            rate: u32,
            burst: u32,
        }
        #[derive(Deserialize)]
        struct Asked {
            ports: Vec<u16>,
            key: Option<String>,
            #[serde(default)]
            discard_key: bool,
            max_streams: Option<u16>,
            #[serde(default)]
            client_auth: Vec<String>,
            pow: Option<Work>,
            front: Option<String>,
            published: Option<bool>,
        }
        let takes = "tor.onion_service takes `ports`, and may take `key`, `discard_key`, `max_streams`, `client_auth`, `pow`, `front` and `published`";
        let Asked { ports, key, discard_key, max_streams, client_auth, pow, front, published } = self.call.arguments(takes)?;
        let pow = pow.map(|Work { rate, burst }| Pow { rate, burst });
        let service = self.broker.onion_service(&OnionWish { ports, key, max_streams, client_auth, pow, front }).await?;
        let published = match published {
            Some(false) => false,
            _ => self.broker.published(service.number).await?,
        };
        let key = service.key.filter(|_| !discard_key);
        Ok(json!({"service": service.number, "address": service.address, "key": key, "published": published}))
    }

    async fn accept(&self) -> Result<Option<Value>, CallError> {
        let Some(incoming) = self.broker.accept(self.service("tor.accept takes `service`, a number")?).await? else {
            return Ok(Some(json!({"port": null})));
        };
        self.container.meter.pass(Way::Received, TRY_BYTES).await.map_err(|_| used_up())?;
        let ours = self.hand_over(json!({"port": incoming.port})).await?;
        meter::join(ours, incoming.stream, &*self.container.meter).await;
        Ok(None)
    }

    async fn close_service(&self) -> Result<Value, CallError> {
        let number = self.service("tor.close_service takes `service`, a number")?;
        self.broker.close_service(number).await.map(|()| Value::Null)
    }

    fn service(&self, takes: &'static str) -> Result<u64, CallError> {
        #[derive(Deserialize)]
        struct Asked {
            service: u64,
        }
        self.call.arguments(takes).map(|Asked { service }| service)
    }

    async fn descriptor(&self) -> Result<(), CallError> {
        #[derive(Deserialize)]
        struct Asked {
            address: String,
            hsdirs: Option<Vec<String>>,
        }
        let takes = "tor.descriptor takes `address`, a text, and may take `hsdirs`, fingerprints";
        let Asked { address, hsdirs } = self.call.arguments(takes)?;
        let (hsdir, text) = self.broker.descriptor(&address, &fingerprints(&hsdirs.unwrap_or_default())?).await?;
        let mut ours = self.hand_over(json!({"bytes": text.len(), "hsdir": hsdir.to_string()})).await?;
        if self.pour(&mut ours, text.as_bytes()).await {
            let _ = ours.shutdown().await;
        }
        Ok(())
    }

    async fn publish(&self) -> Result<(), CallError> {
        #[derive(Deserialize)]
        struct Asked {
            address: String,
            bytes: usize,
            hsdirs: Option<Vec<String>>,
        }
        let takes = "tor.publish takes `address`, a text, `bytes`, a number, and may take `hsdirs`, fingerprints";
        let Asked { address, bytes, hsdirs } = self.call.arguments(takes)?;
        let hsdirs = fingerprints(&hsdirs.unwrap_or_default())?;
        if !(1..=DESCRIPTOR_BYTES_MAX).contains(&bytes) {
            return Err(bad_call("a descriptor has at most 50,000 bytes"));
        }
        let mut ours = self.hand_over(Value::Null).await?;
        let published = async {
            let text = self.read(&mut ours, bytes).await?;
            self.broker.publish(&address, &text, &hsdirs).await
        };
        let told = match published.await {
            Ok(published) => json!({
                "took": texts(&published.took),
                "refused": published.refused.iter().map(|(hsdir, reason)| json!([hsdir.to_string(), reason])).collect::<Vec<_>>(),
                "silent": texts(&published.silent),
            }),
            Err(error) => json!({"error": error}),
        };
        if self.pour(&mut ours, told.to_string().as_bytes()).await {
            let _ = ours.shutdown().await;
        }
        Ok(())
    }

    /// Reads a descriptor of so many bytes, and the end behind it.
    async fn read(&self, ours: &mut UnixStream, bytes: usize) -> Result<String, CallError> {
        let mut text = Vec::with_capacity(bytes + 1);
        let read = timeout(self.idle(), ours.take(bytes as u64 + 1).read_to_end(&mut text)).await;
        let late = |_| CallError::new(CallErrorKind::Timeout, "the descriptor did not come");
        read.map_err(late)?.map_err(|_| CallError::new(CallErrorKind::Failed, "the stream broke"))?;
        let text = String::from_utf8(text).ok().filter(|text| text.len() == bytes && text.is_ascii());
        text.ok_or_else(|| bad_call("other bytes came than were announced"))
    }

    async fn events(&self) -> Result<(), CallError> {
        let mut events = self.broker.events()?;
        let ours = self.hand_over(Value::Null).await?;
        let (mut function, mut ours) = tokio::io::split(ours);
        // What the function says here means nothing; that it closes its end does.
        let mut ignored = [0; 256];
        loop {
            let event = tokio::select! {
                biased;
                said = function.read(&mut ignored) => match said {
                    Ok(1..) => continue,
                    _ => return Ok(()),
                },
                event = events.next() => event,
            };
            let Some(event) = event else {
                let _ = ours.shutdown().await;
                return Ok(());
            };
            let Ok(mut line) = serde_json::to_vec(&event) else { continue };
            line.push(b'\n');
            self.container.meter.slow(line.len()).await;
            // One that does not read waits here as long as it likes; its events are counted meanwhile.
            tokio::select! {
                written = ours.write_all(&line) => if written.is_err() { return Ok(()) },
                () = gone(&mut function) => return Ok(()),
            }
        }
    }

    /// Gives the function what does not leave the machine, at its rate. False if it does not want it, or does not read for too long.
    async fn pour(&self, ours: &mut UnixStream, bytes: &[u8]) -> bool {
        for part in bytes.chunks(self.container.meter.chunk_bytes()) {
            self.container.meter.slow(part.len()).await;
            if !matches!(timeout(self.idle(), ours.write_all(part)).await, Ok(Ok(()))) {
                return false;
            }
        }
        true
    }

    fn idle(&self) -> Duration {
        self.container.node.limits.idle.duration()
    }

    /// A stream for the function, and what it is told with it.
    async fn hand_over(&self, value: Value) -> Result<UnixStream, CallError> {
        let busy = |_| CallError::new(CallErrorKind::Busy, "the node has no more sockets");
        let (ours, theirs) = stream_pair().map_err(busy)?;
        // Where this fails the process is ending, and nobody hears of it.
        let told = answer_call(self.process.link(), self.call.number, Ok(value), Some(theirs)).await;
        told.map(|()| ours).map_err(|_| super::over())
    }
}

/// Waits until the function has closed its end.
async fn gone(function: &mut (impl AsyncRead + Unpin)) {
    let mut ignored = [0; 256];
    while let Ok(1..) = function.read(&mut ignored).await {}
}

fn fingerprints(texts: &[String]) -> Result<Vec<Fingerprint>, CallError> {
    texts.iter().map(|text| text.parse().map_err(|error: bento_tor::FingerprintError| bad_call(error.to_string()))).collect()
}

fn texts(fingerprints: &[Fingerprint]) -> Vec<String> {
    fingerprints.iter().map(ToString::to_string).collect()
}

fn told(circuit: &Circuit) -> Value {
    let path: Vec<Fingerprint> = circuit.path.iter().map(|hop| hop.fingerprint).collect();
    json!({"circuit": circuit.number, "path": texts(&path)})
}

fn used_up() -> CallError {
    CallError::new(CallErrorKind::Refused, "traffic is used up")
}
