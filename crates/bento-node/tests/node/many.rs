//! Two thousand functions that sleep, each with a store: what a node that is started with them needs.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use bento_node::store::{New, Registry, Space};
use bento_proto::{InvocationToken, SealKey, ShutdownToken};

use crate::support::{Installed, Node, POLICY, bundle};

const FUNCTIONS: u16 = 2000;
const OBJECTS: u16 = 20;

const CODE: &str = r#"
def names(api):
    api.output.write(" ".join(entry.name for entry in api.store.list()).encode())
"#;

fn random(n: u16, what: u8) -> [u8; 32] {
    let mut bytes = [what; 32];
    bytes[..2].copy_from_slice(&n.to_le_bytes());
    bytes
}

fn token(n: u16) -> InvocationToken {
    InvocationToken::from_random(random(n, 1))
}

fn shutdown(n: u16) -> ShutdownToken {
    ShutdownToken::from_random(random(n, 2))
}

/// What a node has written down of functions that were installed and have stored something.
fn install(state: &Path) {
    let registry = Registry::open(state).unwrap();
    let head = [&0_u32.to_le_bytes(), bundle("storage = \"1 MiB\"\ncalls = [\"store.*\"]", CODE).as_slice()].concat();
    for n in 0..FUNCTIONS {
        let key = SealKey::of(&token(n));
        let new = New {
            invocation: token(n).digest(),
            shutdown: shutdown(n).digest(),
            ends: SystemTime::now() + Duration::from_secs(500),
            lifetime: Duration::from_secs(600),
            storage: 1 << 20,
            keep_awake: false,
            key: &key,
            head: &head,
        };
        let id = registry.add(new).unwrap().id;
        let store = registry.vault(id, &key, 1 << 20).unwrap().space(Space::Function);
        for object in 0..OBJECTS {
            store.put(&format!("{object} of {n}"), &[7; 1000]).unwrap();
        }
    }
}

/// What a process has in memory of its own, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kib = |line: &str| line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    status.lines().filter(|line| line.starts_with("Private_")).filter_map(kib).sum()
}

#[tokio::test]
#[ignore = "takes minutes; `cargo test -p bento-node --test node -- many --ignored --nocapture` prints the figures"]
async fn a_node_with_two_thousand_sleeping_functions_starts_and_has_all_of_them() {
    let policy = format!("{POLICY}functions = 4000\n");
    let more = "[limits]\nready = 0\nsleep = \"100 ms\"\nstorage = \"4 GiB\"";
    let node = Node::start(&policy, more);
    let empty = (node.started_in, resident(node.pid()));
    let node = node.killed_and_filled(install);
    let full = (node.started_in, resident(node.pid()));
    println!(
        "without functions: up in {:?}, {} KiB; with {FUNCTIONS}: up in {:?}, {} KiB, {:.1} KiB each",
        empty.0,
        empty.1,
        full.0,
        full.1,
        (full.1 - empty.1) as f64 / f64::from(FUNCTIONS)
    );
    for n in (0..FUNCTIONS).step_by(97) {
        let function = Installed { address: node.address, invocation: token(n), shutdown: shutdown(n) };
        let names = function.invoke("names", "{}").await;
        assert_eq!(names.body.split(|byte| *byte == b' ').count(), 3 * usize::from(OBJECTS), "{names:?}", names = names.trailer);
        assert_eq!(function.end().await.status, 204);
        assert_eq!(function.invoke("names", "{}").await.code(), "unknown-token");
    }
    println!("after some were invoked and ended: {} KiB", resident(node.pid()));
    let gone = usize::from(FUNCTIONS.div_ceil(97));
    let left = std::fs::read_dir(node.directory.path().join("state/functions")).unwrap().count();
    assert_eq!(left, usize::from(FUNCTIONS) - gone);
}
