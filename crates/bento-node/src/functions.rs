//! Installed functions, found by the digests of their tokens.
//!
//! Holds digests only: whoever reads this node's memory learns no token.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bento_proto::{Bound, Digest, InvocationToken, Refusal, ShutdownToken};
use tokio_util::sync::CancellationToken;

use crate::container::Container;

/// The functions of a node.
#[derive(Debug, Default)]
pub struct Functions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_invocation: HashMap<Digest, Entry>,
    by_shutdown: HashMap<Digest, Digest>,
}

#[derive(Clone, Debug)]
struct Entry {
    container: Arc<Container>,
    shutdown: Digest,
    /// Raised when the entry has left the table.
    removed: CancellationToken,
}

impl Table {
    fn remove(&mut self, invocation: Digest) -> Option<Arc<Container>> {
        let entry = self.by_invocation.remove(&invocation)?;
        self.by_shutdown.remove(&entry.shutdown);
        entry.removed.cancel();
        Some(entry.container)
    }
}

impl Functions {
    /// Is this very function there already? A client that lost the answer asks again.
    ///
    /// # Errors
    /// When one of the digests belongs to another function.
    pub fn same(&self, invocation: Digest, shutdown: Digest, files: &[(String, Vec<u8>)]) -> Result<Option<Arc<Container>>, Refusal> {
        let table = self.table();
        match (table.by_invocation.get(&invocation), table.by_shutdown.contains_key(&shutdown)) {
            (None, false) => Ok(None),
            (Some(entry), true) if entry.shutdown == shutdown && entry.container.bundle.files == files => {
                Ok(Some(Arc::clone(&entry.container)))
            }
            _ => Err(Refusal::TokenInUse),
        }
    }

    /// Adds a function.
    ///
    /// # Errors
    /// When another one came first with one of these digests.
    pub fn add(self: &Arc<Self>, invocation: Digest, shutdown: Digest, container: Arc<Container>) -> Result<(), Refusal> {
        let mut table = self.table();
        if table.by_invocation.contains_key(&invocation) || table.by_shutdown.contains_key(&shutdown) {
            return Err(Refusal::TokenInUse);
        }
        table.by_shutdown.insert(shutdown, invocation);
        let removed = CancellationToken::new();
        table.by_invocation.insert(invocation, Entry { container: Arc::clone(&container), shutdown, removed: removed.clone() });
        drop(table);
        // What has used up its traffic or CPU time stays until the end of its lifetime, so that its client learns the reason.
        let (functions, left) = (Arc::downgrade(self), container.remaining().duration());
        let (kept, over) = (Arc::downgrade(&container), container.over.clone());
        drop(container);
        tokio::spawn(async move {
            let ended = async {
                over.cancelled().await;
                // A spent one is kept.
                if kept.upgrade().is_some_and(|container| matches!(container.reason(), Some(Bound::Traffic | Bound::Cpu))) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                // One that was shut down is no longer here, and neither need this task be: under its tokens there may be another by now.
                () = removed.cancelled() => return,
                _ = tokio::time::timeout(left, ended) => {}
            }
            if let Some(functions) = functions.upgrade() {
                functions.forget(invocation, &removed);
            }
        });
        Ok(())
    }

    /// Removes an entry if it is still the one that was meant.
    fn forget(&self, invocation: Digest, removed: &CancellationToken) {
        let mut table = self.table();
        if !removed.is_cancelled() {
            table.remove(invocation);
        }
    }

    /// The function that this token may invoke.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_invocation(&self, token: &InvocationToken) -> Result<Arc<Container>, Refusal> {
        let table = self.table();
        table.by_invocation.get(&token.digest()).map(|entry| Arc::clone(&entry.container)).ok_or(Refusal::UnknownToken)
    }

    /// The function that this token may end.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_shutdown(&self, token: &ShutdownToken) -> Result<Arc<Container>, Refusal> {
        let table = self.table();
        let invocation = table.by_shutdown.get(&token.digest()).ok_or(Refusal::UnknownToken)?;
        table.by_invocation.get(invocation).map(|entry| Arc::clone(&entry.container)).ok_or(Refusal::UnknownToken)
    }

    /// Ends a function and forgets it.
    ///
    /// # Errors
    /// When there is none.
    pub fn shutdown(&self, token: &ShutdownToken) -> Result<Arc<Container>, Refusal> {
        let mut table = self.table();
        let invocation = table.by_shutdown.get(&token.digest()).copied().ok_or(Refusal::UnknownToken)?;
        let container = table.remove(invocation).ok_or(Refusal::UnknownToken)?;
        drop(table);
        container.end(Bound::Shutdown);
        Ok(container)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Container>> {
        self.table().by_invocation.values().map(|entry| Arc::clone(&entry.container)).collect()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
