//! A function's process in its jail: started, loaded, spoken with, and seen to its end.

mod account;
mod connect;
mod declared;
mod loading;

use std::{
    collections::HashMap,
    io,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    task::JoinSet,
    time::{Duration, Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use bento_jail::Report;
use bento_proto::{Bound, Outcome, Refusal, SealKey, limits};

use crate::{
    broker::{self, Broker},
    container::Container,
    controller::{self, Own, View},
    jail::{self, ENDED_DEADLINE, Jail, Ready, Trouble},
    link::{Call, CallError, CallErrorKind, FRAME_BYTES_MAX, FromFunction, Link, ToFunction, Violation, stream_pair},
    machines::{self, Machines},
    pace::Pace,
    remote::{self, Begun},
    sending::Sending,
    share::Held,
    store::{StoreError, Vault},
    storing::{self, Writers},
};

use account::Account;
use loading::unloadable;

pub(crate) use connect::{TRY_BYTES, connect_permit};
pub use declared::{Declared, Kind};

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
    account: Account,
    /// Its Maybenot machines.
    machines: Machines,
    /// What it has of Tor.
    broker: Arc<Broker>,
    /// What its control connections show of it, once there is one.
    view: OnceLock<Arc<View<Own>>>,
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
    sends: mpsc::Sender<Sending>,
    _permit: OwnedSemaphorePermit,
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
    /// Stored bytes that the function puts into the output.
    pub sends: mpsc::Receiver<Sending>,
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
            account: Account::default(),
            machines: Machines::default(),
            broker: Arc::new(node.tor.broker(container)),
            view: OnceLock::new(),
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
        // One at a time: whoever sends waits until it is sent.
        let (sender, sends) = mpsc::channel(1);
        let slot = Slot { outcome, declared: Arc::clone(&declared), sends: sender, _permit: permit };
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
            // One that does not read is ended, and this invocation is told so as all others.
            Ok(()) | Err(Violation::Deaf) => {}
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
        Ok(Some(Invocation { number, stream, outcome: receiver, declared, sends, process: Arc::clone(self) }))
    }

    /// What its control connections show.
    pub(crate) fn view(&self, container: &Container) -> Arc<View<Own>> {
        Arc::clone(self.view.get_or_init(|| View::new(Arc::new(Own::new(Arc::clone(&self.broker), container)))))
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
            () = container.cpu.exhausted.cancelled() => { container.end(Bound::Cpu); None }
            () = self.link.deaf() => Some(Err(Violation::Deaf)),
            // It sleeps until the next invocation, and none is there to be told.
            () = self.rested(container.node.limits.sleep.duration()), if !container.grant.keep_awake() => None,
            () = self.keep_account(&container) => None,
            listened = self.listen(&container, &mut calls) => Some(listened),
        };
        let outcome = match outcome {
            None => Outcome::Killed { bound: container.reason().unwrap_or(Bound::Stop) },
            Some(Err(violation)) => Outcome::Failed { error: format!("violation: {violation}"), traceback: String::new() },
            // One that only closed its socket has not ended, and must not outlive its container meanwhile.
            Some(Ok(())) => tokio::select! {
                reported = timeout(ENDED_DEADLINE, jail.report()) => match reported {
                    Ok(Ok(Some(report))) => ended(&container, &report, jail.out_of_memory()),
                    _ => Outcome::Failed { error: "the function's process ended".into(), traceback: String::new() },
                },
                () = container.over.cancelled() => Outcome::Killed { bound: container.reason().unwrap_or(Bound::Stop) },
            },
        };
        jail.settle().await;
        // Ends what is left of it: the jail dies with the program that put it up. At once, since what it computes from here on counts for nobody.
        jail.kill().await;
        let _ = self.write_down(&container).await;
        calls.shutdown().await;
        self.writers.clear();
        if let Some(view) = self.view.get() {
            view.end();
        }
        self.broker.close().await;
        let slots = self.slots().take();
        self.gone.cancel();
        for Slot { outcome: told, .. } in slots.into_iter().flat_map(|slots| slots.open.into_values()) {
            let _ = told.send(outcome.clone());
        }
        container.forget(&self).await;
    }

    async fn listen(self: &Arc<Self>, container: &Arc<Container>, calls: &mut JoinSet<()>) -> Result<(), Violation> {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let mut pace = Pace::new();
        while let Some((frame, bytes)) = self.link.receive(&mut buffer).await? {
            while calls.try_join_next().is_some() {}
            pace.wait(bytes).await;
            // Calls that take something of the node are bounded by that; this bounds those that only wait, as long as they are not read.
            if let FromFunction::Call(call) = &frame
                && calls.len() >= container.calls_max()
            {
                let error = CallError::new(CallErrorKind::Busy, "the function has as many calls under way as it may");
                answer_call(&self.link, call.number, Err(error), None).await?;
                continue;
            }
            match frame {
                FromFunction::Done { done, outcome } => {
                    // Its place is free before its client can know that it has ended, and ask for the next.
                    let Slot { outcome: told, .. } = self.close(done).ok_or(Violation::NoFrame)?;
                    let _ = told.send(believed(outcome));
                }
                FromFunction::Call(call) => match call.name.as_str() {
                    "log" => answer_call(&self.link, call.number, container.log(&call).await, None).await?,
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
                    name if controller::serves(name) => {
                        let (process, container) = (Arc::clone(self), Arc::clone(container));
                        calls.spawn(async move { controller::serve(&process, &container, &call).await });
                    }
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
                    name if machines::serves(name) => {
                        if name == "maybenot.start" {
                            pace.wait(machines::START_BYTES).await;
                        }
                        answer_call(&self.link, call.number, self.machines.serve(container, &call), None).await?;
                    }
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

    /// What its function keeps.
    pub(crate) async fn vault(&self, container: &Container) -> Result<Vault, StoreError> {
        self.vault.get_or_try_init(|| container.keep.vault(self.key.as_ref())).await.cloned()
    }

    /// The key to what its function keeps.
    pub(crate) fn key(&self) -> Option<&SealKey> {
        self.key.as_ref()
    }
}

/// Takes an invocation back that was not handed over.
struct Unsent<'a>(&'a Process, u64);

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.0.close(self.1);
    }
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
