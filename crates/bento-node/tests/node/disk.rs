//! A node whose disk is full says so, loses nothing and leaves nothing behind; and goes on when there is room again.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use bento_proto::Outcome;

use crate::{
    detached::{name, outcome},
    support::{Installed, Node, POLICY, bundle, installed_at},
};

const PLACE: &str = "BENTO_NODE_FULL_DISK";

const NEEDS: &str = "storage = \"16 MiB\"\ninvocations = 4\ncalls = [\"store.*\"]";

const CODE: &str = r#"
def keep(api):
    api.store.put("kept", bytes(range(256)) * 1000)

def look(api):
    value = api.store.get("kept")
    api.output.write(b"whole" if value == bytes(range(256)) * 1000 else b"lost")

def add(api):
    try:
        api.store.put("more", bytes(5_000_000))
        api.output.write(b"done")
    except OSError as error:
        api.output.write(type(error).__name__.encode())

def write(api, count):
    for number in range(count):
        api.output.write(bytes([number % 251]) * 10_000)
"#;

/// What `write` puts out.
fn written(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| vec![(number % 251) as u8; 10_000]).collect()
}

#[test]
fn a_node_on_a_full_disk_says_so_and_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    // A small disk of its own, for this process and the node that it starts. A jail's user has to be one that is known there.
    let own: &[&str] =
        if rustix::process::geteuid().is_root() { &["--mount"] } else { &["--user", "--map-current-user", "--keep-caps", "--mount"] };
    let script = r#"mount -t tmpfs -o size=24m none "$0" && exec "$@""#;
    let done = Command::new("unshare")
        .args(own)
        .args(["sh", "-c", script])
        .arg(place.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "disk::on_a_small_disk", "--ignored", "--nocapture"])
        .env(PLACE, place.path())
        .env("TMPDIR", place.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
}

/// Takes all room of the disk but so much.
fn fill(file: &Path, leave: u64) {
    let mut other = File::create(file).unwrap();
    while other.write_all(&[0; 16 * 1024]).is_ok() {}
    let length = other.metadata().unwrap().len();
    other.set_len(length - leave).unwrap();
}

/// What the node has on its disk of functions: each file but the logs of databases, which come and go by themselves.
fn files(state: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![state.join("functions")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path.clone());
            }
            if !path.to_string_lossy().ends_with("-wal") && !path.to_string_lossy().ends_with("-shm") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
#[ignore = "needs the small disk that the test above makes"]
async fn on_a_small_disk() {
    let disk = PathBuf::from(std::env::var(PLACE).unwrap());
    let node = Node::start(POLICY, "");
    let state = node.directory.path().join("state");
    let mut function = installed_at(node.address, NEEDS, CODE).await;
    assert!(function.invoke("keep", "{}").await.whole);
    let before = name();
    assert_eq!(function.detach(&before, "write", "{\"count\": 50}", b"").await.status, 202);
    assert_eq!(function.output(&before, None).await.body, written(50));

    let there = files(&state);
    let other = disk.join("other");
    fill(&other, 2 << 20);
    // More than there is room for: the output is not kept, and it is said why.
    let large = name();
    assert_eq!(function.detach(&large, "write", "{\"count\": 500}", b"").await.status, 202);
    let lost = function.output(&large, None).await;
    let told = outcome(&lost);
    assert!(matches!(&told, Outcome::Failed { error, .. } if error.contains("the node's disk is full")), "{told:?}");
    assert_eq!(lost.body.len(), 0);
    assert_eq!(function.invoke("add", "{}").await.body, "Full");
    assert_eq!(files(&state), there, "what was half written is gone");
    // One for which there is room is kept next to it.
    let small = name();
    assert_eq!(function.detach(&small, "write", "{\"count\": 10}", b"").await.status, 202);
    let kept = function.output(&small, None).await;
    assert_eq!((outcome(&kept), kept.body == written(10)), (Outcome::Returned, true));

    fs::remove_file(&other).unwrap();
    let there = files(&state);
    fill(&other, 0);
    // No room for another function, which is told by a word of its own; those that are here go on.
    let another = Installed::new(node.address);
    let code = format!("{CODE}\n# {}\n", "x".repeat(500_000));
    let refused = another.install(bundle(NEEDS, &code)).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (507, "full"));
    assert!(refused.problem().detail.contains("disk is full"), "{:?}", refused.body);
    assert_eq!(files(&state), there, "nothing is left of what was not installed");
    assert_eq!(function.invoke("look", "{}").await.body, "whole");

    // With room again all of it goes: the same function, and an output as long as the one that was lost.
    fs::remove_file(&other).unwrap();
    assert_eq!(another.install(bundle(NEEDS, &code)).await.status, 201);
    assert!(another.invoke("keep", "{}").await.whole);
    assert_eq!(another.invoke("look", "{}").await.body, "whole");
    let again = name();
    assert_eq!(function.detach(&again, "write", "{\"count\": 500}", b"").await.status, 202);
    let kept = function.output(&again, None).await;
    assert_eq!((outcome(&kept), kept.body == written(500)), (Outcome::Returned, true));
    assert_eq!(function.invoke("add", "{}").await.body, "done");

    // What was acknowledged outlives the node, killed while its disk is as good as full. To start it needs some room of its own.
    fill(&other, 1 << 20);
    let node = node.killed_and_started();
    function.address = node.address;
    for (id, count) in [(&before, 50), (&small, 10), (&again, 500)] {
        let kept = function.output(id, None).await;
        assert_eq!((outcome(&kept), kept.body == written(count)), (Outcome::Returned, true), "{count}");
    }
    assert!(matches!(outcome(&function.output(&large, None).await), Outcome::Failed { error, .. } if error.contains("disk is full")));
    assert_eq!(function.invoke("look", "{}").await.body, "whole");
}
