//! The host's side of a conclave: clients' sessions that go there, and the streams that it asks for.
//!
//! The conclave is another program, on this machine or in a virtual machine on it, and has one directory in common with this node: it listens at
//! `sessions.sock`, this node at `tor.sock` and `direct.sock`. What passes is ciphertext, or what functions send to elsewhere; nothing here
//! judges evidence, and nothing here could.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use bento::NodeAddress;
use bento_proto::{Egress as Kind, Size};
use bento_tor::Isolation;

use crate::{
    controller::socks::{self, Answer, Wanted},
    egress::{DIRECT_SOCKET, Permit, Stream, TOR_SOCKET, by_tor},
    link::{CallError, CallErrorKind},
    node::Node,
};

/// Where a conclave listens for its host, in the directory that both have.
pub const SESSIONS_SOCKET: &str = "sessions.sock";

/// Where this node hands over what the hardware's maker published.
pub const COLLATERAL_SOCKET: &str = "collateral.sock";

/// Longest name of a node in front of a session: the same bound is in evidence.
pub const NODE_BYTES_MAX: usize = 64;

/// Longest name of a conclave's kind.
const KIND_BYTES_MAX: u64 = 32;

/// Longest Hello, with its length in front.
const HELLO_BYTES_MAX: u32 = 128;

/// How often a conclave is asked what it is, so that a node does not go on offering one that has gone.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The same for one that does not answer: it may be starting.
const ASK_SOON: Duration = Duration::from_secs(1);

/// How long it may take to say so, and to take a session.
const ANSWER: Duration = Duration::from_secs(5);

/// How many bytes are read at a time: two of the channel's records.
const CHUNK: usize = 64 * 1024;

/// The conclave beside this node.
#[derive(Debug)]
pub struct Conclave {
    directory: PathBuf,
    kind: Mutex<Option<String>>,
    sessions: AtomicUsize,
    streams: AtomicUsize,
    bytes: AtomicU64,
}

/// Numbers of it for the operator.
#[derive(Debug, Deserialize, Serialize)]
pub struct ConclaveStatus {
    /// What it says that it is, when it answers.
    pub kind: Option<String>,
    /// Clients' sessions in it.
    pub sessions: usize,
    /// Streams of its functions to elsewhere.
    pub streams: usize,
    /// Bytes of both since the start.
    pub bytes: Size,
}

impl Conclave {
    /// One that has this directory in common with this node.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, kind: Mutex::default(), sessions: AtomicUsize::new(0), streams: AtomicUsize::new(0), bytes: AtomicU64::new(0) }
    }

    /// What it says that it is, while it answers. A client believes its evidence, and not this.
    pub fn kind(&self) -> Option<String> {
        self.kind.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Numbers for the operator.
    pub fn status(&self) -> ConclaveStatus {
        ConclaveStatus {
            kind: self.kind(),
            sessions: self.sessions.load(Ordering::Relaxed),
            streams: self.streams.load(Ordering::Relaxed),
            bytes: Size::bytes(self.bytes.load(Ordering::Relaxed)),
        }
    }

    /// Asks again and again what it is.
    pub async fn watch(&self) {
        let mut told = None;
        loop {
            let kind = timeout(ANSWER, self.ask()).await.ok().and_then(Result::ok);
            if told.as_ref() != Some(&kind) {
                match &kind {
                    Some(kind) => info!(kind, "the conclave answers"),
                    None => warn!(directory = %self.directory.display(), "the conclave does not answer"),
                }
            }
            self.kind.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&kind);
            let pause = if kind.is_some() { ASK_AGAIN } else { ASK_SOON };
            told = Some(kind);
            sleep(pause).await;
        }
    }

    /// A session without a node's name in front is this question.
    async fn ask(&self) -> io::Result<String> {
        let mut stream = UnixStream::connect(self.directory.join(SESSIONS_SOCKET)).await?;
        stream.write_all(&[0]).await?;
        let mut kind = String::new();
        stream.take(KIND_BYTES_MAX).read_to_string(&mut kind).await?;
        let is_name = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        if is_name { Ok(kind) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Brings a client's session to it, with this node's name in front, and carries both ways until one ends or nothing passes for so long.
    async fn carry(&self, mut client: impl AsyncRead + AsyncWrite + Unpin, node: &[u8], idle: Duration) {
        let connecting = async {
            let mut inside = UnixStream::connect(self.directory.join(SESSIONS_SOCKET)).await?;
            let length = u8::try_from(node.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            inside.write_all(&[&[length], node].concat()).await?;
            Ok::<_, io::Error>(inside)
        };
        match timeout(ANSWER, connecting).await {
            Ok(Ok(inside)) => {
                let _one = Counted::new(&self.sessions);
                pass(client, inside, Some(idle), &self.bytes).await;
            }
            _ => none(&mut client, idle).await,
        }
    }
}

/// A session that asks for a conclave: its first byte is the first of a length that is far below 2^24, and no request of HTTP begins so.
pub async fn session(client: impl AsyncRead + AsyncWrite + Unpin, node: &Node, idle: Duration) {
    match (node.conclave(), node.identity()) {
        (Some(conclave), Some(identity)) => conclave.carry(client, &identity, idle).await,
        _ => none(client, idle).await,
    }
}

/// Says that there is none: an empty message.
async fn none(mut client: impl AsyncRead + AsyncWrite + Unpin, idle: Duration) {
    let saying = async {
        // All of it is read first: a stream that is closed with something unread may lose what was written.
        let length = client.read_u32().await?.min(HELLO_BYTES_MAX);
        client.read_exact(&mut vec![0; length as usize]).await?;
        client.write_all(&[0; 4]).await?;
        client.shutdown().await
    };
    let _ = timeout(idle, saying).await;
}

/// Opens the streams that the conclave asks for that way, as far as this node's own policy goes.
pub async fn serve(listener: UnixListener, way: Kind, node: Arc<Node>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = node.stopping.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        // A conclave has no more at a time than this node's functions together; one that asks for more waits.
        let Ok(room) = node.connections().acquire_owned().await else { return };
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            tokio::select! {
                () = open(stream, way, &node) => {}
                () = node.stopping.cancelled() => {}
            }
            drop(room);
        });
    }
}

/// Hands over the file with the collateral, as it is at that moment, to whoever asks: it is public, and signed by the hardware's maker.
pub async fn staple(listener: UnixListener, file: PathBuf, node: Arc<Node>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = node.stopping.cancelled() => return,
        };
        let Ok((mut stream, _)) = accepted else {
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        match tokio::fs::read(&file).await {
            // One at a time, each within its time: there is one conclave.
            Ok(bytes) => drop(timeout(ANSWER, stream.write_all(&bytes)).await),
            Err(error) => warn!(file = %file.display(), "the collateral cannot be read: {error}"),
        }
    }
}

/// Sockets for what a conclave asks, each with the way that it stands for.
pub fn sockets(directory: &Path) -> [(PathBuf, Kind); 2] {
    [(directory.join(TOR_SOCKET), Kind::Tor), (directory.join(DIRECT_SOCKET), Kind::Direct)]
}

/// What the host does for a question.
enum Done {
    Connected(Box<dyn Stream>),
    Found(IpAddr),
}

async fn open(mut stream: UnixStream, way: Kind, node: &Node) {
    let Some(conclave) = node.conclave() else { return };
    let Ok(Ok(Some(wanted))) = timeout(ANSWER, socks::wanted_or_asked(&mut stream)).await else { return };
    match reach(&wanted, way, node).await {
        Ok(Done::Found(address)) => {
            let _ = socks::tell(&mut stream, address).await;
        }
        Ok(Done::Connected(far)) => {
            if socks::answer(&mut stream, Answer::Succeeded).await.is_ok() {
                let _one = Counted::new(&conclave.streams);
                pass(stream, far, None, &conclave.bytes).await;
            }
        }
        Err(error) => {
            let _ = socks::answer(&mut stream, error.kind.into()).await;
        }
    }
}

async fn reach(wanted: &Wanted, way: Kind, node: &Node) -> Result<Done, CallError> {
    let (policy, egress) = (node.policy(), node.egress());
    let Wanted { host, port, isolation } = wanted;
    // What the conclave keeps apart stays apart, and shares nothing with this node's own functions.
    let (user, password) = isolation.as_ref().ok_or_else(|| CallError::new(CallErrorKind::BadCall, "a stream without a name"))?;
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let isolation = Isolation::new(&format!("conclave {} {}", hex(user), hex(password)));
    let elsewhere = policy.offers.calls.iter().any(|pattern| pattern.matches("nodes.install"));
    let denied = |text: &str| Err(CallError::new(CallErrorKind::Refused, text));

    if *port != 0
        && let Ok(address) = format!("{host}:{port}").parse::<NodeAddress>()
    {
        if address.onion().is_some() {
            if way != Kind::Tor || !elsewhere {
                return denied("functions of this node have none on others");
            }
            let socks = egress.socks().ok_or_else(|| CallError::new(CallErrorKind::Unreachable, "Tor does not run"))?;
            let deadline = node.config().limits.connect.duration();
            let far = socks.connect(host, *port, &isolation, deadline).await.map_err(|error| by_tor(&error))?;
            return Ok(Done::Connected(Box::new(far)));
        }
        if elsewhere && let Some(near) = address.loopback().filter(|_| node.config().nodes.iter().any(|known| known.address == address)) {
            let far = tokio::net::TcpStream::connect(near).await;
            let far = far.map_err(|_| CallError::new(CallErrorKind::Unreachable, "nothing answers there"))?;
            let _ = far.set_nodelay(true);
            return Ok(Done::Connected(Box::new(far)));
        }
    }
    if !policy.offers.egress.iter().any(|offered| *offered == way || *offered == Kind::Any) {
        return denied("this node lets nothing leave that way");
    }
    if *port == 0 {
        return egress.resolve(way, host, &isolation).await.map(Done::Found);
    }
    let (far, _) = egress.leave(way, host, *port, Permit::Offers(&policy), &isolation).await?;
    Ok(Done::Connected(far))
}

/// One of them, as long as it is there.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Carries both ways until both have ended, one broke off, or nothing passed for so long.
async fn pass(
    one: impl AsyncRead + AsyncWrite + Unpin,
    other: impl AsyncRead + AsyncWrite + Unpin,
    idle: Option<Duration>,
    bytes: &AtomicU64,
) {
    let (born, last_ms) = (Instant::now(), AtomicU64::new(0));
    let beat = |count: usize| {
        bytes.fetch_add(count as u64, Ordering::Relaxed);
        last_ms.store(u64::try_from(born.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    };
    let over = async {
        let Some(idle) = idle else { return std::future::pending().await };
        loop {
            let last = last_ms.load(Ordering::Relaxed);
            sleep_until(born + Duration::from_millis(last) + idle).await;
            if last_ms.load(Ordering::Relaxed) == last {
                return;
            }
        }
    };
    let (mut one_reads, mut one_writes) = tokio::io::split(one);
    let (mut other_reads, mut other_writes) = tokio::io::split(other);
    tokio::select! {
        _ = async { tokio::try_join!(copy(&mut one_reads, &mut other_writes, &beat), copy(&mut other_reads, &mut one_writes, &beat)) } => {}
        () = over => {}
    }
}

async fn copy(reads: &mut (impl AsyncRead + Unpin), writes: &mut (impl AsyncWrite + Unpin), beat: &impl Fn(usize)) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match reads.read(&mut chunk).await? {
            0 => return writes.shutdown().await,
            count => {
                writes.write_all(&chunk[..count]).await?;
                beat(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_carried_whole_and_silence_ends_it() {
        let (client, mut client_far) = tokio::io::duplex(100);
        let (inside, mut inside_far) = tokio::io::duplex(100);
        let (bytes, idle) = (AtomicU64::new(0), Duration::from_secs(9));
        let begun = Instant::now();
        let talk = async {
            client_far.write_all(&[7; 250]).await.unwrap();
            let mut heard = [0; 250];
            inside_far.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, [7; 250]);
            // Five seconds of silence are allowed, and nine are not.
            sleep(Duration::from_secs(5)).await;
            inside_far.write_all(b"answer").await.unwrap();
            let mut answer = Vec::new();
            client_far.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"answer");
        };
        let carried = async { pass(client, inside, Some(idle), &bytes).await };
        tokio::join!(
            async {
                tokio::join!(carried);
            },
            talk
        );
        assert_eq!(bytes.load(Ordering::Relaxed), 256);
        assert_eq!(begun.elapsed().as_secs(), 14);
    }

    #[tokio::test]
    async fn a_node_without_a_conclave_says_so_in_the_channels_words() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let asked = async {
            theirs.write_all(&[&[0, 0, 0, 40][..], &[1; 40]].concat()).await.unwrap();
            let mut answer = Vec::new();
            theirs.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let ((), answer) = tokio::join!(none(ours, Duration::from_secs(5)), asked);
        assert_eq!(answer, [0; 4]);
    }
}
