//! The process inside: puts up wall after wall around itself, and becomes the function.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bento_jail::{SOCKET, Spec};
use rustix::fs::{Mode, OFlags};

use crate::filter::Filters;
use crate::refusal::{Refusal, Wall};
use crate::seal::Seal;
use crate::{limits, mounts, rights, sys};

/// Said when all walls stand but the last. If nothing more is said until exec closes the pipe, that one stands as well.
pub(crate) const ALL_STANDS: u8 = b'E';

/// The pipe on which trouble is told. Closed by exec.
const NEWS: RawFd = 4;
/// The pipe on which the process outside says that the user namespace has its users.
const GO: RawFd = 5;

/// How long a function runs at a time while others want the processor, in nanoseconds: the least that the kernel takes.
const TURN: u64 = 100_000;

/// What the machine is called inside.
const HOST_NAME: &[u8] = b"bento";

/// Puts up all walls and starts the program. Says on `news` which wall does not stand, if one does not, and ends.
pub(crate) fn become_function(spec: &Spec, is_root: bool, news: BorrowedFd<'_>, go: BorrowedFd<'_>) -> ! {
    // A panic must not unwind into the frames of the process that this one is a copy of.
    let refusal = match catch_unwind(AssertUnwindSafe(|| put_up_and_start(spec, is_root, news, go))) {
        Ok(refusal) => refusal,
        Err(_) => Refusal::new("start", "bento-jail itself failed"),
    };
    if let Ok(text) = serde_json::to_vec(&refusal) {
        // If nobody listens, dying is all there is to say.
        let _ = rustix::io::write(sys::borrow(NEWS), &text);
    }
    sys::leave(1)
}

/// Returns only if something went wrong.
fn put_up_and_start(spec: &Spec, is_root: bool, news: BorrowedFd<'_>, go: BorrowedFd<'_>) -> Refusal {
    match arrange(news, go).and_then(|()| put_up(spec, is_root)) {
        Ok(seal) => Refusal::new("start", format_args!("{}: {}", spec.program.display(), seal.execute())),
        Err(refusal) => refusal,
    }
}

/// Brings the descriptors to their places and closes all others.
fn arrange(news: BorrowedFd<'_>, go: BorrowedFd<'_>) -> Result<(), Refusal> {
    let wall = "descriptors";
    // First out of the way, so that no place is taken before it is free.
    let aside = |descriptor: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(descriptor, 10).wall(wall, "moving one");
    let (socket, news, go) = (aside(sys::borrow(0))?, aside(news)?, aside(go)?);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).wall(wall, "/dev/null");
    let null = null.and_then(|null| aside(null.as_fd()))?;
    for (from, to, flags) in
        [(&null, 0, 0), (&null, 1, 0), (&null, 2, 0), (&socket, SOCKET, 0), (&news, NEWS, libc::O_CLOEXEC), (&go, GO, libc::O_CLOEXEC)]
    {
        sys::place(from.as_raw_fd(), to, flags).wall(wall, "placing one")?;
    }
    // These own their numbers, so they go before all numbers are closed.
    drop((socket, news, go, null));
    sys::close_from(GO + 1).wall(wall, "closing the others")
}

fn put_up(spec: &Spec, is_root: bool) -> Result<Seal, Refusal> {
    rustix::process::setsid().wall("rights", "starting a session")?;
    // A courtesy to neighbours and no wall: the kernel may not know it.
    let _ = sys::take_turns_of(TURN);
    sys::reset_signals();
    rustix::process::umask(Mode::from_raw_mode(0o077));

    let trees = mounts::take(spec)?;
    let mut go = [0];
    if rustix::io::read(sys::borrow(GO), &mut go) != Ok(1) {
        return Err(Refusal::new("start", "the keeper died"));
    }
    rights::become_nobody(is_root)?;
    rights::die_with_keeper(sys::borrow(NEWS))?;
    mounts::put_up(spec, trees)?;
    rustix::system::sethostname(HOST_NAME).wall("namespaces", "naming the host")?;
    rustix::system::setdomainname(b"").wall("namespaces", "naming the domain")?;
    limits::put_up(spec)?;
    rights::drop_capabilities()?;
    rights::put_up_landlock(spec)?;
    let seal = Seal::lay_out(spec).wall("seccomp", "laying out execve")?;
    let filters = Filters::build(spec, seal.addresses())?;
    // Whatever was opened on the way and not closed, NEWS alone excepted.
    sys::close_from(GO).wall("descriptors", "closing the last")?;
    // Said now, as writing may not be among the calls that the spec opens. What goes wrong after this is said after it.
    rustix::io::write(sys::borrow(NEWS), &[ALL_STANDS]).wall("start", "the keeper died")?;
    filters.apply()?;
    Ok(seal)
}
