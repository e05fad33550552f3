//! The one socket between a function's process and its node: frames, some with a descriptor.
//!
//! `spec/function-api.md` describes it. Never takes a descriptor from the function: without room for control data the kernel
//! closes what was sent.

use std::{
    collections::HashMap,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::value::RawValue;
use tokio::{io::Interest, net::UnixStream, time::timeout};
use tokio_util::sync::CancellationToken;

use bento_proto::{Bound, Outcome};

/// Longest frame, in bytes. The longest needed are arguments (16 KiB) and a traceback (6,000 characters, escaped); this leaves room.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Longest call, in bytes. The longest that there is, a line of the log, is 12,000 bytes when all its characters are escaped.
const CALL_BYTES_MAX: usize = 16 * 1024;

/// How long a function may leave its socket unread before it counts as broken.
const SEND_DEADLINE: Duration = Duration::from_secs(20);

/// A frame from node to function.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ToFunction<'a> {
    /// Here is the code.
    Load {
        /// What to load.
        load: Load<'a>,
    },
    /// Run a method.
    Invoke {
        /// Number of the invocation.
        invoke: u64,
        /// Its method.
        method: &'a str,
        /// Its keyword arguments.
        arguments: &'a RawValue,
        /// Time left of the container's lifetime.
        seconds: f64,
    },
    /// A call was done.
    Done {
        /// Number of the call.
        answer: u64,
        /// Its value.
        ok: serde_json::Value,
    },
    /// A call was not done.
    Not {
        /// Number of the call.
        answer: u64,
        /// Why.
        error: CallError,
    },
    /// Nobody waits for this invocation any more.
    Cancel {
        /// Number of the invocation.
        cancel: u64,
    },
}

/// The code: names and sizes; the bytes follow on the stream that comes along.
#[derive(Debug, Serialize)]
pub struct Load<'a> {
    /// The file that has the methods.
    pub code: &'a str,
    /// The methods.
    pub methods: &'a [String],
    /// All files.
    pub files: Vec<(&'a str, usize)>,
}

/// Why a call was not done.
#[derive(Debug, Serialize)]
pub struct CallError {
    /// A word for programs.
    pub kind: CallErrorKind,
    /// For people.
    pub text: String,
    /// Why another node refused it, in that node's word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Kinds of [`CallError`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallErrorKind {
    /// The grant does not cover it.
    Refused,
    /// The other side cannot be reached.
    Unreachable,
    /// There is no such name.
    Resolve,
    /// It took too long.
    Timeout,
    /// Too many at once.
    Busy,
    /// There is nothing of that name.
    Missing,
    /// What it may store, or the node's disk, is full.
    Full,
    /// What is on disk is not what was stored.
    Damaged,
    /// The node's own trouble, or another node's.
    Failed,
    /// No such call, or its arguments are wrong.
    BadCall,
}

impl CallError {
    /// With this text.
    pub fn new(kind: CallErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), code: None }
    }
}

/// A frame from function to node.
#[derive(Debug)]
pub enum FromFunction {
    /// It asks for something.
    Call(Call),
    /// An invocation ended.
    Done {
        /// Number of the invocation.
        done: u64,
        /// How.
        outcome: Outcome,
    },
    /// The code is imported.
    Loaded,
    /// The code cannot be imported.
    Unloadable(Unloadable),
}

/// A function asks for something.
#[derive(Debug)]
pub struct Call {
    /// Number of the call.
    pub number: u64,
    /// On whose behalf.
    pub invocation: Option<u64>,
    /// Which.
    pub name: String,
    /// With what: JSON that only the call itself knows how to read.
    arguments: Option<Box<RawValue>>,
}

impl Call {
    /// Its arguments, as what the call takes.
    ///
    /// # Errors
    /// In these words, when they are something else.
    pub fn arguments<T: DeserializeOwned>(&self, takes: &'static str) -> Result<T, CallError> {
        let text = self.arguments.as_deref().map_or("{}", RawValue::get);
        serde_json::from_str(text).map_err(|_| CallError::new(CallErrorKind::BadCall, takes))
    }
}

/// All that a frame may have. Read in one pass, and arguments not at all: what a function sends must not cost its node more than it.
#[derive(Deserialize)]
struct Frame {
    call: Option<u64>,
    invocation: Option<u64>,
    name: Option<String>,
    arguments: Option<Box<RawValue>>,
    done: Option<u64>,
    outcome: Option<String>,
    error: Option<String>,
    traceback: Option<String>,
    bound: Option<Bound>,
    loaded: Option<IgnoredAny>,
    unloadable: Option<HashMap<String, String>>,
}

impl Frame {
    fn meant(self) -> Option<FromFunction> {
        Some(match self {
            Self { call: Some(number), name: Some(name), invocation, arguments, .. } => {
                FromFunction::Call(Call { number, invocation, name, arguments })
            }
            Self { done: Some(done), outcome: Some(outcome), error, traceback, bound, .. } => {
                let outcome = match (outcome.as_str(), error, bound) {
                    ("returned", _, _) => Outcome::Returned,
                    ("failed", Some(error), _) => Outcome::Failed { error, traceback: traceback.unwrap_or_default() },
                    ("killed", _, Some(bound)) => Outcome::Killed { bound },
                    _ => return None,
                };
                FromFunction::Done { done, outcome }
            }
            Self { loaded: Some(_), .. } => FromFunction::Loaded,
            Self { unloadable: Some(mut why), .. } => {
                let error = why.remove("error")?;
                FromFunction::Unloadable(Unloadable { error, traceback: why.remove("traceback").unwrap_or_default() })
            }
            _ => return None,
        })
    }
}

impl FromFunction {
    /// Reads one message.
    ///
    /// # Errors
    /// When it is no frame, or a call that is too long.
    pub fn parse(message: &[u8]) -> Result<Self, Violation> {
        // A list would do as well for what reads it.
        if message.trim_ascii_start().first() != Some(&b'{') {
            return Err(Violation::NoFrame);
        }
        let frame: Frame = serde_json::from_slice(message).map_err(|_| Violation::NoFrame)?;
        let frame = frame.meant().ok_or(Violation::NoFrame)?;
        if matches!(frame, FromFunction::Call(_)) && message.len() > CALL_BYTES_MAX {
            return Err(Violation::TooLong);
        }
        Ok(frame)
    }
}

/// Why code could not be imported.
#[derive(Debug)]
pub struct Unloadable {
    /// In one line.
    pub error: String,
    /// As Python writes it.
    pub traceback: String,
}

/// What the function did against the protocol.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// A message longer than a frame may be.
    #[error("a frame is longer than {FRAME_BYTES_MAX} bytes, or a call than {CALL_BYTES_MAX}")]
    TooLong,
    /// A message that is no frame.
    #[error("a frame is not one of those that there are")]
    NoFrame,
    /// It does not read what it is sent.
    #[error("the function does not read its socket")]
    Deaf,
    /// The socket is gone.
    #[error("the socket failed")]
    Socket(#[source] io::Error),
}

/// The node's end.
#[derive(Debug)]
pub struct Link {
    /// Tokio has no type for packet sockets. This one only waits for the descriptor to be ready; it is read and written by `recvmsg` and
    /// `sendmsg` alone.
    socket: UnixStream,
    /// Raised when the function left its socket unread for too long, whoever it was that wrote.
    deaf: CancellationToken,
}

impl Link {
    /// A new pair: the node's end, and the function's.
    ///
    /// # Errors
    /// When the system has no more sockets.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((Self { socket: UnixStream::from_std(ours.into())?, deaf: CancellationToken::new() }, theirs))
    }

    /// Waits until the function counts as one that does not read.
    pub async fn deaf(&self) {
        self.deaf.cancelled().await;
    }

    /// Sends one message as it is.
    ///
    /// # Errors
    /// When the function does not read, or is gone.
    pub async fn send_bytes(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), Violation> {
        let sending = self.socket.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = descriptor.as_slice();
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            Ok(sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
        });
        match timeout(SEND_DEADLINE, sending).await {
            Err(_) => {
                self.deaf.cancel();
                Err(Violation::Deaf)
            }
            Ok(Err(error)) => Err(Violation::Socket(error)),
            Ok(Ok(_)) => Ok(()),
        }
    }

    /// Sends a frame, and with it one end of a stream if there is one.
    ///
    /// # Errors
    /// When the function does not read, or is gone.
    pub async fn send(&self, frame: &ToFunction<'_>, descriptor: Option<BorrowedFd<'_>>) -> Result<(), Violation> {
        let bytes = serde_json::to_vec(frame).map_err(|_| Violation::NoFrame)?;
        self.send_bytes(&bytes, descriptor).await
    }

    /// The next frame and its length in bytes, or nothing when the function closed its end.
    ///
    /// # Errors
    /// When what came is no frame.
    pub async fn receive(&self, buffer: &mut [u8]) -> Result<Option<(FromFunction, usize)>, Violation> {
        let receiving = self.socket.async_io(Interest::READABLE, || {
            let mut control = RecvAncillaryBuffer::default();
            Ok(recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::empty())?)
        });
        let message = match receiving.await {
            Ok(message) => message,
            // The peer's end was closed with our frames unread in it: it is gone, as with an end of file.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(Violation::Socket(error)),
        };
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(Violation::TooLong);
        }
        if message.bytes == 0 {
            return Ok(None);
        }
        FromFunction::parse(&buffer[..message.bytes]).map(|frame| Some((frame, message.bytes)))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A byte stream across the wall: the node's end, and the end to hand over.
///
/// # Errors
/// When the system has no more sockets.
pub fn stream_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((UnixStream::from_std(ours.into())?, theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function_sends(socket: &OwnedFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn frames_are_read_and_what_is_none_is_a_violation() {
        let (link, function) = Link::pair().unwrap();
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        function_sends(&function, br#"{"done": 1, "outcome": "failed", "error": "E"}"#, None);
        assert!(matches!(link.receive(&mut buffer).await, Ok(Some((FromFunction::Done { done: 1, outcome: Outcome::Failed { .. } }, 46)))));
        function_sends(&function, br#"{"call": 1, "name": "net.connect", "arguments": {"port": 80}}"#, None);
        let Ok(Some((FromFunction::Call(call), _))) = link.receive(&mut buffer).await else { panic!("a call is a frame") };
        assert_eq!(call.arguments::<HashMap<String, u16>>("").unwrap()["port"], 80);
        assert_eq!(call.arguments::<HashMap<String, bool>>("it takes truths").unwrap_err().text, "it takes truths");
        for garbage in [
            b"garbage".as_slice(),
            b"{}",
            b"[]",
            br#"{"done": -1, "outcome": "returned"}"#,
            br#"{"done": 1, "outcome": "perfect"}"#,
            br#"{"done": 1, "outcome": "failed"}"#,
            br#"{"call": 1}"#,
            br#"[1, null, "log", null, null, null, null, null, null, null, null]"#,
            b"\xff",
            b"{\"a\":",
        ] {
            function_sends(&function, garbage, None);
            assert!(matches!(link.receive(&mut buffer).await, Err(Violation::NoFrame)), "{garbage:?}");
        }
        function_sends(&function, &vec![b' '; FRAME_BYTES_MAX + 1], None);
        assert!(matches!(link.receive(&mut buffer).await, Err(Violation::TooLong)));
        let call = |bytes| format!(r#"{{"call": 1, "name": "log", "arguments": {{"text": "{}"}}}}"#, "x".repeat(bytes)).into_bytes();
        function_sends(&function, &call(CALL_BYTES_MAX - 100), None);
        assert!(matches!(link.receive(&mut buffer).await, Ok(Some((FromFunction::Call(_), _)))));
        function_sends(&function, &call(CALL_BYTES_MAX), None);
        assert!(matches!(link.receive(&mut buffer).await, Err(Violation::TooLong)));
        drop(function);
        assert!(matches!(link.receive(&mut buffer).await, Ok(None)));
    }

    #[tokio::test]
    async fn a_descriptor_goes_to_the_function_and_none_comes_back() {
        let (link, function) = Link::pair().unwrap();
        let (ours, theirs) = stream_pair().unwrap();
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let before = count();
        for _ in 0..20 {
            function_sends(&function, br#"{"done": 1, "outcome": "returned"}"#, Some(theirs.as_fd()));
            assert!(link.receive(&mut buffer).await.unwrap().is_some());
        }
        // Other tests of this process open descriptors as well, but not twenty.
        assert!(count() < before + 20);
        link.send(&ToFunction::Cancel { cancel: 1 }, Some(theirs.as_fd())).await.unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&function, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::empty()).unwrap();
        assert_eq!(control.drain().count(), 1);
        drop(ours);
    }
}
