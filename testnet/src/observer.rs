//! Who watches a client's line: sees when how many bytes pass in each direction, and nothing else.
//!
//! Tor reaches its guards through it (`HTTPSProxy`), so that it needs no privilege and misses nothing. It delays nothing and changes nothing.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Longest head of a CONNECT request.
const HEAD_BYTES_MAX: u64 = 8 * 1024;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Most pieces that are remembered: some hours of a fast stream.
const SEEN_MAX: usize = 4_000_000;

/// Some bytes that passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// To the client?
    pub down: bool,
    /// How many.
    pub bytes: usize,
}

/// A proxy that takes `CONNECT`, and remembers what passes. Dropped, it ends.
#[derive(Debug)]
pub struct Observer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Starts one at a free port of this address.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    // A connection that fails is Tor's to make again.
                    let _ = pass(stream, &log).await;
                });
            }
        });
        Ok(Self { address, seen, task })
    }

    /// The line that a client's `tor` needs to come by here.
    pub fn torrc_line(&self) -> String {
        format!("HTTPSProxy {}", self.address)
    }

    /// All that passed since it was asked last.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, seen: &Mutex<Vec<Seen>>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (reads, mut writes) = client.into_split();
    let mut reads = BufReader::new(reads);
    let mut line = String::new();
    (&mut reads).take(HEAD_BYTES_MAX).read_line(&mut line).await?;
    let to = line.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).ok_or(io::ErrorKind::InvalidData)?.to_owned();
    while line.trim_end() != "" {
        line.clear();
        if (&mut reads).take(HEAD_BYTES_MAX).read_line(&mut line).await? == 0 {
            return Ok(());
        }
    }
    let relay = TcpStream::connect(to).await?;
    relay.set_nodelay(true)?;
    writes.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await?;
    let (relay_reads, relay_writes) = relay.into_split();
    tokio::try_join!(copy(reads, relay_writes, false, seen), copy(relay_reads, writes, true, seen)).map(|_| ())
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, down: bool, seen: &Mutex<Vec<Seen>>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let bytes = from.read(&mut chunk).await?;
        if bytes == 0 {
            return to.shutdown().await;
        }
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() < SEEN_MAX {
                seen.push(Seen { at: Instant::now(), down, bytes });
            }
        }
        to.write_all(&chunk[..bytes]).await?;
    }
}

/// Bytes of one direction in each interval of this length between two moments.
pub fn intervals(seen: &[Seen], down: bool, from: Instant, to: Instant, length: Duration) -> Vec<u64> {
    let count = to.saturating_duration_since(from).as_nanos() / length.as_nanos().max(1);
    let mut sums = vec![0; usize::try_from(count).unwrap_or_default()];
    for one in seen.iter().filter(|one| one.down == down && one.at >= from) {
        let index = one.at.duration_since(from).as_nanos() / length.as_nanos().max(1);
        if let Some(sum) = usize::try_from(index).ok().and_then(|index| sums.get_mut(index)) {
            *sum += one.bytes as u64;
        }
    }
    sums
}

/// How far the distributions of two samples are apart, from 0 to 1: the largest distance between the parts that are at most as large as
/// anything (Kolmogorov and Smirnov).
pub fn distance(one: &[u64], other: &[u64]) -> f64 {
    let part = |sample: &[u64], most: u64| sample.iter().filter(|value| **value <= most).count() as f64 / sample.len().max(1) as f64;
    one.iter().chain(other).map(|most| (part(one, *most) - part(other, *most)).abs()).fold(0.0, f64::max)
}

/// The distance that two samples of one distribution have more than once in `1 / level` times only if they depend on what they should not
/// (Smirnov's bound for large samples).
pub fn critical_distance(one: usize, other: usize, level: f64) -> f64 {
    let (one, other) = (one as f64, other as f64);
    (-(level / 2.0).ln() / 2.0).sqrt() * ((one + other) / (one * other)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_where_they_were_seen() {
        let from = Instant::now();
        let seen = |ms, down, bytes| Seen { at: from + Duration::from_millis(ms), down, bytes };
        let all = [seen(0, true, 1), seen(99, true, 2), seen(100, true, 4), seen(150, false, 8), seen(290, true, 16), seen(300, true, 32)];
        let (to, step) = (from + Duration::from_millis(300), Duration::from_millis(100));
        assert_eq!(intervals(&all, true, from, to, step), [3, 4, 16]);
        assert_eq!(intervals(&all, false, from, to, step), [0, 8, 0]);
        assert_eq!(intervals(&all, true, from + step, to, step), [4, 16]);
    }

    #[test]
    fn samples_of_one_distribution_are_near_and_others_far() {
        // Numbers that look random and are always the same.
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % 2000
        };
        let mut sample = |mean: u64| (0..60).map(|_| mean + noise()).collect::<Vec<_>>();
        let (one, other, more) = (sample(50_000), sample(50_000), sample(51_500));
        let critical = critical_distance(60, 60, 1e-4);
        assert!((0.40..0.42).contains(&critical), "{critical}");
        assert!(distance(&one, &other) < critical, "{}", distance(&one, &other));
        // Three of a hundred more are seen.
        assert!(distance(&one, &more) > critical, "{}", distance(&one, &more));
        assert_eq!((distance(&[0, 0], &[1, 1]), distance(&[1, 2], &[2, 1])), (1.0, 0.0));
    }

    #[tokio::test]
    async fn what_passes_is_the_same_and_is_seen() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = server.local_addr().unwrap();
        let observer = Observer::start().await.unwrap();
        let serving = async {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).await.unwrap();
            stream.write_all(b"answer").await.unwrap();
            heard
        };
        let asking = async {
            let mut stream = TcpStream::connect(observer.address).await.unwrap();
            stream.write_all(format!("CONNECT {to} HTTP/1.0\r\n\r\nhello").as_bytes()).await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            all
        };
        let (heard, all) = tokio::join!(serving, asking);
        assert_eq!((&heard, all.as_slice()), (b"hello", b"HTTP/1.0 200 OK\r\n\r\nanswer".as_slice()));
        let seen = observer.take();
        let sum = |down| seen.iter().filter(|one| one.down == down).map(|one| one.bytes).sum::<usize>();
        assert_eq!((sum(false), sum(true)), (5, 6));
        assert!(observer.take().is_empty());
    }
}
