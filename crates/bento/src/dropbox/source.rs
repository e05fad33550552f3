//! A file that is sent, read from any byte on, with the padding around it and sealed if it is to be.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bento_proto::pad::HEAD;
use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::mpsc,
};

use super::{
    pad,
    seal::{CHUNK, FileKey},
};
use crate::Input;

/// Bytes kept of each chunk's digest.
const MARK: usize = 16;

/// Chunks that are read ahead of the stream.
const AHEAD: usize = 4;

/// Text of the error when a file is no longer what it was.
const CHANGED: &str = "it was changed while it was sent";

/// A file, as it was when it was opened. It keeps 16 bytes for each 64 KiB of the file and compares what it reads: a chunk that is not as
/// it was is never given, so nobody can seal two different ones under the same number.
#[derive(Debug)]
pub struct Source {
    file: File,
    size: u64,
    modified: (i64, i64),
    digest: [u8; 32],
    marks: Vec<[u8; MARK]>,
    padded: Option<u64>,
}

impl Source {
    /// Reads a file once, to know its digest. `pad`: it is to be padded to a multiple of so many bytes. `progress` hears how many bytes
    /// were read, and of how many. It blocks.
    ///
    /// # Errors
    /// When the file cannot be read, is none, or changes meanwhile.
    pub fn open(path: &Path, pad: Option<u64>, mut progress: impl FnMut(u64, u64)) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let size = found.len();
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "it is too large to be padded like that");
        let padded = pad.map(|multiple| Self::padded_size(size, multiple).ok_or_else(too_large)).transpose()?;
        let (mut digest, mut marks, mut done) = (Sha256::new(), Vec::new(), 0);
        // The first chunk has less of the file where a head comes before it.
        let mut next = CHUNK - if padded.is_some() { HEAD } else { 0 };
        let mut chunk = Vec::with_capacity(CHUNK);
        while done < size {
            chunk.clear();
            (&mut file).take((next as u64).min(size - done)).read_to_end(&mut chunk)?;
            if chunk.is_empty() {
                return Err(changed());
            }
            digest.update(&chunk);
            marks.push(mark(&chunk));
            done += chunk.len() as u64;
            next = CHUNK;
            progress(done, size);
        }
        let source = Self { file, size, modified: (found.mtime(), found.mtime_nsec()), digest: digest.finalize().into(), marks, padded };
        source.check()?;
        Ok(source)
    }

    /// How long a file is when it is padded to a multiple of so many bytes. Nothing for one that is too large.
    pub fn padded_size(size: u64, multiple: u64) -> Option<u64> {
        size.checked_add(HEAD as u64)?.checked_next_multiple_of(multiple.max(1))
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of the file.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Bytes of what is sealed or sent: the file, or its padded form.
    pub fn total(&self) -> u64 {
        self.padded.unwrap_or(self.size)
    }

    /// One chunk of it.
    pub(super) fn chunk(&self, number: u64) -> io::Result<Vec<u8>> {
        self.check()?;
        let start = number * CHUNK as u64;
        let length = self.total().saturating_sub(start).min(CHUNK as u64);
        let mut chunk = Vec::with_capacity(CHUNK);
        let before = if self.padded.is_some() { HEAD as u64 } else { 0 };
        if number == 0 && self.padded.is_some() {
            chunk.extend_from_slice(&pad::head(self.size, &self.digest));
        }
        let held = chunk.len();
        let from = (start + held as u64).saturating_sub(before);
        let of_file = self.size.saturating_sub(from).min(length.saturating_sub(held as u64));
        chunk.resize(held + usize::try_from(of_file).unwrap_or_default(), 0);
        if of_file > 0 {
            self.file
                .read_exact_at(&mut chunk[held..], from)
                .map_err(|error| if error.kind() == io::ErrorKind::UnexpectedEof { changed() } else { error })?;
            let known = usize::try_from(number).ok().and_then(|number| self.marks.get(number));
            if known != Some(&mark(&chunk[held..])) {
                return Err(changed());
            }
        }
        chunk.resize(usize::try_from(length).unwrap_or_default(), 0);
        Ok(chunk)
    }

    /// The sooner it is seen that a file was changed, the less is sent in vain.
    fn check(&self) -> io::Result<()> {
        let found = self.file.metadata()?;
        if found.len() == self.size && (found.mtime(), found.mtime_nsec()) == self.modified { Ok(()) } else { Err(changed()) }
    }
}

fn mark(chunk: &[u8]) -> [u8; MARK] {
    let digest: [u8; 32] = Sha256::digest(chunk).into();
    let mut mark = [0; MARK];
    mark.copy_from_slice(&digest[..MARK]);
    mark
}

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, CHANGED)
}

/// What is sent of a file: itself, or itself sealed.
#[derive(Clone, Debug)]
pub struct Parcel {
    source: Arc<Source>,
    key: Option<FileKey>,
    size: u64,
}

impl Parcel {
    /// The file as it is.
    pub fn plain(source: Source) -> Self {
        let size = source.total();
        Self { source: Arc::new(source), key: None, size }
    }

    /// The file sealed under this key, which must never have sealed another. Nothing when it is too long for that.
    pub fn sealed(source: Source, key: FileKey) -> Option<Self> {
        let size = FileKey::sealed_size(source.total())?;
        Some(Self { source: Arc::new(source), key: Some(key), size })
    }

    /// Bytes of it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Some bytes from here on; none at its end.
    pub(super) fn read(&self, offset: u64) -> io::Result<Vec<u8>> {
        if offset >= self.size {
            return Ok(Vec::new());
        }
        let Some(key) = &self.key else {
            let mut chunk = self.source.chunk(offset / CHUNK as u64)?;
            chunk.drain(..usize::try_from(offset % CHUNK as u64).unwrap_or_default());
            return Ok(chunk);
        };
        let Some((number, within)) = FileKey::place(offset) else {
            return Ok(key.prefix()[usize::try_from(offset).unwrap_or_default()..].to_vec());
        };
        let is_last = (number + 1) * CHUNK as u64 >= self.source.total();
        let mut sealed = key.seal(number, is_last, &self.source.chunk(number)?).ok_or_else(|| io::Error::other("sealing it failed"))?;
        sealed.drain(..within.min(sealed.len()));
        Ok(sealed)
    }

    /// So many bytes from here on, or fewer at its end. It blocks.
    ///
    /// # Errors
    /// When the file cannot be read, or has changed.
    pub fn part(&self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        let mut part = Vec::with_capacity(count);
        while part.len() < count {
            let bytes = self.read(offset + part.len() as u64)?;
            if bytes.is_empty() {
                break;
            }
            part.extend_from_slice(&bytes[..bytes.len().min(count - part.len())]);
        }
        Ok(part)
    }

    /// SHA-256 of all of it. It blocks.
    ///
    /// # Errors
    /// When the file cannot be read, or has changed.
    pub fn sha256(&self) -> io::Result<[u8; 32]> {
        let (mut digest, mut offset) = (Sha256::new(), 0);
        while offset < self.size {
            let bytes = self.read(offset)?;
            digest.update(&bytes);
            offset += bytes.len() as u64;
        }
        Ok(digest.finalize().into())
    }

    /// It as an input, from here on. `progress` hears how far the stream has taken it.
    pub fn input(&self, offset: u64, progress: impl FnMut(u64) + Send + 'static) -> Input {
        let (sender, pieces) = mpsc::channel(AHEAD);
        let parcel = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut offset = offset;
            loop {
                let read = parcel.read(offset);
                let is_end = !matches!(&read, Ok(bytes) if !bytes.is_empty());
                if let Ok(bytes) = &read {
                    offset += bytes.len() as u64;
                }
                let piece = read.map(Bytes::from);
                // When nobody listens any more, the stream has ended.
                if sender.blocking_send(piece).is_err() || is_end {
                    return;
                }
            }
        });
        Input::stream(Feed { pieces, current: Bytes::new(), offset, progress: Box::new(progress) })
    }
}

/// The pieces of a parcel as a stream.
struct Feed {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    offset: u64,
    progress: Box<dyn FnMut(u64) + Send>,
}

impl AsyncRead for Feed {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.current.is_empty() {
            match ready!(self.pieces.poll_recv(context)) {
                Some(piece) => self.current = piece?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.current.len().min(buffer.remaining());
        buffer.put_slice(&self.current[..count]);
        self.current.advance(count);
        self.offset += count as u64;
        let offset = self.offset;
        (self.progress)(offset);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Seek as _, SeekFrom, Write as _},
    };

    use serde_json::Value;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::dropbox::{OpenError, Opener, pad::Unpad};

    fn file(length: usize) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, plain(length)).unwrap();
        (directory, path)
    }

    fn plain(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index % 251) as u8).collect()
    }

    fn open(path: &Path, pad: Option<u64>) -> Source {
        Source::open(path, pad, |_, _| ()).unwrap()
    }

    fn all(parcel: &Parcel) -> Vec<u8> {
        let mut all = Vec::new();
        while (all.len() as u64) < parcel.size() {
            all.extend(parcel.read(all.len() as u64).unwrap());
        }
        assert!(parcel.read(parcel.size()).unwrap().is_empty());
        all
    }

    #[test]
    fn a_sealed_file_is_what_the_vectors_say() {
        let vectors: Value = serde_json::from_str(include_str!("../../../../spec/vectors/drop.json")).unwrap();
        let hex = |value: &Value| data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
        let key = FileKey::from_parts(hex(&vectors["key"]).try_into().unwrap(), hex(&vectors["prefix"]).try_into().unwrap());
        let files = vectors["files"].as_array().unwrap();
        assert!(files.len() >= 4);
        for vector in files {
            let length = usize::try_from(vector["plaintext_bytes"].as_u64().unwrap()).unwrap();
            let (_directory, path) = file(length);
            let parcel = Parcel::sealed(open(&path, None), key.clone()).unwrap();
            let sealed = all(&parcel);
            assert_eq!(sealed.len() as u64, vector["sealed_bytes"].as_u64().unwrap());
            assert_eq!(Sha256::digest(&sealed)[..], hex(&vector["sealed_sha256"]), "{length}");
            assert_eq!(parcel.sha256().unwrap()[..], hex(&vector["sealed_sha256"]));
            if vector["sealed"].is_string() {
                assert_eq!(sealed, hex(&vector["sealed"]));
            }
            let (mut opener, mut out) = (Opener::new(*key.key()), Vec::new());
            opener.take(&sealed, &mut out).unwrap();
            opener.end(&mut out).unwrap();
            assert_eq!(out, plain(length));
        }
    }

    #[test]
    fn it_goes_on_from_every_offset_with_the_same_bytes() {
        let key = FileKey::mint().unwrap();
        for (length, pad) in
            [(0, None), (1, None), (0, Some(500)), (900, Some(500)), (CHUNK, None), (CHUNK - HEAD, Some(1)), (3 * CHUNK + 5, Some(40_000))]
        {
            let (_directory, path) = file(length);
            for parcel in [Parcel::plain(open(&path, pad)), Parcel::sealed(open(&path, pad), key.clone()).unwrap()] {
                let whole = all(&parcel);
                assert_eq!(whole.len() as u64, parcel.size());
                // Each offset of a small one; of a large one those around the ends of chunks, and some between.
                let near =
                    |offset: &usize| whole.len() < 2000 || offset % 65_536 < 60 || offset % 65_552 < 40 || offset.is_multiple_of(9_973);
                for offset in (0..whole.len()).filter(near) {
                    let piece = parcel.read(offset as u64).unwrap();
                    assert!(!piece.is_empty() && whole[offset..].starts_with(&piece), "{length} {pad:?} {offset}");
                }
            }
        }
    }

    #[test]
    fn what_was_padded_and_sealed_comes_back() {
        for length in [0, 1, 65_536 - HEAD, 200_000] {
            let (_directory, path) = file(length);
            let source = open(&path, Some(100_000));
            assert_eq!(source.total() % 100_000, 0);
            let key = FileKey::mint().unwrap();
            let parcel = Parcel::sealed(source, key.clone()).unwrap();
            let (mut opener, mut padded, mut unpad, mut out) = (Opener::new(*key.key()), Vec::new(), Unpad::default(), Vec::new());
            opener.take(&all(&parcel), &mut padded).unwrap();
            opener.end(&mut padded).unwrap();
            unpad.take(&padded, &mut out).unwrap();
            unpad.end().unwrap();
            assert_eq!(out, plain(length));
            // Another key opens nothing.
            let mut other = Opener::new([0; 32]);
            assert_eq!(other.take(&all(&parcel), &mut Vec::new()), Err(OpenError::Key));
        }
    }

    #[test]
    fn a_changed_file_is_refused_even_where_its_time_and_size_are_the_same() {
        let (_directory, path) = file(3 * CHUNK);
        let source = open(&path, None);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let key = FileKey::mint().unwrap();
        let parcel = Parcel::sealed(source, key).unwrap();
        assert!(parcel.read(200_000).is_ok());

        let mut writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
        writer.seek(SeekFrom::Start(CHUNK as u64 + 9)).unwrap();
        writer.write_all(b"!").unwrap();
        assert_eq!(parcel.read(7).unwrap_err().to_string(), CHANGED);
        // Somebody sets the time back: the chunk that was changed is refused, and its neighbour is as it was.
        writer.set_modified(modified).unwrap();
        assert!(parcel.read(7).is_ok());
        assert_eq!(parcel.read(CHUNK as u64 + 100).unwrap_err().to_string(), CHANGED);
        assert!(parcel.sha256().is_err());
        writer.set_len(10).unwrap();
        writer.set_modified(modified).unwrap();
        assert_eq!(parcel.read(7).unwrap_err().to_string(), CHANGED);
    }

    #[tokio::test]
    async fn as_an_input_it_is_the_same_and_tells_how_far_it_is() {
        let (_directory, path) = file(300_000);
        let parcel = Parcel::sealed(open(&path, None), FileKey::mint().unwrap()).unwrap();
        let (sender, told) = std::sync::mpsc::channel();
        let Input::Stream(mut input) = parcel.input(70_001, move |offset| sender.send(offset).unwrap()) else { panic!() };
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, all(&parcel)[70_001..]);
        assert_eq!(told.try_iter().last(), Some(parcel.size()));
    }
}
