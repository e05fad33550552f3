//! Puts snippets of Python into jails, and reads what they say.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use bento_jail::{Report, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

pub(crate) use crate::start::{Jail, PYTHON, program};
use crate::start::{WATCHDOG, is_readable, python_spec};

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

/// A spec with everything as usual, for a snippet of Python.
pub(crate) fn spec(snippet: &str) -> Spec {
    python_spec(&format!("{PRELUDE}{snippet}"), &[])
}

/// Runs a snippet in the usual jail, and hands back the lines it said. It must end by itself, and well.
#[track_caller]
pub(crate) fn said(snippet: &str) -> Vec<String> {
    said_in(&spec(snippet))
}

/// As `said`, in a jail of this spec.
#[track_caller]
pub(crate) fn said_in(spec: &Spec) -> Vec<String> {
    let (said, end) = start(spec).finish();
    assert!(matches!(end, Report::Ended { exit: Some(0), .. }), "{end:?} after {said:?}");
    said
}

/// Starts a jail that must come up.
#[track_caller]
pub(crate) fn start(spec: &Spec) -> Jail {
    Jail::start(spec, |command| command)
}

impl Jail {
    /// The next line that the snippet says; `None` at its end.
    pub(crate) fn hear(&self) -> Option<String> {
        assert!(is_readable(self.socket.as_fd(), self.born + WATCHDOG), "the jail says nothing");
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
