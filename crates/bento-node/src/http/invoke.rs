//! Invocations: input and output streamed, the outcome at the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderName, HeaderValue, Version, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rustix::net::{RecvFlags, recv};
use serde_json::{Map, Value, value::RawValue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use bento_proto::{
    Bound, Outcome, Problem, Refusal,
    limits::{ARGUMENTS_BYTES_MAX, BUNDLE_BYTES_MAX},
};

use super::{Failure, invocation_token, output};
use crate::{
    container::Container,
    meter::{Meter, Way},
    node::{Node, Run},
    process::{Declared, Invocation, Kind, Process},
    sending::{PIECE_BYTES, Sending},
};

const ARGUMENTS: HeaderName = HeaderName::from_static("bento-arguments");
const BUNDLE_LENGTH: HeaderName = HeaderName::from_static("bento-bundle-length");
pub(super) const OUTCOME: &str = "bento-outcome";

/// `POST /v1/invoke/{method}`.
pub(super) async fn invoke(
    State(node): State<Arc<Node>>,
    method: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let method = method_name(method)?;
    let (container, key) = node.function(&invocation_token(request.headers())?).await?;
    if node.stopping.is_cancelled() {
        return Err(Refusal::Stopping.into());
    }
    let arguments = arguments(request.headers())?;
    if let Some(seen) = super::seen(request.headers())? {
        // From here on as long as the node runs, an earlier state is noticed by the node itself.
        let has = container.keep.changes(&key, &container.cpu).await.map_err(crate::node::trouble)?;
        if has < seen {
            return Err(Refusal::RolledBack { seen, has }.into());
        }
    }
    if let Some(id) = output::wanted(request.headers())? {
        return output::detach(container, key, id, (&method, &arguments), request.into_body()).await;
    }
    let trailers = takes_trailers(&request);
    let invocation = container.invoke(&method, &arguments, Some(&key)).await?;
    let output = Output::new(invocation, &container, None, Bytes::new(), request.into_body());
    drop(container);
    deliver(output, trailers).await
}

/// `POST /v1/run/{method}`: a bundle and its input in one body.
pub(super) async fn run(
    State(node): State<Arc<Node>>,
    method: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let method = method_name(method)?;
    let arguments = arguments(request.headers())?;
    let length = request.headers().get(BUNDLE_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<usize>().ok());
    let length =
        length.ok_or_else(|| Refusal::BadRequest(format!("the header `{BUNDLE_LENGTH}` must have the length of the bundle in bytes")))?;
    if length > BUNDLE_BYTES_MAX {
        return Err(Refusal::TooLong { what: "the bundle", limit: BUNDLE_BYTES_MAX as u64 }.into());
    }
    let (trailers, depth) = (takes_trailers(&request), super::depth(request.headers())?);
    let mut body = request.into_body();
    let (archive, input) = super::bundle(&node, &mut body, Some(length)).await?;
    let (container, run) = node.run(archive, depth).await?;
    let invocation = container.invoke(&method, &arguments, None).await?;
    let output = Output::new(invocation, &container, Some(run), input, body);
    drop(container);
    deliver(output, trailers).await
}

/// Does the client take trailers (RFC 9110, section 10.1.4)? In HTTP/2 they need no announcement.
fn takes_trailers(request: &Request) -> bool {
    let named = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains("trailers"));
    request.version() == Version::HTTP_2
        || (request.version() == Version::HTTP_11 && request.headers().get_all(header::TE).iter().any(named))
}

/// Answers with an invocation's output.
pub(super) async fn deliver(mut output: Output, trailers: bool) -> Result<Response, Failure> {
    let event = output.next().await;
    let declared = output.declared.length.get().copied();
    let kind = headers_of(output.declared.kind.get());
    match (event, declared) {
        (Event::End(Outcome::Returned), None | Some(0)) => {
            // Known to be empty and complete, so it needs no trailer to say so.
            Ok((kind, [(header::CONTENT_LENGTH, "0")], Body::empty()).into_response())
        }
        (Event::End(Outcome::Returned), Some(length)) => Err(short(length)),
        (Event::End(outcome), _) => Err(ended(outcome)),
        // All of it at once: its outcome is awaited, so that an error can still be told in words.
        (Event::Data(data), Some(length)) if data.len() as u64 == length => match output.next().await {
            Event::End(Outcome::Returned) => {
                // Its length is the body's own.
                Ok((kind, Body::from(data)).into_response())
            }
            Event::End(outcome) => Err(ended(outcome)),
            Event::Data(_) => Err(Problem::new("function-failed", 502, "the function wrote more output than it declared").into()),
        },
        (Event::Data(data), Some(length)) => {
            let body =
                Body::new(StreamBody::new(futures_util::stream::unfold(Exact { output, left: length, held: Some(data) }, Exact::step)));
            Ok((kind, [(header::CONTENT_LENGTH, length.to_string())], body).into_response())
        }
        (Event::Data(data), None) => {
            let body = Body::new(StreamBody::new(futures_util::stream::unfold(
                Open { output, first: Some(data), ended: false, trailers },
                Open::step,
            )));
            Ok((kind, [(header::TRAILER, OUTCOME)], body).into_response())
        }
    }
}

/// The method's name in the path. What is no text is answered in our own words, not in those of the library.
fn method_name(method: Result<Path<String>, PathRejection>) -> Result<String, Refusal> {
    method.map(|Path(name)| name).map_err(|_| Refusal::BadRequest("the method's name in the path is not UTF-8".into()))
}

/// A JSON object in a header; ASCII, so other characters come as `\uXXXX`. It goes to the function as it came.
fn arguments(headers: &HeaderMap) -> Result<Box<RawValue>, Failure> {
    let value = headers.get(ARGUMENTS).map_or(b"{}".as_slice(), HeaderValue::as_bytes);
    if value.len() > ARGUMENTS_BYTES_MAX {
        return Err(Refusal::TooLong { what: "the header `bento-arguments`", limit: ARGUMENTS_BYTES_MAX as u64 }.into());
    }
    let wrong = |_| Refusal::BadRequest("the header `bento-arguments` must be a JSON object".into());
    // Read once for nothing but to see that it is an object, with no number and no depth that a reader stumbles over.
    let _: Map<String, Value> = serde_json::from_slice(value).map_err(wrong)?;
    Ok(serde_json::from_slice(value).map_err(wrong)?)
}

/// What an output is, for a browser.
fn headers_of(kind: Option<&Kind>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let media = kind.and_then(|kind| HeaderValue::from_str(&kind.media).ok());
    headers.insert(header::CONTENT_TYPE, media.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    if let Some(name) = kind.and_then(|kind| kind.name.as_deref()) {
        // RFC 6266, section 4.3, with the encoding of RFC 8187.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let encoded: String =
            name.bytes().map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename*=UTF-8''{encoded}")) {
            headers.insert(header::CONTENT_DISPOSITION, value);
        }
    }
    headers
}

fn ended(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed { error, traceback } => {
            let mut problem = Problem::new("function-failed", 502, error);
            problem.traceback = Some(traceback).filter(|text| !text.is_empty());
            problem.into()
        }
        Outcome::Killed { bound } => {
            let mut problem = Problem::new("function-killed", 502, format!("killed: {bound}"));
            problem.bound = Some(bound);
            problem.into()
        }
        Outcome::Returned => short(0),
    }
}

fn short(length: u64) -> Failure {
    Problem::new("function-failed", 502, format!("the function declared {length} bytes of output and wrote none")).into()
}

/// What comes next of an invocation.
pub(super) enum Event {
    Data(Bytes),
    End(Outcome),
}

/// Output of an invocation, with all that must end when nobody reads it any more.
pub(super) struct Output {
    stream: OwnedReadHalf,
    /// Stored bytes that the function puts into it,
    sends: mpsc::Receiver<Sending>,
    /// and those that go at the moment.
    sending: Option<Sending>,
    outcome: oneshot::Receiver<Outcome>,
    /// The outcome, when it came before the end of the stream.
    ended: Option<Outcome>,
    declared: Arc<Declared>,
    /// Not the container itself: an output that its client does not read would keep a container that has ended, and its room.
    meter: Arc<Meter>,
    buffer: BytesMut,
    input: AbortHandle,
    /// Raised when the input was cut off: the client is gone.
    lost: CancellationToken,
    /// Raised when all input was taken.
    pub(super) fed: CancellationToken,
    pulse: Arc<Pulse>,
    idle: Duration,
    /// Told when the output is dropped before its end.
    unfinished: Option<(Arc<Process>, u64)>,
    _run: Option<Run>,
}

impl Output {
    pub(super) fn new(invocation: Invocation, container: &Container, run: Option<Run>, first: Bytes, body: Body) -> Self {
        let (stream, writer) = invocation.stream.into_split();
        let pulse = Arc::new(Pulse::new());
        let idle = container.node.limits.idle.duration();
        let (lost, fed) = (CancellationToken::new(), CancellationToken::new());
        let feeding = feed(first, body, writer, Arc::clone(&container.meter), Arc::clone(&pulse), lost.clone());
        let is_fed = fed.clone();
        let input = tokio::spawn(async move {
            feeding.await;
            is_fed.cancel();
        });
        Self {
            stream,
            sends: invocation.sends,
            sending: None,
            outcome: invocation.outcome,
            ended: None,
            declared: invocation.declared,
            meter: Arc::clone(&container.meter),
            buffer: BytesMut::new(),
            input: input.abort_handle(),
            lost,
            fed,
            pulse,
            idle,
            unfinished: Some((invocation.process, invocation.number)),
            _run: run,
        }
    }

    /// Was the input cut off before its end?
    pub(super) fn is_cut_off(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Waits as long for it as this, where nobody else waits.
    pub(super) fn wait_long(&mut self, idle: Duration) {
        self.idle = idle;
    }

    pub(super) async fn next(&mut self) -> Event {
        let most = self.meter.chunk_bytes();
        self.buffer.reserve(most);
        let read = loop {
            if let Some(sending) = &mut self.sending {
                if self.lost.is_cancelled() {
                    return Event::End(cut_off());
                }
                // Whoever sends waits for it, so one that has ended was killed.
                if let Ok(outcome) = self.outcome.try_recv() {
                    (self.ended, self.sending) = (Some(outcome), None);
                    continue;
                }
                // What it wrote before comes before.
                if !sending.is_begun()
                    && let Ok(1..) = there(&self.stream, &mut self.buffer, most)
                {
                    break Ok(self.buffer.len());
                }
                match sending.next(self.meter.piece_bytes(PIECE_BYTES)).await {
                    Some(piece) => {
                        self.meter.slow(piece.len()).await;
                        return self.pass(piece).await;
                    }
                    None => self.sending = None,
                }
                continue;
            }
            if self.ended.is_some() {
                // A stream that something in the function keeps open does not keep the invocation.
                break there(&self.stream, &mut self.buffer, most);
            }
            let mut limited = (&mut self.stream).take(most as u64);
            tokio::select! {
                biased;
                read = limited.read_buf(&mut self.buffer) => break read,
                Some(sending) = self.sends.recv() => self.sending = Some(sending),
                outcome = &mut self.outcome => self.ended = Some(told(outcome)),
                () = self.lost.cancelled() => return Event::End(cut_off()),
                () = tokio::time::sleep(self.pulse.left(self.idle)) => {
                    // Input may have come meanwhile; then the session is not idle.
                    if self.pulse.left(self.idle).is_zero() {
                        return Event::End(Outcome::Killed { bound: Bound::Idle });
                    }
                }
            }
        };
        self.pulse.beat();
        match read {
            Ok(bytes) if bytes > 0 => {
                let data = self.buffer.split().freeze();
                self.pass(data).await
            }
            _ => Event::End(self.end().await),
        }
    }

    /// Counts bytes and gives them on.
    async fn pass(&mut self, data: Bytes) -> Event {
        let passed = self.meter.pass(Way::Sent, data.len()).await;
        // Waiting for the rate is no silence.
        self.pulse.beat();
        match passed {
            Ok(()) => Event::Data(data),
            // Whatever the method says: this output is not delivered.
            Err(_) => Event::End(Outcome::Killed { bound: Bound::Traffic }),
        }
    }

    async fn end(&mut self) -> Outcome {
        // Nothing comes after the end, and whoever sends is told.
        self.sends.close();
        while self.sends.try_recv().is_ok() {}
        let outcome = match self.ended.take() {
            Some(outcome) => outcome,
            None => tokio::select! {
                outcome = timeout(self.idle, &mut self.outcome) => match outcome {
                    Ok(outcome) => told(outcome),
                    Err(_) => return Outcome::Killed { bound: Bound::Idle },
                },
                () = self.lost.cancelled() => return cut_off(),
            },
        };
        self.unfinished = None;
        // What a function says of its failure leaves the node as its output does.
        tokio::select! {
            passed = self.meter.pass(Way::Sent, outcome.text_bytes()) => match passed {
                Ok(()) => outcome,
                Err(_) => Outcome::Killed { bound: Bound::Traffic },
            },
            () = self.lost.cancelled() => cut_off(),
        }
    }
}

/// What is there of a stream. The kernel is asked, since the runtime's own idea of readiness may lag behind.
fn there(stream: &OwnedReadHalf, buffer: &mut BytesMut, most: usize) -> std::io::Result<usize> {
    buffer.resize(most, 0);
    let read = recv(stream.as_ref(), &mut buffer[..], RecvFlags::DONTWAIT).map(|(bytes, _)| bytes);
    buffer.truncate(*read.as_ref().unwrap_or(&0));
    read.map_err(std::io::Error::from)
}

/// Seen by nobody, since the session is lost; it ends the waiting.
fn cut_off() -> Outcome {
    Outcome::Failed { error: "the input was cut off".into(), traceback: String::new() }
}

fn told(outcome: Result<Outcome, oneshot::error::RecvError>) -> Outcome {
    outcome.unwrap_or_else(|_| Outcome::Failed { error: "the function's process ended".into(), traceback: String::new() })
}

impl Drop for Output {
    fn drop(&mut self) {
        self.input.abort();
        if let (Some((process, number)), Ok(runtime)) = (self.unfinished.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { process.cancel(number).await });
        }
    }
}

/// Most bytes of input that are thrown away uncounted, when traffic is used up: windows of HTTP/2, circuits and sockets are well below.
pub(super) const REST_BYTES_MAX: usize = 4 << 20;

/// Passes the request's body to the function. An end of file is passed on only for a whole body.
async fn feed(mut data: Bytes, mut body: Body, mut writer: OwnedWriteHalf, meter: Arc<Meter>, pulse: Arc<Pulse>, lost: CancellationToken) {
    loop {
        let mut passed = true;
        // In such pieces, since other streams of the function wait for each.
        for piece in data.chunks(meter.chunk_bytes()) {
            passed = meter.pass(Way::Received, piece.len()).await.is_ok() && writer.write_all(piece).await.is_ok();
            if !passed {
                break;
            }
            pulse.beat();
        }
        if !passed {
            // Spent, or the function wants no more: what still comes is taken and thrown away, so that the answer can be read. It counts all the
            // same; and when nothing is left to count against, it is only as much as is on its way at most.
            let mut rest = REST_BYTES_MAX;
            loop {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        let bytes = frame.data_ref().map_or(0, Bytes::len);
                        if meter.pass(Way::Received, bytes).await.is_err() {
                            let Some(left) = rest.checked_sub(bytes) else { return };
                            rest = left;
                        }
                    }
                    Some(Err(_)) => return lost.cancel(),
                    None => return,
                }
            }
        }
        data = match body.frame().await {
            None => {
                let _ = writer.shutdown().await;
                return;
            }
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(_)) => {
                // The session is lost, and with it this invocation. Its writer is kept open until the output is dropped, so that the function
                // does not take what came for the whole.
                lost.cancel();
                return std::future::pending().await;
            }
        };
        pulse.beat();
    }
}

/// Output of a length that was declared. The last byte is held back until the method has returned, so that a whole body means success.
struct Exact {
    output: Output,
    left: u64,
    held: Option<Bytes>,
}

impl Exact {
    async fn step(mut self) -> Option<(Result<Frame<Bytes>, &'static str>, Self)> {
        loop {
            if self.left == 0 && self.held.is_none() {
                return None;
            }
            if let Some(mut data) = self.held.take() {
                let length = data.len() as u64;
                if length > self.left {
                    return Some((Err("more output than was declared"), self));
                }
                if length < self.left {
                    self.left -= length;
                    return Some((Ok(Frame::data(data)), self));
                }
                let last = data.split_off(data.len() - 1);
                if !data.is_empty() {
                    self.left = 1;
                    self.held = Some(last);
                    return Some((Ok(Frame::data(data)), self));
                }
                return match self.output.next().await {
                    Event::End(Outcome::Returned) => {
                        self.left = 0;
                        Some((Ok(Frame::data(last)), self))
                    }
                    Event::End(_) => Some((Err("the function did not return"), self)),
                    Event::Data(_) => Some((Err("more output than was declared"), self)),
                };
            }
            match self.output.next().await {
                Event::Data(data) => self.held = Some(data),
                Event::End(_) => return Some((Err("less output than was declared"), self)),
            }
        }
    }
}

/// Output of unknown length, with the outcome in a trailer (RFC 9110, section 6.5).
struct Open {
    output: Output,
    first: Option<Bytes>,
    ended: bool,
    /// Does the client take trailers? One that does not could not tell a failure from success, so its stream is cut off then.
    trailers: bool,
}

impl Open {
    async fn step(mut self) -> Option<(Result<Frame<Bytes>, &'static str>, Self)> {
        if self.ended {
            return None;
        }
        let event = match self.first.take() {
            Some(data) => Event::Data(data),
            None => self.output.next().await,
        };
        match event {
            Event::Data(data) => Some((Ok(Frame::data(data)), self)),
            Event::End(outcome) if !self.trailers => {
                self.ended = true;
                // With an error at once, hyper drops what it has not written yet; it writes when it has to wait.
                tokio::task::yield_now().await;
                (outcome != Outcome::Returned).then_some((Err("the function did not return"), self))
            }
            Event::End(outcome) => {
                self.ended = true;
                let mut trailers = HeaderMap::new();
                trailers.insert(OUTCOME, header_of(&outcome));
                Some((Ok(Frame::trailers(trailers)), self))
            }
        }
    }
}

/// Longest outcome in a trailer, in bytes. Trailers of 16 KiB are what HTTP libraries take.
pub(super) const OUTCOME_BYTES_MAX: usize = 12 * 1024;

pub(super) fn header_of(outcome: &Outcome) -> HeaderValue {
    let ascii = |outcome: &Outcome| {
        let json = serde_json::to_string(outcome).unwrap_or_default();
        let mut text = String::with_capacity(json.len());
        for unit in json.chars() {
            // JSON escapes the other control characters, and HTTP lets this one not pass.
            if unit.is_ascii() && unit != '\u{7f}' {
                text.push(unit);
            } else {
                for half in unit.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{half:04x}"));
                }
            }
        }
        text
    };
    let mut text = ascii(outcome);
    if let (true, Outcome::Failed { error, .. }) = (text.len() > OUTCOME_BYTES_MAX, outcome) {
        text = ascii(&Outcome::Failed { error: error.clone(), traceback: String::new() });
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("{}"))
}

/// When a byte last passed.
#[derive(Debug)]
struct Pulse {
    born: Instant,
    last_ms: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Self { born: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    fn beat(&self) {
        self.last_ms.store(self.now(), Ordering::Relaxed);
    }

    fn left(&self, idle: Duration) -> Duration {
        idle.saturating_sub(Duration::from_millis(self.now() - self.last_ms.load(Ordering::Relaxed).min(self.now())))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_becomes_a_header_whatever_it_says() {
        for outcome in [
            Outcome::Returned,
            Outcome::Killed { bound: Bound::Memory },
            Outcome::Failed { error: "naïve 𝄞\r\nX: y\u{7f}".into(), traceback: "ä".repeat(100) },
        ] {
            let header = header_of(&outcome);
            assert!(header.to_str().unwrap().is_ascii());
            assert_eq!(serde_json::from_slice::<Outcome>(header.as_bytes()).unwrap(), outcome);
        }
        let long = Outcome::Failed { error: "e".into(), traceback: "𝄞".repeat(6000) };
        assert!(header_of(&long).len() < OUTCOME_BYTES_MAX);
    }
}
