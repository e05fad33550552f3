//! Reading an object piece by piece.

use std::{fmt, fs::File, os::unix::fs::FileExt, sync::Arc};

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
    /// A sealed chunk, where it lies its text, and which one it is.
    chunk: Vec<u8>,
    opened: Option<u64>,
    size: u64,
    at: u64,
    end: u64,
}

impl fmt::Debug for Reader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Reader(…)")
    }
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
        Ok(Self {
            inner,
            object: meta.object,
            file,
            tags,
            first,
            chunks: meta.chunks,
            tail,
            chunk: Vec::new(),
            opened: None,
            size,
            at,
            end,
        })
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
    /// As [`fill`](Self::fill).
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let mut piece = Vec::new();
        self.add(&mut piece, CHUNK)?;
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }

    /// Adds the next bytes, so many or all that are left.
    ///
    /// # Errors
    /// `Damaged`: then nothing that is damaged is handed out. `Missing` when the function was removed.
    pub fn fill(&mut self, piece: &mut Vec<u8>, most: usize) -> Result<(), StoreError> {
        let wanted = piece.len().saturating_add(most);
        while piece.len() < wanted && self.at < self.end {
            self.add(piece, wanted - piece.len())?;
        }
        Ok(())
    }

    /// Adds at most so many bytes, all of one chunk.
    fn add(&mut self, piece: &mut Vec<u8>, most: usize) -> Result<(), StoreError> {
        if self.at == self.end {
            return Ok(());
        }
        if self.inner.gone() {
            return Err(StoreError::Missing);
        }
        let whole = CHUNK as u64;
        let index = self.at / whole;
        let start = (self.at % whole) as usize;
        let stop = ((self.end - index * whole).min(whole) as usize).min(start + most);
        let text = if index < self.chunks { self.open_chunk(index)? } else { &self.tail };
        let text = text.get(start..stop).ok_or_else(|| StoreError::damaged("the end of an object"))?;
        piece.extend_from_slice(text);
        self.at += text.len() as u64;
        Ok(())
    }

    fn open_chunk(&mut self, index: u64) -> Result<&[u8], StoreError> {
        if self.opened == Some(index) {
            return Ok(&self.chunk[TEXT]);
        }
        self.opened = None;
        let damaged = || StoreError::damaged("a chunk of an object");
        let (file, tag) = self.file.as_ref().zip(self.tags.get((index - self.first) as usize)).ok_or_else(damaged)?;
        self.chunk.resize(SEALED_CHUNK, 0);
        file.read_exact_at(&mut self.chunk, index * SEALED_CHUNK as u64).map_err(|_| damaged())?;
        if !self.inner.keys.open_chunk(&self.object, index, tag, &mut self.chunk) {
            return Err(damaged());
        }
        self.opened = Some(index);
        Ok(&self.chunk[TEXT])
    }
}
