//! Dialogues with a control connection, over a broker that is none.

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

#[tokio::test]
async fn nothing_is_answered_before_it_is_authenticated() {
    let (_, view) = view(&[]);
    let mut script = Script::connect(&view);
    let info = "250-PROTOCOLINFO 1\n250-AUTH METHODS=NULL\n250-VERSION Tor=\"0.4.9.11\"\n250 OK";
    assert_eq!(script.ask("PROTOCOLINFO 1").await, info);
    assert_eq!(script.ask("AUTHENTICATE \"x\"").await, "250 OK");
    assert_eq!(script.ask("PROTOCOLINFO 1").await, info);
    assert_eq!(script.ask("QUIT").await, "250 closing connection");
    assert_eq!(script.message().await, None);
    for (first, reply) in [
        ("GETINFO version", "514 Authentication required."),
        ("NONSENSE", "514 Authentication required."),
        ("AUTHCHALLENGE SAFECOOKIE 00", "515 Cookie authentication is disabled"),
    ] {
        let mut script = Script::connect(&view);
        assert_eq!(script.ask(first).await, reply);
        assert_eq!(script.message().await, None, "{first}");
    }
}

#[tokio::test]
async fn a_circuit_is_numbered_at_once_and_told_hop_by_hop() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    assert_eq!(script.ask("SETEVENTS CIRC CIRC_MINOR").await, "250 OK");
    assert_eq!(script.ask(&format!("EXTENDCIRCUIT 0 middle1,${EXIT} purpose=general")).await, "250 EXTENDED 1");
    let (one, two) = (format!("${MIDDLE}~middle1"), format!("${MIDDLE}~middle1,${EXIT}~exit2"));
    assert_eq!(script.event().await, "650 CIRC 1 LAUNCHED PURPOSE=GENERAL");
    assert_eq!(script.event().await, format!("650 CIRC 1 EXTENDED {one} PURPOSE=GENERAL"));
    assert_eq!(script.event().await, format!("650 CIRC 1 EXTENDED {two} PURPOSE=GENERAL"));
    assert_eq!(script.event().await, format!("650 CIRC 1 BUILT {two} PURPOSE=GENERAL"));
    assert_eq!(script.ask("SETCIRCUITPURPOSE 1 purpose=controller").await, "250 OK");
    assert_eq!(script.event().await, format!("650 CIRC_MINOR 1 PURPOSE_CHANGED {two} PURPOSE=CONTROLLER OLD_PURPOSE=GENERAL"));
    assert!(script.ask("GETINFO circuit-status").await.starts_with(&format!("250-circuit-status=1 BUILT {two} PURPOSE=CONTROLLER TIME_")));
    assert_eq!(fake.did(), [format!("path {MIDDLE},{EXIT}")]);
    assert_eq!(script.ask("CLOSECIRCUIT 1").await, "250 OK");
    assert_eq!(script.event().await, format!("650 CIRC 1 CLOSED {two} PURPOSE=CONTROLLER REASON=REQUESTED"));
    assert_eq!(fake.did(), ["close 1"]);
    assert_eq!(script.ask("CLOSECIRCUIT 1").await, "552 Unknown circuit \"1\"");
    assert_eq!(script.ask("GETINFO circuit-status").await, "250-circuit-status=\n250 OK");
    // One that cannot be built, and one that ends by itself.
    assert_eq!(script.ask("EXTENDCIRCUIT 0 exit2,exit2").await, "250 EXTENDED 2");
    assert_eq!(script.event().await, "650 CIRC 2 LAUNCHED PURPOSE=GENERAL");
    assert_eq!(script.event().await, "650 CIRC 2 FAILED PURPOSE=GENERAL REASON=TIMEOUT");
    assert_eq!(script.ask("EXTENDCIRCUIT 0 middle1").await, "250 EXTENDED 3");
    assert_eq!(script.event().await, "650 CIRC 3 LAUNCHED PURPOSE=GENERAL");
    assert_eq!(script.event().await, format!("650 CIRC 3 EXTENDED {one} PURPOSE=GENERAL"));
    assert_eq!(script.event().await, format!("650 CIRC 3 BUILT {one} PURPOSE=GENERAL"));
    assert_eq!(script.ask("EXTENDCIRCUIT 3 exit2").await, "250 EXTENDED 3");
    assert_eq!(script.event().await, format!("650 CIRC 3 EXTENDED {two} PURPOSE=GENERAL"));
    assert_eq!(script.event().await, format!("650 CIRC 3 BUILT {two} PURPOSE=GENERAL"));
    assert_eq!(fake.did()[1..], [format!("path {MIDDLE}"), format!("extend 3 {EXIT}")]);
    fake.happen(change(3, "CLOSED", &[MIDDLE, EXIT], Some("DESTROYED"))).await;
    assert_eq!(script.event().await, format!("650 CIRC 3 CLOSED {two} PURPOSE=GENERAL REASON=DESTROYED"));
}

#[tokio::test]
async fn no_more_circuits_than_the_broker_gives() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    for id in 1..=4 {
        assert_eq!(script.ask("EXTENDCIRCUIT 0").await, format!("250 EXTENDED {id}"));
    }
    assert_eq!(script.ask("EXTENDCIRCUIT 0").await, "551 the function may have 4 circuits");
    // What is told of a circuit after it was closed makes no new one.
    assert_eq!(script.ask("CLOSECIRCUIT 2").await, "250 OK");
    fake.happen(change(2, "CLOSED", &[MIDDLE, EXIT], Some("REQUESTED"))).await;
    fake.happen(change(9, "LAUNCHED", &[], None)).await;
    while !script.ask("GETINFO circuit-status").await.contains("9 LAUNCHED") {}
    assert!(!script.ask("GETINFO circuit-status").await.contains("\n2 "));
}

#[tokio::test]
async fn two_functions_see_nothing_of_each_other() {
    let ((_, one), (fake, other)) = (view(&[]), view(&[]));
    let mut victim = Script::start(&one).await;
    assert_eq!(victim.ask("SETEVENTS CIRC STREAM HS_DESC").await, "250 OK");
    assert_eq!(victim.ask("EXTENDCIRCUIT 0 middle1,exit2").await, "250 EXTENDED 1");
    let added = victim.ask("ADD_ONION NEW:BEST Port=80").await;
    assert_eq!(added, format!("250-ServiceID={SERVICE}\n250-PrivateKey=ED25519-V3:secret\n250 OK"));
    let mut hostile = Script::start(&other).await;
    assert_eq!(hostile.ask("SETEVENTS CIRC STREAM HS_DESC").await, "250 OK");
    for (command, reply) in [
        (
            "GETINFO circuit-status stream-status onions/current onions/detached",
            "250-circuit-status=\n250-stream-status=\n250-onions/current=\n250-onions/detached=\n250 OK",
        ),
        ("CLOSECIRCUIT 1", "552 Unknown circuit \"1\""),
        ("EXTENDCIRCUIT 1 exit2", "552 Unknown circuit \"1\""),
        ("SETCIRCUITPURPOSE 1 purpose=controller", "552 Unknown circuit \"1\""),
        ("ATTACHSTREAM 1 1", "552 Unknown stream \"1\""),
        ("CLOSESTREAM 1 1", "552 Unknown stream \"1\""),
        (&format!("DEL_ONION {SERVICE}"), "552 Unknown Onion Service id"),
        (&format!("GETINFO hs/client/desc/id/{SERVICE}"), "551 Not found in cache"),
        (&format!("GETINFO hs/service/desc/id/{SERVICE}"), &format!("552 Unrecognized key \"hs/service/desc/id/{SERVICE}\"")),
    ] {
        assert_eq!(hostile.ask(command).await, reply, "{command}");
    }
    assert_eq!((hostile.events.len(), fake.did().len()), (0, 0));
    assert!(victim.ask("GETINFO circuit-status").await.starts_with("250-circuit-status=1 BUILT "));
}

#[tokio::test]
async fn what_was_not_granted_is_refused_before_the_broker_hears_of_it() {
    let all = [
        "tor.path",
        "tor.circuit",
        "tor.extend",
        "tor.onion_service",
        "tor.descriptor",
        "tor.publish",
        "tor.relays",
        "tor.events",
        "tor.consensus",
    ];
    let (fake, view) = view(&all);
    let mut script = Script::start(&view).await;
    for (command, call) in [
        ("EXTENDCIRCUIT 0 middle1,exit2", "tor.path"),
        ("EXTENDCIRCUIT 0", "tor.circuit"),
        ("EXTENDCIRCUIT 1 exit2", "tor.extend"),
        ("ADD_ONION NEW:BEST Port=80", "tor.onion_service"),
        (&format!("HSFETCH {SERVICE}"), "tor.descriptor"),
        (&format!("+HSPOST HSADDRESS={SERVICE}\r\nhs-descriptor 3\r\n."), "tor.publish"),
        ("GETINFO ns/all", "tor.relays"),
        ("GETINFO md/all", "tor.relays"),
        ("GETINFO consensus/valid-after", "tor.consensus"),
        ("SETEVENTS SIGNAL CIRC", "tor.events"),
    ] {
        assert_eq!(script.ask(command).await, format!("551 it may not {call}"), "{command}");
    }
    assert_eq!(fake.did(), [""; 0]);
    // What Stem asks for by itself is no part of any call.
    assert_eq!(script.ask("SETEVENTS SIGNAL CONF_CHANGED STATUS_SERVER").await, "250 OK");
    assert_eq!(script.ask("GETINFO version").await, "250-version=0.4.9.11\n250 OK");
}

#[tokio::test]
async fn the_directory_is_there_as_tor_has_it() {
    let (_, view) = view(&[]);
    let mut script = Script::start(&view).await;
    let exit = STATUSES.split("w Bandwidth=1\n").nth(1).unwrap().trim_end();
    assert_eq!(script.ask("GETINFO ns/all").await, format!("250+ns/all=\n{}.\n250 OK", STATUSES));
    assert_eq!(script.ask("GETINFO ns/name/exit2").await, format!("250+ns/name/exit2=\n{exit}\n.\n250 OK"));
    assert_eq!(script.ask(&format!("GETINFO ns/id/${EXIT}")).await, format!("250+ns/id/${EXIT}=\n{exit}\n.\n250 OK"));
    assert_eq!(script.ask("GETINFO md/name/exit2").await, "250+md/name/exit2=\nonion-key\nid ed25519 y\n.\n250 OK");
    assert_eq!(script.ask("GETINFO consensus/valid-after").await, "250-consensus/valid-after=2026-11-28 00:24:30\n250 OK");
    for (key, reply) in [
        ("ns/name/nobody", "552 Unrecognized key \"ns/name/nobody\""),
        ("ns/id/xx", "551 Data not decodeable as hex"),
        ("md/name/middle1", "552 Unrecognized key \"md/name/middle1\""),
        ("desc/name/exit2", "552 We fetch microdescriptors, not router descriptors. You'll need to use md/name/* instead of desc/name/*."),
        ("fingerprint", "551 Not running in server mode"),
        ("address", "551 Address unknown"),
        ("config-text", "552 Unrecognized key \"config-text\""),
        ("version entry-guards orconn-status", "552-Unrecognized key \"entry-guards\"\n552 Unrecognized key \"orconn-status\""),
        ("", "250 OK"),
    ] {
        assert_eq!(script.ask(&format!("GETINFO {key}")).await, reply);
    }
}

async fn socks(view: &Arc<View<Fake>>, port: u16) -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let view = Arc::clone(view);
    tokio::spawn(async move { view.socks(ours).await });
    let request = [b"\x05\x01\x00\x05\x01\x00\x03\x0bexample.org".as_slice(), &port.to_be_bytes()].concat();
    theirs.write_all(&request).await.unwrap();
    let mut method = [0; 2];
    theirs.read_exact(&mut method).await.unwrap();
    assert_eq!(method, [5, 0]);
    theirs
}

async fn answered(stream: &mut UnixStream) -> u8 {
    let mut reply = [0; 10];
    timeout(Duration::from_secs(20), stream.read_exact(&mut reply)).await.unwrap().unwrap();
    reply[1]
}

#[tokio::test]
async fn a_stream_waits_for_its_circuit_and_goes_on_no_other() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    assert_eq!(script.ask("SETEVENTS STREAM CONF_CHANGED").await, "250 OK");
    assert_eq!(script.ask("EXTENDCIRCUIT 0 middle1,exit2").await, "250 EXTENDED 1");
    assert_eq!(script.ask("EXTENDCIRCUIT 0 exit2").await, "250 EXTENDED 2");
    assert_eq!(script.ask("SETCONF __LeaveStreamsUnattached=1").await, "250 OK");
    assert_eq!(script.event().await, "650-CONF_CHANGED\n650-__LeaveStreamsUnattached=1\n650 OK");
    let mut stream = socks(&view, 80).await;
    assert_eq!(script.event().await, "650 STREAM 1 NEW 0 example.org:80 SOURCE_ADDR=127.0.0.1:9 PURPOSE=USER CLIENT_PROTOCOL=SOCKS5");
    assert_eq!(script.ask("GETINFO stream-status").await, "250-stream-status=1 NEW 0 example.org:80\n250 OK");
    for (command, reply) in [
        ("ATTACHSTREAM 2 1", "552 Unknown stream \"2\""),
        ("ATTACHSTREAM 1 9", "552 Unknown circuit \"9\""),
        ("ATTACHSTREAM 1 2", "551 Can't attach stream to this one-hop circuit."),
        ("ATTACHSTREAM 1 1 HOP=1", "552 Bad value hop=1"),
        ("ATTACHSTREAM 1 1 HOP=2", "250 OK"),
    ] {
        assert_eq!(script.ask(command).await, reply, "{command}");
    }
    assert_eq!(script.event().await, "650 STREAM 1 SENTCONNECT 1 example.org:80");
    assert_eq!(script.event().await, "650 STREAM 1 SUCCEEDED 1 example.org:80");
    assert_eq!(script.ask("ATTACHSTREAM 1 1").await, "555 Connection is not managed by controller.");
    assert_eq!(answered(&mut stream).await, 0);
    stream.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(script.ask("CLOSECIRCUIT 1 IfUnused").await, "250 OK");
    assert!(script.ask("GETINFO circuit-status").await.contains("1 BUILT"));
    drop(stream);
    assert_eq!(script.event().await, "650 STREAM 1 CLOSED 1 example.org:80 REASON=DONE");
    assert_eq!(fake.did().pop(), Some("connect 1 example.org 80".into()));
    // What fails there is detached, and left to the function.
    let mut stream = socks(&view, 9).await;
    assert!(script.event().await.starts_with("650 STREAM 2 NEW 0 example.org:9 "));
    assert_eq!(script.ask("ATTACHSTREAM 2 1").await, "250 OK");
    assert_eq!(script.event().await, "650 STREAM 2 SENTCONNECT 1 example.org:9");
    assert_eq!(script.event().await, "650 STREAM 2 DETACHED 1 example.org:9 REASON=END REMOTE_REASON=CONNECTREFUSED");
    assert_eq!(script.event().await, "650 STREAM 2 NEW 0 example.org:9 PURPOSE=USER CLIENT_PROTOCOL=SOCKS5");
    assert_eq!(script.ask("CLOSESTREAM 2 1").await, "250 OK");
    assert_eq!(script.event().await, "650 STREAM 2 FAILED 0 example.org:9 REASON=DONE");
    assert_eq!(script.event().await, "650 STREAM 2 CLOSED 0 example.org:9 REASON=DONE");
    assert_eq!(answered(&mut stream).await, 1);
    // A client that leaves while its stream waits takes it along.
    drop(socks(&view, 80).await);
    assert!(script.event().await.starts_with("650 STREAM 3 NEW 0 "));
    assert_eq!(script.event().await, "650 STREAM 3 CLOSED 0 example.org:80 REASON=DONE");
}

#[tokio::test]
async fn a_stream_that_is_not_waited_for_is_attached_by_tor() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    let mut first = socks(&view, 80).await;
    assert_eq!(answered(&mut first).await, 0);
    assert_eq!(answered(&mut socks(&view, 9).await).await, 4);
    assert_eq!(script.ask("SIGNAL NEWNYM").await, "250 OK");
    assert_eq!(answered(&mut socks(&view, 80).await).await, 0);
    let did = fake.did();
    assert!(did[0].starts_with("connect example.org 80 ") && did[0] != did[2], "{did:?}");
    let (refusing, other) = self::view(&["tor.connect"]);
    assert_eq!(answered(&mut socks(&other, 80).await).await, 2);
    assert_eq!(refusing.did(), [""; 0]);
}

#[tokio::test]
async fn an_onion_service_ends_with_its_connection_and_one_that_is_detached_does_not() {
    let (fake, view) = view(&[]);
    let (clients, receiver) = mpsc::channel(4);
    *fake.clients.lock().unwrap() = Some(receiver);
    let mut script = Script::start(&view).await;
    assert_eq!(script.ask("SETEVENTS HS_DESC").await, "250 OK");
    let reply = script.ask("ADD_ONION NEW:BEST Port=80,5000").await;
    assert!(reply.starts_with(&format!("250-ServiceID={SERVICE}\n250-PrivateKey=")), "{reply}");
    assert_eq!(fake.did(), ["service [80] None None"]);
    assert_eq!(script.ask("GETINFO ns/name/exit2").await.lines().count(), 6);
    fake.happen(Happening::Uploaded { service: 1, directory: Some(EXIT.into()), failed: None }).await;
    assert_eq!(script.event().await, format!("650 HS_DESC UPLOAD {SERVICE} UNKNOWN ${EXIT}~exit2 UNKNOWN"));
    assert_eq!(script.event().await, format!("650 HS_DESC UPLOADED {SERVICE} UNKNOWN ${EXIT}~exit2"));
    // A client before anybody listens is refused, and the next one comes to who listens.
    let (mut refused, theirs) = UnixStream::pair().unwrap();
    clients.send((80, theirs)).await.unwrap();
    let mut rest = Vec::new();
    refused.read_to_end(&mut rest).await.unwrap();
    let listening = {
        let view = Arc::clone(&view);
        tokio::spawn(async move { view.listen(5000).await.unwrap().expect("a client") })
    };
    while !view.listens_at(5000) {
        tokio::task::yield_now().await;
    }
    let (mut client, theirs) = UnixStream::pair().unwrap();
    clients.send((80, theirs)).await.unwrap();
    let mut far = listening.await.unwrap();
    far.write_all(b"hi").await.unwrap();
    let mut hi = [0; 2];
    client.read_exact(&mut hi).await.unwrap();
    // Another connection of the same function does not see it, and ending the connection ends it.
    let mut other = Script::start(&view).await;
    assert_eq!(other.ask("GETINFO onions/current").await, "250-onions/current=\n250 OK");
    assert_eq!(other.ask(&format!("DEL_ONION {SERVICE}")).await, "552 Unknown Onion Service id");
    assert_eq!(script.ask("GETINFO onions/current").await, format!("250-onions/current={SERVICE}\n250 OK"));
    assert_eq!(script.ask("QUIT").await, "250 closing connection");
    assert_eq!(script.message().await, None);
    while fake.did() != ["end 1"] {
        tokio::task::yield_now().await;
    }
    let reply = other.ask("ADD_ONION NEW:BEST Flags=Detach,DiscardPK MaxStreams=3 Port=80").await;
    assert_eq!(reply, format!("250-ServiceID={SERVICE}\n250 OK"));
    assert_eq!(fake.did(), ["service [80] None Some(3)"]);
    assert_eq!(
        other.ask("GETINFO onions/current onions/detached").await,
        format!("250-onions/current=\n250-onions/detached={SERVICE}\n250 OK")
    );
    drop(other);
    let mut third = Script::start(&view).await;
    assert_eq!(third.ask(&format!("DEL_ONION {SERVICE}")).await, "250 OK");
    assert_eq!(fake.did(), ["end 1"]);
}

#[tokio::test]
async fn descriptors_are_fetched_and_published_and_told_of() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    assert_eq!(script.ask("SETEVENTS HS_DESC HS_DESC_CONTENT").await, "250 OK");
    assert_eq!(script.ask(&format!("HSFETCH {SERVICE} SERVER=exit2")).await, "250 OK");
    assert_eq!(script.event().await, format!("650 HS_DESC REQUESTED {SERVICE} NO_AUTH ${EXIT}~exit2 UNKNOWN"));
    assert_eq!(script.event().await, format!("650 HS_DESC RECEIVED {SERVICE} NO_AUTH ${EXIT}~exit2 UNKNOWN"));
    let content = format!("650+HS_DESC_CONTENT {SERVICE} UNKNOWN ${EXIT}~exit2\nhs-descriptor 3\n..dotted\n.\n650 OK");
    assert_eq!(script.event().await, content);
    assert_eq!(fake.did(), [format!("fetch {SERVICE} [\"{EXIT}\"]")]);
    let kept = script.ask(&format!("GETINFO hs/client/desc/id/{SERVICE}")).await;
    assert_eq!(kept, format!("250+hs/client/desc/id/{SERVICE}=\nhs-descriptor 3\n..dotted\n.\n250 OK"));
    let nobody = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd";
    assert_eq!(script.ask(&format!("HSFETCH {nobody}")).await, "250 OK");
    assert!(script.event().await.ends_with("REASON=NOT_FOUND"));
    assert!(script.event().await.ends_with("~Unnamed\n\n.\n650 OK"));
    assert_eq!(script.ask(&format!("HSFETCH {SERVICE} SERVER=nosuch")).await, "552 Server \"nosuch\" not found");
    fake.did();
    assert_eq!(script.ask(&format!("+HSPOST HSADDRESS={SERVICE}\r\nhs-descriptor 3\r\nx\r\n.")).await, "250 OK");
    for status in ["UPLOAD", "UPLOADED", "UPLOAD", "FAILED"] {
        assert!(script.event().await.starts_with(&format!("650 HS_DESC {status} {SERVICE} UNKNOWN $")), "{status}");
    }
    assert_eq!(fake.did(), [format!("publish {SERVICE} [] 18 bytes")]);
    assert_eq!(script.ask(&format!("+HSPOST HSADDRESS={SERVICE}\r\nabc\r\n.")).await, "554 Invalid descriptor");
    assert_eq!(script.ask("+HSPOST \r\nhs-descriptor 3\r\n.").await, "512 Missing HSADDRESS: it is needed for a descriptor of version 3");
}

#[tokio::test]
async fn a_second_line_is_a_second_command_and_never_more_than_a_command() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    assert_eq!(script.ask("GETINFO version\r\nSIGNAL SHUTDOWN").await, "250-version=0.4.9.11\n250 OK");
    assert_eq!(script.message().await.unwrap(), "552 Unrecognized signal code \"SHUTDOWN\"");
    for garbled in ["EXTENDCIRCUIT 0 middle1\rSIGNAL HALT", "EXTENDCIRCUIT 0 middle1\0", "EXTENDCIRCUIT 0 m\u{e4}dle"] {
        assert_eq!(script.ask(garbled).await, "500 Syntax error: a command is printable ASCII");
    }
    assert_eq!(script.ask(&format!("GETINFO {}", "x".repeat(8192))).await, "500 Syntax error: the command is too long");
    assert_eq!(script.message().await, None);
    assert_eq!(fake.did(), [""; 0]);
}

#[tokio::test]
async fn a_function_has_only_so_many_connections() {
    let (_, view) = view(&[]);
    let mut scripts = Vec::new();
    for _ in 0..8 {
        scripts.push(Script::start(&view).await);
    }
    let mut one_more = Script::connect(&view);
    assert_eq!(one_more.message().await, None);
    drop(scripts.pop());
    while view.sessions.available_permits() == 0 {
        tokio::task::yield_now().await;
    }
    Script::start(&view).await;
}
