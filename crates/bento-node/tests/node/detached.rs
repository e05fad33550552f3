//! Invocations whose client leaves.

use std::time::Duration;

use bento_proto::{Bound, Outcome};
use tokio::io::AsyncWriteExt;

use crate::support::{Answer, Installed, Node, POLICY, ask, installed_at, random, until};

const NEEDS: &str = "storage = \"4 MiB\"\ninvocations = 4\ncalls = [\"store.*\"]";

const CODE: &str = r#"
import time

def double(api, seconds=0):
    data = api.input.read()
    time.sleep(seconds)
    api.output.write(data + data)

def wrong(api):
    api.output.write(b"some")
    raise ValueError("on purpose")

def much(api):
    for _ in range(100):
        api.output.write(bytes(100_000))
"#;

pub(crate) fn name() -> String {
    random()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Installed {
    pub(crate) async fn detach(&self, id: &str, method: &str, arguments: &str, input: &'static [u8]) -> Answer {
        let token = format!("Bearer {}", self.invocation.reveal());
        let headers = [("authorization", token.as_str()), ("bento-arguments", arguments), ("bento-detach", id)];
        ask(self.address, "POST", &format!("/v1/invoke/{method}"), &headers, input).await
    }

    pub(crate) async fn output(&self, id: &str, range: Option<&str>) -> Answer {
        let token = format!("Bearer {}", self.invocation.reveal());
        let headers: Vec<(&str, &str)> =
            [("authorization", token.as_str())].into_iter().chain(range.map(|range| ("range", range))).collect();
        let end = std::time::Instant::now() + crate::support::PATIENCE;
        loop {
            let answer = ask(self.address, "GET", &format!("/v1/output/{id}?wait=20"), &headers, "").await;
            if answer.status != 202 || std::time::Instant::now() > end {
                return answer;
            }
        }
    }

    async fn forget(&self, id: &str) -> Answer {
        let token = format!("Bearer {}", self.invocation.reveal());
        ask(self.address, "DELETE", &format!("/v1/output/{id}"), &[("authorization", &token)], "").await
    }
}

pub(crate) fn outcome(answer: &Answer) -> Outcome {
    serde_json::from_slice(answer.headers["bento-outcome"].as_bytes()).unwrap()
}

#[tokio::test]
async fn the_output_waits_for_its_client_and_can_be_fetched_in_parts_and_again_until_it_is_deleted() {
    let node = Node::start(POLICY, "");
    let mut function = installed_at(node.address, NEEDS, CODE).await;
    let id = name();
    let begun = function.detach(&id, "double", "{\"seconds\": 1}", b"0123456789").await;
    assert_eq!((begun.status.as_u16(), begun.body), (202, format!("{{\"output\":\"{id}\"}}").into()));
    let token = format!("Bearer {}", function.invocation.reveal());
    let early = ask(node.address, "GET", &format!("/v1/output/{id}"), &[("authorization", &token)], "").await;
    assert_eq!((early.status.as_u16(), early.headers["bento-output-bytes"].as_bytes()), (202, b"0".as_slice()));
    assert_eq!(function.forget(&id).await.code(), "running");
    // The same again is the same invocation.
    assert_eq!(function.detach(&id, "double", "{}", b"other").await.status, 202);
    let whole = function.output(&id, None).await;
    assert_eq!((whole.status.as_u16(), whole.body.as_ref(), outcome(&whole)), (200, b"01234567890123456789".as_slice(), Outcome::Returned));
    assert_eq!(function.detach(&id, "double", "{}", b"other").await.status, 202);

    let node = node.killed_and_started();
    function.address = node.address;
    let part = function.output(&id, Some("bytes=15-")).await;
    assert_eq!((part.status.as_u16(), part.body.as_ref()), (206, b"56789".as_slice()));
    assert_eq!(part.headers["content-range"], "bytes 15-19/20");
    let part = function.output(&id, Some("bytes=0-0")).await;
    assert_eq!((part.status.as_u16(), part.body.as_ref()), (206, b"0".as_slice()));
    let beyond = function.output(&id, Some("bytes=20-")).await;
    assert_eq!((beyond.status.as_u16(), beyond.code().as_str()), (416, "range"));
    assert_eq!(function.forget(&id).await.status, 204);
    assert_eq!(function.output(&id, None).await.code(), "no-output");
    assert_eq!(function.forget(&id).await.code(), "no-output");
    assert_eq!(function.output("0", None).await.code(), "bad-request");
}

#[tokio::test]
async fn how_it_ended_is_told_with_what_it_wrote() {
    let node = Node::start(POLICY, "");
    let mut function = installed_at(node.address, NEEDS, CODE).await;
    let (wrong, much, slow) = (name(), name(), name());
    assert_eq!(function.detach(&wrong, "wrong", "{}", b"").await.status, 202);
    let ended = function.output(&wrong, None).await;
    assert!(matches!(outcome(&ended), Outcome::Failed { error, .. } if error.contains("on purpose")));
    assert_eq!(ended.body, "some");
    assert_eq!(function.detach(&much, "much", "{}", b"").await.status, 202);
    let full = function.output(&much, None).await;
    assert_eq!(outcome(&full), Outcome::Killed { bound: Bound::Storage });
    assert_eq!(function.forget(&much).await.status, 204);
    // One that is under way when its node ends has failed, and says so.
    assert_eq!(function.detach(&slow, "double", "{\"seconds\": 100}", b"x").await.status, 202);
    let node = node.killed_and_started();
    function.address = node.address;
    let lost = function.output(&slow, None).await;
    assert!(matches!(outcome(&lost), Outcome::Failed { error, .. } if error.contains("stopped")));
    // Refused before it begins, it is not there.
    let none = name();
    assert_eq!(function.detach(&none, "nothing", "{}", b"").await.code(), "unknown-method");
    assert_eq!(function.output(&none, None).await.code(), "no-output");
    let poor = installed_at(node.address, "", CODE).await;
    assert_eq!(poor.detach(&name(), "double", "{}", b"").await.code(), "bad-request");
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_keeps_what_was_put_out_and_says_how_it_ended() {
    // Longer than it takes to pass on what was written.
    let node = Node::start(POLICY, "[limits]\nstop = \"12 s\"");
    let code = r#"
import time

def writes(api):
    api.output.write(bytes(200_000))

def goes_on(api):
    api.output.write(b"so far")
    time.sleep(600)
"#;
    let mut function = installed_at(node.address, &format!("{NEEDS}\nrate = \"32 KiB/s\""), code).await;
    let (whole, cut) = (name(), name());
    assert_eq!(function.detach(&whole, "writes", "{}", b"").await.status, 202);
    let end = std::time::Instant::now() + crate::support::PATIENCE;
    while function.status().await.invocations > 0 {
        assert!(std::time::Instant::now() < end, "it does not return");
    }
    // It has returned, and most of its output waits for the rate.
    let node = node.stopped_and_started();
    function.address = node.address;
    let kept = function.output(&whole, None).await;
    assert_eq!((outcome(&kept), kept.body.len()), (Outcome::Returned, 200_000));
    assert_eq!(function.detach(&cut, "goes_on", "{}", b"").await.status, 202);
    let node = node.stopped_and_started();
    function.address = node.address;
    let kept = function.output(&cut, None).await;
    assert_eq!((outcome(&kept), kept.body.as_ref()), (Outcome::Killed { bound: Bound::Stop }, b"so far".as_slice()));
}

#[tokio::test]
async fn an_input_that_breaks_off_begins_nothing_that_is_kept() {
    let node = Node::start(POLICY, "");
    let function = installed_at(node.address, NEEDS, CODE).await;
    let id = name();
    let mut stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
    let head = format!(
        "POST /v1/invoke/double HTTP/1.1\r\nhost: n\r\nauthorization: Bearer {}\r\nbento-detach: {id}\r\ncontent-length: 1000\r\n\r\nhalf",
        function.invocation.reveal()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let node_pid = node.pid();
    until("it begins", || !crate::support::descendants(node_pid, "python3.11").is_empty()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(stream);
    let end = std::time::Instant::now() + crate::support::PATIENCE;
    while function.output(&id, None).await.code() != "no-output" {
        assert!(std::time::Instant::now() < end, "it is never given up");
    }
    // Asked again, it begins.
    assert_eq!(function.detach(&id, "double", "{}", b"whole").await.status, 202);
    assert_eq!(function.output(&id, None).await.body, "wholewhole");
}

/// Loads slowly, and is asleep soon.
const SLOW: &str = r#"
import time
time.sleep(2)

def double(api):
    data = api.input.read()
    api.output.write(data + data)
"#;

/// A function that sleeps, and what its node is.
async fn asleep() -> (Node, Installed) {
    let node = Node::start(POLICY, "[limits]\nsleep = \"100 ms\"\nready = 0");
    let function = installed_at(node.address, NEEDS, SLOW).await;
    let pid = node.pid();
    until("it sleeps", || crate::support::descendants(pid, "python3.11").is_empty()).await;
    (node, function)
}

/// Begins, and does not wait for the answer. The process that is started for it is the only one.
async fn begin_and_leave(node: &Node, function: &Installed, id: &str, input: &str) -> u32 {
    let mut stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
    let request = format!(
        "POST /v1/invoke/double HTTP/1.1\r\nhost: n\r\nauthorization: Bearer {}\r\nbento-detach: {id}\r\ncontent-length: {}\r\n\r\n{input}",
        function.invocation.reveal(),
        input.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let pid = node.pid();
    until("it begins", || !crate::support::descendants(pid, "python3.11").is_empty()).await;
    crate::support::descendants(pid, "python3.11")[0]
}

#[tokio::test]
async fn a_client_that_leaves_while_its_function_is_started_finds_the_output_later() {
    let (node, function) = asleep().await;
    let id = name();
    begin_and_leave(&node, &function, &id, "left").await;
    let kept = function.output(&id, None).await;
    assert_eq!((outcome(&kept), kept.body.as_ref()), (Outcome::Returned, b"leftleft".as_slice()));
    // One that was never begun is none.
    assert_eq!(function.output(&name(), None).await.code(), "no-output");
}

#[tokio::test]
async fn who_asks_again_while_it_is_started_is_told_what_came_of_it() {
    let (node, function) = asleep().await;
    let id = name();
    begin_and_leave(&node, &function, &id, "first").await;
    assert_eq!(function.detach(&id, "double", "{}", b"again").await.status, 202);
    assert_eq!(function.output(&id, None).await.body, "firstfirst");
    // A start that fails is no start: it is the second that begins then.
    let pid = node.pid();
    until("it sleeps", || crate::support::descendants(pid, "python3.11").is_empty()).await;
    let id = name();
    let process = begin_and_leave(&node, &function, &id, "first").await;
    let asking = function.detach(&id, "double", "{}", b"second");
    let failing = async {
        let process = rustix::process::Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    };
    let (again, ()) = tokio::join!(asking, failing);
    assert_eq!(again.status, 202);
    assert_eq!(function.output(&id, None).await.body, "secondsecond");
}

#[tokio::test]
async fn the_same_again_takes_no_more_input_than_is_on_its_way() {
    let node = Node::start(POLICY, "");
    let function = installed_at(node.address, NEEDS, CODE).await;
    let id = name();
    assert_eq!(function.detach(&id, "double", "{}", b"x").await.status, 202);
    assert_eq!(function.output(&id, None).await.body, "xx");
    static MUCH: [u8; 1 << 20] = [0; 1 << 20];
    let begun = std::time::Instant::now();
    let again = function.detach(&id, "double", "{}", &MUCH).await;
    assert_eq!(again.status, 202);
    assert!(begun.elapsed() < crate::support::PATIENCE);
    assert_eq!(function.output(&id, None).await.body, "xx");
}
