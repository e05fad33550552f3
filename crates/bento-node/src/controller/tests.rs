//! Dialogues with a control connection, over a broker that is none.

mod circuits;
mod manners;
mod services;
mod streams;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::mpsc,
    time::timeout,
};

use super::{
    View,
    backend::{Backend, Change, Happening, Relay, Service},
    command::Router,
};
use crate::{
    egress::Stream,
    link::{CallError, CallErrorKind},
};

const MIDDLE: &str = "168177F61FB6FED565A1E6538351A48ECD3DF23D";
const EXIT: &str = "1885E191BBEFACCAE4E81E379D4F1B7C5849CF17";
const SERVICE: &str = "bkbb6dh5jemwfj6yuhqnwyj6cerqi5dt47fp5em6lu4hm3tp363gduad";
const STATUSES: &str = "r middle1 FoF39h+2/tVloeZTg1Gkjs098j0 ds9jIjqRy0lS4tKy0dfzD4BaXbg 2038-01-01 00:00:00 127.21.0.1 5001 0\n\
    s Fast Guard HSDir Running Stable V2Dir Valid\nw Bandwidth=1\n\
    r exit2 GIXhkbvvrMrk6B43nU8bfFhJzxc pClZy+XtpdsEbL3sEaNN1/Qk018 2038-01-01 00:00:00 127.32.0.1 5001 0\ns Exit\nw Bandwidth=3\n";

/// A broker that does what it is told, and notes it.
#[derive(Default)]
struct Fake {
    refuses: BTreeSet<&'static str>,
    did: Mutex<Vec<String>>,
    circuits: Mutex<u64>,
    happenings: Mutex<Option<mpsc::Sender<Happening>>>,
    clients: Mutex<Option<mpsc::Receiver<(u16, UnixStream)>>>,
}

impl Fake {
    fn note(&self, what: String) -> u64 {
        let mut did = self.did.lock().unwrap();
        did.push(what);
        did.len() as u64
    }

    fn did(&self) -> Vec<String> {
        std::mem::take(&mut *self.did.lock().unwrap())
    }

    /// Begins a circuit; the one over the exit alone fails.
    async fn begin(&self, what: String, relays: &[&str]) -> Result<u64, CallError> {
        self.note(what);
        let number = {
            let mut circuits = self.circuits.lock().unwrap();
            if *circuits == 4 {
                return Err(CallError::new(CallErrorKind::Refused, "the function may have 4 circuits"));
            }
            *circuits += 1;
            *circuits
        };
        self.happen(change(number, "LAUNCHED", &[], None)).await;
        if relays == [EXIT, EXIT] {
            self.happen(change(number, "FAILED", &[], Some("TIMEOUT"))).await;
            return Ok(number);
        }
        for hops in 1..=relays.len() {
            self.happen(change(number, "EXTENDED", &relays[..hops], None)).await;
        }
        self.happen(change(number, "BUILT", relays, None)).await;
        Ok(number)
    }

    async fn happen(&self, happening: Happening) {
        let sender = self.happenings.lock().unwrap().clone().unwrap();
        sender.send(happening).await.unwrap();
    }
}

fn change(number: u64, status: &'static str, relays: &[&str], reason: Option<&str>) -> Happening {
    let name = |relay: &&str| format!("${relay}~{}", if *relay == MIDDLE { "middle1" } else { "exit2" });
    let path = relays.iter().map(name).collect::<Vec<_>>().join(",");
    Happening::Circuit(number, Change { status, path, reason: reason.map(str::to_owned) })
}

fn error(kind: CallErrorKind) -> CallError {
    CallError::new(kind, "the text of the error")
}

impl Backend for Fake {
    fn permits(&self, call: &'static str) -> Result<(), CallError> {
        if self.refuses.contains(call) { Err(CallError::new(CallErrorKind::Refused, format!("it may not {call}"))) } else { Ok(()) }
    }

    async fn join(&self, mut function: UnixStream, mut far: Box<dyn Stream>) {
        let _ = tokio::io::copy_bidirectional(&mut function, &mut far).await;
    }

    fn traffic(&self) -> (u64, u64) {
        (0, 0)
    }

    async fn slow(&self, _: usize) {}

    async fn version(&self) -> Result<String, CallError> {
        Ok("0.4.9.11".into())
    }

    async fn relay(&self, router: &Router) -> Result<Option<Relay>, CallError> {
        let relays = [("middle1", MIDDLE), ("exit2", EXIT)];
        let found = relays.into_iter().find(|(nickname, fingerprint)| match router {
            Router::Nickname(name) => name.eq_ignore_ascii_case(nickname),
            Router::Fingerprint(name) => name == fingerprint,
        });
        Ok(found.map(|(nickname, fingerprint)| Relay { fingerprint: fingerprint.into(), nickname: nickname.into() }))
    }

    async fn status(&self, relay: Option<&Relay>) -> Result<Option<String>, CallError> {
        let Some(relay) = relay else { return Ok(Some(STATUSES.into())) };
        Ok(STATUSES.split_inclusive("Bandwidth=1\n").find(|entry| entry.contains(&format!("r {} ", relay.nickname))).map(str::to_owned))
    }

    async fn microdescriptor(&self, relay: Option<&Relay>) -> Result<Option<String>, CallError> {
        let all = "onion-key\nid ed25519 x\nonion-key\nid ed25519 y\n";
        Ok(relay.map_or(Some(all.into()), |relay| (relay.fingerprint == EXIT).then(|| "onion-key\nid ed25519 y\n".into())))
    }

    async fn consensus(&self) -> Result<[u64; 3], CallError> {
        Ok([1_795_825_470, 1_795_825_500, 1_795_825_530])
    }

    async fn circuit(&self) -> Result<u64, CallError> {
        self.begin("circuit".into(), &[MIDDLE, EXIT]).await
    }

    async fn path(&self, relays: &[String]) -> Result<u64, CallError> {
        let relays: Vec<&str> = relays.iter().map(String::as_str).collect();
        self.begin(format!("path {}", relays.join(",")), &relays).await
    }

    async fn extend(&self, circuit: u64, relays: &[String]) -> Result<(), CallError> {
        self.note(format!("extend {circuit} {}", relays.join(",")));
        for status in ["EXTENDED", "BUILT"] {
            self.happen(change(circuit, status, &[MIDDLE, &relays[0]], None)).await;
        }
        Ok(())
    }

    async fn close_circuit(&self, circuit: u64) {
        self.note(format!("close {circuit}"));
    }

    async fn circuit_connect(&self, circuit: u64, host: &str, port: u16) -> Result<Box<dyn Stream>, CallError> {
        self.note(format!("connect {circuit} {host} {port}"));
        far(port)
    }

    async fn connect(&self, host: &str, port: u16, isolation: &str) -> Result<Box<dyn Stream>, CallError> {
        self.note(format!("connect {host} {port} {}", &isolation[..8]));
        far(port)
    }

    async fn onion_service(&self, ports: &[u16], key: Option<&str>, max_streams: Option<u16>) -> Result<Service, CallError> {
        let number = self.note(format!("service {ports:?} {key:?} {max_streams:?}"));
        Ok(Service { number, address: SERVICE.into(), key: "ED25519-V3:secret".into() })
    }

    async fn accept(&self, _: u64) -> Result<Option<(u16, Box<dyn Stream>)>, CallError> {
        let mut clients = self.clients.lock().unwrap().take().ok_or_else(|| error(CallErrorKind::Missing))?;
        let (port, client) = clients.recv().await.ok_or_else(|| error(CallErrorKind::Missing))?;
        *self.clients.lock().unwrap() = Some(clients);
        Ok(Some((port, Box::new(client))))
    }

    async fn close_service(&self, service: u64) {
        self.note(format!("end {service}"));
    }

    async fn descriptor(&self, address: &str, servers: &[String]) -> Result<(String, String), CallError> {
        self.note(format!("fetch {address} {servers:?}"));
        if address == SERVICE { Ok((EXIT.into(), "hs-descriptor 3\n.dotted\n".into())) } else { Err(error(CallErrorKind::Missing)) }
    }

    async fn publish(&self, address: &str, servers: &[String], descriptor: &str) -> Result<Vec<(String, Option<String>)>, CallError> {
        self.note(format!("publish {address} {servers:?} {} bytes", descriptor.len()));
        Ok(vec![(EXIT.into(), None), (MIDDLE.into(), Some("UPLOAD_REJECTED".into()))])
    }

    fn happenings(&self) -> mpsc::Receiver<Happening> {
        let (sender, receiver) = mpsc::channel(16);
        *self.happenings.lock().unwrap() = Some(sender);
        receiver
    }
}

/// Something that answers with what it is sent; nothing is at port 9.
fn far(port: u16) -> Result<Box<dyn Stream>, CallError> {
    if port == 9 {
        return Err(error(CallErrorKind::Unreachable));
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(async move {
        let (mut reads, mut writes) = tokio::io::split(theirs);
        let _ = tokio::io::copy(&mut reads, &mut writes).await;
    });
    Ok(Box::new(ours))
}

/// A script at the other end of a control connection.
struct Script {
    stream: BufReader<UnixStream>,
    events: Vec<String>,
}

impl Script {
    fn connect(view: &Arc<View<Fake>>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let view = Arc::clone(view);
        tokio::spawn(async move { view.control(ours).await });
        Self { stream: BufReader::new(theirs), events: Vec::new() }
    }

    async fn start(view: &Arc<View<Fake>>) -> Self {
        let mut script = Self::connect(view);
        assert_eq!(script.ask("AUTHENTICATE").await, "250 OK");
        script
    }

    /// A whole message, its lines divided by `\n`; nothing at the end.
    async fn message(&mut self) -> Option<String> {
        let mut message = Vec::new();
        loop {
            let mut line = String::new();
            let read = timeout(Duration::from_secs(20), self.stream.read_line(&mut line)).await.expect("it answers");
            if read.ok()? == 0 {
                return None;
            }
            let line = line.strip_suffix("\r\n").expect("a whole line").to_owned();
            let (is_last, has_data) = (line.as_bytes()[3] == b' ', line.as_bytes()[3] == b'+');
            message.push(line);
            while has_data && message.last().is_some_and(|line| line != ".") {
                let mut line = String::new();
                self.stream.read_line(&mut line).await.unwrap();
                message.push(line.trim_end().to_owned());
            }
            if is_last {
                return Some(message.join("\n"));
            }
        }
    }

    /// Sends a command, and gives its reply; events that come before it are kept.
    async fn ask(&mut self, command: &str) -> String {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        loop {
            match self.message().await {
                Some(event) if event.starts_with("650") => self.events.push(event),
                Some(reply) => return reply,
                None => return "the end".into(),
            }
        }
    }

    /// The next event, without its time.
    async fn event(&mut self) -> String {
        let event = if self.events.is_empty() { self.message().await.expect("an event") } else { self.events.remove(0) };
        event.split(' ').filter(|word| !word.starts_with("TIME_CREATED=")).collect::<Vec<_>>().join(" ")
    }
}

fn view(refuses: &[&'static str]) -> (Arc<Fake>, Arc<View<Fake>>) {
    let fake = Arc::new(Fake { refuses: refuses.iter().copied().collect(), ..Fake::default() });
    (Arc::clone(&fake), View::new(fake))
}
