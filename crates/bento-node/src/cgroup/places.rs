//! Where a node may make groups: found in what the kernel says of this process, never assumed.
//!
//! Two texts say it: `/proc/self/mountinfo` where the hierarchies are mounted, `/proc/self/cgroup` which group of each this process is in
//! (cgroups(7)). Groups are made below the own one, so that bounds that stand over the node stand over its functions as well.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::{Controller, Kernel, Place, Version, put};

/// The group that the node itself moves to in version 2, where a group with members cannot bound groups below it (admin-guide/cgroup-v2.rst,
/// "No Internal Process Constraint").
pub(super) const LEAF: &str = "bento-node";

/// Depth and number of directories in which leftovers are looked for. Deeper trees than systemd's slices are not seen in practice.
const SEARCH_MAX: (usize, usize) = (12, 20_000);

/// A hierarchy, and this process's group in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// The directory of this process's group.
    pub(super) own: PathBuf,
    /// What it controls; of version 2 this is known only by looking.
    pub(super) controllers: Vec<Controller>,
}

/// All hierarchies that may be of use. The first mount of a hierarchy that shows the own group is taken.
///
/// ```text
/// 35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
///            ^root ^mount point                             ^type         ^super options
/// 4:memory:/user.slice            0::/system.slice/bentod.service
/// ```
pub(super) fn hierarchies(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let (mut before, mut after) = (before.split(' ').skip(3), after.split(' '));
        let (Some(root), Some(point), Some(kind), Some(options)) = (before.next(), before.next(), after.next(), after.nth(1)) else {
            continue;
        };
        let (version, controllers) = match kind {
            "cgroup2" => (Version::Two, vec![]),
            "cgroup" => {
                (Version::One, Controller::ALL.into_iter().filter(|one| options.split(',').any(|name| name == one.name())).collect())
            }
            _ => continue,
        };
        if version == Version::One && controllers.is_empty() {
            continue;
        }
        let Some(group) = own_group(own, version, &controllers) else { continue };
        let (root, mount) = (unescaped(root), PathBuf::from(unescaped(point)));
        // Where another part of the tree is mounted, as in some containers, the own group cannot be seen, let alone be used. A group outside of
        // this process's namespace of groups begins with `/..`.
        let Ok(below) = Path::new(group).strip_prefix(&root) else { continue };
        if below.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
            continue;
        }
        let hierarchy = Hierarchy { version, own: mount.join(below), mount, controllers };
        if !found.iter().any(|known| known.version == hierarchy.version && known.controllers == hierarchy.controllers) {
            found.push(hierarchy);
        }
    }
    found
}

/// The path of the own group in a hierarchy: the third field of its line, which may itself have colons.
fn own_group<'a>(own: &'a str, version: Version, controllers: &[Controller]) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match version {
            Version::Two => number == "0" && names.is_empty(),
            Version::One => controllers.iter().all(|one| names.split(',').any(|name| name == one.name())),
        };
        is_it.then_some(path)
    })
}

/// Space, tab, newline and backslash stand in mountinfo as `\040` and so on.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Prepares one hierarchy for functions' groups, with those of the controllers that are wanted.
///
/// All groups stand side by side, with none around them: that would be scheduled as a whole, so that a function that keeps it busy takes
/// the turn of all others in it. With five spinning functions beside it, a quiet one waited longer in such a group than without any.
pub(super) fn prepare(hierarchy: &Hierarchy, wanted: &[Controller], name: &str, kernel: Kernel) -> Result<Place, Reason> {
    match hierarchy.version {
        Version::One => prepare_one(hierarchy, wanted, name, kernel),
        Version::Two => prepare_two(hierarchy, wanted, name, kernel),
    }
}

/// Why a hierarchy is not used, and in which of its files that showed.
#[derive(Debug)]
pub(super) struct Reason(pub(super) PathBuf, pub(super) String);

fn failed(path: &Path) -> impl Fn(io::Error) -> Reason + '_ {
    |error| Reason(path.to_owned(), error.to_string())
}

fn prepare_one(hierarchy: &Hierarchy, wanted: &[Controller], name: &str, kernel: Kernel) -> Result<Place, Reason> {
    try_out(&hierarchy.own, name, kernel)?;
    let controllers = hierarchy.controllers.iter().copied().filter(|one| wanted.contains(one)).collect();
    Ok(Place { version: Version::One, path: hierarchy.own.clone(), controllers })
}

/// Makes a group and removes it.
fn try_out(base: &Path, name: &str, kernel: Kernel) -> Result<(), Reason> {
    let group = base.join(format!("{name}-try"));
    make(&group, kernel).and_then(|()| (kernel.remove)(&group)).map_err(failed(&group))
}

/// Version 2: this process moves to a leaf of its own, then the controllers are handed down. Where that does not work, everything is as it was
/// before.
fn prepare_two(hierarchy: &Hierarchy, wanted: &[Controller], name: &str, kernel: Kernel) -> Result<Place, Reason> {
    // Set up so by systemd (DelegateSubgroup=), or this process has moved already.
    let is_in_leaf = hierarchy.own.file_name().is_some_and(|own| own == LEAF);
    let base = match hierarchy.own.parent() {
        Some(parent) if is_in_leaf => parent,
        _ => &hierarchy.own,
    };
    let controllers = offered(base, wanted)?;
    let (leaf, members) = (base.join(LEAF), base.join("cgroup.procs"));
    let own = std::process::id().to_string();
    if !is_in_leaf {
        let others = fs::read_to_string(&members).map_err(failed(&members))?.lines().filter(|pid| *pid != own).count();
        if others > 0 {
            return Err(Reason(base.to_owned(), format!("{others} other processes are in the node's own group")));
        }
        make(&leaf, kernel).map_err(failed(&leaf))?;
        if let Err(error) = put(&leaf, "cgroup.procs", &own) {
            let _ = (kernel.remove)(&leaf);
            return Err(failed(&leaf)(error));
        }
    }
    if let Err(reason) = hand_down(base, &controllers).and_then(|()| try_out(base, name, kernel)) {
        if !is_in_leaf && put(base, "cgroup.procs", &own).is_ok() {
            let _ = (kernel.remove)(&leaf);
        }
        return Err(reason);
    }
    Ok(Place { version: Version::Two, path: base.to_owned(), controllers })
}

/// Those of the wanted controllers that were handed down to a group of version 2.
fn offered(base: &Path, wanted: &[Controller]) -> Result<Vec<Controller>, Reason> {
    let list = base.join("cgroup.controllers");
    let text = fs::read_to_string(&list).map_err(failed(&list))?;
    let there: Vec<Controller> = wanted.iter().copied().filter(|one| text.split_whitespace().any(|name| name == one.name())).collect();
    if there.is_empty() { Err(Reason(list, "has none of memory, cpu and pids".into())) } else { Ok(there) }
}

fn hand_down(group: &Path, controllers: &[Controller]) -> Result<(), Reason> {
    let words: Vec<String> = controllers.iter().map(|one| format!("+{}", one.name())).collect();
    put(group, "cgroup.subtree_control", &words.join(" ")).map_err(failed(&group.join("cgroup.subtree_control")))
}

/// Makes a group, or takes one that is there.
fn make(group: &Path, kernel: Kernel) -> io::Result<()> {
    match (kernel.make)(group) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Could groups be made here? Looks at permissions alone and changes nothing.
pub(super) fn could_prepare(hierarchy: &Hierarchy, wanted: &[Controller]) -> Result<Vec<Controller>, Reason> {
    let may = |path: &Path, access| accessat(CWD, path, access, AtFlags::EACCESS).map_err(|error| failed(path)(error.into()));
    match hierarchy.version {
        Version::One => {
            may(&hierarchy.own, Access::WRITE_OK | Access::EXEC_OK)?;
            Ok(hierarchy.controllers.iter().copied().filter(|one| wanted.contains(one)).collect())
        }
        Version::Two => {
            let there = offered(&hierarchy.own, wanted)?;
            may(&hierarchy.own, Access::WRITE_OK | Access::EXEC_OK)?;
            may(&hierarchy.own.join("cgroup.procs"), Access::WRITE_OK)?;
            may(&hierarchy.own.join("cgroup.subtree_control"), Access::WRITE_OK)?;
            Ok(there)
        }
    }
}

/// Percent of one processor that a group and those around it have at most, if they are bounded.
///
/// ```text
/// cpu.cfs_quota_us (version 1)   -1       50000          cpu.max (version 2)   max 100000
/// cpu.cfs_period_us              100000   100000                               50000 100000
/// ```
pub(super) fn ceiling(group: Option<&Path>) -> Option<u64> {
    let bound = |path: &Path| {
        let read = |file| fs::read_to_string(path.join(file));
        let text = read("cpu.max")
            .or_else(|_| Ok::<_, io::Error>(format!("{} {}", read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)))
            .ok()?;
        let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
        let (quota, period) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        // Rounded up: what is promised may be all of it.
        (period > 0).then(|| (quota * 100).div_ceil(period))
    };
    group?.ancestors().filter_map(bound).min()
}

/// Groups that an earlier run of this node left, wherever in the hierarchy: that run may have been started from another group.
pub(super) fn leftovers(hierarchy: &Hierarchy, name: &str) -> Vec<PathBuf> {
    let is_ours = |path: &Path| {
        let rest = path.file_name().and_then(|file| file.to_str()).and_then(|file| file.strip_prefix(name)?.strip_prefix('-'));
        rest.is_some_and(|rest| rest == "try" || !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut found = Vec::new();
    let (mut level, mut seen) = (vec![hierarchy.mount.clone()], 0);
    for _ in 0..SEARCH_MAX.0 {
        let mut next = Vec::new();
        for child in level.iter().flat_map(|directory| directories(directory)) {
            seen += 1;
            if seen > SEARCH_MAX.1 {
                return found;
            }
            if is_ours(&child) { found.push(child) } else { next.push(child) }
        }
        level = next;
    }
    found
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 master:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /box /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
39 31 0:36 /elsewhere /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/a\\040place rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";
    const OWN: &str = "9:name=systemd:/\n4:memory:/box/inner\n3:pids:/box\n1:cpu,cpuacct:/\n0::/system.slice/a:b.service\n";

    #[test]
    fn hierarchies_are_where_the_kernel_says_and_what_is_mounted_elsewhere_is_not_ours() {
        let found = hierarchies(MOUNTS, OWN);
        let seen: Vec<_> = found.iter().map(|one| (one.version, one.own.to_str().unwrap(), one.controllers.clone())).collect();
        assert_eq!(
            seen,
            [
                (Version::One, "/sys/fs/cgroup/cpu,cpuacct/", vec![Controller::Cpu]),
                (Version::One, "/sys/fs/cgroup/memory/inner", vec![Controller::Memory]),
                (Version::Two, "/sys/fs/cgroup/a place/system.slice/a:b.service", vec![]),
            ]
        );
    }

    #[test]
    fn the_least_of_the_bounds_around_a_group_is_its_ceiling_and_no_bound_is_none() {
        let top = tempfile::tempdir().unwrap();
        let (one, two) = (top.path().join("one/inner"), top.path().join("two/inner"));
        let write = |path: &Path, file: &str, text: &str| {
            fs::create_dir_all(path).unwrap();
            fs::write(path.join(file), text).unwrap();
        };
        write(&one, "cpu.cfs_quota_us", "-1\n");
        write(&one, "cpu.cfs_period_us", "100000\n");
        write(&two, "cpu.max", "max 100000\n");
        assert_eq!((ceiling(Some(&one)), ceiling(Some(&two)), ceiling(None)), (None, None, None));
        write(one.parent().unwrap(), "cpu.cfs_quota_us", "150000\n");
        write(one.parent().unwrap(), "cpu.cfs_period_us", "100000\n");
        write(two.parent().unwrap(), "cpu.max", "50000 100000\n");
        assert_eq!((ceiling(Some(&one)), ceiling(Some(&two))), (Some(150), Some(50)));
        write(&two, "cpu.max", "20000 100000\n");
        assert_eq!(ceiling(Some(&two)), Some(20));
    }

    #[test]
    fn a_group_outside_of_the_namespace_of_groups_is_not_used_and_the_root_of_it_is() {
        let mounts = "35 31 0:32 / /cg rw - cgroup2 cgroup2 rw\n";
        assert_eq!(hierarchies(mounts, "0::/../other\n"), []);
        assert_eq!(hierarchies(mounts, "0::/\n").len(), 1);
        assert_eq!(hierarchies("nonsense\n1 2 3\n - - -\n", "\n:\n::"), []);
    }
}
