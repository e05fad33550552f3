//! How long a function is here. It can be renewed while it lasts.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Until when a function is here.
#[derive(Debug)]
pub struct Lease(Mutex<Instant>);

impl Lease {
    /// From now on for so long.
    pub fn new(span: Duration) -> Self {
        Self(Mutex::new(Instant::now() + span))
    }

    /// From now on for so long, unless it lasts longer anyway or is over.
    pub fn renew(&self, span: Duration) {
        let (now, mut ends) = (Instant::now(), self.ends());
        if *ends > now {
            *ends = (now + span).max(*ends);
        }
    }

    /// Time until its end.
    pub fn left(&self) -> Duration {
        self.ends().saturating_duration_since(Instant::now())
    }

    fn ends(&self) -> MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is over.
    pub async fn over(&self) {
        while !self.left().is_zero() {
            // Renewed meanwhile, it is asked again; so nobody needs to be woken for it.
            tokio::time::sleep(self.left()).await;
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
        assert!(lease.left().is_zero());
    }
}
