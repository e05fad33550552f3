//! Where a function connects, and where not.

use bento_proto::Bound;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Node, POLICY, installed, installed_at};

const CODE: &str = r"
def fetch(api, host, port):
    try:
        with api.connect(host, port) as connection:
            connection.sendall(b'question')
            connection.shutdown(1)
            while chunk := connection.recv(65536):
                api.output.write(chunk)
    except Exception as error:
        api.output.write(f'{type(error).__name__}: {error}'.encode())

def raw(api, host, port):
    import _socket
    try:
        plain = _socket.socket(2, 1)
        plain.connect((host, port))
        api.output.write(b'reached')
    except OSError as error:
        api.output.write(b'stopped')
";

/// Answers what it was sent, twice.
async fn listener(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = Vec::new();
                let _ = stream.read_to_end(&mut heard).await;
                let _ = stream.write_all(&heard.repeat(2)).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_granted_destination_is_reached_and_its_neighbours_are_not() {
    let port = listener("127.0.0.1").await;
    let elsewhere = listener("127.0.0.2").await;
    let function = installed(&format!("calls = ['net.connect']\nconnect = ['accept 127.0.0.1:{port}']"), CODE).await;
    let fetch = async |host: &str, port: u16| {
        let answer = function.invoke("fetch", &format!(r#"{{"host": "{host}", "port": {port}}}"#)).await;
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    assert_eq!(fetch("127.0.0.1", port).await, "questionquestion");
    for (host, port) in
        [("127.0.0.2", elsewhere), ("127.0.0.1", port ^ 1), ("127.0.0.2", port), ("::1", port), ("::ffff:127.0.0.2", elsewhere)]
    {
        assert!(fetch(host, port).await.starts_with("Refused: "), "{host} {port}");
    }
    for host in ["localhost", "127.1", "0x7f000001", "2130706433", "a b", "x.onion"] {
        let answer = fetch(host, port).await;
        assert!(!answer.contains("question"), "{host}: {answer}");
    }
    // Not around the node either: the jail has no network of its own.
    let raw = function.invoke("raw", &format!(r#"{{"host": "127.0.0.1", "port": {port}}}"#)).await;
    assert_eq!(raw.body, "stopped");
}

#[tokio::test]
async fn a_call_that_was_not_granted_is_refused_though_the_node_offers_it() {
    let port = listener("127.0.0.1").await;
    let function = installed(&format!("connect = ['accept 127.0.0.1:{port}']"), CODE).await;
    let answer = function.invoke("fetch", &format!(r#"{{"host": "127.0.0.1", "port": {port}}}"#)).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.starts_with("Refused: ") && text.contains("net.connect"), "{text}");
}

#[tokio::test]
async fn one_function_gets_a_quarter_of_the_nodes_connections_and_all_together_no_more_than_there_are() {
    let port = listener("127.0.0.1").await;
    let node = Node::start(POLICY, "[limits]\nconnections = 6");
    let code = r"
HELD = []

def hold(api, port, count):
    try:
        for _ in range(count):
            HELD.append(api.connect('127.0.0.1', port))
        api.output.write(b'all')
    except Exception as error:
        api.output.write(f'{type(error).__name__}: {error}'.encode())

def drop(api):
    while HELD:
        HELD.pop().close()
    api.output.write(b'dropped')
";
    let needs = format!("calls = ['net.connect']\nconnect = ['accept 127.0.0.1:{port}']");
    let mut functions = Vec::new();
    for _ in 0..4 {
        functions.push(installed_at(node.address, &needs, code).await);
    }
    let hold = async |function: usize, count: u32| {
        let answer = functions[function].invoke("hold", &format!(r#"{{"port": {port}, "count": {count}}}"#)).await;
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    assert_eq!(hold(0, 2).await, "all");
    assert!(hold(0, 1).await.contains("the function has as many connections"));
    assert_eq!((hold(1, 2).await, hold(2, 2).await), ("all".into(), "all".into()));
    assert!(hold(3, 1).await.contains("the node has as many connections"));
    assert_eq!(functions[0].invoke("drop", "{}").await.body, "dropped");
    // They are given back when the node has seen their end.
    while hold(3, 1).await != "all" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_connection_that_fails_counts_as_traffic_all_the_same() {
    let code = r"
def try_often(api, port, count):
    for _ in range(count):
        try:
            api.connect('127.0.0.1', port)
        except OSError:
            pass
    api.output.write(b'tried')
";
    // Nobody listens at port 1.
    let needs = "calls = ['net.connect']\nconnect = ['accept 127.0.0.1:1']\ntraffic = '20 KiB'";
    let function = installed(needs, code).await;
    assert_eq!(function.invoke("try_often", r#"{"port": 1, "count": 10}"#).await.body, "tried");
    assert!(function.status().await.traffic_used.as_bytes() >= 10 * 1024);
    assert_eq!(function.invoke("try_often", r#"{"port": 1, "count": 20}"#).await.problem().bound, Some(Bound::Traffic));
}

#[tokio::test]
async fn the_ports_of_ones_own_tor_are_not_the_nodes_and_without_tor_nobody_is_there() {
    let node = Node::start(&format!("{POLICY}calls = [\"net.*\", \"tor.*\"]\n"), "");
    // Something of the machine's own, such as the operator's Tor, at a port that the policy and the manifest open.
    let Ok(listener) = TcpListener::bind("127.0.0.1:9051").await else { return };
    let needs = |calls: &str| format!("calls = [{calls}]\nconnect = ['accept 127.0.0.1:9051']");
    let with = installed_at(node.address, &needs("'net.connect', 'tor.controller'"), CODE).await;
    let answer = with.invoke("fetch", r#"{"host": "127.0.0.1", "port": 9051}"#).await;
    assert!(String::from_utf8_lossy(&answer.body).starts_with("Unreachable: "), "{:?}", answer.body);
    // Its neighbour has no control connections, and reaches what it was granted.
    let without = installed_at(node.address, &needs("'net.connect'"), CODE).await;
    let (answer, accepted) = tokio::join!(without.invoke("fetch", r#"{"host": "127.0.0.1", "port": 9051}"#), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"the machine's own").await.unwrap();
        drop(stream);
    });
    let () = accepted;
    assert_eq!(answer.body, "the machine's own");
}

#[tokio::test]
async fn a_function_listens_at_its_own_address_and_nobody_else_comes_there() {
    let code = r"
import socket, threading
def serve(api, port):
    with socket.create_server(('127.0.0.1', port)) as server:
        def answer():
            stream, _ = server.accept()
            with stream: stream.sendall(stream.recv(100) * 2)
        thread = threading.Thread(target=answer); thread.start()
        with socket.create_connection(('127.0.0.1', server.getsockname()[1]), timeout=20) as stream:
            stream.sendall(b'twice'); api.output.write(stream.recv(100))
        thread.join()
        try: socket.create_server(('0.0.0.0', port or 1)).close()
        except OSError as error: api.output.write(type(error).__name__.encode())
        try: socket.create_server(('192.0.2.1', 0))
        except PermissionError: api.output.write(b' refused')
";
    let function = installed("processes = 8", code).await;
    let port = listener("127.0.0.1").await;
    // The port is taken on the machine, which is not the function's.
    let answer = function.invoke("serve", &format!(r#"{{"port": {port}}}"#)).await;
    assert_eq!(answer.body, "twicetwiceOSError refused", "{:?}", answer.body);
}
