//! What a container keeps on disk: how it gets there while its key is known, and how it goes.
//!
//! The store itself blocks; here it is asked from asynchronous code.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bento_proto::SealKey;
use tokio::time::sleep;

use crate::{
    cpu::Cpu,
    said::say,
    store::{Id, Registry, Space, StoreError, Used, Vault},
};

/// So long a store stays open after it was asked for.
const RECENT: Duration = Duration::from_secs(10);

/// What one function keeps.
#[derive(Debug)]
pub struct Keep {
    registry: Registry,
    limit: u64,
    /// Where, for a function that is installed. One that lives for one call has none.
    id: OnceLock<Id>,
    /// Open for some seconds after somebody asked for it, since opening reads all records: whoever asks again and again does not have that done each time.
    recent: Mutex<Option<Vault>>,
    temporary: OnceLock<Vault>,
}

impl Keep {
    /// Nothing yet, and at most so many bytes.
    pub fn new(registry: Registry, limit: u64) -> Self {
        Self { registry, limit, id: OnceLock::new(), recent: Mutex::default(), temporary: OnceLock::new() }
    }

    /// From now on in this place.
    pub fn at(&self, id: Id) {
        let _ = self.id.set(id);
    }

    /// Where it is, if it is kept.
    pub fn id(&self) -> Option<Id> {
        self.id.get().copied()
    }

    /// Where all functions of the node are written down.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// Its store.
    ///
    /// # Errors
    /// When the key is not its own, or the disk fails.
    pub async fn vault(self: &Arc<Self>, key: Option<&SealKey>) -> Result<Vault, StoreError> {
        let (keep, key) = (Arc::clone(self), key.cloned());
        let vault = blocking(move || match (keep.id(), key) {
            (Some(id), Some(key)) => keep.registry.vault(id, &key, keep.limit),
            // It is being installed: what it stored now would be in nobody's store.
            (None, Some(_)) => Err(StoreError::Busy),
            // Nobody else has it: a second one made at the same time is dropped.
            _ => match keep.temporary.get() {
                Some(vault) => Ok(vault.clone()),
                None => keep.registry.temporary(keep.limit).map(|vault| keep.temporary.get_or_init(|| vault).clone()),
            },
        });
        let vault = vault.await?;
        if self.id().is_some() && self.recent().replace(vault.clone()).is_none() {
            let keep = Arc::downgrade(self);
            tokio::spawn(async move {
                sleep(RECENT).await;
                if let Some(keep) = keep.upgrade() {
                    keep.close().await;
                }
            });
        }
        Ok(vault)
    }

    /// Closes the store, unless somebody uses it.
    async fn close(&self) {
        let recent = self.recent().take();
        // It may be the last one, and then the log is emptied.
        let _ = blocking(move || {
            drop(recent);
            Ok(())
        })
        .await;
    }

    fn recent(&self) -> MutexGuard<'_, Option<Vault>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much it stores.
    ///
    /// # Errors
    /// As [`Keep::vault`].
    pub async fn used(self: &Arc<Self>, key: &SealKey, cpu: &Arc<Cpu>) -> Result<u64, StoreError> {
        let store = self.vault(Some(key)).await?.space(Space::Function);
        match store.known_usage() {
            Some(usage) => Ok(usage.used),
            None => cpu.serve(move || store.usage().map(|usage| usage.used)).await,
        }
    }

    /// How often what it keeps was changed.
    ///
    /// # Errors
    /// As [`Keep::vault`].
    pub async fn changes(self: &Arc<Self>, key: &SealKey, cpu: &Arc<Cpu>) -> Result<u64, StoreError> {
        let vault = self.vault(Some(key)).await?;
        // Only who has read it knows: a store is opened when something is asked of it.
        self.used(key, cpu).await?;
        Ok(vault.changes())
    }

    /// Writes down what it has used so far, if it is kept.
    ///
    /// # Errors
    /// When it could not be.
    pub async fn settle(self: &Arc<Self>, key: SealKey, used: Used) -> Result<(), StoreError> {
        let keep = Arc::clone(self);
        let Some(id) = self.id() else { return Ok(()) };
        let written = blocking(move || keep.registry.set_used(id, &key, used)).await;
        written.inspect_err(|error| {
            // One that was shut down meanwhile is not there any more.
            if !matches!(error, StoreError::Missing) {
                say!(error, %error, "what a function has used could not be kept");
            }
        })
    }

    /// Erases it: the key first, then what was sealed under it.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn erase(self: &Arc<Self>) -> Result<(), StoreError> {
        let keep = Arc::clone(self);
        let erased = match self.id() {
            Some(id) => blocking(move || keep.registry.remove(id)).await,
            None => Ok(()),
        };
        self.close().await;
        erased
    }
}

/// Does what waits for the disk where it holds nobody up.
///
/// # Errors
/// Those of what is done.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::System("working on the disk", std::io::Error::other(error).into())))
}
