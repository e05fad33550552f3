//! A disk that is full: it is said, and nothing is lost.

use std::process::Command;

use super::*;

const PLACE: &str = "BENTO_STORE_FULL_DISK";

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    let place = directory();
    // A small disk of its own, for this process alone.
    let script = r#"mount -t tmpfs -o size=3m none "$0" && exec "$@""#;
    let done = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(place.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::disk::on_a_small_disk", "--ignored", "--nocapture"])
        .env(PLACE, place.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
#[ignore = "needs the small disk that the test above makes"]
fn on_a_small_disk() {
    let disk = PathBuf::from(std::env::var(PLACE).unwrap());
    let state = disk.join("state");
    let registry = Registry::open(&state).unwrap();
    let record = add(&registry, 2);
    let open = |registry: &Registry| registry.vault(record.id, &key(2), 1 << 30).unwrap().space(Space::Function);
    open(&registry).put("first", &bytes(0, 3 * CHUNK)).unwrap();
    let mut there = vec![("first".to_owned(), bytes(0, 3 * CHUNK))];
    let look = |store: &Store, there: &[(String, Vec<u8>)]| {
        for (name, value) in there {
            assert!(get(store, name).unwrap() == *value, "{name}");
        }
        let mut names: Vec<_> = there.iter().map(|(name, value)| (name.clone(), value.len() as u64)).collect();
        names.sort();
        assert_eq!(store.list("", None, 10_000).unwrap().0, names);
    };
    // Room that somebody else takes and gives back.
    let other = disk.join("other");
    for (round, length) in [1500, CHUNK - 1, CHUNK + 1, 300_000].into_iter().enumerate() {
        let store = open(&registry);
        fs::write(&other, vec![0; 1_200_000]).unwrap();
        let full = (0..10_000).any(|n| {
            let (name, value) = (format!("{round} {n}"), bytes((round * 1000 + n) as u64, length));
            match store.put(&name, &value) {
                Ok(_) => there.push((name, value)),
                Err(StoreError::DiskFull) => return true,
                Err(error) => panic!("{error:?}"),
            }
            false
        });
        assert!(full, "the disk is never full");
        // Whatever else is tried now fails as clearly, or is done.
        let (mut writer, long) = (store.writer("first", Mode::Append).unwrap(), bytes(1, 10 * CHUNK));
        let appended = writer.write(&long).and_then(|()| writer.commit());
        assert!(matches!(appended, Err(StoreError::DiskFull)), "{appended:?}");
        match registry.add(New {
            invocation: InvocationToken::from_random([9; 32]).digest(),
            shutdown: ShutdownToken::from_random([9; 32]).digest(),
            ends: record.ends,
            lifetime: Duration::from_secs(3600),
            storage: 1,
            keep_awake: false,
            key: &key(9),
            head: &bytes(1, 1_000_000),
        }) {
            Err(StoreError::DiskFull) => {}
            other => panic!("{other:?}"),
        }
        look(&store, &there);
        fs::remove_file(&other).unwrap();
        // With room again it goes on at once, and what there is can be deleted.
        store.put("again", b"again").unwrap();
        assert!(store.delete("again").unwrap());
        for (name, _) in there.drain(3..) {
            assert!(store.delete(&name).unwrap());
        }
        look(&store, &there);
        assert_eq!(registry.all().unwrap(), std::slice::from_ref(&record));
    }
    drop(registry);
    look(&open(&Registry::open(&state).unwrap()), &there);
}
