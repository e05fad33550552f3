//! The wall around system calls (seccomp).
//!
//! Three filters, as each can answer in one way only: the first says that there is no `clone3` (its flags are in memory, where no filter can
//! look; glibc then uses `clone`, whose flags can be checked), the second answers what would only busy the machine's disk, the third refuses all
//! that is not listed with `EPERM`. All kill a process that makes calls of another architecture.

use std::collections::BTreeMap;
use std::str::FromStr;

use bento_jail::Spec;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use syscalls::Sysno;

use crate::refusal::{Refusal, Wall};
use crate::shortcut;

const WALL: &str = "seccomp";

/// Flags with which glibc and musl start a thread. CLONE_THREAD must be among them and no other flag may, above all none of a namespace.
const THREAD_FLAGS: libc::c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_DETACHED;

/// Is it a terminal (no), how much is there to read, block or not, close on exec or not.
const IOCTL: &[u64] = &[libc::TCGETS, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX, libc::FIONCLEX];

/// Copies, flags, and the locks that sqlite takes. Not pipe sizes, owners, leases and notices of changes.
const FCNTL: &[i32] = &[
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_SETLKW,
];

/// Answered with success, and not passed on. For a function's own files, which are in memory, these do nothing; for those that it shares with all
/// others they make the disk write, or forget what the machine has read, as often as anybody likes. Python and sqlite need them to succeed.
const NOTHING_TO_DO: &[i64] = &[libc::SYS_fadvise64, libc::SYS_fdatasync, libc::SYS_fsync, libc::SYS_msync, libc::SYS_sync_file_range];

/// A thread's name. Not the death signal, which ties the jail to its keeper.
const PRCTL: &[i32] = &[libc::PR_SET_NAME, libc::PR_GET_NAME];

/// What Python and asyncio ask of a socket. Not its peer's process, and not a packet filter.
const SOCKET_OPTIONS: &[i32] = &[
    libc::SO_ACCEPTCONN,
    libc::SO_DOMAIN,
    libc::SO_ERROR,
    libc::SO_KEEPALIVE,
    libc::SO_LINGER,
    libc::SO_PROTOCOL,
    libc::SO_RCVBUF,
    libc::SO_RCVTIMEO,
    libc::SO_REUSEADDR,
    libc::SO_SNDBUF,
    libc::SO_SNDTIMEO,
    libc::SO_TYPE,
];

/// The filters, ready to be applied in this order: of two that refuse, the word of the later one counts.
pub(crate) struct Filters([BpfProgram; 3]);

impl Filters {
    /// Makes the filters for a spec, with one `execve` let through by its arguments' addresses.
    pub(crate) fn build(spec: &Spec, execve: [u64; 3]) -> Result<Self, Refusal> {
        let (mut rules, mut open) = (BTreeMap::new(), Vec::with_capacity(spec.syscalls.len()));
        for name in &spec.syscalls {
            let call = Sysno::from_str(name).map_err(|_| Refusal::new(WALL, format_args!("there is no system call {name}")))?;
            match rules_for(call).wall(WALL, name)? {
                in_all_cases if in_all_cases.is_empty() => open.push(call.id() as u32),
                in_some => drop(rules.insert(i64::from(call.id()), in_some)),
            }
        }
        let sealed = execve.iter().zip(0..).map(|(address, place)| SeccompCondition::new(place, Len::Qword, Op::Eq, *address));
        let sealed = sealed.collect::<Result<Vec<_>, _>>().and_then(SeccompRule::new).wall(WALL, "sealing execve")?;
        rules.insert(libc::SYS_execve, vec![sealed]);
        // The other filter has answered it already; the stricter answer wins.
        open.push(libc::SYS_clone3 as u32);

        let listed = compile(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?;
        let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let nothing_to_do = NOTHING_TO_DO.iter().map(|call| (*call, Vec::new())).collect();
        Ok(Self([
            compile(no_clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?,
            compile(nothing_to_do, SeccompAction::Allow, SeccompAction::Errno(0))?,
            shortcut::insert(listed, &mut open).ok_or_else(|| Refusal::new(WALL, "seccompiler makes filters of another kind"))?,
        ]))
    }

    /// Puts all up. From then on this process can do no more than the function can, but for the one `execve`.
    pub(crate) fn apply(&self) -> Result<(), Refusal> {
        self.0.iter().try_for_each(|filter| seccompiler::apply_filter(filter)).wall(WALL, "installing the filters")
    }
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, otherwise: SeccompAction, listed: SeccompAction) -> Result<BpfProgram, Refusal> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).wall(WALL, "finding the architecture")?;
    SeccompFilter::new(rules, otherwise, listed, architecture).and_then(BpfProgram::try_from).wall(WALL, "making the filter")
}

/// In which cases a listed call is open. No rule means in all.
fn rules_for(call: Sysno) -> Result<Vec<SeccompRule>, BackendError> {
    // The kernel takes 32 bits of these arguments, so no more may be compared: else a set bit above would pass for something else.
    let one_of = |place: u8, values: &[i32]| {
        let rule = |value: &i32| SeccompRule::new(vec![SeccompCondition::new(place, Len::Dword, Op::Eq, *value as u32 as u64)?]);
        values.iter().map(rule).collect::<Result<Vec<_>, _>>()
    };
    match call {
        Sysno::clone => {
            let must_be = !(THREAD_FLAGS as u64) | libc::CLONE_THREAD as u64;
            let is_thread = SeccompCondition::new(0, Len::Qword, Op::MaskedEq(must_be), libc::CLONE_THREAD as u64)?;
            Ok(vec![SeccompRule::new(vec![is_thread])?])
        }
        Sysno::ioctl => {
            IOCTL.iter().map(|request| SeccompRule::new(vec![SeccompCondition::new(1, Len::Dword, Op::Eq, *request)?])).collect()
        }
        Sysno::fcntl => one_of(1, FCNTL),
        Sysno::prctl => one_of(0, PRCTL),
        // Its own limits, and only to read them: a lower core limit would let core dumps through to a handler again.
        Sysno::prlimit64 => Ok(vec![SeccompRule::new(vec![
            SeccompCondition::new(0, Len::Dword, Op::Eq, 0)?,
            SeccompCondition::new(2, Len::Qword, Op::Eq, 0)?,
        ])?]),
        Sysno::socket | Sysno::socketpair => [libc::SOCK_STREAM, libc::SOCK_SEQPACKET, libc::SOCK_DGRAM]
            .iter()
            .map(|kind| {
                SeccompRule::new(vec![
                    SeccompCondition::new(0, Len::Dword, Op::Eq, libc::AF_UNIX as u64)?,
                    // The lowest four bits are the type, those above flags.
                    SeccompCondition::new(1, Len::Dword, Op::MaskedEq(0xf), *kind as u64)?,
                ])
            })
            .collect(),
        Sysno::getsockopt | Sysno::setsockopt => {
            // Other levels than the socket's own do not exist for AF_UNIX, and programs expect to be told so by the kernel.
            let mut rules = vec![SeccompRule::new(vec![SeccompCondition::new(1, Len::Dword, Op::Ne, libc::SOL_SOCKET as u64)?])?];
            for option in SOCKET_OPTIONS {
                rules.push(SeccompRule::new(vec![
                    SeccompCondition::new(1, Len::Dword, Op::Eq, libc::SOL_SOCKET as u64)?,
                    SeccompCondition::new(2, Len::Dword, Op::Eq, *option as u64)?,
                ])?);
            }
            Ok(rules)
        }
        // To the other end of a pair only, not to a named socket; and no out-of-band data, which nobody uses and which has let programs
        // out of such filters before.
        Sysno::sendto => Ok(vec![SeccompRule::new(vec![SeccompCondition::new(4, Len::Qword, Op::Eq, 0)?, without_oob(3)?])?]),
        Sysno::recvfrom => Ok(vec![SeccompRule::new(vec![without_oob(3)?])?]),
        Sysno::recvmsg | Sysno::sendmsg => Ok(vec![SeccompRule::new(vec![without_oob(2)?])?]),
        _ => Ok(Vec::new()),
    }
}

fn without_oob(place: u8) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(place, Len::Dword, Op::MaskedEq(libc::MSG_OOB as u64), 0)
}
