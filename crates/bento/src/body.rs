//! What is sent: a bundle, an input, or both one after the other.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};

use crate::activity::Activity;

/// Bytes of a stream that are sent at once.
const CHUNK: usize = 32 * 1024;

/// The input of an invocation.
#[derive(Default)]
pub enum Input {
    /// None.
    #[default]
    Empty,
    /// All of it, there already.
    Bytes(Bytes),
    /// A stream, sent as it comes.
    Stream(Pin<Box<dyn AsyncRead + Send>>),
    /// A stream of exactly so many bytes, which the node is told before.
    Exact(u64, Pin<Box<dyn AsyncRead + Send>>),
}

impl Input {
    /// The input that comes from this.
    pub fn stream(source: impl AsyncRead + Send + 'static) -> Self {
        Self::Stream(Box::pin(source))
    }

    /// The input that comes from this, which has exactly so many bytes.
    pub fn exact(bytes: u64, source: impl AsyncRead + Send + 'static) -> Self {
        Self::Exact(bytes, Box::pin(source))
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Empty => "Empty",
            Self::Bytes(_) => "Bytes(…)",
            Self::Stream(_) => "Stream(…)",
            Self::Exact(..) => "Exact(…)",
        })
    }
}

/// A request's body.
pub(crate) struct RequestBody {
    first: Option<Bytes>,
    input: Input,
    activity: Arc<Activity>,
}

impl RequestBody {
    pub(crate) fn new(first: Option<Bytes>, input: Input, activity: Arc<Activity>) -> Self {
        let input = if matches!(&input, Input::Bytes(bytes) if bytes.is_empty()) { Input::Empty } else { input };
        Self { first: first.filter(|bytes| !bytes.is_empty()), input, activity }
    }

    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        match std::mem::take(&mut self.input) {
            Input::Empty => Poll::Ready(None),
            Input::Bytes(bytes) => Poll::Ready(Some(Ok(bytes))),
            Input::Stream(mut source) => {
                let (chunk, goes_on) = read(source.as_mut(), CHUNK, context);
                if goes_on {
                    self.input = Input::Stream(source);
                }
                chunk
            }
            Input::Exact(0, _) => Poll::Ready(None),
            Input::Exact(left, mut source) => {
                let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let (chunk, goes_on) = read(source.as_mut(), most, context);
                let count = match &chunk {
                    Poll::Ready(Some(Ok(bytes))) => bytes.len() as u64,
                    // hyper would take it for the end of the body, and wait for the rest of it.
                    Poll::Ready(None) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                    _ => 0,
                };
                if goes_on {
                    self.input = Input::Exact(left - count, source);
                }
                chunk
            }
        }
    }
}

/// Bytes of a stream, and whether there can be more.
fn read(source: Pin<&mut (dyn AsyncRead + Send)>, most: usize, context: &mut Context<'_>) -> (Poll<Option<io::Result<Bytes>>>, bool) {
    let mut chunk = vec![0; most];
    let mut buffer = ReadBuf::new(&mut chunk);
    let polled = source.poll_read(context, &mut buffer);
    let filled = buffer.filled().len();
    chunk.truncate(filled);
    let goes_on = polled.is_pending() || filled > 0;
    (polled.map(|read| read.map(|()| (filled > 0).then(|| chunk.into())).transpose()), goes_on)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take() {
            self.activity.moved();
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let polled = self.poll_input(context);
        match &polled {
            Poll::Pending => self.activity.waits_for_input(),
            Poll::Ready(Some(Err(error))) => self.activity.input_failed(io::Error::new(error.kind(), error.to_string())),
            Poll::Ready(_) => self.activity.moved(),
        }
        polled.map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && matches!(self.input, Input::Empty | Input::Exact(0, _))
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, Bytes::len) as u64;
        match &self.input {
            Input::Empty => SizeHint::with_exact(first),
            Input::Bytes(bytes) => SizeHint::with_exact(first + bytes.len() as u64),
            Input::Stream(_) => SizeHint::default(),
            Input::Exact(left, _) => SizeHint::with_exact(first + left),
        }
    }
}
