//! Invocations that go on without their client: which are under way, and how far.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

/// The detached invocations of one function that have not ended.
#[derive(Debug, Default)]
pub struct Detached(Mutex<HashMap<String, Arc<Running>>>);

/// One of them.
#[derive(Debug, Default)]
pub struct Running {
    bytes: AtomicU64,
    /// Raised when all its input is there.
    pub fed: CancellationToken,
    /// Raised when it has ended, and its output is kept.
    pub ended: CancellationToken,
}

impl Running {
    /// Counts output.
    pub fn wrote(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of output so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Detached {
    /// Begins one, or finds the one that has begun under this name.
    pub fn begin(&self, id: &str) -> Result<Arc<Running>, Arc<Running>> {
        let mut table = self.table();
        if let Some(running) = table.get(id) {
            return Err(Arc::clone(running));
        }
        let running = Arc::new(Running::default());
        table.insert(id.to_owned(), Arc::clone(&running));
        Ok(running)
    }

    /// The one of this name.
    pub fn get(&self, id: &str) -> Option<Arc<Running>> {
        self.table().get(id).cloned()
    }

    /// It has ended, and what is kept of it says how.
    pub fn end(&self, id: &str) {
        if let Some(running) = self.table().remove(id) {
            running.ended.cancel();
        }
    }

    /// Waits until none is left: until all that was put out is kept, and how each ended.
    pub async fn quiet(&self) {
        loop {
            let Some(running) = self.table().values().next().cloned() else { return };
            running.ended.cancelled().await;
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Running>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
