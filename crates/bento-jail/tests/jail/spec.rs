//! Specs that lie or ask for too little are refused with a reason, and nothing is started.

use std::path::PathBuf;

use bento_jail::{Opening, SPEC_BYTES_MAX, Spec};

use crate::harness::{program, refusal, spec, start};

#[track_caller]
fn refused(change: impl FnOnce(&mut Spec)) -> (String, String) {
    let mut spec = spec("say('never')");
    change(&mut spec);
    refusal(&serde_json::to_vec(&spec).unwrap())
}

#[track_caller]
fn assert_refused(wall: &str, part: &str, change: impl FnOnce(&mut Spec)) {
    let (named, reason) = refused(change);
    assert_eq!(named, wall, "{reason}");
    assert!(reason.contains(part), "{reason}");
}

fn opening(outside: &str, inside: &str) -> Opening {
    Opening { outside: PathBuf::from(outside), inside: PathBuf::from(inside) }
}

#[test]
fn bounds_that_are_none_are_refused() {
    assert_refused("spec", "memory_bytes is 0", |spec| spec.memory_bytes = 0);
    assert_refused("spec", "scratch.bytes is 0", |spec| spec.scratch.bytes = 0);
    assert_refused("spec", "scratch.inodes is 0", |spec| spec.scratch.inodes = 0);
    assert_refused("spec", "cpu_seconds is 0", |spec| spec.cpu_seconds = 0);
    assert_refused("spec", "processes is 0", |spec| spec.processes = 0);
    assert_refused("spec", "descriptors is 3", |spec| spec.descriptors = 3);
    assert_refused("spec", "memory_bytes", |spec| spec.memory_bytes = u64::MAX);
    assert_refused("spec", "cpu_seconds", |spec| spec.cpu_seconds = u64::MAX);
}

#[test]
fn openings_that_lead_elsewhere_are_refused() {
    assert_refused("spec", "must be an absolute path", |spec| spec.openings.push(opening("etc", "/etc")));
    assert_refused("spec", "must be an absolute path", |spec| spec.openings.push(opening("/etc", "etc")));
    assert_refused("spec", "must not lead upwards", |spec| spec.openings.push(opening("/usr/../etc", "/etc")));
    assert_refused("spec", "must not lead upwards", |spec| spec.openings.push(opening("/etc", "/usr/../etc")));
    assert_refused("spec", "nothing can be opened at /tmp", |spec| spec.openings.push(opening("/etc", "/tmp/etc")));
    assert_refused("spec", "nothing can be opened at /", |spec| spec.openings.push(opening("/etc", "/")));
    assert_refused("spec", "nothing can be opened at /dev", |spec| spec.openings.push(opening("/etc", "/dev/etc")));
    assert_refused("spec", "lies within", |spec| spec.openings.extend([opening("/etc", "/a"), opening("/usr", "/a/b")]));
    assert_refused("spec", "zero byte", |spec| spec.openings.push(opening("/etc\0", "/etc")));
    assert_refused("mounts", "/no/such/place", |spec| spec.openings.push(opening("/no/such/place", "/a")));
    assert_refused("mounts", "neither a file nor a directory", |spec| spec.openings.push(opening("/dev/zero", "/zero")));
}

#[test]
fn programs_that_are_not_there_are_refused() {
    assert_refused("spec", "none of the openings", |spec| spec.program = PathBuf::from("/bin/sh"));
    assert_refused("spec", "none of the openings", |spec| spec.openings.clear());
    assert_refused("spec", "must be an absolute path", |spec| spec.program = PathBuf::from("python3"));
    assert_refused("landlock", "no-such", |spec| spec.program = PathBuf::from("/usr/lib/python3.11/no-such"));
    // A text file is no program; that is known only when it is tried.
    assert_refused("start", "os.py", |spec| spec.program = PathBuf::from("/usr/lib/python3.11/os.py"));
    assert_refused("spec", "zero byte", |spec| spec.arguments.push("a\0b".to_owned()));
    assert_refused("spec", "name of an environment variable", |spec| spec.environment.push(("A=B".to_owned(), String::new())));
}

#[test]
fn calls_that_do_not_exist_or_must_not_be_open_are_refused() {
    assert_refused("spec", "there is no system call \"frobnicate\"", |spec| spec.syscalls.push("frobnicate".to_owned()));
    for name in bento_jail::never_syscalls() {
        if bento_jail::default_syscalls().contains(name) {
            panic!("{name} is both open and never open");
        }
    }
    for name in ["fork", "memfd_create", "io_uring_setup", "ptrace", "unshare", "execve"] {
        assert_refused("spec", &format!("{name} is never open"), |spec| spec.syscalls.push(name.to_owned()));
    }
}

#[test]
fn a_function_without_the_calls_it_needs_does_not_get_far() {
    let mut spec = spec("say('never')");
    spec.syscalls.clear();
    // Even the loader can do nothing, not so much as say so.
    let (said, end) = start(&spec).finish();
    assert!(said.is_empty());
    assert!(matches!(end, bento_jail::Report::Ended { exit, .. } if exit != Some(0)), "{end:?}");
}

#[test]
fn what_is_no_spec_is_refused() {
    assert_eq!(refusal(b"{").0, "spec");
    assert_eq!(refusal(b"[]").0, "spec");
    let mut value = serde_json::to_value(spec("")).unwrap();
    value["more"] = 1.into();
    assert!(refusal(value.to_string().as_bytes()).1.contains("unknown field"));
    let mut long = spec("");
    long.arguments.push("x".repeat(SPEC_BYTES_MAX));
    let (wall, reason) = refusal(&serde_json::to_vec(&long).unwrap());
    assert_eq!(wall, "spec");
    assert!(reason.contains("longer than"), "{reason}");
}

#[test]
fn a_descriptor_that_is_not_the_right_socket_is_refused() {
    let (_ours, stream) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for wrong in [std::os::fd::OwnedFd::from(stream), file.into()] {
        let output = std::process::Command::new(program()).stdin(wrong).output().unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(report.starts_with("{\"refused\":{\"wall\":\"spec\""), "{report}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn the_check_says_of_each_wall_that_it_holds() {
    let output = std::process::Command::new(program()).arg("--check").output().unwrap();
    let lines: Vec<serde_json::Value> =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["holds"] == true), "{lines:#?}");
    assert!(lines.len() >= 12, "{lines:#?}");
    assert!(output.status.success());
}
