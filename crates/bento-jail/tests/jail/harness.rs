//! Starts jails as bentod does, and listens to what comes out of them.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bento_jail::{Opening, Report, Scratch, Spec, default_syscalls, python_openings};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};

/// The Python that is jailed. Without it these tests cannot be.
pub(crate) const PYTHON: &str = "/usr/bin/python3.11";

/// Longest life of a jail in these tests.
const WATCHDOG: Duration = Duration::from_secs(20);

/// What each snippet starts with: `say` tells the harness a line, `attempt` tells how an act went.
const PRELUDE: &str = "
import errno, os, socket, sys
api = socket.socket(fileno=3)
def say(*words):
    api.send(' '.join(map(str, words)).encode())
def attempt(name, act):
    try:
        act()
    except OSError as error:
        say(name, errno.errorcode.get(error.errno, error.errno))
    except (MemoryError, RuntimeError) as error:
        say(name, type(error).__name__)
    else:
        say(name, 'ok')
";

static OPENINGS: LazyLock<Vec<Opening>> = LazyLock::new(|| python_openings(Path::new(PYTHON), &[]).unwrap());

/// The program under test: the one cargo built, or a copy that another user can read.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("BENTO_JAIL_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_bento-jail").into(), PathBuf::from)
}

/// A spec with everything as usual, for a snippet of Python.
pub(crate) fn spec(snippet: &str) -> Spec {
    Spec {
        program: PYTHON.into(),
        arguments: ["-I", "-S", "-B", "-c", &format!("{PRELUDE}{snippet}")].map(String::from).to_vec(),
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

/// Runs a snippet in the usual jail, and hands back the lines it said. It must end by itself, and well.
#[track_caller]
pub(crate) fn said(snippet: &str) -> Vec<String> {
    said_in(&spec(snippet))
}

/// As `said`, in a jail of this spec.
#[track_caller]
pub(crate) fn said_in(spec: &Spec) -> Vec<String> {
    let mut jail = Jail::start(spec);
    let (said, end) = jail.finish();
    assert!(matches!(end, Report::Ended { exit: Some(0), .. }), "{end:?} after {said:?}");
    said
}

/// A jail that was started. Dropped, it is killed.
pub(crate) struct Jail {
    pub(crate) keeper: Child,
    pub(crate) reports: Option<BufReader<ChildStdout>>,
    pub(crate) socket: OwnedFd,
    pub(crate) pid: u32,
    born: Instant,
}

impl Jail {
    /// Starts a jail that must come up.
    #[track_caller]
    pub(crate) fn start(spec: &Spec) -> Self {
        let mut jail = Self::spawn(&serde_json::to_vec(spec).unwrap(), |command| command);
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
            assert!(is_readable(reports.get_ref().as_fd(), self.born), "no report in time");
        }
        let mut line = String::new();
        reports.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The next line that the snippet says; `None` at its end.
    pub(crate) fn hear(&self) -> Option<String> {
        assert!(is_readable(self.socket.as_fd(), self.born), "the jail says nothing");
        let mut message = [0; 8192];
        let (_, length) = rustix::net::recv(&self.socket, &mut message[..], RecvFlags::empty()).unwrap();
        (length > 0).then(|| String::from_utf8_lossy(&message[..length]).into_owned())
    }

    /// All that is still to be said, and how it ends.
    pub(crate) fn finish(&mut self) -> (Vec<String>, Report) {
        let said = std::iter::from_fn(|| self.hear()).collect();
        (said, self.report())
    }

    /// Whether the other end of the socket is closed by all who had it, within some seconds.
    pub(crate) fn is_hung_up(&self) -> bool {
        let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
        let mut polled = [PollFd::new(&self.socket, PollFlags::empty())];
        rustix::event::poll(&mut polled, Some(&patience)).unwrap() > 0
    }

    /// Hands over a descriptor with a message.
    pub(crate) fn hand_over(&self, descriptor: BorrowedFd<'_>) {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        rustix::net::sendmsg(&self.socket, &[std::io::IoSlice::new(b"!")], &mut control, SendFlags::empty()).unwrap();
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

/// Tells why a spec was refused: the wall and the reason.
#[track_caller]
pub(crate) fn refusal(spec: &[u8]) -> (String, String) {
    let mut jail = Jail::spawn(spec, |command| command);
    let report = jail.report();
    let Report::Refused { wall, reason } = report else { panic!("{report:?}") };
    let mut rest = String::new();
    jail.reports.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_eq!(jail.keeper.wait().unwrap().code(), Some(1));
    (wall, reason)
}

fn is_readable(descriptor: BorrowedFd<'_>, born: Instant) -> bool {
    let left = WATCHDOG.saturating_sub(born.elapsed());
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&left)).unwrap() > 0
}
