//! Bytes counted against a grant and slowed to its rate, and the copying that does both.
//!
//! What has passed is never more than the limit, and never more in any second than a second's rate twice: a second's worth may have been saved
//! up. It does not know what the bytes are or between whom they pass.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Mutex,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Bytes read at once. Four of Tor's largest TLS records; more gains nothing measurable over a circuit.
pub const CHUNK_BYTES: usize = 32 * 1024;

/// What may be saved up while nothing passes: the rate is an average over this.
const BURST: Duration = Duration::from_secs(1);

/// Chunks that a second's rate is cut into at least, so that a slow stream flows and its neighbours' turn comes.
const CHUNKS_A_SECOND: u64 = 16;

/// A wait for the rate takes at least this long: what may pass meanwhile then passes in one go, and its processes wake a hundred times a second
/// and not for each chunk, which took three quarters of the CPU time of a stream.
const WAIT: Duration = Duration::from_millis(10);

/// As a rate: none.
pub const UNBOUNDED: u64 = u64::MAX;

/// Which way bytes pass, as seen by the function.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// From it to its client or to elsewhere.
    Sent,
    /// To it.
    Received,
}

/// When nothing was left of what may pass; what may pass now has come since. Streams wait for this lock in the order in which they came,
/// each with one chunk: that is what makes them equal. Whoever has it keeps it while it waits for the rate, on purpose: nobody behind it could
/// pass before it anyway without taking its turn, and one that gives up while it waits leaves everything as it was. So a stream waits at most for
/// one chunk, a sixteenth of a second, of each other one of its function, and never for another function's.
type Bucket = Mutex<Option<Instant>>;

/// Who counts and slows what passes, before it is passed on.
pub trait Toll {
    /// Waits until so many bytes may pass, and counts them.
    ///
    /// # Errors
    /// When they may not pass at all.
    fn pass(&self, way: Way, bytes: usize) -> impl Future<Output = io::Result<()>> + Send;

    /// Most bytes that a stream should ask for at once.
    fn chunk_bytes(&self) -> usize;

    /// Longest silence on a stream of which one side has ended.
    fn half_open(&self) -> Duration {
        HALF_OPEN
    }
}

/// Counts and slows the bytes of all streams of one container.
#[derive(Debug)]
pub struct Meter {
    used: AtomicU64,
    sent: AtomicU64,
    limit: u64,
    rate: AtomicU64,
    /// What passes between the function and others,
    passing: Bucket,
    /// and what goes to and from the disk: beside it, or each byte that is kept would count twice.
    kept: Bucket,
    /// Raised when more was asked for than is left.
    pub exhausted: CancellationToken,
}

impl Meter {
    /// So many bytes may pass in all, and so many a second.
    pub fn new(limit: u64, rate: u64) -> Self {
        Self::resumed(limit, rate, 0)
    }

    /// The same, of which so many have passed already.
    pub fn resumed(limit: u64, rate: u64, used: u64) -> Self {
        Self {
            used: AtomicU64::new(used),
            sent: AtomicU64::new(0),
            limit,
            rate: AtomicU64::new(rate.max(1)),
            passing: Bucket::default(),
            kept: Bucket::default(),
            exhausted: CancellationToken::new(),
        }
    }

    /// Another rate from here on.
    pub fn set_rate(&self, rate: u64) {
        self.rate.store(rate.max(1), Ordering::Relaxed);
    }

    fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes may pass, and counts them. To be called before they are passed on; who gives up waiting has used nothing.
    ///
    /// # Errors
    /// When less is left of the limit. What would go beyond it is not counted and must not be passed on.
    pub async fn pass(&self, way: Way, bytes: usize) -> io::Result<()> {
        // Others may use the limit up meanwhile, and nobody waits for what cannot pass anyway.
        self.wait(&self.passing, bytes, || self.is_left(bytes)).await;
        self.count(way, bytes)
    }

    /// Waits as long as so many bytes take at the rate, and counts nothing: for what does not leave the machine. It does not hold up what does.
    pub async fn slow(&self, bytes: usize) {
        self.wait(&self.kept, bytes, || true).await;
    }

    async fn wait(&self, bucket: &Bucket, bytes: usize, is_wanted: impl Fn() -> bool) {
        // Nothing waits for no turn: each invocation that returned says so, beside streams that wait for theirs.
        if self.rate() == UNBOUNDED || bytes == 0 || !is_wanted() {
            return;
        }
        let mut emptied = bucket.lock().await;
        // Before the first byte, and after a long silence, a whole burst is there.
        let now = Instant::now();
        let full = now.checked_sub(BURST).unwrap_or(now);
        let until = emptied.map_or(full, |emptied| emptied.max(full)) + self.time_of(bytes);
        if is_wanted() {
            if until > now {
                sleep_until(until.max(now + WAIT)).await;
            }
            // No wait from here on: either all of it is done or nothing.
            *emptied = Some(until);
        }
    }

    fn is_left(&self, bytes: usize) -> bool {
        self.used().checked_add(bytes as u64).is_some_and(|sum| sum <= self.limit)
    }

    /// The time that so many bytes take at the rate.
    fn time_of(&self, bytes: usize) -> Duration {
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(self.rate());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn count(&self, way: Way, bytes: usize) -> io::Result<()> {
        let bytes = bytes as u64;
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            self.exhausted.cancel();
            return Err(io::Error::other("traffic is used up"));
        }
        if way == Way::Sent {
            self.sent.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Most bytes that a stream should ask for at once.
    pub fn chunk_bytes(&self) -> usize {
        self.piece_bytes(CHUNK_BYTES)
    }

    /// The same for one that could take so many.
    pub fn piece_bytes(&self, most: usize) -> usize {
        usize::try_from(self.rate() / CHUNKS_A_SECOND).unwrap_or(most).clamp(1, most)
    }

    /// Bytes so far, both ways together.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Of these, bytes that the function sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Of these, bytes that the function received.
    pub fn received(&self) -> u64 {
        // Both are counted one after the other, so that for a moment the parts may not be those of the sum.
        self.used().saturating_sub(self.sent())
    }
}

impl Toll for Meter {
    fn pass(&self, way: Way, bytes: usize) -> impl Future<Output = io::Result<()>> + Send {
        self.pass(way, bytes)
    }

    fn chunk_bytes(&self) -> usize {
        self.chunk_bytes()
    }
}

/// Longest silence on a stream of which one side has ended. Some protocols ask, close their half and wait for the answer; this is to be
/// long for those, and yet a function that closes its socket shall not lose the place of it to a host that never closes.
const HALF_OPEN: Duration = Duration::from_secs(120);

/// Copies until the end of `from`, then ends `to` and raises `half`. Counts before passing on; waits for the slower side and for the rate,
/// holding one chunk.
///
/// # Errors
/// When a side fails, no more may pass, or `from` is silent for long after `half` was raised.
pub(crate) async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    toll: &impl Toll,
    way: Way,
    half: &CancellationToken,
) -> io::Result<()> {
    let mut chunk = vec![0; toll.chunk_bytes()];
    loop {
        // Another rate may be offered meanwhile, and one turn is as long as what it passes.
        chunk.resize(toll.chunk_bytes(), 0);
        let silent = async {
            half.cancelled().await;
            sleep(toll.half_open()).await;
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
        toll.pass(way, bytes).await?;
        to.write_all(&chunk[..bytes]).await?;
    }
}

/// Copies both ways, between a function and somewhere else, until both have ended, one has failed, or one has ended and the other is silent
/// for long.
pub async fn join(function: impl AsyncRead + AsyncWrite + Unpin, far: impl AsyncRead + AsyncWrite + Unpin, toll: &impl Toll) {
    let (mut function_reads, mut function_writes) = tokio::io::split(function);
    let (mut far_reads, mut far_writes) = tokio::io::split(far);
    let half = CancellationToken::new();
    // A failure of one direction ends both: the sockets are dropped, and each side sees its end.
    let _ = tokio::try_join!(
        copy(&mut function_reads, &mut far_writes, toll, Way::Sent, &half),
        copy(&mut far_reads, &mut function_writes, toll, Way::Received, &half)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_left_passes_and_the_next_byte_does_not() {
        let (meter, half) = (Meter::new(10, UNBOUNDED), CancellationToken::new());
        let mut out = Vec::new();
        copy(&mut &b"0123456789"[..], &mut out, &meter, Way::Sent, &half).await.unwrap();
        assert!(!meter.exhausted.is_cancelled());
        assert!(copy(&mut &b"x"[..], &mut out, &meter, Way::Sent, &half).await.is_err());
        assert_eq!((out.as_slice(), meter.used()), (b"0123456789".as_slice(), 10));
        assert!(meter.exhausted.is_cancelled());
    }

    /// Each invocation that returns passes the nothing that it says of a failure; who has something to say takes its turn.
    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_no_turn() {
        let meter = Meter::new(1_000_000, 1000);
        let busy = async { meter.pass(Way::Sent, 60_000).await.unwrap() };
        let others = async {
            tokio::task::yield_now().await;
            let begun = Instant::now();
            meter.pass(Way::Sent, 0).await.unwrap();
            assert_eq!(begun.elapsed(), Duration::ZERO);
            meter.pass(Way::Sent, 1).await.unwrap();
            assert!(begun.elapsed() > Duration::from_secs(50));
        };
        tokio::join!(busy, others);
    }

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let meter = Meter::new(1000, UNBOUNDED);
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
        assert_eq!((meter.sent(), meter.received(), meter.used()), (8, 6, 14));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_never_closes_does_not_keep_a_stream_that_the_function_closed() {
        let meter = Meter::new(1000, UNBOUNDED);
        let (ours, function) = tokio::io::duplex(100);
        let (far, _host) = tokio::io::duplex(100);
        drop(function);
        let begun = tokio::time::Instant::now();
        tokio::time::timeout(HALF_OPEN * 2, join(ours, far, &meter)).await.unwrap();
        assert!(begun.elapsed() >= HALF_OPEN);
    }

    const KIB: u64 = 1024;

    /// Passes chunks until told to stop, and says how many bytes passed.
    async fn flood(meter: &Meter, chunk: usize, until: Instant) -> u64 {
        let mut passed = 0;
        while let Ok(Ok(())) = tokio::time::timeout_at(until, meter.pass(Way::Sent, chunk)).await {
            passed += chunk as u64;
        }
        passed
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let meter = Meter::new(u64::MAX, 64 * KIB);
        let begun = Instant::now();
        for _ in 0..16 {
            meter.pass(Way::Sent, 4096).await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        meter.pass(Way::Received, 4096).await.unwrap();
        assert!((60..70).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
        let passed = flood(&meter, 4096, begun + Duration::from_secs(100)).await + 17 * 4096;
        let allowed = 64 * KIB * 101;
        assert!(passed <= allowed && passed >= allowed - 4096, "{passed} of {allowed}");
        // However long the silence, no more than a burst was saved.
        sleep(Duration::from_secs(1000)).await;
        let passed = flood(&meter, 4096, Instant::now() + Duration::from_secs(1)).await;
        assert!((127 * KIB..=128 * KIB).contains(&passed), "{passed}");
    }

    #[tokio::test(start_paused = true)]
    async fn streams_share_the_rate_and_none_waits_for_another_for_ever() {
        let meter = Meter::new(u64::MAX, 64 * KIB);
        // What is saved up goes to who comes first.
        meter.pass(Way::Sent, 64 * 1024).await.unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let (one, two, three) = tokio::join!(flood(&meter, 4096, until), flood(&meter, 4096, until), flood(&meter, 4096, until));
        let all = one + two + three;
        assert!((64 * KIB * 60 - 3 * 4096..=64 * KIB * 60).contains(&all), "{all}");
        for one in [one, two, three] {
            assert!((all / 3).abs_diff(one) <= 2 * 4096, "{one} of {all}");
        }
        // One that comes late and is polite waits for one chunk of each other, not for what they still want.
        let until = Instant::now() + Duration::from_secs(10);
        let polite = async {
            let begun = Instant::now();
            meter.pass(Way::Received, 1).await.unwrap();
            begun.elapsed()
        };
        let (_, _, waited) = tokio::join!(flood(&meter, 4096, until), flood(&meter, 4096, until), polite);
        assert!(waited <= Duration::from_millis(3 * 63), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_stream_wakes_rarely_and_is_no_faster_than_its_rate() {
        let meter = Meter::new(u64::MAX, 16 << 20);
        let (begun, mut last, mut waits) = (Instant::now(), Instant::now(), 0);
        for _ in 0..10 * 512 {
            meter.pass(Way::Sent, CHUNK_BYTES).await.unwrap();
            waits += usize::from(Instant::now() != last);
            last = Instant::now();
        }
        // Of ten seconds' worth, one was saved up.
        assert!((9000..9020).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
        assert!((800..=900).contains(&waits), "{waits}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_disk_and_the_streams_do_not_hold_each_other_up() {
        let meter = Meter::new(u64::MAX, 64 * KIB);
        let until = Instant::now() + Duration::from_secs(10);
        let kept = async {
            let mut kept = 0;
            while tokio::time::timeout_at(until, meter.slow(4096)).await.is_ok() {
                kept += 4096;
            }
            kept
        };
        let (kept, passed) = tokio::join!(kept, flood(&meter, 4096, until));
        for bytes in [kept, passed] {
            assert!((64 * KIB * 11 - 4096..=64 * KIB * 11).contains(&bytes), "{bytes}");
        }
        assert_eq!(meter.used(), passed);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_has_used_nothing() {
        let meter = Meter::new(1000, 100);
        meter.pass(Way::Sent, 100).await.unwrap();
        let given_up = tokio::time::timeout(Duration::from_millis(500), meter.pass(Way::Sent, 100)).await;
        assert!(given_up.is_err());
        assert_eq!(meter.used(), 100);
        let begun = Instant::now();
        meter.pass(Way::Sent, 50).await.unwrap();
        assert_eq!((begun.elapsed().as_millis(), meter.used()), (0, 150));
        meter.pass(Way::Sent, 50).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(499), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_is_exact_at_any_rate_and_what_cannot_pass_does_not_wait() {
        let meter = Meter::new(10 * KIB, KIB);
        let begun = Instant::now();
        let streams = futures_util::future::join_all((0..50).map(|_| meter.pass(Way::Sent, 1000))).await;
        assert_eq!((streams.iter().filter(|passed| passed.is_ok()).count(), meter.used()), (10, 10_000));
        assert!(meter.exhausted.is_cancelled());
        assert!(begun.elapsed() <= Duration::from_secs(10), "{:?}", begun.elapsed());
        let begun = Instant::now();
        assert!(meter.pass(Way::Received, 241).await.is_err());
        assert_eq!(begun.elapsed(), Duration::ZERO);
        meter.pass(Way::Received, 240).await.unwrap();
        assert_eq!((meter.used(), meter.sent(), meter.received()), (10 * KIB, 10_000, 240));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_rate_is_kept_by_a_copy_in_small_chunks() {
        assert_eq!(Meter::new(0, UNBOUNDED).chunk_bytes(), CHUNK_BYTES);
        assert_eq!(Meter::new(0, 0).chunk_bytes(), 1);
        let (meter, half) = (Meter::new(u64::MAX, 16 * KIB), CancellationToken::new());
        assert_eq!(meter.chunk_bytes(), 1024);
        let (begun, mut out) = (Instant::now(), Vec::new());
        copy(&mut &vec![7; 64 * 1024][..], &mut out, &meter, Way::Received, &half).await.unwrap();
        assert_eq!((out.len(), meter.received()), (64 * 1024, 64 * KIB));
        // The first second's worth was saved up.
        assert!((2990..3100).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }
}
