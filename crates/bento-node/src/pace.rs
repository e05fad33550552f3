//! How fast a node reads what functions ask of it.

use tokio::time::{Duration, Instant};

/// Reads what a function sends no faster than this, so that one that floods its node waits, and no neighbour does.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When all so far is paid for (the generic cell rate algorithm, ITU-T I.371).
    paid: Instant,
}

impl Pace {
    /// What a frame or command costs, and each of its bytes: several times what reading and answering it takes.
    const FRAME: Duration = Duration::from_micros(100);
    const BYTE: Duration = Duration::from_nanos(20);
    /// What may come at once.
    const BURST: Duration = Duration::from_millis(100);

    pub(crate) fn new() -> Self {
        Self { paid: Instant::now() }
    }

    /// Waits for the turn of something of so many bytes.
    pub(crate) async fn wait(&mut self, bytes: usize) {
        let now = Instant::now();
        self.paid = self.paid.max(now) + Self::FRAME + Self::BYTE * u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.paid > now + Self::BURST {
            tokio::time::sleep_until(self.paid - Self::BURST).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn frames_come_at_once_until_they_are_a_flood() {
        let (mut pace, begun) = (Pace::new(), Instant::now());
        for _ in 0..500 {
            pace.wait(200).await;
        }
        assert!(begun.elapsed().is_zero());
        for _ in 0..10_000 {
            pace.wait(200).await;
        }
        assert!(begun.elapsed() > Duration::from_millis(900));
    }
}
