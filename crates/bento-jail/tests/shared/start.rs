//! Starts jails as bentod does, and listens to what comes out of them. Used by each test binary of this crate.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bento_jail::{Opening, Report, Scratch, Spec, default_syscalls, python_openings};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

/// The Python that is jailed. Without it these tests cannot be.
pub(crate) const PYTHON: &str = "/usr/bin/python3.11";

/// Longest time that anything in a jail is listened to.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);

static OPENINGS: LazyLock<Vec<Opening>> = LazyLock::new(|| python_openings(Path::new(PYTHON), &[]).unwrap());

/// The program under test: the one cargo built, or a copy that another user can read.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("BENTO_JAIL_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_bento-jail").into(), PathBuf::from)
}

/// A spec with everything as usual, for Python with this source and these arguments.
pub(crate) fn python_spec(source: &str, arguments: &[&str]) -> Spec {
    Spec {
        program: PYTHON.into(),
        arguments: [&["-I", "-S", "-B", "-c", source], arguments].concat().into_iter().map(String::from).collect(),
        environment: [("LANG", "C.UTF-8"), ("HOME", "/tmp"), ("MALLOC_ARENA_MAX", "1")]
            .map(|(name, value)| (name.into(), value.into()))
            .to_vec(),
        openings: OPENINGS.clone(),
        scratch: Scratch { bytes: 4 << 20, inodes: 64 },
        memory_bytes: 256 << 20,
        cpu_seconds: 10,
        processes: 16,
        descriptors: 64,
        syscalls: default_syscalls().iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// A jail that was started. Dropped, it is killed.
pub(crate) struct Jail {
    pub(crate) keeper: Child,
    pub(crate) reports: Option<BufReader<ChildStdout>>,
    pub(crate) socket: OwnedFd,
    pub(crate) pid: u32,
    pub(crate) born: Instant,
}

impl Jail {
    /// Starts a jail that must come up.
    #[track_caller]
    pub(crate) fn start(spec: &Spec, prepare: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut jail = Self::spawn(&serde_json::to_vec(spec).unwrap(), prepare);
        match jail.report() {
            Report::Up { pid } => jail.pid = pid,
            other => panic!("{other:?}"),
        }
        jail
    }

    /// Starts `bento-jail` with these bytes as its spec.
    pub(crate) fn spawn(spec: &[u8], prepare: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let (socket, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut command = Command::new(program());
        prepare(command.stdin(theirs).stdout(Stdio::piped()).stderr(Stdio::null()));
        let mut keeper = command.spawn().unwrap();
        let reports = Some(BufReader::new(keeper.stdout.take().unwrap()));
        rustix::net::send(&socket, spec, SendFlags::NOSIGNAL).unwrap();
        Self { keeper, reports, socket, pid: 0, born: Instant::now() }
    }

    /// The next report line.
    pub(crate) fn report(&mut self) -> Report {
        let reports = self.reports.as_mut().unwrap();
        if reports.buffer().is_empty() {
            assert!(is_readable(reports.get_ref().as_fd(), self.born + WATCHDOG), "no report in time");
        }
        let mut line = String::new();
        reports.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Whether the jailed process ends within some seconds.
    pub(crate) fn is_gone(&self) -> bool {
        let path = PathBuf::from(format!("/proc/{}", self.pid));
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            // A zombie has ended; that nobody has looked at it yet is no life.
            let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
            if stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Waits for something to read, or for the end, until a deadline.
pub(crate) fn is_readable(descriptor: BorrowedFd<'_>, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&left)).unwrap() > 0
}
