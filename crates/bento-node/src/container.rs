//! One installed function from install to its end.
//!
//! While its process runs, the key to what it keeps on disk is in memory, with the process. Its code is in memory as long as the node runs.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use serde_json::{Value, value::RawValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use bento_proto::{Bound, Grant, Refusal, SealKey, Size, Span, bundle::Bundle, limits::LOG_LINES_MAX, node::FunctionStatus};
use bento_tor::Isolation;

use crate::{
    archive,
    broker::Tor,
    config::{Known, Limits},
    cpu::Cpu,
    detached::Detached,
    egress::Egress,
    image::Image,
    jail::Trouble,
    keep::Keep,
    lease::Lease,
    link::{Call, CallError, CallErrorKind},
    meter::{Meter, Way},
    pool::Pool,
    process::{Invocation, Process, StartError, log_text},
    remote::Elsewhere,
    share::Shares,
    store::{Registry, Used},
};

/// One function gets at most this part of the node's connections.
const SHARE: usize = 4;

/// Calls to its store that one function may have under way: each may hold a thread that waits for the disk.
const STORING_MAX: usize = 16;

/// Calls of one function that may be under way besides those that have a stream: each has a frame of up to 16 KiB in the node's memory.
const CALLS_MAX: usize = 128;

/// Kept outputs of one function that are fetched at the same time: each has up to 0.3 MB in the node's memory while its client reads slowly.
const FETCHES_MAX: usize = 8;

/// What all containers of a node share.
#[derive(Debug)]
pub struct Host {
    /// Jails, some of them ready.
    pub pool: Arc<Pool>,
    /// Holds functions to their part of the CPU.
    pub shares: Shares,
    /// The ways out.
    pub egress: Egress,
    /// What functions have of Tor itself.
    pub tor: Arc<Tor>,
    /// What is on disk.
    pub registry: Registry,
    /// Nodes that functions are told of.
    pub nodes: Vec<Known>,
    /// The memory for bundles that are coming, from clients and from functions for other nodes.
    pub incoming: Arc<archive::Room>,
    /// Bounds of the node.
    pub limits: Limits,
    /// Room for functions' streams to elsewhere.
    pub connections: Arc<Semaphore>,
}

/// One installed function.
#[derive(Debug)]
pub struct Container {
    /// Its files and manifest.
    pub bundle: Bundle,
    /// What it was promised.
    pub grant: Arc<Grant>,
    /// What of the machine it may read.
    pub image: Arc<Image>,
    /// What it shares with the others.
    pub node: Arc<Host>,
    /// Its traffic.
    pub meter: Arc<Meter>,
    /// Its CPU time.
    pub cpu: Arc<Cpu>,
    /// Room for its streams to elsewhere.
    pub connections: Arc<Semaphore>,
    /// Room for its calls to its store.
    pub storing: Arc<Semaphore>,
    /// Room for outputs that are fetched.
    fetches: Arc<Semaphore>,
    /// Keeps its circuits apart from every other function's.
    pub isolation: Isolation,
    /// Through how many functions on other nodes it came.
    pub depth: u32,
    /// What it has on other nodes.
    pub elsewhere: Elsewhere,
    /// Raised when it has come to its end; [`reason`](Self::reason) then says why.
    pub over: CancellationToken,
    /// What it keeps on disk.
    pub keep: Arc<Keep>,
    /// Detached invocations whose outputs are still being written.
    pub detached: Detached,
    /// Until when it is here.
    pub lease: Arc<Lease>,
    reason: OnceLock<Bound>,
    invocations: Arc<Semaphore>,
    process: tokio::sync::Mutex<Option<Arc<Process>>>,
    log: Mutex<VecDeque<String>>,
    _room: Room,
}

/// What a function takes of its node, given back with it.
#[derive(Debug)]
pub struct Room {
    /// Its place among the functions; none for one that was here before an operator made the places fewer.
    pub place: Option<OwnedSemaphorePermit>,
    /// The bytes of its bundle.
    pub bundle: Option<OwnedSemaphorePermit>,
    /// What it may store.
    pub storage: Option<OwnedSemaphorePermit>,
}

/// All that a container is made of.
#[derive(Debug)]
pub struct Made {
    /// Its files and manifest.
    pub bundle: Bundle,
    /// What it was promised.
    pub grant: Grant,
    /// What of the machine it may read.
    pub image: Arc<Image>,
    /// Keeps its circuits apart.
    pub isolation: Isolation,
    /// What it takes of the node.
    pub room: Room,
    /// What it keeps on disk.
    pub keep: Arc<Keep>,
    /// Until when it is here.
    pub lease: Arc<Lease>,
    /// What it has used before.
    pub used: Used,
    /// How many functions stand between it and the client that began.
    pub depth: u32,
}

/// Streams to elsewhere that a function may have at the same time.
fn streams_max(grant: &Grant, node: &Host) -> usize {
    (grant.descriptors() as usize).min(node.limits.connections.div_ceil(SHARE))
}

impl Container {
    /// A container whose process starts with its first invocation.
    pub fn new(made: Made, node: Arc<Host>) -> Arc<Self> {
        let Made { bundle, grant, image, isolation, room, keep, lease, used, depth } = made;
        let container = Arc::new(Self {
            meter: Arc::new(Meter::resumed(grant.traffic().as_bytes(), grant.rate().bytes_per_second(), used.traffic)),
            cpu: Arc::new(Cpu::new(grant.cpu().duration(), grant.share().percent(), Duration::from_millis(used.cpu_ms))),
            connections: Arc::new(Semaphore::new(streams_max(&grant, &node))),
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            storing: Arc::new(Semaphore::new((grant.descriptors() as usize).min(STORING_MAX))),
            invocations: Arc::new(Semaphore::new(grant.invocations() as usize)),
            bundle,
            grant: Arc::new(grant),
            image,
            node,
            isolation,
            depth,
            elsewhere: Elsewhere::resumed(&used.away),
            over: CancellationToken::new(),
            keep,
            detached: Detached::default(),
            lease,
            reason: OnceLock::new(),
            process: tokio::sync::Mutex::default(),
            log: Mutex::default(),
            _room: room,
        });
        // Holds no strong reference: a container that was shut down is not kept until the end of its lifetime.
        let (weak, over, lease) = (Arc::downgrade(&container), container.over.clone(), Arc::clone(&container.lease));
        tokio::spawn(async move {
            tokio::select! {
                () = lease.over() => if let Some(container) = weak.upgrade() { container.end(Bound::Lifetime) },
                () = over.cancelled() => {}
            }
        });
        container
    }

    /// Makes a container and starts its process, so that code that cannot be loaded is told at once.
    ///
    /// # Errors
    /// When the code does not load, or the node fails.
    pub async fn launch(made: Made, node: Arc<Host>, key: Option<&SealKey>) -> Result<Arc<Self>, StartError> {
        let container = Self::new(made, node);
        // A client that leaves while its code is loaded drops this future; the container must not wait for a lifetime that nobody has.
        let abandoned = container.over.clone().drop_guard();
        match container.awake(key).await {
            Ok(_) => {
                abandoned.disarm();
                Ok(container)
            }
            Err(error) => {
                container.end(Bound::Shutdown);
                Err(error)
            }
        }
    }

    /// Ends it. The first reason stays.
    pub fn end(&self, reason: Bound) {
        let _ = self.reason.set(reason);
        self.over.cancel();
    }

    /// Why it ended, if it did.
    pub fn reason(&self) -> Option<Bound> {
        self.reason.get().copied()
    }

    /// What to tell who asks for it after its end.
    pub fn refusal(&self) -> Refusal {
        match self.reason() {
            Some(Bound::Shutdown) | None => Refusal::UnknownToken,
            Some(Bound::Stop) => Refusal::Stopping,
            Some(bound) => Refusal::Spent(bound),
        }
    }

    /// Starts an invocation. The key is that to its store, where it is kept.
    ///
    /// # Errors
    /// When the method does not exist, too many run, or the function has come to its end.
    pub async fn invoke(self: &Arc<Self>, method: &str, arguments: &RawValue, key: Option<&SealKey>) -> Result<Invocation, StartError> {
        let manifest = &self.bundle.manifest;
        if !manifest.methods.iter().any(|known| known == method) {
            let refusal = Refusal::UnknownMethod { method: crate::process::clip(method, 64), methods: manifest.methods.join(", ") };
            return Err(StartError::Refused(refusal));
        }
        self.alive().map_err(StartError::Refused)?;
        let busy = || StartError::Refused(Refusal::Busy { what: "invocations of this function", limit: self.grant.invocations().into() });
        // A process may end between the look-up and the hand-over; the second one that does so ends by its own doing.
        let mut counted = false;
        for _ in 0..2 {
            let permit = Arc::clone(&self.invocations).try_acquire_owned().map_err(|_| busy())?;
            if !counted {
                // They travel in a header, and are read by the function as its input is.
                tokio::select! {
                    _ = self.meter.pass(Way::Received, arguments.get().len()) => {}
                    () = self.over.cancelled() => {}
                }
                counted = true;
                self.alive().map_err(StartError::Refused)?;
            }
            let process = self.awake(key).await?;
            let left = self.lease.left().as_secs_f64();
            let begun = process.invoke(method, arguments, left, permit).await;
            match begun.map_err(|error| StartError::Trouble(Trouble::System("handing over an invocation", error)))? {
                Some(invocation) => return Ok(invocation),
                None => {
                    process.gone.cancelled().await;
                    self.alive().map_err(StartError::Refused)?;
                }
            }
        }
        Err(StartError::Refused(Refusal::Unloadable { error: "its process ended at once".into(), traceback: String::new() }))
    }

    /// Room for one more client that fetches a kept output.
    ///
    /// # Errors
    /// When there is none.
    pub fn fetch(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let busy = |_| Refusal::Busy { what: "clients that fetch outputs of this function", limit: FETCHES_MAX as u64 };
        Arc::clone(&self.fetches).try_acquire_owned().map_err(busy)
    }

    /// Calls that it may have under way, streams that were handed over included.
    pub fn calls_max(&self) -> usize {
        streams_max(&self.grant, &self.node) + CALLS_MAX
    }

    fn alive(&self) -> Result<(), Refusal> {
        // Its process will be told so as well, perhaps a moment later.
        if self.meter.exhausted.is_cancelled() {
            self.end(Bound::Traffic);
        }
        if self.cpu.exhausted.is_cancelled() {
            self.end(Bound::Cpu);
        }
        if self.over.is_cancelled() { Err(self.refusal()) } else { Ok(()) }
    }

    /// Its process, started if there is none.
    ///
    /// # Errors
    /// When its code does not load, it has come to its end, or the node fails.
    pub async fn awake(self: &Arc<Self>, key: Option<&SealKey>) -> Result<Arc<Process>, StartError> {
        let mut process = self.process.lock().await;
        self.alive().map_err(StartError::Refused)?;
        if let Some(process) = process.as_ref().filter(|process| !process.gone.is_cancelled()) {
            return Ok(Arc::clone(process));
        }
        let cpu_left = u64::try_from(self.cpu.left().as_millis()).unwrap_or(u64::MAX);
        if cpu_left == 0 {
            self.end(Bound::Cpu);
            return Err(StartError::Refused(self.refusal()));
        }
        let started = Process::start(self, cpu_left, key.cloned()).await?;
        *process = Some(Arc::clone(&started));
        Ok(started)
    }

    /// Keeps nothing of a process that has ended.
    pub async fn forget(&self, ended: &Arc<Process>) {
        self.process.lock().await.take_if(|process| Arc::ptr_eq(process, ended));
    }

    /// Keeps a line for the function's own client. It counts when it is said, not when it is read.
    ///
    /// # Errors
    /// When the call has no text, or the function no traffic.
    pub async fn log(&self, call: &Call) -> Result<Value, CallError> {
        let text = log_text(call)?;
        let passed = self.meter.pass(Way::Sent, text.len()).await;
        passed.map_err(|_| CallError::new(CallErrorKind::Refused, "traffic is used up"))?;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG_LINES_MAX {
            log.pop_front();
        }
        log.push_back(text);
        Ok(Value::Null)
    }

    /// What it has used so far.
    pub fn used(&self) -> Used {
        Used { cpu_ms: self.cpu_ms(), traffic: self.meter.used(), away: self.elsewhere.kept() }
    }

    fn cpu_ms(&self) -> u64 {
        u64::try_from(self.cpu.used().as_millis()).unwrap_or(u64::MAX)
    }

    /// Time until its end.
    pub fn remaining(&self) -> Span {
        Span::millis(u64::try_from(self.lease.left().as_millis()).unwrap_or(u64::MAX))
    }

    /// Waits until no invocation runs.
    pub async fn quiet(&self) {
        let all = self.grant.invocations();
        let _ = tokio::select! {
            permits = self.invocations.acquire_many(all) => permits.is_ok(),
            () = self.over.cancelled() => true,
        };
    }

    /// Waits until its process is gone.
    pub async fn ended(&self) {
        let process = self.process.lock().await.clone();
        if let Some(process) = process {
            process.gone.cancelled().await;
        }
    }

    /// Does it have a process?
    pub fn is_awake(&self) -> bool {
        // A lock that is held is held by a start.
        self.process.try_lock().map_or(true, |process| process.as_ref().is_some_and(|process| !process.gone.is_cancelled()))
    }

    /// What its client may know.
    pub async fn status(&self, key: Option<&SealKey>) -> FunctionStatus {
        let storage_used = match key {
            Some(key) if self.grant.storage().as_bytes() > 0 => self.keep.used(key, &self.cpu).await.unwrap_or(0),
            _ => 0,
        };
        let changes = match key {
            // One that cannot be read has not gone back: nothing is said of it.
            Some(key) if self.grant.storage().as_bytes() > 0 => self.keep.changes(key, &self.cpu).await.ok(),
            _ => Some(0),
        };
        let process = self.process.try_lock().ok().and_then(|process| process.clone()).filter(|process| !process.gone.is_cancelled());
        FunctionStatus {
            name: self.bundle.manifest.name.clone(),
            methods: self.bundle.manifest.methods.clone(),
            awake: process.is_some(),
            invocations: process.map_or(0, |process| u32::try_from(process.running()).unwrap_or(u32::MAX)),
            remaining: self.remaining(),
            cpu_used: Span::millis(self.cpu_ms()),
            traffic_used: Size::bytes(self.meter.used()),
            storage_used: Size::bytes(storage_used),
            changes,
            granted: self.grant.granted(),
            log: self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect(),
        }
    }
}
