//! Where a function connects, and where not.

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
async fn connections_at_the_same_time_are_bounded_by_the_node() {
    let port = listener("127.0.0.1").await;
    let node = Node::start(POLICY, "[limits]\nconnections = 3");
    let code = r"
def many(api, port, count):
    held = []
    try:
        for _ in range(count):
            held.append(api.connect('127.0.0.1', port))
        api.output.write(b'all')
    except Exception as error:
        api.output.write(f'{len(held)} {type(error).__name__}'.encode())
    for connection in held:
        connection.close()
";
    let function = installed_at(node.address, &format!("calls = ['net.connect']\nconnect = ['accept 127.0.0.1:{port}']"), code).await;
    assert_eq!(function.invoke("many", &format!(r#"{{"port": {port}, "count": 3}}"#)).await.body, "all");
    let beyond = async || function.invoke("many", &format!(r#"{{"port": {port}, "count": 4}}"#)).await.body;
    // The three of before are given back when the node has seen their end.
    let mut said = beyond().await;
    for _ in 0..100 {
        if said == "3 Busy" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        said = beyond().await;
    }
    assert_eq!(said, "3 Busy");
}
