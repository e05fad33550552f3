//! The store beside what it is built on: large values beside plain files, small ones beside SQLite as it is.
//!
//! For `bench/run store`. Takes a directory on the disk that is measured and a number of rounds, and writes a line for each: what was
//! done, by whom, seconds.

use std::{
    error::Error,
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use bento_node::store::{Mode, New, Registry, Space, Store};
use bento_proto::{InvocationToken, SealKey, ShutdownToken};
use rusqlite::Connection;

type Done<T = ()> = Result<T, Box<dyn Error>>;

const LARGE_BYTES: usize = 64 << 20;
const PIECE_BYTES: usize = 64 << 10;
const SMALL_BYTES: usize = 200;
const SMALL_PUTS: usize = 300;
/// Puts and gets of small values are of so many names, as a function's counters and settings are.
const NAMES: usize = 100;

fn main() -> Done {
    let mut words = std::env::args().skip(1);
    let place = PathBuf::from(words.next().ok_or("which directory?")?);
    let rounds: usize = words.next().ok_or("how many rounds?")?.parse()?;
    fs::create_dir_all(place.join("plain"))?;
    let registry = Registry::open(&place.join("state"))?;
    let token = InvocationToken::from_random([1; 32]);
    let key = SealKey::of(&token);
    let shutdown = ShutdownToken::from_random([1; 32]).digest();
    let ends = SystemTime::now() + Duration::from_secs(36_000);
    let new = New {
        invocation: token.digest(),
        shutdown,
        ends,
        lifetime: std::time::Duration::from_secs(3600),
        storage: 1 << 40,
        keep_awake: false,
        key: &key,
        head: b"head",
    };
    let store = registry.vault(registry.add(new)?.id, &key, 1 << 40)?.space(Space::Function);
    let base = sqlite(&place.join("plain/base.db"))?;
    let piece: Vec<u8> = (0..PIECE_BYTES).map(|at| (at * 7 % 251) as u8).collect();

    // One round first whose numbers are thrown away. Ours and theirs by turns, so that both see the same disk.
    for round in 0..=rounds {
        let say = |what: &str, who: &str, took: Duration| -> Done {
            if round > 0 {
                writeln!(std::io::stdout(), "{what} {who} {}", took.as_secs_f64())?;
            }
            Ok(())
        };
        let plain = place.join(format!("plain/{round}"));
        say("put", "store", time(|| put(&store, "large", &piece))?)?;
        say("put", "file", time(|| put_file(&plain, &piece))?)?;
        say("get", "store", time(|| get(&store, "large", &piece))?)?;
        say("get", "file", time(|| get_file(&plain, &piece))?)?;
        fs::remove_file(&plain)?;
        store.delete("large")?;
        say("small", "store", time(|| (0..SMALL_PUTS).try_for_each(|n| small(&store, n)))?)?;
        say("small", "sqlite", time(|| (0..SMALL_PUTS).try_for_each(|n| small_sqlite(&base, n)))?)?;
    }
    Ok(())
}

fn time(work: impl FnOnce() -> Done) -> Done<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

fn put(store: &Store, name: &str, piece: &[u8]) -> Done {
    let mut writer = store.writer(name, Mode::Put)?;
    for _ in 0..LARGE_BYTES / PIECE_BYTES {
        writer.write(piece)?;
    }
    writer.commit()?;
    Ok(())
}

/// As an atomic and durable write of a file goes: another name, sync, rename, sync of the directory.
fn put_file(path: &Path, piece: &[u8]) -> Done {
    let half = path.with_extension("new");
    let mut file = File::create_new(&half)?;
    for _ in 0..LARGE_BYTES / PIECE_BYTES {
        file.write_all(piece)?;
    }
    file.sync_all()?;
    fs::rename(&half, path)?;
    File::open(path.parent().ok_or("no directory")?)?.sync_all()?;
    Ok(())
}

fn get(store: &Store, name: &str, piece: &[u8]) -> Done {
    let mut reader = store.reader(name, 0, None)?;
    let mut bytes = 0;
    while let Some(there) = reader.piece()? {
        if there != piece {
            return Err("something else came back".into());
        }
        bytes += there.len();
    }
    if bytes == LARGE_BYTES { Ok(()) } else { Err("too little came back".into()) }
}

fn get_file(path: &Path, piece: &[u8]) -> Done {
    let mut file = File::open(path)?;
    let mut there = vec![0; PIECE_BYTES];
    for _ in 0..LARGE_BYTES / PIECE_BYTES {
        file.read_exact(&mut there)?;
        if there != piece {
            return Err("something else came back".into());
        }
    }
    Ok(())
}

fn value(n: usize) -> Vec<u8> {
    vec![(n % 251) as u8; SMALL_BYTES]
}

fn small(store: &Store, n: usize) -> Done {
    store.put(&format!("name {}", n % NAMES), &value(n))?;
    Ok(())
}

/// SQLite in the same mode as ours: a log, and each commit waits for the disk.
fn sqlite(path: &Path) -> Done<Connection> {
    let base = Connection::open(path)?;
    base.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    base.pragma_update(None, "synchronous", "FULL")?;
    base.execute_batch("CREATE TABLE objects (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID")?;
    Ok(base)
}

fn small_sqlite(base: &Connection, n: usize) -> Done {
    base.prepare_cached("INSERT INTO objects VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value")?
        .execute(rusqlite::params![format!("name {}", n % NAMES), value(n)])?;
    Ok(())
}
