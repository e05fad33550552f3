//! Reading an object piece by piece.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use super::{
    CHUNK, StoreError,
    seal::{SEALED_CHUNK, TEXT, TagBytes},
    vault::Inner,
};

/// An object as it was when this was opened, whatever becomes of it meanwhile.
pub struct Reader {
    inner: Arc<Inner>,
    object: [u8; 16],
    file: Option<File>,
    /// Tags of the chunks that will be read, the first of which is this one.
    tags: Vec<TagBytes>,
    first: u64,
    /// How many whole chunks the object has.
    chunks: u64,
    tail: Vec<u8>,
    size: u64,
    at: u64,
    end: u64,
}

impl Reader {
    pub(super) fn open(inner: Arc<Inner>, space: u8, name: &str, offset: u64, length: Option<u64>) -> Result<Self, StoreError> {
        let key = inner.keys.name(space, name);
        let state = inner.state(false)?;
        let meta = inner.find(&state, &key, name)?.ok_or(StoreError::Missing)?;
        let size = meta.bytes();
        let at = offset.min(size);
        let end = length.map_or(size, |length| at.saturating_add(length).min(size));
        let whole = CHUNK as u64;
        let first = at / whole;
        let last = if end > at { end.div_ceil(whole).min(meta.chunks) } else { first };
        let chunked = first < last;
        let file = if chunked { Some(inner.file(&state, &meta.object)?) } else { None };
        let tags = if chunked { inner.tags(&state, &meta.object, first, last)? } else { Vec::new() };
        let tail = if end > at && end > meta.chunks * whole { inner.tail(&state, &key, &meta)? } else { Vec::new() };
        drop(state);
        Ok(Self { inner, object: meta.object, file, tags, first, chunks: meta.chunks, tail, size, at, end })
    }

    /// Bytes of the whole object.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes still to be read.
    pub fn remaining(&self) -> u64 {
        self.end - self.at
    }

    /// The next piece, of at most 64 KiB. None at the end.
    ///
    /// # Errors
    /// `Damaged`: then nothing of this piece is handed out. `Missing` when the function was removed.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        if self.at == self.end {
            return Ok(None);
        }
        if self.inner.gone() {
            return Err(StoreError::Missing);
        }
        let whole = CHUNK as u64;
        let index = self.at / whole;
        let start = (self.at % whole) as usize;
        let stop = (self.end - index * whole).min(whole) as usize;
        let mut piece = if index < self.chunks { self.chunk(index)? } else { std::mem::take(&mut self.tail) };
        piece.truncate(stop);
        piece.drain(..start);
        self.at += piece.len() as u64;
        Ok(Some(piece))
    }

    fn chunk(&self, index: u64) -> Result<Vec<u8>, StoreError> {
        let damaged = || StoreError::damaged("a chunk of an object");
        let (file, tag) = self.file.as_ref().zip(self.tags.get((index - self.first) as usize)).ok_or_else(damaged)?;
        let mut sealed = vec![0; SEALED_CHUNK];
        file.read_exact_at(&mut sealed, index * SEALED_CHUNK as u64).map_err(|_| damaged())?;
        if !self.inner.keys.open_chunk(&self.object, index, tag, &mut sealed) {
            return Err(damaged());
        }
        sealed.truncate(TEXT.end);
        sealed.drain(..TEXT.start);
        Ok(sealed)
    }
}
