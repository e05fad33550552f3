//! System calls by name: those open when nothing else is said, and those that no spec can open.

use std::str::FromStr;
use std::sync::LazyLock;

use ::syscalls::Sysno;

/// What CPython 3.11 needs with threads, asyncio, ssl, sqlite3 in the scratch, mmap and the usual HTTP and HTML packages.
///
/// `sendmsg` is left out although it looks harmless: descriptors sent and not received count against the bound of the user whom all
/// jails of a node share, so one function could stop the others' sockets. `connect`, `bind`, `listen` and `accept` are left out because a
/// function's sockets come connected. `kill` is left out because there is nobody to reach. `sysinfo`, `statfs` and `fstatfs` are left out because
/// they tell of the machine and of what others do on it just now: its load, its memory, its disk. `flock` is left out because it can lock the files
/// that all functions share, and whose the machine is.
#[rustfmt::skip]
const EVERYWHERE: &[&str] = &[
    // Memory, start and end.
    "brk", "exit", "exit_group", "madvise", "mmap", "mprotect", "mremap", "msync", "munmap", "prctl", "prlimit64", "rseq",
    // Threads and signals within the process.
    "clone", "futex", "getpid", "getppid", "gettid", "restart_syscall", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigreturn",
    "rt_sigsuspend", "rt_sigtimedwait", "sched_getaffinity", "sched_yield", "set_robust_list", "set_tid_address", "setitimer",
    "getitimer", "sigaltstack", "tgkill",
    // Who and what am I.
    "getegid", "geteuid", "getgid", "getgroups", "getpgid", "getrandom", "getresgid", "getresuid", "getrusage", "getsid", "getuid",
    "times", "umask", "uname",
    // Time.
    "clock_getres", "clock_gettime", "clock_nanosleep", "gettimeofday", "nanosleep",
    // Files.
    "chdir", "close", "close_range", "dup", "dup3", "faccessat", "faccessat2", "fadvise64", "fallocate", "fchdir", "fchmod", "fchmodat", "fcntl",
    "fdatasync", "fstat", "fsync", "ftruncate", "getcwd", "getdents64", "ioctl", "linkat", "lseek", "mkdirat",
    "newfstatat", "openat", "openat2", "pread64", "preadv", "pwrite64", "pwritev", "read", "readlinkat", "readv", "renameat", "renameat2",
    "sendfile", "statx", "symlinkat", "sync_file_range", "truncate", "unlinkat", "utimensat", "write", "writev",
    // Sockets, pipes and waiting.
    "epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2", "getpeername", "getsockname", "getsockopt", "pipe2", "ppoll", "pselect6",
    "recvfrom", "recvmsg", "sendto", "setsockopt", "shutdown", "socket", "socketpair",
];

/// The older names of some of the above, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[&str] = &[
    "access", "alarm", "arch_prctl", "chmod", "dup2", "epoll_create", "epoll_wait", "getpgrp", "getrlimit", "link", "lstat", "mkdir", "open", "pause",
    "pipe", "poll", "readlink", "rename", "rmdir", "select", "stat", "symlink", "time", "unlink",
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[&str] = &[];

/// What no spec can open, because a promise would fall with it: that the memory bound is a true total, that there is one process, that
/// it stays in its namespaces, and that it reaches no other.
#[rustfmt::skip]
const NEVER: &[&str] = &[
    // Memory that the bound does not count, and kernel interfaces too wide to filter.
    "bpf", "io_uring_enter", "io_uring_register", "io_uring_setup", "memfd_create", "memfd_secret", "mq_open", "msgget", "perf_event_open", "semget",
    "shmat", "shmget", "userfaultfd", "mlock", "mlock2", "mlockall",
    // Another process, or another program. `clone` is open for threads alone, and the one `execve` is sealed.
    "clone3", "execve", "execveat", "fork", "vfork",
    // A timer's signal may be SIGCONT, with which a function could go on that was stopped for its share.
    "timer_create",
    // What others do with the files that all functions share.
    "fanotify_init", "fanotify_mark", "inotify_add_watch", "inotify_init", "inotify_init1",
    // Other processes' insides.
    "kcmp", "pidfd_getfd", "pidfd_open", "pidfd_send_signal", "process_madvise", "process_mrelease", "process_vm_readv", "process_vm_writev", "ptrace",
    // The walls themselves.
    "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_by_handle_at", "name_to_handle_at",
    "open_tree", "pivot_root", "setns", "setrlimit", "umount2", "unshare", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self",
    "seccomp", "capset", "personality",
    // Keys, and the machine.
    "acct", "add_key", "delete_module", "finit_module", "init_module", "kexec_file_load", "kexec_load", "keyctl", "quotactl", "quotactl_fd",
    "reboot", "request_key", "swapoff", "swapon", "syslog", "lookup_dcookie",
];

static DEFAULT: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut names = [EVERYWHERE, OLDER].concat();
    // A name that this architecture does not have is no opening.
    names.retain(|name| Sysno::from_str(name).is_ok());
    names.sort_unstable();
    names
});

/// The system calls that are open when nothing else is said, sorted.
///
/// Some are open in part only, whoever names them: `clone` for threads, `socket` and `socketpair` for `AF_UNIX`, `ioctl`, `fcntl`, `prctl`,
/// `getsockopt` and `setsockopt` for harmless requests, `prlimit64` to read the process's own limits.
pub fn default_syscalls() -> &'static [&'static str] {
    &DEFAULT
}

/// The system calls that no spec can open.
pub fn never_syscalls() -> &'static [&'static str] {
    NEVER
}

/// Says why a spec cannot open this system call, if it cannot.
pub(crate) fn check(name: &str) -> Result<(), String> {
    if Sysno::from_str(name).is_err() {
        return Err(format!("there is no system call {name:?} on this machine"));
    }
    match NEVER.contains(&name) {
        true => Err(format!("the system call {name} is never open to a function")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_list_can_be_asked_for() {
        assert!(default_syscalls().len() > 100);
        for name in default_syscalls() {
            assert_eq!(check(name), Ok(()));
        }
        assert!(check("frobnicate").is_err());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn no_name_is_misspelt() {
        for name in EVERYWHERE.iter().chain(OLDER).chain(NEVER) {
            assert!(Sysno::from_str(name).is_ok(), "{name}");
        }
    }
}
