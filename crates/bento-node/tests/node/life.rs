//! Sessions, kills and stops: nothing is left behind, nothing hangs.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Node, PATIENCE, POLICY, descendants, installed_at, run, start, until};

const WAIT: &str =
    "import time\ndef wait(api):\n    api.output.write(b'x')\n    time.sleep(600)\n\ndef hello(api):\n    api.output.write(b'x')\n";

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn is_there(pid: u32) -> bool {
    // A zombie that nobody reaps has ended all the same.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn nothing_outlives_a_node_that_is_killed() {
    let node = Node::start(POLICY, "");
    let function = installed_at(node.address, "", WAIT).await;
    let response =
        start(function.address, "POST", "/v1/invoke/wait", &[("authorization", &format!("Bearer {}", function.invocation.reveal()))], "")
            .await;
    let bentod = node.pid();
    let jails: Vec<u32> = [descendants(bentod, "bento-jail"), descendants(bentod, "python3.11")].concat();
    assert!(jails.len() >= 2, "{jails:?}");
    signal(bentod, Signal::KILL);
    until("the jails end", || jails.iter().all(|pid| !is_there(*pid))).await;
    assert!(http_body_util::BodyExt::collect(response.into_body()).await.is_err());
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_does_and_says_so_to_those_who_wait() {
    let node = Node::start(POLICY, "[limits]\nstop = \"1 s\"");
    let function = installed_at(node.address, "", WAIT).await;
    let response =
        start(function.address, "POST", "/v1/invoke/wait", &[("authorization", &format!("Bearer {}", function.invocation.reveal()))], "")
            .await;
    let bentod = node.pid();
    let jails = descendants(bentod, "bento-jail");
    signal(bentod, Signal::TERM);
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    assert!(body.trailers().unwrap()["bento-outcome"].to_str().unwrap().contains("stop"));
    until("the node ends", || !is_there(bentod)).await;
    assert!(jails.iter().all(|pid| !is_there(*pid)));
    assert!(node.log.lock().unwrap().contains("stopped"));
}

#[tokio::test]
async fn a_client_that_leaves_a_run_ends_its_function() {
    let node = Node::start(POLICY, "[limits]\nready = 0");
    let archive = crate::support::bundle("", WAIT);
    let response = start(node.address, "POST", "/v1/run/wait", &[("bento-bundle-length", &archive.len().to_string())], archive).await;
    let bentod = node.pid();
    assert_eq!(descendants(bentod, "bento-jail").len(), 1);
    drop(response);
    until("the function ends", || descendants(bentod, "bento-jail").is_empty()).await;
    // One that was installed stays when its client leaves.
    let function = installed_at(node.address, "invocations = 2", WAIT).await;
    drop(
        start(function.address, "POST", "/v1/invoke/wait", &[("authorization", &format!("Bearer {}", function.invocation.reveal()))], "")
            .await,
    );
    assert_eq!(function.invoke("hello", "{}").await.body, "x");
}

#[tokio::test]
async fn a_function_that_is_killed_from_outside_is_started_again_by_the_next_invocation() {
    let node = Node::start(POLICY, "[limits]\nready = 0");
    let function = installed_at(node.address, "", WAIT).await;
    for name in ["bento-jail", "python3.11"] {
        let token = format!("Bearer {}", function.invocation.reveal());
        let response = start(function.address, "POST", "/v1/invoke/wait", &[("authorization", &token)], "").await;
        signal(*descendants(node.pid(), name).first().unwrap(), Signal::KILL);
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        assert!(body.trailers().unwrap()["bento-outcome"].to_str().unwrap().contains("failed"), "{name}");
        assert_eq!(function.invoke("hello", "{}").await.body, "x", "{name}");
    }
}

#[tokio::test]
async fn functions_are_as_many_as_the_policy_says() {
    let node = Node::start(&format!("{POLICY}\nfunctions = 2\n"), "");
    let first = installed_at(node.address, "", WAIT).await;
    let _second = installed_at(node.address, "", WAIT).await;
    let third = run(node.address, "", WAIT, "hello", b"").await;
    assert_eq!((third.status.as_u16(), third.code().as_str()), (429, "busy"));
    first.end().await;
    // The place is free when the last answer about it has gone.
    let mut status = 429;
    for _ in 0..100 {
        status = run(node.address, "", WAIT, "hello", b"").await.status.as_u16();
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status, 200);
}

#[tokio::test]
async fn sessions_that_only_wait_are_ended() {
    let node = Node::start(POLICY, "[limits]\nhead = \"1 s\"\nidle = \"1 s\"");
    // Half a head, and a body that never comes.
    for text in ["POST /v1/functions HTTP/1.1\r\nHost: x\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("it hangs").ok();
    }
    let silent = run(node.address, "", "import time\ndef wait(api):\n    time.sleep(600)\n", "wait", b"").await;
    assert_eq!(silent.problem().bound, Some(bento_proto::Bound::Idle));
    let mut garbage = TcpStream::connect(node.address).await.unwrap();
    garbage.write_all(b"\x16\x03\x01 garbage \r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    tokio::time::timeout(PATIENCE, garbage.read_to_end(&mut heard)).await.expect("it hangs").ok();
    assert_eq!(run(node.address, "", WAIT, "hello", b"").await.body, "x");
}

#[tokio::test]
async fn one_session_too_many_waits_and_is_served_when_another_ends() {
    let node = Node::start(POLICY, "[limits]\nsessions = 1");
    let first = TcpStream::connect(node.address).await.unwrap();
    let address = node.address;
    let second = tokio::spawn(async move { run(address, "", WAIT, "hello", b"").await.status });
    tokio::task::yield_now().await;
    drop(first);
    assert_eq!(tokio::time::timeout(PATIENCE, second).await.unwrap().unwrap(), 200);
}

#[tokio::test]
async fn the_log_says_nothing_of_clients() {
    let node = Node::start(POLICY, "");
    let code = "def hello(api, secret):\n    print(secret)\n    raise ValueError(secret)\n";
    let function = installed_at(node.address, "", code).await;
    function.invoke("hello", r#"{"secret": "clientsecret"}"#).await;
    function.end().await;
    let log = node.log.lock().unwrap().clone();
    assert!(log.contains("listening") && !log.contains("clientsecret") && !log.contains("bento-invoke") && !log.contains("hello"), "{log}");
}

#[tokio::test]
async fn h2c_serves_as_well() {
    let node = Node::start(POLICY, "");
    let stream = TcpStream::connect(node.address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("http://node/v1/policy").body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    assert_eq!(bento_proto::Policy::parse(std::str::from_utf8(&body).unwrap()).unwrap(), bento_proto::Policy::parse(POLICY).unwrap());
}
