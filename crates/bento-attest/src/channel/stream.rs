//! Records: two bytes of length, big-endian, and a Noise message. An empty message is its sender's end.
//!
//! Who reads to the end has everything that was sent; a stream that stops before it is an error, whoever stopped it. Each direction has
//! a new key after [`REKEY_RECORDS`] records. What is written is encrypted only when the record before went out, so that a reader who
//! does not read stops the writer, and one record each way is the most that is held.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use snow::{HandshakeState, TransportState};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Failed;

/// Most bytes of content in a record. Each channel holds four records of this size, so that it is less than Noise would allow.
pub const RECORD_BYTES_MAX: usize = 32 * 1024;

/// After so many records a direction's key is replaced by one that follows from it, and from which it does not follow: who takes the
/// key later reads nothing from before. 2 GiB at most.
pub const REKEY_RECORDS: u64 = 1 << 16;

const TAG: usize = 16;
const HEADER: usize = 2;
const RECORD: usize = HEADER + RECORD_BYTES_MAX + TAG;

/// A reader and writer whose content nobody between its ends sees, changes, repeats, reorders, or cuts unseen.
///
/// Dropped without `shutdown`, it looks to the other side as if it had been cut.
pub struct Channel<S> {
    stream: S,
    noise: TransportState,
    reading: Reading,
    writing: Writing,
    /// Something was wrong: nothing is read or written any more.
    broken: bool,
}

struct Reading {
    /// What came from below, and is not decrypted yet.
    raw: Part,
    /// What was decrypted, and is not read yet.
    plain: Part,
    records: u64,
    ended: bool,
}

struct Writing {
    /// Records on their way out.
    raw: Part,
    records: u64,
    ended: bool,
}

/// Bytes in a buffer of fixed size.
struct Part {
    bytes: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl Part {
    fn new(size: usize) -> Self {
        Self { bytes: vec![0; size].into_boxed_slice(), begin: 0, end: 0 }
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }

    fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    fn consume(&mut self, count: usize) {
        self.begin += count;
        if self.is_empty() {
            (self.begin, self.end) = (0, 0);
        }
    }

    /// Moves what is there to the front.
    fn compact(&mut self) {
        self.bytes.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
    }
}

impl<S> Channel<S> {
    pub(super) fn new(stream: S, noise: HandshakeState) -> Result<Self, Failed> {
        Ok(Self {
            stream,
            noise: noise.into_transport_mode().map_err(|_| Failed::Handshake)?,
            // Two records, so that one can be read whole while the next comes.
            reading: Reading { raw: Part::new(2 * RECORD), plain: Part::new(RECORD_BYTES_MAX + TAG), records: 0, ended: false },
            writing: Writing { raw: Part::new(RECORD), records: 0, ended: false },
            broken: false,
        })
    }

    /// Records that were sent and received so far.
    pub fn records(&self) -> (u64, u64) {
        (self.writing.records, self.reading.records)
    }

    /// Encrypts a record; an empty one is the end.
    fn seal(&mut self, content: &[u8]) -> io::Result<()> {
        let raw = &mut self.writing.raw;
        let length =
            self.noise.write_message(content, &mut raw.bytes[HEADER..]).map_err(|_| io::Error::other("the record could not be sealed"))?;
        // It fits: RECORD_BYTES_MAX and a tag are less than 64 KiB.
        raw.bytes[..HEADER].copy_from_slice(&(length as u16).to_be_bytes());
        (raw.begin, raw.end) = (0, HEADER + length);
        self.writing.records += 1;
        if self.writing.records.is_multiple_of(REKEY_RECORDS) {
            self.noise.rekey_outgoing();
        }
        Ok(())
    }

    /// Decrypts the next record, if it is there as a whole: into `to` where that has room, else for later. Whether there was one.
    fn open(&mut self, to: &mut ReadBuf<'_>) -> io::Result<bool> {
        let reading = &mut self.reading;
        let Some((header, rest)) = reading.raw.filled().split_first_chunk::<HEADER>() else { return Ok(false) };
        let length = usize::from(u16::from_be_bytes(*header));
        if !(TAG..=RECORD_BYTES_MAX + TAG).contains(&length) {
            return Err(io::Error::new(ErrorKind::InvalidData, "the other side sent no record"));
        }
        let Some(sealed) = rest.get(..length) else { return Ok(false) };
        let direct = to.remaining() >= length;
        let into = if direct { to.initialize_unfilled() } else { &mut reading.plain.bytes[..] };
        let content = self
            .noise
            .read_message(sealed, into)
            .map_err(|_| io::Error::new(ErrorKind::InvalidData, "a record was changed, repeated, or is missing"))?;
        if direct {
            to.advance(content);
        } else {
            (reading.plain.begin, reading.plain.end) = (0, content);
        }
        reading.raw.consume(HEADER + length);
        reading.ended = content == 0;
        reading.records += 1;
        if reading.records.is_multiple_of(REKEY_RECORDS) {
            self.noise.rekey_incoming();
        }
        Ok(true)
    }

    fn check(&self) -> io::Result<()> {
        if self.broken { Err(io::Error::new(ErrorKind::ConnectionAborted, "the channel is broken")) } else { Ok(()) }
    }
}

impl<S: AsyncWrite + Unpin> Channel<S> {
    /// Sends what is sealed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.writing.raw.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, self.writing.raw.filled()));
            match written {
                Ok(0) => return Poll::Ready(self.fail(ErrorKind::WriteZero.into())),
                Ok(count) => self.writing.raw.consume(count),
                Err(error) => return Poll::Ready(self.fail(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> Channel<S> {
    fn fail<T>(&mut self, error: io::Error) -> io::Result<T> {
        self.broken = true;
        Err(error)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Channel<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let plain = &mut this.reading.plain;
            if !plain.is_empty() {
                let count = plain.filled().len().min(buf.remaining());
                buf.put_slice(&plain.filled()[..count]);
                plain.consume(count);
                return Poll::Ready(Ok(()));
            }
            if this.reading.ended {
                return Poll::Ready(Ok(()));
            }
            this.check()?;
            let before = buf.filled().len();
            match this.open(buf) {
                Ok(true) if buf.filled().len() > before => return Poll::Ready(Ok(())),
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => return Poll::Ready(this.fail(error)),
            }
            let raw = &mut this.reading.raw;
            raw.compact();
            let mut room = ReadBuf::new(&mut raw.bytes[raw.end..]);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut room));
            let count = room.filled().len();
            raw.end += count;
            if let Err(error) = read {
                return Poll::Ready(this.fail(error));
            }
            if count == 0 {
                return Poll::Ready(this.fail(io::Error::new(ErrorKind::UnexpectedEof, "the stream was cut before its end")));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Channel<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        if this.writing.ended {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.poll_drain(cx))?;
        let count = bytes.len().min(RECORD_BYTES_MAX);
        if let Err(error) = this.seal(&bytes[..count]) {
            return Poll::Ready(this.fail(error));
        }
        // As far as it goes; the rest goes with the next call.
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        ready!(this.poll_drain(cx))?;
        if !this.writing.ended {
            if let Err(error) = this.seal(&[]) {
                return Poll::Ready(this.fail(error));
            }
            this.writing.ended = true;
            ready!(this.poll_drain(cx))?;
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
