//! What a running function has used, written down: now and then while it runs, and at its end.

use tokio::{
    sync::Mutex,
    time::{Duration, sleep},
};

use super::Process;
use crate::{
    container::Container,
    store::{StoreError, Used},
};

/// So long a function may use what a crash of the node then forgives. Nothing is written of one that uses nothing.
const EACH: Duration = Duration::from_secs(10);

/// What was written down last.
#[derive(Debug, Default)]
pub(super) struct Account(Mutex<Used>);

impl Process {
    /// Writes down what its function has used so far, so that a crash of the node does not forgive it.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) async fn write_down(&self, container: &Container) -> Result<(), StoreError> {
        // One after the other, so that what is written last is the latest.
        let mut written = self.account.0.lock().await;
        let used = container.used();
        let Some(key) = self.key.clone().filter(|_| *written != used) else { return Ok(()) };
        container.keep.settle(key, used.clone()).await?;
        *written = used;
        Ok(())
    }

    /// Does so now and then, as long as it runs.
    pub(super) async fn keep_account(&self, container: &Container) {
        loop {
            sleep(EACH).await;
            // Tried again the next time; the log has it.
            let _ = self.write_down(container).await;
            // What the node computed for it counts as well, and the kernel knows nothing of that.
            container.cpu.look();
        }
    }
}
