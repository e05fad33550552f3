//! What a node leaves behind: processes, descriptors, mounts, control groups and files, looked at when nothing is being asked of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// One process of the machine, in `/proc/PID/stat` (proc(5)): `4711 (bento-jail) S 4700 …`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) parent: u32,
    pub(crate) ended: bool,
}

fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses; what follows the last one is plain.
    let (start, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    let name = start.split_once('(')?.1.to_owned();
    Some(Process { pid, name, parent: fields.next()?.parse().ok()?, ended })
}

/// All processes below one, whoever started them.
pub(crate) fn below(root: u32) -> Vec<Process> {
    let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(process) {
            children.entry(process.parent).or_default().push(process);
        }
    }
    let (mut found, mut left) = (Vec::new(), vec![root]);
    while let Some(pid) = left.pop() {
        for process in children.remove(&pid).unwrap_or_default() {
            left.push(process.pid);
            found.push(process);
        }
    }
    found.sort_by_key(|process| process.pid);
    found
}

/// Makes us the parent of what loses its own, so that whatever a killed node leaves running is seen below us.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Buries adopted processes that have ended. The others of ours have somebody who waits for them.
pub(crate) fn bury(ours: &BTreeSet<u32>) {
    let us = std::process::id();
    for process in below(us).iter().filter(|process| process.ended && process.parent == us && !ours.contains(&process.pid)) {
        if let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) {
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

/// What is there of a node that rests.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Traces {
    /// Processes below the node by name, zombies under a name of their own.
    pub(crate) processes: BTreeMap<String, usize>,
    /// Open descriptors of the node by kind.
    pub(crate) descriptors: BTreeMap<String, usize>,
    /// Mounts of the machine.
    pub(crate) mounts: BTreeSet<String>,
    /// Files below its directory, those of its tor under one name with their number.
    pub(crate) files: BTreeMap<String, usize>,
    /// Files of ours in the machine's `/tmp`.
    pub(crate) temporary: BTreeSet<String>,
}

/// Files that tor makes and removes as it likes: descriptors, caches and their successors. More than this is growth.
const TOR_FILES_MORE: usize = 8;

/// What is said of a process that nobody has waited for.
const ENDED: &str = " (ended, and nobody has waited for it)";

impl Traces {
    pub(crate) fn of(node: u32, directory: &Path) -> Self {
        let mut traces = Self::default();
        for process in below(node) {
            let name = if process.ended { format!("{}{ENDED}", process.name) } else { process.name };
            *traces.processes.entry(name).or_default() += 1;
        }
        for entry in fs::read_dir(format!("/proc/{node}/fd")).into_iter().flatten().flatten() {
            if let Ok(target) = fs::read_link(entry.path()) {
                let target = target.display().to_string();
                let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _)| kind);
                *traces.descriptors.entry(kind.to_owned()).or_default() += 1;
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        traces.mounts = mounts.lines().filter_map(|line| line.split_ascii_whitespace().nth(4)).map(str::to_owned).collect();
        traces.list(directory, directory);
        for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("bentod") {
                traces.temporary.insert(name);
            }
        }
        traces
    }

    fn list(&mut self, root: &Path, directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.list(root, &path);
            } else if name.starts_with("state/tor/") {
                *self.files.entry("state/tor/…".into()).or_default() += 1;
            } else if let Some((_, file)) = name.strip_prefix("state/functions/").and_then(|rest| rest.split_once('/')) {
                // Each function has a random name.
                *self.files.entry(format!("state/functions/ID/{file}")).or_default() += 1;
            } else {
                self.files.insert(name, 1);
            }
        }
    }

    /// What is here and was not in the earlier ones, in words.
    /// `spare`: jails that may be kept ready now and were not then.
    pub(crate) fn beyond(&self, earlier: &Self, spare: usize) -> Vec<String> {
        let mut found = Vec::new();
        for (what, now, before, more) in [
            ("processes", &self.processes, &earlier.processes, 0),
            ("descriptors", &self.descriptors, &earlier.descriptors, 0),
            ("files", &self.files, &earlier.files, TOR_FILES_MORE),
        ] {
            for (name, count) in now {
                let before = before.get(name).copied().unwrap_or(0);
                // Each has its two processes, a socket, a pipe and a pidfd.
                let is_a_jails = ["bento-jail", "python3.11", "socket", "pipe", "anon_inode"].contains(&name.as_str());
                let more = if before > 0 && name.ends_with('…') { more } else { 0 } + if is_a_jails { spare } else { 0 };
                if *count > before + more {
                    found.push(format!("{what}: {name}: {count}, and {before} before"));
                }
            }
        }
        for (what, now, before) in [("mounts", &self.mounts, &earlier.mounts), ("/tmp", &self.temporary, &earlier.temporary)] {
            found.extend(now.difference(before).map(|name| format!("{what}: {name}")));
        }
        found
    }
}

/// Directories of control groups, as the kernel says of a process (cgroups(7)): `4:memory:/bento/17` and `0::/bento/17`.
pub(crate) fn groups(pid: u32) -> BTreeSet<PathBuf> {
    let (Ok(of), Ok(mounts)) = (fs::read_to_string(format!("/proc/{pid}/cgroup")), fs::read_to_string("/proc/self/mountinfo")) else {
        return BTreeSet::new();
    };
    let mut found = BTreeSet::new();
    for line in of.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        // 35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
        let place = mounts.lines().find_map(|mount| {
            let (left, right) = mount.split_once(" - ")?;
            let (kind, options) = (right.split(' ').next()?, right.rsplit(' ').next()?);
            let is_it = match kind {
                "cgroup" => !controllers.is_empty() && controllers.split(',').all(|one| options.split(',').any(|option| option == one)),
                "cgroup2" => controllers.is_empty(),
                _ => false,
            };
            is_it.then(|| left.split(' ').nth(4)).flatten()
        });
        // A process that is just ending is in the first group of all, which is nobody's.
        if let Some(place) = place.filter(|_| path != "/") {
            found.insert(Path::new(place).join(path.trim_start_matches('/')));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_more_is_found_and_what_is_the_same_or_less_is_not() {
        let counts = |list: &[(&str, usize)]| list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<BTreeMap<_, _>>();
        let before = Traces {
            processes: counts(&[("bento-jail", 4)]),
            files: counts(&[("state/onion.key", 1), ("state/tor/…", 10)]),
            ..Traces::default()
        };
        assert!(before.beyond(&before, 0).is_empty());
        let less = Traces { files: counts(&[("state/tor/…", 10 + TOR_FILES_MORE)]), ..Traces::default() };
        assert!(less.beyond(&before, 0).is_empty());
        let more = Traces {
            processes: counts(&[("bento-jail", 5)]),
            files: counts(&[("state/onion.new", 1), ("state/tor/…", 11 + TOR_FILES_MORE)]),
            mounts: BTreeSet::from(["/left".into()]),
            ..Traces::default()
        };
        assert_eq!(more.beyond(&before, 1).len(), 3, "{:?}", more.beyond(&before, 1));
        assert_eq!(more.beyond(&before, 0).len(), 4, "{:?}", more.beyond(&before, 0));
    }

    #[test]
    fn a_child_is_seen_below_us_until_it_is_waited_for() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let is_seen = |ended| below(std::process::id()).iter().any(|process| process.pid == child.id() && process.ended == ended);
        assert!(is_seen(false));
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        while !is_seen(true) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert!(!below(std::process::id()).iter().any(|process| process.pid == child.id()));
    }
}
