//! Streams: where they lead and where not, and what becomes of one end when the other misbehaves.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

use crate::support::{Node, PATIENCE, POLICY, bundle, installed, installed_at, run};

const CONNECT: &str = r"
def fetch(api, host, port):
    try:
        with api.connect(host, port, timeout=20) as connection:
            connection.sendall(b'question')
            api.output.write(connection.recv(100))
    except OSError as error:
        api.output.write(type(error).__name__.encode())
";

/// Counts who connects, and answers each with `answer`.
async fn server(address: &str, port: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((address, port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 100]).await;
                let _ = stream.write_all(b"answer").await;
            });
        }
    });
    (port, count)
}

/// What a hostile name server says: the addresses of a name, by how often that was asked for before.
type Zone = fn(name: &str, times: usize) -> Option<std::net::IpAddr>;

/// A name server as small as can be (RFC 1035). It answers with a lifetime of zero, as one that rebinds does.
async fn name_server(zone: Zone) -> std::net::SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut times, mut query) = (std::collections::HashMap::new(), [0; 512]);
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let (mut name, mut at) = (String::new(), 12);
            while query[at] != 0 {
                let label = &query[at + 1..at + 1 + usize::from(query[at])];
                name += &format!("{}.", String::from_utf8_lossy(label).to_ascii_lowercase());
                at += 1 + label.len();
            }
            let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
            let asked: &mut usize = times.entry((name.clone(), kind)).or_default();
            let data = match (kind, zone(name.trim_end_matches('.'), *asked)) {
                (1, Some(std::net::IpAddr::V4(address))) => address.octets().to_vec(),
                (28, Some(std::net::IpAddr::V6(address))) => address.octets().to_vec(),
                _ => Vec::new(),
            };
            *asked += 1;
            // The question again, and one answer that points back at its name, if there is one.
            let mut reply = query[..at + 5].to_vec();
            reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(!data.is_empty()), 0, 0, 0, 0]);
            if !data.is_empty() {
                reply.extend([0xc0, 12]);
                reply.extend(kind.to_be_bytes());
                reply.extend([0, 1, 0, 0, 0, 0]);
                reply.extend((data.len() as u16).to_be_bytes());
                reply.extend(&data);
            }
            assert!(length > 12);
            let _ = socket.send_to(&reply, from).await;
        }
    });
    address
}

#[tokio::test]
async fn a_name_that_changes_its_address_leads_only_where_the_grant_does() {
    let (port, granted) = server("127.0.0.1", 0).await;
    let (_, elsewhere) = server("127.0.0.2", port).await;
    let name_server = name_server(|name, times| match name {
        // Innocent when it is asked first, and then not.
        "rebind.example" => Some(if times == 0 { Ipv4Addr::new(127, 0, 0, 1).into() } else { Ipv4Addr::new(127, 0, 0, 2).into() }),
        "steady.example" => Some(Ipv4Addr::new(127, 0, 0, 1).into()),
        "inward.example" => Some(Ipv4Addr::new(127, 0, 0, 2).into()),
        "mapped.example" => Some(Ipv4Addr::new(127, 0, 0, 2).to_ipv6_mapped().into()),
        "metadata.example" => Some(Ipv4Addr::new(169, 254, 169, 254).into()),
        "six.example" => Some(Ipv6Addr::LOCALHOST.into()),
        "zero.example" => Some(Ipv4Addr::UNSPECIFIED.into()),
        _ => None,
    })
    .await;
    let node = Node::start(POLICY, &format!("nameservers = [\"{name_server}\"]"));
    let needs = format!("calls = ['net.connect']\nconnect = ['accept 127.0.0.1:{port}', 'accept *:80']");
    let function = installed_at(node.address, &needs, CONNECT).await;
    let fetch = async |host: &str, port: u16| function.invoke("fetch", &format!(r#"{{"host": "{host}", "port": {port}}}"#)).await.body;
    assert_eq!(fetch("rebind.example", port).await, "answer");
    for _ in 0..3 {
        assert_eq!(fetch("rebind.example", port).await, "Refused");
    }
    for name in ["inward.example", "mapped.example", "six.example", "zero.example"] {
        assert_eq!(fetch(name, port).await, "Refused", "{name}");
    }
    // `*` means public addresses, also where a name leads elsewhere.
    for name in ["metadata.example", "inward.example", "six.example", "mapped.example", "zero.example", "steady.example"] {
        assert_eq!(fetch(name, 80).await, "Refused", "{name}");
    }
    assert_eq!(fetch("none.example", port).await, "NameNotFound");
    assert_eq!(fetch("steady.example", port).await, "answer");
    assert_eq!((granted.load(Ordering::SeqCst), elsewhere.load(Ordering::SeqCst)), (2, 0));
}

#[tokio::test]
async fn everywhere_means_neither_loopback_nor_metadata() {
    let (port, count) = server("127.0.0.1", 0).await;
    let function = installed(&format!("calls = ['net.connect']\nconnect = ['accept *:80', 'accept 127.0.0.1:{port}']"), CONNECT).await;
    let fetch = async |host: &str, port: u16| function.invoke("fetch", &format!(r#"{{"host": "{host}", "port": {port}}}"#)).await.body;
    for host in [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::254",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "10.0.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "fe80::1",
        "255.255.255.255",
        "224.0.0.1",
    ] {
        let answer = fetch(host, 80).await;
        // What is an address of another family's spelling may also be none that there is a way to.
        assert!(["Refused", "Unreachable"].iter().any(|word| answer == *word), "{host}: {answer:?}");
        assert!(host == "64:ff9b::7f00:1" || answer == "Refused", "{host}: {answer:?}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert_eq!(fetch("127.0.0.1", port).await, "answer");
}

#[tokio::test]
async fn a_stream_that_was_handed_over_connects_nowhere_else() {
    let (port, _) = server("127.0.0.1", 0).await;
    let (other, elsewhere) = server("127.0.0.1", 0).await;
    let code = r"
import ctypes, socket, struct

libc = ctypes.CDLL(None, use_errno=True)

def again(api, port, other):
    refused = []
    with api.connect('127.0.0.1', port) as connection:
        number = connection.fileno()
        target = struct.pack('=H', 2) + struct.pack('>H', other) + bytes([127, 0, 0, 1]) + bytes(8)
        nothing = bytes(16)
        for name, act in {
            'connect': lambda: libc.connect(number, target, 16),
            'disconnect': lambda: libc.connect(number, nothing, 16),
            'bind': lambda: libc.bind(number, nothing, 2),
            'listen': lambda: libc.listen(number, 5),
            'accept': lambda: libc.accept(number, None, None),
            'sendto': lambda: libc.sendto(number, b'x', 1, 0, target, 16),
            'node': lambda: libc.connect(3, target, 16),
            'output': lambda: libc.connect(api.output.fileno(), target, 16),
        }.items():
            ctypes.set_errno(0)
            if act() != -1 or ctypes.get_errno() != 1:
                refused.append(f'{name} {ctypes.get_errno()}')
        connection.sendall(b'question')
        api.output.write(connection.recv(100) + ' '.join(refused).encode())
";
    let function = installed(&format!("calls = ['net.connect']\nconnect = ['accept 127.0.0.1:{port}']"), code).await;
    assert_eq!(function.invoke("again", &format!(r#"{{"port": {port}, "other": {other}}}"#)).await.body, "answer");
    assert_eq!(elsewhere.load(Ordering::SeqCst), 0);
}

/// One direction closed leaves the other open; both closed leaves nothing, whichever side forgets to say so.
#[tokio::test]
async fn half_open_streams_end_with_the_function() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let code = r"
def half(api, port):
    connection = api.connect('127.0.0.1', port)
    connection.shutdown(1)
    api.output.write(connection.recv(100))
    # Neither read nor closed from here on.
    api.kept = connection
    global kept
    kept = connection
";
    let node = Node::start(POLICY, "");
    let function = installed_at(node.address, &format!("calls = ['net.connect']\nconnect = ['accept 127.0.0.1:{port}']"), code).await;
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Its end has come, and ours has not.
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
        stream.write_all(b"still").await.unwrap();
        stream
    };
    let arguments = format!(r#"{{"port": {port}}}"#);
    let (mut stream, answer) = tokio::join!(serving, function.invoke("half", &arguments));
    assert_eq!(answer.body, "still");
    assert_eq!(function.end().await.status, 204);
    // With the function goes the stream: writing to it fails once the other side has said so.
    let ended = async {
        while stream.write_all(&[0; 1024]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("the stream outlives its function");
}

/// A client that reads a byte now and then holds its own function up, and nobody else.
#[tokio::test]
async fn slow_readers_hold_up_only_themselves() {
    let node = Node::start(&format!("{POLICY}functions = 4\n"), "");
    let slow = installed_at(node.address, "lifetime = '4 s'", "def pour(api):\n    while True: api.output.write(bytes(65536))\n").await;
    let mut session = TcpStream::connect(node.address).await.unwrap();
    let request = format!("POST /v1/invoke/pour HTTP/1.1\r\nhost: n\r\nauthorization: Bearer {}\r\n\r\n", slow.invocation.reveal());
    session.write_all(request.as_bytes()).await.unwrap();
    let dripping = async {
        while session.read(&mut [0; 1]).await.is_ok_and(|count| count > 0) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let living = async {
        for _ in 0..20 {
            assert_eq!(run(node.address, "", "def hello(api):\n    api.output.write(b'x')\n", "hello", b"").await.body, "x");
        }
        // Its lifetime ends however slowly it is read, and its place is free.
        let end = std::time::Instant::now() + PATIENCE;
        while slow.invoke("pour", "{}").await.status == 200 {
            assert!(std::time::Instant::now() < end);
        }
    };
    tokio::select! {
        () = async { dripping.await; std::future::pending().await } => {}
        done = timeout(PATIENCE, living) => done.expect("the others wait for the slow one"),
    }
}

/// Neither a head that never ends, nor a body that never comes, nor a client that says nothing after its request keeps a place.
#[tokio::test]
async fn half_open_sessions_are_ended() {
    let node = Node::start(POLICY, "[limits]\nhead = \"1 s\"\nidle = \"2 s\"");
    let digest = "0".repeat(64);
    let seal = format!("bento-seal-{}", "a".repeat(52));
    let body = format!(
        "POST /v1/functions HTTP/1.1\r\nhost: n\r\nbento-invocation-digest: {digest}\r\nbento-shutdown-digest: {digest}\r\nbento-seal: {seal}\r\ncontent-length: 100000\r\n\r\nx"
    );
    for start in ["GET / HTTP/1.1\r\nhost: ", "GET / HTT", body.as_str()] {
        let mut session = TcpStream::connect(node.address).await.unwrap();
        session.write_all(start.as_bytes()).await.unwrap();
        let ended = timeout(PATIENCE, session.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "{start:?} is kept");
    }
    // A client that has closed its half may still hear its answer, and one that has gone away loses its place.
    let archive = bundle("", "def hello(api):\n    api.output.write(b'x')\n");
    let mut session = TcpStream::connect(node.address).await.unwrap();
    let head = format!(
        "POST /v1/run/hello HTTP/1.1\r\nhost: n\r\nconnection: close\r\nbento-bundle-length: {0}\r\ncontent-length: {0}\r\n\r\n",
        archive.len()
    );
    session.write_all(&[head.as_bytes(), &archive].concat()).await.unwrap();
    let mut heard = Vec::new();
    timeout(PATIENCE, session.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert!(heard.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&heard));
}
