//! Where lists of operations are tried: one machine, its bundles, its tokens, and something to connect to.

use std::sync::{Mutex, OnceLock};

use bento_proto::{InvocationToken, ShutdownToken};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::node::{Machine, Running, pack};

const POLICY: &str = "[offers]\negress = [\"direct\"]\nconnect = [\"accept 127.0.0.1:*\"]\nfunctions = 2\nfunctions_per_day = 4000000000\ncpu = \"10 min\"\n";
const NEEDS: &str = "calls = [\"net.connect\"]\nconnect = [\"accept 127.0.0.1:*\"]\ninvocations = 2";
const CODE: &str = "
import os

def echo(api):
    api.output.write(NAME)
    for chunk in api.input:
        api.output.write(chunk)

def hold(api):
    api.output.write(NAME)
    api.input.read()
    api.output.write(b'end')

def exact(api):
    api.output.length(100_000)
    api.output.write(b'x' * 100_000)

def fail(api):
    raise ValueError('no')

def late(api):
    api.output.write(b'some')
    raise ValueError('no')

def leave(api):
    os._exit(3)

def lie(api):
    import socket
    socket.socket(fileno=3).send(b'[]')
    api.input.read()

def reach(api, port):
    stream = api.connect('127.0.0.1', port)
    stream.sendall(b'ping')
    api.output.write(stream.recv(4))
    api.input.read()
";

/// What bundles there are. The last three must not be installed.
pub const BUNDLES: u8 = 5;

pub struct Place {
    pub machine: Machine,
    pub running: Mutex<Option<Running>>,
    pub bundles: Vec<Vec<u8>>,
    pub port: u16,
    pub descriptors: OnceLock<usize>,
}

pub fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let machine = Machine::new(POLICY, "stop = \"200 ms\"\nsessions = 12\nidle = \"30 s\"\nconnections = 16\nready = 0");
        let running = machine.runtime.block_on(async { Running::start(&machine).await });
        let named = |name: &str| pack(NEEDS, &format!("NAME = b'{name}'\n{CODE}"));
        let bundles = vec![
            named("0"),
            named("1"),
            pack(NEEDS, "raise SystemError\ndef echo(api): pass\n"),
            pack("memory = \"1 TiB\"", CODE),
            vec![7; 3000],
        ];
        let port = machine.runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
            let port = listener.local_addr().expect("an address").port();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        let mut word = [0; 4];
                        // Answers, and stays until the other side goes.
                        while stream.read_exact(&mut word).await.is_ok() && stream.write_all(b"pong").await.is_ok() {}
                    });
                }
            });
            port
        });
        Place { machine, running: Mutex::new(Some(running)), bundles, port, descriptors: OnceLock::new() }
    })
}

pub fn invocation(who: u8) -> InvocationToken {
    InvocationToken::from_random([1 + who % 3; 32])
}

pub fn shutdown(ender: u8) -> ShutdownToken {
    ShutdownToken::from_random([1 + ender % 3; 32])
}

/// Processes below this one, by name.
pub fn children(name: &str) -> Vec<u32> {
    let mut found = Vec::new();
    let mut left = vec![std::process::id()];
    while let Some(pid) = left.pop() {
        if std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name) {
            found.push(pid);
        }
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            left.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}
