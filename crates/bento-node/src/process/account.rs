//! What a running function has used, written down: now and then while it runs, and at its end.

use tokio::{
    sync::Mutex,
    time::{Duration, sleep},
};

use super::Process;
use crate::{
    container::Container,
    jail::Jail,
    store::{StoreError, Used},
};

/// So long a function may use what a crash of the node then forgives. Nothing is written of one that uses nothing.
const EACH: Duration = Duration::from_secs(10);

/// What was written down last.
#[derive(Debug, Default)]
pub(super) struct Account(Mutex<Written>);

#[derive(Debug, Default)]
struct Written {
    used: Used,
    /// Its CPU time is the container's by now.
    is_closed: bool,
}

impl Process {
    /// Writes down what its function has used so far, so that a crash of the node does not forgive it.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) async fn write_down(&self, container: &Container) -> Result<(), StoreError> {
        let mut written = self.account.0.lock().await;
        if written.is_closed {
            return Ok(());
        }
        let mut used = container.used();
        used.cpu_ms += self.cpu_ms();
        self.write(container, &mut written, used).await
    }

    /// Does so now and then, until the CPU time is used up.
    pub(super) async fn keep_account(&self, container: &Container) {
        loop {
            sleep(EACH).await;
            // Tried again the next time; the log has it.
            let _ = self.write_down(container).await;
            // What the node computed for it counts as well, and the kernel knows nothing of that.
            if container.used().cpu_ms.saturating_add(self.cpu_ms()) >= container.grant.cpu().as_millis() {
                return;
            }
        }
    }

    /// The last entry, before the process is killed.
    pub(super) async fn close_account(&self, container: &Container, jail: &mut Jail) {
        let mut written = self.account.0.lock().await;
        jail.settle().await;
        written.is_closed = true;
        let _ = self.write(container, &mut written, container.used()).await;
    }

    async fn write(&self, container: &Container, written: &mut Written, used: Used) -> Result<(), StoreError> {
        let Some(key) = self.key.clone().filter(|_| written.used != used) else { return Ok(()) };
        container.keep.settle(key, used.clone()).await?;
        written.used = used;
        Ok(())
    }
}
