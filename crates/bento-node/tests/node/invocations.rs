//! Install, invoke, run, status, shutdown, and how invocations end.

use bento_proto::Outcome;

use crate::support::{Installed, ask, bundle, installed, run, shared};

#[tokio::test]
async fn a_function_is_installed_invoked_and_ended_and_then_gone() {
    let function = installed("", "def hello(api, name='world'):\n    api.output.write(f'Hello, {name}'.encode())\n").await;
    let answer = function.invoke("hello", r#"{"name": "\u00e4"}"#).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..], answer.trailer), (200, "Hello, ä".as_bytes(), Some(Outcome::Returned)));
    assert_eq!(function.invoke("goodbye", "{}").await.code(), "unknown-method");
    assert_eq!(function.invoke("hello", "[]").await.code(), "bad-request");
    assert_eq!(function.status().await.name, "test");
    assert_eq!(function.end().await.status, 204);
    assert_eq!(function.invoke("hello", "{}").await.code(), "unknown-token");
    assert_eq!(function.end().await.code(), "unknown-token");
}

#[tokio::test]
async fn tokens_do_what_they_are_for_and_nothing_else() {
    let function = installed("", "def hello(api):\n    api.output.write(b'x')\n").await;
    let (invocation, shutdown) = (format!("Bearer {}", function.invocation.reveal()), format!("Bearer {}", function.shutdown.reveal()));
    for (method, path, token, code) in [
        ("POST", "/v1/invoke/hello", shutdown.as_str(), "bad-token"),
        ("DELETE", "/v1/function", &invocation, "bad-token"),
        ("DELETE", "/v1/function", "Bearer nonsense", "bad-token"),
        ("DELETE", "/v1/function", "Basic YTpi", "no-token"),
        ("POST", "/v1/invoke/hello", &format!("Bearer {}", Installed::new(function.address).invocation.reveal()), "unknown-token"),
        ("GET", "/v1/function", "Bearer bento-invoke-x", "bad-token"),
    ] {
        let answer = ask(function.address, method, path, &[("authorization", token)], "").await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, code), "{method} {path}");
    }
    assert_eq!(ask(function.address, "DELETE", "/v1/function", &[], "").await.code(), "no-token");
    assert_eq!(ask(function.address, "GET", "/v1/function", &[("authorization", &shutdown)], "").await.status, 200);
    assert_eq!(function.invoke("hello", "{}").await.status, 200);
}

#[tokio::test]
async fn installing_again_is_the_same_and_installing_another_is_refused() {
    let code = "def hello(api):\n    api.output.write(b'x')\n";
    let function = installed("", code).await;
    assert_eq!(function.install(bundle("", code)).await.status, 200);
    assert_eq!(function.install(bundle("", &code.replace('x', "y"))).await.code(), "token-in-use");
    let mixed = Installed { shutdown: bento_proto::ShutdownToken::from_random(crate::support::random()), ..function };
    assert_eq!(mixed.install(bundle("", code)).await.code(), "token-in-use");
    assert_eq!(mixed.invoke("hello", "{}").await.body, "x");
}

#[tokio::test]
async fn a_run_needs_no_token_and_streams_both_ways() {
    let code = "def upper(api):\n    for chunk in api.input:\n        api.output.write(chunk.upper())\n";
    let input = vec![b'a'; 3_000_000];
    let answer = run(shared(), "traffic = '8 MiB'", code, "upper", &input).await;
    assert_eq!(
        (answer.body.len(), answer.body.iter().all(|byte| *byte == b'A'), answer.trailer),
        (3_000_000, true, Some(Outcome::Returned))
    );
}

#[tokio::test]
async fn a_functions_error_is_its_own_and_says_nothing_of_the_node() {
    let code = "def early(api):\n    raise ValueError('no ä')\n\ndef late(api):\n    api.output.write(b'some')\n    early(api)\n";
    let function = installed("", code).await;
    let problem = function.invoke("early", "{}").await;
    assert_eq!(problem.status, 502);
    let problem = problem.problem();
    assert_eq!((problem.code(), problem.detail.as_str()), ("function-failed", "ValueError: no ä"));
    let traceback = problem.traceback.unwrap();
    assert!(traceback.contains("function.py") && traceback.contains("line 2"), "{traceback}");
    for of_the_node in ["/bento", "runtime.py", "/tmp", "/usr"] {
        assert!(!traceback.contains(of_the_node), "{traceback}");
    }
    let late = function.invoke("late", "{}").await;
    assert_eq!(late.body, "some");
    assert!(matches!(late.trailer, Some(Outcome::Failed { error, .. }) if error == "ValueError: no ä"));
    let exit = run(shared(), "", "import os\ndef leave(api):\n    os._exit(3)\n", "leave", b"").await;
    assert!(exit.problem().detail.contains("status 3"), "{:?}", exit.body);
}

#[tokio::test]
async fn declared_output_is_exact_or_not_whole() {
    let code = r"
def write(api, declared, written, fail=False):
    api.output.length(declared)
    api.output.write(b'x' * written)
    if fail:
        raise ValueError
";
    let function = installed("", code).await;
    let write = async |arguments: &str| function.invoke("write", arguments).await;
    for size in [1, 2, 32_768, 1_000_000] {
        let exact = write(&format!(r#"{{"declared": {size}, "written": {size}}}"#)).await;
        assert_eq!(exact.headers["content-length"], size.to_string().as_str());
        assert!(exact.whole && exact.body.len() == size);
    }
    let none = write(r#"{"declared": 0, "written": 0}"#).await;
    assert!(none.status == 200 && none.body.is_empty());
    for wrong in [r#"{"declared": 100000, "written": 90000}"#, r#"{"declared": 100000, "written": 100000, "fail": true}"#] {
        let answer = write(wrong).await;
        assert!(answer.status == 200 && !answer.whole, "{wrong}");
    }
    // All at once and then an error: there is still time to say it.
    let failed = write(r#"{"declared": 10, "written": 10, "fail": true}"#).await;
    assert_eq!((failed.status.as_u16(), failed.code().as_str()), (502, "function-failed"));
    // One byte too many is the function's error, told by the runtime before it leaves the jail.
    assert_eq!(write(r#"{"declared": 10, "written": 11}"#).await.code(), "function-failed");
    assert_eq!(write(r#"{"declared": 10, "written": 0}"#).await.code(), "function-failed");
}

#[tokio::test]
async fn invocations_at_the_same_time_are_as_many_as_granted() {
    let code = "def wait(api):\n    api.output.write(b'x')\n    api.input.read()\n    api.output.write(b'y')\n";
    let function = installed("invocations = 2", code).await;
    let token = format!("Bearer {}", function.invocation.reveal());
    let mut open = Vec::new();
    for _ in 0..2 {
        // A body that does not end keeps the invocation going.
        let stream = tokio::net::TcpStream::connect(function.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let (body, feeding) = tokio::sync::mpsc::channel::<Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>(1);
        let stream = futures_util::stream::unfold(feeding, async |mut feeding| Some((feeding.recv().await?, feeding)));
        let request = hyper::Request::post("/v1/invoke/wait").header("authorization", &token);
        let body_of = http_body_util::StreamBody::new(Box::pin(stream));
        let response = sender.send_request(request.body(body_of).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        open.push((sender, body, response));
    }
    let third = function.invoke("wait", "{}").await;
    assert_eq!((third.status.as_u16(), third.code().as_str()), (429, "busy"));
    for (_sender, body, response) in open {
        drop(body);
        let whole = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert_eq!(whole, "xy");
    }
    assert_eq!(function.invoke("wait", "{}").await.body, "xy");
}

#[tokio::test]
async fn garbage_on_the_socket_ends_the_process_and_not_the_function() {
    let code = r"
import os
def garbage(api, kind):
    frames = {'text': b'garbage', 'long': b' ' * 70000, 'unknown': b'{}', 'again': b'{\x22done\x22: 999, \x22outcome\x22: \x22returned\x22}', 'lie': b'{\x22loaded\x22: {}}'}
    os.write(3, frames[kind])
    api.input.read()
    import time
    time.sleep(60)

def fine(api):
    api.output.write(b'fine')
";
    let function = installed("", code).await;
    for kind in ["text", "long", "unknown", "again", "lie"] {
        let answer = function.invoke("garbage", &format!(r#"{{"kind": "{kind}"}}"#)).await;
        assert!(answer.problem().detail.contains("violation"), "{kind}: {:?}", answer.body);
        assert_eq!(function.invoke("fine", "{}").await.body, "fine", "{kind}");
    }
}

#[tokio::test]
async fn what_a_function_prints_is_for_its_client() {
    let function = installed("", "def talk(api):\n    print('printed')\n    api.log('logged')\n").await;
    assert_eq!(function.invoke("talk", "{}").await.status, 200);
    assert_eq!(function.status().await.log, ["printed", "logged"]);
}

#[tokio::test]
async fn no_output_is_lost_when_many_ask_at_once() {
    let code = "def write(api, declare):\n    if declare:\n        api.output.length(20000)\n    api.output.write(b'x' * 20000)\n";
    let function = std::sync::Arc::new(installed("invocations = 8\nprocesses = 24", code).await);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let function = std::sync::Arc::clone(&function);
        asking.spawn(async move {
            for round in 0..40 {
                let answer = function.invoke("write", &format!(r#"{{"declare": {}}}"#, round % 2 == 0)).await;
                assert_eq!((answer.status.as_u16(), answer.body.len(), answer.whole), (200, 20_000, true), "{:?}", answer.body);
            }
        });
    }
    while let Some(done) = asking.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_takes_no_trailers_sees_a_failure_as_a_cut() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let code = "def good(api):\n    api.output.write(b'some')\n\ndef bad(api):\n    api.output.write(b'some')\n    raise ValueError\n";
    let function = installed("", code).await;
    for (method, ends_well) in [("good", true), ("bad", false)] {
        let mut stream = tokio::net::TcpStream::connect(function.address).await.unwrap();
        let token = function.invocation.reveal();
        let head = format!("POST /v1/invoke/{method} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert!(heard.contains("some"), "{heard}");
        assert_eq!(heard.ends_with("0\r\n\r\n"), ends_well, "{heard}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_input_gives_its_place_back() {
    use tokio::io::AsyncWriteExt;
    let function = installed("", "def read(api):\n    api.output.write(str(len(api.input.read())).encode())\n").await;
    let token = function.invocation.reveal();
    let mut stream = tokio::net::TcpStream::connect(function.address).await.unwrap();
    let head = format!("POST /v1/invoke/read HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100\r\n\r\nhalf");
    stream.write_all(head.as_bytes()).await.unwrap();
    let running = async |wanted: u32| {
        let end = std::time::Instant::now() + crate::support::PATIENCE;
        while function.status().await.invocations != wanted {
            assert!(std::time::Instant::now() < end);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    running(1).await;
    drop(stream);
    running(0).await;
    assert_eq!(function.invoke_with("read", "{}", "whole").await.body, "5");
}
