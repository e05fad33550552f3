//! Version 1 is tried on the machine's own hierarchies, which takes root. Version 2 is tried on a tree of ordinary files that imitates what
//! admin-guide/cgroup-v2.rst says: no machine with a delegated subtree was at hand.

use std::process::{Child, Command, Stdio};

use super::*;

/// Ends with its test, whatever that does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that does nothing until it is told to go on.
fn python(code: &str) -> Running {
    let code = format!("import sys; sys.stdin.read(1)\n{code}");
    Running(Command::new("python3").args(["-c", &code]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
}

impl Running {
    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn go(&mut self) {
        drop(self.0.stdin.take());
    }

    fn cpu(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.pid())).unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

const MIB: u64 = 1 << 20;

/// The hierarchies of version 1 of this machine, if this user may use all three controllers. Says why a test does nothing if not.
fn version_one() -> Option<Vec<Hierarchy>> {
    let read = |path| fs::read_to_string(path).unwrap();
    let mut hierarchies = places::hierarchies(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
    hierarchies.retain(|hierarchy| hierarchy.version == Version::One);
    let usable = |one| hierarchies.iter().any(|hierarchy| places::could_prepare(hierarchy, &[one]).is_ok_and(|held| held == [one]));
    if Controller::ALL.into_iter().all(usable) {
        return Some(hierarchies);
    }
    eprintln!("SKIPPED: takes root, and hierarchies of version 1 with memory, cpu and pids");
    None
}

/// A state directory's groups that are there.
fn groups_of(hierarchies: &[Hierarchy], state: &Path) -> Vec<PathBuf> {
    let status = fs::metadata(state).unwrap();
    let name = format!("bento-{:x}-{:x}", status.dev(), status.ino());
    hierarchies.iter().flat_map(|hierarchy| places::leftovers(hierarchy, &name)).collect()
}

#[test]
fn who_goes_beyond_its_memory_is_killed_and_its_neighbour_is_not() {
    let Some(hierarchies) = version_one() else { return };
    let state = tempfile::tempdir().unwrap();
    let groups = Groups::found(&hierarchies, state.path(), KERNEL);
    let [mut within, mut beyond] = [20, 200].map(|mib| python(&format!("x = bytearray({mib} << 20)\nimport time\ntime.sleep(60)")));
    let [within_group, beyond_group] = [&within, &beyond].map(|one| {
        let group = groups.enter(one.pid()).unwrap().unwrap();
        assert!(group.holds_memory() && group.holds_share());
        group.bound(64 * MIB, 100, 16).unwrap();
        group
    });
    beyond.go();
    within.go();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&beyond.0.wait().unwrap()), Some(9));
    assert!(beyond_group.out_of_memory());
    assert!(within.0.try_wait().unwrap().is_none());
    assert!(!within_group.out_of_memory());
    // Bounds can be made wider and narrower.
    within_group.bound(256 * MIB, 50, 32).unwrap();
    within_group.bound(48 * MIB, 1, 8).unwrap();
    drop((within, beyond, within_group, beyond_group, groups));
    assert_eq!(groups_of(&hierarchies, state.path()), Vec::<PathBuf>::new());
}

#[test]
fn who_spins_gets_its_share_and_who_is_not_bounded_more() {
    let Some(hierarchies) = version_one() else { return };
    let state = tempfile::tempdir().unwrap();
    let groups = Groups::found(&hierarchies, state.path(), KERNEL);
    let (mut bounded, mut free) = (python("while True: pass"), python("while True: pass"));
    let (group, _free_group) = (groups.enter(bounded.pid()).unwrap().unwrap(), groups.enter(free.pid()).unwrap().unwrap());
    group.bound(64 * MIB, 5, 16).unwrap();
    bounded.go();
    free.go();
    let (began, before, free_before) = (Instant::now(), bounded.cpu(), free.cpu());
    // However busy the machine is, this one gets there.
    wait_until("the free one runs", || free.cpu() - free_before > Duration::from_secs(1));
    let (used, free_used) = (bounded.cpu() - before, free.cpu() - free_before);
    let allowed = began.elapsed().mul_f64(0.05) + Duration::from_millis(200);
    assert!(used <= allowed, "{used:?} of {allowed:?}");
    assert!(free_used > used, "{free_used:?} and {used:?}");
}

#[test]
fn a_share_beyond_that_of_the_group_around_is_cut_to_it_and_a_smaller_one_is_kept() {
    let Some(mut hierarchies) = version_one() else { return };
    let state = tempfile::tempdir().unwrap();
    let cpu = hierarchies.iter_mut().find(|hierarchy| hierarchy.controllers.contains(&Controller::Cpu)).unwrap();
    let around = cpu.own.join(format!("bento-around-{}", std::process::id()));
    fs::create_dir(&around).unwrap();
    cpu.own.clone_from(&around);
    put(&around, "cpu.cfs_quota_us", "50000").unwrap();
    let groups = Groups::found(&hierarchies, state.path(), KERNEL);
    assert!(groups.holds().contains("50 % of one processor"), "{}", groups.holds());
    let sleeper = python("import time\ntime.sleep(60)");
    let group = groups.enter(sleeper.pid()).unwrap().unwrap();
    let held = || fs::read_to_string(group.weight().unwrap().group.join("cpu.cfs_quota_us")).unwrap();
    group.bound(64 * MIB, 100, 16).unwrap();
    assert_eq!(held().trim(), "-1");
    group.bound(64 * MIB, 25, 16).unwrap();
    assert_eq!(held().trim(), "5000");
    drop((sleeper, group, groups));
    wait_until("the group around is empty", || fs::remove_dir(&around).is_ok());
}

#[test]
fn a_busy_group_is_idle_to_the_kernel_and_a_calm_one_weighs_as_usual() {
    let Some(hierarchies) = version_one() else { return };
    let state = tempfile::tempdir().unwrap();
    let groups = Groups::found(&hierarchies, state.path(), KERNEL);
    let sleeper = python("import time\ntime.sleep(60)");
    let group = groups.enter(sleeper.pid()).unwrap().unwrap();
    group.bound(64 * MIB, 30, 16).unwrap();
    let weight = group.weight().unwrap();
    let read = |file: &str| fs::read_to_string(weight.group.join(file)).map(|text| text.trim().to_owned());
    for _ in 0..2 {
        weight.set(true).unwrap();
        match read("cpu.idle") {
            Ok(idle) => assert_eq!(idle, "1"),
            Err(_) => assert_eq!(read("cpu.shares").unwrap(), WEIGHTS[1].1),
        }
        // Its share goes on to hold.
        assert_eq!(read("cpu.cfs_quota_us").unwrap(), "6000");
        weight.set(false).unwrap();
        assert_eq!((read("cpu.idle").unwrap_or_else(|_| "0".into()), read("cpu.shares").unwrap()), ("0".into(), WEIGHTS[0].1.into()));
    }
}

#[test]
fn who_starts_threads_is_stopped_at_its_bound_and_not_before() {
    let Some(hierarchies) = version_one() else { return };
    let state = tempfile::tempdir().unwrap();
    let groups = Groups::found(&hierarchies, state.path(), KERNEL);
    let code = "import threading, time\ncount = 1\ntry:\n  while True:\n    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n    \
                count += 1\nexcept RuntimeError: pass\nimport os\nos._exit(count)";
    let mut bomb = python(code);
    let group = groups.enter(bomb.pid()).unwrap().unwrap();
    group.bound(64 * MIB, 100, 9).unwrap();
    bomb.go();
    assert_eq!(bomb.0.wait().unwrap().code(), Some(9));
    assert!(!group.out_of_memory());
}

#[test]
fn leftovers_of_the_same_state_directory_are_removed_and_those_of_others_are_not() {
    let Some(hierarchies) = version_one() else { return };
    let (state, other_state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let other = Groups::found(&hierarchies, other_state.path(), KERNEL);
    let (other_process, mut process) = (python(""), python(""));
    let other_group = other.enter(other_process.pid()).unwrap().unwrap();
    // As one that was killed: nothing is cleared up.
    let killed = Groups::found(&hierarchies, state.path(), KERNEL);
    let left = killed.enter(process.pid()).unwrap().unwrap();
    let paths: Vec<PathBuf> = left.parts.iter().map(|part| part.path.clone()).collect();
    let killed_name = killed.name.clone();
    std::mem::forget((killed, left));
    // And one that ran in another place of the hierarchy, beside what only looks so.
    let elsewhere = hierarchies[0].own.join(format!("elsewhere-{}", std::process::id()));
    let (was_ours, is_not) = (elsewhere.join(format!("{killed_name}-7")), elsewhere.join(format!("{killed_name}7-7")));
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir(&was_ours).unwrap();
    fs::create_dir(&is_not).unwrap();

    let groups = Groups::found(&hierarchies, state.path(), KERNEL);
    wait_until("what ran elsewhere is removed", || !was_ours.exists());
    fs::remove_dir(&is_not).unwrap();
    fs::remove_dir(&elsewhere).unwrap();
    // A new group is not the one that is left, as long as a process is in that.
    let mut fresh_process = python("");
    let fresh = groups.enter(fresh_process.pid()).unwrap().unwrap();
    assert!(paths.iter().all(|path| path.exists()));
    process.go();
    process.0.wait().unwrap();
    wait_until("what was left is removed", || paths.iter().all(|path| !path.exists()));
    assert!(fresh.parts.iter().all(|part| part.path.exists()));
    assert!(other_group.parts.iter().all(|part| part.path.exists()));
    fresh_process.go();
    fresh_process.0.wait().unwrap();
    drop((fresh, groups, other_process, other_group, other));
    assert_eq!(groups_of(&hierarchies, state.path()), Vec::<PathBuf>::new());
    assert_eq!(groups_of(&hierarchies, other_state.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_group_goes_when_its_process_has_gone_and_not_before() {
    let Some(hierarchies) = version_one() else { return };
    let state = tempfile::tempdir().unwrap();
    let groups = Groups::found(&hierarchies, state.path(), KERNEL);
    let mut process = python("");
    let group = groups.enter(process.pid()).unwrap().unwrap();
    let paths: Vec<PathBuf> = group.parts.iter().map(|part| part.path.clone()).collect();
    drop(group);
    thread::sleep(PAUSE.0 * 10);
    assert!(paths.iter().all(|path| path.exists()));
    process.go();
    process.0.wait().unwrap();
    wait_until("it is removed", || paths.iter().all(|path| !path.exists()));
    let gone = groups.enter(process.pid());
    assert!(gone.is_err(), "there is no such process any more");
}

#[test]
fn without_permission_nothing_is_held_by_groups_and_nothing_fails() {
    let state = tempfile::tempdir().unwrap();
    let nowhere =
        Hierarchy { version: Version::One, mount: "/proc".into(), own: "/proc/nowhere".into(), controllers: vec![Controller::Memory] };
    let second = Hierarchy { version: Version::Two, controllers: vec![], ..nowhere.clone() };
    let groups = Groups::found(&[nowhere, second], state.path(), KERNEL);
    assert!(groups.enter(std::process::id()).unwrap().is_none());
    assert!(!groups.holds_share());
    let said = groups.holds();
    assert!(
        said.starts_with("memory by RLIMIT_AS alone, CPU share by the node (stop and continue), tasks by RLIMIT_NPROC alone ("),
        "{said}"
    );
    assert!(said.contains("/proc/nowhere/bento-"), "{said}");
    let none = Groups::found(&[], state.path(), KERNEL);
    assert!(none.holds().ends_with("(no hierarchy of control groups is mounted)"), "{}", none.holds());
}

#[test]
fn what_would_hold_is_what_holds() {
    let state = tempfile::tempdir().unwrap();
    let would = Groups::would_hold();
    let holds = Groups::new(state.path()).holds();
    let bounds = |said: &str| said.split(" (/").next().unwrap().to_owned();
    assert_eq!(bounds(&would), bounds(&holds));
    assert!(bounds(&holds).starts_with("memory by "), "{holds}");
}

#[test]
fn a_share_is_a_quota_of_at_least_what_the_kernel_takes_and_all_there_is_is_none() {
    assert_eq!(quota(20), (Some(4_000), 20_000));
    assert_eq!(quota(5), (Some(1_000), 20_000));
    assert_eq!(quota(3), (Some(1_000), 33_334));
    assert_eq!(quota(1), (Some(1_000), 100_000));
    assert_eq!(quota(0), quota(1));
    let all = 100 * thread::available_parallelism().unwrap().get() as u32;
    assert_eq!(quota(all), (None, 20_000));
    assert!(quota(all - 1).0.is_some());
}

/// What the kernel puts into each new group of version 2, as far as it is used here.
const FILES: [&str; 11] = [
    "cgroup.procs",
    "cgroup.controllers",
    "cgroup.subtree_control",
    "memory.max",
    "memory.swap.max",
    "memory.oom.group",
    "memory.events",
    "cpu.max",
    "cpu.weight",
    "cpu.stat",
    "pids.max",
];

/// As version 2 makes and removes: files are there at once, and a group with members or groups below it stays.
const IMITATED: Kernel = Kernel {
    make: |path| {
        fs::create_dir(path)?;
        for file in FILES {
            fs::write(path.join(file), "")?;
        }
        let offered = fs::read_to_string(path.with_file_name("cgroup.subtree_control"))?.replace('+', "");
        fs::write(path.join("cgroup.controllers"), offered)
    },
    remove: |path| {
        let has_groups = fs::read_dir(path)?.flatten().any(|entry| entry.path().is_dir());
        if has_groups || !fs::read_to_string(path.join("cgroup.procs"))?.is_empty() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        fs::remove_dir_all(path)
    },
};

/// A delegated subtree with this process in it, on its own.
fn delegated(controllers: &str) -> (tempfile::TempDir, Hierarchy) {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("bentod.service");
    fs::create_dir(&own).unwrap();
    for file in FILES {
        fs::write(own.join(file), "").unwrap();
    }
    fs::write(own.join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
    fs::write(own.join("cgroup.controllers"), controllers).unwrap();
    let hierarchy = Hierarchy { version: Version::Two, mount: root.path().into(), own, controllers: vec![] };
    (root, hierarchy)
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn in_version_two_the_node_moves_to_a_leaf_and_a_function_gets_bounds() {
    let (_root, hierarchy) = delegated("cpuset cpu io memory pids");
    let state = tempfile::tempdir().unwrap();
    let groups = Groups::found(std::slice::from_ref(&hierarchy), state.path(), IMITATED);
    assert_eq!(groups.holds(), "memory by cgroup v2 and RLIMIT_AS, CPU share by cgroup v2, tasks by cgroup v2 and RLIMIT_NPROC");
    let own = &hierarchy.own;
    assert_eq!(text(own.join("bento-node/cgroup.procs")), std::process::id().to_string());
    assert_eq!(text(own.join("cgroup.subtree_control")), "+memory +cpu +pids");
    let group = groups.enter(4711).unwrap().unwrap();
    group.bound(64 * MIB, 20, 16).unwrap();
    let part = own.join(format!("{}-0", groups.name));
    let expected =
        [("cgroup.procs", "4711"), ("memory.max", "67108864"), ("memory.swap.max", "0"), ("cpu.max", "4000 20000"), ("pids.max", "16")];
    for (file, expected) in expected.into_iter().chain([("memory.oom.group", "1")]) {
        assert_eq!(text(part.join(file)), expected, "{file}");
    }
    fs::write(part.join("memory.events"), "low 0\nhigh 0\nmax 7\noom 1\noom_kill 0\noom_group_kill 0\n").unwrap();
    assert!(!group.out_of_memory());
    fs::write(part.join("memory.events"), "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 1\n").unwrap();
    assert!(group.out_of_memory());
    let weight = group.weight().unwrap();
    for (is_busy, expected) in [(true, WEIGHTS[1].0), (false, WEIGHTS[0].0)] {
        fs::write(part.join("cpu.weight"), "").unwrap();
        weight.set(is_busy).unwrap();
        assert_eq!(text(part.join("cpu.weight")), expected);
    }
    assert_eq!(weight.throttled(), 0);
    fs::write(part.join("cpu.stat"), "usage_usec 1\nnr_periods 9\nnr_throttled 3\nthrottled_usec 5\n").unwrap();
    assert_eq!(weight.throttled(), 3);
    drop(group);
    thread::sleep(PAUSE.0 * 10);
    assert!(part.exists(), "a process is in it");
    fs::write(part.join("cgroup.procs"), "").unwrap();
    wait_until("it is removed", || !part.exists());
    // Killed, and started again by the same service: in the group above again, with its groups still there.
    fs::write(own.join("bento-node/cgroup.procs"), "").unwrap();
    let left = groups.enter(4712).unwrap().unwrap();
    let part = left.parts[0].path.clone();
    std::mem::forget((left, groups));
    fs::write(part.join("cgroup.procs"), "").unwrap();
    let groups = Groups::found(std::slice::from_ref(&hierarchy), state.path(), IMITATED);
    wait_until("what was left is removed", || !part.exists());
    drop(groups);
}

#[test]
fn a_leaf_made_by_the_service_manager_is_known() {
    let (root, mut hierarchy) = delegated("memory pids");
    fs::write(hierarchy.own.join("cgroup.procs"), "").unwrap();
    hierarchy.own.push("bento-node");
    (IMITATED.make)(&hierarchy.own).unwrap();
    fs::write(hierarchy.own.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let groups = Groups::found(&[hierarchy], root.path(), IMITATED);
    assert_eq!(groups.places[0].path, root.path().join("bentod.service"));
    assert!(!groups.holds_share());
    assert!(groups.holds().contains("CPU share by the node"), "{}", groups.holds());
}

#[test]
fn a_group_with_others_in_it_or_without_controllers_is_left_as_it_is() {
    let state = tempfile::tempdir().unwrap();
    let (_root, crowded) = delegated("memory cpu pids");
    fs::write(crowded.own.join("cgroup.procs"), format!("1\n{}\n", std::process::id())).unwrap();
    let (_other_root, bare) = delegated("hugetlb");
    for (hierarchy, why) in [(crowded, "1 other processes"), (bare, "has none of memory, cpu and pids")] {
        let groups = Groups::found(std::slice::from_ref(&hierarchy), state.path(), IMITATED);
        assert!(groups.enter(4711).unwrap().is_none());
        assert!(groups.holds().contains(why), "{}", groups.holds());
        assert_eq!(fs::read_dir(&hierarchy.own).unwrap().count(), FILES.len());
        assert_eq!(text(hierarchy.own.join("cgroup.subtree_control")), "");
    }
}

#[test]
fn a_subtree_that_does_not_hand_down_is_left_as_it_was() {
    let (_root, hierarchy) = delegated("memory cpu pids");
    fs::remove_file(hierarchy.own.join("cgroup.subtree_control")).unwrap();
    let state = tempfile::tempdir().unwrap();
    let kernel = Kernel {
        make: |path| {
            fs::create_dir(path)?;
            fs::write(path.join("cgroup.procs"), "")
        },
        remove: |path| fs::remove_dir_all(path),
    };
    let groups = Groups::found(std::slice::from_ref(&hierarchy), state.path(), kernel);
    assert!(groups.places.is_empty());
    assert!(!hierarchy.own.join("bento-node").exists(), "the leaf is gone");
    assert_eq!(text(hierarchy.own.join("cgroup.procs")).trim(), std::process::id().to_string());
}
