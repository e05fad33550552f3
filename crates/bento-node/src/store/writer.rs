//! Writing an object piece by piece.

use std::{fmt, fs::File, io, mem, num::NonZeroU64, os::unix::fs::FileExt, sync::Arc};

use rustix::fs::{Advice, fadvise};

use super::{
    Cause, StoreError,
    files::failed,
    object::{Key, Meta},
    seal::{self, SEALED_CHUNK, TAG, TEXT, TagBytes},
    vault::{Inner, NEW_COST},
};

/// What becomes of an object that is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// What is written takes its place.
    Put,
    /// What is written is added at its end. Without an object this is the same as a put.
    Append,
}

/// An object that is being written. Dropped before it is committed, nothing was changed.
pub struct Writer {
    inner: Arc<Inner>,
    key: Key,
    /// The object that this will be.
    meta: Meta,
    /// The object that is added to.
    base: Option<Meta>,
    tags: Vec<TagBytes>,
    /// Room for a nonce, and what does not fill a chunk yet.
    buffer: Vec<u8>,
    file: Option<File>,
    reserved: u64,
    written: u64,
    /// A piece could not be written, so it can never be whole.
    broken: bool,
    /// It is on the disk, or may be.
    kept: bool,
}

/// Chunks that the disk is handed at once while more are sealed: 2 MiB.
const AHEAD: u64 = 32;

impl fmt::Debug for Writer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Writer(…)")
    }
}

impl Writer {
    pub(super) fn open(inner: Arc<Inner>, space: u8, name: &str, mode: Mode) -> Result<Self, StoreError> {
        let key = inner.keys.name(space, name);
        let mut state = inner.state(true)?;
        if state.writing.contains(&key) {
            return Err(StoreError::Busy);
        }
        let base = match mode {
            Mode::Put => None,
            Mode::Append => inner.find(&state, &key, name)?,
        };
        let mut buffer = Vec::with_capacity(SEALED_CHUNK);
        buffer.resize(TEXT.start, 0);
        let mut file = None;
        let meta = match &base {
            Some(base) => {
                buffer.extend_from_slice(&inner.tail(&state, &key, base)?);
                if base.chunks > 0 {
                    let there = inner.file(&state, &base.object)?;
                    if there.metadata().map_err(failed("looking at the file of an object"))?.len() < base.chunks * SEALED_CHUNK as u64 {
                        return Err(StoreError::damaged("the file of an object"));
                    }
                    file = Some(there);
                }
                base.clone()
            }
            None => Meta { object: seal::random()?, chunks: 0, tail: 0, tail_tag: [0; TAG], space, name: name.into() },
        };
        let reserved = if base.is_some() { 0 } else { NEW_COST };
        state.reserve(reserved)?;
        state.writing.insert(key);
        drop(state);
        Ok(Self { inner, key, meta, base, tags: Vec::new(), buffer, file, reserved, written: 0, broken: false, kept: false })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// `Full` as soon as it would be too much, `DiskFull`. What was written before can still be committed after `Full`.
    pub fn write(&mut self, mut data: &[u8]) -> Result<(), StoreError> {
        let bytes = data.len() as u64;
        self.inner.closed().reserve(bytes)?;
        self.reserved += bytes;
        self.written += bytes;
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(TEXT.end - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            data = later;
            if self.buffer.len() == TEXT.end {
                self.flush().inspect_err(|_| self.broken = true)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let index = self.meta.chunks;
        let tag = self.inner.keys.seal_chunk(&self.meta.object, index, &mut self.buffer)?;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(self.inner.make_file(&self.meta.object)?),
        };
        file.write_all_at(&self.buffer, index * SEALED_CHUNK as u64).map_err(failed("writing the file of an object"))?;
        if index % AHEAD == AHEAD - 1 {
            // The disk may begin now, instead of when all is waited for. Advice only: it is no failure if nobody takes it.
            let length = AHEAD * SEALED_CHUNK as u64;
            let _ = fadvise(&*file, (index + 1) * SEALED_CHUNK as u64 - length, NonZeroU64::new(length), Advice::DontNeed);
        }
        self.tags.push(tag);
        self.meta.chunks += 1;
        self.buffer.truncate(TEXT.start);
        Ok(())
    }

    /// How many bytes were added.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes the object be. It is on the disk when this returns; the answer is its whole length.
    ///
    /// # Errors
    /// When it could not be; then nothing was changed.
    pub fn commit(mut self) -> Result<u64, StoreError> {
        let inner = self.inner.clone();
        if self.broken {
            return Err(StoreError::System("going on after an error", Cause::File(io::ErrorKind::InvalidInput.into())));
        }
        let sealed = inner.seal_tail(&mut self.meta, &self.buffer[TEXT.start..])?;
        if let Some(file) = self.file.as_ref().filter(|_| !self.tags.is_empty()) {
            inner.sync(file, self.base.as_ref().is_none_or(|base| base.chunks == 0))?;
        }
        let mut state = inner.state(true)?;
        let old = match &self.base {
            Some(base) => Some(base.clone()),
            None => inner.find(&state, &self.key, &self.meta.name)?,
        };
        let done = inner.replace(&mut state, &self.key, old.as_ref(), Some((&self.meta, &sealed, &self.tags)));
        // If it is unknown whether it came to be, its chunks stay until the store is opened again.
        self.kept = done.is_ok() || state.unsure();
        done?;
        state.reserved -= mem::take(&mut self.reserved);
        if self.base.is_none() {
            inner.drop_file(&state, old.as_ref());
        }
        Ok(self.meta.bytes())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.inner.closed();
        state.writing.remove(&self.key);
        state.reserved -= self.reserved;
        if self.kept || self.tags.is_empty() && self.file.is_none() {
            return;
        }
        // What cannot be taken back is when the store is next opened.
        match (&self.file, &self.base) {
            (Some(file), Some(base)) if base.chunks > 0 => drop(file.set_len(base.chunks * SEALED_CHUNK as u64)),
            _ => self.inner.drop_file(&state, Some(&Meta { chunks: 1, ..self.meta.clone() })),
        }
    }
}
