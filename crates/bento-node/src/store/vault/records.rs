//! What the database of an open store says, and how it is changed.

use std::fs::File;

use data_encoding::HEXLOWER;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{
    super::{
        StoreError, base,
        files::{failed, must_be_there},
        object::{BLOCK, Key, Meta, Root},
        seal::{self, Keys, TAG, TagBytes},
    },
    BASE, Inner, State,
};

impl Inner {
    /// Hands each object's record over.
    pub(super) fn each(&self, state: &State, take: impl FnMut(&Key, &[u8], Meta)) -> Result<(), StoreError> {
        state.base.as_ref().map_or(Ok(()), |base| each(&base.connection, &self.keys, take))
    }

    /// The object of a name.
    pub(in super::super) fn find(&self, state: &State, key: &Key, name: &str) -> Result<Option<Meta>, StoreError> {
        let Some(base) = &state.base else { return Ok(None) };
        let Some(sealed) = record(&base.connection, key)? else { return Ok(None) };
        let meta = Meta::open(&self.keys, key, &sealed)?;
        if meta.name == name { Ok(Some(meta)) } else { Err(StoreError::damaged("the record of an object")) }
    }

    /// Seals what does not fill a chunk, and notes it in the object's record.
    pub(in super::super) fn seal_tail(&self, meta: &mut Meta, text: &[u8]) -> Result<Vec<u8>, StoreError> {
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
    pub(in super::super) fn tail(&self, state: &State, key: &Key, meta: &Meta) -> Result<Vec<u8>, StoreError> {
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
    pub(in super::super) fn tags(&self, state: &State, object: &[u8; 16], from: u64, to: u64) -> Result<Vec<TagBytes>, StoreError> {
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
    pub(in super::super) fn file(&self, state: &State, object: &[u8; 16]) -> Result<File, StoreError> {
        let base = state.base.as_ref().ok_or(StoreError::Missing)?;
        base.objects.file(&HEXLOWER.encode(object)).map_err(must_be_there("the file of an object"))
    }

    /// A new file for an object's chunks.
    pub(in super::super) fn make_file(&self, object: &[u8; 16]) -> Result<File, StoreError> {
        let state = self.state(true)?;
        let base = state.base.as_ref().ok_or(StoreError::Missing)?;
        base.objects.create(&HEXLOWER.encode(object)).map_err(failed("making the file of an object"))
    }

    /// Waits until the bytes of a file, and its name if that is new, are on the disk.
    pub(in super::super) fn sync(&self, file: &File, new: bool) -> Result<(), StoreError> {
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
    pub(in super::super) fn drop_file(&self, state: &State, old: Option<&Meta>) {
        if let (Some(meta), Some(base)) = (old.filter(|meta| meta.chunks > 0), &state.base) {
            let _ = base.objects.remove(&HEXLOWER.encode(&meta.object));
        }
    }

    /// Puts one object in place of another, or of none, or takes it away: record, tail, and tags of chunks that come. All or nothing.
    pub(in super::super) fn replace(
        &self,
        state: &mut State,
        key: &Key,
        old: Option<&Meta>,
        new: Option<(&Meta, &[u8], &[TagBytes])>,
    ) -> Result<(), StoreError> {
        match self.try_replace(state, key, old, new) {
            // There may be room once the log is empty; deleting should not fail for want of it.
            Err(StoreError::DiskFull) if state.base.as_ref().is_some_and(|base| base::empty_log(&base.connection).is_ok()) => {
                self.try_replace(state, key, old, new)
            }
            done => done,
        }
    }

    fn try_replace(
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
            None => {
                transaction.execute("DELETE FROM objects WHERE key = ?", [key]).map_err(&broken)?;
                base::shrink(&transaction).map_err(&broken)?;
            }
        }
        let sealed_root = root.seal(&self.keys)?;
        transaction
            .prepare_cached("UPDATE root SET sealed = ?")
            .and_then(|mut statement| statement.execute([&sealed_root]))
            .map_err(&broken)?;
        if let Err(error) = transaction.commit() {
            let error = broken(error);
            // Without room for it, it is not there. Otherwise it may or may not be; the next who asks looks.
            if !matches!(error, StoreError::DiskFull) {
                state.perhaps = Some(root);
                state.close();
            }
            return Err(error);
        }
        base.mark.set(&self.keys, root.counter);
        state.root = Some(root);
        state.windows.change(old, new.map(|(meta, ..)| meta));
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

/// Hands each object's record over.
pub(super) fn each(base: &Connection, keys: &Keys, mut take: impl FnMut(&Key, &[u8], Meta)) -> Result<(), StoreError> {
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
