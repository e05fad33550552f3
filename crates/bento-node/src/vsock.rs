//! The way between a conclave in a virtual machine and its host: what are sockets in one directory on one machine goes over vsock here.
//!
//! Each side has a directory with the same four sockets. Where the other side listens, this listens here in its place, and carries each stream to the other
//! machine, where it is brought to the socket of that name. Nothing is read of what is carried, and nothing else uses vsock.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{
        UnixListener, UnixStream,
        unix::{ReadHalf, WriteHalf},
    },
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use tokio_util::sync::CancellationToken;

use crate::{
    conclave::{CHUNK, COLLATERAL_SOCKET, SESSIONS_SOCKET},
    config::Limits,
    egress::{DIRECT_SOCKET, TOR_SOCKET},
    meter::{self, Toll, Way},
};

/// The host, as its virtual machines know it.
pub const HOST: u32 = 2;

/// The least number that a virtual machine can have.
pub const GUEST_MIN: u32 = 3;

/// A port that the kernel chooses, and an address that is whichever this machine has.
const ANY: u32 = u32::MAX;

/// Which of the two a program is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The node beside the conclave.
    Host,
    /// The conclave.
    Inside,
}

/// Each socket, its port, and who listens at it. Above 1023, so that a node needs no privilege.
const SOCKETS: [(&str, u32, Side); 4] = [
    (SESSIONS_SOCKET, 8118, Side::Inside),
    (TOR_SOCKET, 8119, Side::Host),
    (DIRECT_SOCKET, 8120, Side::Host),
    (COLLATERAL_SOCKET, 8121, Side::Host),
];

/// Streams beside sessions, and beside connections: what each socket has taken a place for before anybody comes, questions to the conclave, and some that bring
/// collateral.
const STREAMS_MORE: usize = 2 * SOCKETS.len();

/// Longest silence of one end after the other has ended its half. Longer than what the ends of Bento allow each other, so that this cuts none of theirs off.
const HALF_OPEN: Duration = Duration::from_secs(600);

/// Streams that wait to be accepted.
const WAITING_MAX: i32 = 128;

/// How long the other side may take to accept.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a listener pauses when the system has no more descriptors, so as not to spin.
const PAUSE: Duration = Duration::from_millis(200);

/// Carries streams between the sockets in this directory and the machine of that number, as long as what comes back is there: as many to the conclave as this
/// side has sessions, and as many from it as this side has connections, so that neither keeps the other out. A further one waits, whoever begins it: each takes two
/// descriptors, and the other machine may be hostile.
///
/// # Errors
/// When a listener cannot be opened: this kernel has no vsock, say.
pub fn carry(directory: &Path, other: u32, side: Side, limits: &Limits) -> io::Result<JoinSet<()>> {
    let mut carrying = JoinSet::new();
    let room = |most: usize| Arc::new(Semaphore::new(most.saturating_add(STREAMS_MORE).min(Semaphore::MAX_PERMITS)));
    let (sessions, connections) = (room(limits.sessions), room(limits.connections));
    for (name, port, listens) in SOCKETS {
        let path = directory.join(name);
        let room = if name == SESSIONS_SOCKET { &sessions } else { &connections };
        if listens == side {
            carrying.spawn(serve(Arc::new(Vsock::listen(port, other)?), To::Socket(path), Arc::clone(room)));
        } else {
            // Left by one that was killed.
            let _ = fs::remove_file(&path);
            carrying.spawn(serve(Arc::new(UnixListener::bind(&path)?), To::Machine(other, port), Arc::clone(room)));
        }
    }
    Ok(carrying)
}

/// Where a stream is carried.
#[derive(Clone, Debug)]
enum To {
    Socket(PathBuf),
    Machine(u32, u32),
}

impl To {
    async fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Self::Socket(path) => UnixStream::connect(path).await,
            Self::Machine(number, port) => vsock_connect(*number, *port).await,
        }
    }
}

/// Where streams come from.
trait Listens: Send + Sync + 'static {
    fn accept(&self) -> impl Future<Output = io::Result<UnixStream>> + Send;
}

impl Listens for UnixListener {
    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// A port of this machine, for the one other machine alone.
struct Vsock {
    socket: Socket,
    /// The same one, as tokio knows when it is ready.
    ready: UnixStream,
    other: u32,
}

impl Vsock {
    fn listen(port: u32, other: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
        socket.bind(&SockAddr::vsock(ANY, port))?;
        socket.listen(WAITING_MAX)?;
        Ok(Self { ready: as_stream(socket.try_clone()?)?, socket, other })
    }
}

impl Listens for Vsock {
    async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, from) = self.ready.async_io(Interest::READABLE, || self.socket.accept()).await?;
            // A host may have other virtual machines, and a machine other programs, that know the port.
            if from.as_vsock_address().is_some_and(|(number, _)| number == self.other) {
                return as_stream(stream);
            }
        }
    }
}

async fn serve(listener: Arc<impl Listens>, to: To, room: Arc<Semaphore>) {
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok(mut near) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let to = to.clone();
        tokio::spawn(async move {
            match timeout(CONNECT, to.connect()).await {
                Ok(Ok(far)) => pass(near, far).await,
                _ => drop(near.shutdown().await),
            }
            drop(place);
        });
    }
}

/// Carries both ways until both have ended, or one end is gone altogether: nothing more can be brought to it, and the other machine may never end its own half. One
/// that goes later than it ends its half is not noticed; then the other's silence ends the stream.
async fn pass(mut one: UnixStream, mut other: UnixStream) {
    let ((one_reads, one_writes), (other_reads, other_writes)) = (one.split(), other.split());
    let half = CancellationToken::new();
    let _ = tokio::try_join!(copy(one_reads, other_writes, Way::Sent, &half), copy(other_reads, one_writes, Way::Received, &half));
}

async fn copy(mut reads: ReadHalf<'_>, mut writes: WriteHalf<'_>, way: Way, half: &CancellationToken) -> io::Result<()> {
    meter::copy(&mut reads, &mut writes, &Free, way, half).await?;
    let left = reads.ready(Interest::READABLE | Interest::WRITABLE).await?;
    if left.is_write_closed() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
}

/// What passes here is counted and slowed where it comes from or goes to.
struct Free;

impl Toll for Free {
    async fn pass(&self, _way: Way, _bytes: usize) -> io::Result<()> {
        Ok(())
    }

    fn chunk_bytes(&self) -> usize {
        CHUNK
    }

    fn half_open(&self) -> Duration {
        HALF_OPEN
    }
}

async fn vsock_connect(number: u32, port: u32) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::vsock(number, port)) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        connected => connected?,
    }
    let stream = as_stream(socket)?;
    // Until it is connected, or is refused.
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// A stream of whatever family is read, written and ended alike; tokio has no type for this one.
fn as_stream(socket: Socket) -> io::Result<UnixStream> {
    socket.set_nonblocking(true)?;
    UnixStream::from_std(StdStream::from(OwnedFd::from(socket)))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_ends_its_half_and_goes_later_does_not_leave_the_stream_to_a_silent_other() {
        let ((mut client, near), (far, mut served)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let carrying = tokio::spawn(pass(near, far));
        client.write_all(b"asked").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        served.read_to_end(&mut heard).await.unwrap();
        // What comes late still comes, and each time there is as much time again.
        for _ in 0..3 {
            sleep(HALF_OPEN - Duration::from_secs(1)).await;
            served.write_all(b"answer").await.unwrap();
            let mut answer = [0; 6];
            client.read_exact(&mut answer).await.unwrap();
        }
        drop(client);
        let begun = tokio::time::Instant::now();
        carrying.await.unwrap();
        assert!(begun.elapsed() <= HALF_OPEN);
        assert_eq!((heard.as_slice(), served.read(&mut [0; 1]).await.unwrap()), (b"asked".as_slice(), 0));
    }

    #[tokio::test]
    async fn streams_beyond_the_room_of_sockets_that_share_one_wait_until_one_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let room = Arc::new(Semaphore::new(2));
        let (one, other) = (UnixListener::bind(at("one")).unwrap(), UnixListener::bind(at("other")).unwrap());
        let listener = UnixListener::bind(at("far")).unwrap();
        for near in [one, other] {
            tokio::spawn(serve(Arc::new(near), To::Socket(at("far")), Arc::clone(&room)));
        }
        // Each of the two has taken a place before it listens.
        let first = UnixStream::connect(at("one")).await.unwrap();
        let (held, _) = listener.accept().await.unwrap();
        let _second = UnixStream::connect(at("one")).await.unwrap();
        assert!(timeout(Duration::from_millis(300), listener.accept()).await.is_err());
        drop((first, held));
        timeout(CONNECT, listener.accept()).await.unwrap().unwrap();
    }

    #[test]
    fn each_socket_has_a_port_of_its_own_that_needs_no_privilege() {
        let ports: std::collections::BTreeSet<u32> = SOCKETS.iter().map(|(_, port, _)| *port).collect();
        assert!(ports.len() == SOCKETS.len() && ports.iter().all(|port| *port > 1023));
    }

    #[tokio::test]
    async fn a_stream_is_carried_both_ways_to_its_end_and_one_that_nobody_takes_ends() {
        let directory = tempfile::tempdir().unwrap();
        let (near, far) = (directory.path().join("near"), directory.path().join("far"));
        let carrying =
            tokio::spawn(serve(Arc::new(UnixListener::bind(&near).unwrap()), To::Socket(far.clone()), Arc::new(Semaphore::new(9))));
        let mut heard = Vec::new();
        // Nobody listens yet.
        UnixStream::connect(&near).await.unwrap().read_to_end(&mut heard).await.unwrap();
        assert!(heard.is_empty());

        let listener = UnixListener::bind(&far).unwrap();
        let mut client = UnixStream::connect(&near).await.unwrap();
        let (mut served, _) = listener.accept().await.unwrap();
        client.write_all(&[7; 100_000]).await.unwrap();
        client.shutdown().await.unwrap();
        served.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, [7; 100_000]);
        // The other direction is open still.
        served.write_all(b"answer").await.unwrap();
        drop(served);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");

        // One that is gone, and not only has ended its half, is gone for the other, who has ended nothing.
        let mut client = UnixStream::connect(&near).await.unwrap();
        let (mut served, _) = listener.accept().await.unwrap();
        served.write_all(b"last").await.unwrap();
        drop(served);
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answerlast");
        let gone = async {
            while !client.ready(Interest::READABLE | Interest::WRITABLE).await.unwrap().is_write_closed() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.unwrap();
        carrying.abort();
    }
}
