//! What brokers say to a Tor that is none, and what becomes of it.

use std::{sync::PoisonError, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixListener,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use bento_proto::{Manifest, Policy};
use bento_tor::{Auth, ControlAddr, Fingerprint};

use super::*;

const RELAYS: [&str; 2] = ["62B250DE403BA8DB38A79133C36111C0D217C74C", "39924945CB8DC0D82E78A78F97800A456ED72070"];

/// How often a circuit is begun in all.
const TRIES: usize = 3;

/// Longest wait for what comes at once.
const SOON: Duration = Duration::from_secs(20);

/// What becomes of the next circuits.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Built,
    /// Tor gives it up, for this reason.
    Failed(&'static str),
    /// It is never heard of again.
    Silent,
}

/// A control port that does as it is told, one connection after the other.
struct FakeTor {
    /// Commands, but for those that only ask.
    said: mpsc::UnboundedReceiver<String>,
    fates: Arc<Mutex<Vec<Fate>>>,
    place: PathBuf,
    task: JoinHandle<()>,
}

/// What `GETINFO` says.
#[derive(Clone, Copy)]
struct Facts {
    pid: u32,
    circuits: &'static [&'static str],
    /// The number of its first circuit.
    first: u64,
}

const FACTS: Facts = Facts { pid: 8023, circuits: &[], first: 77 };

impl FakeTor {
    fn start(directory: &Path, facts: Facts) -> Self {
        let place = directory.join(format!("control-{}-{}", facts.pid, facts.first));
        let (listener, (say, said)) = (UnixListener::bind(&place).unwrap(), mpsc::unbounded_channel());
        let fates: Arc<Mutex<Vec<Fate>>> = Arc::default();
        let task = tokio::spawn(Self::speak(listener, facts, say, Arc::clone(&fates)));
        Self { said, fates, place, task }
    }

    async fn speak(listener: UnixListener, facts: Facts, say: mpsc::UnboundedSender<String>, fates: Arc<Mutex<Vec<Fate>>>) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let (mut circuits, mut services, mut line) = (facts.first..100, 0, String::new());
        while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
            let command = std::mem::take(&mut line);
            let words: Vec<&str> = command.split_whitespace().collect();
            let answer = match words[..] {
                ["GETINFO", "uptime"] => "250-uptime=100\r\n250 OK\r\n".to_owned(),
                ["GETINFO", "process/pid"] => format!("250-process/pid={}\r\n250 OK\r\n", facts.pid),
                ["GETINFO", "circuit-status"] => format!("250+circuit-status=\r\n{}\r\n.\r\n250 OK\r\n", facts.circuits.join("\r\n")),
                ["EXTENDCIRCUIT", "0", path, ..] => {
                    let (id, path) = (circuits.next().unwrap(), path.replace(',', "~a,") + "~a");
                    let fate = fates.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or(Fate::Built);
                    let told = match fate {
                        Fate::Built => format!("650 CIRC {id} BUILT {path} PURPOSE=CONTROLLER\r\n"),
                        Fate::Failed(reason) => format!("650 CIRC {id} FAILED PURPOSE=CONTROLLER REASON={reason}\r\n"),
                        Fate::Silent => String::new(),
                    };
                    format!("250 EXTENDED {id}\r\n650 CIRC {id} LAUNCHED PURPOSE=CONTROLLER\r\n{told}")
                }
                ["CLOSECIRCUIT", id] => format!("250 OK\r\n650 CIRC {id} CLOSED PURPOSE=CONTROLLER REASON=REQUESTED\r\n"),
                ["ADD_ONION", key, ..] => {
                    services += 1;
                    let new = if key.starts_with("NEW:") { "250-PrivateKey=ED25519-V3:a-new-key\r\n" } else { "" };
                    format!("250-ServiceID={services:a>56}\r\n{new}250 OK\r\n")
                }
                _ => "250 OK\r\n".to_owned(),
            };
            if !matches!(words[0], "GETINFO" | "AUTHENTICATE" | "SETEVENTS") {
                let _ = say.send(command.trim_end().to_owned());
            }
            if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// What becomes of the next circuits, the first one first.
    fn will(&self, fates: &[Fate]) {
        *self.fates.lock().unwrap() = fates.iter().rev().copied().collect();
    }

    /// The next command.
    async fn said(&mut self) -> String {
        timeout(SOON, self.said.recv()).await.expect("nothing is said").expect("it has ended")
    }

    /// All that was said so far, in an order that does not matter.
    fn so_far(&mut self) -> Vec<String> {
        let mut all: Vec<String> = std::iter::from_fn(|| self.said.try_recv().ok()).collect();
        all.sort();
        all
    }

    async fn controller(&self) -> Controller {
        Controller::connect(&ControlAddr::Unix(self.place.clone()), &Auth::None).await.unwrap()
    }
}

/// A node's part of such a Tor.
struct Node {
    tor: Arc<Tor>,
    directory: tempfile::TempDir,
}

impl Node {
    fn new(circuits: usize, connect: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { tor: Tor::new(Bounds { circuits, onion_services: 3, connect }, directory.path().join("sockets")), directory }
    }

    /// Has functions use this Tor, until it ends.
    async fn serve(&self, fake: &FakeTor) -> JoinHandle<Result<(), ControlError>> {
        let (tor, controller, state) = (Arc::clone(&self.tor), fake.controller().await, self.directory.path().to_owned());
        let serving = tokio::spawn(async move { tor.serve(controller, Socks::unix("/nowhere"), false, &state).await });
        let runs = async {
            while self.tor.running().is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, runs).await.expect("it is not served");
        serving
    }

    /// A function's process.
    fn broker(&self, circuits: u32) -> Broker {
        let policy = Policy::parse("[offers]\ncalls = [\"tor.*\"]\ncircuits = 8\nonion_services = 2\n").unwrap();
        let needs = format!("name = \"n\"\nmethods = [\"m\"]\n[needs]\ncalls = [\"tor.*\"]\ncircuits = {circuits}\nonion_services = 1\n");
        let owner = self.tor.table().enter();
        Broker {
            owner,
            tor: Arc::clone(&self.tor),
            grant: Arc::new(policy.admit(&Manifest::parse(&needs).unwrap()).unwrap()),
            meter: Arc::new(Meter::new(1 << 30, 1 << 30)),
            isolation: Isolation::new("one"),
            attached: Isolation::new("other"),
            gate: tokio::sync::Mutex::new(()),
            streams: AtomicU64::new(0),
        }
    }
}

fn given() -> Route {
    Route::Given(RELAYS.iter().map(|relay| relay.parse::<Fingerprint>().unwrap()).collect())
}

fn of<T: std::fmt::Debug>(result: Result<T, CallError>) -> (CallErrorKind, String) {
    let error = result.unwrap_err();
    (error.kind, error.text)
}

fn on_circuits(said: &[String], verb: &str) -> usize {
    said.iter().filter(|line| line.starts_with(verb)).count()
}

#[tokio::test]
async fn a_function_ends_only_what_it_has_made_and_has_no_more_than_its_grant_and_the_node_give() {
    let node = Node::new(3, SOON);
    let mut fake = FakeTor::start(node.directory.path(), FACTS);
    let _serving = node.serve(&fake).await;
    let (one, other) = (node.broker(2), node.broker(8));
    let first = one.circuit(&given()).await.unwrap();
    let second = other.circuit(&given()).await.unwrap();
    assert_eq!((first.number, second.number, first.path.len(), first.built), (1, 1, 2, true));
    one.circuit(&given()).await.unwrap();
    let more = of(one.circuit(&given()).await);
    assert!(more.0 == CallErrorKind::Refused && more.1.contains("2 circuits"), "{more:?}");
    // The other has room of its own, and the node has none.
    assert_eq!(of(other.circuit(&given()).await).0, CallErrorKind::Busy);
    assert_eq!(of(other.close_circuit(2).await).0, CallErrorKind::Missing);
    assert_eq!(of(other.extend_circuit(2, &[RELAYS[0].parse().unwrap()]).await).0, CallErrorKind::Missing);
    assert_eq!(on_circuits(&fake.so_far(), "EXTENDCIRCUIT"), 3);
    one.close_circuit(1).await.unwrap();
    assert_eq!(fake.so_far(), ["CLOSECIRCUIT 77"]);
    other.circuit(&given()).await.unwrap();
    assert_eq!(one.circuits().iter().map(|circuit| circuit.number).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn a_circuit_that_tor_finds_slow_is_begun_again_and_one_that_fails_otherwise_is_not() {
    let node = Node::new(8, SOON);
    let mut fake = FakeTor::start(node.directory.path(), FACTS);
    let _serving = node.serve(&fake).await;
    let function = node.broker(2);
    let slow = Fate::Failed("TIMEOUT");
    fake.will(&[slow, slow, Fate::Built]);
    assert_eq!(function.circuit(&given()).await.unwrap().number, 3);
    assert_eq!(on_circuits(&fake.so_far(), "EXTENDCIRCUIT"), TRIES);
    fake.will(&[slow, slow, slow, Fate::Built]);
    let (kind, text) = of(function.circuit(&given()).await);
    assert!(kind == CallErrorKind::Unreachable && text.contains("TIMEOUT"), "{text}");
    assert_eq!(on_circuits(&fake.so_far(), "EXTENDCIRCUIT"), TRIES);
    fake.will(&[Fate::Failed("DESTROYED"), Fate::Built]);
    let (kind, text) = of(function.circuit(&given()).await);
    assert!(kind == CallErrorKind::Unreachable && text.contains("DESTROYED"), "{text}");
    assert_eq!(on_circuits(&fake.so_far(), "EXTENDCIRCUIT"), 1);
    // None of those counts as one that the function has.
    assert_eq!(function.circuits().len(), 1);
}

#[tokio::test]
async fn a_circuit_that_is_not_there_in_the_nodes_time_is_closed() {
    let node = Node::new(8, Duration::from_millis(200));
    let mut fake = FakeTor::start(node.directory.path(), FACTS);
    let _serving = node.serve(&fake).await;
    let function = node.broker(2);
    fake.will(&[Fate::Silent, Fate::Built]);
    assert_eq!(of(function.circuit(&given()).await).0, CallErrorKind::Timeout);
    assert!(fake.said().await.starts_with("EXTENDCIRCUIT"));
    assert_eq!(fake.said().await, "CLOSECIRCUIT 77");
    assert!(function.circuits().is_empty());
    // A slow Tor at the end of that time is not asked again for as long.
    function.circuit(&given()).await.unwrap();
}

#[tokio::test]
async fn all_that_a_function_has_is_ended_with_its_process_and_nothing_else() {
    let node = Node::new(8, SOON);
    let mut fake = FakeTor::start(node.directory.path(), FACTS);
    let _serving = node.serve(&fake).await;
    let (closed, killed, stays) = (node.broker(2), node.broker(2), node.broker(2));
    for function in [&closed, &killed, &stays] {
        function.circuit(&given()).await.unwrap();
        function.onion_service(&OnionWish { ports: vec![80], ..OnionWish::default() }).await.unwrap();
    }
    let address = |number: u64| format!("DEL_ONION {number:a>56}");
    fake.so_far();
    closed.close().await;
    assert_eq!([fake.said().await, fake.said().await], ["CLOSECIRCUIT 77".to_owned(), address(1)]);
    // Where its process is killed nobody closes it.
    drop(killed);
    assert_eq!([fake.said().await, fake.said().await], ["CLOSECIRCUIT 78".to_owned(), address(2)]);
    assert_eq!(of(closed.circuit(&given()).await).0, CallErrorKind::Failed);
    assert_eq!((stays.circuits().len(), stays.services().len()), (1, 1));
    // What Tor takes up for a function that has left is ended as well.
    let leaving = node.broker(2);
    let route = given();
    let (begun, ()) = tokio::join!(leaving.circuit(&route), leaving.close());
    assert!(begun.is_err());
    if fake.said().await.starts_with("EXTENDCIRCUIT") {
        assert_eq!(fake.said().await, "CLOSECIRCUIT 80");
    }
    assert!(fake.so_far().is_empty());
}

#[tokio::test]
async fn when_tor_dies_circuits_are_told_as_lost_and_onion_services_are_made_again_under_their_keys() {
    let node = Node::new(8, SOON);
    let mut fake = FakeTor::start(node.directory.path(), FACTS);
    let serving = node.serve(&fake).await;
    let (function, gone) = (node.broker(2), node.broker(2));
    let mut events = function.events().unwrap();
    function.circuit(&given()).await.unwrap();
    for function in [&function, &gone] {
        function.onion_service(&OnionWish { ports: vec![80], ..OnionWish::default() }).await.unwrap();
    }
    fake.so_far();
    fake.task.abort();
    timeout(SOON, serving).await.expect("its end is not seen").unwrap().unwrap();
    // Who leaves while there is no Tor has nothing made again.
    drop(gone);
    assert_eq!(of(function.circuit(&given()).await).0, CallErrorKind::Unreachable);
    let mut fake = FakeTor::start(node.directory.path(), Facts { pid: 8024, ..FACTS });
    let _serving = node.serve(&fake).await;
    let made = fake.said().await;
    assert!(made.starts_with("ADD_ONION ED25519-V3:a-new-key ") && made.contains("Port=80,"), "{made}");
    let mut told = Vec::new();
    while told.last().is_none_or(|event| *event != Event::Tor { status: TorStatus::Back }) {
        told.push(timeout(SOON, events.next()).await.expect("nothing is told").unwrap());
    }
    let lost = |event: &Event| match event {
        Event::Circuit { status: CircuitStatus::Closed, reason, .. } => reason.as_deref() == Some(TOR_LOST),
        _ => false,
    };
    assert!(told.iter().any(lost) && told.contains(&Event::Tor { status: TorStatus::Lost }), "{told:?}");
    assert_eq!(of(function.close_circuit(1).await).0, CallErrorKind::Missing);
    assert_eq!(function.circuit(&given()).await.unwrap().number, 2);
    assert_eq!(on_circuits(&fake.so_far(), "ADD_ONION"), 0);
}

#[tokio::test]
async fn what_a_killed_node_left_at_a_tor_that_outlives_it_is_ended_by_the_next_and_nothing_of_others() {
    let node = Node::new(8, SOON);
    let mut fake = FakeTor::start(node.directory.path(), FACTS);
    let serving = node.serve(&fake).await;
    let function = node.broker(2);
    function.circuit(&given()).await.unwrap();
    let hold = node.tor.hold(&node.tor.running().unwrap()).await.unwrap();
    assert_eq!(fake.so_far().last().map(String::as_str), Some("SETCONF __LeaveStreamsUnattached=1"));
    // As kill -9 has it, nothing is said any more.
    std::mem::forget((function, hold));
    serving.abort();
    let there: &[&str] = &["77 BUILT PURPOSE=CONTROLLER", "78 BUILT PURPOSE=CONTROLLER", "79 BUILT PURPOSE=GENERAL"];
    // The same Tor, as far as its process and start say.
    let next = Tor::new(node.tor.bounds, node.directory.path().join("sockets"));
    let after = Node { tor: next, directory: node.directory };
    let mut fake = FakeTor::start(after.directory.path(), Facts { circuits: there, first: 80, ..FACTS });
    let serving = after.serve(&fake).await;
    assert_eq!(fake.so_far(), ["CLOSECIRCUIT 77", "SETCONF __LeaveStreamsUnattached=0"]);
    let function = after.broker(2);
    function.circuit(&given()).await.unwrap();
    std::mem::forget(function);
    serving.abort();
    // Another Tor has circuits of the same numbers, which are somebody's.
    let last = Node { tor: Tor::new(after.tor.bounds, after.directory.path().join("sockets")), directory: after.directory };
    let mut fake = FakeTor::start(last.directory.path(), Facts { pid: 9000, circuits: &["80 BUILT PURPOSE=CONTROLLER"], first: 90 });
    let _serving = last.serve(&fake).await;
    assert!(fake.so_far().is_empty());
}
