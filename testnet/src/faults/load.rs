//! What clients do while something is killed: short calls, long conversations, runs, installs, connections of functions.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use super::{
    chance::Chance,
    client::{End, Function, Sent, Way, run},
};

/// Functions of clients who may not know whether they are installed.
pub(crate) type Visitors = Arc<Mutex<Vec<Function>>>;

const MANIFEST: &str = r#"
name = "fault"
methods = ["hello", "echo", "slow", "far"]
[needs]
cpu = "500 s"
traffic = "900 MiB"
lifetime = "1 h"
memory = "96 MiB"
processes = 16
invocations = 6
calls = ["net.connect"]
connect = ["accept 127.0.0.1:*"]
"#;

const CODE: &str = r"
import time

def hello(api, name):
    api.output.write(name.encode())

def echo(api):
    for chunk in api.input:
        api.output.write(chunk)

def slow(api, pieces):
    for number in range(pieces):
        api.output.write(bytes([65 + number % 26]) * 3000)
        time.sleep(0.02)

def far(api, port, count):
    with api.connect('127.0.0.1', port) as stream:
        stream.sendall(b'f' * count)
        left = count
        while left:
            left -= len(stream.recv(65536)) or left
    api.output.write(b'back')
";

pub(crate) fn archive() -> std::io::Result<Vec<u8>> {
    super::client::bundle(MANIFEST, CODE)
}

/// Somebody for functions to connect to, who sends everything back.
pub(crate) async fn far_host() -> std::io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut chunk = vec![0; 16 * 1024];
                while let Ok(length @ 1..) = stream.read(&mut chunk).await {
                    if stream.write_all(&chunk[..length]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(port)
}

/// One request that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// Whose function it was; none for one that was there for this request alone.
    pub(crate) function: Option<usize>,
    pub(crate) what: &'static str,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) end: End,
}

/// Clients that ask until they are told to stop.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    events: Arc<Mutex<Vec<Event>>>,
}

struct Worker {
    function: Option<usize>,
    stop: watch::Receiver<bool>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Worker {
    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits for a request, checks what came back, and keeps how it ended.
    async fn note(&self, what: &'static str, wanted: impl AsRef<[u8]>, asking: impl Future<Output = End>) -> bool {
        let began = Instant::now();
        let mut end = asking.await;
        if let End::Whole(body) = &end
            && body.as_ref() != wanted.as_ref()
        {
            end = End::Odd(format!("called whole, with {} bytes in place of {}", body.len(), wanted.as_ref().len()));
        }
        let whole = matches!(end, End::Whole(_));
        let event = Event { function: self.function, what, began, ended: Instant::now(), end };
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        if !whole {
            // Whoever is turned away does not come back at once.
            sleep(Duration::from_millis(30)).await;
        }
        whole
    }
}

impl Load {
    pub(crate) fn start(
        way: &Way,
        functions: &[Function],
        archive: &Arc<Vec<u8>>,
        (far, visitors): (u16, &Visitors),
        chance: &Chance,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut load = Self { stop, tasks: JoinSet::new(), events: Arc::default() };
        let worker = |function| Worker { function, stop: stopped.clone(), events: Arc::clone(&load.events) };
        for (number, function) in functions.iter().enumerate() {
            load.tasks.spawn(converse(worker(Some(number)), way.clone(), function.clone(), number));
            load.tasks.spawn(call(worker(Some(number)), way.clone(), function.clone(), far, chance.branch(number as u64)));
        }
        load.tasks.spawn(visit(worker(None), way.clone(), (Arc::clone(archive), Arc::clone(visitors)), chance.branch(1000)));
        load
    }

    /// Lets everybody finish, and tells how everything ended.
    pub(crate) async fn end(mut self) -> Vec<Event> {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One invocation as long as the round: what is not hit must go on through everything.
async fn converse(worker: Worker, way: Way, function: Function, number: usize) {
    let chunk = Bytes::from(vec![b'0' + number as u8; 700]);
    while !worker.stopped() {
        let count = Arc::new(AtomicUsize::new(0));
        let sent = Sent::Drip(chunk.clone(), Duration::from_millis(15), worker.stop.clone(), Arc::clone(&count));
        let began = Instant::now();
        let mut end = function.invoke(&way, "echo", json!({}), sent).await;
        if let End::Whole(body) = &end
            && (!body.iter().all(|byte| *byte == chunk[0]) || body.len() != count.load(Ordering::Relaxed))
        {
            end = End::Odd(format!("of a conversation of {} bytes {} came back", count.load(Ordering::Relaxed), body.len()));
        }
        let whole = matches!(end, End::Whole(_));
        let event = Event { function: worker.function, what: "conversation", began, ended: Instant::now(), end };
        worker.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        if !whole {
            sleep(Duration::from_millis(30)).await;
        }
    }
}

async fn call(worker: Worker, way: Way, function: Function, far: u16, mut chance: Chance) {
    while !worker.stopped() {
        match chance.below(4) {
            0 => {
                let name = format!("n{}", chance.below(1_000_000));
                let asking = function.invoke(&way, "hello", json!({ "name": name }), Sent::All(Vec::new()));
                worker.note("hello", &name, asking).await;
            }
            1 => {
                let input = vec![b'e'; 1 + chance.below(200_000)];
                let asking = function.invoke(&way, "echo", json!({}), Sent::All(input.clone()));
                worker.note("echo", &input, asking).await;
            }
            2 => {
                let pieces = 1 + chance.below(12);
                let wanted: Vec<u8> = (0..pieces).flat_map(|number| vec![65 + (number % 26) as u8; 3000]).collect();
                let asking = function.invoke(&way, "slow", json!({ "pieces": pieces }), Sent::All(Vec::new()));
                worker.note("slow", &wanted, asking).await;
            }
            _ => {
                let arguments = json!({ "port": far, "count": 1 + chance.below(150_000) });
                worker.note("far", "back", function.invoke(&way, "far", arguments, Sent::All(Vec::new()))).await;
            }
        }
    }
}

/// Functions that are there for a moment: in one request, in three, or left by their client in the middle.
async fn visit(worker: Worker, way: Way, (archive, visitors): (Arc<Vec<u8>>, Visitors), mut chance: Chance) {
    while !worker.stopped() {
        match chance.below(3) {
            0 => {
                worker.note("run", "r", run(&way, &archive, "hello", json!({ "name": "r" }))).await;
            }
            1 => {
                let function = Function::new(&mut chance);
                visitors.lock().unwrap_or_else(PoisonError::into_inner).push(function.clone());
                if worker.note("install", "", async { without_body(function.install(&way, &archive).await) }).await {
                    worker.note("hello", "v", function.invoke(&way, "hello", json!({ "name": "v" }), Sent::All(Vec::new()))).await;
                    worker.note("shutdown", "", async { without_body(function.end(&way).await) }).await;
                }
            }
            _ => {
                // Nobody waits for this one, so nothing is noted; it has to leave nothing all the same.
                let running = run(&way, &archive, "slow", json!({ "pieces": 50 }));
                let _ = tokio::time::timeout(chance.between(Duration::ZERO, Duration::from_millis(400)), running).await;
            }
        }
    }
}

fn without_body(end: End) -> End {
    match end {
        End::Whole(_) => End::Whole(Bytes::new()),
        other => other,
    }
}
