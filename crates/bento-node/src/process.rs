//! A function's process in its jail: started, loaded, spoken with, and seen to its end.

use std::{
    collections::HashMap,
    io,
    num::NonZeroU16,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    sync::{OwnedSemaphorePermit, oneshot},
    task::JoinSet,
    time::{Duration, Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use bento_jail::Report;
use bento_proto::{Bound, Outcome, Refusal, SealKey, limits};

use crate::{
    broker::{self, Broker},
    container::Container,
    jail::{self, ENDED_DEADLINE, Jail, Ready, Trouble, cpu_of},
    link::{Call, CallError, CallErrorKind, FRAME_BYTES_MAX, FromFunction, Link, Load, ToFunction, Violation, stream_pair},
    meter::{self, Way},
    remote::{self, Begun},
    share::Held,
    store::{StoreError, Vault},
    storing::{self, Writers},
};

/// What an outgoing connection counts for in traffic, in bytes, before its first byte: about the cells and packets that making one takes.
pub(crate) const TRY_BYTES: usize = 1024;

/// Longest text that a function may log in one line, in characters.
const LOG_CHARS_MAX: usize = 1000;

/// A running function.
#[derive(Debug)]
pub struct Process {
    link: Link,
    /// What it has begun on other nodes and not heard the end of.
    pub(crate) begun: Begun,
    /// Its process id as seen from the node.
    pub pid: u32,
    /// Holds it to its share, unless it ended at once.
    held: Option<Held>,
    /// Nothing, when no more are taken.
    slots: Mutex<Option<Slots>>,
    next: AtomicU64,
    /// To what its function keeps on disk. Gone with the process.
    key: Option<SealKey>,
    /// What its function keeps, open as long as it runs.
    vault: tokio::sync::OnceCell<Vault>,
    /// What it is writing to its store.
    pub(crate) writers: Writers,
    /// What it has of Tor.
    broker: Broker,
    /// Raised when it does not read its socket: it is then ended.
    deaf: CancellationToken,
    /// Raised when the process has ended and all its invocations know.
    pub gone: CancellationToken,
}

/// The invocations that are going on.
#[derive(Debug)]
struct Slots {
    open: HashMap<u64, Slot>,
    /// When the last one ended.
    since: Instant,
}

/// One invocation that is going on.
#[derive(Debug)]
struct Slot {
    outcome: oneshot::Sender<Outcome>,
    declared: Arc<Declared>,
    _permit: OwnedSemaphorePermit,
}

/// What a function says of an invocation's output before its first byte.
#[derive(Debug, Default)]
pub struct Declared {
    /// Its length in bytes.
    pub length: OnceLock<u64>,
    /// What it is, for a browser.
    pub kind: OnceLock<Kind>,
}

/// What an output is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kind {
    /// Its media type (RFC 9110, section 8.3).
    pub media: String,
    /// The name under which it is to be saved, if it is.
    pub name: Option<String>,
}

/// The node's side of an invocation.
#[derive(Debug)]
pub struct Invocation {
    /// Its number.
    pub number: u64,
    /// Reading gives the output, writing the input.
    pub stream: UnixStream,
    /// How it ended.
    pub outcome: oneshot::Receiver<Outcome>,
    /// What was said of the output.
    pub declared: Arc<Declared>,
    /// Where it runs.
    pub process: Arc<Process>,
}

/// Why a process did not start.
#[derive(Debug)]
pub enum StartError {
    /// For the client.
    Refused(Refusal),
    /// The node's own.
    Trouble(Trouble),
}

impl Process {
    /// Starts a process for a container and loads its code.
    ///
    /// # Errors
    /// When the code does not load, or the node cannot start it.
    pub async fn start(container: &Arc<Container>, cpu_left: u64, key: Option<SealKey>) -> Result<Arc<Self>, StartError> {
        let node = &container.node;
        let spec = jail::spec(&container.grant, &container.image, cpu_left);
        let Ready { link, mut jail } = node.pool.take(&spec).await.map_err(StartError::Trouble)?;
        let held = jail.charge(container).map_err(StartError::Trouble)?;
        let process = Arc::new(Self {
            link,
            begun: Begun::default(),
            pid: jail.pid,
            held,
            slots: Mutex::new(Some(Slots { open: HashMap::new(), since: Instant::now() })),
            next: AtomicU64::new(1),
            key,
            vault: tokio::sync::OnceCell::new(),
            writers: Writers::default(),
            broker: node.tor.broker(container),
            deaf: CancellationToken::new(),
            gone: CancellationToken::new(),
        });
        let loading = async {
            tokio::select! {
                loaded = process.load(container, &mut jail) => loaded,
                () = container.over.cancelled() => Err(StartError::Refused(container.refusal())),
            }
        };
        let late = || StartError::Refused(unloadable(format!("it did not load within {}", node.limits.load)));
        if let Err(error) = timeout(node.limits.load.duration(), loading).await.unwrap_or_else(|_| Err(late())) {
            jail.settle().await;
            return Err(error);
        }
        // Its rest begins now: what it took to load is no time in which nobody wanted it.
        if let Some(slots) = &mut *process.slots() {
            slots.since = Instant::now();
        }
        tokio::spawn(Arc::clone(&process).supervise(Arc::clone(container), jail));
        Ok(process)
    }

    /// Sends the code and waits for the runtime's word.
    async fn load(&self, container: &Container, jail: &mut Jail) -> Result<(), StartError> {
        let manifest = &container.bundle.manifest;
        let files = container.bundle.files.iter();
        let frame = ToFunction::Load {
            load: Load {
                code: &manifest.code,
                methods: &manifest.methods,
                files: files.clone().map(|(name, content)| (name.as_str(), content.len())).collect(),
            },
        };
        let (mut ours, theirs) = stream_pair().map_err(|error| StartError::Trouble(Trouble::System("making a stream", error)))?;
        let broken = |violation: Violation| StartError::Refused(unloadable(violation.to_string()));
        if let Err(violation) = self.link.send(&frame, Some(theirs.as_fd())).await {
            // A process that ended explains more than the socket it left.
            return Err(self.ended_while_loading(container, jail).await.unwrap_or_else(|| broken(violation)));
        }
        drop(theirs);
        let sending = async {
            for (_, content) in files {
                ours.write_all(content).await?;
            }
            ours.shutdown().await
        };
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let mut pace = Pace::new();
        let receiving = async {
            loop {
                match self.link.receive(&mut buffer).await {
                    // What a function prints or asks while it is imported has no invocation to belong to.
                    Ok(Some((FromFunction::Call(call), bytes))) => {
                        pace.wait(bytes).await;
                        let answer = match call.name.as_str() {
                            "log" => container.log(&call),
                            _ => Err(CallError::new(CallErrorKind::BadCall, "while it is loaded, a function may only log")),
                        };
                        answer_call(&self.link, call.number, answer, None).await.map_err(broken)?;
                    }
                    other => return Ok(other),
                }
            }
        };
        // The sending fails when the process ends; what the receiving then says is the better reason.
        let (_, received) = tokio::join!(sending, receiving);
        match received? {
            Ok(Some((FromFunction::Loaded, _))) => Ok(()),
            Ok(Some((FromFunction::Unloadable(unloadable), _))) => Err(StartError::Refused(Refusal::Unloadable {
                error: clip(&unloadable.error, limits::ERROR_CHARS_MAX),
                traceback: clip(&unloadable.traceback, limits::TRACEBACK_CHARS_MAX),
            })),
            Ok(Some(_)) => Err(broken(Violation::NoFrame)),
            Ok(None) => Err(self
                .ended_while_loading(container, jail)
                .await
                .unwrap_or_else(|| StartError::Refused(unloadable("its process ended".into())))),
            Err(violation) => Err(broken(violation)),
        }
    }

    async fn ended_while_loading(&self, container: &Container, jail: &mut Jail) -> Option<StartError> {
        let report = timeout(ENDED_DEADLINE, jail.report()).await.ok()?.ok()??;
        Some(match ended(container, &report, jail.out_of_memory()) {
            Outcome::Killed { bound } => StartError::Refused(Refusal::Spent(bound)),
            outcome => StartError::Refused(unloadable(outcome.to_string())),
        })
    }

    /// Starts an invocation, or does nothing when the process has ended: the caller may start another.
    ///
    /// # Errors
    /// When the system has no more sockets.
    pub async fn invoke(
        self: &Arc<Self>,
        method: &str,
        arguments: &RawValue,
        seconds: f64,
        permit: OwnedSemaphorePermit,
    ) -> Result<Option<Invocation>, io::Error> {
        let (stream, theirs) = stream_pair()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (outcome, receiver) = oneshot::channel();
        let declared = Arc::new(Declared::default());
        let slot = Slot { outcome, declared: Arc::clone(&declared), _permit: permit };
        match &mut *self.slots() {
            Some(slots) => slots.open.insert(number, slot),
            None => return Ok(None),
        };
        if let Some(held) = &self.held {
            held.wake();
        }
        // A client that leaves while the function does not read takes its place with it.
        let unsent = Unsent(self, number);
        let sent = self.link.send(&ToFunction::Invoke { invoke: number, method, arguments, seconds }, Some(theirs.as_fd())).await;
        std::mem::forget(unsent);
        match sent {
            Ok(()) => {}
            // It is ended, and this is told to this invocation as to all others.
            Err(Violation::Deaf) => self.deaf.cancel(),
            // It is ending and never heard of this one.
            Err(Violation::Socket(error)) if [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&error.kind()) => {
                self.close(number);
                return Ok(None);
            }
            Err(violation) => {
                self.close(number);
                return Err(io::Error::other(violation));
            }
        }
        Ok(Some(Invocation { number, stream, outcome: receiver, declared, process: Arc::clone(self) }))
    }

    /// What it has of Tor.
    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Tells the function that nobody waits for an invocation any more.
    pub async fn cancel(&self, number: u64) {
        let _ = self.link.send(&ToFunction::Cancel { cancel: number }, None).await;
    }

    /// Its function's socket.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Invocations going on.
    pub fn running(&self) -> usize {
        self.slots().as_ref().map_or(0, |slots| slots.open.len())
    }

    /// CPU time so far, from the kernel's own account.
    pub fn cpu_ms(&self) -> u64 {
        cpu_of(self.pid).unwrap_or(0)
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Option<Slots>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an invocation out of the table.
    fn close(&self, number: u64) -> Option<Slot> {
        let mut slots = self.slots();
        let slots = slots.as_mut()?;
        slots.since = Instant::now();
        slots.open.remove(&number)
    }

    /// Waits until there was no invocation for so long, and then takes no more.
    async fn rested(&self, sleep: Duration) {
        loop {
            let left = {
                let mut slots = self.slots();
                let rest = slots.as_ref().filter(|slots| slots.open.is_empty()).map_or(Duration::ZERO, |slots| slots.since.elapsed());
                if rest >= sleep {
                    *slots = None;
                }
                sleep.saturating_sub(rest)
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// Answers its calls until it ends or is ended, then tells every invocation how.
    async fn supervise(self: Arc<Self>, container: Arc<Container>, mut jail: Jail) {
        let mut calls = JoinSet::new();
        let outcome = tokio::select! {
            biased;
            () = container.over.cancelled() => None,
            () = container.meter.exhausted.cancelled() => { container.end(Bound::Traffic); None }
            () = self.deaf.cancelled() => Some(Err(Violation::Deaf)),
            // It sleeps until the next invocation, and none is there to be told.
            () = self.rested(container.node.limits.sleep.duration()), if !container.grant.keep_awake() => None,
            listened = self.listen(&container, &mut calls) => Some(listened),
        };
        let outcome = match outcome {
            None => Outcome::Killed { bound: container.reason().unwrap_or(Bound::Stop) },
            Some(Err(violation)) => Outcome::Failed { error: format!("violation: {violation}"), traceback: String::new() },
            Some(Ok(())) => match timeout(ENDED_DEADLINE, jail.report()).await {
                Ok(Ok(Some(report))) => ended(&container, &report, jail.out_of_memory()),
                _ => Outcome::Failed { error: "the function's process ended".into(), traceback: String::new() },
            },
        };
        jail.settle().await;
        if let Some(key) = &self.key {
            container.keep.settle(key.clone(), container.used()).await;
        }
        // Ends what is left of it: the jail dies with the program that put it up.
        jail.kill().await;
        calls.shutdown().await;
        self.writers.clear();
        self.broker.close().await;
        let slots = self.slots().take();
        self.gone.cancel();
        for slot in slots.into_iter().flat_map(|slots| slots.open.into_values()) {
            let _ = slot.outcome.send(outcome.clone());
        }
        container.forget(&self).await;
    }

    async fn listen(self: &Arc<Self>, container: &Arc<Container>, calls: &mut JoinSet<()>) -> Result<(), Violation> {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let mut pace = Pace::new();
        while let Some((frame, bytes)) = self.link.receive(&mut buffer).await? {
            while calls.try_join_next().is_some() {}
            pace.wait(bytes).await;
            match frame {
                FromFunction::Done { done, outcome } => {
                    let slot = self.close(done).ok_or(Violation::NoFrame)?;
                    let _ = slot.outcome.send(believed(outcome));
                }
                FromFunction::Call(call) => match call.name.as_str() {
                    "log" => answer_call(&self.link, call.number, container.log(&call), None).await?,
                    "output.length" => answer_call(&self.link, call.number, self.declare_length(&call), None).await?,
                    "output.type" => answer_call(&self.link, call.number, self.declare_kind(&call), None).await?,
                    "net.connect" => match connect_permit(container) {
                        Err(error) => answer_call(&self.link, call.number, Err(error), None).await?,
                        Ok(permits) => {
                            let (process, container) = (Arc::clone(self), Arc::clone(container));
                            calls.spawn(async move {
                                process.connect(&call, &container).await;
                                drop(permits);
                            });
                        }
                    },
                    name if name.starts_with("store.") || name.starts_with("link.") => match storing::permit(container) {
                        Err(error) => answer_call(&self.link, call.number, Err(error), None).await?,
                        Ok(permit) => {
                            let (process, container) = (Arc::clone(self), Arc::clone(container));
                            calls.spawn(async move {
                                storing::serve(&process, &container, &call).await;
                                drop(permit);
                            });
                        }
                    },
                    name if broker::serves(name) => match broker::permit(container) {
                        Err(error) => answer_call(&self.link, call.number, Err(error), None).await?,
                        Ok(permits) => {
                            let (process, container) = (Arc::clone(self), Arc::clone(container));
                            calls.spawn(async move {
                                broker::serve(&process, &container, &call).await;
                                drop(permits);
                            });
                        }
                    },
                    name if remote::serves(name) => match remote::permit(container, name) {
                        Err(error) => answer_call(&self.link, call.number, Err(error), None).await?,
                        Ok(permits) => {
                            let (process, container) = (Arc::clone(self), Arc::clone(container));
                            calls.spawn(async move {
                                remote::serve(&process, &container, &call).await;
                                drop(permits);
                            });
                        }
                    },
                    _ => {
                        let error = CallError::new(CallErrorKind::BadCall, "there is no such call");
                        answer_call(&self.link, call.number, Err(error), None).await?;
                    }
                },
                FromFunction::Loaded | FromFunction::Unloadable(_) => return Err(Violation::NoFrame),
            }
        }
        Ok(())
    }

    /// What was said of the output of the invocation that makes a call.
    fn declared(&self, call: &Call) -> Result<Arc<Declared>, CallError> {
        let slots = self.slots();
        let slot = call.invocation.zip(slots.as_ref()).and_then(|(number, slots)| slots.open.get(&number));
        slot.map(|slot| Arc::clone(&slot.declared)).ok_or_else(|| CallError::new(CallErrorKind::BadCall, "there is no such invocation"))
    }

    fn declare_length(&self, call: &Call) -> Result<Value, CallError> {
        #[derive(Deserialize)]
        struct Length {
            bytes: u64,
        }
        let Length { bytes } = call.arguments("output.length takes `bytes`, a whole number")?;
        let twice = |_| CallError::new(CallErrorKind::BadCall, "the output's length is already declared");
        self.declared(call)?.length.set(bytes).map_err(twice)?;
        Ok(Value::Null)
    }

    fn declare_kind(&self, call: &Call) -> Result<Value, CallError> {
        #[derive(Deserialize)]
        struct Type {
            #[serde(rename = "type")]
            media: String,
            name: Option<String>,
        }
        let bad = |text| CallError::new(CallErrorKind::BadCall, text);
        let Type { media, name } = call.arguments("output.type takes `type`, a text, and `name`, a text or null")?;
        // Becomes a header.
        let is_plain = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !is_plain(&media, 100) || !media.contains('/') {
            return Err(bad("a type is a media type such as text/html; charset=utf-8"));
        }
        if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > 255 || name.chars().any(|c| c.is_control() || c == '/')) {
            return Err(bad("a name is a file name: at most 255 bytes, without `/` and control characters"));
        }
        self.declared(call)?.kind.set(Kind { media, name }).map_err(|_| bad("the output's type is already declared"))?;
        Ok(Value::Null)
    }

    /// What its function keeps.
    pub(crate) async fn vault(&self, container: &Container) -> Result<Vault, StoreError> {
        self.vault.get_or_try_init(|| container.keep.vault(self.key.as_ref())).await.cloned()
    }

    /// The key to what its function keeps.
    pub(crate) fn key(&self) -> Option<&SealKey> {
        self.key.as_ref()
    }

    async fn connect(&self, call: &Call, container: &Container) {
        #[derive(Deserialize)]
        struct Place {
            host: String,
            port: NonZeroU16,
        }
        let connected = async {
            let Place { host, port } = call.arguments("net.connect takes `host`, a text, and `port`, 1 to 65535")?;
            let port = port.get();
            container.grant.permits_call("net.connect").map_err(|refusal| CallError::new(CallErrorKind::Refused, refusal.to_string()))?;
            // Counted also when nothing comes of it: a try makes the node work, and Tor.
            container.meter.pass(Way::Sent, TRY_BYTES).await.map_err(|_| CallError::new(CallErrorKind::Refused, "traffic is used up"))?;
            let (far, address) = container.node.egress.connect(&host, port, &container.grant, &container.isolation).await?;
            let pair = stream_pair().map_err(|_| CallError::new(CallErrorKind::Busy, "the node has no more sockets"))?;
            Ok((far, pair, json!({"address": address.to_string(), "port": port})))
        };
        match connected.await {
            Err(error) => {
                let _ = answer_call(&self.link, call.number, Err(error), None).await;
            }
            Ok((far, (ours, theirs), value)) => {
                if answer_call(&self.link, call.number, Ok(value), Some(theirs)).await.is_ok() {
                    meter::join(ours, far, &container.meter).await;
                }
            }
        }
    }
}

/// Reads a function's frames no faster than this, so that one that floods its socket waits, and no neighbour does.
#[derive(Debug)]
struct Pace {
    /// When the frames so far are paid for (the generic cell rate algorithm, ITU-T I.371).
    paid: Instant,
}

impl Pace {
    /// What a frame costs, and each of its bytes: several times what reading and answering it takes.
    const FRAME: Duration = Duration::from_micros(100);
    const BYTE: Duration = Duration::from_nanos(20);
    /// What may come at once.
    const BURST: Duration = Duration::from_millis(100);

    fn new() -> Self {
        Self { paid: Instant::now() }
    }

    async fn wait(&mut self, bytes: usize) {
        let now = Instant::now();
        self.paid = self.paid.max(now) + Self::FRAME + Self::BYTE * u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.paid > now + Self::BURST {
            tokio::time::sleep_until(self.paid - Self::BURST).await;
        }
    }
}

/// Takes an invocation back that was not handed over.
struct Unsent<'a>(&'a Process, u64);

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.0.close(self.1);
    }
}

/// Room for one more stream, in the function's own bound and in the node's.
pub(crate) fn connect_permit(container: &Container) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), CallError> {
    let busy = |text| CallError::new(CallErrorKind::Busy, text);
    let own = Arc::clone(&container.connections)
        .try_acquire_owned()
        .map_err(|_| busy("the function has as many connections as its descriptors allow"))?;
    let all =
        Arc::clone(&container.node.connections).try_acquire_owned().map_err(|_| busy("the node has as many connections as it takes"))?;
    Ok((own, all))
}

pub(crate) async fn answer_call(
    link: &Link,
    call: u64,
    answer: Result<Value, CallError>,
    descriptor: Option<std::os::fd::OwnedFd>,
) -> Result<(), Violation> {
    match answer {
        Ok(ok) => link.send(&ToFunction::Done { answer: call, ok }, descriptor.as_ref().map(AsFd::as_fd)).await,
        Err(error) => link.send(&ToFunction::Not { answer: call, error }, None).await,
    }
}

/// A function's word for how it ended counts for what concerns it alone, in the lengths that travel.
fn believed(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed { error, traceback } => {
            Outcome::Failed { error: clip(&error, limits::ERROR_CHARS_MAX), traceback: clip(&traceback, limits::TRACEBACK_CHARS_MAX) }
        }
        Outcome::Killed { bound: Bound::Memory | Bound::Scratch | Bound::Processes | Bound::Descriptors } | Outcome::Returned => outcome,
        Outcome::Killed { .. } => {
            Outcome::Failed { error: "violation: it named a bound that is not its own to name".into(), traceback: String::new() }
        }
    }
}

/// What the jail's last report means.
fn ended(container: &Container, report: &Report, out_of_memory: bool) -> Outcome {
    let failed = |error: String| Outcome::Failed { error, traceback: String::new() };
    match report {
        Report::Ended { exit, signal, out_of_cpu, .. } => {
            if out_of_memory {
                return Outcome::Killed { bound: Bound::Memory };
            }
            if *out_of_cpu {
                container.end(Bound::Cpu);
                return Outcome::Killed { bound: Bound::Cpu };
            }
            match (exit, signal) {
                (_, Some(signal)) => failed(format!("the function's process was ended by signal {signal}")),
                (Some(status), _) => failed(format!("the function's process ended with status {status}")),
                _ => failed("the function's process ended".into()),
            }
        }
        _ => failed("the function's process ended".into()),
    }
}

fn unloadable(error: String) -> Refusal {
    Refusal::Unloadable { error, traceback: String::new() }
}

pub(crate) fn clip(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

/// The function's log line in a call's arguments.
pub(crate) fn log_text(call: &Call) -> Result<String, CallError> {
    #[derive(Deserialize)]
    struct Log {
        text: String,
    }
    call.arguments("log takes `text`").map(|Log { text }| clip(&text, LOG_CHARS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn frames_come_at_once_until_they_are_a_flood() {
        let (mut pace, begun) = (Pace::new(), Instant::now());
        for _ in 0..500 {
            pace.wait(200).await;
        }
        assert!(begun.elapsed().is_zero());
        for _ in 0..10_000 {
            pace.wait(200).await;
        }
        assert!(begun.elapsed() > Duration::from_millis(900));
    }
}
