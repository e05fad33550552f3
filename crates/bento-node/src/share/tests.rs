//! With processes of this machine, as whoever runs the tests; none of it takes root but what says so.

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

fn start(program: &str, arguments: &[&str]) -> Running {
    Running(Command::new(program).args(arguments).stdin(Stdio::null()).spawn().unwrap())
}

fn spinning() -> Running {
    start("python3", &["-c", "while True: pass"])
}

fn stat(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/stat")).unwrap()
}

fn state_of(pid: u32) -> char {
    stat(pid).rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_spinning_process_gets_its_share_and_one_beside_it_more() {
    let shares = Shares::new().unwrap();
    let (bounded, free) = (spinning(), spinning());
    let _held = shares.hold(bounded.0.id(), 5, None).unwrap();
    let of = |running: &Running| used_in(&stat(running.0.id())).unwrap();
    let (began, before, free_before) = (Instant::now(), of(&bounded), of(&free));
    // However busy the machine is, this one gets there.
    wait_until("the free one runs", || of(&free) - free_before > Duration::from_secs(1));
    let (used, free_used) = (of(&bounded) - before, of(&free) - free_before);
    let allowed = began.elapsed().mul_f64(0.05) + Duration::from_millis(300);
    assert!(used <= allowed, "{used:?} of {allowed:?}");
    assert!(free_used > used, "{free_used:?} and {used:?}");
    // What cannot be told apart from this program itself is not made to yield.
    assert!(matches!(shares.0.state().held.values().next().unwrap().wants.weight, Weight::None));
}

#[test]
fn a_process_is_never_left_stopped() {
    let shares = Shares::new().unwrap();
    for by_shares in [false, true] {
        let running = spinning();
        let pid = running.0.id();
        let held = shares.hold(pid, 1, None).unwrap();
        wait_until("it is stopped", || state_of(pid) == 'T');
        if by_shares {
            drop(Shares(Arc::clone(&shares.0)));
        }
        drop(held);
        wait_until("it goes on", || state_of(pid) != 'T');
        thread::sleep(BUSY * 3);
        assert_ne!(state_of(pid), 'T');
    }
}

#[test]
fn the_first_process_of_a_namespace_is_held_from_outside() {
    let outer = start("unshare", &["--user", "--pid", "--fork", "--kill-child", "python3", "-c", "while True: pass"]);
    let children = || fs::read_to_string(format!("/proc/{0}/task/{0}/children", outer.0.id())).unwrap_or_default();
    wait_until("there is a process inside (are user namespaces open?)", || !children().is_empty());
    let inside = children().trim().parse().unwrap();
    let shares = Shares::new().unwrap();
    let held = shares.hold(inside, 5, None).unwrap();
    wait_until("it is stopped", || state_of(inside) == 'T');
    drop(held);
    wait_until("it goes on", || state_of(inside) != 'T');
}

#[test]
fn a_process_that_is_gone_is_let_go_and_its_number_not_taken_for_another() {
    let shares = Shares::new().unwrap();
    let mut running = spinning();
    let pid = running.0.id();
    let held = shares.hold(pid, 5, None).unwrap();
    wait_until("it is stopped", || state_of(pid) == 'T');
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    wait_until("it is let go", || shares.0.state().held.is_empty());
    held.wake();
    drop(held);
    assert!(shares.0.state().due.is_empty());
    assert!(shares.hold(pid, 5, None).is_err(), "there is no such process any more");
    // The pidfd is of another process than the number.
    let (one, other) = (spinning(), spinning());
    let pidfd = |running: &Running| pidfd_open(Pid::from_raw(running.0.id() as i32).unwrap(), PidfdFlags::empty()).unwrap();
    let gone = pidfd(&one);
    drop(one);
    assert!(matches!(used(other.0.id(), &gone), Used::Gone));
    assert!(matches!(used(other.0.id(), &pidfd(&other)), Used::So(_)));
}

fn all() -> u32 {
    100 * thread::available_parallelism().unwrap().get() as u32
}

#[test]
fn a_share_of_the_whole_machine_is_not_held() {
    let shares = Shares::new().unwrap();
    let running = spinning();
    let is_held = || shares.0.state().held.values().any(|process| process.percent.is_some());
    let held = shares.hold(running.0.id(), all(), None).unwrap();
    assert!(!is_held());
    drop(held);
    let _held = shares.hold(running.0.id(), all() - 1, None).unwrap();
    assert!(is_held());
}

fn nice_of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/autogroup")).unwrap_or_default();
    text.trim().rsplit(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_busy_process_yields_until_it_rests_and_one_that_only_answers_does_not() {
    // Spins from when its input ends until there is a file, and then wakes up now and then, as one that answers does.
    let directory = tempfile::tempdir().unwrap();
    let (enough, never) = (directory.path().join("enough"), directory.path().join("never"));
    let start = |until: &std::path::Path| {
        let code = "import os, sys, time\nprint(flush=True)\nsys.stdin.read()\nwhile not os.path.exists(sys.argv[1]): pass\nwhile True: time.sleep(0.05)";
        let mut command = Command::new("setsid");
        let mut child = command.args(["python3", "-c", code]).arg(until).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It has started, and is in a session of its own.
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        Running(child)
    };
    let (mut spins, mut answers) = (start(&enough), start(directory.path()));
    let pids = [spins.0.id(), answers.0.id()];
    if nice_of(pids[0]).is_empty() {
        eprintln!("SKIPPED: this kernel has no autogroups");
        return;
    }
    let shares = Shares::new().unwrap();
    let _held = pids.map(|pid| shares.hold(pid, all(), None).unwrap());
    drop((spins.0.stdin.take(), answers.0.stdin.take()));
    wait_until("it yields", || nice_of(pids[0]) == NICE);
    assert_eq!(nice_of(pids[1]), "0");
    fs::write(&enough, "").unwrap();
    wait_until("it rests", || nice_of(pids[0]) == "0");
    assert_eq!(nice_of(pids[1]), "0");
    // One that is held no longer has its usual weight again.
    let mut spins = start(&never);
    let pid = spins.0.id();
    let held = shares.hold(pid, all(), None).unwrap();
    drop(spins.0.stdin.take());
    wait_until("it yields", || nice_of(pid) == NICE);
    // An ordinary user sets weights once in a tenth of a second.
    thread::sleep(Duration::from_millis(200));
    drop(held);
    assert_eq!(nice_of(pid), "0");
}

#[test]
fn a_busy_process_yields_in_its_group_and_is_not_stopped() {
    let state = tempfile::tempdir().unwrap();
    let groups = cgroup::Groups::new(state.path());
    if !groups.holds_share() {
        eprintln!("SKIPPED: takes a user who may make control groups for the CPU: {}", groups.holds());
        return;
    }
    let (spins, sleeps) = (spinning(), start("sleep", &["60"]));
    let shares = Shares::new().unwrap();
    let entered = [&spins, &sleeps].map(|running| {
        let group = groups.enter(running.0.id()).unwrap().unwrap();
        group.bound(64 << 20, 30, 8).unwrap();
        let held = shares.hold(running.0.id(), 30, Some(&group)).unwrap();
        (group, held)
    });
    let is_busy = |running: &Running| shares.0.state().held.values().find(|one| one.pid == running.0.id()).unwrap().wants.is_busy;
    wait_until("it yields", || is_busy(&spins));
    // The kernel keeps it to less than what counts as busy; that it wants more is seen all the same.
    thread::sleep(WEIGHED * 5);
    assert!(is_busy(&spins) && !is_busy(&sleeps));
    assert!(shares.0.state().held.values().all(|one| one.percent.is_none() && !one.is_stopped));
    drop((spins, sleeps, entered));
}

#[test]
fn what_is_used_beyond_the_share_is_waited_for_and_what_is_within_is_not() {
    let (ms, now) = (Duration::from_millis, Instant::now());
    let mut account = Account::new(ms(0), now);
    // 4 ms of 20 are its share.
    assert_eq!(account.look(ms(0), now + ms(20), Some(20), ASLEEP), Next::Run(ms(40)));
    // 16 ms more than it had.
    assert_eq!(account.look(ms(20), now + ms(20), Some(20), ASLEEP), Next::Stop(ms(80)));
    assert_eq!(account.look(ms(20), now + ms(100), Some(20), ASLEEP), Next::Run(BUSY * 2));
    // Sleeping for long gives no more than a burst.
    assert_eq!(account.look(ms(20), now + ms(100_000), Some(20), ASLEEP), Next::Run(BUSY * 4));
    assert_eq!(account.look(ms(40), now + ms(100_000), Some(20), ASLEEP), Next::Run(BUSY));
    assert_eq!(account.look(ms(50), now + ms(100_000), Some(20), ASLEEP), Next::Stop(ms(50)));
    // Nobody looked for long: it is stopped, but not for long.
    assert_eq!(account.look(ms(60_050), now + ms(200_000), Some(20), ASLEEP), Next::Stop(STOP_MAX));
}

#[test]
fn many_sleepers_are_looked_at_no_more_often_than_few() {
    assert_eq!(longest_pause(1), ASLEEP);
    assert_eq!(longest_pause(2000), Duration::from_secs(20));
    let now = Instant::now();
    let mut account = Account::new(Duration::ZERO, now);
    let mut looks = 0;
    let mut at = now;
    while at < now + Duration::from_secs(1000) {
        let Next::Run(pause) = account.look(Duration::ZERO, at, Some(100), longest_pause(2000)) else { panic!("it sleeps") };
        at += pause;
        looks += 1;
    }
    assert!((50..65).contains(&looks), "{looks}");
    let born = now;
    let due = now + Duration::from_millis(1234);
    assert_eq!(together(born, due), now + Duration::from_millis(1300));
}

#[test]
fn the_clock_is_found_after_any_name() {
    let stat = "4711 (a (strange) name 1 2) S 1 4711 4711 0 -1 4194560 1200 0 0 0 25 10 0 0 20 0 1 0";
    let tick = 1000 / rustix::param::clock_ticks_per_second();
    assert_eq!(used_in(stat), Some(Duration::from_millis(35 * tick)));
    assert_eq!(used_in("4711 (python3) S 1"), None);
}
