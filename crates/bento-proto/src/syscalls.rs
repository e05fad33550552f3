//! System calls by name: a function starts with a default list, and may ask for more of them or for less.
//!
//! The names are those of Linux on x86-64, whichever machine reads them: a manifest is the same everywhere. Which wall stands behind a name is
//! the jail's affair; this is the grammar alone.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{SeqAccess, Visitor},
};
use syscalls::x86_64::Sysno;

use crate::lines::from_text;

/// What CPython needs with threads, asyncio, ssl, files and the usual packages. The same list as the jail's, sorted.
#[rustfmt::skip]
const DEFAULT: &[&str] = &[
    "access", "alarm", "arch_prctl", "brk", "chdir", "chmod", "clock_getres", "clock_gettime", "clock_nanosleep", "clone", "close",
    "close_range", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2", "exit",
    "exit_group", "faccessat", "faccessat2", "fadvise64", "fallocate", "fchdir", "fchmod", "fchmodat", "fcntl", "fdatasync",
    "fstat", "fsync", "ftruncate", "futex", "getcwd", "getdents64", "getegid", "geteuid", "getgid", "getgroups", "getitimer",
    "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getrandom", "getresgid", "getresuid", "getrlimit", "getrusage", "getsid",
    "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid", "ioctl", "link", "linkat", "lseek", "lstat", "madvise", "mkdir",
    "mkdirat", "mmap", "mprotect", "mremap", "msync", "munmap", "nanosleep", "newfstatat", "open", "openat", "openat2", "pause", "pipe",
    "pipe2", "poll", "ppoll", "prctl", "pread64", "preadv", "prlimit64", "pselect6", "pwrite64", "pwritev", "read", "readlink",
    "readlinkat", "readv", "recvfrom", "recvmsg", "rename", "renameat", "renameat2", "restart_syscall", "rmdir", "rseq", "rt_sigaction",
    "rt_sigpending", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "sched_getaffinity", "sched_yield", "select",
    "sendfile", "sendto", "set_robust_list", "set_tid_address", "setitimer", "setsockopt", "shutdown", "sigaltstack", "socket",
    "socketpair", "stat", "statx", "symlink", "symlinkat", "sync_file_range", "tgkill", "time", "times", "truncate",
    "umask", "uname", "unlink", "unlinkat", "utimensat", "write", "writev",
];

/// What nobody can open, because a promise would fall with it: bounds that are true totals, one process, and its namespaces. Sorted.
#[rustfmt::skip]
const NEVER: &[&str] = &[
    "acct", "add_key", "bpf", "capset", "chroot", "clone3", "delete_module", "execve", "execveat", "fanotify_init", "fanotify_mark", "finit_module", "fork", "fsconfig",
    "fsmount", "fsopen", "fspick", "init_module", "inotify_add_watch", "inotify_init", "inotify_init1", "io_uring_enter", "io_uring_register", "io_uring_setup", "kcmp", "kexec_file_load",
    "kexec_load", "keyctl", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lookup_dcookie", "memfd_create",
    "memfd_secret", "mlock", "mlock2", "mlockall", "mount", "mount_setattr", "move_mount", "mq_open", "msgget", "name_to_handle_at",
    "open_by_handle_at", "open_tree", "perf_event_open", "personality", "pidfd_getfd", "pidfd_open", "pidfd_send_signal", "pivot_root",
    "process_madvise", "process_mrelease", "process_vm_readv", "process_vm_writev", "ptrace", "quotactl", "quotactl_fd", "reboot",
    "request_key", "seccomp", "semget", "setns", "setrlimit", "shmat", "shmget", "swapoff", "swapon", "syslog", "timer_create", "umount2", "unshare",
    "userfaultfd", "vfork",
];

/// The word that stands for the default list.
const WORD: &str = "default";

/// As many names as a refusal lists.
const NAMES_TOLD: usize = 8;

/// The system calls that are open when nothing else is said, sorted.
pub fn default() -> &'static [&'static str] {
    DEFAULT
}

/// The system calls that no policy and no manifest can open, sorted.
pub fn never() -> &'static [&'static str] {
    NEVER
}

/// A set of system calls, written as the difference from the default: `["default", "+getcpu", "-socketpair"]`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Syscalls {
    plus: BTreeSet<&'static str>,
    minus: BTreeSet<&'static str>,
}

/// Why a list is no set of system calls.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SyscallsError {
    /// It does not begin with the default.
    #[error("a list of system calls begins with `default`, and names with `+` or `-` in front follow it")]
    Beginning,
    /// A later word has neither sign.
    #[error("`{0}` has neither `+` nor `-` in front")]
    Sign(String),
    /// There is no such system call.
    #[error("there is no system call `{0}`")]
    Unknown(String),
    /// It can never be open.
    #[error("the system call `{0}` is never open to a function")]
    Never(&'static str),
    /// It is added and there already.
    #[error("`+{0}` adds what the default has already")]
    Present(&'static str),
    /// It is taken away and not there.
    #[error("`-{0}` takes away what the default does not have")]
    Absent(&'static str),
    /// It is named more than once.
    #[error("`{0}` is named twice")]
    Twice(&'static str),
}

impl Syscalls {
    /// Reads the words of a list.
    ///
    /// # Errors
    /// The first word that cannot be.
    pub fn parse<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Self, SyscallsError> {
        let mut words = words.into_iter();
        if words.next() != Some(WORD) {
            return Err(SyscallsError::Beginning);
        }
        words.try_fold(Self::default(), |set, word| set.with(word.parse()?))
    }

    fn with(mut self, change: Change) -> Result<Self, SyscallsError> {
        let (set, name) = match change {
            Change::Plus(name) => (&mut self.plus, name),
            Change::Minus(name) => (&mut self.minus, name),
        };
        if set.insert(name) { Ok(self) } else { Err(SyscallsError::Twice(name)) }
    }

    /// Is this call open?
    pub fn has(&self, name: &str) -> bool {
        self.plus.contains(name) || DEFAULT.binary_search(&name).is_ok() && !self.minus.contains(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&'static str> {
        let kept = DEFAULT.iter().copied().filter(|name| !self.minus.contains(name));
        let mut names: Vec<&'static str> = kept.chain(self.plus.iter().copied()).collect();
        names.sort_unstable();
        names
    }

    /// The names that it has and the other does not, sorted.
    pub fn beyond(&self, other: &Self) -> Vec<&'static str> {
        self.names().into_iter().filter(|name| !other.has(name)).collect()
    }

    /// What both have.
    #[must_use]
    pub fn both(&self, other: &Self) -> Self {
        Self { plus: self.plus.intersection(&other.plus).copied().collect(), minus: self.minus.union(&other.minus).copied().collect() }
    }

    /// What one of the two has.
    #[must_use]
    pub fn either(&self, other: &Self) -> Self {
        Self { plus: self.plus.union(&other.plus).copied().collect(), minus: self.minus.intersection(&other.minus).copied().collect() }
    }

    /// The words of its list.
    pub fn words(&self) -> Vec<String> {
        let plus = self.plus.iter().map(|name| format!("+{name}"));
        let minus = self.minus.iter().map(|name| format!("-{name}"));
        std::iter::once(WORD.to_owned()).chain(plus).chain(minus).collect()
    }

    /// The first names of a list, for a refusal.
    pub(crate) fn told(names: &[&str]) -> String {
        let first = names[..names.len().min(NAMES_TOLD)].join(", ");
        match names.len().saturating_sub(NAMES_TOLD) {
            0 => first,
            more => format!("{first} and {more} more"),
        }
    }
}

/// The names that this machine's Linux has as well. Newer architectures leave out some of the older calls.
pub(crate) fn on_this_machine(names: Vec<&'static str>) -> Vec<&'static str> {
    names.into_iter().filter(|name| syscalls::Sysno::from_str(name).is_ok()).collect()
}

impl fmt::Display for Syscalls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.words().join(", "))
    }
}

/// A word after the first.
enum Change {
    Plus(&'static str),
    Minus(&'static str),
}

impl FromStr for Change {
    type Err = SyscallsError;

    fn from_str(word: &str) -> Result<Self, SyscallsError> {
        let cut = |text: &str| text.chars().take(40).collect::<String>();
        let (is_plus, name) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
            (Some(name), _) => (true, name),
            (_, Some(name)) => (false, name),
            _ => return Err(SyscallsError::Sign(cut(word))),
        };
        let name = Sysno::from_str(name).map_err(|_| SyscallsError::Unknown(cut(name)))?.name();
        match (is_plus, DEFAULT.binary_search(&name).is_ok()) {
            _ if NEVER.contains(&name) => Err(SyscallsError::Never(name)),
            (true, false) => Ok(Self::Plus(name)),
            (false, true) => Ok(Self::Minus(name)),
            (true, true) => Err(SyscallsError::Present(name)),
            (false, false) => Err(SyscallsError::Absent(name)),
        }
    }
}

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl Serialize for Syscalls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.words())
    }
}

impl<'de> Deserialize<'de> for Syscalls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Word by word, so that an error in a TOML file is told with the word's own line.
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Syscalls;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("`\"default\"`, or a list that begins with it")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Syscalls, E> {
                if text == WORD { Ok(Syscalls::default()) } else { Err(E::custom(SyscallsError::Beginning)) }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut words: A) -> Result<Syscalls, A::Error> {
                let custom = <A::Error as serde::de::Error>::custom::<SyscallsError>;
                if words.next_element::<String>()?.as_deref() != Some(WORD) {
                    return Err(custom(SyscallsError::Beginning));
                }
                let mut set = Syscalls::default();
                while let Some(change) = words.next_element()? {
                    set = set.with(change).map_err(custom)?;
                }
                Ok(set)
            }
        }
        deserializer.deserialize_any(Words)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(words: &str) -> Syscalls {
        Syscalls::parse(words.split(' ')).unwrap()
    }

    #[test]
    fn the_lists_are_sorted_and_have_nothing_in_common() {
        assert!(DEFAULT.is_sorted_by(|one, next| one < next) && NEVER.is_sorted_by(|one, next| one < next));
        assert!(NEVER.iter().all(|name| DEFAULT.binary_search(name).is_err()));
        assert!(DEFAULT.iter().chain(NEVER).all(|name| Sysno::from_str(name).is_ok()));
    }

    #[test]
    fn a_call_is_added_and_another_taken_away_and_their_neighbours_stay() {
        let changed = set("default +getcpu -socketpair");
        assert!(changed.has("getcpu") && !set("default").has("getcpu"));
        assert!(!changed.has("socketpair") && changed.has("socket") && !changed.has("ptrace"));
        assert_eq!(changed.names().len(), DEFAULT.len());
        assert_eq!(changed.to_string(), "default, +getcpu, -socketpair");
    }

    #[test]
    fn a_list_that_is_none_is_told_why() {
        use SyscallsError::*;
        let long = "x".repeat(100);
        for (words, error) in [
            (vec![], Beginning),
            (vec!["+getcpu"], Beginning),
            (vec!["default", "default"], Sign("default".into())),
            (vec!["default", "getcpu"], Sign("getcpu".into())),
            (vec!["default", "+"], Unknown("".into())),
            (vec!["default", "+frobnicate"], Unknown("frobnicate".into())),
            (vec!["default", "+ getcpu"], Unknown(" getcpu".into())),
            (vec!["default", "+GETCPU"], Unknown("GETCPU".into())),
            (vec!["default", "+ptrace"], Never("ptrace")),
            (vec!["default", "-ptrace"], Never("ptrace")),
            (vec!["default", "+read"], Present("read")),
            (vec!["default", "-getcpu"], Absent("getcpu")),
            (vec!["default", "-read", "-read"], Twice("read")),
            (vec!["default", &format!("+{long}")], Unknown(long[..40].to_owned())),
        ] {
            assert_eq!(Syscalls::parse(words.iter().copied()), Err(error), "{words:?}");
        }
    }

    /// A set of any additions and removals.
    pub(crate) fn any_set() -> impl Strategy<Value = Syscalls> {
        let others: Vec<&'static str> = (0..500)
            .filter_map(|number| Sysno::new(number).map(|call| call.name()))
            .filter(|name| DEFAULT.binary_search(name).is_err() && !NEVER.contains(name))
            .collect();
        (prop::sample::subsequence(others, 0..6), prop::sample::subsequence(DEFAULT.to_vec(), 0..6))
            .prop_map(|(plus, minus)| Syscalls { plus: plus.into_iter().collect(), minus: minus.into_iter().collect() })
    }

    proptest! {
        #[test]
        fn the_algebra_of_sets_is_exact(one in any_set(), other in any_set()) {
            let (names, others): (BTreeSet<_>, BTreeSet<_>) = (one.names().into_iter().collect(), other.names().into_iter().collect());
            let sorted = |set: BTreeSet<&&'static str>| set.into_iter().copied().collect::<Vec<_>>();
            prop_assert_eq!(one.beyond(&other), sorted(names.difference(&others).collect()));
            prop_assert_eq!(one.both(&other).names(), sorted(names.intersection(&others).collect()));
            prop_assert_eq!(one.either(&other).names(), sorted(names.union(&others).collect()));
            prop_assert!((0..500).filter_map(Sysno::new).all(|call| one.has(call.name()) == names.contains(call.name())));
        }

        #[test]
        fn what_is_written_is_read_back(set in any_set()) {
            let words = set.words();
            prop_assert_eq!(Syscalls::parse(words.iter().map(String::as_str)).unwrap(), set.clone());
            let json = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(serde_json::from_str::<Syscalls>(&json).unwrap(), set);
        }

        #[test]
        fn no_text_panics(words in prop::collection::vec("[-+ a-zä]{0,12}", 0..4)) {
            let _ = Syscalls::parse(words.iter().map(String::as_str));
        }
    }
}
