//! Runs one attack, in a jail or without any, and judges it: what `attacks/README.md` says, in Rust.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::start::{Jail, PYTHON, WATCHDOG, is_readable, python_spec};

const TABLE: &str = include_str!("attacks/table");
const PRELUDE: &str = include_str!("attacks/prelude.py");
const WORLD: &str = include_str!("outside/world.py");

/// How long an attack may outlive its launcher.
const AFTERLIFE: Duration = Duration::from_secs(5);
/// What is kept of what an attack says. One that floods has said what counts before.
const SAID_BYTES_MAX: usize = 64 * 1024;

/// Little, so that using it up is soon done, on a busy machine as well.
const CPU_SECONDS: u64 = 2;

/// One line of the table.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    family: &'static str,
    ends: Ends,
    bare: &'static str,
    opens: Vec<&'static str>,
}

/// How an attack ends that is contained.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Ends {
    Says,
    Dies,
    Killed,
}

/// All attacks.
pub(crate) fn table() -> impl Iterator<Item = Attack> {
    TABLE.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, family, ends, bare, opens @ ..] = &words[..] else { panic!("{line}") };
        let ends = match *ends {
            "says" => Ends::Says,
            "dies" => Ends::Dies,
            "killed" => Ends::Killed,
            other => panic!("{other} in {line}"),
        };
        assert!(["any", "root", "depends"].contains(bare), "{line}");
        Attack { name, family, ends, bare, opens: opens.to_vec() }
    })
}

/// Tries an attack in each way that it is meant for.
#[track_caller]
pub(crate) fn try_out(name: &str, family: &str, source: &str) {
    let attack = table().find(|attack| attack.name == name).unwrap();
    assert_eq!(attack.family, family);
    let source = format!("{PRELUDE}{source}\ndone()\n");
    let mut ways = vec![Vec::new()];
    if !attack.opens.is_empty() {
        ways.push(attack.opens.clone());
    }
    for opens in ways {
        let how = in_a_jail(&attack, &source, &opens);
        assert!(how.is_contained(&attack), "with {opens:?} open: {how:?}");
    }
    if attack.bare == "any" || attack.bare == "root" && rustix::process::geteuid().is_root() {
        let how = without_walls(&attack, &source);
        assert!(how.is_escaped(&attack), "it does not even escape without walls: {how:?}");
    }
}

/// How an attack went.
#[derive(Debug)]
struct Course {
    said: Vec<String>,
    /// Whether it came to an end before its time was up.
    has_ended: bool,
    /// Targets of the outside that it reached.
    touched: Vec<String>,
}

impl Course {
    fn has(&self, start: &str) -> bool {
        self.said.iter().any(|line| line.starts_with(start))
    }

    fn is_escaped(&self, attack: &Attack) -> bool {
        let is_overdue = attack.ends != Ends::Says && self.has("allowed: ok") && !self.has_ended;
        self.has("forbidden: escaped") || !self.touched.is_empty() || is_overdue
    }

    fn is_contained(&self, attack: &Attack) -> bool {
        let is_refused = self.has("forbidden: contained");
        let is_held = match attack.ends {
            Ends::Says => is_refused,
            Ends::Dies => self.has_ended && (is_refused || !self.has("forbidden:")),
            Ends::Killed => self.has_ended && (is_refused || self.has("ready")),
        };
        let is_sound = self.has("allowed: ok") && !self.has("allowed: failed") && !self.has("forbidden: invalid");
        is_held && is_sound && !self.is_escaped(attack)
    }
}

fn in_a_jail(attack: &Attack, source: &str, opens: &[&str]) -> Course {
    let mut outside = Outside::make();
    let world = outside.world(3, "/tmp");
    let mut spec = python_spec(source, &[&world]);
    spec.cpu_seconds = CPU_SECONDS;
    spec.syscalls.extend(opens.iter().map(|name| (*name).to_owned()));
    // Not closed on exec: what a careless caller might leave open, and in its environment.
    let inherited = rustix::io::dup(&outside.secret_file).unwrap();
    let mut jail = Jail::start(&spec, |command| command.env("BENTO_BATTERY_SECRET", &outside.secret));
    drop(inherited);
    let (socket, keeper) = (jail.socket.try_clone().unwrap(), &mut jail.keeper);
    let (said, has_ended) = listen(attack, socket.as_fd(), keeper);
    // Whatever it said or did not, nothing of it lives on when its keeper is dead.
    let _ = jail.keeper.kill();
    assert!(jail.is_gone(), "{} lives on after {said:?}", attack.name);
    Course { said, has_ended, touched: outside.touched() }
}

fn without_walls(attack: &Attack, source: &str) -> Course {
    let mut outside = Outside::make();
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    let world = outside.world(1, scratch.path().to_str().unwrap());
    let inherited = rustix::io::dup(&outside.secret_file).unwrap();
    let mut child = python(source, &[&world]);
    let mut child = child.env("BENTO_BATTERY_SECRET", &outside.secret).current_dir(&scratch).stderr(Stdio::null()).spawn().unwrap();
    drop(inherited);
    let output = OwnedFd::from(child.stdout.take().unwrap());
    let (said, has_ended) = listen(attack, output.as_fd(), &mut child);
    let _ = child.kill();
    let _ = child.wait();
    Course { said, has_ended, touched: outside.touched() }
}

/// Hears an attack to its end, or until its time is up; kills its launcher if that is part of it.
fn listen(attack: &Attack, output: BorrowedFd<'_>, launcher: &mut Child) -> (Vec<String>, bool) {
    let mut deadline = Instant::now() + WATCHDOG;
    let (mut heard, mut was_killed) = (Vec::new(), false);
    let lines = |heard: &[u8]| String::from_utf8_lossy(heard).lines().map(str::to_owned).collect();
    while is_readable(output, deadline) {
        let mut chunk = [0; 8192];
        match rustix::io::read(output, &mut chunk) {
            Ok(0) | Err(_) => return (lines(&heard), true),
            Ok(length) if heard.len() < SAID_BYTES_MAX => heard.extend_from_slice(&chunk[..length]),
            // A flood keeps us from waiting, so the time is looked at here as well.
            Ok(_) if Instant::now() > deadline => break,
            Ok(_) => (),
        }
        if attack.ends == Ends::Killed && !was_killed && heard.windows(6).any(|part| part == b"ready\n") {
            launcher.kill().unwrap();
            (was_killed, deadline) = (true, Instant::now() + AFTERLIFE);
        }
    }
    (lines(&heard), false)
}

/// The targets, and the process that holds them.
struct Outside {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    described: serde_json::Value,
    secret_file: std::fs::File,
    secret: String,
}

impl Outside {
    fn make() -> Self {
        let mut process = python(WORLD, &[]).stdin(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let described: serde_json::Value = serde_json::from_str(&line).unwrap();
        let path = described["secret_file"].as_str().unwrap();
        let (secret_file, secret) = (std::fs::File::open(path).unwrap(), std::fs::read_to_string(path).unwrap());
        Self { input: process.stdin.take(), process, output, described, secret_file, secret }
    }

    /// What an attack is told.
    fn world(&self, out: i32, scratch: &str) -> String {
        let spec = python_spec("", &[]);
        let mut world = self.described.clone();
        world["out"] = out.into();
        world["scratch"] = scratch.into();
        world["bounds"] = serde_json::json!({
            "memory_bytes": spec.memory_bytes,
            "scratch_bytes": spec.scratch.bytes,
            "inodes": spec.scratch.inodes,
            "cpu_seconds": CPU_SECONDS,
            "processes": spec.processes,
            "descriptors": spec.descriptors,
        });
        world.to_string()
    }

    /// Which targets were reached.
    fn touched(&mut self) -> Vec<String> {
        drop(self.input.take());
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // It clears up after its input has ended.
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

fn python(source: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(PYTHON);
    command.args(["-I", "-S", "-B", "-c", source]).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}
