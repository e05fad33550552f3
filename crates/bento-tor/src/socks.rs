//! Streams through Tor's SOCKS port.
//!
//! A small SOCKS5 client of our own: the existing crate for tokio folds Tor's extended errors (F0 to F7) into "unknown error", and those
//! are what tells a missing onion service from a busy one. It sends host names as they are and never resolves one itself.

mod error;

pub use error::SocksError;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// The greeting: version 5, one method, user name and password.
const GREETING: [u8; 3] = [5, 1, 2];
/// The user name of all streams; the password is what isolates.
const NAME: &str = "bento";
const CONNECT: u8 = 1;
/// Tor's own command: look a name up and answer with an address.
const RESOLVE: u8 = 0xF0;

/// Where a Tor client listens for SOCKS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Socks {
    place: Place,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Socks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Tcp(address) => write!(f, "{address}"),
            Place::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What a stream may share circuits with: streams of the same isolation may, others never do.
///
/// It becomes the SOCKS user name and password (`IsolateSOCKSAuth`, Tor's default). Only a digest of the given text is sent.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Isolation {
    password: String,
}

impl Isolation {
    /// The isolation with this name. The same name gives the same isolation, in any process that uses the same Tor.
    pub fn new(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        Self { password: data_encoding::HEXLOWER.encode(&digest) }
    }

    /// The one that these SOCKS credentials are of, as Tor tells them of a stream, if they are of one.
    pub(crate) fn of(name: &str, password: String) -> Option<Self> {
        let is_digest = password.len() == 64 && password.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        (name == NAME && is_digest).then_some(Self { password })
    }

    /// The SOCKS credentials that it becomes, as Tor tells them of a stream.
    pub fn told(&self) -> String {
        format!("SOCKS_USERNAME=\"{NAME}\" SOCKS_PASSWORD=\"{}\"", self.password)
    }

    /// This one, kept apart by another: streams of two owners do not share circuits, whatever they are for.
    #[must_use]
    pub fn within(&self, owner: &Self) -> Self {
        Self::new(&format!("{} of {}", self.password, owner.password))
    }

    /// Another one that belongs to this one alone: for a new try, when the circuits of the last seem to hang.
    #[must_use]
    pub fn afresh(&self, number: u32) -> Self {
        Self::new(&format!("{} {number}", self.password))
    }
}

impl std::fmt::Debug for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Isolation")
    }
}

impl Socks {
    /// A SOCKS port on a TCP address.
    pub fn tcp(address: SocketAddr) -> Self {
        Self { place: Place::Tcp(address) }
    }

    /// A SOCKS port on a Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Unix(path.into()) }
    }

    /// Opens a stream to a host (a name, an IP address or an onion service) within the deadline.
    pub async fn connect(&self, host: &str, port: u16, isolation: &Isolation, deadline: Duration) -> Result<Stream, SocksError> {
        let request = request(CONNECT, host, port)?;
        timeout(deadline, async {
            let mut stream = self.open(isolation).await?;
            exchange(&mut stream, &request).await?;
            Ok(stream)
        })
        .await
        .unwrap_or(Err(SocksError::Deadline(deadline)))
    }

    /// Looks a name up at the far end of a circuit, within the deadline.
    pub async fn resolve(&self, name: &str, isolation: &Isolation, deadline: Duration) -> Result<IpAddr, SocksError> {
        let request = request(RESOLVE, name, 0)?;
        timeout(deadline, async {
            let mut stream = self.open(isolation).await?;
            match exchange(&mut stream, &request).await? {
                Bound::Ip(address) => Ok(address),
                Bound::Name => Err(SocksError::Protocol("a name was answered where an address was asked for")),
            }
        })
        .await
        .unwrap_or(Err(SocksError::Deadline(deadline)))
    }

    /// Says whether something that speaks SOCKS5 listens here, within the deadline.
    pub async fn answers(&self, deadline: Duration) -> bool {
        let greet = async {
            let mut stream = self.reach().await.ok()?;
            stream.write_all(&[5, 1, 0]).await.ok()?;
            let mut choice = [0; 2];
            stream.read_exact(&mut choice).await.ok()?;
            (choice[0] == 5).then_some(())
        };
        matches!(timeout(deadline, greet).await, Ok(Some(())))
    }

    async fn reach(&self) -> Result<Stream, SocksError> {
        let reached = match &self.place {
            Place::Tcp(address) => TcpStream::connect(address).await.and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(Inner::Tcp(stream))
            }),
            Place::Unix(path) => UnixStream::connect(path).await.map(Inner::Unix),
        };
        match reached {
            Ok(inner) => Ok(Stream { inner }),
            Err(source) => Err(SocksError::NoTor { place: self.to_string(), source }),
        }
    }

    /// Connects to Tor and says who we are, so that the next thing to send is the request.
    async fn open(&self, isolation: &Isolation) -> Result<Stream, SocksError> {
        let mut stream = self.reach().await?;
        stream.write_all(&GREETING).await.map_err(SocksError::Broken)?;
        let choice: [u8; 2] = read(&mut stream).await?;
        match choice {
            [5, 2] => {}
            [5, _] => return Err(SocksError::Protocol("it takes no user name, so circuits cannot be isolated")),
            _ => return Err(SocksError::Protocol("it does not speak SOCKS5")),
        }
        let mut login = vec![1, NAME.len() as u8];
        login.extend_from_slice(NAME.as_bytes());
        // A digest in hexadecimal has 64 characters, so its length fits in one byte.
        login.push(isolation.password.len() as u8);
        login.extend_from_slice(isolation.password.as_bytes());
        stream.write_all(&login).await.map_err(SocksError::Broken)?;
        match read(&mut stream).await? {
            [_, 0] => Ok(stream),
            [_, _] => Err(SocksError::Protocol("it refused the user name that isolates circuits")),
        }
    }
}

/// What a request was bound to. Tor answers CONNECT with 0.0.0.0 and RESOLVE with the address.
enum Bound {
    Ip(IpAddr),
    Name,
}

/// Writes a request: version, command, reserved, then the address as in RFC 1928, section 5.
fn request(command: u8, host: &str, port: u16) -> Result<Vec<u8>, SocksError> {
    let mut bytes = vec![5, command, 0];
    // Brackets around IPv6 addresses belong to URLs, and people paste them.
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    match bare.parse() {
        Ok(IpAddr::V4(address)) => {
            bytes.push(1);
            bytes.extend_from_slice(&address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            bytes.push(4);
            bytes.extend_from_slice(&address.octets());
        }
        Err(_) => {
            let fits = (1..=253).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_graphic());
            if !fits {
                return Err(SocksError::BadName);
            }
            bytes.extend_from_slice(&[3, host.len() as u8]);
            bytes.extend_from_slice(host.as_bytes());
        }
    }
    bytes.extend_from_slice(&port.to_be_bytes());
    Ok(bytes)
}

async fn exchange(stream: &mut Stream, request: &[u8]) -> Result<Bound, SocksError> {
    stream.write_all(request).await.map_err(SocksError::Broken)?;
    let head: [u8; 4] = read(stream).await?;
    if head[0] != 5 {
        return Err(SocksError::Protocol("its reply is not SOCKS5"));
    }
    if head[1] != 0 {
        return Err(SocksError::from_reply(head[1]));
    }
    // The whole reply is read, or its tail would be taken for the stream's first bytes.
    let bound = match head[3] {
        1 => Bound::Ip(Ipv4Addr::from(read::<4>(stream).await?).into()),
        4 => Bound::Ip(Ipv6Addr::from(read::<16>(stream).await?).into()),
        3 => {
            let [length] = read(stream).await?;
            let mut name = vec![0; usize::from(length)];
            stream.read_exact(&mut name).await.map_err(SocksError::Broken)?;
            Bound::Name
        }
        _ => return Err(SocksError::Protocol("its reply has an unknown kind of address")),
    };
    let _port: [u8; 2] = read(stream).await?;
    Ok(bound)
}

async fn read<const N: usize>(stream: &mut Stream) -> Result<[u8; N], SocksError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map_err(SocksError::Broken)?;
    Ok(bytes)
}

/// A stream through Tor.
#[derive(Debug)]
pub struct Stream {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Inner::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Inner::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Inner::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Inner::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests;
