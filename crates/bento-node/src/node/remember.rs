//! What a node does about functions that were here before it was started, and about its clock.
//!
//! A function's end is written down by the wall clock, and waited for by one that nobody sets. At a start the wall clock may be wrong, and what
//! is erased is gone. So a node that was off for long erases nothing at first, and follows its clock wherever that is set; from then on a
//! clock that is set changes nothing for those that are here.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use tokio::time::sleep;
use tracing::{info, warn};

use bento_proto::Size;

use super::{Node, Taken, trouble, units};
use crate::{
    functions::Installed,
    jail::Trouble,
    keep::{Keep, blocking},
    lease::Lease,
    process::StartError,
    said::say,
    store::{Record, StoreError},
};

/// How long a node that was off for long waits before it believes its clock. Machines without a clock of their own ask others for the time
/// within minutes of their start, or never.
const GRACE: Duration = Duration::from_secs(3600);

/// Pause between two looks at the clock.
const LOOK: Duration = Duration::from_secs(10);

/// A clock that is so far from where it should be was set, and is not only slow or fast.
const SET: Duration = Duration::from_secs(10);

/// Pause before a function that is to be awake, and could not be started, is started again; twice as long before each further time,
const WAKE_AGAIN: Duration = Duration::from_secs(1);

/// and never longer than this. Its end is the end of that: a start uses its own CPU time.
const WAKE_AGAIN_MAX: Duration = Duration::from_secs(600);

/// Pause between two times at which it is written down what time it is.
const SEE: Duration = Duration::from_secs(600);

/// A clock that is looked at now and then.
#[derive(Debug)]
pub(super) struct Watch {
    begun: Instant,
    /// At the last look.
    wall: SystemTime,
    at: Instant,
    seen: Instant,
    /// Functions that seem to be over.
    waiting: Vec<Record>,
}

impl Watch {
    /// Was the clock set since the last look?
    fn is_set(&mut self, wall: SystemTime, at: Instant) -> bool {
        let should_be = self.wall + at.saturating_duration_since(self.at);
        (self.wall, self.at) = (wall, at);
        let off = wall.duration_since(should_be).unwrap_or_else(|behind| behind.duration());
        off > SET
    }
}

impl Node {
    /// Finds the functions that were installed before the node was started. They sleep until somebody brings their key, but those that are
    /// to be awake always.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remember(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut watch = self.remember_at(SystemTime::now(), Instant::now()).await?;
        let (node, stopping) = (Arc::downgrade(self), self.stopping.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sleep(LOOK) => {}
                    () = stopping.cancelled() => return,
                }
                let Some(node) = node.upgrade() else { return };
                node.look(&mut watch, SystemTime::now(), Instant::now()).await;
            }
        });
        Ok(())
    }

    pub(super) async fn remember_at(self: &Arc<Self>, wall: SystemTime, at: Instant) -> Result<Watch, StoreError> {
        let registry = self.host.registry.clone();
        let is_sure = registry.is_sure();
        let (waiting, here) = blocking(move || registry.all()).await?.into_iter().partition(|record| record.ends <= wall && !is_sure);
        for record in here {
            self.take_in(record, wall);
        }
        let watch = Watch { begun: at, wall, at, seen: at, waiting };
        if !watch.waiting.is_empty() {
            let functions = watch.waiting.len();
            warn!(
                functions,
                "functions seem to be past their end, but the node was off for so long that its clock may be wrong; they are erased in 1 h unless it is set back"
            );
        }
        self.seem_over.store(watch.waiting.len(), Ordering::Relaxed);
        Ok(watch)
    }

    /// Looks at the clock, and does what follows.
    pub(super) async fn look(self: &Arc<Self>, watch: &mut Watch, wall: SystemTime, at: Instant) {
        let registry = self.host.registry.clone();
        let is_set = watch.is_set(wall, at);
        if is_set {
            info!("the clock was set");
        }
        for installed in self.functions.all().into_iter().filter(|_| is_set) {
            if installed.is_by_clock() && !registry.is_sure() {
                installed.lease.correct(left(&installed.record, wall));
                continue;
            }
            let (registry, id, ends) = (registry.clone(), installed.record.id, wall + installed.lease.left());
            if let Err(error) = blocking(move || registry.renew(id, ends)).await
                && !matches!(error, StoreError::Missing)
            {
                say!(error, %error, "a function's end could not be written down anew");
            }
        }
        for record in watch.waiting.extract_if(.., |record| record.ends > wall) {
            self.take_in(record, wall);
        }
        if !registry.is_sure() && at.saturating_duration_since(watch.begun) >= GRACE {
            for Record { id, .. } in watch.waiting.drain(..) {
                let registry = registry.clone();
                if let Err(error) = blocking(move || registry.remove(id)).await {
                    say!(error, %error, "a function past its end could not be removed");
                }
            }
            registry.believe();
            // Written down at once.
            watch.seen = watch.begun;
        }
        self.seem_over.store(watch.waiting.len(), Ordering::Relaxed);
        if at.saturating_duration_since(watch.seen) >= SEE {
            watch.seen = at;
            if let Err(error) = blocking(move || registry.see(wall)).await {
                say!(error, %error, "the time could not be written down");
            }
        }
    }

    /// One that was here before.
    fn take_in(self: &Arc<Self>, record: Record, wall: SystemTime) {
        // What was promised is kept, also where the operator offers less by now.
        let storage = units(Size::bytes(record.storage)).min(self.storage.available_permits() as u64) as u32;
        let storage = Arc::clone(&self.storage).try_acquire_many_owned(storage).ok();
        let room = Taken { place: self.places.take_again(), bundle: None, storage };
        let keep = Keep::new(self.host.registry.clone(), record.storage);
        keep.at(record.id);
        let keep_awake = record.keep_awake;
        let lease = Arc::new(Lease::new(left(&record, wall)));
        let installed = Arc::new(Installed::new(record, lease, Arc::new(keep), Some(room), None));
        if self.functions.add(Arc::clone(&installed)).is_ok() && keep_awake {
            let (node, function, stopping) = (Arc::downgrade(self), Arc::downgrade(&installed), self.stopping.clone());
            tokio::spawn(async move {
                // Neither is kept here by waiting: a function that has ended, or a node, is gone at once.
                let mut pause = WAKE_AGAIN;
                while let (Some(node), Some(function)) = (node.upgrade(), function.upgrade()) {
                    if function.is_removed() || node.woken(&function, pause == WAKE_AGAIN).await {
                        return;
                    }
                    drop((node, function));
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = stopping.cancelled() => return,
                    }
                    pause = (pause * 2).min(WAKE_AGAIN_MAX);
                }
            });
        }
    }

    /// Is a function up that is to be awake always? What kept it from that may pass: the machine was busy, or the policy is changed.
    async fn woken(&self, installed: &Arc<Installed>, is_first: bool) -> bool {
        let Err(error) = self.wake(installed).await else {
            if !is_first {
                say!(info, "a function that is to be awake was started after all");
            }
            return true;
        };
        if is_first {
            // Nothing of what it says: a function's own words are for its client.
            let why = match error {
                StartError::Refused(refusal) => refusal.code().to_owned(),
                StartError::Trouble(trouble) => trouble.to_string(),
            };
            say!(warn, why, "a function that is to be awake could not be started; it is tried again, at last every 10 min");
        }
        false
    }

    /// Starts a function whose key is here.
    async fn wake(&self, installed: &Arc<Installed>) -> Result<(), StartError> {
        let (registry, id) = (self.host.registry.clone(), installed.record.id);
        let key = blocking(move || registry.own_key(id)).await.map_err(trouble)?;
        let key = key.ok_or(StartError::Trouble(Trouble::Late("the key of a function that is kept awake")))?;
        self.open(installed, &key).await?.awake(Some(&key)).await.map(drop)
    }
}

/// Time until a function's end; never longer than it was granted, whatever the clock says.
fn left(record: &Record, wall: SystemTime) -> Duration {
    record.ends.duration_since(wall).unwrap_or_default().min(record.lifetime)
}
