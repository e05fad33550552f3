//! Who the function is, and what it may do as that: nobody, and nothing. And Landlock, a second wall around files behind the mounts.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use bento_jail::{SCRATCH, Spec, interpreter};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Gid, Signal, Uid};
use rustix::thread::{CapabilitiesSecureBits as Secure, CapabilitySet, CapabilitySets};

use crate::refusal::{Refusal, Wall};
use crate::sys;

/// The user and group inside. Not 65534, which is what all other users of the machine look like in a user namespace.
pub(crate) const INSIDE_ID: u32 = 1000;

/// The newest Landlock with which these walls were tested. A newer kernel is asked for this one.
const ABI_TESTED: i32 = 7;

/// Becomes the user inside. All capabilities over the new namespaces stay, as mounting needs them.
///
/// `is_root`: whether this was root outside, and so could have groups to lay down. Another user cannot, by the kernel's rules: the groups
/// then remain, and count for nothing but the openings.
pub(crate) fn become_nobody(is_root: bool) -> Result<(), Refusal> {
    if is_root {
        rustix::thread::set_thread_groups(&[]).wall("rights", "laying down groups")?;
    }
    let (uid, gid) = (Uid::from_raw(INSIDE_ID), Gid::from_raw(INSIDE_ID));
    rustix::thread::set_thread_res_gid(gid, gid, gid).wall("rights", "setting the group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).wall("rights", "setting the user")
}

/// Ties this process to the life of the one outside, which holds the other end of `line`.
///
/// Must come after the last change of user, which would untie it.
pub(crate) fn die_with_keeper(line: std::os::fd::BorrowedFd<'_>) -> Result<(), Refusal> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).wall("rights", "tying the jail to its keeper")?;
    // The keeper may have died before it was tied. `getppid` cannot tell, as the keeper is not in this pid namespace; the pipe can.
    let mut poll = [rustix::event::PollFd::from_borrowed_fd(line, rustix::event::PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut poll, Some(&now)).wall("rights", "looking for the keeper")? {
        0 => Ok(()),
        _ => Err(Refusal::new("rights", "the keeper died")),
    }
}

/// Lays down every capability for good.
pub(crate) fn drop_capabilities() -> Result<(), Refusal> {
    let wall = "rights";
    rustix::thread::clear_ambient_capability_set().wall(wall, "clearing ambient capabilities")?;
    for number in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => (),
            // One past the last that this kernel has.
            Err(rustix::io::Errno::INVAL) if number > 0 => break,
            Err(error) => return Err(error).wall(wall, format_args!("dropping capability {number}")),
        }
    }
    let secure = Secure::NO_ROOT
        | Secure::NO_ROOT_LOCKED
        | Secure::NO_SETUID_FIXUP
        | Secure::NO_SETUID_FIXUP_LOCKED
        | Secure::KEEP_CAPS_LOCKED
        | Secure::NO_CAP_AMBIENT_RAISE
        | Secure::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::set_capabilities_secure_bits(secure).wall(wall, "locking the secure bits")?;
    let none = CapabilitySets { effective: CapabilitySet::empty(), permitted: CapabilitySet::empty(), inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, none).wall(wall, "dropping all capabilities")?;
    rustix::thread::set_no_new_privs(true).wall(wall, "no_new_privs")?;
    // Until exec, which the kernel lets start anew; by then there is nobody in this pid namespace to look, and outside only the same user may.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).wall(wall, "being undumpable")
}

/// Puts up Landlock: openings can be read, the scratch written, and only the program and its loader executed.
///
/// Each right that the kernel's Landlock knows is required, none is asked for in vain. Where it has them, that includes connecting and
/// binding TCP (ABI 4), and reaching abstract sockets and signalling processes outside (ABI 6).
pub(crate) fn put_up_landlock(spec: &Spec) -> Result<(), Refusal> {
    let wall = "landlock";
    let abi = match landlock_abi() {
        Ok(abi) => ABI::from(abi.min(ABI_TESTED)),
        Err(error) => return Err(Refusal::new(wall, format_args!("this kernel has no Landlock, or it is not enabled: {error}"))),
    };
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .wall(wall, "handling files")?;
    if abi >= ABI::V4 {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi)).wall(wall, "handling TCP")?;
    }
    if abi >= ABI::V6 {
        ruleset = ruleset.scope(Scope::from_all(abi)).wall(wall, "scoping")?;
    }
    let mut ruleset = ruleset.create().wall(wall, "making the rule set")?;
    let mut allow = |path: &Path, access: BitFlags<AccessFs>| {
        let opened = PathFd::new(path).wall(wall, path.display())?;
        (&mut ruleset).add_rule(PathBeneath::new(opened, access)).wall(wall, path.display()).map(|_| ())
    };

    // Python lists the directories on its path, and one that holds nothing but openings tells nothing else.
    let parents: BTreeSet<&Path> =
        spec.openings.iter().filter_map(|opening| opening.inside.parent()).filter(|parent| *parent != Path::new("/")).collect();
    for parent in parents {
        allow(parent, AccessFs::ReadDir.into())?;
    }
    for opening in &spec.openings {
        let read = if opening.inside.is_dir() { AccessFs::ReadFile | AccessFs::ReadDir } else { AccessFs::ReadFile.into() };
        allow(&opening.inside, read)?;
    }
    let run = AccessFs::ReadFile | AccessFs::Execute;
    allow(&spec.program, run)?;
    if let Some(loader) = interpreter(&spec.program).wall(wall, "reading the program")? {
        allow(&loader, run)?;
    }
    allow(Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
    // No devices, pipes or sockets: a function has no use for any.
    let write = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::Refer
        | AccessFs::Truncate;
    allow(Path::new(SCRATCH), write & AccessFs::from_all(abi))?;

    let status = ruleset.restrict_self().wall(wall, "restricting")?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        other => Err(Refusal::new(wall, format_args!("{other:?}"))),
    }
}

/// The version of the running kernel's Landlock.
pub(crate) fn landlock_abi() -> io::Result<i32> {
    const VERSION: u64 = 1;
    sys::attempt(libc::SYS_landlock_create_ruleset, [0, 0, VERSION, 0, 0, 0]).map(|abi| abi as i32).map_err(io::Error::from_raw_os_error)
}
