//! Installed functions, found by the digests of their tokens.
//!
//! Holds digests only: whoever reads this node's memory learns no token. A function that was installed before the node was started is here
//! without its code: both are sealed until somebody brings the key.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bento_proto::{Bound, Digest, Refusal};
use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use tokio_util::sync::CancellationToken;

use crate::{
    container::{Container, Room},
    keep::Keep,
    lease::Lease,
    said::say,
    store::Record,
};

/// The functions of a node.
#[derive(Debug, Default)]
pub struct Functions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_invocation: HashMap<Digest, Arc<Installed>>,
    by_shutdown: HashMap<Digest, Digest>,
}

/// One installed function.
#[derive(Debug)]
pub struct Installed {
    /// The digest of its invocation token.
    pub invocation: Digest,
    /// The digest of its shutdown token.
    pub shutdown: Digest,
    /// Until when it is here.
    pub lease: Arc<Lease>,
    /// What it keeps on disk.
    pub keep: Arc<Keep>,
    /// How it is written down.
    pub record: Record,
    /// Itself, once its key was there.
    pub container: OnceCell<Arc<Container>>,
    /// What it takes of the node, until its container has it.
    pub room: AsyncMutex<Option<Room>>,
    /// Its end is by the wall clock: it was here before the node was started, and was not renewed since.
    is_by_clock: AtomicBool,
    /// Raised when it is no longer here.
    removed: CancellationToken,
}

impl Installed {
    /// A function that is written down, and whose container may come later.
    pub fn new(record: Record, lease: Arc<Lease>, keep: Arc<Keep>, room: Option<Room>, container: Option<Arc<Container>>) -> Self {
        Self {
            invocation: record.invocation,
            shutdown: record.shutdown,
            lease,
            keep,
            is_by_clock: AtomicBool::new(container.is_none()),
            record,
            container: OnceCell::new_with(container),
            room: AsyncMutex::new(room),
            removed: CancellationToken::new(),
        }
    }

    /// Is it no longer here?
    pub fn is_removed(&self) -> bool {
        self.removed.is_cancelled()
    }

    /// Is its end by the wall clock, and not so long from an install or a renewal on?
    pub fn is_by_clock(&self) -> bool {
        self.is_by_clock.load(Ordering::Relaxed)
    }

    /// Makes its lease begin anew.
    pub fn renew(&self) {
        self.is_by_clock.store(false, Ordering::Relaxed);
        self.lease.renew(self.record.lifetime);
    }

    /// Ends it, if it runs, and erases it from the disk.
    async fn clear(&self, reason: Bound) {
        if let Some(container) = self.container.get() {
            container.end(reason);
        }
        // The key first, whatever its process still does; then the process cannot write any more, and then nothing is left of it.
        let erased = self.keep.erase().await;
        // It may have been opened meanwhile.
        if let Some(container) = self.container.get() {
            container.end(reason);
            container.ended().await;
        }
        if let Err(error) = erased {
            say!(error, %error, "a function could not be erased; this is tried again when the node is started");
        }
    }
}

impl Table {
    fn remove(&mut self, invocation: Digest) -> Option<Arc<Installed>> {
        let installed = self.by_invocation.remove(&invocation)?;
        self.by_shutdown.remove(&installed.shutdown);
        installed.removed.cancel();
        Some(installed)
    }
}

impl Functions {
    /// Is there a function under these two tokens already? A client that lost the answer asks again.
    ///
    /// # Errors
    /// When one of the digests belongs to another function.
    pub fn same(&self, invocation: Digest, shutdown: Digest) -> Result<Option<Arc<Installed>>, Refusal> {
        let table = self.table();
        match (table.by_invocation.get(&invocation), table.by_shutdown.contains_key(&shutdown)) {
            (None, false) => Ok(None),
            (Some(installed), true) if installed.shutdown == shutdown => Ok(Some(Arc::clone(installed))),
            _ => Err(Refusal::TokenInUse),
        }
    }

    /// Adds a function, until its lease is over.
    ///
    /// # Errors
    /// When another one came first with one of these digests.
    pub fn add(self: &Arc<Self>, installed: Arc<Installed>) -> Result<(), Refusal> {
        let mut table = self.table();
        if table.by_invocation.contains_key(&installed.invocation) || table.by_shutdown.contains_key(&installed.shutdown) {
            return Err(Refusal::TokenInUse);
        }
        table.by_shutdown.insert(installed.shutdown, installed.invocation);
        table.by_invocation.insert(installed.invocation, Arc::clone(&installed));
        drop(table);
        // What has used up its traffic or CPU time stays until the end as well, so that its client learns the reason.
        let (functions, lease, removed) = (Arc::downgrade(self), Arc::clone(&installed.lease), installed.removed.clone());
        let installed = Arc::downgrade(&installed);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // One that was shut down is no longer here, and neither need this task be: under its tokens there may be another by now.
                () = removed.cancelled() => return,
                () = lease.over() => {}
            }
            if let (Some(functions), Some(installed)) = (functions.upgrade(), installed.upgrade()) {
                functions.forget(&installed);
                installed.clear(Bound::Lifetime).await;
            }
        });
        Ok(())
    }

    /// Takes a function out of the table, if it is still in it.
    fn forget(&self, installed: &Installed) {
        let mut table = self.table();
        if !installed.is_removed() {
            table.remove(installed.invocation);
        }
    }

    /// The function that may be invoked with the token of this digest.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_invocation(&self, token: Digest) -> Result<Arc<Installed>, Refusal> {
        self.table().by_invocation.get(&token).cloned().ok_or(Refusal::UnknownToken)
    }

    /// The function that may be ended with the token of this digest.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_shutdown(&self, token: Digest) -> Result<Arc<Installed>, Refusal> {
        let table = self.table();
        let invocation = table.by_shutdown.get(&token).ok_or(Refusal::UnknownToken)?;
        table.by_invocation.get(invocation).cloned().ok_or(Refusal::UnknownToken)
    }

    /// Ends a function, and erases it. Done when this returns.
    ///
    /// # Errors
    /// When there is none.
    pub async fn shutdown(&self, token: Digest) -> Result<(), Refusal> {
        let installed = {
            let mut table = self.table();
            let invocation = table.by_shutdown.get(&token).copied().ok_or(Refusal::UnknownToken)?;
            table.remove(invocation).ok_or(Refusal::UnknownToken)?
        };
        // Also if the client leaves meanwhile.
        let _ = tokio::spawn(async move { installed.clear(Bound::Shutdown).await }).await;
        Ok(())
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Installed>> {
        self.table().by_invocation.values().cloned().collect()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
