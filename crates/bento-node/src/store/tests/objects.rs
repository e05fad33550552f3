//! Objects: what is put can be read, and nothing else.

use std::{os::unix::fs::PermissionsExt, sync::Barrier, thread};

use super::{super::vault::WINDOW, *};

#[test]
fn what_was_put_and_appended_is_there_after_a_restart() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let record = add(&registry, 1);
    let big = bytes(1, 300_000);
    {
        let store = store(&registry, &record, 1);
        assert_eq!(store.put("small", b"one").unwrap(), 3);
        assert_eq!(store.put("big", &big).unwrap(), 300_000);
        assert_eq!(append(&store, "small", &big).unwrap(), 300_003);
        assert_eq!(append(&store, "new", b"as a put").unwrap(), 8);
    }
    drop(registry);
    let registry = Registry::open(state.path()).unwrap();
    let store = store(&registry, &record, 1);
    assert_eq!(get(&store, "big").unwrap(), big);
    assert_eq!(get(&store, "small").unwrap(), [b"one", big.as_slice()].concat());
    assert_eq!(get(&store, "new").unwrap(), b"as a put");
    assert!(store.delete("big").unwrap());
    assert!(!store.delete("big").unwrap());
    assert!(matches!(get(&store, "big"), Err(StoreError::Missing)));
}

#[test]
fn a_part_of_an_object_is_that_part() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let store = store(&registry, &add(&registry, 2), 2);
    let whole = bytes(2, 3 * CHUNK + 1000);
    store.put("a", &whole).unwrap();
    let places = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1, 3 * CHUNK, whole.len() - 1, whole.len(), whole.len() + 1];
    for from in places {
        for length in [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, whole.len()] {
            let wanted = &whole[from.min(whole.len())..(from + length).min(whole.len())];
            assert_eq!(part(&store, "a", from as u64, Some(length as u64)).unwrap(), wanted, "{from} {length}");
        }
        assert_eq!(part(&store, "a", from as u64, None).unwrap(), &whole[from.min(whole.len())..]);
    }
    assert_eq!(part(&store, "a", u64::MAX, Some(u64::MAX)).unwrap(), b"");
    assert_eq!(store.reader("a", 5, Some(1)).unwrap().size(), whole.len() as u64);
}

#[test]
fn names_of_512_bytes_are_names_and_longer_or_empty_ones_are_not() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let store = store(&registry, &add(&registry, 2), 2);
    let longest = "ä".repeat(NAME_BYTES_MAX / 2);
    for name in [longest.as_str(), "/", "..", "a\0b", "\n", " "] {
        store.put(name, name.as_bytes()).unwrap();
        assert_eq!(get(&store, name).unwrap(), name.as_bytes());
    }
    for name in [&format!("{longest}x"), ""] {
        assert!(matches!(store.put(name, b""), Err(StoreError::BadName)));
        assert!(matches!(store.writer(name, Mode::Append), Err(StoreError::BadName)));
        assert!(matches!(store.reader(name, 0, None), Err(StoreError::BadName)));
        assert!(matches!(store.delete(name), Err(StoreError::BadName)));
    }
}

#[test]
fn lists_are_in_order_and_go_on_where_they_ended() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let vault = registry.vault(add(&registry, 2).id, &key(2), LIMIT).unwrap();
    let store = vault.space(Space::Function);
    let mut names: Vec<String> = (0..200).map(|n| format!("{}/{n}", n % 7)).collect();
    for name in &names {
        store.put(name, name.as_bytes()).unwrap();
    }
    vault.space(Space::Outputs).put("3/elsewhere", b"").unwrap();
    names.extend((0..WINDOW + 50).map(|n| format!("more/{n:05}")));
    for name in &names[200..] {
        store.put(name, b"").unwrap();
    }
    let bytes = |name: &String| if name.starts_with("more") { 0 } else { name.len() as u64 };
    for prefix in ["", "3/", "nothing", "more/"] {
        let mut wanted: Vec<_> = names.iter().filter(|name| name.starts_with(prefix)).map(|name| (name.clone(), bytes(name))).collect();
        wanted.sort();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (page, more) = store.list(prefix, after.as_deref(), 9).unwrap();
            assert_eq!(more, found.len() + page.len() < wanted.len());
            assert!(page.len() == 9 || !more);
            after = page.last().map(|(name, _)| name.clone());
            found.extend(page);
            if !more {
                break;
            }
            // What comes meanwhile is seen, or not, but nothing else is lost or twice.
            if found.len() % 5 == 0 {
                store.put("zzz", b"").unwrap();
                store.delete("zzz").unwrap();
            }
        }
        assert_eq!(found, wanted);
    }
    // What was listed before does not hide what changed since.
    store.put("0", b"new").unwrap();
    assert_eq!(store.list("", None, 1).unwrap().0, [("0".into(), 3)]);
    store.delete("0").unwrap();
    assert_eq!(store.list("", None, 1).unwrap().0[0].0, names.iter().min().unwrap().clone());
}

#[test]
fn spaces_have_names_of_their_own_and_one_limit() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let vault = registry.vault(add(&registry, 2).id, &key(2), 2 * OBJECT_BYTES + 10).unwrap();
    let (function, outputs, links) = (vault.space(Space::Function), vault.space(Space::Outputs), vault.space(Space::Links));
    function.put("a", b"12345").unwrap();
    assert!(matches!(get(&outputs, "a"), Err(StoreError::Missing)));
    outputs.put("a", b"67890").unwrap();
    assert_eq!(get(&function, "a").unwrap(), b"12345");
    assert!(matches!(links.put("a", b""), Err(StoreError::Full { limit }) if limit == 2 * OBJECT_BYTES + 10));
    assert!(!links.delete("a").unwrap());
    assert!(outputs.delete("a").unwrap());
    links.put("a", b"12345").unwrap();
    assert_eq!(function.usage().unwrap(), Usage { used: 2 * OBJECT_BYTES + 10, limit: 2 * OBJECT_BYTES + 10 });
}

#[test]
fn what_is_written_counts_at_once_and_not_after_it_was_given_up() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let store = store(&registry, &add(&registry, 2), 2);
    let half = LIMIT as usize / 2;
    let mut one = store.writer("one", Mode::Put).unwrap();
    one.write(&bytes(1, half)).unwrap();
    let mut two = store.writer("two", Mode::Put).unwrap();
    assert!(matches!(two.write(&bytes(2, half)), Err(StoreError::Full { limit: LIMIT })));
    assert!(matches!(store.put("three", &bytes(3, half)), Err(StoreError::Full { .. })));
    drop(one);
    assert!(matches!(get(&store, "one"), Err(StoreError::Missing)));
    two.write(&bytes(2, half)).unwrap();
    assert_eq!(two.written(), half as u64);
    assert_eq!(two.commit().unwrap(), half as u64);
    assert_eq!(get(&store, "two").unwrap(), bytes(2, half));
    assert_eq!(store.usage().unwrap().used, half as u64 + OBJECT_BYTES);
    let left = files(state.path()).iter().filter(|path| path.parent().unwrap().ends_with("objects")).count();
    assert_eq!(left, 1);
}

#[test]
fn while_a_name_is_written_nobody_else_changes_it_and_everybody_reads_what_was_there() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let store = store(&registry, &add(&registry, 2), 2);
    let before = bytes(1, 2 * CHUNK + 5);
    store.put("a", &before).unwrap();
    for mode in [Mode::Append, Mode::Put] {
        let mut writer = store.writer("a", mode).unwrap();
        writer.write(&bytes(2, 2 * CHUNK)).unwrap();
        assert!(matches!(store.writer("a", Mode::Put), Err(StoreError::Busy)));
        assert!(matches!(store.put("a", b"x"), Err(StoreError::Busy)));
        assert!(matches!(store.delete("a"), Err(StoreError::Busy)));
        assert_eq!(get(&store, "a").unwrap(), before);
        store.put("b", b"another name").unwrap();
        drop(writer);
        assert_eq!(get(&store, "a").unwrap(), before);
    }
    assert_eq!(append(&store, "a", b"!").unwrap(), before.len() as u64 + 1);
}

#[test]
fn a_reader_sees_the_object_as_it_was_whatever_comes() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let store = store(&registry, &add(&registry, 2), 2);
    let old = bytes(1, 3 * CHUNK + 77);
    store.put("a", &old).unwrap();
    let changes: [&dyn Fn(); 4] = [
        &|| assert!(append(&store, "a", &bytes(9, CHUNK)).is_ok()),
        &|| assert!(store.put("a", &old).is_ok()),
        &|| assert!(store.put("a", b"short").is_ok()),
        &|| assert!(store.delete("a").is_ok()),
    ];
    for change in changes {
        let whole = get(&store, "a").unwrap();
        let mut reader = store.reader("a", 0, None).unwrap();
        let mut seen = reader.piece().unwrap().unwrap();
        change();
        while let Some(piece) = reader.piece().unwrap() {
            seen.extend(piece);
        }
        assert_eq!(seen, whole);
    }
    assert!(matches!(get(&store, "a"), Err(StoreError::Missing)));
}

#[test]
fn threads_share_one_store() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let record = add(&registry, 2);
    let vault = registry.vault(record.id, &key(2), LIMIT).unwrap();
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for n in 0..4u64 {
            let (registry, id, start) = (&registry, record.id, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..20 {
                    // Opened and closed all the time, by everybody.
                    let store = registry.vault(id, &key(2), LIMIT).unwrap().space(Space::Function);
                    let value = bytes(n * 100 + round, 40_000 + round as usize * 3000);
                    store.put(&format!("{n}"), &value).unwrap();
                    append(&store, &format!("{n}"), b"end").unwrap();
                    assert_eq!(get(&store, &format!("{n}")).unwrap(), [&value, b"end".as_slice()].concat());
                    registry.set_used(id, &key(2), Used { cpu_ms: round, traffic: n, ..Used::default() }).unwrap();
                }
            });
        }
    });
    assert_eq!(vault.space(Space::Function).list("", None, 10).unwrap().0.len(), 4);
}

#[test]
fn a_store_that_is_opened_and_closed_by_turns_loses_nothing() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let record = add(&registry, 2);
    thread::scope(|scope| {
        for n in 0..3 {
            let (registry, record) = (&registry, &record);
            scope.spawn(move || (0..30).for_each(|round| assert!(store(registry, record, 2).put(&format!("{n} {round}"), b"x").is_ok())));
        }
    });
    assert_eq!(store(&registry, &record, 2).list("", None, 100).unwrap().0.len(), 90);
}

#[test]
fn neither_names_nor_values_are_on_the_disk_and_nobody_else_may_look() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let record = add(&registry, 1);
    let store = store(&registry, &record, 1);
    let value = b"this-is-the-value".repeat(8000);
    store.put("this-is-the-name", &value).unwrap();
    store.put("this-is-the-name-too", b"this-is-the-value").unwrap();
    append(&store, "this-is-the-name", b"this-is-the-value").unwrap();
    let (revealed, text) = (key(1).reveal(), "this-is-the-");
    let secrets = [text.as_bytes(), &head(1)[..16], revealed.as_bytes()];
    assert_eq!(fs::metadata(state.path().join("functions")).unwrap().permissions().mode() & 0o777, 0o700);
    let mut open = Some(store);
    // While it is open, with its log, and after it was closed.
    for _ in 0..2 {
        for path in files(state.path()) {
            let there = fs::read(&path).unwrap();
            for secret in secrets {
                assert!(!there.windows(secret.len()).any(|window| window == secret), "{}", path.display());
            }
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
            let directory = path.parent().unwrap();
            assert!(directory == state.path() || directory.metadata().unwrap().permissions().mode() & 0o777 == 0o700);
        }
        open.take();
    }
}

#[test]
fn a_temporary_store_needs_no_disk_before_it_is_used_and_leaves_nothing() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let functions = state.path().join("functions");
    let vault = registry.temporary(LIMIT).unwrap();
    let store = vault.space(Space::Function);
    assert_eq!(store.usage().unwrap(), Usage { used: 0, limit: LIMIT });
    assert_eq!(store.list("", None, 10).unwrap(), (vec![], false));
    assert!(matches!(get(&store, "a"), Err(StoreError::Missing)));
    assert_eq!(fs::read_dir(&functions).unwrap().count(), 0);
    let value = bytes(1, 200_000);
    store.put("a", &value).unwrap();
    assert_eq!(get(&store, "a").unwrap(), value);
    drop(vault);
    assert_eq!(get(&store, "a").unwrap(), value);
    let reader = store.reader("a", 0, None).unwrap();
    drop(store);
    assert_eq!(fs::read_dir(&functions).unwrap().count(), 1);
    drop(reader);
    assert_eq!(fs::read_dir(&functions).unwrap().count(), 0);
    // One that the node had no time to remove.
    let left = registry.temporary(LIMIT).unwrap();
    left.space(Space::Function).put("a", &value).unwrap();
    std::mem::forget(left);
    let other = directory();
    copy(state.path(), other.path());
    assert_eq!(fs::read_dir(other.path().join("functions")).unwrap().count(), 1);
    drop(Registry::open(other.path()).unwrap());
    assert_eq!(fs::read_dir(other.path().join("functions")).unwrap().count(), 0);
}
