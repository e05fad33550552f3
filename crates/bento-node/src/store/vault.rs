//! A function's store while it is open: its database, its limit, who writes what.

use std::{
    cmp::Ordering as Compared,
    collections::{BinaryHeap, HashMap, HashSet},
    fmt,
    fs::File,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use data_encoding::HEXLOWER;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{
    CHUNK, Id, OBJECT_BYTES, StoreError, base,
    files::{Dir, Mark, failed, must_be_there},
    object::{self, BLOCK, Key, Meta, Root, SCHEMA},
    reader::Reader,
    registry::{Registry, lock},
    seal::{self, Keys, SEALED_CHUNK, TAG, TagBytes},
    writer::{Mode, Writer},
};

const BASE: &str = "store.db";
const MARK: &str = "store.mark";
const OBJECTS: &str = "objects";

/// A function's store. Cheap to clone; it is closed when the last clone, writer and reader of it is dropped.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

/// Names of one kind, apart from all others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Space {
    /// What the function stores itself.
    Function,
    /// What detached invocations put out.
    Outputs,
    /// What the node knows of its links.
    Links,
}

/// The names of one space.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    space: u8,
}

/// How much is stored, in all spaces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// What counts now, that of open writers too.
    pub used: u64,
    /// How much may.
    pub limit: u64,
}

pub(super) struct Inner {
    registry: Registry,
    id: Id,
    pub(super) keys: Keys,
    slot: Arc<Slot>,
    durable: bool,
}

/// What the node remembers of a function's store, also while it is closed, until the node ends.
#[derive(Default)]
pub(super) struct Slot {
    open: Mutex<Weak<Inner>>,
    state: Mutex<State>,
    gone: AtomicBool,
}

#[derive(Default)]
pub(super) struct State {
    base: Option<Base>,
    /// The last root that was seen. What is on the disk must be this, or what the next field says.
    root: Option<Root>,
    /// The root of a change of which it is unknown whether it came to be.
    perhaps: Option<Root>,
    pub(super) writing: HashSet<Key>,
    pub(super) reserved: u64,
    limit: u64,
    users: usize,
}

struct Base {
    connection: Connection,
    objects: Dir,
    mark: Mark,
}

impl Slot {
    /// The function is no more.
    pub(super) fn end(&self) {
        self.gone.store(true, Ordering::SeqCst);
        lock(&self.state).base = None;
    }

    /// How often the store was changed.
    pub(super) fn counter(&self) -> u64 {
        lock(&self.state).root.as_ref().map_or(0, |root| root.counter)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Vault(…)")
    }
}

impl Vault {
    pub(super) fn open(registry: Registry, slot: Arc<Slot>, id: Id, keys: Keys, limit: u64, durable: bool) -> Self {
        let mut open = lock(&slot.open);
        let mut state = lock(&slot.state);
        state.limit = limit;
        if let Some(inner) = open.upgrade() {
            return Self(inner);
        }
        state.users += 1;
        drop(state);
        let inner = Arc::new(Inner { registry, id, keys, slot: slot.clone(), durable });
        *open = Arc::downgrade(&inner);
        Self(inner)
    }

    /// The names of one kind.
    pub fn space(&self, space: Space) -> Store {
        Store { inner: self.0.clone(), space: space as u8 }
    }
}

impl Store {
    /// Stores a value in place of what had this name. It is on the disk when this returns; the answer is its length.
    ///
    /// # Errors
    /// When it could not be; then nothing was changed.
    pub fn put(&self, name: &str, value: &[u8]) -> Result<u64, StoreError> {
        if value.len() >= CHUNK {
            let mut writer = self.writer(name, Mode::Put)?;
            writer.write(value)?;
            return writer.commit();
        }
        object::check(name)?;
        let inner = &self.inner;
        let key = inner.keys.name(self.space, name);
        let mut meta =
            Meta { object: seal::random()?, chunks: 0, tail: value.len() as u32, tail_tag: [0; TAG], space: self.space, name: name.into() };
        let tail = inner.seal_tail(&mut meta, value)?;
        let mut state = inner.state(true)?;
        if state.writing.contains(&key) {
            return Err(StoreError::Busy);
        }
        let old = inner.find(&state, &key, name)?;
        let (used, limit) = (state.used(), state.limit);
        if used - old.as_ref().map_or(0, Meta::cost) + meta.cost() > limit {
            return Err(StoreError::Full { limit });
        }
        inner.replace(&mut state, &key, old.as_ref(), Some((&meta, &tail, &[])))?;
        inner.drop_file(&state, old.as_ref());
        Ok(meta.bytes())
    }

    /// Begins to write an object piece by piece. Nothing is changed before it is committed.
    ///
    /// # Errors
    /// `Busy` when somebody does already.
    pub fn writer(&self, name: &str, mode: Mode) -> Result<Writer, StoreError> {
        object::check(name)?;
        Writer::open(self.inner.clone(), self.space, name, mode)
    }

    /// Reads an object, or a part of it. What is past its end is not read, and no error.
    ///
    /// # Errors
    /// `Missing`, `Damaged`.
    pub fn reader(&self, name: &str, offset: u64, length: Option<u64>) -> Result<Reader, StoreError> {
        object::check(name)?;
        Reader::open(self.inner.clone(), self.space, name, offset, length)
    }

    /// Deletes an object, and says whether there was one.
    ///
    /// # Errors
    /// `Busy` while it is being written.
    pub fn delete(&self, name: &str) -> Result<bool, StoreError> {
        object::check(name)?;
        let inner = &self.inner;
        let key = inner.keys.name(self.space, name);
        let mut state = inner.state(false)?;
        if state.writing.contains(&key) {
            return Err(StoreError::Busy);
        }
        let Some(old) = inner.find(&state, &key, name)? else { return Ok(false) };
        inner.replace(&mut state, &key, Some(&old), None)?;
        inner.drop_file(&state, Some(&old));
        Ok(true)
    }

    /// The first names that begin with `prefix` and come after `after`, in the order of their bytes, with the lengths of the objects; and
    /// whether there are more.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn list(&self, prefix: &str, after: Option<&str>, most: usize) -> Result<(Vec<(String, u64)>, bool), StoreError> {
        /// Compared by name; the greatest of those kept goes first.
        #[derive(Eq, Ord, PartialEq, PartialOrd)]
        struct Found(String, u64);
        let state = self.inner.state(false)?;
        let mut found = BinaryHeap::new();
        let mut more = false;
        self.inner.each(&state, |_, _, meta| {
            let wanted = meta.space == self.space
                && meta.name.starts_with(prefix)
                && after.is_none_or(|after| meta.name.as_str().cmp(after) == Compared::Greater);
            if wanted {
                let bytes = meta.bytes();
                found.push(Found(meta.name, bytes));
                if found.len() > most {
                    more = true;
                    found.pop();
                }
            }
        })?;
        Ok((found.into_sorted_vec().into_iter().map(|Found(name, bytes)| (name, bytes)).collect(), more))
    }

    /// How much is stored.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let state = self.inner.state(false)?;
        Ok(Usage { used: state.used(), limit: state.limit })
    }
}

impl State {
    pub(super) fn used(&self) -> u64 {
        self.root.as_ref().map_or(0, |root| root.used) + self.reserved
    }

    /// Is it unknown whether the last change came to be?
    pub(super) fn unsure(&self) -> bool {
        self.perhaps.is_some()
    }

    /// Takes room for something that is being written.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<(), StoreError> {
        match self.used().checked_add(bytes) {
            Some(used) if used <= self.limit => {
                self.reserved += bytes;
                Ok(())
            }
            _ => Err(StoreError::Full { limit: self.limit }),
        }
    }
}

impl Inner {
    /// Is the function no more?
    pub(super) fn gone(&self) -> bool {
        self.slot.gone.load(Ordering::SeqCst)
    }

    /// The state without looking at the disk.
    pub(super) fn closed(&self) -> MutexGuard<'_, State> {
        lock(&self.slot.state)
    }

    /// The state, with the database open if there is one, or made if one is needed.
    pub(super) fn state(&self, make: bool) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = lock(&self.slot.state);
        if self.gone() {
            return Err(StoreError::Missing);
        }
        if state.base.is_none() {
            self.open_base(&mut state, make)?;
        }
        Ok(state)
    }

    fn open_base(&self, state: &mut State, make: bool) -> Result<(), StoreError> {
        let floor = if self.durable { self.registry.floor(self.id, &self.keys)? } else { 0 };
        let seen = state.root.as_ref().map_or(0, |root| root.counter);
        if !make && !self.durable && state.root.is_none() {
            return Ok(());
        }
        let (dir, path) = self.registry.directory(self.id).map_err(must_be_there("a function's directory"))?;
        if !dir.has(BASE).map_err(failed("looking for a store"))? {
            if floor > 0 || seen > 0 {
                return Err(StoreError::damaged(BASE));
            }
            if !make {
                return Ok(());
            }
        }
        let (base, root) = self.read_base(&dir, path.join(BASE), floor == 0 && seen == 0)?;
        match &state.root {
            Some(known) if *known != root && state.perhaps.as_ref() != Some(&root) => return Err(StoreError::damaged(BASE)),
            None if root.counter < floor => return Err(StoreError::damaged(BASE)),
            _ => {}
        }
        let files = self.verify(&base.connection, &root)?;
        if state.writing.is_empty() {
            self.clear(&base.objects, &files)?;
        }
        if floor == 0 && self.durable {
            self.registry.set_floor(self.id, &self.keys, root.counter)?;
        }
        state.root = Some(root);
        state.perhaps = None;
        state.base = Some(base);
        Ok(())
    }

    /// Opens the files of a store, and makes what is missing where it may be `new`.
    fn read_base(&self, dir: &Dir, path: PathBuf, new: bool) -> Result<(Base, Root), StoreError> {
        let broken = base::failed(BASE);
        let making = failed("making a store");
        let objects = if new { dir.make(OBJECTS) } else { dir.dir(OBJECTS) }.map_err(must_be_there("objects/"))?;
        if new && !dir.has(BASE).map_err(&making)? {
            dir.create(BASE).map_err(&making)?;
            if self.durable {
                dir.sync().map_err(&making)?;
            }
        }
        dir.file(BASE).map_err(must_be_there(BASE))?;
        let mut connection = base::open(&path, self.durable).map_err(&broken)?;
        if new && base::has_schema(&connection, &[]).map_err(&broken)? {
            let transaction = connection.transaction().map_err(&broken)?;
            for table in SCHEMA {
                transaction.execute(table, []).map_err(&broken)?;
            }
            let first = Root::empty(1);
            transaction.execute("INSERT INTO root VALUES (0, ?)", [first.seal(&self.keys)?]).map_err(&broken)?;
            transaction.commit().map_err(&broken)?;
        }
        if !base::has_schema(&connection, SCHEMA).map_err(&broken)? {
            return Err(StoreError::damaged(BASE));
        }
        let sealed: Vec<u8> = connection.query_row("SELECT sealed FROM root", [], |row| row.get(0)).map_err(&broken)?;
        let root = Root::open(&self.keys, &sealed)?;
        let mark = match Mark::read(dir, MARK, &self.keys)? {
            Some((mark, seen)) if seen <= root.counter => mark,
            None if new => Mark::make(dir, MARK, &self.keys, root.counter)?,
            _ => return Err(StoreError::damaged(BASE)),
        };
        Ok((Base { connection, objects, mark }, root))
    }

    /// Compares all records with the root. The answer says which files there must be, and how many chunks are in each.
    fn verify(&self, base: &Connection, root: &Root) -> Result<HashMap<String, u64>, StoreError> {
        let broken = base::failed(BASE);
        let mut sum = Root::empty(root.counter);
        let mut files = HashMap::new();
        each(base, &self.keys, |key, sealed, meta| {
            sum.add(&self.keys, key, sealed, &meta);
            if meta.chunks > 0 {
                files.insert(HEXLOWER.encode(&meta.object), meta.chunks);
            }
        })?;
        let mut statement = base.prepare_cached("SELECT object, block, tags FROM chunks").map_err(&broken)?;
        let mut rows = statement.query([]).map_err(&broken)?;
        while let Some(row) = rows.next().map_err(&broken)? {
            let (object, block, tags): (Vec<u8>, i64, Vec<u8>) =
                row.try_into().or_else(|_: rusqlite::Error| Err(StoreError::damaged("the records of chunks")))?;
            sum.add_tags(&self.keys, &object, block as u64, &tags);
        }
        if sum == *root { Ok(files) } else { Err(StoreError::damaged("the set of all records")) }
    }

    /// Removes what was written and never committed.
    fn clear(&self, objects: &Dir, files: &HashMap<String, u64>) -> Result<(), StoreError> {
        let clearing = failed("clearing a store");
        for name in objects.names().map_err(&clearing)? {
            let Some(chunks) = files.get(&name) else {
                objects.remove_all(&name).map_err(&clearing)?;
                continue;
            };
            let Ok(file) = objects.file(&name) else { continue };
            let length = chunks * SEALED_CHUNK as u64;
            if file.metadata().map_err(&clearing)?.len() > length {
                file.set_len(length).map_err(&clearing)?;
            }
        }
        Ok(())
    }

    /// Hands each object's record over.
    fn each(&self, state: &State, take: impl FnMut(&Key, &[u8], Meta)) -> Result<(), StoreError> {
        state.base.as_ref().map_or(Ok(()), |base| each(&base.connection, &self.keys, take))
    }

    /// The object of a name.
    pub(super) fn find(&self, state: &State, key: &Key, name: &str) -> Result<Option<Meta>, StoreError> {
        let Some(base) = &state.base else { return Ok(None) };
        let Some(sealed) = record(&base.connection, key)? else { return Ok(None) };
        let meta = Meta::open(&self.keys, key, &sealed)?;
        if meta.name == name { Ok(Some(meta)) } else { Err(StoreError::damaged("the record of an object")) }
    }

    /// Seals what does not fill a chunk, and notes it in the object's record.
    pub(super) fn seal_tail(&self, meta: &mut Meta, text: &[u8]) -> Result<Vec<u8>, StoreError> {
        meta.tail = text.len() as u32;
        meta.tail_tag = [0; TAG];
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let sealed = self.keys.seal("tail", &[&meta.object], text)?;
        meta.tail_tag = seal::tag_of(&sealed).unwrap_or_default();
        Ok(sealed)
    }

    /// What does not fill a chunk.
    pub(super) fn tail(&self, state: &State, key: &Key, meta: &Meta) -> Result<Vec<u8>, StoreError> {
        if meta.tail == 0 {
            return Ok(Vec::new());
        }
        let damaged = || StoreError::damaged("the end of an object");
        let base = state.base.as_ref().ok_or(StoreError::Missing)?;
        let sealed: Vec<u8> = base
            .connection
            .prepare_cached("SELECT tail FROM objects WHERE key = ?")
            .and_then(|mut statement| statement.query_row([key], |row| row.get(0)))
            .map_err(base::failed(BASE))?;
        if seal::tag_of(&sealed) != Some(meta.tail_tag) {
            return Err(damaged());
        }
        self.keys.open("tail", &[&meta.object], &sealed).filter(|text| text.len() == meta.tail as usize).ok_or_else(damaged)
    }

    /// The tags of chunks `from..to`.
    pub(super) fn tags(&self, state: &State, object: &[u8; 16], from: u64, to: u64) -> Result<Vec<TagBytes>, StoreError> {
        let damaged = || StoreError::damaged("the records of chunks");
        let base = state.base.as_ref().ok_or(StoreError::Missing)?;
        let mut tags = Vec::with_capacity((to - from) as usize);
        for block in from / BLOCK..to.div_ceil(BLOCK) {
            let there = block_of(&base.connection, object, block)?.ok_or_else(damaged)?;
            let (there, _) = there.as_chunks::<TAG>();
            let first = block * BLOCK;
            let range = (from.max(first) - first) as usize..(to.min(first + BLOCK) - first) as usize;
            tags.extend_from_slice(there.get(range).ok_or_else(damaged)?);
        }
        Ok(tags)
    }

    /// The file of an object's chunks.
    pub(super) fn file(&self, state: &State, object: &[u8; 16]) -> Result<File, StoreError> {
        let base = state.base.as_ref().ok_or(StoreError::Missing)?;
        base.objects.file(&HEXLOWER.encode(object)).map_err(must_be_there("the file of an object"))
    }

    /// A new file for an object's chunks.
    pub(super) fn make_file(&self, object: &[u8; 16]) -> Result<File, StoreError> {
        let state = self.state(true)?;
        let base = state.base.as_ref().ok_or(StoreError::Missing)?;
        base.objects.create(&HEXLOWER.encode(object)).map_err(failed("making the file of an object"))
    }

    /// Waits until the bytes of a file, and its name if that is new, are on the disk.
    pub(super) fn sync(&self, file: &File, new: bool) -> Result<(), StoreError> {
        let writing = failed("writing the file of an object");
        if !self.durable {
            return Ok(());
        }
        file.sync_data().map_err(&writing)?;
        if new && let Some(base) = &self.state(false)?.base {
            base.objects.sync().map_err(&writing)?;
        }
        Ok(())
    }

    /// Removes the file of an object that is no more. What cannot be removed is removed when the store is next opened.
    pub(super) fn drop_file(&self, state: &State, old: Option<&Meta>) {
        if let (Some(meta), Some(base)) = (old.filter(|meta| meta.chunks > 0), &state.base) {
            let _ = base.objects.remove(&HEXLOWER.encode(&meta.object));
        }
    }

    /// Puts one object in place of another, or of none, or takes it away: record, tail, and tags of chunks that come. All or nothing.
    pub(super) fn replace(
        &self,
        state: &mut State,
        key: &Key,
        old: Option<&Meta>,
        new: Option<(&Meta, &[u8], &[TagBytes])>,
    ) -> Result<(), StoreError> {
        let broken = base::failed(BASE);
        let State { base: Some(base), root: Some(known), .. } = &mut *state else { return Err(StoreError::Missing) };
        let mut root = known.clone();
        root.counter += 1;
        let transaction = base.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&broken)?;
        if let Some(meta) = old {
            let sealed = record(&transaction, key)?.ok_or_else(|| StoreError::damaged("the record of an object"))?;
            root.take(&self.keys, key, &sealed, meta);
            // An append keeps the chunks that are there.
            if new.is_none_or(|(new, ..)| new.object != meta.object) {
                for block in 0..meta.chunks.div_ceil(BLOCK) {
                    let tags = block_of(&transaction, &meta.object, block)?.ok_or_else(|| StoreError::damaged("the records of chunks"))?;
                    root.take_tags(&self.keys, &meta.object, block, &tags);
                }
                if meta.chunks > 0 {
                    transaction.execute("DELETE FROM chunks WHERE object = ?", [meta.object]).map_err(&broken)?;
                }
            }
        }
        match new {
            Some((meta, tail, tags)) => {
                let sealed = meta.seal(&self.keys, key)?;
                root.add(&self.keys, key, &sealed, meta);
                self.add_tags(&transaction, &mut root, meta, tags)?;
                transaction
                    .prepare_cached(
                        "INSERT INTO objects VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET meta = excluded.meta, tail = excluded.tail",
                    )
                    .and_then(|mut statement| statement.execute(params![key, sealed, tail]))
                    .map_err(&broken)?;
            }
            None => drop(transaction.execute("DELETE FROM objects WHERE key = ?", [key]).map_err(&broken)?),
        }
        let sealed_root = root.seal(&self.keys)?;
        transaction
            .prepare_cached("UPDATE root SET sealed = ?")
            .and_then(|mut statement| statement.execute([&sealed_root]))
            .map_err(&broken)?;
        if let Err(error) = transaction.commit() {
            // It may or may not be there. The next who asks looks.
            state.perhaps = Some(root);
            state.base = None;
            return Err(broken(error));
        }
        base.mark.set(&self.keys, root.counter);
        state.root = Some(root);
        Ok(())
    }

    fn add_tags(&self, base: &Connection, root: &mut Root, meta: &Meta, mut tags: &[TagBytes]) -> Result<(), StoreError> {
        let mut next = meta.chunks - tags.len() as u64;
        while !tags.is_empty() {
            let (block, there) = (next / BLOCK, next % BLOCK);
            let mut record = Vec::new();
            if there > 0 {
                record = block_of(base, &meta.object, block)?.ok_or_else(|| StoreError::damaged("the records of chunks"))?;
                root.take_tags(&self.keys, &meta.object, block, &record);
            }
            let (now, later) = tags.split_at(tags.len().min((BLOCK - there) as usize));
            now.iter().for_each(|tag| record.extend_from_slice(tag));
            root.add_tags(&self.keys, &meta.object, block, &record);
            base.prepare_cached("INSERT INTO chunks VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET tags = excluded.tags")
                .and_then(|mut statement| statement.execute(params![meta.object, block as i64, record]))
                .map_err(base::failed(BASE))?;
            next += now.len() as u64;
            tags = later;
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut state = lock(&self.slot.state);
        state.users -= 1;
        if state.users == 0 {
            state.base = None;
            if !self.durable {
                self.registry.drop_directory(self.id);
            }
        }
    }
}

fn each(base: &Connection, keys: &Keys, mut take: impl FnMut(&Key, &[u8], Meta)) -> Result<(), StoreError> {
    let broken = base::failed(BASE);
    let mut statement = base.prepare_cached("SELECT key, meta FROM objects").map_err(&broken)?;
    let mut rows = statement.query([]).map_err(&broken)?;
    while let Some(row) = rows.next().map_err(&broken)? {
        let key: Key = row.get(0).map_err(&broken)?;
        let sealed = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(&broken)?;
        take(&key, sealed, Meta::open(keys, &key, sealed)?);
    }
    Ok(())
}

fn record(base: &Connection, key: &Key) -> Result<Option<Vec<u8>>, StoreError> {
    base.prepare_cached("SELECT meta FROM objects WHERE key = ?")
        .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
        .map_err(base::failed(BASE))
}

fn block_of(base: &Connection, object: &[u8; 16], block: u64) -> Result<Option<Vec<u8>>, StoreError> {
    base.prepare_cached("SELECT tags FROM chunks WHERE object = ? AND block = ?")
        .and_then(|mut statement| statement.query_row(params![object, block as i64], |row| row.get(0)).optional())
        .map_err(base::failed(BASE))
}

/// A new object counts this before its first byte.
pub(super) const NEW_COST: u64 = OBJECT_BYTES;
