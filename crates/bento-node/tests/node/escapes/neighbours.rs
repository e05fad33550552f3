//! One function and another, and a function and its node: nothing of one is there for the other, and nothing outlives its end.

use crate::support::{Node, POLICY, descendants, installed, installed_at, start, until};

#[tokio::test]
async fn one_function_does_not_see_anothers_scratch() {
    let code = r"
import os

def write(api, text):
    with open('/tmp/secret', 'w') as file:
        file.write(text)
    os.mkdir('/tmp/directory')

def look(api, text):
    found = []
    for top, _, names in os.walk('/'):
        if not top.startswith(('/usr', '/lib', '/packages')):
            found += [os.path.join(top, name) for name in names]
    for place in '/tmp', '/tmp/../tmp', '/var/tmp', '/dev/shm':
        try:
            found += os.listdir(place)
        except OSError:
            pass
    hits = [path for path in found if 'secret' in path]
    api.output.write(repr(hits).encode())

def read(api):
    api.output.write(open('/tmp/secret', 'rb').read())
";
    let (one, other) = (installed("", code).await, installed("", code).await);
    assert_eq!(one.invoke("write", r#"{"text": "of one"}"#).await.status, 200);
    assert_eq!(other.invoke("look", r#"{"text": "of one"}"#).await.body, "[]");
    // Its own is there from invocation to invocation, and one's own name is no way to another's.
    assert_eq!(one.invoke("read", "{}").await.body, "of one");
    assert_eq!(other.invoke("write", r#"{"text": "of the other"}"#).await.status, 200);
    assert_eq!(one.invoke("read", "{}").await.body, "of one");
}

#[tokio::test]
async fn one_function_does_not_read_anothers_memory() {
    let code = r"
import ctypes, os

kept = ctypes.create_string_buffer(b'the secret of one')

def hold(api):
    api.output.write(str(ctypes.addressof(kept)).encode())

def read(api):
    api.output.write(kept.value)

def steal(api, pids, address):
    libc = ctypes.CDLL(None, use_errno=True)
    room = ctypes.create_string_buffer(17)
    here = (ctypes.c_ulong * 2)(ctypes.addressof(room), 17)
    there = (ctypes.c_ulong * 2)(address, 17)
    for pid in [*pids, 1, 2, 3]:
        if pid != os.getpid():
            libc.syscall(ctypes.c_long(310), pid, here, ctypes.c_ulong(1), there, ctypes.c_ulong(1), ctypes.c_ulong(0))
            libc.syscall(ctypes.c_long(101), ctypes.c_long(0x4206), pid, 0, 0)
        for name in 'mem', 'maps', 'environ', 'root/tmp', 'fd/3', 'map_files':
            try:
                with open(f'/proc/{pid}/{name}', 'rb') as file:
                    file.seek(address if name == 'mem' else 0)
                    room.raw = file.read(17)
            except OSError:
                pass
    api.output.write(b'stolen' if b'secret' in room.raw else b'nothing')
";
    let node = Node::start(POLICY, "[limits]\nready = 0");
    let (one, other) = (installed_at(node.address, "", code).await, installed_at(node.address, "", code).await);
    let address = String::from_utf8(one.invoke("hold", "{}").await.body.to_vec()).unwrap();
    other.invoke("hold", "{}").await;
    let pids = descendants(node.pid(), "python3.11");
    assert_eq!(pids.len(), 2);
    let stolen = other.invoke("steal", &format!(r#"{{"pids": {pids:?}, "address": {address}}}"#)).await;
    assert_eq!(stolen.body, "nothing");
    assert_eq!(one.invoke("read", "{}").await.body, "the secret of one");
}

/// The node's environment and command line are not the function's, nor is the function's code in any command line.
#[tokio::test]
async fn arguments_and_environment_tell_neither_side_of_the_other() {
    let code = r"
import os, sys

def look(api, needle):
    text = repr((dict(os.environ), sys.orig_argv, sys.argv, sys.path, sys.flags))
    hits = [word for word in ('BENTOD_LOG', 'bentod', needle, 'CARGO', 'state', 'policy.toml', 'bento-invoke-', 'bento-shutdown-') if word in text]
    api.output.write(repr((hits, sorted(os.environ))).encode())
";
    let node = Node::start(POLICY, "");
    let function = installed_at(node.address, "", code).await;
    let digest = function.invocation.digest().to_string();
    let answer = function.invoke("look", &format!(r#"{{"needle": "{digest}"}}"#)).await;
    assert_eq!(answer.body, "([], ['HOME', 'LANG', 'MALLOC_ARENA_MAX', 'PATH', 'SSL_CERT_FILE'])");
    // From outside: what any user of the machine may read of the processes says nothing of the function.
    for name in ["bento-jail", "python3.11"] {
        for pid in descendants(node.pid(), name) {
            let read = |what: &str| String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default()).into_owned();
            let told = format!("{}{}", read("cmdline"), read("environ"));
            for secret in ["BENTOD_LOG", "look", "needle", digest.as_str(), function.invocation.reveal().as_str(), "test"] {
                assert!(!told.contains(secret), "{name} tells {secret}: {told}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_of_a_function_survives_its_shutdown() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let code = r"
import signal, threading, time, os

def cling(api, port):
    for number in range(1, 65):
        try:
            # No handler can be set outside the main thread, so by the system call itself.
            import ctypes
            ctypes.CDLL(None).signal(number, ctypes.c_void_p(1))
        except OSError:
            pass
    connection = api.connect('127.0.0.1', port)
    def cling():
        while True:
            try:
                os.fork()
            except OSError:
                pass
            try:
                connection.sendall(b'alive')
            except OSError:
                pass
            time.sleep(0.01)
    for _ in range(4):
        threading.Thread(target=cling).start()
    api.output.write(b'x')
    time.sleep(600)

def hello(api):
    api.output.write(b'x')
";
    let node = Node::start(POLICY, "[limits]\nready = 0");
    let needs = format!("calls = ['net.connect']\nconnect = ['accept 127.0.0.1:{port}']");
    let function = installed_at(node.address, &needs, code).await;
    let neighbour = installed_at(node.address, "", "def hello(api):\n    api.output.write(b'x')\n").await;
    assert_eq!(neighbour.invoke("hello", "{}").await.body, "x");
    let token = format!("Bearer {}", function.invocation.reveal());
    let arguments = format!(r#"{{"port": {port}}}"#);
    let clinging = start(node.address, "POST", "/v1/invoke/cling", &[("authorization", &token), ("bento-arguments", &arguments)], "").await;
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_eq!(descendants(node.pid(), "python3.11").len(), 2);
    assert_eq!(function.end().await.status, 204);
    until("its processes end", || descendants(node.pid(), "python3.11").len() == 1).await;
    until("its keeper ends", || descendants(node.pid(), "bento-jail").len() == 1).await;
    // What it had sent before may still come, but then comes the end.
    let rest = tokio::time::timeout(crate::support::PATIENCE, tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new())).await;
    assert!(rest.is_ok(), "its connection outlives it");
    drop(clinging);
    assert_eq!(function.invoke("hello", "{}").await.code(), "unknown-token");
    assert_eq!(neighbour.invoke("hello", "{}").await.body, "x");
}

/// A thread that outlives its invocation writes into nobody else's output, and asks for nothing any more.
#[tokio::test]
async fn an_invocation_that_has_ended_reaches_no_other_ones_client() {
    let code = r"
import os, threading, time

said = []

def leave(api):
    number = api.output.fileno()
    keep = os.dup(number)
    def haunt():
        for _ in range(100):
            for act in lambda: os.write(keep, b'ghost'), lambda: os.write(number, b'ghost') if os.fstat(number).st_ino == inode else None, lambda: api.output.write(b'ghost'), lambda: api.connect('127.0.0.1', 80):
                try:
                    act()
                except Exception as error:
                    said.append(type(error).__name__)
            time.sleep(0.01)
    inode = os.fstat(number).st_ino
    threading.Thread(target=haunt).start()
    api.output.write(b'left')

def next(api):
    time.sleep(0.5)
    api.output.write(b'mine')

def report(api):
    api.output.write(repr('Refused' in said).encode())
";
    let function = installed("calls = ['net.connect']\nconnect = ['accept 127.0.0.1:80']", code).await;
    let left = function.invoke("leave", "{}").await;
    assert!(left.body.starts_with(b"left") || left.body.starts_with(b"ghost"), "{:?}", left.body);
    assert_eq!(function.invoke("next", "{}").await.body, "mine");
    assert_eq!(function.invoke("report", "{}").await.body, "True");
}
