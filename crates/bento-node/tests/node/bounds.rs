//! Each bound of a grant: what is within passes, what is beyond is killed, and the client sees which.

use bento_proto::{Bound, Outcome};

use crate::support::{Answer, Installed, installed, run, shared};

fn killed_by(answer: &Answer) -> Option<Bound> {
    match (&answer.trailer, answer.status.as_u16()) {
        (Some(Outcome::Killed { bound }), _) => Some(*bound),
        (_, 502) if answer.code() == "function-killed" => answer.problem().bound,
        _ => None,
    }
}

#[tokio::test]
async fn memory_is_bounded() {
    let function =
        installed("memory = '64 MiB'", "def take(api, mib):\n    api.output.write(str(len(bytearray(mib << 20))).encode())\n").await;
    assert_eq!(function.invoke("take", r#"{"mib": 8}"#).await.body, (8 << 20).to_string());
    assert_eq!(killed_by(&function.invoke("take", r#"{"mib": 80}"#).await), Some(Bound::Memory));
    assert_eq!(function.invoke("take", r#"{"mib": 8}"#).await.status, 200);
}

#[tokio::test]
async fn cpu_time_is_bounded_and_waiting_is_free() {
    let code = "import time\ndef wait(api):\n    time.sleep(2.5)\n\ndef spin(api):\n    while True: pass\n";
    let function = installed("cpu = '2 s'", code).await;
    assert_eq!(function.invoke("wait", "{}").await.status, 200);
    assert_eq!(killed_by(&function.invoke("spin", "{}").await), Some(Bound::Cpu));
    let spent = function.invoke("wait", "{}").await;
    assert_eq!((spent.status.as_u16(), spent.code().as_str(), spent.problem().bound), (403, "spent", Some(Bound::Cpu)));
}

#[tokio::test]
async fn scratch_is_bounded() {
    let code = "def write(api, mib):\n    with open('/tmp/file', 'wb') as file:\n        for _ in range(mib):\n            file.write(bytes(1 << 20))\n";
    let function = installed("scratch = '4 MiB'", code).await;
    assert_eq!(function.invoke("write", r#"{"mib": 3}"#).await.status, 200);
    assert_eq!(killed_by(&function.invoke("write", r#"{"mib": 5}"#).await), Some(Bound::Scratch));
    let files = "def files(api, count):\n    for n in range(count):\n        open(f'/tmp/{n}', 'w').close()\n";
    let function = installed("scratch = '1 MiB'", files).await;
    assert_eq!(function.invoke("files", r#"{"count": 100}"#).await.status, 200);
    assert_eq!(killed_by(&function.invoke("files", r#"{"count": 10000}"#).await), Some(Bound::Scratch));
}

#[tokio::test]
async fn threads_and_descriptors_are_bounded() {
    let code = r"
import os, threading

def threads(api, count):
    end = threading.Event()
    started = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait)
            thread.start()
            started.append(thread)
    finally:
        end.set()
        for thread in started:
            thread.join()

def descriptors(api, count):
    held = []
    try:
        for _ in range(count):
            held.append(os.open('/tmp', os.O_RDONLY))
    finally:
        for one in held:
            os.close(one)
";
    let function = installed("processes = 8\ndescriptors = 32\nmemory = '128 MiB'", code).await;
    for (method, within, beyond, bound) in [("threads", 4, 20, Bound::Processes), ("descriptors", 16, 64, Bound::Descriptors)] {
        assert_eq!(function.invoke(method, &format!(r#"{{"count": {within}}}"#)).await.status, 200, "{method}");
        assert_eq!(killed_by(&function.invoke(method, &format!(r#"{{"count": {beyond}}}"#)).await), Some(bound), "{method}");
    }
}

#[tokio::test]
async fn traffic_is_bounded_to_the_byte() {
    let code = "def send(api, count):\n    api.output.write(b'x' * count)\n";
    let function = installed("traffic = '1 MiB'", code).await;
    let within = function.invoke("send", r#"{"count": 1000000}"#).await;
    assert_eq!((within.body.len(), within.trailer), (1_000_000, Some(Outcome::Returned)));
    let left = (1 << 20) - 1_000_000;
    let beyond = function.invoke("send", &format!(r#"{{"count": {}}}"#, left + 1)).await;
    assert!(beyond.body.len() <= left);
    assert_eq!(killed_by(&beyond), Some(Bound::Traffic));
    assert_eq!(function.invoke("send", r#"{"count": 1}"#).await.problem().bound, Some(Bound::Traffic));
    let input = run(
        shared(),
        "traffic = '1 KiB'",
        "def read(api):\n    api.output.write(str(len(api.input.read())).encode())\n",
        "read",
        &[0; 2000],
    )
    .await;
    assert_eq!(killed_by(&input), Some(Bound::Traffic), "{:?}", input.body);
}

/// What travels beside the streams is counted as well: arguments, what a function says of its failure, its log.
#[tokio::test]
async fn words_are_traffic_too() {
    let code = "def take(api, text):\n    pass\n\ndef fail(api, chars):\n    raise ValueError('x' * chars)\n\ndef say(api):\n    api.log('y' * 1000)\n";
    let function = installed("traffic = '60 KiB'", code).await;
    let used = async || function.status().await.traffic_used.as_bytes();
    assert_eq!(used().await, 0);
    let arguments = format!(r#"{{"text": "{}"}}"#, "x".repeat(5000));
    assert_eq!(function.invoke("take", &arguments).await.status, 200);
    assert_eq!(used().await, arguments.len() as u64);
    let failed = function.invoke("fail", r#"{"chars": 1000}"#).await;
    assert_eq!(failed.code(), "function-failed");
    let before = used().await;
    assert!(before > arguments.len() as u64 + 1000, "{before}");
    assert_eq!(function.invoke("say", "{}").await.status, 200);
    // Its arguments, "{}", and the line, once, however often that is read.
    assert_eq!((used().await, used().await), (before + 2 + 1000, before + 2 + 1000));
    let arguments = format!(r#"{{"text": "{}"}}"#, "x".repeat(14_000));
    for _ in 0..3 {
        assert_eq!(function.invoke("take", &arguments).await.status, 200);
    }
    assert_eq!(function.invoke("take", &arguments).await.problem().bound, Some(Bound::Traffic));
}

#[tokio::test]
async fn a_lifetime_ends_what_runs_and_what_waits() {
    let code = "import time\ndef wait(api):\n    api.output.write(b'x')\n    time.sleep(60)\n\ndef left(api):\n    api.output.write(str(api.time_left() < 3).encode())\n";
    let function = installed("lifetime = '3 s'", code).await;
    assert_eq!(function.invoke("left", "{}").await.body, "True");
    let answer = function.invoke("wait", "{}").await;
    assert_eq!((killed_by(&answer), &answer.body[..]), (Some(Bound::Lifetime), b"x".as_slice()));
    let after = function.invoke("left", "{}").await;
    assert!(["unknown-token", "spent"].contains(&after.code().as_str()));
}

#[tokio::test]
async fn shutdown_ends_what_runs() {
    let function = installed("", "import time\ndef wait(api):\n    api.output.write(b'x')\n    time.sleep(60)\n").await;
    let token = format!("Bearer {}", function.invocation.reveal());
    let response = crate::support::start(function.address, "POST", "/v1/invoke/wait", &[("authorization", &token)], "").await;
    assert_eq!(function.end().await.status, 204);
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    let outcome: Outcome = serde_json::from_slice(body.trailers().unwrap()["bento-outcome"].as_bytes()).unwrap();
    assert_eq!(outcome, Outcome::Killed { bound: Bound::Shutdown });
}

#[tokio::test]
async fn a_bound_of_the_node_cannot_be_claimed_by_a_function() {
    let code = "import os, time\ndef claim(api):\n    os.write(3, b'{\\x22done\\x22: 1, \\x22outcome\\x22: \\x22killed\\x22, \\x22bound\\x22: \\x22lifetime\\x22}')\n    time.sleep(60)\n";
    let function: Installed = installed("", code).await;
    let answer = function.invoke("claim", "{}").await;
    assert!(killed_by(&answer).is_none() && answer.problem().detail.contains("violation"));
}
