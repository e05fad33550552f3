//! How long a function is here. It can be renewed while it lasts.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Until when a function is here.
#[derive(Debug)]
pub struct Lease(watch::Sender<Instant>);

impl Lease {
    /// From now on for so long.
    pub fn new(span: Duration) -> Self {
        Self(watch::Sender::new(Instant::now() + span))
    }

    /// From now on for so long, unless it lasts longer anyway or is over.
    pub fn renew(&self, span: Duration) {
        let now = Instant::now();
        self.0.send_if_modified(|ends| {
            let before = *ends;
            if before > now {
                *ends = before.max(now + span);
            }
            *ends != before
        });
    }

    /// From now on for so long, unless it is over: whoever measured it before had another clock.
    pub fn correct(&self, span: Duration) {
        let now = Instant::now();
        self.0.send_if_modified(|ends| {
            let lasts = *ends > now;
            if lasts {
                *ends = now + span;
            }
            lasts
        });
    }

    /// Time until its end.
    pub fn left(&self) -> Duration {
        self.0.borrow().saturating_duration_since(Instant::now())
    }

    /// Waits until it is over.
    pub async fn over(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let ends = *changes.borrow_and_update();
            tokio::select! {
                biased;
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep_until(ends) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_and_can_be_renewed_until_then() {
        let lease = Lease::new(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(6)).await;
        lease.renew(Duration::from_secs(1));
        assert_eq!(lease.left(), Duration::from_secs(4));
        lease.renew(Duration::from_secs(10));
        let begun = Instant::now();
        lease.over().await;
        assert!(begun.elapsed() >= Duration::from_secs(10));
        lease.renew(Duration::from_secs(10));
        lease.correct(Duration::from_secs(10));
        assert!(lease.left().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_end_hears_that_it_comes_earlier_or_later() {
        for (corrected, waited) in [(3, 3), (100, 100)] {
            let (lease, begun) = (Lease::new(Duration::from_secs(10)), Instant::now());
            let correcting = async {
                tokio::task::yield_now().await;
                lease.correct(Duration::from_secs(corrected));
            };
            tokio::join!(lease.over(), correcting);
            assert_eq!(begun.elapsed().as_secs(), waited);
        }
    }
}
