//! Has Tor leave streams unattached for as long as somebody puts one on a circuit.

use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tracing::warn;

use bento_tor::ControlError;

use super::{Running, Tor};

/// How long it stays so when nobody needs it any more: who connects once often does so again, and each change makes Tor look at all its options.
const LINGER: Duration = Duration::from_secs(5);

/// Who needs it at the moment.
#[derive(Debug, Default)]
pub(super) struct Holds {
    count: AtomicUsize,
    /// Only one says so to Tor at a time. Whether it is so, the table knows: it is told in the order in which Tor tells everything else.
    turn: tokio::sync::Mutex<()>,
}

/// As long as it lives, Tor leaves streams unattached.
#[derive(Debug)]
pub(super) struct Hold {
    tor: Arc<Tor>,
    running: Running,
}

impl Tor {
    /// Has Tor leave streams unattached until what this gives is dropped.
    pub(super) async fn hold(self: &Arc<Self>, running: &Running) -> Result<Hold, ControlError> {
        self.holds.count.fetch_add(1, Ordering::AcqRel);
        let hold = Hold { tor: Arc::clone(self), running: running.clone() };
        let _turn = self.holds.turn.lock().await;
        if !self.table().held {
            self.leave_unattached(running, true).await?;
        }
        Ok(hold)
    }

    async fn leave_unattached(&self, running: &Running, on: bool) -> Result<(), ControlError> {
        // Written down before it is so, and until it is no longer.
        if let Some(record) = running.record.as_ref().filter(|_| on) {
            record.unattached(true);
        }
        let table = Arc::clone(&self.table);
        let held = move || {
            table.lock().unwrap_or_else(PoisonError::into_inner).held = on;
            Vec::new()
        };
        running.controller.leave_streams_unattached(on, held).await?;
        if let Some(record) = running.record.as_ref().filter(|_| !on) {
            record.unattached(false);
        }
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.tor.holds.count.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let (tor, running) = (Arc::clone(&self.tor), self.running.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(LINGER).await;
            let _turn = tor.holds.turn.lock().await;
            if tor.holds.count.load(Ordering::Acquire) > 0 || !tor.table().held {
                return;
            }
            match tor.leave_unattached(&running, false).await {
                Ok(()) | Err(ControlError::Closed) => {}
                // Streams of others are still given back to Tor one by one.
                Err(error) => warn!(%error, "Tor was not told to attach streams by itself again"),
            }
        });
    }
}
