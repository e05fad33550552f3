//! Bytes counted against a grant, and the copying that counts them.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// Bytes read at once. Four of Tor's largest TLS records; more gains nothing measurable over a circuit.
pub const CHUNK_BYTES: usize = 32 * 1024;

/// Counts the bytes of all streams of one container.
#[derive(Debug)]
pub struct Meter {
    used: AtomicU64,
    limit: u64,
    /// Raised when more was asked for than is left.
    pub exhausted: CancellationToken,
}

impl Meter {
    /// So many bytes may pass.
    pub fn new(limit: u64) -> Self {
        Self { used: AtomicU64::new(0), limit, exhausted: CancellationToken::new() }
    }

    /// Counts bytes before they are passed on. What would go beyond the limit is not counted and must not be passed on.
    ///
    /// # Errors
    /// When less is left.
    pub fn take(&self, bytes: usize) -> io::Result<()> {
        let add = |used: u64| used.checked_add(bytes as u64).filter(|sum| *sum <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.exhausted.cancel();
                Err(io::Error::other("traffic is used up"))
            }
        }
    }

    /// Bytes so far.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// Longest silence on a stream of which one side has ended. Some protocols ask, close their half and wait for the answer; this is to be
/// long for those, and yet a function that closes its socket shall not lose the place of it to a host that never closes.
const HALF_OPEN: Duration = Duration::from_secs(120);

/// Copies until the end of `from`, then ends `to` and raises `half`. Counts before passing on; waits for the slower side, holding one chunk.
///
/// # Errors
/// When a side fails, the meter is exhausted, or `from` is silent for long after `half` was raised.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    meter: &Meter,
    half: &CancellationToken,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let silent = async {
            half.cancelled().await;
            sleep(HALF_OPEN).await;
        };
        let bytes = tokio::select! {
            biased;
            bytes = from.read(&mut chunk) => bytes?,
            () = silent => return Err(io::ErrorKind::TimedOut.into()),
        };
        if bytes == 0 {
            half.cancel();
            return to.shutdown().await;
        }
        meter.take(bytes)?;
        to.write_all(&chunk[..bytes]).await?;
    }
}

/// Copies both ways until both have ended, one has failed, or one has ended and the other is silent for long.
pub async fn join(one: impl AsyncRead + AsyncWrite + Unpin, other: impl AsyncRead + AsyncWrite + Unpin, meter: &Meter) {
    let (mut one_reads, mut one_writes) = tokio::io::split(one);
    let (mut other_reads, mut other_writes) = tokio::io::split(other);
    let half = CancellationToken::new();
    // A failure of one direction ends both: the sockets are dropped, and each side sees its end.
    let _ = tokio::try_join!(copy(&mut one_reads, &mut other_writes, meter, &half), copy(&mut other_reads, &mut one_writes, meter, &half));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_left_passes_and_the_next_byte_does_not() {
        let (meter, half) = (Meter::new(10), CancellationToken::new());
        let mut out = Vec::new();
        copy(&mut &b"0123456789"[..], &mut out, &meter, &half).await.unwrap();
        assert!(!meter.exhausted.is_cancelled());
        assert!(copy(&mut &b"x"[..], &mut out, &meter, &half).await.is_err());
        assert_eq!((out.as_slice(), meter.used()), (b"0123456789".as_slice(), 10));
        assert!(meter.exhausted.is_cancelled());
    }

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let meter = Meter::new(1000);
        let (a, mut a_far) = tokio::io::duplex(100);
        let (b, mut b_far) = tokio::io::duplex(100);
        let joined = async {
            join(a, b, &meter).await;
        };
        let talk = async {
            a_far.write_all(b"question").await.unwrap();
            a_far.shutdown().await.unwrap();
            let mut heard = Vec::new();
            b_far.read_to_end(&mut heard).await.unwrap();
            b_far.write_all(b"answer").await.unwrap();
            drop(b_far);
            let mut answer = Vec::new();
            a_far.read_to_end(&mut answer).await.unwrap();
            (heard, answer)
        };
        let ((), (heard, answer)) = tokio::join!(joined, talk);
        assert_eq!((heard.as_slice(), answer.as_slice()), (b"question".as_slice(), b"answer".as_slice()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_never_closes_does_not_keep_a_stream_that_the_function_closed() {
        let meter = Meter::new(1000);
        let (ours, function) = tokio::io::duplex(100);
        let (far, _host) = tokio::io::duplex(100);
        drop(function);
        let begun = tokio::time::Instant::now();
        tokio::time::timeout(HALF_OPEN * 2, join(ours, far, &meter)).await.unwrap();
        assert!(begun.elapsed() >= HALF_OPEN);
    }
}
