//! The list of functions: who is there, until when, with which key.

use super::*;

#[test]
fn functions_are_there_after_a_restart() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    assert_eq!(registry.all().unwrap(), []);
    let mut records = vec![add(&registry, 1), add(&registry, 2), add(&registry, 3)];
    drop(registry);
    let registry = Registry::open(state.path()).unwrap();
    let mut all = registry.all().unwrap();
    all.sort_by_key(|record| record.id);
    records.sort_by_key(|record| record.id);
    assert_eq!(all, records);
    for record in &records {
        let n = if record.keep_awake { [1, 3].into_iter().find(|n| registry.head(record.id, &key(*n)).is_ok()).unwrap() } else { 2 };
        assert_eq!(registry.head(record.id, &key(n)).unwrap(), head(n));
        assert_eq!(record.head_bytes, 3000);
        assert_eq!(registry.own_key(record.id).unwrap(), (n != 2).then(|| key(n)));
        for other in (1..5).filter(|other| *other != n) {
            is_damaged(registry.head(record.id, &key(other)));
            is_damaged(registry.used(record.id, &key(other)));
            is_damaged(registry.set_used(record.id, &key(other), Used::default()));
            is_damaged(registry.vault(record.id, &key(other), LIMIT).map(drop));
        }
    }
}

#[test]
fn a_renewed_function_stays_and_one_past_its_end_does_not() {
    let state = directory();
    let now = SystemTime::now();
    let registry = Registry::open(state.path()).unwrap();
    let (stays, goes, renewed) =
        (add(&registry, 1), add_until(&registry, 2, now - Duration::from_secs(1)), add_until(&registry, 3, now - Duration::from_secs(1)));
    registry.set_used(renewed.id, &key(3), Used { cpu_ms: 5, traffic: 6, ..Used::default() }).unwrap();
    store(&registry, &renewed, 3).put("a", b"b").unwrap();
    let later = now + Duration::from_secs(60);
    registry.renew(renewed.id, later).unwrap();
    assert!(matches!(registry.renew(Id([0; 16]), later), Err(StoreError::Missing)));
    drop(registry);
    let registry = Registry::open(state.path()).unwrap();
    let mut there: Vec<_> = registry.all().unwrap().iter().map(|record| record.id).collect();
    there.sort();
    let mut wanted = vec![stays.id, renewed.id];
    wanted.sort();
    assert_eq!(there, wanted);
    assert!(matches!(registry.head(goes.id, &key(2)), Err(StoreError::Missing)));
    assert!(!state.path().join("functions").join(goes.id.to_string()).exists());
    let ends = registry.all().unwrap().iter().find(|record| record.id == renewed.id).unwrap().ends;
    assert!(later.duration_since(ends).unwrap() < Duration::from_millis(1));
    assert_eq!(registry.used(renewed.id, &key(3)).unwrap(), Used { cpu_ms: 5, traffic: 6, ..Used::default() });
    assert_eq!(get(&store(&registry, &renewed, 3), "a").unwrap(), b"b");
}

#[test]
fn what_was_removed_is_gone_for_whoever_has_it_open_too_and_nothing_of_its_key_is_left() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let (goes, stays) = (add(&registry, 1), add(&registry, 2));
    let open = store(&registry, &goes, 1);
    open.put("a", &bytes(1, 200_000)).unwrap();
    store(&registry, &stays, 2).put("a", b"stays").unwrap();
    let mut reader = open.reader("a", 0, None).unwrap();
    let mut writer = open.writer("b", Mode::Put).unwrap();
    writer.write(&bytes(1, 100_000)).unwrap();
    let wrapped = row_of(state.path(), goes.id, "wrapped");
    let own = row_of(state.path(), goes.id, "own");
    assert!(found(state.path(), &wrapped[..20]));
    registry.remove(goes.id).unwrap();
    registry.remove(goes.id).unwrap();
    assert!(!found(state.path(), &wrapped[..20]) && !found(state.path(), &own[..20]));
    assert!(matches!(open.put("c", b""), Err(StoreError::Missing)));
    assert!(matches!(get(&open, "a"), Err(StoreError::Missing)));
    assert!(matches!(reader.piece(), Err(StoreError::Missing)));
    assert!(matches!(writer.commit(), Err(StoreError::Missing)));
    assert!(matches!(registry.vault(goes.id, &key(1), LIMIT).map(drop), Err(StoreError::Missing)));
    assert!(matches!(registry.own_key(goes.id), Err(StoreError::Missing)));
    assert!(!state.path().join("functions").join(goes.id.to_string()).exists());
    assert_eq!(registry.all().unwrap(), std::slice::from_ref(&stays));
    assert_eq!(get(&store(&registry, &stays, 2), "a").unwrap(), b"stays");
}

#[test]
fn what_a_function_has_elsewhere_is_kept_with_it_and_a_few_look_like_none() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let (record, other) = (add(&registry, 1), add(&registry, 2));
    let until = SystemTime::UNIX_EPOCH + Duration::from_millis(2_000_000_000_123);
    let mut lengths = Vec::new();
    for many in [0, 1, 16, 17, 1000] {
        let away = (0..many).map(|n| Away { place: bytes(n, 32).try_into().unwrap(), until }).collect();
        let used = Used { cpu_ms: 5, traffic: 6, away };
        registry.set_used(record.id, &key(1), used.clone()).unwrap();
        assert_eq!(registry.used(record.id, &key(1)).unwrap(), used);
        lengths.push(row_of(state.path(), record.id, "used").len());
    }
    assert!(lengths[0] == lengths[1] && lengths[1] == lengths[2] && lengths[2] < lengths[3], "{lengths:?}");
    assert_eq!(registry.used(other.id, &key(2)).unwrap(), Used::default());
}

/// A field of a row, read from a copy.
fn row_of(state: &Path, id: Id, field: &str) -> Vec<u8> {
    let other = directory();
    copy(state, other.path());
    let base = rusqlite::Connection::open(other.path().join("functions.db")).unwrap();
    base.query_row(&format!("SELECT {field} FROM functions WHERE id = ?"), [id.0], |row| row.get(0)).unwrap()
}

fn found(state: &Path, bytes: &[u8]) -> bool {
    files(state).iter().any(|path| fs::read(path).unwrap().windows(bytes.len()).any(|window| window == bytes))
}

#[test]
fn what_a_crash_left_half_made_is_cleared_away() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let record = add(&registry, 2);
    let functions = state.path().join("functions");
    store(&registry, &record, 2).put("a", &bytes(1, 100_000)).unwrap();
    drop(registry);
    fs::create_dir_all(functions.join("0123456789abcdef0123456789abcdef/objects")).unwrap();
    fs::write(functions.join("0123456789abcdef0123456789abcdef/head"), b"half").unwrap();
    fs::write(functions.join("file"), b"").unwrap();
    let objects = functions.join(record.id.to_string()).join("objects");
    fs::write(objects.join("00112233445566778899aabbccddeeff"), b"never committed").unwrap();
    let object = files(&objects).into_iter().find(|path| path.metadata().unwrap().len() > 1000).unwrap();
    let whole = fs::read(&object).unwrap();
    fs::write(&object, [whole.as_slice(), b"never committed"].concat()).unwrap();

    let registry = Registry::open(state.path()).unwrap();
    assert_eq!(fs::read_dir(&functions).unwrap().count(), 1);
    // A store that sleeps is not touched before it is opened.
    assert_eq!(files(&objects).len(), 2);
    assert_eq!(get(&store(&registry, &record, 2), "a").unwrap(), bytes(1, 100_000));
    assert_eq!(files(&objects), std::slice::from_ref(&object));
    assert_eq!(fs::read(&object).unwrap(), whole);
}

#[test]
fn functions_that_sleep_keep_no_file_open_and_those_that_store_nothing_have_none() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let records: Vec<_> = (2..40).step_by(2).map(|n| (n, add(&registry, n))).collect();
    let below = |name: &str| {
        let names = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        names.filter(|path| path.starts_with(state.path()) && path.ends_with(name)).count()
    };
    let mut open = Vec::new();
    for (n, record) in &records {
        let vault = registry.vault(record.id, &key(*n), LIMIT).unwrap();
        assert_eq!(vault.space(Space::Function).list("", None, 1).unwrap().0, []);
        assert!(!vault.space(Space::Function).delete("a").unwrap());
        registry.set_used(record.id, &key(*n), Used { cpu_ms: 1, traffic: 1, ..Used::default() }).unwrap();
        open.push(vault);
    }
    assert!(files(state.path()).iter().all(|path| !path.ends_with("store.db")));
    open[0].space(Space::Function).put("a", b"").unwrap();
    assert_eq!(below("store.db"), 1);
    drop(open);
    assert_eq!(below("store.db"), 0);
    assert_eq!(registry.used(records[0].1.id, &key(2)).unwrap(), Used { cpu_ms: 1, traffic: 1, ..Used::default() });
}

#[test]
fn a_head_that_is_too_long_is_refused_and_leaves_nothing() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let mut new = New {
        invocation: InvocationToken::from_random([1; 32]).digest(),
        shutdown: ShutdownToken::from_random([1; 32]).digest(),
        ends: SystemTime::now() + Duration::from_secs(60),
        lifetime: Duration::from_secs(3600),
        storage: LIMIT,
        keep_awake: false,
        key: &key(1),
        head: &vec![7; HEAD_BYTES_MAX + 1],
    };
    assert!(matches!(registry.add(New { ..new }), Err(StoreError::Full { .. })));
    assert_eq!(registry.all().unwrap(), []);
    new.head = &new.head[1..];
    let record = registry.add(new).unwrap();
    assert_eq!(registry.head(record.id, &key(1)).unwrap().len(), HEAD_BYTES_MAX);
}

#[test]
fn a_damaged_row_keeps_its_own_directory_and_no_leftovers_of_others() {
    // A name that is right, one that is another, and one that is none.
    for (damage, has_its_name) in [("proof = zeroblob(32)", true), ("id = zeroblob(16)", false), ("id = zeroblob(15)", false)] {
        let state = directory();
        let registry = Registry::open(state.path()).unwrap();
        let (damaged, stays, over) = (add(&registry, 1), add(&registry, 2), add_until(&registry, 4, SystemTime::now()));
        drop(registry);
        let functions = state.path().join("functions");
        let base = rusqlite::Connection::open(state.path().join("functions.db")).unwrap();
        assert_eq!(base.execute(&format!("UPDATE functions SET {damage} WHERE id = ?"), [damaged.id.0]).unwrap(), 1);
        drop(base);
        // What a temporary store left, and what was half installed.
        fs::create_dir_all(functions.join("0123456789abcdef0123456789abcdef/objects")).unwrap();
        fs::create_dir_all(functions.join("fedcba9876543210fedcba9876543210")).unwrap();
        fs::write(functions.join("fedcba9876543210fedcba9876543210/head"), b"half").unwrap();
        fs::write(functions.join("file"), b"").unwrap();

        let registry = Registry::open(state.path()).unwrap();
        assert_eq!(registry.all().unwrap(), std::slice::from_ref(&stays), "{damage}");
        assert_eq!(registry.damaged().unwrap(), 1);
        let mut left: Vec<_> = fs::read_dir(&functions).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let mut wanted = vec![damaged.id.to_string(), stays.id.to_string()];
        // It may be the damaged one's.
        wanted.extend((!has_its_name).then(|| "fedcba9876543210fedcba9876543210".into()));
        wanted.sort();
        assert_eq!(left, wanted, "{damage}");
        assert!(matches!(registry.head(over.id, &key(4)), Err(StoreError::Missing)));
        assert_eq!(registry.head(stays.id, &key(2)).unwrap(), head(2));
    }
}

#[test]
fn one_function_that_cannot_be_removed_holds_up_no_other() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let (stuck, stays) = (add_until(&registry, 1, SystemTime::now()), add(&registry, 2));
    let over = add_until(&registry, 4, SystemTime::now());
    drop(registry);
    // A directory that something is mounted on cannot be removed.
    let functions = state.path().join("functions");
    let place = functions.join(stuck.id.to_string());
    let script = r#"mount -t tmpfs none "$0" && exec "$@""#;
    let done = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(&place)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::functions::with_a_directory_that_stays", "--ignored", "--nocapture"])
        .env("BENTO_STORE_STUCK", state.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(place.exists() && !functions.join(over.id.to_string()).exists() && !functions.join("left").exists());
    // And it goes when it can.
    let registry = Registry::open(state.path()).unwrap();
    assert!(!place.exists());
    assert_eq!(registry.head(stays.id, &key(2)).unwrap(), head(2));
}

#[test]
#[ignore = "needs what the test above mounts"]
fn with_a_directory_that_stays() {
    let state = PathBuf::from(std::env::var("BENTO_STORE_STUCK").unwrap());
    fs::write(state.join("functions/left"), b"").unwrap();
    let registry = Registry::open(&state).unwrap();
    assert_eq!(registry.all().unwrap().len(), 1);
}

#[test]
fn after_a_long_time_off_nothing_goes_for_being_over_before_the_clock_is_believed() {
    const HOUR: Duration = Duration::from_secs(3600);
    let (state, now) = (directory(), SystemTime::now());
    let open = |now| Registry::open_at(state.path(), now).unwrap();
    let links = || {
        let other = directory();
        copy(state.path(), other.path());
        let base = rusqlite::Connection::open(other.path().join("functions.db")).unwrap();
        base.query_row("SELECT count(*) FROM links", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let link = |registry: &Registry, record: &Record, n: u8, ends| {
        registry.link(NewLink { digest: [n; 32], secret: [n; 32], function: record.id, key: &key(2), ends }).unwrap();
    };
    let registry = open(now);
    assert!(registry.is_sure());
    let (soon, later, stays) =
        (add_until(&registry, 1, now + HOUR / 2), add_until(&registry, 4, now + HOUR), add_until(&registry, 2, now + 100 * HOUR));
    registry.see(now).unwrap();
    drop(registry);
    // After a short time off, what is over goes at once.
    let registry = open(now + HOUR / 2);
    assert!(registry.is_sure() && matches!(registry.head(soon.id, &key(1)), Err(StoreError::Missing)));
    registry.see(now + HOUR / 2).unwrap();
    drop(registry);
    // After a long one, or if the clock was set back, it may be wrong; and what it says then is not remembered.
    for wrong in [now + 2 * HOUR, now - 2 * HOUR, now + 2 * HOUR] {
        let registry = open(wrong);
        assert!(!registry.is_sure());
        registry.see(wrong).unwrap();
        assert_eq!(registry.head(later.id, &key(4)).unwrap(), head(4));
        assert_eq!(registry.all().unwrap().len(), 2);
    }
    let registry = open(now + 2 * HOUR);
    link(&registry, &stays, 1, now - HOUR);
    link(&registry, &stays, 2, now + HOUR);
    assert_eq!(links(), 2);
    registry.believe();
    link(&registry, &stays, 3, now + HOUR);
    assert_eq!(links(), 2);
    registry.see(now + 2 * HOUR).unwrap();
    drop(registry);
    let registry = open(now + 2 * HOUR);
    assert!(registry.is_sure());
    assert_eq!(registry.all().unwrap(), [stays]);
}

#[test]
fn a_list_of_a_node_that_did_not_remember_the_time_is_read_all_the_same() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let record = add(&registry, 2);
    drop(registry);
    let base = rusqlite::Connection::open(state.path().join("functions.db")).unwrap();
    base.execute_batch("DROP TABLE clock").unwrap();
    drop(base);
    let registry = Registry::open(state.path()).unwrap();
    assert!(!registry.is_sure());
    assert_eq!(registry.all().unwrap(), [record]);
    registry.believe();
    registry.see(SystemTime::now()).unwrap();
    drop(registry);
    assert!(Registry::open(state.path()).unwrap().is_sure());
    // Any other table that is missing is damage.
    let base = rusqlite::Connection::open(state.path().join("functions.db")).unwrap();
    base.execute_batch("DROP TABLE links").unwrap();
    drop(base);
    is_damaged(Registry::open(state.path()).map(drop));
}
