//! Whatever is changed on the disk, by chance or by somebody, is noticed and named, and nothing else is handed out.

use std::os::unix::fs::symlink;

use rusqlite::Connection;

use super::*;

const USED: Used = Used { cpu_ms: 77, traffic: 99, away: Vec::new() };

struct Scene {
    state: TempDir,
    registry: Registry,
    record: Record,
    objects: Vec<(&'static str, Vec<u8>)>,
}

/// A function that starts with the node, with objects of all kinds, and another function.
fn scene() -> Scene {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let record = add(&registry, 1);
    let other = add(&registry, 2);
    let objects = vec![("empty", vec![]), ("small", bytes(3, 100)), ("whole", bytes(4, CHUNK)), ("large", bytes(5, 2 * CHUNK + 100))];
    for (n, record) in [(1, &record), (2, &other)] {
        let store = store(&registry, record, n);
        for (name, value) in &objects {
            store.put(name, &value[..value.len() / 2]).unwrap();
            append(&store, name, &value[value.len() / 2..]).unwrap();
        }
        store.put("goes", b"goes").unwrap();
        store.delete("goes").unwrap();
        registry.set_used(record.id, &key(n), USED).unwrap();
    }
    Scene { state, registry, record, objects }
}

impl Scene {
    fn function(&self) -> PathBuf {
        self.state.path().join("functions").join(self.record.id.to_string())
    }

    /// Ends the node as it should end.
    fn end(self) -> (TempDir, Record, Vec<(&'static str, Vec<u8>)>) {
        drop(self.registry);
        (self.state, self.record, self.objects)
    }
}

/// Opens all there is. What is handed out must be right; the answer says what was damaged.
fn read_all(state: &Path, record: &Record, objects: &[(&'static str, Vec<u8>)]) -> Vec<String> {
    let mut damaged = Vec::new();
    fn note<T>(damaged: &mut Vec<String>, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(StoreError::Damaged { what }) => {
                damaged.push(what);
                None
            }
            Err(other) => panic!("not damaged, but {other:?}"),
        }
    }
    let Some(registry) = note(&mut damaged, Registry::open(state)) else { return damaged };
    let Some(all) = note(&mut damaged, registry.all()) else { return damaged };
    if !all.contains(record) {
        assert!(all.iter().all(|other| other.id != record.id && other.invocation != record.invocation));
        assert!(registry.damaged().unwrap() > 0);
        return vec!["the list".into()];
    }
    if let Some(there) = note(&mut damaged, registry.head(record.id, &key(1))) {
        assert_eq!(there, head(1));
    }
    if let Some(there) = note(&mut damaged, registry.own_key(record.id)) {
        assert_eq!(there, Some(key(1)));
    }
    if let Some(there) = note(&mut damaged, registry.used(record.id, &key(1))) {
        assert_eq!(there, USED);
    }
    let Some(vault) = note(&mut damaged, registry.vault(record.id, &key(1), LIMIT)) else { return damaged };
    let store = vault.space(Space::Function);
    if let Some((names, more)) = note(&mut damaged, store.list("", None, 10)) {
        let mut wanted: Vec<_> = objects.iter().map(|(name, value)| (String::from(*name), value.len() as u64)).collect();
        wanted.sort();
        assert_eq!((names, more), (wanted, false));
    }
    for (name, value) in objects {
        if let Some(there) = note(&mut damaged, get(&store, name)) {
            assert!(&there == value, "{name} is something else");
        }
    }
    damaged
}

/// Flips a bit at a time in each file, so often that about this many places of each are tried, and says in how many files how many of
/// them were noticed.
fn flip_all(from: &Path, record: &Record, objects: &[(&'static str, Vec<u8>)], places: usize) {
    let function = record.id.to_string();
    // Another function's files are its own matter.
    let ours = |path: &PathBuf| !path.starts_with(from.join("functions")) || path.starts_with(from.join("functions").join(&function));
    for path in files(from).into_iter().filter(ours) {
        let whole = fs::read(&path).unwrap();
        let name = path.strip_prefix(from).unwrap();
        let step = (whole.len() / places).max(1);
        let (mut noticed, mut tried) = (0, 0);
        for at in (0..whole.len()).step_by(step).map(|at| at + (at / step) % step).filter(|at| *at < whole.len()) {
            let state = directory();
            copy(from, state.path());
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(state.path().join(name), &damaged).unwrap();
            let result = std::panic::catch_unwind(|| read_all(state.path(), record, objects));
            tried += 1;
            noticed += usize::from(!result.unwrap_or_else(|_| panic!("byte {at} of {}", name.display())).is_empty());
        }
        println!("{}: {noticed} of {tried} flips noticed, the rest without effect", name.display());
        // In a database there is room that nobody uses, and pages that its log has newer.
        let base = name.extension().is_some_and(|extension| extension == "db");
        let log = name.extension().is_some_and(|extension| extension == "db-wal");
        assert!(base || log || noticed == tried, "{}: only {noticed} of {tried}", name.display());
        assert!(base || noticed > 0, "{}: none of {tried}", name.display());
    }
}

/// How many places of each file are tried: few in the common run. `BENTO_STORE_FLIPS=100000` tries each byte.
fn places() -> usize {
    std::env::var("BENTO_STORE_FLIPS").map_or(24, |number| number.parse().unwrap())
}

#[test]
fn no_flipped_bit_is_served_after_the_node_ended() {
    let (state, record, objects) = scene().end();
    assert_eq!(read_all(state.path(), &record, &objects), [] as [&str; 0]);
    assert!(files(state.path()).iter().all(|path| !path.to_string_lossy().ends_with("-wal")));
    flip_all(state.path(), &record, &objects, places());
}

#[test]
fn no_flipped_bit_is_served_after_the_node_was_killed() {
    let scene = scene();
    // Held open, so that the logs are there.
    let _open = store(&scene.registry, &scene.record, 1);
    _open.put("goes", b"").unwrap();
    _open.delete("goes").unwrap();
    let state = directory();
    copy(scene.state.path(), state.path());
    assert!(files(state.path()).iter().filter(|path| path.to_string_lossy().ends_with("-wal")).count() == 2);
    assert_eq!(read_all(state.path(), &scene.record, &scene.objects), [] as [&str; 0]);
    let killed = directory();
    copy(scene.state.path(), killed.path());
    flip_all(killed.path(), &scene.record, &scene.objects, places());
}

#[test]
fn what_was_cut_off_emptied_or_taken_away_is_noticed() {
    let (state, record, objects) = scene().end();
    let function = state.path().join("functions").join(record.id.to_string());
    for path in files(state.path()).into_iter().filter(|path| path.starts_with(&function) || path.parent() == Some(state.path())) {
        let whole = fs::read(&path).unwrap();
        let name = path.strip_prefix(state.path()).unwrap();
        for keep in [None, Some(0), Some(whole.len() / 2), Some(whole.len() - 1)] {
            let other = directory();
            copy(state.path(), other.path());
            match keep {
                None => fs::remove_file(other.path().join(name)).unwrap(),
                Some(keep) => fs::write(other.path().join(name), &whole[..keep]).unwrap(),
            }
            let damaged = read_all(other.path(), &record, &objects);
            // The last byte of a database may be of a page that nobody uses. Without it all is right, then, or it is noticed.
            let spare = keep == Some(whole.len() - 1) && name.extension().is_some_and(|extension| extension == "db");
            assert!(spare || !damaged.is_empty(), "{keep:?} of {}", name.display());
        }
    }
}

#[test]
fn a_link_or_pipe_in_place_of_a_file_is_not_followed() {
    let (state, record, objects) = scene().end();
    let function = PathBuf::from("functions").join(record.id.to_string());
    let mut names: Vec<_> = files(state.path()).iter().map(|path| path.strip_prefix(state.path()).unwrap().to_owned()).collect();
    names.retain(|name| name.starts_with(&function) || name.components().count() == 1);
    names.extend([function.join("objects"), function.clone(), "functions".into()]);
    for name in names {
        for pipe in [false, true] {
            let other = directory();
            copy(state.path(), other.path());
            let path = other.path().join(&name);
            let elsewhere = directory();
            // What the link leads to is right in every byte.
            fs::rename(&path, elsewhere.path().join("moved")).unwrap();
            if pipe {
                assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            } else {
                symlink(elsewhere.path().join("moved"), &path).unwrap();
            }
            assert!(!read_all(other.path(), &record, &objects).is_empty(), "{} {pipe}", name.display());
        }
    }
}

/// Changes a copy of what a node left, and looks.
#[track_caller]
fn tamper(what: &str, change: impl FnOnce(&Path, &Record)) -> Vec<String> {
    let (state, record, objects) = scene().end();
    change(state.path(), &record);
    let damaged = read_all(state.path(), &record, &objects);
    assert!(!damaged.is_empty(), "{what} was not noticed");
    damaged
}

fn base(state: &Path, record: &Record) -> Connection {
    Connection::open(state.join("functions").join(record.id.to_string()).join("store.db")).unwrap()
}

fn object_files(state: &Path, record: &Record) -> Vec<PathBuf> {
    files(&state.join("functions").join(record.id.to_string()).join("objects"))
}

#[test]
fn records_that_were_swapped_taken_away_or_doubled_are_noticed() {
    let change = |statement: &'static str| {
        let damaged = tamper(statement, |state, record| assert!(base(state, record).execute_batch(statement).is_ok(), "{statement}"));
        assert!(damaged.iter().all(|what| !what.contains("small")), "names are the client's");
    };
    change("DELETE FROM objects WHERE key = (SELECT min(key) FROM objects)");
    change("DELETE FROM objects");
    change("DELETE FROM chunks WHERE object = (SELECT min(object) FROM chunks)");
    change("DELETE FROM root");
    change("UPDATE objects SET meta = (SELECT meta FROM objects AS other WHERE other.key != objects.key)");
    change("UPDATE objects SET tail = (SELECT tail FROM objects AS other WHERE other.key != objects.key AND length(tail) > 0)");
    change("INSERT INTO objects SELECT zeroblob(16), meta, tail FROM objects LIMIT 1");
    change("UPDATE objects SET key = zeroblob(16) WHERE key = (SELECT max(key) FROM objects)");
    change("INSERT INTO chunks SELECT object, block + 1, tags FROM chunks LIMIT 1");
    change("UPDATE chunks SET tags = (SELECT tags FROM chunks AS other WHERE other.object != chunks.object)");
    change("DROP TABLE chunks");
    change("CREATE TRIGGER bad AFTER UPDATE ON root BEGIN DELETE FROM objects; END");
    change("CREATE TABLE more (a)");
    change(
        "CREATE TEMP TABLE t AS SELECT * FROM objects; DROP TABLE objects; CREATE VIEW objects AS SELECT key, meta, tail FROM sqlite_schema, (SELECT 1 AS key, 2 AS meta, 3 AS tail)",
    );
}

#[test]
fn a_record_that_was_put_back_to_what_it_was_is_noticed() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let record = add(&registry, 1);
    let write = |value: &[u8]| store(&registry, &record, 1).put("a", value).unwrap();
    write(b"old");
    let old: (Vec<u8>, Vec<u8>) =
        base(state.path(), &record).query_row("SELECT meta, tail FROM objects", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    write(b"new");
    assert_eq!(get(&store(&registry, &record, 1), "a").unwrap(), b"new");
    let changed = base(state.path(), &record).execute("UPDATE objects SET meta = ?, tail = ?", rusqlite::params![old.0, old.1]).unwrap();
    assert_eq!(changed, 1);
    is_damaged(get(&store(&registry, &record, 1), "a"));
    drop(registry);
    is_damaged(get(&store(&Registry::open(state.path()).unwrap(), &record, 1), "a"));
}

#[test]
fn chunks_that_were_swapped_between_places_objects_or_functions_are_noticed() {
    const ON_DISK: usize = seal::SEALED_CHUNK;
    tamper("another place", |state, record| {
        let large = object_files(state, record).into_iter().find(|path| path.metadata().unwrap().len() > ON_DISK as u64).unwrap();
        let there = fs::read(&large).unwrap();
        fs::write(&large, [&there[ON_DISK..], &there[..ON_DISK]].concat()).unwrap();
    });
    tamper("another object", |state, record| {
        let [one, other] = &object_files(state, record)[..] else { panic!("two have chunks") };
        let (first, second) = (fs::read(one).unwrap(), fs::read(other).unwrap());
        fs::write(one, [&second[..ON_DISK], &first[ON_DISK..]].concat()).unwrap();
        fs::write(other, [&first[..ON_DISK], &second[ON_DISK..]].concat()).unwrap();
    });
    let between = |what: &str| {
        tamper(what, |state, record| {
            let functions = state.join("functions");
            let mut names: Vec<_> = fs::read_dir(&functions).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort_by_key(|path| !path.ends_with(record.id.to_string()));
            let (ours, theirs) = (names[0].join(what), names[1].join(what));
            fs::rename(&ours, functions.join("x")).unwrap();
            fs::rename(&theirs, &ours).unwrap();
            fs::rename(functions.join("x"), &theirs).unwrap();
        })
    };
    for what in ["", "head", "store.db", "store.mark", "objects"] {
        between(what);
    }
}

#[test]
fn rows_of_functions_that_were_exchanged_or_changed_are_noticed() {
    let change = |statement: &'static str| {
        tamper(statement, |state, _| assert!(Connection::open(state.join("functions.db")).unwrap().execute_batch(statement).is_ok()));
    };
    for field in ["invocation", "shutdown", "wrapped", "own", "used", "proof"] {
        let statement = format!(
            "UPDATE functions SET {field} = (SELECT {field} FROM functions AS other WHERE other.id != functions.id) WHERE awake = 1"
        );
        change(statement.leak());
    }
    change("UPDATE functions SET ends = ends + 1");
    change("UPDATE functions SET storage = storage + 1");
    change("UPDATE functions SET awake = 1 - awake");
    change("UPDATE functions SET id = zeroblob(16) WHERE awake = 1");
    change("UPDATE node SET changes = changes - 1");
    change("CREATE TRIGGER bad AFTER UPDATE ON node BEGIN DELETE FROM functions; END");
}

#[test]
fn a_store_put_back_to_an_older_copy_is_noticed_while_the_node_runs() {
    let scene = scene();
    let old = directory();
    copy(&scene.function(), old.path());
    let open = || store(&scene.registry, &scene.record, 1);
    open().put("small", b"newer").unwrap();
    fs::remove_dir_all(scene.function()).unwrap();
    copy(old.path(), &scene.function());
    is_damaged(get(&open(), "small"));
    is_damaged(open().put("small", b"newest"));
    is_damaged(open().list("", None, 1));
    is_damaged(open().usage());
    fs::remove_dir_all(scene.function()).unwrap();
    is_damaged(get(&open(), "small"));
    is_damaged(scene.registry.head(scene.record.id, &key(1)));
}

#[test]
fn a_store_put_back_to_before_its_account_was_written_is_noticed_after_a_restart_too() {
    let scene = scene();
    let old = directory();
    copy(&scene.function(), old.path());
    let before = store(&scene.registry, &scene.record, 1);
    before.put("small", b"newer").unwrap();
    scene.registry.set_used(scene.record.id, &key(1), USED).unwrap();
    drop(before);
    let function = scene.function();
    let (state, record, objects) = scene.end();
    fs::remove_dir_all(&function).unwrap();
    copy(old.path(), &function);
    assert!(!read_all(state.path(), &record, &objects).is_empty());
}

#[test]
fn a_piece_of_an_append_that_was_given_up_cannot_take_the_place_of_the_one_done_again() {
    let state = directory();
    let registry = Registry::open(state.path()).unwrap();
    let record = add(&registry, 2);
    let store = store(&registry, &record, 2);
    store.put("a", &bytes(1, CHUNK)).unwrap();
    let mut given_up = store.writer("a", Mode::Append).unwrap();
    given_up.write(&bytes(2, CHUNK)).unwrap();
    let [file] = &object_files(state.path(), &record)[..] else { panic!("one object") };
    let other = fs::read(file).unwrap();
    drop(given_up);
    assert_eq!(file.metadata().unwrap().len(), seal::SEALED_CHUNK as u64);
    append(&store, "a", &bytes(3, CHUNK)).unwrap();
    assert_eq!(get(&store, "a").unwrap(), [bytes(1, CHUNK), bytes(3, CHUNK)].concat());
    fs::write(file, other).unwrap();
    is_damaged(get(&store, "a"));
    assert_eq!(part(&store, "a", 0, Some(CHUNK as u64)).unwrap(), bytes(1, CHUNK));
}
