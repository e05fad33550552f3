//! System calls that a function has no business with.

use crate::harness::{said, said_in, spec};

/// `call(name, number, *arguments)` makes a raw system call and says how it went.
const CALLS: &str = "
import ctypes, ctypes.util
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(name, number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[a if isinstance(a, (bytes, ctypes.Array, ctypes.Structure)) else ctypes.c_ulong(a & (2**64 - 1)) for a in arguments])
    if result == 0 and name.startswith('clone'):
        os._exit(0)
    say(name, errno.errorcode.get(ctypes.get_errno(), '?') if result < 0 else 'ok')
def words(*values):
    return (ctypes.c_ulong * len(values))(*values)
buffer = words(*[0] * 64)
iovec = words(ctypes.addressof(buffer), 8)
";

#[cfg(target_arch = "x86_64")]
#[test]
fn dangerous_calls_are_refused_and_harmless_ones_are_not() {
    let said = said(&format!(
        "{CALLS}
call('getpid', 39)
call('keyctl', 250, 0, -3, 1)
call('add_key', 248, b'user', b'name', buffer, 8, -3)
call('request_key', 249, b'user', b'name', 0, -3)
call('io_uring_setup', 425, 4, buffer)
call('userfaultfd', 323, 1)
call('memfd_create', 319, b'name', 0)
call('memfd_secret', 447, 0)
call('bpf', 321, 0, words(2 | 4 << 32, 4 | 1 << 32, 0, 0, 0, 0, 0, 0), 64)
call('perf_event_open', 298, words(1 | 128 << 32, 1, 0, 0, 0, 32, *[0] * 10), 0, -1, -1, 0)
call('ptrace seize', 101, 0x4206, 2, 0, 0)
call('process_vm_readv', 310, os.getpid(), iovec, 1, iovec, 1, 0)
call('process_vm_writev', 311, os.getpid(), iovec, 1, iovec, 1, 0)
call('pidfd_open', 434, 1, 0)
call('kcmp', 312, 1, 1, 0, 0, 1)
call('unshare user', 272, 0x10000000)
call('unshare net', 272, 0x40000000)
call('setns', 308, 3, 0)
call('mount', 165, b'x', b'/tmp', b'tmpfs', 0, 0)
call('umount', 166, b'/tmp', 2)
call('pivot_root', 155, b'/tmp', b'/tmp')
call('chroot', 161, b'/tmp')
call('fsopen', 430, b'tmpfs', 0)
call('open_tree', 428, -100, b'/tmp', 1)
call('mount_setattr', 442, -100, b'/tmp', 0, words(0, 1, 0, 0), 32)
call('open_by_handle_at', 304, 3, words(8 | 1 << 32, 2), 0)
call('name_to_handle_at', 303, -100, b'/tmp', words(64), buffer, 0)
call('shmget', 29, 0, 4096, 0o1600)
call('msgget', 68, 0, 0o1600)
call('mq_open', 240, b'q', 0o102, 0o600, 0)
call('clone as a process', 56, 17, 0, 0, 0, 0)
call('clone as a user namespace', 56, 0x10000011, 0, 0, 0, 0)
call('clone3', 435, words(0, 0, 0, 0, 17, 0, 0, 0), 64)
call('vfork', 58)
call('execveat', 322, -100, b'/usr/bin/python3.11', words(0), 0, 0)
call('personality', 135, 0x40000)
call('seccomp', 317, 2, 0, 0)
call('prctl death signal', 157, 1, 0)
call('prctl dumpable', 157, 4, 1)
call('setuid', 105, 0)
call('capset', 126, words(0x20080522), words(0, 0, 0))
call('kill', 62, 0, 0)
call('reboot', 169, 0xfee1dead, 672274793, 0, 0)
call('init_module', 175, buffer, 8, b'')
call('settimeofday', 164, buffer, 0)
call('sethostname', 170, b'host', 4)
call('mlock', 149, ctypes.addressof(buffer), 8)
call('quotactl', 179, 0, b'/', 0, buffer)
call('sched_setscheduler', 144, 0, 1, words(1))
call('inotify_init1', 294, 0)
call('fanotify_init', 300, 0, 0)
call('x32 getpid', 0x40000000 + 39)
call('prctl name', 157, 15, b'name')
call('getppid', 110)
"
    ));
    let (allowed, refused): (Vec<&String>, Vec<&String>) = said.iter().partition(|line| line.ends_with(" ok"));
    assert_eq!(allowed, ["getpid ok", "prctl name ok", "getppid ok"]);
    assert!(refused.iter().all(|line| line.ends_with(" EPERM") || **line == "clone3 ENOSYS"), "{refused:?}");
    assert_eq!(said.len(), 54);
}

#[test]
fn requests_to_descriptors_are_limited_to_harmless_ones() {
    let said = said(
        "
import fcntl, struct
read, write = os.pipe()
attempt('flags', lambda: fcntl.fcntl(read, fcntl.F_SETFL, os.O_NONBLOCK))
attempt('lock', lambda: fcntl.lockf(open('/tmp/l', 'w'), fcntl.LOCK_EX))
attempt('pipe size', lambda: fcntl.fcntl(read, 1031, 1 << 20))
attempt('owner', lambda: fcntl.fcntl(read, 8, 1))
attempt('lease', lambda: fcntl.fcntl(read, 1024, 0))
attempt('notice', lambda: fcntl.fcntl(os.open('/tmp', os.O_RDONLY), 1026, 1))
attempt('available', lambda: fcntl.ioctl(read, 0x541B, bytes(4)))
attempt('terminal', lambda: say(os.isatty(0)))
attempt('push input', lambda: fcntl.ioctl(0, 0x5412, b'x'))
attempt('file flags', lambda: fcntl.ioctl(os.open('/tmp/l', os.O_RDONLY), 0x80086601, bytes(8)))
attempt('interface', lambda: fcntl.ioctl(api, 0x8912, bytes(16)))
",
    );
    assert_eq!(
        said,
        [
            "flags ok",
            "lock ok",
            "pipe size EPERM",
            "owner EPERM",
            "lease EPERM",
            "notice EPERM",
            "available ok",
            "False",
            "terminal ok",
            "push input EPERM",
            "file flags EPERM",
            "interface EPERM"
        ]
    );
}

/// Even with `kill` open there is nobody to reach: the pid namespace and the process group hold by themselves.
#[test]
fn signals_do_not_reach_the_outside() {
    let mut spec = spec(&format!(
        "
import signal
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
outside = {}
say(os.getpid(), os.getppid(), os.getpgid(0), os.getsid(0))
attempt('own group', lambda: os.kill(0, signal.SIGUSR1))
say(caught)
attempt('everybody', lambda: os.kill(-1, signal.SIGTERM))
for pid in 2, outside, -outside:
    attempt('other', lambda: os.kill(pid, signal.SIGTERM))
attempt('self', lambda: signal.raise_signal(signal.SIGUSR1))
say(caught)
",
        std::process::id()
    ));
    spec.syscalls.push("kill".to_owned());
    assert_eq!(
        said_in(&spec),
        ["1 0 1 1", "own group ok", "[1]", "everybody ESRCH", "other ESRCH", "other ESRCH", "other ESRCH", "self ok", "[1, 1]"]
    );
}

#[test]
fn the_environment_is_the_specs_and_nothing_tells_the_machine() {
    let said = said(
        "
say(sorted(os.environ))
say(os.uname().nodename, os.getuid(), os.getgid(), os.getgroups() == [] or set(os.getgroups()) <= {65534, 1000})
",
    );
    assert_eq!(said, ["['HOME', 'LANG', 'MALLOC_ARENA_MAX']", "bento 1000 1000 True"]);
}
