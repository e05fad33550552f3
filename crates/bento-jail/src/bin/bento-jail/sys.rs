//! The few system calls that no crate in use wraps safely. All unsafe code of the jail is here and in `seal`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::mount::MountAttrFlags;

/// A cloned child, as its parent sees it.
pub(crate) struct Child {
    pub(crate) pid: libc::pid_t,
    pub(crate) pidfd: OwnedFd,
}

/// Clones the process with new namespaces. `None` in the child, which has a copy of all memory and descriptors.
///
/// Must be called while there is one thread only, as the child has only the calling thread.
pub(crate) fn clone_into(namespaces: libc::c_int) -> io::Result<Option<Child>> {
    let mut pidfd: RawFd = -1;
    // WHY: the field-wise default is how libc wants this struct made; it has no constructor.
    // SAFETY: `clone_args` is made of integers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (namespaces | libc::CLONE_PIDFD) as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // WHY: std can only fork and exec in one, without namespaces, and no crate in use has clone3.
    // SAFETY: the struct and its size are right and `pidfd` outlives the call. Neither CLONE_VM nor a stack is asked for, so the child goes
    // on with its own copy of this stack, as after fork. One thread only, so no lock is held by a thread that the child lacks.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => {
            // WHY: the kernel wrote a plain number; only this makes it a descriptor that closes itself.
            // SAFETY: clone3 succeeded, so `pidfd` is a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Some(Child { pid: pid as libc::pid_t, pidfd }))
        }
    }
}

/// How a child ended, and what it used.
pub(crate) struct End {
    pub(crate) exit: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) cpu_ms: u64,
    pub(crate) max_rss_kib: u64,
}

/// Waits for a child's end.
pub(crate) fn wait(child: &Child) -> io::Result<End> {
    let mut status = 0;
    // WHY: `rusage` has no constructor.
    // SAFETY: it is made of integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // WHY: of all waits only this one also tells what the child used, and no crate in use wraps it.
        // SAFETY: both pointers are to live values of the right types.
        if unsafe { libc::wait4(child.pid, &raw mut status, 0, &raw mut usage) } == child.pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let ms = |time: libc::timeval| time.tv_sec.max(0) as u64 * 1000 + time.tv_usec.max(0) as u64 / 1000;
    Ok(End {
        exit: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        cpu_ms: ms(usage.ru_utime) + ms(usage.ru_stime),
        max_rss_kib: usage.ru_maxrss.max(0) as u64,
    })
}

/// Makes this process, and all that it becomes and starts, ask for its turns on the processor in pieces of this many nanoseconds. It gets as much as
/// before; but who wakes while it runs waits no longer than for one piece. Any user may ask so, from Linux 6.12 on; an older kernel takes no notice.
pub(crate) fn take_turns_of(nanoseconds: u64) -> io::Result<()> {
    let mut arguments = SchedAttr { size: size_of::<SchedAttr>() as u32, runtime: nanoseconds, ..SchedAttr::default() };
    // Set with the same call: as it is, since an ordinary user may only lower its own priority.
    arguments.nice = rustix::process::getpriority_process(None)?;
    // WHY: no crate in use has it, and the C library here neither.
    // SAFETY: the struct is live, begins with its size and is laid out as the kernel's `sched_attr`, of which it is the first version.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const arguments, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The kernel's `sched_attr` (sched_setattr(2)).
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets attributes of a mount, and makes it private: nothing mounted outside later appears in it. With `AT_RECURSIVE` in `scope`, also of all below it.
pub(crate) fn set_mount(mount: BorrowedFd<'_>, attributes: MountAttrFlags, scope: libc::c_int) -> io::Result<()> {
    let arguments = libc::mount_attr { attr_set: u64::from(attributes.bits()), attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // WHY: rustix has the other calls of the new mount interface, but not this one.
    // SAFETY: the path is an empty C string, the struct is live and its size is right.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | scope,
            &raw const arguments,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a copy of a descriptor at a number, replacing what was there.
pub(crate) fn place(from: RawFd, to: RawFd, flags: libc::c_int) -> io::Result<()> {
    // WHY: safe wrappers want to own the target, which here is a bare number agreed with the program to be started.
    // SAFETY: no memory is involved. Whoever owned `to` is never dropped in this process: it ends in exec or `leave`.
    if unsafe { libc::dup3(from, to, flags) } == to { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes all descriptors from this number on, whoever holds them.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    // WHY: there is no safe call that closes what somebody else in the process may own.
    // SAFETY: no memory is involved. Called before this process owns a descriptor of such a number, or right before exec.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Borrows a descriptor by the number agreed for it.
pub(crate) fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // WHY: descriptors that come from the caller by agreement have a number and no owner.
    // SAFETY: used only for numbers that were opened or placed at the start and stay open until the process ends.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Sets all signals to their default action and blocks none: both would outlive exec.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // WHY: there is no safe wrapper. Some numbers cannot be set (SIGKILL, SIGSTOP, two of glibc's own), which is no harm.
        // SAFETY: SIG_DFL installs no code.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // WHY: there is no safe wrapper.
    // SAFETY: the set is initialised by sigemptyset before it is read, and lives until the end of the block.
    unsafe {
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Ends the process at once. Neither exit handlers nor destructors run: in a cloned child they are the parent's business.
pub(crate) fn leave(status: i32) -> ! {
    // WHY: `std::process::exit` runs exit handlers.
    // SAFETY: it does not return, so nothing can be left in a bad state.
    unsafe { libc::_exit(status) }
}

/// One raw system call.
pub(crate) fn attempt(number: libc::c_long, arguments: [u64; 6]) -> Result<i64, i32> {
    let [a, b, c, d, e, f] = arguments;
    // WHY: the probe's purpose is to make calls that safe wrappers would not make; and no crate in use tells Landlock's version.
    // SAFETY: callers hand over numbers, or addresses of values that live during the call, and the kernel checks them all. None of the calls
    // changes memory of this process: those that could are refused, or else end the probe.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result >= 0 { Ok(result) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
}
