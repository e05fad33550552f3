//! Which functions a node has: `functions.db`, and a directory for each in `functions/`.
//!
//! A row holds what the node must know without anybody's key: digests of the tokens, the end, what was granted. It is checked against
//! damage under a key of the node. The function's data key is in it, wrapped; when it is gone, nothing of the function can be read.

mod rows;

use std::{
    collections::{HashMap, HashSet},
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bento_proto::{Digest, SealKey};
use data_encoding::HEXLOWER;
use rusqlite::{Connection, TransactionBehavior, params};
use zeroize::Zeroizing;

use super::{
    HEAD_BYTES_MAX, Id, StoreError, base,
    files::{Dir, Mark, failed, must_be_there},
    links,
    seal::{self, Keys},
    vault::{Slot, Vault},
};
use crate::said::say;

use rows::{COLUMNS, Kept, Sealed, WRAP, delete, from_milliseconds, granted, insert, read, row, whole};

pub(super) use rows::milliseconds;

const SCHEMA: &[&str] = &[
    "CREATE TABLE node (id INTEGER PRIMARY KEY, changes INTEGER NOT NULL) STRICT",
    "CREATE TABLE functions (id BLOB PRIMARY KEY, invocation TEXT NOT NULL, shutdown TEXT NOT NULL, ends INTEGER NOT NULL, lifetime INTEGER NOT NULL, storage INTEGER NOT NULL, head INTEGER NOT NULL, awake INTEGER NOT NULL, wrapped BLOB NOT NULL, own BLOB NOT NULL, used BLOB NOT NULL, proof BLOB NOT NULL) STRICT, WITHOUT ROWID",
    links::TABLE,
    CLOCK,
];

/// When the node last knew what time it is. Came after the others: a node of before gets it added.
const CLOCK: &str = "CREATE TABLE clock (id INTEGER PRIMARY KEY, seen INTEGER NOT NULL) STRICT";

/// Longest time off after which a node believes its clock at once. What could be wrong by a clock that leapt is then no more than this.
const OFF_MAX: Duration = Duration::from_secs(3600);

/// So much a clock may be set back without being another.
const BACK_MAX: Duration = Duration::from_secs(60);

pub(super) const BASE: &str = "functions.db";
const MARK: &str = "functions.mark";
const KEY: &str = "seal.key";
const HEAD: &str = "head";

/// All functions of a node. Cheap to clone.
#[derive(Clone)]
pub struct Registry(pub(super) Arc<Inner>);

pub(super) struct Inner {
    path: PathBuf,
    state: Dir,
    functions: Dir,
    /// The node's own key: proves rows, and seals the keys of functions that start with the node.
    keys: Keys,
    pub(super) base: Mutex<Base>,
    slots: Mutex<HashMap<Id, Arc<Slot>>>,
    /// Is the clock believed? Nothing is removed because of a time that may be wrong.
    is_sure: AtomicBool,
}

pub(super) struct Base {
    pub(super) connection: Connection,
    changes: u64,
    mark: Mark,
}

/// What is known of a function without its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Its name on this disk.
    pub id: Id,
    /// Who may invoke it.
    pub invocation: Digest,
    /// Who may end it.
    pub shutdown: Digest,
    /// When it ends, by the wall clock, to the millisecond.
    pub ends: SystemTime,
    /// How long it was granted to be here, from install or from a renewal, to the millisecond.
    pub lifetime: Duration,
    /// How much it may store.
    pub storage: u64,
    /// Bytes of its head.
    pub head_bytes: u64,
    /// Does it start with the node?
    pub keep_awake: bool,
}

/// A function that comes.
pub struct New<'a> {
    /// Who may invoke it.
    pub invocation: Digest,
    /// Who may end it.
    pub shutdown: Digest,
    /// When it ends.
    pub ends: SystemTime,
    /// How long it was granted to be here.
    pub lifetime: Duration,
    /// How much it may store.
    pub storage: u64,
    /// Does it start with the node? Then its key is kept beside it, and who has the disk can read all of it.
    pub keep_awake: bool,
    /// What it is sealed under.
    pub key: &'a SealKey,
    /// Manifest and code, as the client sent them.
    pub head: &'a [u8],
}

/// What a function has used of what it was granted for its life.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Used {
    /// CPU time.
    pub cpu_ms: u64,
    /// Bytes in and out.
    pub traffic: u64,
    /// Functions that it has on other nodes.
    pub away: Vec<Away>,
}

/// A place that a function has taken on another node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Away {
    /// Which one.
    pub place: [u8; 32],
    /// Until when at most, by the wall clock, to the millisecond.
    pub until: SystemTime,
}

impl fmt::Debug for Registry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Registry(…)")
    }
}

impl Registry {
    /// Opens what is in the node's state directory, and clears away what nobody can use: functions past their end, directories that
    /// belong to none, what was half made when the node was killed. After a long time off a function past its end is left: see
    /// [`is_sure`](Self::is_sure).
    ///
    /// # Errors
    /// When the list of functions is damaged, or the machine refuses.
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        Self::open_at(state, SystemTime::now())
    }

    /// The same, by a clock that says so.
    pub(crate) fn open_at(state: &Path, now: SystemTime) -> Result<Self, StoreError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(failed("making the state directory"))?;
        let path = fs::canonicalize(state).map_err(failed("finding the state directory"))?;
        let state = Dir::at(&path).map_err(failed("opening the state directory"))?;
        let functions = state.make("functions").map_err(must_be_there("functions/"))?;
        let keys = node_keys(&state)?;
        let (base, seen) = open_base(&path, &state, &keys, now)?;
        let is_sure = AtomicBool::new(seen <= now + BACK_MAX && now <= seen + OFF_MAX);
        let registry = Self(Arc::new(Inner { path, state, functions, keys, base: Mutex::new(base), slots: Mutex::default(), is_sure }));
        registry.clear(now)?;
        Ok(registry)
    }

    /// Was the node off for so short a time that its clock cannot have leapt far? Where it is not, nothing is removed for being past its end
    /// before [`believe`](Self::believe) was called.
    pub fn is_sure(&self) -> bool {
        self.0.is_sure.load(Ordering::Relaxed)
    }

    /// From now on the clock is right.
    pub fn believe(&self) {
        self.0.is_sure.store(true, Ordering::Relaxed);
    }

    /// Remembers what time it is, where the clock is believed.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn see(&self, now: SystemTime) -> Result<(), StoreError> {
        if !self.is_sure() {
            return Ok(());
        }
        self.change(|base| {
            let seen = base.execute("UPDATE clock SET seen = ?", [milliseconds(now) as i64]);
            seen.map(|_| ()).map_err(base::failed(BASE))
        })
    }

    /// The functions that are here. One whose row is damaged is left out, and the log says so.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn all(&self) -> Result<Vec<Record>, StoreError> {
        Ok(self.rows()?.into_iter().filter_map(Result::ok).collect())
    }

    /// How many functions there are that cannot be used, since what the node knows of them is damaged.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn damaged(&self) -> Result<usize, StoreError> {
        Ok(self.rows()?.iter().filter(|row| row.is_err()).count())
    }

    /// Adds a function. It is on the disk when this returns.
    ///
    /// # Errors
    /// When it could not be; then nothing of it is there.
    pub fn add(&self, new: New<'_>) -> Result<Record, StoreError> {
        if new.head.len() > HEAD_BYTES_MAX {
            return Err(StoreError::Full { limit: HEAD_BYTES_MAX as u64 });
        }
        let id = Id(seal::random()?);
        let ends = milliseconds(new.ends);
        let record = Record {
            id,
            invocation: new.invocation,
            shutdown: new.shutdown,
            ends: from_milliseconds(ends),
            lifetime: Duration::from_millis(whole(new.lifetime)),
            storage: new.storage,
            head_bytes: new.head.len() as u64,
            keep_awake: new.keep_awake,
        };
        let added = self.write_head(&record, &new).and_then(|data| {
            let place = granted(&record);
            let wrapped = seal::wrap(&new.key.derive(WRAP), "data key", &[&place], data.as_ref())?;
            let own = match new.keep_awake {
                true => self.0.keys.seal("own key", &[&id.0], new.key.reveal().as_bytes())?,
                false => Vec::new(),
            };
            let used = Kept { used: Used::default(), floor: 0 }.seal(&Keys::new(&data, id))?;
            self.change(|base| insert(base, &self.0.keys, &record, &wrapped, &own, &used))
        });
        if added.is_err() {
            // What is left is removed at the next start.
            let _ = self.0.functions.remove_all(&id.to_string());
        }
        added.map(|()| record)
    }

    fn write_head(&self, record: &Record, new: &New<'_>) -> Result<Zeroizing<[u8; 32]>, StoreError> {
        let writing = failed("writing a function");
        let data = Zeroizing::new(seal::random::<32>()?);
        let sealed = Keys::new(&data, record.id).seal("head", &[], new.head)?;
        let dir = self.0.functions.make(&record.id.to_string()).map_err(&writing)?;
        let file = dir.create(HEAD).map_err(&writing)?;
        file.write_all_at(&sealed, 0).map_err(&writing)?;
        file.sync_all().map_err(&writing)?;
        dir.sync().map_err(&writing)?;
        self.0.functions.sync().map_err(&writing)?;
        Ok(data)
    }

    /// What was given as a function's head.
    ///
    /// # Errors
    /// `Damaged` with another function's key, or when it is not what it was.
    pub fn head(&self, id: Id, key: &SealKey) -> Result<Vec<u8>, StoreError> {
        let keys = self.keys(id, key)?;
        let dir = self.0.functions.dir(&id.to_string()).map_err(must_be_there("a function's directory"))?;
        let file = dir.file(HEAD).map_err(must_be_there("a function's head"))?;
        let mut sealed = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, HEAD_BYTES_MAX as u64 + 64), &mut sealed).map_err(failed("reading a function"))?;
        keys.open("head", &[], &sealed).ok_or_else(|| StoreError::damaged("a function's head"))
    }

    /// Gives a function another end.
    ///
    /// # Errors
    /// When there is no such function, or it could not be written.
    pub fn renew(&self, id: Id, ends: SystemTime) -> Result<(), StoreError> {
        self.change(|base| {
            let (mut record, sealed) = row(base, &self.0.keys, id)?;
            record.ends = from_milliseconds(milliseconds(ends));
            delete(base, id)?;
            insert(base, &self.0.keys, &record, &sealed.wrapped, &sealed.own, &sealed.used)
        })
    }

    /// Removes a function and all it stored: first its key, which makes the rest unreadable, then its files. Nothing happens when it is not
    /// there.
    ///
    /// # Errors
    /// When that could not be done; it is then done at the next start, if the row was gone.
    pub fn remove(&self, id: Id) -> Result<(), StoreError> {
        let there = self.change(|base| {
            links::forget(base, id)?;
            delete(base, id)
        })?;
        if there {
            self.forget_log()?;
        }
        let slot = lock(&self.0.slots).remove(&id);
        if let Some(slot) = slot {
            slot.end();
        }
        let removing = failed("removing a function's files");
        self.0.functions.remove_all(&id.to_string()).map_err(&removing)?;
        self.0.functions.sync().map_err(&removing)
    }

    /// What a function has used.
    ///
    /// # Errors
    /// As [`Registry::head`].
    pub fn used(&self, id: Id, key: &SealKey) -> Result<Used, StoreError> {
        let (record, sealed) = row(&lock(&self.0.base).connection, &self.0.keys, id)?;
        Ok(Kept::open(&sealed.keys(&record, key)?, &sealed.used)?.used)
    }

    /// Writes what a function has used.
    ///
    /// # Errors
    /// As [`Registry::head`], or when it could not be written.
    pub fn set_used(&self, id: Id, key: &SealKey, used: Used) -> Result<(), StoreError> {
        let slot = lock(&self.0.slots).get(&id).cloned();
        let now = slot.map_or(0, |slot| slot.counter());
        self.keep(id, |record, sealed| {
            let keys = sealed.keys(record, key)?;
            let floor = Kept::open(&keys, &sealed.used)?.floor;
            // A store that has something was changed at least once; one that was only looked at stays without a floor.
            Kept { used: used.clone(), floor: if floor == 0 { 0 } else { floor.max(now) } }.seal(&keys)
        })
    }

    /// The key of a function that starts with the node.
    ///
    /// # Errors
    /// When there is no such function, or its row is damaged.
    pub fn own_key(&self, id: Id) -> Result<Option<SealKey>, StoreError> {
        let (_, sealed) = row(&lock(&self.0.base).connection, &self.0.keys, id)?;
        if sealed.own.is_empty() {
            return Ok(None);
        }
        let damaged = || StoreError::damaged("the key of a function that starts with the node");
        let text = self.0.keys.open("own key", &[&id.0], &sealed.own).map(Zeroizing::new).ok_or_else(damaged)?;
        std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).map(Some).ok_or_else(damaged)
    }

    /// A function's store. Whoever opens it while it is open gets the same. Nothing is on the disk before something is stored.
    ///
    /// # Errors
    /// When there is no such function, or it is not its key.
    pub fn vault(&self, id: Id, key: &SealKey, limit: u64) -> Result<Vault, StoreError> {
        let keys = self.keys(id, key)?;
        let slot = lock(&self.0.slots).entry(id).or_default().clone();
        Ok(Vault::open(self.clone(), slot, id, keys, limit, true))
    }

    /// A store that is removed when the last clone of it is dropped, or else when the node starts again. Its key is nowhere but in memory.
    ///
    /// # Errors
    /// When the machine has no random bytes.
    pub fn temporary(&self, limit: u64) -> Result<Vault, StoreError> {
        let id = Id(seal::random()?);
        let data = Zeroizing::new(seal::random::<32>()?);
        Ok(Vault::open(self.clone(), Arc::default(), id, Keys::new(&data, id), limit, false))
    }

    /// The directory of a function's store, made if it is not there: that of a temporary one.
    pub(super) fn directory(&self, id: Id) -> io::Result<(Dir, PathBuf)> {
        Ok((self.0.functions.make(&id.to_string())?, self.0.path.join("functions").join(id.to_string())))
    }

    /// Removes the directory of a temporary store.
    pub(super) fn drop_directory(&self, id: Id) {
        // What is left is removed at the next start.
        let _ = self.0.functions.remove_all(&id.to_string());
    }

    /// How far a function's store had come when something was last written here; 0 when it has none.
    pub(super) fn floor(&self, id: Id, keys: &Keys) -> Result<u64, StoreError> {
        let (_, sealed) = row(&lock(&self.0.base).connection, &self.0.keys, id)?;
        Ok(Kept::open(keys, &sealed.used)?.floor)
    }

    /// Remembers that a function has a store.
    pub(super) fn set_floor(&self, id: Id, keys: &Keys, floor: u64) -> Result<(), StoreError> {
        self.keep(id, |_, sealed| Kept { used: Kept::open(keys, &sealed.used)?.used, floor }.seal(keys))
    }

    fn keep(&self, id: Id, used: impl Fn(&Record, &Sealed) -> Result<Vec<u8>, StoreError>) -> Result<(), StoreError> {
        self.change(|base| {
            let (record, sealed) = row(base, &self.0.keys, id)?;
            let used = used(&record, &sealed)?;
            base.execute("UPDATE functions SET used = ? WHERE id = ?", params![used, id.0]).map_err(base::failed(BASE))?;
            Ok(())
        })
    }

    fn keys(&self, id: Id, key: &SealKey) -> Result<Keys, StoreError> {
        let (record, sealed) = row(&lock(&self.0.base).connection, &self.0.keys, id)?;
        sealed.keys(&record, key)
    }

    /// All rows. Of one that is damaged, its id at most.
    fn rows(&self) -> Result<Vec<Result<Record, Option<Id>>>, StoreError> {
        let base = lock(&self.0.base);
        let mut statement = base.connection.prepare_cached(&format!("SELECT {COLUMNS} FROM functions")).map_err(base::failed(BASE))?;
        let mut rows = statement.query([]).map_err(base::failed(BASE))?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(base::failed(BASE))? {
            all.push(read(row, &self.0.keys).map(|(record, _)| record).map_err(|_| row.get(0).ok().map(Id)));
        }
        Ok(all)
    }

    pub(super) fn change<T>(&self, work: impl Fn(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut base = lock(&self.0.base);
        match self.try_change(&mut base, &work) {
            // There may be room once the log is empty; removing a function should never fail for want of it.
            Err(StoreError::DiskFull) if base::empty_log(&base.connection).is_ok() => self.try_change(&mut base, &work),
            done => done,
        }
    }

    fn try_change<T>(&self, base: &mut Base, work: impl Fn(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let failed = base::failed(BASE);
        let Base { connection, changes, mark } = base;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        let done = work(&transaction)?;
        transaction.execute("UPDATE node SET changes = ?", [*changes as i64 + 1]).map_err(&failed)?;
        transaction.commit().map_err(&failed)?;
        *changes += 1;
        mark.set(&self.0.keys, *changes);
        Ok(done)
    }

    /// Empties the log, in which rows that were deleted may still be.
    pub(super) fn forget_log(&self) -> Result<(), StoreError> {
        let base = lock(&self.0.base);
        base::empty_log(&base.connection).map_err(base::failed(BASE))
    }

    /// Clears away what nobody can use. What cannot be removed is left for the next start, and holds nothing up.
    fn clear(&self, now: SystemTime) -> Result<(), StoreError> {
        let (mut keep, mut lost) = (HashSet::new(), 0);
        for row in self.rows()? {
            match row {
                Ok(record) if record.ends <= now && self.is_sure() => {
                    if let Err(error) = self.remove(record.id) {
                        say!(error, %error, "a function past its end could not be removed");
                    }
                }
                Ok(record) => drop(keep.insert(record.id.to_string())),
                Err(id) => {
                    let id = id.map(|id| id.to_string()).unwrap_or_default();
                    say!(warn, id, "what is kept of a function is damaged; it is left as it is, and nobody can invoke it");
                    // Where its name is what is damaged, its directory has another.
                    lost += usize::from(!self.0.functions.has(&id).unwrap_or(false));
                    keep.insert(id);
                }
            }
        }
        let clearing = failed("clearing the functions' directories");
        for name in self.0.functions.names().map_err(&clearing)? {
            // What is left of a temporary store is nobody's; a directory with a head may be that of a function whose name was lost.
            if keep.contains(&name) || (lost > 0 && self.0.functions.dir(&name).is_ok_and(|dir| dir.has(HEAD).unwrap_or(true))) {
                continue;
            }
            if let Err(error) = self.0.functions.remove_all(&name) {
                say!(warn, %error, "what is left in the functions' directory could not be removed");
            }
        }
        self.0.functions.sync().map_err(&clearing)?;
        self.0.state.sync().map_err(&clearing)
    }
}

/// The node's own key, made at its first start.
fn node_keys(state: &Dir) -> Result<Keys, StoreError> {
    let node = Id([0; 16]);
    let made = failed("making the node's key");
    if state.has(KEY).map_err(&made)? {
        let mut text = Zeroizing::new(String::new());
        let file = state.file(KEY).map_err(must_be_there(KEY))?;
        io::Read::read_to_string(&mut io::Read::take(file, 80), &mut text).map_err(|_| StoreError::damaged(KEY))?;
        let key = HEXLOWER.decode(text.as_bytes()).map(Zeroizing::new).map_err(|_| StoreError::damaged(KEY))?;
        return Ok(Keys::new(key.as_slice().try_into().map_err(|_| StoreError::damaged(KEY))?, node));
    }
    if state.has(BASE).map_err(&made)? {
        return Err(StoreError::damaged(KEY));
    }
    let key = Zeroizing::new(seal::random::<32>()?);
    let half = format!("{KEY}.new");
    state.remove(&half).map_err(&made)?;
    let file = state.create(&half).map_err(&made)?;
    file.write_all_at(Zeroizing::new(HEXLOWER.encode(key.as_ref())).as_bytes(), 0).map_err(&made)?;
    file.sync_all().map_err(&made)?;
    state.rename(&half, KEY).map_err(&made)?;
    state.sync().map_err(&made)?;
    Ok(Keys::new(&key, node))
}

/// The list of functions, and when its node last knew the time.
fn open_base(path: &Path, state: &Dir, keys: &Keys, now: SystemTime) -> Result<(Base, SystemTime), StoreError> {
    let failed_base = base::failed(BASE);
    let mark = Mark::read(state, MARK, keys)?;
    if state.has(BASE).map_err(failed("looking for functions.db"))? {
        state.file(BASE).map_err(must_be_there(BASE))?;
    } else if mark.is_some() {
        return Err(StoreError::damaged(BASE));
    } else {
        state.create(BASE).map_err(failed("making functions.db"))?;
        state.sync().map_err(failed("making functions.db"))?;
    }
    let mut connection = base::open(&path.join(BASE), true).map_err(&failed_base)?;
    if mark.is_none() && base::has_schema(&connection, &[]).map_err(&failed_base)? {
        let transaction = connection.transaction().map_err(&failed_base)?;
        for table in SCHEMA {
            transaction.execute(table, []).map_err(&failed_base)?;
        }
        transaction.execute("INSERT INTO node VALUES (0, 0)", []).map_err(&failed_base)?;
        transaction.execute("INSERT INTO clock VALUES (0, ?)", [milliseconds(now) as i64]).map_err(&failed_base)?;
        transaction.commit().map_err(&failed_base)?;
    } else if base::has_schema(&connection, &SCHEMA[..SCHEMA.len() - 1]).map_err(&failed_base)? {
        let transaction = connection.transaction().map_err(&failed_base)?;
        transaction.execute(CLOCK, []).map_err(&failed_base)?;
        transaction.execute("INSERT INTO clock VALUES (0, 0)", []).map_err(&failed_base)?;
        transaction.commit().map_err(&failed_base)?;
    }
    if !base::has_schema(&connection, SCHEMA).map_err(&failed_base)? {
        return Err(StoreError::damaged(BASE));
    }
    let changes: i64 = connection.query_row("SELECT changes FROM node", [], |row| row.get(0)).map_err(&failed_base)?;
    let changes = changes as u64;
    let seen: i64 = connection.query_row("SELECT seen FROM clock", [], |row| row.get(0)).map_err(&failed_base)?;
    let mark = match mark {
        Some((mark, seen)) if seen <= changes => mark,
        None if changes == 0 => Mark::make(state, MARK, keys, 0)?,
        // It is older than it was.
        _ => return Err(StoreError::damaged(BASE)),
    };
    Ok((Base { connection, changes, mark }, from_milliseconds(seen as u64)))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
