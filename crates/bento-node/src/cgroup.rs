//! Memory, CPU share and number of tasks of each function, bounded by the kernel's control groups, where this user may make some.
//!
//! Version 2 is used where a subtree is delegated to this user, else each hierarchy of version 1 that can be written to, else none: what a
//! group does not hold is held otherwise (`RLIMIT_AS`, `RLIMIT_NPROC`, [`share`](crate::share)), and [`Groups::holds`] says which.
//!
//! It moves no process but its own (to a leaf, in version 2) and those it is given, kills none, and changes nothing above its own group.

mod places;
#[cfg(test)]
mod tests;

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tracing::warn;

use crate::said::say;

use places::{Hierarchy, Reason};

/// Microseconds after which a function's CPU share begins anew. Within one, a function may use its share at once, and is then stopped for the
/// rest: so long a spinning one keeps a core at most, and so long one that went beyond its share waits at most. The kernel's usual 100 ms
/// would be felt as a pause; below 10 ms its own accounting, which hands out 5 ms at a time, is felt.
const PERIOD_US: u64 = 20_000;

/// The kernel takes no smaller quota than this (`min_cfs_quota_period`).
const QUOTA_US_MIN: u64 = 1_000;

/// Weight of a function in version 2 and version 1, and of one that keeps a processor busy where it cannot be made idle: a thirtieth, as nice 15 is in a session of its own.
/// The first are what everything has if nothing else was said. Weights matter only while the CPU is short.
const WEIGHTS: [(&str, &str); 2] = [("100", "1024"), ("3", "34")];

/// How long a group that still has members is tried again: they were killed, and go when the kernel has cleared up.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(30);

/// The same when the node ends.
const CLOSING_DEADLINE: Duration = Duration::from_secs(2);

/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));

/// What a group can bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// The kernel's name for it, in both versions.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }

    /// What it bounds, and what does so besides or instead.
    fn bounds(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Memory => ("memory", "and RLIMIT_AS", "RLIMIT_AS alone"),
            Self::Cpu => ("CPU share", "", "the node (stop and continue)"),
            Self::Pids => ("tasks", "and RLIMIT_NPROC", "RLIMIT_NPROC alone"),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Version {
    One,
    Two,
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::One => "cgroup v1",
            Self::Two => "cgroup v2",
        })
    }
}

/// How a group is made and removed. In tests, a tree of ordinary files stands in for the kernel.
#[derive(Clone, Copy, Debug)]
struct Kernel {
    make: fn(&Path) -> io::Result<()>,
    remove: fn(&Path) -> io::Result<()>,
}

const KERNEL: Kernel = Kernel { make: |path| fs::create_dir(path), remove: |path| fs::remove_dir(path) };

/// A hierarchy in use: the group in which functions' groups are made, or such a group; and what it bounds.
#[derive(Clone, Debug)]
struct Place {
    version: Version,
    path: PathBuf,
    controllers: Vec<Controller>,
}

/// The groups of one node's functions.
#[derive(Debug)]
pub struct Groups {
    places: Vec<Place>,
    /// What their names begin with.
    name: String,
    /// Why hierarchies are not used.
    reasons: Vec<Reason>,
    kernel: Kernel,
    next: AtomicU64,
    remover: Option<Remover>,
}

impl Groups {
    /// Finds what can be used, prepares it, and removes what an earlier run with this state directory left. Only one node may run with it.
    ///
    /// Never fails: without permission there are no groups. In version 2 this process moves to a group of its own, so call it before anything is
    /// started that is to stay with the node.
    pub fn new(state: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::found(&places::hierarchies(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup")), state, KERNEL)
    }

    fn found(hierarchies: &[Hierarchy], state: &Path, kernel: Kernel) -> Self {
        let mut groups = Self { places: vec![], name: String::new(), reasons: vec![], kernel, next: AtomicU64::new(0), remover: None };
        let Ok(status) = fs::metadata(state) else { return groups };
        // Tells nodes on one machine apart, is the same at each start, and says nothing.
        groups.name = format!("bento-{:x}-{:x}", status.dev(), status.ino());
        let mut leftovers = Vec::new();
        for hierarchy in in_order(hierarchies) {
            match places::prepare(hierarchy, &groups.missing(), &groups.name, kernel) {
                Ok(place) => {
                    leftovers.extend(places::leftovers(hierarchy, &groups.name));
                    groups.places.push(place);
                }
                Err(reason) => groups.reasons.push(reason),
            }
        }
        if !groups.places.is_empty() {
            groups.remover = Remover::start(kernel);
            for leftover in leftovers {
                groups.remove(leftover);
            }
        }
        groups
    }

    fn missing(&self) -> Vec<Controller> {
        Controller::ALL.into_iter().filter(|one| self.version(*one).is_none()).collect()
    }

    fn version(&self, controller: Controller) -> Option<Version> {
        self.places.iter().find(|place| place.controllers.contains(&controller)).map(|place| place.version)
    }

    /// Is the CPU share held by groups? If not, [`Shares`](crate::share::Shares) can.
    pub fn holds_share(&self) -> bool {
        self.version(Controller::Cpu).is_some()
    }

    /// Which bound is held by what, in one line, for the operator.
    pub fn holds(&self) -> String {
        let place = self.places.iter().find(|place| place.controllers.contains(&Controller::Cpu));
        told(|controller| self.version(controller), place.and_then(|place| places::ceiling(Some(&place.path))), &self.reasons)
    }

    /// What [`holds`](Self::holds) would say if this process were the node, found out without changing anything: a node that runs keeps its groups.
    /// Permissions are looked at; whether the kernel would do it is seen only when it is tried.
    pub fn would_hold() -> String {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let hierarchies = places::hierarchies(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let (mut held, mut reasons) = (Vec::new(), Vec::new());
        for hierarchy in in_order(&hierarchies) {
            let wanted: Vec<_> = Controller::ALL.into_iter().filter(|one| !held.iter().any(|(held, _)| held == one)).collect();
            match places::could_prepare(hierarchy, &wanted) {
                Ok(controllers) => held.extend(controllers.into_iter().map(|one| (one, hierarchy.version))),
                Err(reason) => reasons.push(reason),
            }
        }
        let version = |controller| held.iter().find(|(held, _)| *held == controller).map(|(_, version)| *version);
        // The same hierarchy shows it also where its groups are not used.
        let ceiling = in_order(&hierarchies).find_map(|hierarchy| places::ceiling(Some(&hierarchy.own)));
        told(version, ceiling, &reasons)
    }

    /// Makes a group and moves a process into it, with all its threads and what it will start. `None` where no groups can be made.
    ///
    /// What the process holds already stays counted where it was. The first move after a pause waits for all processors, some 10 ms: not for
    /// an asynchronous task that others wait for.
    ///
    /// # Errors
    /// When the process is gone, or the kernel refuses; nothing is left of the group then.
    pub fn enter(&self, pid: u32) -> io::Result<Option<Group>> {
        let Some(remover) = &self.remover else { return Ok(None) };
        let mut group = Group { parts: vec![], send: remover.send.clone() };
        for place in &self.places {
            let path = self.make(place)?;
            group.parts.push(Place { path, ..place.clone() });
        }
        for part in &group.parts {
            put(&part.path, "cgroup.procs", &pid.to_string())?;
        }
        Ok(Some(group))
    }

    fn make(&self, place: &Place) -> io::Result<PathBuf> {
        loop {
            let path = place.path.join(format!("{}-{}", self.name, self.next.fetch_add(1, Ordering::Relaxed)));
            match (self.kernel.make)(&path) {
                Ok(()) => return Ok(path),
                // Left by an earlier run and not yet removed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn remove(&self, path: PathBuf) {
        if let Some(remover) = &self.remover {
            let _ = remover.send.send(Order::Remove(path));
        }
    }
}

impl Drop for Groups {
    /// Waits, shortly, until groups without members are gone.
    fn drop(&mut self) {
        let Some(Remover { send, thread }) = self.remover.take() else { return };
        let _ = send.send(Order::Close);
        let _ = thread.join();
    }
}

/// Version 2 first: what it has, version 1 does not have.
fn in_order(hierarchies: &[Hierarchy]) -> impl Iterator<Item = &Hierarchy> {
    let of = |version| hierarchies.iter().filter(move |hierarchy| hierarchy.version == version);
    of(Version::Two).chain(of(Version::One))
}

fn told(version: impl Fn(Controller) -> Option<Version>, ceiling: Option<u64>, reasons: &[Reason]) -> String {
    let mut missing = false;
    let parts = Controller::ALL.map(|controller| {
        let (what, besides, instead) = controller.bounds();
        match version(controller) {
            Some(version) => format!("{what} by {version} {besides}").trim_end().to_owned(),
            None => {
                missing = true;
                format!("{what} by {instead}")
            }
        }
    });
    let mut text = parts.join(", ");
    if let Some(percent) = ceiling {
        text.push_str(&format!("; a group around the node bounds all of it to {percent} % of one processor, so no function gets more"));
    }
    if missing {
        let why: Vec<_> = reasons.iter().map(|Reason(path, why)| format!("{}: {why}", path.display())).collect();
        let why = if why.is_empty() { "no hierarchy of control groups is mounted".into() } else { why.join("; ") };
        text.push_str(&format!(" ({why})"));
    }
    text
}

/// The group of one function. Dropped, it is removed as soon as no process is in it any more.
#[derive(Debug)]
pub struct Group {
    parts: Vec<Place>,
    send: mpsc::Sender<Order>,
}

impl Group {
    /// Sets its bounds: bytes of memory, percent of one processor, number of tasks. May be called again.
    ///
    /// Everything in the group counts. Memory: what its processes touched, what the kernel keeps for them, and the pages of a tmpfs that they
    /// write. Where there is swap, none of it is used on top. Tasks: each thread.
    ///
    /// # Errors
    /// When the kernel refuses one. The others are then not all set, and the process is not to be let run.
    pub fn bound(&self, memory: u64, share_percent: u32, processes: u32) -> io::Result<()> {
        for Place { version, path: group, controllers } in &self.parts {
            for controller in controllers {
                match (version, controller) {
                    (Version::Two, Controller::Memory) => {
                        put(group, "memory.max", &memory.to_string())?;
                        if_there(put(group, "memory.swap.max", "0"))?;
                        // A function is one whole: what the kernel does not kill of it would only wait for the rest.
                        if_there(put(group, "memory.oom.group", "1"))?;
                    }
                    (Version::One, Controller::Memory) => bound_memory_one(group, memory)?,
                    (Version::Two, Controller::Cpu) => {
                        let (quota, period) = quota(share_percent);
                        let quota = quota.map_or("max".into(), |quota| quota.to_string());
                        put(group, "cpu.max", &format!("{quota} {period}"))?;
                    }
                    (Version::One, Controller::Cpu) => {
                        let (quota, period) = quota(share_percent);
                        // Lifted first: the kernel refuses a step in between that gives more than the group above has.
                        put(group, "cpu.cfs_quota_us", "-1")?;
                        put(group, "cpu.cfs_period_us", &period.to_string())?;
                        // More than a group above has is refused. Without a bound of its own it is held to that one, which is what there is.
                        let is_less = places::ceiling(group.parent()).is_none_or(|ceiling| u64::from(share_percent) < ceiling);
                        if let (Some(quota), true) = (quota, is_less) {
                            put(group, "cpu.cfs_quota_us", &quota.to_string())?;
                        }
                    }
                    (_, Controller::Pids) => put(group, "pids.max", &processes.to_string())?,
                }
            }
        }
        Ok(())
    }

    /// Has the kernel killed in it because its memory was used up?
    ///
    /// ```text
    /// memory.events (version 2)      memory.oom_control (version 1)
    /// oom 1                          under_oom 0
    /// oom_kill 1                     oom_kill 1
    /// ```
    pub fn out_of_memory(&self) -> bool {
        self.parts.iter().filter(|part| part.controllers.contains(&Controller::Memory)).any(|part| {
            let file = if part.version == Version::Two { "memory.events" } else { "memory.oom_control" };
            let text = fs::read_to_string(part.path.join(file)).unwrap_or_default();
            text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
        })
    }

    /// Is its CPU share held by it?
    pub fn holds_share(&self) -> bool {
        self.weight().is_some()
    }

    /// Its weight against others, if it has one.
    pub(crate) fn weight(&self) -> Option<Weight> {
        let part = self.parts.iter().find(|part| part.controllers.contains(&Controller::Cpu))?;
        Some(Weight { version: part.version, group: part.path.clone() })
    }

    /// Is its memory held by it?
    pub fn holds_memory(&self) -> bool {
        self.parts.iter().any(|part| part.controllers.contains(&Controller::Memory))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for part in self.parts.drain(..) {
            // Fails only when the node's end has come before; the next start removes it.
            let _ = self.send.send(Order::Remove(part.path));
        }
    }
}

/// The weight of one function against all else that wants the CPU.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    version: Version,
    group: PathBuf,
}

impl Weight {
    /// Lowers or raises it again.
    pub(crate) fn set(&self, is_busy: bool) -> io::Result<()> {
        // One that is idle to the kernel gives its processor up the moment that another wakes, where a weight alone lets it run to the end of its
        // slice: measured, that is what its neighbours wait for. While it is so, the kernel takes no weight; afterwards it has the usual one.
        match put(&self.group, "cpu.idle", if is_busy { "1" } else { "0" }) {
            // Before Linux 5.15.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            put => return put,
        }
        let (two, one) = WEIGHTS[usize::from(is_busy)];
        match self.version {
            Version::Two => put(&self.group, "cpu.weight", two),
            Version::One => put(&self.group, "cpu.shares", one),
        }
    }

    /// How often the kernel has stopped the group until its share began anew: `nr_throttled 17` in cpu.stat, in both versions.
    pub(crate) fn throttled(&self) -> u64 {
        let text = fs::read_to_string(self.group.join("cpu.stat")).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.trim().parse().ok()).unwrap_or(0)
    }
}

/// Memory alone, and memory with swap, of which the first can never be more than the second.
fn bound_memory_one(group: &Path, memory: u64) -> io::Result<()> {
    let (alone, with_swap, memory) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", memory.to_string());
    if put(group, alone, &memory).is_err() {
        if_there(put(group, with_swap, &memory))?;
        put(group, alone, &memory)?;
    }
    // Not there where swap is not counted. A group that does not like to swap is then the most that can be had.
    match put(group, with_swap, &memory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => if_there(put(group, "memory.swappiness", "0")),
        put => put,
    }
}

/// Microseconds in each period, if there is a bound; and the period. More than all processors can do is no bound.
fn quota(share_percent: u32) -> (Option<u64>, u64) {
    let share = u64::from(share_percent.max(1));
    let period = PERIOD_US.max((QUOTA_US_MIN * 100).div_ceil(share));
    let processors = thread::available_parallelism().map_or(u64::MAX / 100, |count| count.get() as u64);
    ((share < processors * 100).then_some(period * share / 100), period)
}

/// Writes one of the kernel's files, in one go and never making it.
fn put(group: &Path, file: &str, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(group.join(file))?.write_all(text.as_bytes())
}

/// Some files are there only with certain kernels and settings.
fn if_there(put: io::Result<()>) -> io::Result<()> {
    put.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// What the remover is told.
#[derive(Debug)]
enum Order {
    Remove(PathBuf),
    /// The node ends.
    Close,
}

/// A thread that removes groups. It sleeps while there is nothing to remove.
#[derive(Debug)]
struct Remover {
    send: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

/// A group to be removed.
struct Waiting {
    path: PathBuf,
    since: Instant,
    pause: Duration,
    again: Instant,
}

impl Remover {
    fn start(kernel: Kernel) -> Option<Self> {
        let (send, orders) = mpsc::channel();
        match thread::Builder::new().name("bento-groups".into()).spawn(move || remove_all(&orders, kernel)) {
            Ok(thread) => Some(Self { send, thread }),
            Err(error) => {
                warn!("control groups are not used, since no thread could be started for them: {error}");
                None
            }
        }
    }
}

fn remove_all(orders: &mpsc::Receiver<Order>, kernel: Kernel) {
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        let order = match waiting.iter().map(|one| one.again).min() {
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(again) => orders.recv_timeout(again.saturating_duration_since(Instant::now())),
        };
        let now = Instant::now();
        match order {
            Ok(Order::Remove(path)) => waiting.push(Waiting { path, since: now, pause: PAUSE.0, again: now }),
            Ok(Order::Close) => return close(waiting, kernel),
            Err(RecvTimeoutError::Disconnected) => return close(waiting, kernel),
            Err(RecvTimeoutError::Timeout) => {}
        }
        waiting.retain_mut(|one| one.again > now || !one.try_once(now, REMOVAL_DEADLINE, kernel));
    }
}

impl Waiting {
    /// Is it done with?
    fn try_once(&mut self, now: Instant, deadline: Duration, kernel: Kernel) -> bool {
        let error = match (kernel.remove)(&self.path) {
            Ok(()) => return true,
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::NotFound => true,
            io::ErrorKind::ResourceBusy if now.duration_since(self.since) < deadline => {
                self.again = now + self.pause;
                self.pause = (self.pause * 2).min(PAUSE.1);
                false
            }
            _ => {
                say!(warn, %error, "a control group could not be removed");
                true
            }
        }
    }
}

/// Removes what can be removed at once or soon.
fn close(waiting: Vec<Waiting>, kernel: Kernel) {
    let end = Instant::now() + CLOSING_DEADLINE;
    let mut paths: Vec<PathBuf> = waiting.into_iter().map(|one| one.path).collect();
    loop {
        paths.retain(|path| (kernel.remove)(path).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy));
        if paths.is_empty() || Instant::now() >= end {
            return;
        }
        thread::sleep(PAUSE.0 * 5);
    }
}
