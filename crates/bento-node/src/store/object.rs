//! What the database knows of an object, and the sealed sum over all of it.

use super::{
    CHUNK, NAME_BYTES_MAX, OBJECT_BYTES, StoreError,
    seal::{Keys, TAG, TagBytes},
};

/// Where an object is found: a keyed hash of its space and name.
pub(super) type Key = [u8; 16];

/// The tables. A new file gets exactly these, and one that has others is not ours.
pub(super) const SCHEMA: &[&str] = &[
    "CREATE TABLE root (id INTEGER PRIMARY KEY, sealed BLOB NOT NULL) STRICT",
    "CREATE TABLE objects (key BLOB PRIMARY KEY, meta BLOB NOT NULL, tail BLOB NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE chunks (object BLOB, block INTEGER, tags BLOB NOT NULL, PRIMARY KEY (object, block)) STRICT, WITHOUT ROWID",
];

/// Tags of chunks in one record.
pub(super) const BLOCK: u64 = 64;

/// Lengths of names are not to be seen more exactly than this.
const NAME_STEP: usize = 64;

const FIXED: usize = 16 + 8 + 4 + TAG + 1 + 2;

/// One object. Never changed: a put makes a new one, an append makes a longer one of the same chunks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Meta {
    /// Names the file of its chunks, and binds them to it.
    pub(super) object: [u8; 16],
    /// How many whole chunks there are.
    pub(super) chunks: u64,
    /// Bytes after the last whole chunk; fewer than a chunk has.
    pub(super) tail: u32,
    /// The tag of exactly this tail; zeros without one.
    pub(super) tail_tag: TagBytes,
    /// Which space it is in.
    pub(super) space: u8,
    /// Its name.
    pub(super) name: String,
}

impl Meta {
    /// Bytes of the object.
    pub(super) fn bytes(&self) -> u64 {
        self.chunks * CHUNK as u64 + u64::from(self.tail)
    }

    /// What it counts.
    pub(super) fn cost(&self) -> u64 {
        self.bytes() + OBJECT_BYTES
    }

    /// Sealed for its place.
    pub(super) fn seal(&self, keys: &Keys, key: &Key) -> Result<Vec<u8>, StoreError> {
        let mut text = Vec::with_capacity(FIXED + self.name.len().next_multiple_of(NAME_STEP));
        text.extend_from_slice(&self.object);
        text.extend_from_slice(&self.chunks.to_le_bytes());
        text.extend_from_slice(&self.tail.to_le_bytes());
        text.extend_from_slice(&self.tail_tag);
        text.push(self.space);
        text.extend_from_slice(&(self.name.len() as u16).to_le_bytes());
        text.extend_from_slice(self.name.as_bytes());
        text.resize(FIXED + self.name.len().next_multiple_of(NAME_STEP), 0);
        keys.seal("object", &[key], &text)
    }

    /// The object that was sealed for this place.
    pub(super) fn open(keys: &Keys, key: &Key, sealed: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::damaged("the record of an object");
        let text = keys.open("object", &[key], sealed).ok_or_else(damaged)?;
        Self::read(&text).ok_or_else(damaged)
    }

    fn read(mut text: &[u8]) -> Option<Self> {
        let object = *take(&mut text)?;
        let chunks = u64::from_le_bytes(*take(&mut text)?);
        let tail = u32::from_le_bytes(*take(&mut text)?);
        let tail_tag = *take(&mut text)?;
        let [space] = *take(&mut text)?;
        let length = u16::from_le_bytes(*take(&mut text)?);
        let name = String::from_utf8(text.get(..length.into())?.to_vec()).ok()?;
        Some(Self { object, chunks, tail, tail_tag, space, name })
    }
}

fn take<'t, const N: usize>(text: &mut &'t [u8]) -> Option<&'t [u8; N]> {
    let (head, rest) = text.split_first_chunk()?;
    *text = rest;
    Some(head)
}

/// What stands for a whole store: how often it was changed, and a sum over all records, which does not depend on their order.
///
/// The sum is the exclusive or of keyed hashes of the records. Nobody sees it or the hashes, no two records are alike, and the number of
/// records is with it, so that no other records have the same sum.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Root {
    /// Rises with each change.
    pub(super) counter: u64,
    /// How many records there are.
    pub(super) records: u64,
    /// What all objects count together.
    pub(super) used: u64,
    sum: [u8; 32],
}

const OBJECT_LEAF: u8 = 1;
const CHUNKS_LEAF: u8 = 2;

impl Root {
    /// The root of no records, after so many changes.
    pub(super) fn empty(counter: u64) -> Self {
        Self { counter, ..Self::default() }
    }

    /// Sealed for its place.
    pub(super) fn seal(&self, keys: &Keys) -> Result<Vec<u8>, StoreError> {
        let mut text = Vec::with_capacity(56);
        for number in [self.counter, self.records, self.used] {
            text.extend_from_slice(&number.to_le_bytes());
        }
        text.extend_from_slice(&self.sum);
        keys.seal("root", &[], &text)
    }

    /// The root that was sealed.
    pub(super) fn open(keys: &Keys, sealed: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::damaged("the root of a store");
        let text = keys.open("root", &[], sealed).ok_or_else(damaged)?;
        let mut text = text.as_slice();
        let mut number = || take(&mut text).copied().map(u64::from_le_bytes);
        let (counter, records, used) = (number().ok_or_else(damaged)?, number().ok_or_else(damaged)?, number().ok_or_else(damaged)?);
        let sum = *take(&mut text).ok_or_else(damaged)?;
        Ok(Self { counter, records, used, sum })
    }

    /// An object's record comes.
    pub(super) fn add(&mut self, keys: &Keys, key: &Key, sealed: &[u8], meta: &Meta) {
        self.records = self.records.wrapping_add(1);
        self.used = self.used.wrapping_add(meta.cost());
        self.mix(keys.leaf(OBJECT_LEAF, &[key, sealed]));
    }

    /// An object's record goes.
    pub(super) fn take(&mut self, keys: &Keys, key: &Key, sealed: &[u8], meta: &Meta) {
        self.records = self.records.wrapping_sub(1);
        self.used = self.used.wrapping_sub(meta.cost());
        self.mix(keys.leaf(OBJECT_LEAF, &[key, sealed]));
    }

    /// A record of chunks' tags comes.
    pub(super) fn add_tags(&mut self, keys: &Keys, object: &[u8], block: u64, tags: &[u8]) {
        self.records = self.records.wrapping_add(1);
        self.mix(keys.leaf(CHUNKS_LEAF, &[object, &block.to_le_bytes(), tags]));
    }

    /// A record of chunks' tags goes.
    pub(super) fn take_tags(&mut self, keys: &Keys, object: &[u8], block: u64, tags: &[u8]) {
        self.records = self.records.wrapping_sub(1);
        self.mix(keys.leaf(CHUNKS_LEAF, &[object, &block.to_le_bytes(), tags]));
    }

    fn mix(&mut self, leaf: [u8; 32]) {
        self.sum.iter_mut().zip(leaf).for_each(|(sum, leaf)| *sum ^= leaf);
    }
}

/// Can an object have this name?
pub(super) fn check(name: &str) -> Result<(), StoreError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX { Err(StoreError::BadName) } else { Ok(()) }
}
