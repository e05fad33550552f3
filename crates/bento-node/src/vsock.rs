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
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{
        UnixListener, UnixStream,
        unix::{ReadHalf, WriteHalf},
    },
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    conclave::{COLLATERAL_SOCKET, SESSIONS_SOCKET},
    egress::{DIRECT_SOCKET, TOR_SOCKET},
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

/// Most streams of one socket at a time: what a node has connections by default, and four times its sessions. A further one waits.
const STREAMS_MAX: usize = 1024;

/// Streams that wait to be accepted.
const WAITING_MAX: i32 = 128;

/// How long the other side may take to accept.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a listener pauses when the system has no more descriptors, so as not to spin.
const PAUSE: Duration = Duration::from_millis(200);

/// How many bytes are read at a time, as by the host for a conclave without vsock.
const CHUNK: usize = 64 * 1024;

/// Carries streams between the sockets in this directory and the machine of that number, as long as what comes back is there.
///
/// # Errors
/// When a listener cannot be opened: this kernel has no vsock, say.
pub fn carry(directory: &Path, other: u32, side: Side) -> io::Result<JoinSet<()>> {
    let mut carrying = JoinSet::new();
    for (name, port, listens) in SOCKETS {
        let path = directory.join(name);
        if listens == side {
            carrying.spawn(serve(Arc::new(Vsock::listen(port, other)?), To::Socket(path)));
        } else {
            // Left by one that was killed.
            let _ = fs::remove_file(&path);
            carrying.spawn(serve(Arc::new(UnixListener::bind(&path)?), To::Machine(other, port)));
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

async fn serve(listener: Arc<impl Listens>, to: To) {
    let room = Arc::new(Semaphore::new(STREAMS_MAX));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok(mut near) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let to = to.clone();
        tokio::spawn(async move {
            match timeout(CONNECT, to.connect()).await {
                // Both ends are Bento's, and bound how long they wait for each other.
                Ok(Ok(far)) => pass(near, far).await,
                _ => drop(near.shutdown().await),
            }
            drop(place);
        });
    }
}

/// Carries both ways until both have ended, or one end is gone altogether: nothing more can be brought to it, and the other machine may never end its own half.
async fn pass(mut one: UnixStream, mut other: UnixStream) {
    let ((one_reads, one_writes), (other_reads, other_writes)) = (one.split(), other.split());
    let _ = tokio::try_join!(copy(one_reads, other_writes), copy(other_reads, one_writes));
}

async fn copy(mut reads: ReadHalf<'_>, mut writes: WriteHalf<'_>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match reads.read(&mut chunk).await? {
            0 => break,
            count => writes.write_all(&chunk[..count]).await?,
        }
    }
    writes.shutdown().await?;
    let left = reads.ready(Interest::READABLE | Interest::WRITABLE).await?;
    if left.is_write_closed() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
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
    use super::*;

    #[test]
    fn each_socket_has_a_port_of_its_own_that_needs_no_privilege() {
        let ports: std::collections::BTreeSet<u32> = SOCKETS.iter().map(|(_, port, _)| *port).collect();
        assert!(ports.len() == SOCKETS.len() && ports.iter().all(|port| *port > 1023));
    }

    #[tokio::test]
    async fn a_stream_is_carried_both_ways_to_its_end_and_one_that_nobody_takes_ends() {
        let directory = tempfile::tempdir().unwrap();
        let (near, far) = (directory.path().join("near"), directory.path().join("far"));
        let carrying = tokio::spawn(serve(Arc::new(UnixListener::bind(&near).unwrap()), To::Socket(far.clone())));
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
