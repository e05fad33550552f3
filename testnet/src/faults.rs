//! `testnet faults`: parts of a node are killed (`kill -9`) at random moments while clients use it, again and again.
//!
//! After each kill: whoever was not hit notices nothing; whoever was gets a clear word and no silence; the node serves again without a
//! person; and when it rests, there are no more processes, descriptors, mounts, control groups and files than before the first kill. Every
//! choice follows from one seed, which is told. What cannot follow from it is the machine's own timing: a failure may take some repetitions.

mod chance;
mod client;
mod load;
mod subject;
mod traces;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use testnet::{Trouble, binary};
use tokio::time::sleep;

use chance::Chance;
use client::{End, Function, Sent, Way};
use load::{Event, Load, Visitors};
use subject::{READY, Subject, send};
use traces::Traces;

pub(crate) use subject::TorNetwork;

/// Functions that are there all the time.
const FUNCTIONS: usize = 4;

/// How long the node may take to be at rest: to end what clients have left, to close what is closed.
const REST: Duration = Duration::from_secs(20);

/// How long a function may turn clients away after its process was killed.
const AWAKE_AGAIN: Duration = Duration::from_secs(3);

/// How long a published node may take until a client reaches it through Tor: descriptors are fetched anew, circuits made.
const REACHED: Duration = Duration::from_secs(120);

/// Whom it hits.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub(crate) enum Victim {
    Node,
    /// The node while it comes up, one time in three with nothing kept yet.
    Start,
    Tor,
    /// `bento-jail`, which put up a function's walls and keeps them.
    Jail,
    Function,
}

impl fmt::Display for Victim {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Node => "node",
            Self::Start => "node that comes up",
            Self::Tor => "tor",
            Self::Jail => "jail spawner",
            Self::Function => "function",
        })
    }
}

/// Fifteen rounds; dealt again when they are used up.
const DECK: [(Victim, usize); 5] = [(Victim::Node, 2), (Victim::Start, 2), (Victim::Tor, 2), (Victim::Jail, 4), (Victim::Function, 5)];

/// What is asked of a run.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) rounds: usize,
    /// No further round is begun after so many seconds.
    pub(crate) seconds: Option<u64>,
    pub(crate) seed: u64,
    /// These alone are hit; all, where there are none.
    pub(crate) only: Vec<Victim>,
}

/// The next rounds, the last one first. One of each kind comes before a second of any, for runs that are short.
fn deal(chance: &mut Chance, is_wanted: impl Fn(Victim) -> bool) -> Vec<Victim> {
    let (mut firsts, mut more) = (Vec::new(), Vec::new());
    for (victim, times) in DECK.iter().filter(|(victim, _)| is_wanted(*victim)) {
        firsts.push(*victim);
        more.extend(vec![*victim; times - 1]);
    }
    chance.shuffle(&mut firsts);
    chance.shuffle(&mut more);
    more.append(&mut firsts);
    more
}

/// Kills and looks, so many times, or until no time is left for another. The answer is what was wrong, one line for each finding.
pub(crate) async fn faults(
    Wanted { rounds, seconds, seed, only }: Wanted,
    network: Option<TorNetwork>,
    tell: impl Fn(&str),
) -> Result<Vec<String>, Trouble> {
    traces::adopt_orphans().map_err(Trouble::doing("adopting orphans"))?;
    let only_these = if only.is_empty() { String::new() } else { format!(", with the same `--only` ({only:?})") };
    tell(&format!("seed {seed}: `testnet faults --rounds {rounds} --seed {seed}` makes the same choices{only_these}"));
    let mut run = Run::new(seed, network).await?;
    let mut chance = Chance::new(seed);
    let mut deck = Vec::new();
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    for number in 1..=rounds {
        if end.is_some_and(|end| Instant::now() > end) {
            tell(&format!("the time is over after {} kills", number - 1));
            break;
        }
        if deck.is_empty() {
            let with_tor = run.subject.through_tor().is_some();
            deck = deal(&mut chance, |victim| (with_tor || victim != Victim::Tor) && (only.is_empty() || only.contains(&victim)));
        }
        let Some(victim) = deck.pop() else { break };
        let began = Instant::now();
        let found = run.round(victim, chance.branch(number as u64)).await?;
        let how = if found.is_empty() { "as it should" } else { "NOT as it should" };
        tell(&format!("round {number}: {victim}: {how} ({}; {:.1} s)", run.last, began.elapsed().as_secs_f32()));
        for finding in found {
            tell(&format!("  {finding}"));
            run.findings.push(format!("round {number}, {victim}: {finding}"));
        }
    }
    run.end().await?;
    run.reached.sort();
    if let (Some(median), Some(longest)) = (run.reached.get(run.reached.len() / 2), run.reached.last()) {
        let (count, median, longest) = (run.reached.len(), median.as_secs_f32(), longest.as_secs_f32());
        tell(&format!("reached through Tor {count} times after a restart: after {median:.1} s (median), {longest:.1} s at most"));
    }
    for (victim, counts) in &run.counts {
        let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        tell(&format!("{victim}: {}", counts.join(", ")));
    }
    Ok(run.findings)
}

struct Run {
    subject: Subject,
    functions: Vec<Function>,
    archive: Arc<Vec<u8>>,
    far: u16,
    visitors: Visitors,
    /// Was all that the node kept taken away?
    is_wiped: bool,
    /// Our children that somebody waits for.
    ours: BTreeSet<u32>,
    /// What is there of a node that rests and was never killed.
    calm: Traces,
    /// Jails that it keeps ready at most, less those that it kept then.
    spare: usize,
    key: Option<String>,
    /// Control groups that were ever seen below the node.
    groups: BTreeSet<PathBuf>,
    /// What a function has used, by its own status: it must not get it back.
    used: Vec<(u64, u64)>,
    tokens: Chance,
    findings: Vec<String>,
    counts: BTreeMap<Victim, BTreeMap<String, usize>>,
    /// The last round's events, in words.
    last: String,
    /// How long after each restart of the node or its tor a client reached it through Tor, from when it said that it is published.
    reached: Vec<Duration>,
    _scratch: Scratch,
}

impl Run {
    async fn new(seed: u64, network: Option<TorNetwork>) -> Result<Self, Trouble> {
        let ours = traces::below(std::process::id()).iter().map(|process| process.pid).collect();
        let scratch = Scratch::new()?;
        let mut subject = Subject::new(&scratch.0, network)?;
        let archive = Arc::new(load::archive().map_err(Trouble::doing("packing a function"))?);
        let far = load::far_host().await.map_err(Trouble::doing("listening"))?;
        subject.start().await?;
        let _ = subject.published().await?;
        let mut run = Self {
            subject,
            functions: Vec::new(),
            archive,
            far,
            ours,
            calm: Traces::default(),
            spare: 0,
            key: None,
            groups: BTreeSet::new(),
            used: Vec::new(),
            visitors: Visitors::default(),
            is_wiped: false,
            tokens: Chance::new(seed).branch(u64::MAX),
            findings: Vec::new(),
            counts: BTreeMap::new(),
            last: String::new(),
            reached: Vec::new(),
            _scratch: scratch,
        };
        run.install().await.map_err(|text| Trouble::doing("installing functions")(std::io::Error::other(text)))?;
        // Once without a kill: this is what a used node is like when it rests, and nothing may go wrong.
        let load = run.load(&Chance::new(seed).branch(0));
        sleep(Duration::from_millis(1500)).await;
        for event in load.end().await {
            if !matches!(event.end, End::Whole(_)) {
                run.findings.push(format!("before any kill: {} ended with {:?}", event.what, event.end));
            }
        }
        run.rest(&mut Vec::new(), false).await;
        run.spare = (FUNCTIONS + READY).saturating_sub(run.subject.below("bento-jail").len());
        run.calm = run.traces();
        run.key = run.subject.key();
        Ok(run)
    }

    fn load(&self, chance: &Chance) -> Load {
        Load::start(&self.subject.way, &self.functions, &self.archive, (self.far, &self.visitors), chance)
    }

    fn traces(&self) -> Traces {
        self.subject.pid().map(|pid| Traces::of(pid, self.subject.directory())).unwrap_or_default()
    }

    async fn install(&mut self) -> Result<(), String> {
        self.functions = (0..FUNCTIONS).map(|_| Function::new(&mut self.tokens)).collect();
        self.used = vec![(0, 0); FUNCTIONS];
        for function in &self.functions {
            let end = function.install(&self.subject.way, &self.archive).await;
            if !matches!(end, End::Whole(_)) {
                return Err(format!("an install ended with {end:?}"));
            }
        }
        Ok(())
    }

    async fn round(&mut self, victim: Victim, mut chance: Chance) -> Result<Vec<String>, Trouble> {
        let mut found = Vec::new();
        self.groups.append(&mut self.subject.groups());
        let load = self.load(&chance.branch(7));
        sleep(chance.between(Duration::from_millis(50), Duration::from_millis(1200))).await;
        let (killed_at, hit) = match victim {
            Victim::Node => self.kill_node().await,
            Victim::Start => {
                // Stopped in peace, so that only its start is what is disturbed.
                let stopping = Instant::now();
                found.extend(self.subject.stop().await);
                (stopping, true)
            }
            Victim::Tor => self.kill_one("tor", &mut chance),
            Victim::Jail => self.kill_one("bento-jail", &mut chance),
            Victim::Function => self.kill_one("python", &mut chance),
        };
        if !hit {
            found.push("there was nothing to kill".into());
        }
        sleep(chance.between(Duration::from_millis(200), Duration::from_millis(900))).await;
        let events = load.end().await;
        self.judge(victim, killed_at, &events, &mut found);
        if victim == Victim::Start {
            self.disturb_start(&mut chance, &mut found).await?;
        }
        self.recover(victim, &mut found).await?;
        self.rest(&mut found, true).await;
        Ok(found)
    }

    async fn kill_node(&mut self) -> (Instant, bool) {
        self.groups.append(&mut self.subject.groups());
        let at = Instant::now();
        let was_there = self.subject.pid().is_some();
        self.subject.kill().await;
        (at, was_there)
    }

    fn kill_one(&mut self, name: &str, chance: &mut Chance) -> (Instant, bool) {
        self.groups.append(&mut self.subject.groups());
        // One that ended of itself since the list was made is no victim.
        for _ in 0..20 {
            let there = self.subject.below(name);
            let at = Instant::now();
            if there.get(chance.below(there.len())).is_some_and(|pid| send(*pid, name, Signal::KILL)) {
                return (at, true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        (Instant::now(), false)
    }

    /// Kills the node some moments after its start, and looks what it had promised by then.
    async fn disturb_start(&mut self, chance: &mut Chance, found: &mut Vec<String>) -> Result<(), Trouble> {
        if chance.below(3) == 0 {
            self.subject.wipe()?;
            self.is_wiped = true;
            self.key = None;
        }
        self.subject.spawn()?;
        sleep(chance.between(Duration::ZERO, Duration::from_millis(3500))).await;
        if self.subject.pid().is_none() {
            found.push(format!("it did not come up: {}", self.subject.told().join(" | ")));
        }
        self.subject.kill().await;
        // It may have said its address before it died; whoever read that relies on it.
        for line in self.subject.told() {
            if let Some((_, address)) = line.split_once("published address=") {
                let address = address.trim().to_owned();
                let known = self.subject.onion.get_or_insert_with(|| address.clone());
                if *known != address {
                    found.push(format!("it was reached at {known}, and then said {address}"));
                }
            }
        }
        Ok(())
    }

    /// What clients saw.
    fn judge(&mut self, victim: Victim, killed_at: Instant, events: &[Event], found: &mut Vec<String>) {
        let counts = self.counts.entry(victim).or_default();
        *counts.entry("kills".into()).or_default() += 1;
        let (mut whole, mut others) = (0, BTreeMap::<String, usize>::new());
        let mut hit = BTreeSet::new();
        for event in events {
            let name = match &event.end {
                End::Whole(_) => {
                    whole += 1;
                    *counts.entry("whole".into()).or_default() += 1;
                    continue;
                }
                End::Told(word) if event.function.is_none() => format!("visitor told `{word}`"),
                End::Told(word) => format!("told `{word}`"),
                End::Cut => "cut off".into(),
                End::Hung => "hung".into(),
                End::Odd(_) => "odd".into(),
            };
            *counts.entry(name.clone()).or_default() += 1;
            *others.entry(name).or_default() += 1;
            let since = event.began.checked_duration_since(killed_at).unwrap_or_default();
            let who = event.function.map_or_else(|| "a visitor".to_owned(), |number| format!("function {number}"));
            let mut wrong = |why: &str| found.push(format!("{who}: {} {why}: {:?}, begun {since:?} after the kill", event.what, event.end));
            if event.ended < killed_at {
                wrong("failed before the kill");
            }
            hit.insert(event.function);
            match (victim, &event.end) {
                (_, End::Hung | End::Odd(_)) => wrong("had no clear end"),
                (Victim::Node | Victim::Start, _) => {}
                (Victim::Tor, _) => wrong("has nothing to do with tor"),
                (_, End::Cut) => wrong("lost its session"),
                (_, End::Told(_)) if since > AWAKE_AGAIN => wrong("was turned away long after"),
                _ => {}
            }
        }
        if matches!(victim, Victim::Jail | Victim::Function) && hit.len() > 1 {
            found.push(format!("one process was killed, and {} functions noticed: {hit:?}", hit.len()));
        }
        let others: Vec<String> = others.iter().map(|(name, count)| format!("{count} {name}")).collect();
        self.last = [vec![format!("{whole} whole")], others].concat().join(", ");
    }

    /// The node serves again, whatever was killed.
    async fn recover(&mut self, victim: Victim, found: &mut Vec<String>) -> Result<(), Trouble> {
        let restarted = matches!(victim, Victim::Node | Victim::Start);
        if restarted {
            self.subject.start().await?;
            // The functions are there. Others take their places, so that none meets a bound of its life.
            let kept = if std::mem::take(&mut self.is_wiped) { &[] } else { &self.functions[..] };
            for (number, function) in kept.iter().enumerate() {
                let end = function.invoke(&self.subject.way, "hello", json!({ "name": "still" }), Sent::All(Vec::new())).await;
                if end != End::Whole("still".into()) {
                    found.push(format!("function {number}, installed before the node was killed, is lost: {end:?}"));
                }
                let end = function.end(&self.subject.way).await;
                if !matches!(end, End::Whole(_)) {
                    found.push(format!("function {number} could not be ended: {end:?}"));
                }
            }
            self.used.clear();
            if let Err(text) = self.install().await {
                found.push(text);
                return Ok(());
            }
        }
        // Whoever lost an answer asks again, or ends what may be there.
        let visitors = std::mem::take(&mut *self.visitors.lock().unwrap_or_else(PoisonError::into_inner));
        for function in visitors {
            let end = function.end(&self.subject.way).await;
            if !matches!(&end, End::Whole(_)) && end != End::Told("unknown-token".into()) {
                found.push(format!("a visitor's function could not be ended: {end:?}"));
            }
        }
        if restarted || victim == Victim::Tor {
            found.extend(self.subject.published().await?.err());
            let key = self.subject.key();
            if self.key.is_some() && key != self.key {
                found.push("the key of the onion service is another one".into());
            }
            self.key = key;
        }
        for (number, function) in self.functions.iter().enumerate() {
            let end = function.invoke(&self.subject.way, "hello", json!({ "name": "again" }), Sent::All(Vec::new())).await;
            if end != End::Whole("again".into()) {
                found.push(format!("function {number} does not serve again: {end:?}"));
            }
            let used =
                function.status(&self.subject.way).await.map(|status| (amount(&status["cpu_used"]), amount(&status["traffic_used"])));
            match (used, self.used.get(number).copied().unwrap_or_default()) {
                (Some((Some(cpu), Some(traffic))), before) => {
                    // Of a killed process the kernel's account counts, in hundredths of a second; of a killed keeper the node's own last look.
                    if traffic < before.1 || cpu + 20 < before.0 {
                        found.push(format!("function {number} had used {before:?} (ms, bytes), and now only ({cpu}, {traffic})"));
                    }
                    if let Some(used) = self.used.get_mut(number) {
                        *used = (cpu, traffic);
                    }
                }
                (used, _) => found.push(format!("function {number} has no status: {used:?}")),
            }
        }
        if let Some(way) = (restarted || victim == Victim::Tor).then(|| self.subject.through_tor()).flatten() {
            self.reach(&way, found).await;
        }
        Ok(())
    }

    /// Through Tor, as clients elsewhere do, who try again for a while.
    async fn reach(&mut self, way: &Way, found: &mut Vec<String>) {
        let began = Instant::now();
        let mut tries = Vec::new();
        loop {
            let (from, end) = (began.elapsed(), client::greet(way).await);
            if matches!(end, End::Whole(_)) {
                self.reached.push(began.elapsed());
                self.last += &format!(", reached through Tor after {:.1} s", began.elapsed().as_secs_f32());
                break;
            }
            tries.push(format!("after {:.1} s {end:?}", from.as_secs_f32()));
            if began.elapsed() > REACHED {
                let told = self.subject.told();
                let told = told[told.len().saturating_sub(6)..].join(" | ");
                found.push(format!("nobody reaches it through Tor within {} s: {}; it says: {told}", REACHED.as_secs(), tries.join(", ")));
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
        let end = self.functions[0].invoke(way, "hello", json!({ "name": "tor" }), Sent::All(Vec::new())).await;
        if end != End::Whole("tor".into()) {
            found.push(format!("a function invoked through Tor ended with {end:?}"));
        }
    }

    /// Waits until the node rests, and looks what is there that was not.
    async fn rest(&mut self, found: &mut Vec<String>, compare: bool) {
        let began = Instant::now();
        loop {
            let mut left = self.left(compare);
            if left.is_empty() {
                return;
            }
            if began.elapsed() > REST {
                found.append(&mut left);
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn left(&mut self, compare: bool) -> Vec<String> {
        let Some(node) = self.subject.pid() else { return vec!["the node does not run".into()] };
        let mut known = self.ours.clone();
        known.insert(node);
        traces::bury(&known);
        known.extend(traces::below(node).iter().map(|process| process.pid));
        let mut left: Vec<String> = traces::below(std::process::id())
            .iter()
            .filter(|process| !known.contains(&process.pid))
            .map(|process| format!("a process that belongs to nobody: {} {}", process.name, process.pid))
            .collect();
        // One that was ready and was killed is replaced when the next one is taken.
        let (jails, wanted) = (self.subject.below("bento-jail").len(), FUNCTIONS + READY);
        if !(FUNCTIONS..=wanted).contains(&jails) || self.subject.below("python").len() != jails {
            let pythons = self.subject.below("python").len();
            left.push(format!("there are {jails} jails and {pythons} functions in them, and not {FUNCTIONS} with {READY} kept ready"));
        }
        if compare {
            left.extend(self.traces().beyond(&self.calm, self.spare));
            let current = self.subject.groups();
            left.extend(
                self.groups
                    .difference(&current)
                    .filter(|group| group.exists())
                    .map(|group| format!("a control group: {}", group.display())),
            );
        }
        left
    }

    /// Stops the node in peace; then nothing at all may be left.
    async fn end(&mut self) -> Result<(), Trouble> {
        let mut found: Vec<String> = self.subject.stop().await.into_iter().collect();
        let began = Instant::now();
        loop {
            traces::bury(&self.ours);
            let below = traces::below(std::process::id());
            let mut left: Vec<String> = below
                .iter()
                .filter(|process| !self.ours.contains(&process.pid))
                .map(|process| format!("after the stop: {} {}", process.name, process.pid))
                .collect();
            left.extend(self.groups.iter().filter(|group| group.exists()).map(|group| format!("after the stop: {}", group.display())));
            for socket in ["state/onion.sock", "state/operator.sock"] {
                if self.subject.directory().join(socket).exists() {
                    left.push(format!("after the stop: {socket}"));
                }
            }
            if left.is_empty() || began.elapsed() > REST {
                found.append(&mut left);
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.findings.append(&mut found);
        Ok(())
    }
}

/// `"1.5 s"` or `"12 KiB"` of a status, in milliseconds or bytes.
fn amount(value: &Value) -> Option<u64> {
    let (number, unit) = value.as_str()?.split_once(' ')?;
    let scale = match unit {
        "ms" | "B" | "bytes" | "byte" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    Some(number.parse::<u64>().ok()? * scale)
}

/// A directory that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Trouble> {
        // Found now, so that a program that is not built is told before anything is made.
        let _ = binary("bentod")?;
        let path = std::env::temp_dir().join(format!("faults-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(Trouble::doing("making a directory"))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Lines of a file, for a further `tor`.
pub(crate) fn lines(file: &Path) -> Result<Vec<String>, Trouble> {
    let text = std::fs::read_to_string(file).map_err(Trouble::doing(format!("reading {}", file.display())))?;
    Ok(text.lines().map(str::to_owned).collect())
}
