//! The policy: what it says of system calls, and what happens when the operator changes it under a running node.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use bento_proto::Policy;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use crate::support::{Installed, Node, POLICY, ask, bundle, installed, installed_at, run, shared, until};

const HELLO: &str = "def hello(api):\n    api.output.write(b'x')\n";

/// Writes a file beside the node's configuration, and waits until the node has said what it makes of it.
pub(crate) async fn reread(node: &Node, name: &str, text: &str, says: &str) {
    std::fs::write(node.directory.path().join(name), text).unwrap();
    hang_up(node, says).await;
}

async fn hang_up(node: &Node, says: &str) {
    let before = node.log.lock().unwrap().len();
    kill_process(Pid::from_raw(i32::try_from(node.pid()).unwrap()).unwrap(), Signal::HUP).unwrap();
    until(says, || node.log.lock().unwrap()[before..].contains(says)).await;
}

async fn published(node: &Node) -> Policy {
    Policy::parse(std::str::from_utf8(&ask(node.address, "GET", "/v1/policy", &[], "").await.body).unwrap()).unwrap()
}

#[test]
fn the_lists_of_system_calls_are_those_of_the_jail() {
    assert_eq!(bento_proto::syscalls::default(), bento_jail::default_syscalls());
    let mut never = bento_jail::never_syscalls().to_vec();
    never.sort_unstable();
    assert_eq!(bento_proto::syscalls::never(), never);
}

#[tokio::test]
async fn a_system_call_that_the_manifest_gives_up_is_denied_and_the_neighbour_has_it() {
    let code = r"
import _socket, os

def pair(api):
    try:
        for end in _socket.socketpair():
            end.close()
        api.output.write(b'open')
    except OSError as error:
        api.output.write(os.strerror(error.errno).encode())

def pipe(api):
    for end in os.pipe():
        os.close(end)
    api.output.write(b'open')
";
    let without = installed("syscalls = ['default', '-socketpair']", code).await;
    let with = installed("syscalls = 'default'", code).await;
    assert_eq!(without.invoke("pair", "{}").await.body, "Operation not permitted");
    assert_eq!(without.invoke("pipe", "{}").await.body, "open");
    assert_eq!(with.invoke("pair", "{}").await.body, "open");
}

#[tokio::test]
async fn a_system_call_that_is_not_offered_is_refused_and_one_that_is_offered_is_open() {
    let asks = "syscalls = ['default', '+getcpu']";
    let refused = Installed::new(shared()).install(bundle(asks, HELLO)).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (403, "not-offered"));
    let line = refused.problem().line.unwrap();
    assert_eq!((line.key.as_str(), line.needs.as_str(), line.offers.as_str()), ("syscalls", "default, +getcpu", "default (not getcpu)"));
    let unknown = Installed::new(shared()).install(bundle("\nsyscalls = ['default', '+frobnicate']", HELLO)).await;
    assert_eq!(unknown.code(), "bad-bundle");
    assert!(unknown.problem().detail.contains("line 5") && unknown.problem().detail.contains("frobnicate"), "{:?}", unknown.body);

    let node = Node::start(&format!("{POLICY}syscalls = [\"default\", \"+getcpu\"]\n"), "");
    let code = r"
import ctypes

def which(api):
    libc = ctypes.CDLL(None, use_errno=True)
    api.output.write(f'{libc.syscall(309, None, None, None)} {libc.syscall(141, 0, 0, 0)}'.encode())
";
    // By number, since the C library knows another way: getcpu on x86-64, and setpriority, which nobody asked for.
    if cfg!(target_arch = "x86_64") {
        assert_eq!(installed_at(node.address, asks, code).await.invoke("which", "{}").await.body, "0 -1");
        assert_eq!(installed_at(node.address, "", code).await.invoke("which", "{}").await.body, "-1 -1");
    }
}

#[tokio::test]
async fn a_new_policy_counts_for_new_installs_and_leaves_those_that_are_there() {
    let node = Node::start(POLICY, "");
    let small = installed_at(node.address, "memory = '32 MiB'", HELLO).await;
    let large = installed_at(node.address, "memory = '128 MiB'", HELLO).await;
    reread(&node, "policy.toml", &POLICY.replace("256 MiB", "64 MiB"), "the new policy counts").await;
    let log = node.log.lock().unwrap().clone();
    assert!(log.contains("changed=\"memory\" functions=2 not_admitted_now=1"), "{log}");
    for function in [&small, &large] {
        assert_eq!(function.invoke("hello", "{}").await.body, "x");
    }
    assert_eq!(large.status().await.granted.memory.to_string(), "128 MiB");
    let refused = Installed::new(node.address).install(bundle("memory = '128 MiB'", HELLO)).await;
    assert_eq!(refused.problem().line.unwrap().offers, "64 MiB");
    assert_eq!(run(node.address, "memory = '64 MiB'", HELLO, "hello", b"").await.body, "x");
    assert_eq!(published(&node).await.offers.memory.to_string(), "64 MiB");
    let described: serde_json::Value = serde_json::from_slice(&ask(node.address, "GET", "/v1/node", &[], "").await.body).unwrap();
    assert_eq!(described["policy"]["offers"]["memory"], "64 MiB");
    hang_up(&node, "is as it was").await;
}

#[tokio::test]
async fn a_wrong_policy_is_told_with_its_line_and_the_earlier_one_stays() {
    let node = Node::start(POLICY, "");
    for (text, line) in [
        ("[offers]\negress = [\"direct\"]\nmemmory = \"1 GiB\"\n", "line 3"),
        ("[offers]\negress = [\"direct\"]\n\nsyscalls = [\"default\", \"+ptrace\"]\n", "line 4"),
        ("[offers]\nimage = [\"web\"]\n", "has only: python3"),
        ("[offers]\nconnect = \"relay\"\negress = [\"direct\"]\n", "[relay]"),
        ("[offers]\n", "off = true"),
    ] {
        reread(&node, "policy.toml", text, "the policy stays as it was").await;
        let log = node.log.lock().unwrap().clone();
        let said = log.lines().rfind(|one| one.contains("stays as it was")).unwrap();
        assert!(said.contains("policy.toml") && said.contains(line), "{text}: {said}");
        assert_eq!(published(&node).await, Policy::parse(POLICY).unwrap());
    }
    std::fs::remove_file(node.directory.path().join("policy.toml")).unwrap();
    hang_up(&node, "the policy stays as it was").await;
    assert_eq!(run(node.address, "memory = '200 MiB'", HELLO, "hello", b"").await.body, "x");
}

#[tokio::test]
async fn a_change_beside_the_policy_is_said_to_need_a_restart() {
    let node = Node::start(POLICY, "");
    let config = node.directory.path().join("bentod.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(node.directory.path().join("other.toml"), POLICY.replace("256 MiB", "96 MiB")).unwrap();
    let changed =
        text.replace("name = \"Test\"", "name = \"Other\"\npolicy = \"other.toml\"\n[limits]\nidle = \"1 min\"\n[relay]\n[unused]");
    reread(&node, "bentod.toml", &changed, "the policy stays as it was").await;
    reread(&node, "bentod.toml", &text.replace("name = \"Test\"", "name = \"Other\"\npolicy = \"other.toml\""), "the new policy counts")
        .await;
    let log = node.log.lock().unwrap().clone();
    assert!(log.contains("counts from the next start only") && log.contains("changed=\"name\""), "{log}");
    assert_eq!(published(&node).await.offers.memory.to_string(), "96 MiB");
    let described: serde_json::Value = serde_json::from_slice(&ask(node.address, "GET", "/v1/node", &[], "").await.body).unwrap();
    assert_eq!(described["name"], "Test");
}

#[tokio::test]
async fn room_for_functions_grows_and_shrinks_with_the_policy() {
    let with = |count: u32| format!("{POLICY}functions = {count}\n");
    let node = Node::start(&with(1), "");
    let first = installed_at(node.address, "", HELLO).await;
    let busy = async || Installed::new(node.address).install(bundle("", HELLO)).await.code();
    assert_eq!(busy().await, "busy");
    reread(&node, "policy.toml", &with(2), "changed=\"functions\"").await;
    let second = installed_at(node.address, "", HELLO).await;
    assert_eq!(busy().await, "busy");
    reread(&node, "policy.toml", &with(1), "changed=\"functions\"").await;
    assert_eq!(second.invoke("hello", "{}").await.body, "x");
    second.end().await;
    assert_eq!(busy().await, "busy");
    first.end().await;
    // The place is given back when the last session has let go of the function.
    let end = Instant::now() + crate::support::PATIENCE;
    while run(node.address, "", HELLO, "hello", b"").await.status != 200 {
        assert!(Instant::now() < end, "the place is never free");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn functions_of_a_day_are_counted_and_the_next_place_is_told() {
    let node = Node::start(&format!("{POLICY}functions_per_day = 2\n"), "");
    let first = installed_at(node.address, "", HELLO).await;
    // The same again is no install, and one that is not admitted is none either.
    assert_eq!(first.install(bundle("", HELLO)).await.status, 200);
    assert_eq!(Installed::new(node.address).install(bundle("memory = '1 TiB'", HELLO)).await.code(), "not-offered");
    assert_eq!(run(node.address, "", HELLO, "hello", b"").await.body, "x");
    let refused = Installed::new(node.address).install(bundle("", HELLO)).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (429, "busy"));
    assert!(refused.problem().detail.contains("in 24 hours (2); the next place is free in 2"), "{:?}", refused.body);
    assert_eq!(first.invoke("hello", "{}").await.body, "x");
    reread(&node, "policy.toml", &format!("{POLICY}functions_per_day = 3\n"), "the new policy counts").await;
    assert_eq!(run(node.address, "", HELLO, "hello", b"").await.body, "x");
    assert_eq!(run(node.address, "", HELLO, "hello", b"").await.code(), "busy");
    let status =
        Command::new(env!("CARGO_BIN_EXE_bentod")).args(["status", "--config"]).arg(node.directory.path().join("bentod.toml")).output();
    let said = String::from_utf8(status.unwrap().stdout).unwrap();
    assert!(said.contains("installs     3 of at most 3 in 24 hours"), "{said}");
}

/// A control port that knows one exit policy, changed by the test, and takes note of what it is asked.
async fn relay(policy: std::sync::Arc<std::sync::Mutex<String>>, asked: std::sync::Arc<std::sync::Mutex<Vec<String>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (reading, mut writing) = stream.into_split();
            let mut lines = BufReader::new(reading).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let answer = match line.split(' ').next().unwrap() {
                    "PROTOCOLINFO" => {
                        "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor=\"0.4.9.11\"\r\n250 OK\r\n".to_owned()
                    }
                    "GETINFO" => policy.lock().unwrap().clone(),
                    _ => "250 OK\r\n".to_owned(),
                };
                asked.lock().unwrap().push(line);
                if writing.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_policy_of_a_relay_is_taken_over_and_asked_again() {
    let rules = |text: &str| format!("250+exit-policy/full=\r\n{}.\r\n250 OK\r\n", text.replace('\n', "\r\n"));
    let policy = std::sync::Arc::new(std::sync::Mutex::new(rules("accept *:80\naccept6 *:80\nreject *:*\nreject6 *:*\n")));
    let asked = std::sync::Arc::default();
    let port = relay(std::sync::Arc::clone(&policy), std::sync::Arc::clone(&asked)).await;
    let text = "[offers]\negress = [\"direct\"]\nconnect = \"relay\"\n";
    let control = format!("[relay]\ncontrol = \"127.0.0.1:{port}\"");
    let node = tokio::task::block_in_place(|| Node::start(text, &control));
    assert_eq!(published(&node).await.offers.connect.to_string(), "accept *:80, reject *:*");
    let wants = |rule: &str| bundle(&format!("calls = ['net.connect']\nconnect = ['{rule}']"), HELLO);
    assert_eq!(Installed::new(node.address).install(wants("accept *:80")).await.status, 201);
    for beyond in ["accept *:443", "accept 127.0.0.1:80", "accept 10.0.0.0/8:80"] {
        assert_eq!(Installed::new(node.address).install(wants(beyond)).await.code(), "not-offered", "{beyond}");
    }

    *policy.lock().unwrap() = rules("accept *:443\naccept6 *:443\n");
    hang_up(&node, "changed=\"connect\" functions=1 not_admitted_now=1").await;
    assert_eq!(published(&node).await.offers.connect.to_string(), "accept *:443");
    // More rules than a policy takes, a relay that is none any more, and one that is gone: the earlier rules stay.
    let many: String = (1..=257).map(|port| format!("accept 192.0.2.1:{port}\n")).collect();
    for (told, says) in
        [(rules(&many), "257 rules, and a policy takes at most 256"), ("552 Not running in server mode\r\n".into(), "552 Not running")]
    {
        *policy.lock().unwrap() = told;
        hang_up(&node, says).await;
        assert_eq!(published(&node).await.offers.connect.to_string(), "accept *:443");
    }
    // Nothing but questions.
    let asked = asked.lock().unwrap().clone();
    assert!(
        asked.len() > 8 && asked.iter().all(|line| ["PROTOCOLINFO 1", "AUTHENTICATE", "GETINFO exit-policy/full"].contains(&line.trim())),
        "{asked:?}"
    );
}

/// `bentod check` with these files.
fn check(policy: &str, more: &str, arguments: &[&str]) -> (bool, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let config: PathBuf = directory.path().join("bentod.toml");
    std::fs::write(directory.path().join("policy.toml"), policy).unwrap();
    std::fs::write(&config, format!("name = \"Test\"\nstate = \"state\"\nlisten = \"127.0.0.1:0\"\n{more}\n[tor]\noff = true\n")).unwrap();
    let manifest = "name = \"test\"\nmethods = [\"hello\"]\n[needs]\nmemory = \"1 GiB\"\n";
    std::fs::write(directory.path().join("manifest.toml"), manifest).unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_bentod"));
    run.arg("check").args(arguments).arg("--config").arg(&config).current_dir(directory.path());
    let output = run.output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn check_explains_a_manifest_line_by_line() {
    let (done, said, error) = check(POLICY, "", &["--explain", "manifest.toml"]);
    assert!(
        !done && error.contains("Error: this node would refuse test: it needs 1 GiB of memory, and this node offers 256 MiB"),
        "{error}"
    );
    assert!(said.contains("needs]:\n  memory = \"256 MiB\"\n") && said.contains("offers]:\n  memory = \"1 GiB\"\n"), "{said}");
    let (done, said, error) = check(&POLICY.replace("256 MiB", "1 GiB"), "", &["--explain", "."]);
    assert!(done && error.is_empty() && !said.contains("does not fit") && said.contains("syscalls"), "{said}{error}");
    let (done, said, _) = check(POLICY, "", &["--explain", "manifest.toml", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(!done && told["fits"] == false && told["function"] == "test");
    assert_eq!(
        told["lines"][1],
        serde_json::json!({"key": "memory", "needs": "1 GiB", "offers": "256 MiB", "fits": false, "manifest": "memory = \"256 MiB\"", "policy": "memory = \"1 GiB\""})
    );
    let (done, _, error) = check(POLICY, "", &["--explain", "policy.toml"]);
    assert!(!done && error.contains("offers"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_shows_the_rules_of_the_relay_or_says_why_there_are_none() {
    let policy = std::sync::Arc::new(std::sync::Mutex::new("250-exit-policy/full=reject *:25,accept *:*\r\n250 OK\r\n".to_owned()));
    let port = relay(policy, std::sync::Arc::default()).await;
    let text = "[offers]\negress = [\"direct\"]\nconnect = \"relay\"\n";
    let (done, said, error) = tokio::task::block_in_place(|| check(text, &format!("[relay]\ncontrol = \"127.0.0.1:{port}\""), &[]));
    assert!(done && said.contains("connect = [\"reject *:25\", \"accept *:*\"]"), "{said}{error}");
    let (done, _, error) = check(text, "[relay]\ncontrol = \"unix:/nowhere/control\"", &[]);
    assert!(!done && error.contains("asking the relay at unix:/nowhere/control") && error.contains("cannot be reached"), "{error}");
    let (done, _, error) = check(text, "", &[]);
    assert!(!done && error.contains("no `control` under [relay]"), "{error}");
    let (done, _, error) = check("[offers]\negress = []\n", "[relay]\ncontrol = \"nowhere\"", &[]);
    assert!(!done && error.contains("neither an address"), "{error}");
}
