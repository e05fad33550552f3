//! What a client or a function gains by misbehaving: nothing beyond its grant, and nothing after its end.

use std::time::{Duration, Instant};

use bento_proto::Bound;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::support::{Installed, Node, PATIENCE, POLICY, bundle, descendants, installed, installed_at, run, shared};

const HELLO: &str = "def hello(api):\n    api.output.write(b'x')\n";

#[tokio::test]
async fn cpu_time_is_counted_however_a_process_ends() {
    let code = r"
import os, time

def cheat(api):
    while time.process_time() < 1.2: pass
    os.write(3, b'no frame')
    time.sleep(10)
";
    let function = installed("cpu = '2 s'", code).await;
    let cheated = function.invoke("cheat", "{}").await;
    assert!(cheated.problem().detail.contains("violation"), "{:?}", cheated.body);
    assert!(function.status().await.cpu_used.as_millis() >= 1000);
    function.invoke("cheat", "{}").await;
    assert_eq!(function.invoke("cheat", "{}").await.problem().bound, Some(Bound::Cpu));
}

#[tokio::test]
async fn the_same_asked_twice_at_a_time_is_installed_once() {
    let function = Installed::new(shared());
    let slow = bundle("", "import time\ntime.sleep(0.5)\ndef hello(api): pass\n");
    let (one, other) = tokio::join!(function.install(slow.clone()), function.install(slow));
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201]);
    assert_eq!(function.end().await.status, 204);
    assert_eq!(function.end().await.code(), "unknown-token");
}

#[tokio::test]
async fn the_end_of_a_spent_function_does_not_reach_its_successor() {
    let function = Installed::new(shared());
    assert_eq!(
        function.install(bundle("traffic = '1 B'\nlifetime = '2 s'", "def hello(api):\n    api.output.write(b'xx')\n")).await.status,
        201
    );
    assert_eq!(function.invoke("hello", "{}").await.problem().bound, Some(Bound::Traffic));
    assert_eq!(function.end().await.status, 204);
    assert_eq!(function.install(bundle("", HELLO)).await.status, 201);
    sleep(Duration::from_millis(2500)).await;
    assert_eq!(function.invoke("hello", "{}").await.body, "x");
}

#[tokio::test]
async fn an_output_that_nobody_reads_keeps_no_place() {
    let node = Node::start(&format!("{POLICY}functions = 1\n"), "");
    let function =
        installed_at(node.address, "lifetime = '2 s'", "def flood(api):\n    while True: api.output.write(bytes(65536))\n").await;
    let mut session = TcpStream::connect(node.address).await.unwrap();
    let request = format!("POST /v1/invoke/flood HTTP/1.1\r\nhost: n\r\nauthorization: Bearer {}\r\n\r\n", function.invocation.reveal());
    session.write_all(request.as_bytes()).await.unwrap();
    let end = Instant::now() + PATIENCE;
    while Installed::new(node.address).install(bundle("", HELLO)).await.status != 201 {
        assert!(Instant::now() < end, "the place is never free");
        sleep(Duration::from_millis(100)).await;
    }
    drop(session);
}

#[tokio::test]
async fn bundles_that_are_still_coming_count_as_bundles() {
    let node = Node::start(POLICY, "[limits]\nbundles = \"600 KiB\"\nidle = \"4 s\"");
    let digest = "0".repeat(64);
    let seal = format!("bento-seal-{}", "a".repeat(52));
    let head = format!(
        "POST /v1/functions HTTP/1.1\r\nhost: n\r\nbento-invocation-digest: {digest}\r\nbento-shutdown-digest: {digest}\r\nbento-seal: {seal}\r\ncontent-length: 1000000\r\n\r\n"
    );
    let mut session = TcpStream::connect(node.address).await.unwrap();
    session.write_all(head.as_bytes()).await.unwrap();
    session.write_all(&vec![0; 599 << 10]).await.unwrap();
    // Refused either way, and before anything runs: as no bundle, or for want of memory to take it.
    let probe = async || Installed::new(node.address).install(vec![0; 2048]).await.code();
    let end = Instant::now() + PATIENCE;
    // The first one's bytes are read at a time of the node's choice.
    while probe().await != "busy" {
        assert!(Instant::now() < end, "never busy");
    }
    // Byte by byte it is no session without a byte, and yet it must come to an end.
    let dripping = async {
        while session.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(300)).await;
        }
    };
    let free = async {
        while probe().await != "bad-bundle" {
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = async { dripping.await; std::future::pending().await } => {}
        freed = timeout(PATIENCE, free) => freed.expect("the memory is never given back"),
    }
}

#[tokio::test]
async fn a_session_that_says_nothing_has_the_time_of_a_head() {
    let node = Node::start(POLICY, "[limits]\nhead = \"1 s\"");
    let mut session = TcpStream::connect(node.address).await.unwrap();
    assert_eq!(timeout(Duration::from_secs(10), session.read(&mut [0])).await.expect("it is kept").unwrap_or(0), 0);
}

#[tokio::test]
async fn a_session_that_asks_nothing_ends_whatever_else_it_sends() {
    let node = Node::start(POLICY, "[limits]\nhead = \"1 s\"");
    let mut session = TcpStream::connect(node.address).await.unwrap();
    // RFC 9113, 3.4 and 6.7: the preface, empty settings, and then a PING now and then.
    session.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (mut reader, mut writer) = session.into_split();
    let pinging = async {
        while writer.write_all(b"\0\0\x08\x06\0\0\0\0\0ping-me!").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let mut heard = Vec::new();
    let (_, ended) = tokio::join!(pinging, timeout(Duration::from_secs(10), reader.read_to_end(&mut heard)));
    let _ = ended.expect("it is kept");
    assert!(heard.windows(8).any(|part| part == b"ping-me!"), "it was no session of h2");
}

#[tokio::test]
async fn a_request_that_takes_longer_than_a_head_is_not_cut_off() {
    let node = Node::start(POLICY, "[limits]\nhead = \"1 s\"");
    let code = "import time\ndef wait(api):\n    time.sleep(2.5)\n    api.output.write(b'x')\n    time.sleep(2.5)\n";
    assert_eq!(run(node.address, "", code, "wait", b"").await.trailer, Some(bento_proto::Outcome::Returned));
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_the_end_as_well() {
    let node = Node::start(POLICY, "[limits]\nhead = \"1 s\"");
    let function = installed_at(node.address, "", "def big(api):\n    for _ in range(96): api.output.write(bytes(65536))\n").await;
    let mut session = TcpStream::connect(node.address).await.unwrap();
    let token = function.invocation.reveal();
    let request = format!("POST /v1/invoke/big HTTP/1.1\r\nhost: n\r\nte: trailers\r\nauthorization: Bearer {token}\r\n\r\n");
    session.write_all(request.as_bytes()).await.unwrap();
    let (mut heard, mut chunk) = (Vec::new(), vec![0; 128 << 10]);
    while !heard.ends_with(b"\r\n\r\n") || heard.len() < 96 << 16 {
        let bytes = timeout(PATIENCE, session.read(&mut chunk)).await.unwrap().unwrap();
        assert!(bytes > 0, "cut off after {} bytes", heard.len());
        heard.extend_from_slice(&chunk[..bytes]);
        sleep(Duration::from_millis(80)).await;
    }
    assert!(String::from_utf8_lossy(&heard[heard.len() - 200..]).contains("returned"));
}

#[tokio::test]
async fn input_that_a_function_does_not_want_counts_as_traffic_all_the_same() {
    let code = r"
import os, socket, time

def unwanted(api):
    for number in range(4, 64):
        try:
            socket.socket(fileno=os.dup(number)).shutdown(socket.SHUT_RD)
        except OSError:
            pass
    api.output.write(b'shut')
    time.sleep(60)
";
    let function = installed("traffic = '1 MiB'", code).await;
    let mut stream = TcpStream::connect(function.address).await.unwrap();
    let head = format!(
        "POST /v1/invoke/unwanted HTTP/1.1\r\nhost: n\r\nte: trailers\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        function.invocation.reveal(),
        3 << 20
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let talking = async {
        // From here on it takes nothing: what was in its buffer before could wait there for as long as an invocation may be idle.
        while !heard.windows(4).any(|window| window == b"shut") {
            assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "{}", String::from_utf8_lossy(&heard));
        }
        let (mut reader, mut writer) = stream.split();
        // The node may close before all of it is there.
        let sending = async { drop(writer.write_all(&vec![0; 3 << 20]).await) };
        let reading = async {
            while !heard.windows(7).any(|window| window == b"traffic") && reader.read_buf(&mut heard).await.is_ok_and(|bytes| bytes > 0) {}
        };
        tokio::join!(sending, reading);
    };
    timeout(PATIENCE, talking).await.expect("it does not end");
    assert!(String::from_utf8_lossy(&heard).contains("\"bound\":\"traffic\""), "{}", String::from_utf8_lossy(&heard));
}

#[tokio::test]
async fn an_invocation_right_after_its_process_was_killed_is_served_by_the_next() {
    let node = Node::start(POLICY, "[limits]\nready = 0");
    let function = installed_at(node.address, "", HELLO).await;
    for _ in 0..10 {
        let pid = descendants(node.pid(), "python3.11")[0];
        let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        // The node may not have seen it yet.
        while descendants(node.pid(), "python3.11").contains(&pid) {}
        assert_eq!(function.invoke("hello", "{}").await.body, "x");
    }
}

#[tokio::test]
async fn a_function_that_does_not_read_its_socket_is_ended_and_its_clients_are_told() {
    let code = r"
import os, sys, time

def deaf(api):
    # In its own process a function can do what it likes, also to what reads its socket there.
    sys.modules['bento.runtime'].Runtime._receive = lambda *_: time.sleep(600)
    call = b'{\x22call\x22: 1, \x22name\x22: \x22log\x22, \x22arguments\x22: {\x22text\x22: \x22x\x22}}'
    while True: os.write(3, call)

def hello(api):
    api.output.write(b'x')
";
    let function = installed("invocations = 2", code).await;
    let deaf = function.invoke("deaf", "{}").await;
    assert!(deaf.problem().detail.contains("does not read"), "{:?}", deaf.body);
    assert_eq!(function.invoke("hello", "{}").await.body, "x");
}

#[tokio::test]
async fn arguments_come_as_they_were_sent() {
    let code = "def show(api, **all):\n    api.output.write(repr(all).encode())\n";
    let function = installed("", code).await;
    let many = format!("[{}]", vec!["1e15"; 3200].join(","));
    let shown = function.invoke("show", &format!(r#"{{"a": {many}, "b": 18446744073709551616}}"#)).await;
    assert!(
        shown.body.starts_with(b"{'a': [1000000000000000.0, ") && shown.body.ends_with(b"'b': 18446744073709551616}"),
        "{:?}",
        shown.status
    );
    for wrong in ["[]", "1", "{\"a\": 1e999}", &format!("{{\"a\": {}}}", "[".repeat(200)), "{\"a\": NaN}"] {
        assert_eq!(function.invoke("show", wrong).await.code(), "bad-request", "{wrong}");
    }
}

#[tokio::test]
async fn amounts_with_which_nothing_starts_are_the_authors_fault() {
    for needs in ["memory = '1 B'", "scratch = '1 B'", "descriptors = 4"] {
        let refused = run(shared(), needs, HELLO, "hello", b"").await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (422, "bad-bundle"), "{needs}");
    }
    for needs in ["memory = '16 MiB'", "scratch = '4 KiB'", "descriptors = 8"] {
        assert_ne!(run(shared(), needs, HELLO, "hello", b"").await.status, 500, "{needs}");
    }
}

#[tokio::test]
async fn the_runtimes_files_do_not_say_where_the_node_keeps_them() {
    let code = r"
import os

def names(api):
    for name in os.listdir('/bento/bento/__pycache__'):
        compiled = open('/bento/bento/__pycache__/' + name, 'rb').read()
        assert b'/bento/bento/' in compiled and b'runtime/bento' not in compiled, name
    api.output.write(b'good')
";
    let answer = run(shared(), "", code, "names", b"").await;
    assert_eq!(answer.body, "good");
}

#[tokio::test]
async fn no_level_of_the_log_tells_of_clients_and_functions() {
    let node = Node::start(POLICY, "");
    let code = "def look(api, word):\n    try:\n        api.connect('secret-host.example', 80)\n    except OSError:\n        api.output.write(b'tried')\n";
    let function = installed_at(node.address, "calls = ['net.connect']\nconnect = ['accept *:80']", code).await;
    assert_eq!(function.invoke("look", r#"{"word": "secret-word"}"#).await.body, "tried");
    let log = node.log.lock().unwrap().clone();
    let digest = function.invocation.digest().to_string();
    for secret in ["secret-host", "secret-word", "look", digest.as_str(), function.invocation.reveal().as_str()] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}
