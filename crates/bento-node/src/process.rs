//! A function's process in its jail: started, loaded, spoken with, and seen to its end.

use std::{
    collections::HashMap,
    io,
    num::NonZeroU16,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::os::fd::AsFd;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines, Take},
    net::UnixStream,
    process::{Child, ChildStdout, Command},
    sync::{OwnedSemaphorePermit, oneshot},
    task::JoinSet,
    time::{Duration, Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use bento_jail::{Report, Scratch, Spec};
use bento_proto::{Bound, Outcome, Refusal, limits};

use crate::{
    container::Container,
    image::Image,
    link::{Call, CallError, CallErrorKind, FRAME_BYTES_MAX, FromFunction, Link, Load, ToFunction, Violation, stream_pair},
    meter,
};

/// All that `bento-jail` ever says, in bytes. Three lines of some hundred.
const REPORT_BYTES_MAX: u64 = 16 * 1024;

/// How long the last report may take after the process has closed its socket; it is sent at once when the kernel has cleared up.
const ENDED_DEADLINE: Duration = Duration::from_secs(10);

/// What an outgoing connection counts for in traffic, in bytes, before its first byte: about the cells and packets that making one takes.
const TRY_BYTES: usize = 1024;

/// Longest text that a function may log in one line, in characters.
const LOG_CHARS_MAX: usize = 1000;

/// Files and directories in a scratch: one for each 4 KiB, which is the least that a file with content takes.
const BYTES_PER_INODE: u64 = 4096;

/// A running function.
#[derive(Debug)]
pub struct Process {
    link: Link,
    /// Its process id as seen from the node.
    pub pid: u32,
    slots: Mutex<HashMap<u64, Slot>>,
    next: AtomicU64,
    /// Raised when it does not read its socket: it is then ended.
    deaf: CancellationToken,
    /// Raised when the process has ended and all its invocations know.
    pub gone: CancellationToken,
}

/// One invocation that is going on.
#[derive(Debug)]
struct Slot {
    outcome: oneshot::Sender<Outcome>,
    length: Arc<OnceLock<u64>>,
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
    /// The output's length, once declared.
    pub length: Arc<OnceLock<u64>>,
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

/// Something of the node's own went wrong. It is logged, and the client learns only that the node failed.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The system did not do what was asked.
    #[error("{0}")]
    System(&'static str, #[source] io::Error),
    /// A wall does not stand.
    #[error("the jail was not put up: {wall}: {reason}")]
    Wall {
        /// Which.
        wall: String,
        /// Why.
        reason: String,
    },
    /// Something took longer than it ever should.
    #[error("{0} took too long")]
    Late(&'static str),
}

/// The child that puts up the walls, and its reports.
struct Jail {
    child: Child,
    reports: Lines<BufReader<Take<ChildStdout>>>,
    /// The process whose CPU time is still to be counted, and against whom. However it ends, its time is counted once.
    uncounted: Option<(Arc<Container>, u32)>,
}

impl Jail {
    async fn report(&mut self) -> io::Result<Option<Report>> {
        let Some(line) = self.reports.next_line().await? else { return Ok(None) };
        let report = serde_json::from_str(&line).map_err(io::Error::other)?;
        if let (Report::Ended { cpu_ms, .. }, Some((container, _))) =
            (&report, self.uncounted.take_if(|_| matches!(report, Report::Ended { .. })))
        {
            container.count_cpu(*cpu_ms);
        }
        Ok(Some(report))
    }

    /// Counts the CPU time of a process that is about to be killed, and so will not be reported.
    async fn settle(&mut self) {
        if !self.count() {
            // It has ended by itself, so its report is there or on its way.
            let _ = timeout(ENDED_DEADLINE, self.report()).await;
        }
    }

    /// Counts its CPU time so far, if it is there to be counted.
    fn count(&mut self) -> bool {
        let Some((container, pid)) = &self.uncounted else { return true };
        let Some(cpu_ms) = cpu_of(*pid) else { return false };
        container.count_cpu(cpu_ms);
        self.uncounted = None;
        true
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        // A client that leaves while code is loaded drops the loading, and must not get its CPU time for nothing.
        self.count();
    }
}

impl Process {
    /// Starts a process for a container and loads its code.
    ///
    /// # Errors
    /// When the code does not load, or the node cannot start it.
    pub async fn start(container: &Arc<Container>, cpu_left: u64) -> Result<Arc<Self>, StartError> {
        let system = |what| move |error| StartError::Trouble(Trouble::System(what, error));
        let node = &container.node;
        let (link, theirs) = Link::pair().map_err(system("making a socket"))?;
        let mut command = Command::new(&node.jail);
        command.stdin(theirs).stdout(Stdio::piped()).stderr(Stdio::null()).env_clear().process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(system("starting bento-jail"))?;
        // Dropped with the command: the function's end of the socket is then open in the jail alone, and its end is seen here.
        drop(command);
        let reports = child.stdout.take().ok_or(StartError::Trouble(Trouble::Late("the jail's pipe")))?;
        let mut jail = Jail { child, reports: BufReader::new(reports.take(REPORT_BYTES_MAX)).lines(), uncounted: None };

        let spec = serde_json::to_vec(&spec(container, cpu_left))
            .map_err(|error| StartError::Trouble(Trouble::System("writing the spec", error.into())))?;
        let starting = async {
            link.send_bytes(&spec, None).await.map_err(|error| Trouble::System("handing over the spec", io::Error::other(error)))?;
            match jail.report().await.map_err(|error| Trouble::System("reading the jail's report", error))? {
                Some(Report::Up { pid }) => Ok(pid),
                Some(Report::Refused { wall, reason }) => Err(Trouble::Wall { wall, reason }),
                _ => Err(Trouble::Wall { wall: "all".into(), reason: "bento-jail ended without a word".into() }),
            }
        };
        let pid = match timeout(node.limits.load.duration(), starting).await {
            Ok(started) => started.map_err(StartError::Trouble)?,
            Err(_) => return Err(StartError::Trouble(Trouble::Late("putting up a jail"))),
        };
        jail.uncounted = Some((Arc::clone(container), pid));
        let process = Arc::new(Self {
            link,
            pid,
            slots: Mutex::default(),
            next: AtomicU64::new(1),
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
        Some(match ended(container, &report) {
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
        let length = Arc::new(OnceLock::new());
        self.slots().insert(number, Slot { outcome, length: Arc::clone(&length), _permit: permit });
        // A client that leaves while the function does not read takes its place with it.
        let unsent = Unsent(self, number);
        let sent = self.link.send(&ToFunction::Invoke { invoke: number, method, arguments, seconds }, Some(theirs.as_fd())).await;
        std::mem::forget(unsent);
        // How the process then ended is told to this invocation as to all others.
        if let Err(Violation::Deaf) = sent {
            self.deaf.cancel();
        }
        // Ended between the look-up and the insertion, nobody would answer any more.
        if self.gone.is_cancelled() && self.slots().remove(&number).is_some() {
            return Ok(None);
        }
        Ok(Some(Invocation { number, stream, outcome: receiver, length, process: Arc::clone(self) }))
    }

    /// Tells the function that nobody waits for an invocation any more.
    pub async fn cancel(&self, number: u64) {
        let _ = self.link.send(&ToFunction::Cancel { cancel: number }, None).await;
    }

    /// Invocations going on.
    pub fn running(&self) -> usize {
        self.slots().len()
    }

    /// CPU time so far, from the kernel's own account.
    pub fn cpu_ms(&self) -> u64 {
        cpu_of(self.pid).unwrap_or(0)
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers its calls until it ends or is ended, then tells every invocation how.
    async fn supervise(self: Arc<Self>, container: Arc<Container>, mut jail: Jail) {
        let mut calls = JoinSet::new();
        let outcome = tokio::select! {
            biased;
            () = container.over.cancelled() => None,
            () = container.meter.exhausted.cancelled() => { container.end(Bound::Traffic); None }
            () = self.deaf.cancelled() => Some(Err(Violation::Deaf)),
            listened = self.listen(&container, &mut calls) => Some(listened),
        };
        let outcome = match outcome {
            None => Outcome::Killed { bound: container.reason().unwrap_or(Bound::Stop) },
            Some(Err(violation)) => Outcome::Failed { error: format!("violation: {violation}"), traceback: String::new() },
            Some(Ok(())) => match timeout(ENDED_DEADLINE, jail.report()).await {
                Ok(Ok(Some(report))) => ended(&container, &report),
                _ => Outcome::Failed { error: "the function's process ended".into(), traceback: String::new() },
            },
        };
        jail.settle().await;
        // Ends what is left of it: the jail dies with the program that put it up.
        let _ = jail.child.start_kill();
        let _ = timeout(ENDED_DEADLINE, jail.child.wait()).await;
        calls.shutdown().await;
        self.gone.cancel();
        let slots = std::mem::take(&mut *self.slots());
        for slot in slots.into_values() {
            let _ = slot.outcome.send(outcome.clone());
        }
    }

    async fn listen(self: &Arc<Self>, container: &Arc<Container>, calls: &mut JoinSet<()>) -> Result<(), Violation> {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let mut pace = Pace::new();
        while let Some((frame, bytes)) = self.link.receive(&mut buffer).await? {
            while calls.try_join_next().is_some() {}
            pace.wait(bytes).await;
            match frame {
                FromFunction::Done { done, outcome } => {
                    let slot = self.slots().remove(&done).ok_or(Violation::NoFrame)?;
                    let _ = slot.outcome.send(believed(outcome));
                }
                FromFunction::Call(call) => match call.name.as_str() {
                    "log" => answer_call(&self.link, call.number, container.log(&call), None).await?,
                    "output.length" => answer_call(&self.link, call.number, self.declare(&call), None).await?,
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

    fn declare(&self, call: &Call) -> Result<Value, CallError> {
        #[derive(Deserialize)]
        struct Length {
            bytes: u64,
        }
        let bad = |text| CallError::new(CallErrorKind::BadCall, text);
        let Length { bytes } = call.arguments("output.length takes `bytes`, a whole number")?;
        let slots = self.slots();
        let slot = call.invocation.and_then(|number| slots.get(&number)).ok_or_else(|| bad("there is no such invocation"))?;
        slot.length.set(bytes).map_err(|_| bad("the output's length is already declared"))?;
        Ok(Value::Null)
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
            container.meter.take(TRY_BYTES).map_err(|_| CallError::new(CallErrorKind::Refused, "traffic is used up"))?;
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
        self.0.slots().remove(&self.1);
    }
}

/// Room for one more stream, in the function's own bound and in the node's.
fn connect_permit(container: &Container) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), CallError> {
    let busy = |text| CallError::new(CallErrorKind::Busy, text);
    let own = Arc::clone(&container.connections)
        .try_acquire_owned()
        .map_err(|_| busy("the function has as many connections as its descriptors allow"))?;
    let all =
        Arc::clone(&container.node.connections).try_acquire_owned().map_err(|_| busy("the node has as many connections as it takes"))?;
    Ok((own, all))
}

async fn answer_call(
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
fn ended(container: &Container, report: &Report) -> Outcome {
    let failed = |error: String| Outcome::Failed { error, traceback: String::new() };
    match report {
        Report::Ended { exit, signal, out_of_cpu, .. } => {
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

fn spec(container: &Container, cpu_left: u64) -> Spec {
    let grant = &container.grant;
    let image: &Image = &container.image;
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut environment = vec![
        text("PATH", "/usr/bin"),
        text("HOME", "/tmp"),
        text("LANG", "C.UTF-8"),
        // One arena for all threads: each further one reserves 64 MiB of the address space that the grant bounds.
        text("MALLOC_ARENA_MAX", "1"),
        text("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"),
    ];
    if image.has_packages {
        environment.push(text("BENTO_PACKAGES", "/packages"));
    }
    let start = "import sys; sys.path.insert(0, '/bento'); from bento import runtime; runtime.main()";
    Spec {
        program: image.python.clone(),
        arguments: ["-I", "-S", "-B", "-c", start].map(str::to_owned).into(),
        environment,
        openings: image.openings.clone(),
        scratch: Scratch { bytes: grant.scratch().as_bytes(), inodes: (grant.scratch().as_bytes() / BYTES_PER_INODE).max(16) },
        memory_bytes: grant.memory().as_bytes(),
        cpu_seconds: cpu_left.div_ceil(1000).max(1),
        processes: grant.processes().into(),
        descriptors: grant.descriptors().into(),
        syscalls: bento_jail::default_syscalls().iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// CPU time of a process in its `/proc/PID/stat` (proc(5)): `4711 (python3) S 1 … utime stime …`, fields 14 and 15 in clock ticks.
fn cpu_of(pid: u32) -> Option<u64> {
    let path = Path::new("/proc").join(pid.to_string()).join("stat");
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty()).ok()?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(std::fs::File::from(file), 4096), &mut text).ok()?;
    // The name may hold spaces and parentheses; what follows the last one is plain.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * 1000 / rustix::param::clock_ticks_per_second())
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
