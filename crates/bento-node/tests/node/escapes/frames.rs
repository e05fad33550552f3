//! The socket to the node: frames that are none, frames that lie, too much of everything, descriptors the wrong way.

use crate::support::{Node, POLICY, installed, installed_at};

const HELLO: &str = "def hello(api):\n    api.output.write(b'x')\n";

/// Bombs end the function that throws them, and its neighbour does not notice.
#[tokio::test]
async fn frame_bombs_hit_only_who_throws_them() {
    let code = r#"
import os, socket, time

def bomb(api, kind):
    node = socket.socket(fileno=os.dup(3))
    bombs = {
        'long': lambda: b' ' * 65537,
        'longest': lambda: b'{"call": 1, "name": "' + b'x' * 150_000 + b'"}',
        'deep': lambda: b'{"call": 1, "name": "log", "arguments": {"text": ' + b'[' * 30_000 + b']' * 30_000 + b'}}',
        'empty': lambda: b'',
        'binary': lambda: bytes(range(256)) * 100,
        'number': lambda: b'{"call": 1e999, "name": "log"}',
        'twice': lambda: b'{"loaded": {"methods": []}}',
        'stranger': lambda: b'{"done": 999, "outcome": "returned"}',
    }
    try:
        node.send(bombs[kind]())
    except OSError:
        pass  # The node, or the kernel, did not even take it.
    time.sleep(20)
    api.output.write(b'still here')
"#;
    let neighbour = installed("", HELLO).await;
    for kind in ["long", "longest", "deep", "empty", "binary", "number", "twice", "stranger"] {
        let function = installed("invocations = 2", code).await;
        let answer = function.invoke("bomb", &format!(r#"{{"kind": "{kind}"}}"#)).await;
        // What the kernel takes, the node answers with the end of the process; what it does not take never came.
        if answer.status == 200 {
            assert_eq!((kind, &answer.body[..]), ("longest", b"still here".as_slice()));
        } else {
            assert_eq!(answer.code(), "function-failed", "{kind}: {:?}", answer.body);
        }
        assert_eq!(neighbour.invoke("hello", "{}").await.body, "x", "{kind}");
        function.end().await;
    }
}

/// Calls without an end and answers that nobody reads: the function is held, not its neighbour.
#[tokio::test]
async fn a_flood_of_calls_does_not_drown_the_neighbour() {
    let code = r#"
import os, socket

def flood(api):
    node = socket.socket(fileno=os.dup(3))
    frame = b'{"call": 1, "name": "log", "arguments": {"text": "' + b'x' * 900 + b'"}}'
    while True:
        node.send(frame)
"#;
    let node = Node::start(POLICY, "");
    let flooder = installed_at(node.address, "cpu = '3 s'", code).await;
    let neighbour = installed_at(node.address, "", HELLO).await;
    let flooding = flooder.invoke("flood", "{}");
    let living = async {
        for _ in 0..20 {
            let answer = tokio::time::timeout(std::time::Duration::from_secs(20), neighbour.invoke("hello", "{}")).await;
            assert_eq!(answer.expect("the neighbour waits").body, "x");
        }
    };
    // It ends by its own bound of CPU time, if not before.
    let (flooded, ()) = tokio::join!(flooding, living);
    assert_ne!(flooded.status, 200, "{:?}", flooded.body);
    assert!(resident_kib(node.pid()) < 256 * 1024, "the node keeps what it was flooded with");
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap()
}

/// Calls whose answers wait because nobody reads them: the node keeps some, not all that come.
#[tokio::test]
async fn answers_that_nobody_reads_do_not_fill_the_node() {
    // Its own C library, called with Python's lock held, so that the runtime's thread never reads.
    let code = r#"
import ctypes, sys, time

def flood(api, name):
    sys.setswitchinterval(1e6)
    send = ctypes.PyDLL(None).send
    frame = b'{"call": 1, "name": "%s", "arguments": {"text": "%s"}}' % (name.encode(), b'x' * 16000)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        send(3, frame, len(frame), 0x4000 | 0x40)
"#;
    let node = Node::start(POLICY, "");
    let neighbour = installed_at(node.address, "", HELLO).await;
    for name in ["tor.controller", "nodes.outcome", "tor.circuit", "store.list", "log"] {
        let flooder = installed_at(node.address, "cpu = '20 s'", code).await;
        let (arguments, answer) = (format!(r#"{{"name": "{name}"}}"#), neighbour.invoke("hello", "{}"));
        let flooding = flooder.invoke("flood", &arguments);
        let (_, answer) = tokio::join!(flooding, answer);
        assert_eq!(answer.body, "x");
        assert!(resident_kib(node.pid()) < 128 * 1024, "the node keeps what nobody reads: {name}");
        flooder.end().await;
    }
}

#[tokio::test]
async fn a_forged_call_is_judged_like_any_other() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let code = r#"
import json, os, socket

def forge(api, port):
    # Past the runtime, so that its manners do not count. Its answer comes to the runtime, which knows of no such call.
    node = socket.socket(fileno=os.dup(3))
    for invocation in 1, 2, 999, None:
        for host in '127.0.0.1', 'localhost', '::ffff:127.0.0.1':
            node.send(json.dumps({'call': 1 << 40, 'invocation': invocation, 'name': 'net.connect', 'arguments': {'host': host, 'port': port}}).encode())
    for name in 'net.listen', 'node.shutdown', 'policy.set', '../log', '':
        node.send(json.dumps({'call': 1 << 41, 'name': name, 'arguments': {}}).encode())
    api.log('an honest call')
    api.output.write(b'tried')
"#;
    let function = installed("", code).await;
    assert_eq!(function.invoke("forge", &format!(r#"{{"port": {port}}}"#)).await.body, "tried");
    let reached = tokio::time::timeout(std::time::Duration::from_millis(300), listener.accept()).await;
    assert!(reached.is_err(), "a forged call was answered with a connection");
    // With the same words, and a grant, it works.
    let granted = installed(
        &format!("calls = ['net.connect']\nconnect = ['accept 127.0.0.1:{port}']"),
        "def ask(api, port):\n    api.connect('127.0.0.1', port).close()\n    api.output.write(b'y')\n",
    )
    .await;
    assert_eq!(granted.invoke("ask", &format!(r#"{{"port": {port}}}"#)).await.body, "y");
    listener.accept().await.unwrap();
}

/// Neither does the kernel let a function send any, nor does the node have room to receive them (the test of `link` has that).
#[tokio::test]
async fn no_descriptor_is_handed_back_to_the_node() {
    let code = r#"
import ctypes, os, socket

libc = ctypes.CDLL(None, use_errno=True)

def hand(api):
    node = socket.socket(fileno=os.dup(3))
    output = socket.socket(fileno=os.dup(api.output.fileno()))
    refused = 0
    for channel in node, output:
        for _ in range(50):
            try:
                socket.send_fds(channel, [b'{}'], [0, 1, 2])
            except OSError as error:
                refused += error.errno == 1
    # Raw, by number: sendmsg and sendmmsg with a header that says there are two descriptors.
    space = (ctypes.c_char * 24).from_buffer_copy((24).to_bytes(8, 'little') + (1).to_bytes(4, 'little') + (1).to_bytes(4, 'little') + bytes(8))
    byte = ctypes.create_string_buffer(b'x')
    vector = (ctypes.c_ulong * 2)(ctypes.addressof(byte), 1)
    message = (ctypes.c_ulong * 8)(0, 0, ctypes.addressof(vector), 1, ctypes.addressof(space), 24, 0, 0)
    for number, arguments in (46, (3, message, 0)), (307, (3, message, 1, 0)):
        result = libc.syscall(ctypes.c_long(number), *arguments)
        refused += result == -1 and ctypes.get_errno() == 1
    api.output.write(str(refused).encode())
"#;
    let node = Node::start(POLICY, "");
    let function = installed_at(node.address, "", code).await;
    let count = || std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
    let before = count();
    assert_eq!(function.invoke("hand", "{}").await.body, "102");
    assert!(count() < before + 20, "the node holds what it was handed");
}

#[tokio::test]
async fn the_node_leaves_nothing_open_in_its_functions() {
    let code = r#"
import os, stat

def look(api):
    kinds = []
    for number in range(256):
        try:
            status = os.fstat(number)
        except OSError:
            continue
        null = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat('/dev/null').st_rdev
        kinds.append('null' if null else 'socket' if stat.S_ISSOCK(status.st_mode) else 'other')
    api.output.write(' '.join(kinds).encode())
"#;
    let function = installed("", code).await;
    // The three usual ones, the node, and this invocation's own stream.
    assert_eq!(function.invoke("look", "{}").await.body, "null null null socket socket");
}
