//! The program that `bento-jail --check` puts in a jail: this same program, trying from inside what must not work, beside what must.
//!
//! Tells what it found on the socket, one JSON object a message, and then waits to be looked at from outside.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use bento_jail::{SCRATCH, SOCKET, Scratch};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use crate::sys;

/// The command line argument that starts it.
pub(crate) const ARGUMENT: &str = "--probe";
/// Set in the environment of a probe that shall do nothing but use CPU time.
pub(crate) const SPIN: &str = "SPIN";

/// The bounds of the probe's jail.
pub(crate) const SCRATCH_BOUNDS: Scratch = Scratch { bytes: 1 << 20, inodes: 32 };
pub(crate) const MEMORY_BYTES: u64 = 64 << 20;
pub(crate) const PROCESSES: u64 = 8;
pub(crate) const DESCRIPTORS: u64 = 32;
pub(crate) const CPU_SECONDS: u64 = 1;

const PROBES: [fn() -> Finding; 8] = [mounts, scratch, landlock, seccomp, network, descriptors, limits, environment];
/// How many findings it tells.
pub(crate) const COUNT: usize = PROBES.len();

/// Whether one wall holds.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Finding {
    pub(crate) wall: String,
    pub(crate) holds: bool,
    pub(crate) detail: String,
}

impl Finding {
    pub(crate) fn new(wall: &str, holds: bool, detail: impl Into<String>) -> Self {
        Self { wall: wall.to_owned(), holds, detail: detail.into() }
    }
}

/// Collects what does not hold within one wall.
#[derive(Default)]
pub(crate) struct Breaches(Vec<String>);

impl Breaches {
    /// Notes `what` unless it is as it must be.
    pub(crate) fn unless(&mut self, is_so: bool, what: impl Into<String>) {
        if !is_so {
            self.0.push(what.into());
        }
    }

    /// The finding, with what was tried if all is as it must be, else with what is not.
    pub(crate) fn finding(self, wall: &str, tried: &str) -> Finding {
        let holds = self.0.is_empty();
        Finding::new(wall, holds, if holds { tried.to_owned() } else { self.0.join("; ") })
    }
}

/// Probes each wall, tells, and waits for the other end to close.
pub(crate) fn run() -> ExitCode {
    if std::env::var_os(SPIN).is_some() {
        loop {
            std::hint::spin_loop();
        }
    }
    let socket = sys::borrow(SOCKET);
    for probe in PROBES {
        let Ok(message) = serde_json::to_vec(&probe()) else { return ExitCode::FAILURE };
        if rustix::net::send(socket, &message, SendFlags::empty()).is_err() {
            return ExitCode::FAILURE;
        }
    }
    let mut none = [0];
    let _ = rustix::net::recv(socket, &mut none[..], RecvFlags::empty());
    ExitCode::SUCCESS
}

fn mounts() -> Finding {
    let mut breaches = Breaches::default();
    for absent in ["/etc/passwd", "/proc/self", "/sys", "/home", "/root", "/dev/mem", "/run", "/usr/bin"] {
        breaches.unless(!Path::new(absent).exists(), format!("{absent} is there"));
    }
    let errno = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    breaches.unless(errno(fs::create_dir("/new")) == Some(libc::EROFS), "the root can be written");
    let program = std::env::args_os().next().unwrap_or_default();
    let opened = File::options().append(true).open(&program).map(drop);
    breaches.unless(matches!(errno(opened), Some(libc::EROFS | libc::EACCES | libc::ETXTBSY)), "an opening can be written");
    breaches.unless(fs::read(&program).is_ok(), "an opening cannot be read");
    breaches.finding("mounts", "a root of its own, read only; nothing of the machine but the openings, read only; no /proc")
}

fn scratch() -> Finding {
    let mut breaches = Breaches::default();
    let is_full = |result: &io::Result<()>| result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOSPC));
    let big = Path::new(SCRATCH).join("big");
    let page = [1; 4096];
    let mut written = 0;
    let filled = File::create(&big).and_then(|mut file| {
        while written <= 2 * SCRATCH_BOUNDS.bytes {
            file.write_all(&page)?;
            written += page.len() as u64;
        }
        Ok(())
    });
    breaches.unless(written > 0, "the scratch cannot be written");
    breaches.unless(written <= SCRATCH_BOUNDS.bytes && filled.is_err(), format!("{written} bytes could be written"));
    let _ = fs::remove_file(big);
    let file = |number: u64| Path::new(SCRATCH).join(number.to_string());
    let made =
        (0..2 * SCRATCH_BOUNDS.inodes).map(|number| File::create(file(number)).map(drop)).take_while(|result| !is_full(result)).count()
            as u64;
    breaches.unless(made > 0 && made < SCRATCH_BOUNDS.inodes, format!("{made} files could be made"));
    for number in 0..made {
        let _ = fs::remove_file(file(number));
    }
    breaches.finding("scratch", "bounded in bytes and inodes, the only place to write")
}

fn landlock() -> Finding {
    // The mounts allow listing the root, and any user may: if it is refused, it is by Landlock. Its version cannot be asked in here.
    let listed = fs::read_dir("/").map(drop);
    let mut breaches = Breaches::default();
    breaches.unless(listed.is_err_and(|error| error.raw_os_error() == Some(libc::EACCES)), "the root can be listed");
    breaches.unless(fs::read_dir(SCRATCH).is_ok(), "the scratch cannot be listed");
    breaches.finding("landlock", "")
}

/// Calls that only seccomp stops, and some that other walls stop as well, each with arguments that would do something.
fn seccomp() -> Finding {
    let mut breaches = Breaches::default();
    let (path, kind, name) = (c"/".as_ptr() as u64, c"user".as_ptr() as u64, c"tmpfs".as_ptr() as u64);
    let buffer = [0u64; 64];
    let place = buffer.as_ptr() as u64;
    let iovec = [place, 8];
    let vector = iovec.as_ptr() as u64;
    // A perf_event_attr for the task clock, a bpf_attr for an array map, a clone_args for a plain child: type or size first.
    let perf = [1u64 | 128 << 32, 1, 0, 0, 0, 1 << 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let map = [2u64 | 4 << 32, 4 | 1 << 32, 0, 0, 0, 0, 0, 0, 0, 0];
    let child = [0u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0, 0, 0, 0];
    let program = std::env::args().next().unwrap_or_default() + "\0";
    let arguments = [program.as_ptr() as u64, 0];
    // RLIMIT_CORE (4) back to nothing, which would start a core dump handler again.
    let no_core = [0u64; 2];
    let calls = [
        ("keyctl", libc::SYS_keyctl, [0, -3i64 as u64, 1, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [kind, name, place, 8, -3i64 as u64, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [4, place, 0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]),
        ("memfd_create", libc::SYS_memfd_create, [name, 0, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, map.as_ptr() as u64, size_of_val(&map) as u64, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [perf.as_ptr() as u64, 0, -1i64 as u64, -1i64 as u64, 0, 0]),
        ("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [name, c"/tmp".as_ptr() as u64, name, 0, 0, 0]),
        ("chroot", libc::SYS_chroot, [path, 0, 0, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [libc::PTRACE_TRACEME as u64, 0, 0, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [1, vector, 1, vector, 1, 0]),
        ("shmget", libc::SYS_shmget, [0, 4096, 0o1600, 0, 0, 0]),
        ("personality", libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0, 0]),
        ("kill", libc::SYS_kill, [0, 0, 0, 0, 0, 0]),
        ("clone as a process", libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [child.as_ptr() as u64, size_of_val(&child) as u64, 0, 0, 0, 0]),
        ("a second execve", libc::SYS_execve, [program.as_ptr() as u64, arguments.as_ptr() as u64, 0, 0, 0, 0]),
        ("execveat", libc::SYS_execveat, [libc::AT_FDCWD as u64, program.as_ptr() as u64, arguments.as_ptr() as u64, 0, 0, 0]),
        ("keyctl in another spelling", libc::SYS_keyctl | 0x4000_0000, [0, -3i64 as u64, 1, 0, 0, 0]),
        ("seccomp", libc::SYS_seccomp, [2, 0, 0, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [3, place, 0, 0, 0, 0]),
        ("setting a limit", libc::SYS_prlimit64, [0, 4, no_core.as_ptr() as u64, 0, 0, 0]),
    ];
    let count = calls.len();
    for (name, number, arguments) in calls {
        let result = sys::attempt(number, arguments);
        if result == Ok(0) && number == libc::SYS_clone {
            // We are the child that must not be.
            sys::leave(0);
        }
        breaches.unless(matches!(result, Err(libc::EPERM | libc::ENOSYS)), format!("{name} is not refused ({result:?})"));
    }
    breaches.finding(
        "seccomp",
        &format!("{count} calls tried and refused, among them a new process, program, namespace, key ring, memfd and io_uring"),
    )
}

fn network() -> Finding {
    let mut breaches = Breaches::default();
    for (name, family) in [
        ("IPv4", libc::AF_INET),
        ("IPv6", libc::AF_INET6),
        ("netlink", libc::AF_NETLINK),
        ("packet", libc::AF_PACKET),
        ("vsock", libc::AF_VSOCK),
        ("Bluetooth", libc::AF_BLUETOOTH),
        ("AF_ALG", libc::AF_ALG),
    ] {
        let result = sys::attempt(libc::SYS_socket, [family as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]);
        breaches.unless(result == Err(libc::EPERM), format!("there are {name} sockets ({result:?})"));
    }
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    breaches.unless(pair.is_ok(), "there are no socket pairs");
    breaches.finding("network", "no sockets but those handed over and AF_UNIX pairs")
}

fn descriptors() -> Finding {
    let mut breaches = Breaches::default();
    let is_open = |number: i32| sys::attempt(libc::SYS_fcntl, [number as u64, libc::F_GETFD as u64, 0, 0, 0, 0]).is_ok();
    let open: Vec<i32> = (0..4096).filter(|number| is_open(*number)).collect();
    breaches.unless(open == [0, 1, 2, SOCKET], format!("open are {open:?}"));
    let null = File::open("/dev/null");
    breaches.unless(null.is_ok(), "/dev/null cannot be opened");
    let more = (0..2 * DESCRIPTORS).map_while(|_| null.as_ref().ok()?.try_clone().ok()).collect::<Vec<_>>().len() as u64;
    breaches.unless(more + 5 == DESCRIPTORS, format!("{more} more could be opened"));
    breaches.finding("descriptors", "none but the socket and /dev/null; bounded in number")
}

fn limits() -> Finding {
    let mut breaches = Breaches::default();
    let is = |resource, bound: u64| getrlimit(resource).current == Some(bound) && getrlimit(resource).maximum == Some(bound);
    breaches.unless(is(Resource::As, MEMORY_BYTES), "RLIMIT_AS is not set");
    breaches.unless(is(Resource::Cpu, CPU_SECONDS), "RLIMIT_CPU is not set");
    breaches.unless(is(Resource::Memlock, 0), "RLIMIT_MEMLOCK is not set");
    // Not written to, so it costs nothing where the bound does not hold.
    let mut memory: Vec<u8> = Vec::new();
    breaches.unless(memory.try_reserve_exact(MEMORY_BYTES as usize).is_err(), "more memory than the bound can be had");
    breaches.unless(memory.try_reserve_exact(1 << 20).is_ok(), "no memory can be had");

    let gate = std::sync::Mutex::new(());
    let count = std::thread::scope(|scope| {
        let closed = gate.lock();
        // Each thread waits until the gate opens.
        let start = |_| std::thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, || drop(gate.lock())).ok();
        let started = (0..2 * PROCESSES).map_while(start).count() as u64;
        drop(closed);
        started + 1
    });
    breaches.unless(count == PROCESSES, format!("{count} threads could be started, and the bound is {PROCESSES}"));
    breaches.finding("limits", "memory, threads, descriptors, files, locked memory, message queues, core files")
}

fn environment() -> Finding {
    let variables: Vec<_> = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    let mut breaches = Breaches::default();
    breaches.unless(variables == ["PROBE"], format!("there are {variables:?}"));
    breaches.finding("environment", "nothing of the caller's")
}
