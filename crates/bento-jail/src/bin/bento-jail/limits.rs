//! The bounds that the kernel counts per process (rlimits).

use bento_jail::Spec;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::refusal::{Refusal, Wall};

/// The main thread's stack may grow to this, and glibc reserves as much address space for each further thread. The usual 8 MiB would eat the
/// memory bound of a function with threads. Of 29 kinds of endless recursion, CPython 3.11 turns each into a RecursionError or MemoryError
/// within this; within 512 KiB five crash, within 1 MiB one (`sorted` with a key that sorts).
const STACK_BYTES: u64 = 2 << 20;

/// Signals that wait for a process. Python needs none queued.
const SIGNALS: u64 = 64;

/// A core file of one byte is none, and this value alone also keeps the kernel from feeding a core dump to a handler program
/// (`core_pattern` with a pipe), which would then keep the function's memory; at 0 such a handler is started.
const CORE_BYTES: u64 = 1;

/// The largest page of the machines in use: the scratch is bounded in pages.
const PAGE_BYTES: u64 = 64 * 1024;

/// Sets all bounds, soft and hard alike. There is no RLIMIT_DATA: what it counts is part of RLIMIT_AS.
pub(crate) fn put_up(spec: &Spec) -> Result<(), Refusal> {
    let bounds = [
        (Resource::As, "AS", spec.memory_bytes),
        // The first process of a pid namespace ignores SIGXCPU. The hard limit kills it, and only that is told apart from other deaths.
        (Resource::Cpu, "CPU", spec.cpu_seconds),
        (Resource::Nofile, "NOFILE", spec.descriptors),
        (Resource::Nproc, "NPROC", spec.processes),
        // A page more than the scratch, so that the scratch says that it is full (ENOSPC) before this says that the file is too long (EFBIG).
        (Resource::Fsize, "FSIZE", spec.scratch.bytes.next_multiple_of(PAGE_BYTES) + PAGE_BYTES),
        (Resource::Stack, "STACK", STACK_BYTES),
        (Resource::Core, "CORE", CORE_BYTES),
        (Resource::Memlock, "MEMLOCK", 0),
        (Resource::Msgqueue, "MSGQUEUE", 0),
        (Resource::Sigpending, "SIGPENDING", SIGNALS),
        (Resource::Nice, "NICE", 0),
        (Resource::Rtprio, "RTPRIO", 0),
    ];
    for (resource, name, bound) in bounds {
        setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) }).wall("limits", format_args!("RLIMIT_{name} {bound}"))?;
    }
    Ok(())
}
