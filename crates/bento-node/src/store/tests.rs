//! What the store promises.

use std::time::{Duration, SystemTime};

use bento_proto::{InvocationToken, SealKey, ShutdownToken};

use super::*;

fn key(n: u8) -> SealKey {
    SealKey::of(&InvocationToken::from_random([n; 32]))
}

fn add(registry: &Registry, n: u8) -> Record {
    let new = New {
        invocation: InvocationToken::from_random([n; 32]).digest(),
        shutdown: ShutdownToken::from_random([n; 32]).digest(),
        ends: SystemTime::now() + Duration::from_secs(3600),
        storage: 1 << 20,
        keep_awake: n % 2 == 1,
        key: &key(n),
        head: b"the head",
    };
    registry.add(new).unwrap()
}

fn get(store: &Store, name: &str) -> Result<Vec<u8>, StoreError> {
    let mut reader = store.reader(name, 0, None)?;
    let mut all = Vec::new();
    while let Some(piece) = reader.piece()? {
        all.extend_from_slice(&piece);
    }
    assert_eq!(all.len() as u64, reader.size());
    Ok(all)
}

#[test]
fn what_was_put_is_there_after_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let big: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    let registry = Registry::open(state.path()).unwrap();
    let record = add(&registry, 1);
    {
        let store = registry.vault(record.id, &key(1), 1 << 20).unwrap().space(Space::Function);
        store.put("small", b"one").unwrap();
        store.put("big", &big).unwrap();
        let mut writer = store.writer("small", Mode::Append).unwrap();
        writer.write(&big).unwrap();
        assert!(matches!(store.writer("small", Mode::Append), Err(StoreError::Busy)));
        assert_eq!(writer.commit().unwrap(), 300_003);
    }
    drop(registry);
    let registry = Registry::open(state.path()).unwrap();
    assert_eq!(registry.all().unwrap(), std::slice::from_ref(&record));
    assert_eq!(registry.head(record.id, &key(1)).unwrap(), b"the head");
    assert!(matches!(registry.head(record.id, &key(2)), Err(StoreError::Damaged { .. })));
    assert_eq!(registry.own_key(record.id).unwrap(), Some(key(1)));
    let store = registry.vault(record.id, &key(1), 1 << 20).unwrap().space(Space::Function);
    assert_eq!(get(&store, "big").unwrap(), big);
    assert_eq!(get(&store, "small").unwrap(), [b"one", big.as_slice()].concat());
    assert_eq!(store.list("", None, 10).unwrap(), (vec![("big".into(), 300_000), ("small".into(), 300_003)], false));
    assert!(store.delete("big").unwrap());
    assert!(!store.delete("big").unwrap());
    assert!(matches!(get(&store, "big"), Err(StoreError::Missing)));
}
