//! The host's side of a conclave: clients' sessions that go there, and the streams that it asks for.
//!
//! The conclave is another program, on this machine or in a virtual machine on it, and has one directory in common with this node: it listens at
//! `sessions.sock`, this node at `tor.sock` and `direct.sock`. What passes is ciphertext, or what functions send to elsewhere; nothing here
//! judges evidence, and nothing here could.
//!
//! What the conclave grants its functions cannot be seen from here, and who runs in it may be hostile. So it is bounded as a whole: by a rate, for
//! sessions and streams together; and its streams by what passes within a day, and by a part of the node's connections.

mod bounds;

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
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use bento::NodeAddress;
use bento_proto::{Egress as Kind, Policy, Rate, Size, Span};
use bento_tor::Isolation;

use self::bounds::{Counted, pass};
use crate::{
    config,
    controller::socks::{self, Answer, Wanted},
    day::Day,
    egress::{DIRECT_SOCKET, Permit, Stream, TOR_SOCKET, by_tor},
    link::{CallError, CallErrorKind},
    meter::{self, Meter, Toll, Way},
    node::Node,
    process::TRY_BYTES,
};

/// Where a conclave listens for its host, in the directory that both have.
pub const SESSIONS_SOCKET: &str = "sessions.sock";

/// Where this node hands over what the hardware's maker published.
pub const COLLATERAL_SOCKET: &str = "collateral.sock";

/// In place of the length of a node's name in front of a session: a quote is asked for, over nothing. Which machine it is of is what its operator has to know
/// to fetch what was published about it.
pub const QUOTE: u8 = 255;

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
pub(crate) const CHUNK: usize = 64 * 1024;

/// It gets at most this part of the node's connections: the other is for the node's own functions.
const SHARE: usize = 2;

/// The conclave beside this node.
#[derive(Debug)]
pub struct Conclave {
    directory: PathBuf,
    collateral: Option<PathBuf>,
    kind: Mutex<Option<String>>,
    sessions: AtomicUsize,
    streams: AtomicUsize,
    /// Of both, those that wait for their turn.
    waiting: AtomicUsize,
    /// Of its streams to elsewhere, how many were ended or not begun since the day's traffic was used up.
    ended: AtomicU64,
    /// Counts all bytes, and slows them.
    meter: Meter,
    rate: Mutex<Rate>,
    day: Mutex<Day>,
    /// Most bytes within a day.
    traffic: AtomicU64,
    /// Room for streams.
    connections: Arc<Semaphore>,
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
    /// Of both, those that wait for their turn at this moment: the rate is used up.
    #[serde(default)]
    pub waiting: usize,
    /// Of its streams, how many were ended, or not begun, since the traffic of 24 hours was used up.
    #[serde(default)]
    pub ended: u64,
    /// Bytes to it since the start,
    #[serde(default)]
    pub received: Size,
    /// and from it.
    #[serde(default)]
    pub sent: Size,
    /// What its streams passed within the last 24 hours.
    #[serde(default)]
    pub today: Size,
    /// Most that may pass within 24 hours,
    #[serde(default)]
    pub traffic: Size,
    /// and in a second.
    pub rate: Rate,
    /// Does the configuration name collateral that is not there?
    #[serde(default)]
    pub collateral_missing: bool,
    /// How long ago it was written, where it is there.
    #[serde(default)]
    pub collateral_age: Option<Span>,
}

impl Conclave {
    /// The one that the configuration names, if it does.
    pub fn new(config: &config::Config, policy: &Policy) -> Option<Self> {
        let rate = Rate::default();
        let new = Self {
            directory: config.conclave.directory.clone()?,
            collateral: config.conclave.collateral.clone(),
            kind: Mutex::default(),
            sessions: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            meter: Meter::new(u64::MAX, rate.bytes_per_second()),
            rate: Mutex::new(rate),
            day: Mutex::new(Day::new(std::time::Instant::now())),
            traffic: AtomicU64::new(0),
            connections: Arc::new(Semaphore::new(config.limits.connections.div_ceil(SHARE))),
        };
        new.bound(&config.conclave, policy);
        Some(new)
    }

    /// What it says that it is, while it answers. A client believes its evidence, and not this.
    pub fn kind(&self) -> Option<String> {
        self.kind.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Numbers for the operator.
    pub fn status(&self) -> ConclaveStatus {
        let collateral_age = self.collateral.as_deref().and_then(age);
        ConclaveStatus {
            kind: self.kind(),
            sessions: self.sessions.load(Ordering::Relaxed),
            streams: self.streams.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
            received: Size::bytes(self.meter.received()),
            sent: Size::bytes(self.meter.sent()),
            today: Size::bytes(self.day.lock().unwrap_or_else(PoisonError::into_inner).total(std::time::Instant::now())),
            traffic: Size::bytes(self.traffic.load(Ordering::Relaxed)),
            rate: *self.rate.lock().unwrap_or_else(PoisonError::into_inner),
            collateral_missing: self.collateral.is_some() && collateral_age.is_none(),
            collateral_age,
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
                pass(inside, client, self, idle).await;
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
        let node = Arc::clone(&node);
        // One that asks for more at a time than there is room for waits, and so does what it asks for next.
        let room = tokio::select! {
            room = room(&node) => room,
            () = node.stopping.cancelled() => return,
        };
        let Some(room) = room else { return };
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
    // Counted as a function's, also when nothing comes of it: a try makes the node work, and Tor.
    if conclave.pass(Way::Sent, TRY_BYTES).await.is_err() {
        return drop(socks::answer(&mut stream, Answer::NotAllowed).await);
    }
    match reach(&wanted, way, node).await {
        Ok(Done::Found(address)) => {
            let _ = socks::tell(&mut stream, address).await;
        }
        Ok(Done::Connected(far)) => {
            if socks::answer(&mut stream, Answer::Succeeded).await.is_ok() {
                let _one = Counted::new(&conclave.streams);
                meter::join(stream, far, conclave).await;
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

/// How long ago a file was written. One of the future is new: what it has is judged by clients.
fn age(file: &Path) -> Option<Span> {
    let written = std::fs::metadata(file).and_then(|found| found.modified()).ok()?;
    Some(Span::seconds(written.elapsed().unwrap_or_default().as_secs()))
}

/// Room for one stream of the conclave: of its part, and of the node's.
async fn room(node: &Node) -> Option<[OwnedSemaphorePermit; 2]> {
    let own = Arc::clone(&node.conclave()?.connections).acquire_owned().await.ok()?;
    Some([own, node.connections().acquire_owned().await.ok()?])
}

#[cfg(test)]
mod tests {
    use super::{bounds::tests::conclave, *};

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

    #[test]
    fn the_operator_sees_how_old_the_collateral_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("collateral");
        let with = conclave(&format!("collateral = {:?}", file.display().to_string()), "");
        assert!(with.status().collateral_missing && !conclave("", "").status().collateral_missing);
        let written = std::fs::File::create(&file).unwrap();
        written.set_modified(std::time::SystemTime::now() - Duration::from_secs(8 * 86_400)).unwrap();
        let (status, age) = (with.status(), with.status().collateral_age.unwrap().as_seconds_up());
        assert!(!status.collateral_missing);
        assert!((8 * 86_400..8 * 86_400 + 600).contains(&age), "{age}");
    }
}
