//! What a conclave may use: a rate for all that passes, and for its streams to elsewhere what a day has.

use std::{
    io,
    sync::{
        PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};

use bento_proto::{Policy, Size};

use super::{CHUNK, Conclave};
use crate::{
    config,
    meter::{self, Toll, Way},
    said::say,
};

impl Conclave {
    /// Bounds it by what its operator says of it, or else by what this policy offers functions.
    pub fn bound(&self, config: &config::Conclave, policy: &Policy) {
        let offers = &policy.offers;
        let rate = config.rate.unwrap_or(offers.rate);
        let day = || offers.traffic.as_bytes().saturating_mul(offers.functions_per_day.into());
        self.traffic.store(config.traffic.map_or_else(day, Size::as_bytes), Ordering::Relaxed);
        self.meter.set_rate(rate.bytes_per_second());
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = rate;
    }

    /// Is there room for so many more bytes today, or for any? Then they are counted.
    fn is_left(&self, bytes: usize) -> bool {
        let (now, bytes) = (std::time::Instant::now(), bytes as u64);
        let mut day = self.day.lock().unwrap_or_else(PoisonError::into_inner);
        let room = day.room(bytes.max(1), self.traffic.load(Ordering::Relaxed), now);
        if room.is_ok() {
            day.count(bytes, now);
            return true;
        }
        drop(day);
        self.ended.fetch_add(1, Ordering::Relaxed);
        say!(warn, "the conclave has used up the traffic of 24 hours: its streams to elsewhere are ended");
        false
    }

    /// Waits for the rate.
    async fn turn(&self, way: Way, bytes: usize) -> io::Result<()> {
        let _one = Counted::new(&self.waiting);
        self.meter.pass(way, bytes).await
    }
}

/// One of them, as long as it is there.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub(super) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Toll for Conclave {
    async fn pass(&self, way: Way, bytes: usize) -> io::Result<()> {
        // First of all: what may not pass today waits for no turn.
        if !self.is_left(bytes) {
            return Err(io::Error::other("the conclave's traffic of 24 hours is used up"));
        }
        self.turn(way, bytes).await
    }

    fn chunk_bytes(&self) -> usize {
        self.meter.piece_bytes(CHUNK)
    }
}

/// A session, which ends when nothing passes for long.
struct Session<'a> {
    conclave: &'a Conclave,
    idle: Duration,
    born: Instant,
    /// When something came last, in milliseconds since its birth.
    last_ms: AtomicU64,
}

impl Toll for Session<'_> {
    async fn pass(&self, way: Way, bytes: usize) -> io::Result<()> {
        self.last_ms.store(u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        // Not of the day's traffic: whoever asks for evidence, whom nobody knows yet, could use it up for all.
        self.conclave.turn(way, bytes).await
    }

    fn chunk_bytes(&self) -> usize {
        self.conclave.chunk_bytes()
    }

    fn half_open(&self) -> Duration {
        self.idle
    }
}

impl Session<'_> {
    /// Until nothing has come for so long.
    async fn over(&self) {
        loop {
            let last = self.last_ms.load(Ordering::Relaxed);
            sleep_until(self.born + Duration::from_millis(last) + self.idle).await;
            if self.last_ms.load(Ordering::Relaxed) == last {
                return;
            }
        }
    }
}

/// Carries a session both ways until both have ended, one broke off, or nothing passed for so long.
pub(super) async fn pass(
    inside: impl AsyncRead + AsyncWrite + Unpin,
    client: impl AsyncRead + AsyncWrite + Unpin,
    conclave: &Conclave,
    idle: Duration,
) {
    let session = Session { conclave, idle, born: Instant::now(), last_ms: AtomicU64::new(0) };
    tokio::select! {
        () = meter::join(inside, client, &session) => {}
        () = session.over() => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bento_proto::Rate;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::sleep,
    };

    use super::*;

    /// One with these lines in its table, beside a node of the usual policy with these lines in it.
    pub(in crate::conclave) fn conclave(lines: &str, offers: &str) -> Conclave {
        let config = format!("name = \"Test\"\nstate = \"state\"\n[conclave]\ndirectory = \"beside\"\n{lines}");
        Conclave::new(&toml::from_str(&config).unwrap(), &Policy::parse(&format!("[offers]\n{offers}")).unwrap()).unwrap()
    }

    /// A stream of it that pumps as fast as it may, through `meter::join` as all of them, until then. How much came out at the other end.
    async fn pumped(conclave: &Conclave, until: Instant) -> u64 {
        let ((ours, mut inside), (far, mut sink)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
        let pumping = async { while inside.write_all(&[7; 4096]).await.is_ok() {} };
        let mut came = 0;
        let draining = async {
            let mut chunk = vec![0; 1 << 16];
            while let Ok(count @ 1..) = sink.read(&mut chunk).await {
                came += count as u64;
            }
        };
        tokio::select! {
            () = meter::join(ours, far, conclave) => {}
            _ = async { tokio::join!(pumping, draining) } => {}
            () = sleep_until(until) => {}
        }
        came
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_carried_whole_and_silence_ends_it() {
        let (client, mut client_far) = tokio::io::duplex(100);
        let (inside, mut inside_far) = tokio::io::duplex(100);
        let (conclave, idle) = (conclave("", ""), Duration::from_secs(9));
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
        let carried = async { pass(inside, client, &conclave, idle).await };
        tokio::join!(
            async {
                tokio::join!(carried);
            },
            talk
        );
        let status = conclave.status();
        // Of the day's traffic a session takes nothing.
        assert_eq!((status.received, status.sent, status.today), (Size::bytes(250), Size::bytes(6), Size::default()));
        assert_eq!(begun.elapsed().as_secs(), 14);
    }

    #[tokio::test(start_paused = true)]
    async fn all_streams_of_a_hostile_conclave_together_have_its_rate_and_no_more() {
        let hostile = conclave("rate = \"1 MiB/s\"", "rate = \"64 MiB/s\"");
        let until = Instant::now() + Duration::from_secs(20);
        let looking = async {
            sleep(Duration::from_secs(10)).await;
            hostile.status()
        };
        let (pumps, status) = tokio::join!(futures_util::future::join_all((0..30).map(|_| pumped(&hostile, until))), looking);
        let all: u64 = pumps.iter().sum();
        // Of twenty seconds' worth one more was saved up, and what is on its way when it ends has not come out.
        assert!((19 << 20..=21 << 20).contains(&all), "{all}");
        assert!(pumps.iter().all(|one| *one >= all / 60), "one of them was passed over: {pumps:?}");
        assert!(status.waiting >= 20 && status.ended == 0 && status.rate == Rate::mib(1), "{status:?}");
        // Another one, or a function, has turns of its own; and without a rate of its own it has what is offered to a function.
        let (other, begun) = (conclave("", "rate = \"64 MiB/s\""), Instant::now());
        assert!(pumped(&other, begun + Duration::from_secs(2)).await > 100 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_day_has_passes_and_no_byte_more_until_the_operator_offers_it() {
        let hostile = conclave("", "traffic = \"1 MiB\"\nfunctions_per_day = 3");
        let forever = Instant::now() + Duration::from_secs(3600);
        let came = pumped(&hostile, forever).await;
        assert!((2 << 20..=3 << 20).contains(&came), "{came}");
        let status = hostile.status();
        assert!(status.today <= status.traffic && status.traffic == Size::mib(3) && status.ended == 1, "{status:?}");
        // Whatever comes next is ended as well, and the operator sees how often.
        while hostile.is_left(1) {}
        assert_eq!(pumped(&hostile, forever).await, 0);
        assert_eq!((hostile.status().today, hostile.status().ended), (Size::mib(3), 3));
        let config = config::Conclave { traffic: Some(Size::mib(4)), ..config::Conclave::default() };
        hostile.bound(&config, &Policy::parse("[offers]\n").unwrap());
        assert!(hostile.is_left(1 << 20) && !hostile.is_left(1));
    }
}
