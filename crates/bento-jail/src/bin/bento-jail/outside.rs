//! The process outside the jail: reads the spec, clones the one that becomes the function, waits for it, reports.
//!
//! It has no power over the function but to kill it, and no part in what the function says: it closes its copy of the socket.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bento_jail::{Report, SPEC_BYTES_MAX, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, RecvFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use crate::inside;
use crate::refusal::{Refusal, Wall};
use crate::rights::INSIDE_ID;
use crate::sys::{self, Child};

/// Putting up a jail takes some three milliseconds. On a machine so busy that this does not do, the caller had better hear of it.
const START_SECONDS_MAX: u64 = 10;

/// The ordinary user that a function of root's node is outside: `nobody`. Root itself is bound by no RLIMIT_NPROC.
const NOBODY: u32 = 65_534;

/// Of all processes, functions shall be the first to go when the machine runs out of memory, not the relay beside them.
const OOM_SCORE: &str = "800";

const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Reads the spec, puts up the jail, and stays until its end.
pub(crate) fn run() -> ExitCode {
    // A signal from the terminal is for bentod, which then ends us in its own way. Fails only where we lead a session already.
    let _ = rustix::process::setsid();
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal { wall, reason }) => {
            // Nobody may be left to read it.
            let _ = report(&Report::Refused { wall, reason });
            ExitCode::FAILURE
        }
    }
}

fn keep() -> Result<(), Refusal> {
    sys::close_from(3).wall("start", "closing descriptors")?;
    let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
    let spec = receive_spec(deadline)?;
    spec.check().map_err(|flaw| Refusal::new("spec", flaw))?;

    let is_root = rustix::process::geteuid().is_root();
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).wall("start", "making a pipe");
    let ((news, news_end), (go_end, go)) = (pipe()?, pipe()?);
    let child = sys::clone_into(NAMESPACES).wall("namespaces", "making them (are user namespaces open to this user?)")?;
    let Some(child) = child else { inside::become_function(&spec, is_root, news_end.as_fd(), go_end.as_fd()) };
    drop((news_end, go_end));

    let started = map_ids(&child, is_root).and_then(|()| {
        // What the socket says is between the function and the caller.
        let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty());
        sys::place(null.wall("start", "/dev/null")?.as_raw_fd(), 0, 0).wall("start", "letting go of the socket")?;
        rustix::io::write(&go, b"g").wall("start", "starting")?;
        await_start(&child, news, deadline)
    });
    if let Err(refusal) = started {
        // It may have ended already, and then this is no use and no harm.
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
        let _ = sys::wait(&child);
        return Err(refusal);
    }

    let is_wanted = report(&Report::Up { pid: child.pid as u32 }).is_ok() && await_end(&child);
    if !is_wanted {
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
    }
    let end = sys::wait(&child).wall("end", "waiting for the end")?;
    let was_killed = end.signal == Some(libc::SIGKILL);
    let ended = Report::Ended {
        exit: end.exit,
        signal: end.signal,
        cpu_ms: end.cpu_ms,
        max_rss_kib: end.max_rss_kib,
        // The kernel compares the limit with ticks that it counted, and reports time that it measured. On a busy virtual machine the second
        // was seen a quarter below the first, at a limit of one second. Nobody else kills a function in such a way: bentod ends us, not it.
        out_of_cpu: was_killed && end.cpu_ms * 2 >= spec.cpu_seconds * 1000,
    };
    // Nobody may be left to read it.
    let _ = report(&ended);
    Ok(())
}

fn receive_spec(deadline: Instant) -> Result<Spec, Refusal> {
    let wall = "spec";
    let socket = sys::borrow(0);
    let is_ours = rustix::net::sockopt::socket_domain(socket).wall(wall, "descriptor 0")? == AddressFamily::UNIX
        && rustix::net::sockopt::socket_type(socket).wall(wall, "descriptor 0")? == SocketType::SEQPACKET;
    if !is_ours {
        return Err(Refusal::new(wall, "descriptor 0 is not an AF_UNIX SOCK_SEQPACKET socket"));
    }
    match poll(&[(socket, PollFlags::IN), (sys::borrow(1), PollFlags::empty())], Some(deadline)).wall(wall, "waiting for it")?[..] {
        [true, _] => (),
        [_, true] => return Err(Refusal::new(wall, "nobody reads the reports")),
        _ => return Err(Refusal::new(wall, format_args!("none came within {START_SECONDS_MAX} s"))),
    }
    let mut message = vec![0; SPEC_BYTES_MAX];
    // TRUNC: the true length, also of what did not fit.
    let (_, length) = rustix::net::recv(socket, &mut message[..], RecvFlags::TRUNC).wall(wall, "receiving it")?;
    match message.get(..length) {
        Some([]) => Err(Refusal::new(wall, "the caller closed the socket")),
        Some(spec) => serde_json::from_slice(spec).wall(wall, "reading it"),
        None => Err(Refusal::new(wall, format_args!("it is longer than {SPEC_BYTES_MAX} bytes"))),
    }
}

/// Gives the new user namespace its one user and group.
fn map_ids(child: &Child, is_root: bool) -> Result<(), Refusal> {
    let (uid, gid) = match is_root {
        true => (NOBODY, NOBODY),
        false => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    let write = |name: &str, text: &str| {
        let path = format!("/proc/{}/{name}", child.pid);
        std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(text.as_bytes()))
    };
    // Without root the kernel demands this before the groups. It is no wall, as no group is gained by laying one down here.
    if !is_root {
        write("setgroups", "deny").wall("namespaces", "setgroups")?;
    }
    write("uid_map", &format!("{INSIDE_ID} {uid} 1")).wall("namespaces", "mapping the user")?;
    write("gid_map", &format!("{INSIDE_ID} {gid} 1")).wall("namespaces", "mapping the group")?;
    // No wall, so no reason to refuse where it cannot be had.
    let _ = write("oom_score_adj", OOM_SCORE);
    Ok(())
}

/// Waits until the function runs. It says [`inside::ALL_STANDS`], and exec then closes the pipe; or it says which wall does not stand.
fn await_start(child: &Child, news: OwnedFd, deadline: Instant) -> Result<(), Refusal> {
    let mut said = Vec::new();
    loop {
        let (watched, stdout) = ((news.as_fd(), PollFlags::IN), (sys::borrow(1), PollFlags::empty()));
        match poll(&[watched, stdout], Some(deadline)).wall("start", "waiting")?[..] {
            [true, _] => {
                let mut part = [0; 4096];
                let length = rustix::io::read(&news, &mut part).wall("start", "listening")?;
                said.extend_from_slice(&part[..length]);
                if length == 0 {
                    break;
                }
            }
            [_, true] => return Err(Refusal::new("start", "nobody reads the reports")),
            _ => return Err(Refusal::new("start", format_args!("the walls were not up within {START_SECONDS_MAX} s"))),
        }
    }
    match said.strip_prefix(&[inside::ALL_STANDS]) {
        Some([]) => Ok(()),
        Some(refusal) => Err(serde_json::from_slice(refusal).unwrap_or_else(|error| Refusal::new("start", error))),
        None if said.is_empty() => {
            let end = sys::wait(child).wall("start", "waiting")?;
            Err(Refusal::new("start", format_args!("it died while putting up its walls (exit {:?}, signal {:?})", end.exit, end.signal)))
        }
        None => Err(serde_json::from_slice(&said).unwrap_or_else(|error| Refusal::new("start", error))),
    }
}

/// Waits until the function ends (true) or nobody reads the reports any more (false).
fn await_end(child: &Child) -> bool {
    loop {
        // There is no deadline: the function's life is the caller's to bound, by killing us.
        match poll(&[(child.pidfd.as_fd(), PollFlags::IN), (sys::borrow(1), PollFlags::empty())], None) {
            Ok([true, _]) => return true,
            Ok([_, false]) => (),
            _ => return false,
        }
    }
}

/// Waits for one of several descriptors, at most until the deadline, and says which have news.
fn poll<const N: usize>(watched: &[(BorrowedFd<'_>, PollFlags); N], deadline: Option<Instant>) -> io::Result<[bool; N]> {
    let mut polled = watched.each_ref().map(|(descriptor, flags)| PollFd::from_borrowed_fd(*descriptor, *flags));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match rustix::event::poll(&mut polled, left.as_ref()) {
            Ok(_) => return Ok(polled.each_ref().map(|descriptor| !descriptor.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes one line in one go, past std's buffer.
fn report(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut rest = &line[..];
    while !rest.is_empty() {
        let written = rustix::io::write(sys::borrow(1), rest)?;
        rest = &rest[written..];
    }
    Ok(())
}
