//! A node without listeners and jails: what becomes of functions that are here.

use std::path::Path;

use bento_proto::bundle;

use super::*;
use crate::{image::Image, store::Record};

const HOUR: Duration = Duration::from_secs(3600);

/// Memory for bundles, in KiB.
const BUNDLES: usize = 8;

const MANIFEST: &str = "name = \"test\"\nmethods = [\"test\"]\n[needs]\nlifetime = \"1 h\"\n";

fn invocation(n: u8) -> InvocationToken {
    InvocationToken::from_random([n; 32])
}

fn shutdown(n: u8) -> Digest {
    ShutdownToken::from_random([n; 32]).digest()
}

/// Writes a function down, as an install does.
fn add(registry: &Registry, n: u8, ends: SystemTime) -> Record {
    let archive = bundle::pack([("manifest.toml", MANIFEST.as_bytes()), ("function.py", b"def test(api): pass")]).unwrap();
    let head = [&0_u32.to_le_bytes(), archive.as_slice()].concat();
    let (invocation, key) = (invocation(n), SealKey::of(&invocation(n)));
    let new = New {
        invocation: invocation.digest(),
        shutdown: shutdown(n),
        ends,
        lifetime: HOUR,
        storage: 0,
        keep_awake: false,
        key: &key,
        head: &head,
    };
    registry.add(new).unwrap()
}

fn node(state: &Path, registry: &Registry) -> Arc<Node> {
    let config = toml::from_str(&format!("name = \"test\"\nstate = {state:?}\n[limits]\nbundles = \"{BUNDLES} KiB\"")).unwrap();
    let image = Image { python: "/usr/bin/python3".into(), openings: vec![], has_packages: false, packages: vec![] };
    // None are made for a directory that is not there.
    let groups = Arc::new(Groups::new(Path::new("/nowhere")));
    let jail = ("/nowhere".into(), groups, Shares::new().unwrap());
    let egress = Egress::new(None, &["127.0.0.1:9".parse().unwrap()], Duration::from_secs(1)).unwrap();
    let images = Images::from([("python3".into(), Arc::new(image))]);
    Arc::new(Node::new(config, Policy::parse("[offers]\negress = [\"direct\"]").unwrap(), images, jail, egress, registry.clone()))
}

fn is_here(node: &Node, n: u8) -> bool {
    node.functions().by_invocation(invocation(n).digest()).is_ok()
}

fn is_on_disk(registry: &Registry, record: &Record) -> bool {
    registry.all().unwrap().iter().any(|other| other.id == record.id)
}

#[tokio::test]
async fn a_function_that_is_ended_while_it_is_opened_is_gone_and_its_neighbour_opens() {
    let state = tempfile::tempdir().unwrap();
    let registry = Registry::open(state.path()).unwrap();
    let ends = SystemTime::now() + HOUR;
    let (goes, stays) = (add(&registry, 1, ends), add(&registry, 2, ends));
    let node = node(state.path(), &registry);
    node.remember().await.unwrap();
    let installed = node.functions().by_invocation(goes.invocation).unwrap();
    // What is sealed is read before this is asked for, so the opening comes as far as here.
    let room = installed.room.lock().await;
    let opening = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.function(&invocation(1)).await.map(|(container, _)| container) }
    });
    let has_taken = || {
        let mut others = Archive::new(Arc::clone(&node.bundles));
        (0..BUNDLES).any(|_| others.push(&[0; 1024]).is_err())
    };
    let end = Instant::now() + Duration::from_secs(60);
    while !has_taken() {
        assert!(Instant::now() < end, "it is never opened");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    node.functions().shutdown(shutdown(1)).await.unwrap();
    assert!(!is_on_disk(&registry, &goes));
    drop(room);
    let opened = opening.await.unwrap().map(drop);
    assert!(matches!(opened, Err(StartError::Refused(Refusal::UnknownToken))), "{opened:?}");
    // Whoever else got hold of it starts nothing with it.
    let container = installed.container.get().unwrap();
    assert_eq!(container.reason(), Some(Bound::Shutdown));
    assert!(matches!(container.awake(None).await, Err(StartError::Refused(Refusal::UnknownToken))));
    let (container, _) = node.function(&invocation(2)).await.unwrap();
    assert_eq!(container.reason(), None);
    assert!(is_on_disk(&registry, &stays));
}

#[tokio::test]
async fn after_a_long_time_off_what_seems_over_waits_and_comes_back_when_the_clock_is_set() {
    let state = tempfile::tempdir().unwrap();
    let (now, at) = (SystemTime::now(), Instant::now());
    let registry = Registry::open(state.path()).unwrap();
    let (back, over, lasts) = (add(&registry, 1, now + HOUR / 2), add(&registry, 2, now + HOUR / 4), add(&registry, 3, now + 20 * HOUR));
    drop(registry);
    // By its clock the node was off for ten hours.
    let registry = Registry::open_at(state.path(), now + 10 * HOUR).unwrap();
    assert!(!registry.is_sure());
    let node = node(state.path(), &registry);
    let mut watch = node.remember_at(now + 10 * HOUR, at).await.unwrap();
    assert_eq!((is_here(&node, 1), is_here(&node, 2), is_here(&node, 3)), (false, false, true));
    assert_eq!(node.status().seem_over, 2);
    let left = |n| node.functions().by_invocation(invocation(n).digest()).unwrap().lease.left();
    // Never longer than it was granted.
    assert!(left(3) <= HOUR);
    // It is set back to what it was, and some time has passed.
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    node.look(&mut watch, now + minutes(20), at + minutes(1)).await;
    assert_eq!((is_here(&node, 1), is_here(&node, 2), node.status().seem_over), (true, false, 1));
    assert!(left(1) <= minutes(10) && left(1) > minutes(9), "{:?}", left(1));
    // What is still over after an hour is erased, and nothing else.
    node.look(&mut watch, now + minutes(78), at + minutes(59)).await;
    assert!(is_on_disk(&registry, &over) && !registry.is_sure());
    node.look(&mut watch, now + minutes(80), at + minutes(61)).await;
    assert!(registry.is_sure() && node.status().seem_over == 0);
    assert_eq!([&back, &over, &lasts].map(|record| is_on_disk(&registry, record)), [true, false, true]);
    // From now on the time is remembered: a start soon after is one of a node that knows it.
    drop((node, watch, registry));
    assert!(Registry::open_at(state.path(), now + minutes(90)).unwrap().is_sure());
}

#[tokio::test]
async fn a_clock_that_is_set_while_the_node_runs_changes_no_lease_and_what_is_written_down_follows_it() {
    let state = tempfile::tempdir().unwrap();
    let (now, at) = (SystemTime::now(), Instant::now());
    let registry = Registry::open(state.path()).unwrap();
    let record = add(&registry, 1, now + HOUR / 2);
    let node = node(state.path(), &registry);
    let mut watch = node.remember_at(now, at).await.unwrap();
    let ends = || registry.all().unwrap()[0].ends;
    let minute = Duration::from_secs(60);
    // A clock that is only a little off is left alone.
    node.look(&mut watch, now + minute + Duration::from_secs(5), at + minute).await;
    assert_eq!(ends(), record.ends);
    node.look(&mut watch, now + 24 * HOUR, at + 2 * minute).await;
    let left = node.functions().by_invocation(record.invocation).unwrap().lease.left();
    assert!(left > HOUR / 2 - minute && left <= HOUR / 2, "{left:?}");
    let written = ends().duration_since(now + 24 * HOUR).unwrap();
    assert!(written > HOUR / 2 - minute && written <= HOUR / 2, "{written:?}");
    assert!(is_here(&node, 1));
}
