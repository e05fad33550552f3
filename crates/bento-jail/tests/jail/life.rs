//! Beginning and end: a jail outlives neither its keeper nor whoever reads the reports.

use std::os::fd::AsFd;

use bento_jail::Report;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Jail, spec, start};

const SLEEP: &str = "say('up'); import time; time.sleep(60)";

#[track_caller]
fn sleeper() -> Jail {
    let jail = start(&spec(SLEEP));
    assert_eq!(jail.hear().as_deref(), Some("up"));
    jail
}

#[test]
fn its_exit_status_is_reported() {
    let (_, end) = start(&spec("sys.exit(7)")).finish();
    assert!(matches!(end, Report::Ended { exit: Some(7), signal: None, out_of_cpu: false, .. }), "{end:?}");
}

#[test]
fn a_crash_is_reported() {
    let (_, end) = start(&spec("import ctypes; ctypes.string_at(8)")).finish();
    assert!(matches!(end, Report::Ended { exit: None, signal: Some(11), out_of_cpu: false, .. }), "{end:?}");
}

#[test]
fn it_dies_with_its_keeper() {
    let mut jail = sleeper();
    jail.keeper.kill().unwrap();
    assert!(jail.is_gone());
    assert_eq!(jail.hear(), None);
}

/// Also while the walls go up: killed after 0, 0.2, 0.4 … milliseconds, the keeper leaves nothing behind.
#[test]
fn it_dies_with_its_keeper_at_any_moment() {
    let bytes = serde_json::to_vec(&spec(SLEEP)).unwrap();
    for moment in 0..50 {
        for closes_reports in [false, true] {
            let mut jail = Jail::spawn(&bytes, |command| command);
            std::thread::sleep(std::time::Duration::from_micros(200 * moment));
            if closes_reports {
                drop(jail.reports.take());
            } else {
                jail.keeper.kill().unwrap();
            }
            jail.keeper.wait().unwrap();
            // Whoever was cloned holds the other end, so its end is theirs.
            assert!(jail.is_hung_up(), "after {} us", 200 * moment);
        }
    }
}

#[test]
fn it_ends_when_nobody_reads_the_reports() {
    let mut jail = sleeper();
    drop(jail.reports.take());
    assert!(jail.is_gone());
    assert!(jail.keeper.wait().unwrap().success());
}

#[test]
fn its_keeper_ends_when_nobody_reads_the_reports_before_the_spec_comes() {
    let (_ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let mut keeper = std::process::Command::new(crate::harness::program())
        .stdin(theirs)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    drop(keeper.stdout.take());
    assert_eq!(keeper.wait().unwrap().code(), Some(1));
}

#[test]
fn it_has_a_session_and_a_process_group_of_its_own() {
    let jail = sleeper();
    let keeper = jail.keeper.id();
    assert_eq!(group_and_session(jail.pid), (jail.pid, jail.pid));
    assert_eq!(group_and_session(keeper).1, keeper);
    assert_ne!(keeper, group_and_session(std::process::id()).1);
}

/// The process group and the session of a process; 0 is one outside this pid namespace, as ours may be, which rustix has no word for.
///
/// proc_pid_stat(5): `PID (COMM) STATE PPID PGRP SESSION …`
fn group_and_session(pid: u32) -> (u32, u32) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit_once(") ").unwrap().1;
    let field = |at: usize| after.split(' ').nth(at).unwrap().parse().unwrap();
    (field(2), field(3))
}

#[test]
fn its_keeper_has_let_go_of_the_socket() {
    let jail = sleeper();
    kill_process(Pid::from_child(&jail.keeper), Signal::STOP).unwrap();
    kill_process(Pid::from_raw(jail.pid as i32).unwrap(), Signal::KILL).unwrap();
    // The end of the function is the end of the socket, even while the keeper does nothing.
    assert_eq!(jail.hear(), None);
}

#[test]
fn its_socket_closing_is_seen_inside() {
    let jail = &mut start(&spec("say('up'); api.recv(1); sys.exit(3)"));
    assert_eq!(jail.hear().as_deref(), Some("up"));
    rustix::net::shutdown(jail.socket.as_fd(), rustix::net::Shutdown::Both).unwrap();
    assert!(matches!(jail.report(), Report::Ended { exit: Some(3), .. }));
}

/// The whole command line and environment can be read by others on the machine: there is nothing of the spec in the keeper's.
#[test]
fn the_keepers_command_line_holds_nothing() {
    let jail = sleeper();
    let line = std::fs::read(format!("/proc/{}/cmdline", jail.keeper.id())).unwrap();
    assert_eq!(line.iter().filter(|byte| **byte == 0).count(), 1);
}
