# What every attack has in front of it; see README.md.
import ctypes
import errno
import json
import os
import socket
import sys

WORLD = json.loads(sys.argv[1])
BOUNDS = WORLD["bounds"]
SCRATCH = WORLD["scratch"]

MARK = b"bento-battery-" + b"secret-"
"""What every secret of the outside begins with. In two parts, so that an attack that finds its own source has found nothing."""

_escapes, _refusals, _faults, _failures, _worked = [], [], [], [], []

_FAULTS = {errno.EFAULT, errno.EINVAL, errno.EBADF, errno.E2BIG, errno.ENOTTY}
"""With these the kernel says that the question was wrong, so they prove no wall. An attack that expects one says so."""


def tell(line):
    """One line to whoever watches."""
    data = str(line).replace("\n", " ")[:4000].encode()
    # Where it is a socket a message is a line, elsewhere a line ends with a line feed.
    os.write(WORLD["out"], data + b"\n")


def forbidden(name, act, expected=()):
    """Tries what must not work: it is refused if it raises OSError (or memory runs out), or returns False."""
    try:
        result = act()
    except OSError as error:
        answer = errno.errorcode.get(error.errno, str(error.errno))
        if error.errno in _FAULTS and error.errno not in expected:
            _faults.append(f"{name} {answer}")
        else:
            _refusals.append(f"{name} {answer}")
    except (MemoryError, RecursionError, RuntimeError) as error:
        _refusals.append(f"{name} {type(error).__name__}")
    else:
        (_refusals if result is False else _escapes).append(name)


def allowed(name, act):
    """Does what must work."""
    try:
        if act() is False:
            _failures.append(name)
        else:
            _worked.append(name)
    except Exception as error:
        _failures.append(f"{name} ({type(error).__name__}: {error})")


def tell_allowed():
    """Says how the neighbours went, where the attack may not live to say it at its end."""
    tell("allowed: " + (f"failed {', '.join(_failures)}" if _failures else f"ok {len(_worked)}"))


def done():
    """Says how all went."""
    if not _worked and not _failures:
        _failures.append("nothing was tried")
    if _escapes:
        tell(f"forbidden: escaped {', '.join(_escapes)}")
    elif _faults or not _refusals:
        tell(f"forbidden: invalid {', '.join(_faults) or 'nothing was tried'}")
    else:
        tell(f"forbidden: contained {', '.join(_refusals)}")
    tell_allowed()


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

NUMBERS = dict(
    line.split()
    for line in """
mmap 9
munmap 11
ioctl 16
msync 26
shmget 29
shmat 30
shmctl 31
clone 56
socket 41
getpid 39
fork 57
vfork 58
kill 62
semget 64
semctl 66
msgget 68
msgctl 71
ptrace 101
sync_file_range 277
sysinfo 99
syslog 103
setuid 105
setgid 106
capset 126
rt_sigqueueinfo 129
mknod 133
personality 135
sched_setscheduler 144
mlock 149
mlockall 151
modify_ldt 154
pivot_root 155
prctl 157
setrlimit 160
chroot 161
acct 163
reboot 169
mount 165
umount2 166
swapon 167
sethostname 170
ioperm 173
iopl 172
init_module 175
delete_module 176
quotactl 179
setxattr 188
tkill 200
sched_setaffinity 203
timer_create 222
mq_open 240
mq_unlink 241
add_key 248
request_key 249
keyctl 250
ioprio_set 251
inotify_init1 294
inotify_add_watch 254
mknodat 259
unshare 272
splice 275
tee 276
vmsplice 278
move_pages 279
fanotify_init 300
perf_event_open 298
prlimit64 302
name_to_handle_at 303
open_by_handle_at 304
setns 308
process_vm_readv 310
process_vm_writev 311
kcmp 312
finit_module 313
sched_setattr 314
seccomp 317
memfd_create 319
kexec_file_load 320
bpf 321
execveat 322
userfaultfd 323
io_uring_setup 425
open_tree 428
move_mount 429
fsopen 430
fsconfig 431
fsmount 432
pidfd_send_signal 424
pidfd_open 434
clone3 435
openat2 437
pidfd_getfd 438
process_madvise 440
mount_setattr 442
landlock_create_ruleset 444
memfd_secret 447
""".split("\n")
    if line
)
"""System calls of x86-64 by name."""


def call(name, *arguments):
    """One raw system call: its result, or OSError."""
    words = []
    for argument in arguments:
        if isinstance(argument, (bytes, ctypes.Array, ctypes.Structure)):
            words.append(argument)
        else:
            words.append(ctypes.c_ulong(argument & (1 << 64) - 1))
    number = int(NUMBERS[name]) if isinstance(name, str) else name
    ctypes.set_errno(0)
    result = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), str(name))
    return result


def words(*values):
    """An array of 64-bit words."""
    return (ctypes.c_ulong * len(values))(*[value & (1 << 64) - 1 for value in values])


def own(name):
    """A path in the scratch."""
    return os.path.join(SCRATCH, name)


def privileged(name, act):
    """Tries what would do nothing even if it were allowed, being wrong: it counts as refused only if it is for want of rights."""
    try:
        act()
    except OSError as error:
        answer = f"{name} {errno.errorcode.get(error.errno, error.errno)}"
        (_refusals if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS) else _escapes).append(answer)
    else:
        _escapes.append(name)


def apart(act):
    """Runs an act that changes the process which does it: in a process of its own, or, where there can be none, in this one."""
    try:
        pid = os.fork()
    except OSError:
        return act()
    if pid == 0:
        try:
            os._exit(0 if act() is not False else 255)
        except OSError as error:
            os._exit(error.errno or 254)
        except BaseException:
            os._exit(254)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (0, 255):
        raise OSError(os.WEXITSTATUS(status), "apart")
    return status == 0


def echo():
    """A harmless exchange over a pair of sockets."""
    a, b = socket.socketpair()
    with a, b:
        a.sendall(b"ping")
        return b.recv(4) == b"ping"


def writes():
    """A harmless file."""
    with open(own("neighbour"), "w") as file:
        file.write("x")
    os.unlink(own("neighbour"))
