//! Holds processes to their share of the CPU where no control group does it, and lets the busy ones yield.
//!
//! *Share*: one that used more is stopped until its share has caught up. What it used is read in its `/proc/PID/stat`, in ticks of 10 ms: this
//! counts all its threads, also those that ended, and what it used is never counted twice or forgotten, so that the coarse ticks do not add
//! up. Finer clocks either tell of the main thread alone (`/proc/PID/schedstat`) or cannot be had without unsafe code
//! (clock_getcpuclockid(3)).
//!
//! *Weight*: one that wants a processor all the time, whether it gets it or not, stands back behind those that do not, until it rests. It
//! still gets all that nobody else wants; but who has little to do, such as a function that answers and sleeps, or the node, does not wait
//! for it. Its control group becomes idle to the kernel, or weighs a thirtieth; or its session weighs a thirtieth (sched(7), "The autogroup feature": each jail is in a session of
//! its own), and an ordinary user can set both up and down. Where there is neither, all weigh the same.
//!
//! One thread for all. It looks often at those that are busy, and ever more rarely at those that sleep, so that many sleepers cost next to
//! nothing. Signals go through a pidfd, never to a number that may be another process by now.
//!
//! It does not bound the CPU *time* of a function's life.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    fmt, fs, io,
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::cgroup::{self, Group};

/// Pause between two looks at a process that is busy. A spinning one keeps a core so long at most beyond its share; two ticks, since within one
/// nothing can be seen.
const BUSY: Duration = Duration::from_millis(20);

/// The same where the kernel holds the share, and only the weight is to be found.
const BUSY_HELD: Duration = Duration::from_millis(100);

/// Pause between two looks at all threads of a process that is busy, some 15 µs each.
const WEIGHED: Duration = Duration::from_millis(100);

/// Percent of the time in which a process runs or waits for a processor: from the first on it yields, below the second no more.
const WANTS: (u64, u64) = (80, 50);

/// Percent of one processor that it must really have used to yield: where the CPU is short, a process that answers and sleeps waits for most of
/// its time as well. Of many that spin, those that do not yet yield get the more the fewer they are, so that each comes to this.
const USES: u64 = 15;

/// Looks at which it wants little until it rests: one that the kernel keeps to its share seems to want nothing meanwhile.
const CALM: u32 = 3;

/// Of a session, when it yields: a thirtieth of the usual weight.
const NICE: &str = "15";

/// Longest pause between two looks at one that sleeps, while there are few. One that then begins to spin by itself is noticed after this.
const ASLEEP: Duration = Duration::from_secs(1);

/// Looks a second at sleeping processes, all together. A look costs some 15 µs.
const LOOKS_A_SECOND: u64 = 100;

/// Looks at sleeping processes are put together to these times, so that the thread itself wakes rarely.
const TOGETHER: Duration = Duration::from_millis(100);

/// So long a process may have slept for what it may use at once.
const BURST: Duration = Duration::from_millis(100);

/// Longest stop. If this is reached, nothing was looked at for longer than usual, and what is beyond it is let pass.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Holds processes to their shares.
pub struct Shares(Arc<Shared>);

/// A process that is held to its share until this is dropped. It is never left stopped.
pub struct Held {
    shared: Arc<Shared>,
    number: u64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: HashMap<u64, Process>,
    /// When to look at which. Each process is here once.
    due: BTreeSet<(Instant, u64)>,
    next: u64,
    is_closed: bool,
}

struct Process {
    pid: u32,
    pidfd: OwnedFd,
    /// None: its group holds it to its share, or its share is all there is.
    percent: Option<u64>,
    due: Instant,
    account: Account,
    is_stopped: bool,
    wants: Wants,
}

/// Whether a process wants a processor all the time, and what follows.
struct Wants {
    weight: Weight,
    is_busy: bool,
    seen: Instant,
    used: Duration,
    /// Nanoseconds that each thread ran or waited to run.
    threads: HashMap<String, u64>,
    throttled: u64,
    was_stopped: bool,
    /// Looks one after the other at which it did not want much.
    calm: u32,
}

/// What gives a process its weight.
enum Weight {
    Group(cgroup::Weight),
    Session,
    /// Nothing, found out by trying.
    None,
}

/// What a process has used and may use. Pure.
#[derive(Clone, Copy, Debug)]
struct Account {
    used: Duration,
    seen: Instant,
    /// Microseconds of CPU time that it may use now; below zero, what it used beyond its share.
    credit: i64,
    pause: Duration,
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    Run(Duration),
    Stop(Duration),
}

impl Account {
    fn new(used: Duration, now: Instant) -> Self {
        Self { used, seen: now, credit: 0, pause: BUSY }
    }

    /// `longest`: how long one may sleep without being looked at.
    fn look(&mut self, used: Duration, now: Instant, percent: Option<u64>, longest: Duration) -> Next {
        let (elapsed, more) = (now.saturating_duration_since(self.seen), used.saturating_sub(self.used));
        (self.used, self.seen) = (used, now);
        let busy = if percent.is_some() { BUSY } else { BUSY_HELD };
        self.pause = if more.is_zero() { (self.pause * 2).min(longest).max(busy) } else { busy };
        let Some(percent) = percent else { return Next::Run(self.pause) };
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 100);
        let part = |time: Duration| micros(time) * percent as i64 / 100;
        self.credit = (self.credit + part(elapsed) - micros(more)).clamp(-part(STOP_MAX), part(BURST));
        if self.credit < 0 {
            // So long until the credit is nought again.
            return Next::Stop(Duration::from_micros((-self.credit) as u64 * 100 / percent).max(Duration::from_millis(1)));
        }
        Next::Run(self.pause)
    }
}

impl Shares {
    /// Starts the thread. It sleeps while nothing is held.
    ///
    /// # Errors
    /// When there is no room for a thread.
    pub fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("bento-shares".into()).spawn(move || theirs.watch())?;
        Ok(Self(shared))
    }

    /// Holds a process to so many percent of one processor, averaged over some tenths of a second, unless its group does; and lets it yield
    /// while it is busy. The process must be one that cannot have been replaced by another of the same number, such as one whose parent
    /// still waits for it.
    ///
    /// # Errors
    /// When it is gone, or cannot be watched.
    pub fn hold(&self, pid: u32, percent: u32, group: Option<&Group>) -> io::Result<Held> {
        let weight = group.and_then(Group::weight);
        let processors = thread::available_parallelism().map_or(1, |count| count.get() as u64);
        let percent = Some(u64::from(percent.max(1))).filter(|percent| weight.is_none() && *percent < processors * 100);
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty())?;
        let now = Instant::now();
        let used = match used(pid, &pidfd) {
            Used::So(used) => used,
            Used::Unknown => Duration::ZERO,
            Used::Gone => return Err(gone()),
        };
        let due = now + BUSY;
        let wants = Wants {
            throttled: weight.as_ref().map_or(0, cgroup::Weight::throttled),
            weight: weight.map_or_else(|| if has_session(pid) { Weight::Session } else { Weight::None }, Weight::Group),
            is_busy: false,
            seen: now,
            used,
            threads: threads(pid),
            was_stopped: false,
            calm: 0,
        };
        let process = Process { pid, pidfd, percent, due, account: Account::new(used, now), is_stopped: false, wants };
        let mut state = self.0.state();
        let number = state.next;
        state.next += 1;
        state.held.insert(number, process);
        state.due.insert((due, number));
        drop(state);
        self.0.changed.notify_one();
        Ok(Held { shared: Arc::clone(&self.0), number })
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_closed = true;
        for process in state.held.values_mut() {
            process.let_go();
        }
        state.held.clear();
        state.due.clear();
        drop(state);
        self.0.changed.notify_one();
    }
}

impl Held {
    /// Something was given to it to do, so it is looked at soon.
    pub fn wake(&self) {
        let number = self.number;
        let mut state = self.shared.state();
        let State { held, due, .. } = &mut *state;
        let Some(process) = held.get_mut(&number) else { return };
        let soon = Instant::now() + BUSY;
        if process.is_stopped || process.due <= soon {
            return;
        }
        due.remove(&(process.due, number));
        process.due = soon;
        due.insert((soon, number));
        // The thread may be asleep for longer than that.
        let is_first = due.first() == Some(&(soon, number));
        drop(state);
        if is_first {
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(mut process) = state.held.remove(&self.number) {
            state.due.remove(&(process.due, self.number));
            process.let_go();
        }
    }
}

impl Process {
    fn let_run(&mut self) {
        if std::mem::take(&mut self.is_stopped) {
            // Fails only when it is gone.
            let _ = pidfd_send_signal(&self.pidfd, Signal::CONT);
        }
    }

    /// As if it had never been held.
    fn let_go(&mut self) {
        self.let_run();
        if std::mem::take(&mut self.wants.is_busy) && !matches!(used(self.pid, &self.pidfd), Used::Gone) {
            let _ = self.wants.weight.set(self.pid, false);
        }
    }

    /// Looks at it, and says when to look again; None when it is gone.
    fn look(&mut self, longest: Duration) -> Option<Instant> {
        let now = Instant::now();
        let used = match used(self.pid, &self.pidfd) {
            Used::So(used) => used,
            Used::Gone => return None,
            Used::Unknown => {
                // Whoever cannot be looked at is not kept waiting.
                self.let_run();
                return Some(now + BUSY);
            }
        };
        self.wants.look(self.pid, used, now);
        match self.account.look(used, now, self.percent, longest) {
            Next::Run(pause) => {
                self.let_run();
                Some(now + pause)
            }
            Next::Stop(time) => {
                if !self.is_stopped {
                    // Fails only when it is gone, which the next look sees.
                    let _ = pidfd_send_signal(&self.pidfd, Signal::STOP);
                    self.is_stopped = true;
                }
                self.wants.was_stopped = true;
                Some(now + time)
            }
        }
    }
}

impl Wants {
    fn look(&mut self, pid: u32, used: Duration, now: Instant) {
        let elapsed = now.saturating_duration_since(self.seen);
        // One that used nothing and was not busy is asleep, and not worth the look at its threads.
        if elapsed < WEIGHED || matches!(self.weight, Weight::None) || (used == self.used && !self.is_busy) {
            return;
        }
        let (threads, throttled) = (threads(pid), self.weight.throttled());
        let before = |name: &String| self.threads.get(name).copied().unwrap_or(0);
        let ran_or_waited: u64 = threads.iter().map(|(name, time)| time.saturating_sub(before(name))).sum();
        let percent = |time: Duration| time.as_micros() * 100 / elapsed.as_micros();
        let uses = percent(used.saturating_sub(self.used));
        // Threads that ended are missing in the one, and not in the other.
        let wants = percent(Duration::from_nanos(ran_or_waited)).max(uses);
        let was_kept = self.was_stopped || throttled > self.throttled;
        let wants_it = if self.is_busy { wants >= WANTS.1.into() } else { wants >= WANTS.0.into() && uses >= USES.into() };
        self.calm = if was_kept || wants_it { 0 } else { self.calm.saturating_add(1) };
        let is_busy = self.calm == 0 || self.is_busy && self.calm < CALM;
        (self.seen, self.used, self.threads, self.throttled, self.was_stopped) = (now, used, threads, throttled, false);
        if is_busy != self.is_busy {
            match self.weight.set(pid, is_busy) {
                Ok(()) => self.is_busy = is_busy,
                // An ordinary user may do so ten times a second in all; the next look tries again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.weight = Weight::None,
            }
        }
    }
}

impl Weight {
    fn set(&self, pid: u32, is_busy: bool) -> io::Result<()> {
        match self {
            Self::Group(weight) => weight.set(is_busy),
            Self::Session => {
                let mut file = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/autogroup"))?;
                io::Write::write_all(&mut file, if is_busy { NICE } else { "0" }.as_bytes())
            }
            Self::None => Ok(()),
        }
    }

    fn throttled(&self) -> u64 {
        if let Self::Group(weight) = self { weight.throttled() } else { 0 }
    }
}

/// Is it in another session than this program, and does the kernel weigh sessions? `/autogroup-4711 nice 0`.
fn has_session(pid: u32) -> bool {
    let of = |pid: &str| fs::read_to_string(format!("/proc/{pid}/autogroup")).ok()?.split(' ').next().map(str::to_owned);
    let theirs = of(&pid.to_string()).filter(|theirs| !theirs.is_empty());
    theirs.is_some() && theirs != of("self")
}

/// What each thread ran and waited for a processor, in nanoseconds: the first two numbers in its `schedstat`.
///
/// ```text
/// 401287934 18839211 1023
/// ```
fn threads(pid: u32) -> HashMap<String, u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("schedstat")).ok()?;
        let mut numbers = text.split_ascii_whitespace();
        let (ran, waited): (u64, u64) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        Some((entry.file_name().into_string().ok()?, ran + waited))
    };
    entries.filter_map(of).collect()
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let born = Instant::now();
        let mut state = self.state();
        while !state.is_closed {
            let Some((due, number)) = state.due.first().copied() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            state.due.pop_first();
            let longest = longest_pause(state.held.len());
            if let Some(process) = state.held.get_mut(&number) {
                match process.look(longest) {
                    Some(due) => {
                        let due = if due.saturating_duration_since(Instant::now()) > TOGETHER && !process.is_stopped {
                            together(born, due)
                        } else {
                            due
                        };
                        process.due = due;
                        state.due.insert((due, number));
                    }
                    // Nothing to hold any more; what holds it is dropped some time.
                    None => {
                        state.held.remove(&number);
                    }
                }
            }
            // Whoever begins or ends to hold one does not wait for looks at many.
            drop(state);
            state = self.state();
        }
    }
}

/// How long one of so many may sleep without being looked at.
fn longest_pause(count: usize) -> Duration {
    ASLEEP.max(Duration::from_millis(count as u64 * 1000 / LOOKS_A_SECOND))
}

/// The next of the times at which sleepers are looked at.
fn together(born: Instant, due: Instant) -> Instant {
    let steps = due.saturating_duration_since(born).as_millis() / TOGETHER.as_millis() + 1;
    born + TOGETHER * u32::try_from(steps).unwrap_or(u32::MAX)
}

/// CPU time of a process so far.
enum Used {
    So(Duration),
    /// It cannot be said just now: this node may have no descriptor left.
    Unknown,
    /// The pidfd says that the process has ended.
    Gone,
}

fn used(pid: u32, pidfd: &OwnedFd) -> Used {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"));
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Asked after the reading: alive now, so it was alive then, and the number was its own.
    match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)) {
        Ok(0) => text.ok().and_then(|text| used_in(&text)).map_or(Used::Unknown, Used::So),
        Ok(_) => Used::Gone,
        Err(_) => Used::Unknown,
    }
}

/// CPU time in a `/proc/PID/stat`: fields 14 and 15 of proc(5)'s list, in ticks:
///
/// ```text
/// 4711 (a (strange) name) S 1 4711 4711 0 -1 4194560 1200 0 0 0 25 10 0 0 …
///                                                               ^utime ^stime
/// ```
pub(crate) fn used_in(stat: &str) -> Option<Duration> {
    // The name may hold spaces and parentheses; what follows the last one is plain.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / rustix::param::clock_ticks_per_second()))
}

impl fmt::Debug for Shares {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Shares({} held)", self.0.state().held.len())
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Held({})", self.number)
    }
}
