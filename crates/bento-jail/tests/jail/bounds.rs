//! Memory, CPU time, threads, descriptors.

use bento_jail::Report;

use crate::harness::{said, said_in, spec, start};

#[test]
fn memory_is_bounded() {
    let said = said(
        "
kept = []
def much():
    while True:
        kept.append(bytearray(1 << 20))
attempt('some', lambda: bytearray(64 << 20))
attempt('more', lambda: bytearray(1 << 30))
attempt('bit by bit', much)
say(len(kept) < 256)
kept.clear()
attempt('again', lambda: bytearray(64 << 20))
import mmap
attempt('shared', lambda: mmap.mmap(-1, 1 << 30))
",
    );
    assert_eq!(said, ["some ok", "more MemoryError", "bit by bit MemoryError", "True", "again ok", "shared ENOMEM"]);
}

#[test]
fn cpu_time_is_bounded_for_all_threads_together() {
    let mut spec = spec(
        "
import signal, hashlib, threading
# Handling the signal that announces the end is no way out.
signal.signal(signal.SIGXCPU, lambda *_: None)
def spin():
    while True:
        hashlib.sha256(bytes(1 << 20))
threading.Thread(target=spin, daemon=True).start()
spin()
",
    );
    spec.cpu_seconds = 1;
    let started = std::time::Instant::now();
    let (_, end) = start(&spec).finish();
    let Report::Ended { exit: None, signal: Some(9), cpu_ms, out_of_cpu: true, .. } = end else { panic!("{end:?}") };
    // The kernel ends it by the ticks it counted, and reports the time it measured: the two differ on a busy machine.
    assert!((800..1500).contains(&cpu_ms), "{cpu_ms}");
    assert!(started.elapsed().as_secs() < 10);
}

#[test]
fn little_cpu_time_is_no_offence() {
    let mut spec = spec("import time; time.sleep(1.2); say('slept')");
    spec.cpu_seconds = 1;
    let (said, end) = start(&spec).finish();
    assert_eq!(said, ["slept"]);
    let Report::Ended { exit: Some(0), signal: None, cpu_ms, max_rss_kib, out_of_cpu: false } = end else { panic!("{end:?}") };
    assert!(cpu_ms < 900, "{cpu_ms}");
    assert!((1024..262_144).contains(&max_rss_kib), "{max_rss_kib}");
}

#[test]
fn a_function_that_is_killed_otherwise_was_not_out_of_cpu() {
    let jail = &mut start(&spec("say('up'); import time; time.sleep(60)"));
    assert_eq!(jail.hear().as_deref(), Some("up"));
    let pid = rustix::process::Pid::from_raw(jail.pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let (_, end) = jail.finish();
    assert!(matches!(end, Report::Ended { signal: Some(9), out_of_cpu: false, .. }), "{end:?}");
}

#[test]
fn threads_are_bounded_and_processes_are_none() {
    let mut spec = spec(
        "
import threading, subprocess
gate = threading.Event()
count = 1
def bomb():
    global count
    while True:
        threading.Thread(target=gate.wait, daemon=True).start()
        count += 1
attempt('bomb', bomb)
say(count)
gate.set()
attempt('fork', os.fork)
attempt('spawn', lambda: os.posix_spawn(sys.executable, ['python', '-c', 'pass'], {}))
attempt('subprocess', lambda: subprocess.run([sys.executable, '-c', 'pass']))
attempt('shell', lambda: os.execv('/bin/sh', ['sh', '-c', 'true']))
attempt('python', lambda: os.execv(sys.executable, [sys.executable, '-c', 'pass']))
attempt('loader', lambda: os.execv('/lib64/ld-linux-x86-64.so.2', ['ld.so', sys.executable]))
say('still here')
",
    );
    spec.processes = 8;
    assert_eq!(
        said_in(&spec),
        [
            "bomb RuntimeError",
            "8",
            "fork EPERM",
            "spawn EPERM",
            "subprocess EPERM",
            "shell EPERM",
            "python EPERM",
            "loader EPERM",
            "still here"
        ]
    );
}

#[test]
fn descriptors_are_bounded_and_none_is_inherited() {
    // Not closed on exec: what a careless caller might leave open.
    let secret = std::fs::File::open("/etc/passwd").unwrap();
    let _inherited = rustix::io::dup(&secret).unwrap();
    let said = said(
        "
import fcntl
def is_open(number):
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False
    return True
say([number for number in range(1024) if is_open(number)])
say(os.stat(0).st_rdev == os.stat(1).st_rdev == os.stat(2).st_rdev == os.stat('/dev/null').st_rdev)
kept = []
def much():
    while True:
        kept.append(os.open('/dev/null', os.O_RDONLY))
attempt('some', lambda: [os.close(os.dup(0)) for _ in range(1000)])
attempt('bomb', much)
say(len(kept))
",
    );
    assert_eq!(said, ["[0, 1, 2, 3]", "True", "some ok", "bomb EMFILE", "60"]);
}

#[test]
fn no_limit_can_be_changed() {
    let said = said(
        "
import resource
attempt('read', lambda: resource.getrlimit(resource.RLIMIT_AS))
say(resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_MEMLOCK))
def change():
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ValueError as error:
        raise OSError(errno.EPERM, str(error))
attempt('change', change)
attempt('another process', lambda: resource.prlimit(2, resource.RLIMIT_AS))
attempt('priority', lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
",
    );
    assert_eq!(said, ["read ok", "(268435456, 268435456) (1, 1) (0, 0)", "change EPERM", "another process EPERM", "priority EPERM"]);
}

#[test]
fn endless_recursion_is_an_exception_and_no_crash() {
    let said = said(
        "
import threading
class Deep:
    def __getattr__(self, name):
        return getattr(Deep(), name + 'x')
def again(n):
    return sorted([n], key=lambda _: again(n))
def deep():
    for act in lambda: Deep().a, lambda: again(1), lambda: eval('-' * 100_000 + '1'), lambda: eval('not ' * 100_000 + '1'):
        attempt('deep', act)
deep()
thread = threading.Thread(target=deep)
thread.start()
thread.join()
",
    );
    assert_eq!(said, ["deep RecursionError", "deep RecursionError", "deep MemoryError", "deep MemoryError"].repeat(2));
}
