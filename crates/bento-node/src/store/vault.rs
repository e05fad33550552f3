//! A function's store while it is open: its database, its limit, who writes what.

mod opening;
mod records;
mod windows;

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::Connection;

use super::{
    CHUNK, Id, OBJECT_BYTES, StoreError,
    files::{Dir, Mark},
    object::{self, Key, Meta, Root},
    reader::Reader,
    registry::{Registry, lock},
    seal::{self, Keys, TAG},
    writer::{Mode, Writer},
};

use windows::{Window, Windows};

pub(super) use windows::WINDOW;

const BASE: &str = "store.db";

/// A function's store. Cheap to clone; it is closed when the last clone, writer and reader of it is dropped.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

/// Names of one kind, apart from all others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Space {
    /// What the function stores itself.
    Function = 0,
    /// What detached invocations put out.
    Outputs = 1,
    /// What the node knows of its links.
    Links = 2,
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
    windows: Windows,
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
        lock(&self.state).close();
    }

    /// How often the store was changed, as far as it was opened.
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
    /// How often it was changed.
    pub fn changes(&self) -> u64 {
        self.0.slot.counter()
    }

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
        let mut state = self.inner.state(false)?;
        if let Some(page) = state.windows.page(self.space, prefix, after, most) {
            return Ok(page);
        }
        let mut window = Window::new(self.space, prefix, after, most.max(WINDOW));
        self.inner.each(&state, |_, _, meta| window.fill(&meta))?;
        let page = window.page(self.space, prefix, after, most).unwrap_or_default();
        state.windows.add(window);
        Ok(page)
    }

    /// How much is stored, if that is known without a look at the disk: it was open since the node was started.
    pub fn known_usage(&self) -> Option<Usage> {
        let state = self.inner.closed();
        state.root.as_ref().filter(|_| !self.inner.gone()).map(|_| Usage { used: state.used(), limit: state.limit })
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

    /// Nothing of the disk is open, or known to be as it was.
    fn close(&mut self) {
        self.base = None;
        self.windows.clear();
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
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut state = lock(&self.slot.state);
        state.users -= 1;
        if state.users == 0 {
            state.close();
            if !self.durable {
                self.registry.drop_directory(self.id);
            }
        }
    }
}

/// A new object counts this before its first byte.
pub(super) const NEW_COST: u64 = OBJECT_BYTES;
