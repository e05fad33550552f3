//! When something last moved on a stream, so that a wait can tell a slow peer from a dead one.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::ClientError;

/// Shared by the halves of one request.
#[derive(Debug)]
pub(crate) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Instant,
    /// The next move is our own input's: the node is waiting for us, and its clock stands.
    ours: bool,
    input_error: Option<io::Error>,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { last: Instant::now(), ours: false, input_error: None }))
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something moved.
    pub(crate) fn moved(&self) {
        self.with(|state| (state.last, state.ours) = (Instant::now(), false));
    }

    /// Our own input has nothing to send yet.
    pub(crate) fn waits_for_input(&self) {
        self.with(|state| state.ours = true);
    }

    /// Our own input cannot be read.
    pub(crate) fn input_failed(&self, error: io::Error) {
        self.with(|state| state.input_error = Some(error));
    }

    /// The error of our own input, once.
    pub(crate) fn take_input_error(&self) -> Option<ClientError> {
        self.with(|state| state.input_error.take()).map(ClientError::Input)
    }

    /// Awaits `work`, at most until nothing has moved for `idle`, and at most until `end`.
    pub(crate) async fn wait<T>(
        &self,
        work: impl Future<Output = T>,
        what: &'static str,
        idle: Duration,
        end: Option<End>,
    ) -> Result<T, ClientError> {
        tokio::pin!(work);
        loop {
            let (last, ours) = self.with(|state| (state.last, state.ours));
            let quiet = if ours { Instant::now() } else { last } + idle;
            let until = end.map_or(quiet, |end| end.at.min(quiet));
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep_until(until) => {}
            }
            let now = Instant::now();
            if let Some(end) = end.filter(|end| end.at <= now) {
                return Err(ClientError::Late { what: "all of it", bound: end.bound });
            }
            if self.with(|state| !state.ours && state.last + idle <= now) {
                return Err(ClientError::Late { what, bound: idle });
            }
        }
    }
}

/// When a request must be over, and how long that was from its beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) at: Instant,
    pub(crate) bound: Duration,
}

impl End {
    pub(crate) fn after(bound: Duration) -> Self {
        Self { at: Instant::now() + bound, bound }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_nothing_moves_and_goes_on_while_something_does() {
        let activity = Activity::new();
        let begin = Instant::now();
        let moves = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                activity.moved();
            }
            pending::<()>().await;
        };
        let late = activity.wait(moves, "it", IDLE, None).await;
        assert!(matches!(late, Err(ClientError::Late { what: "it", .. })));
        assert_eq!(begin.elapsed().as_secs(), 34);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_stands_while_our_own_input_is_awaited_but_not_beyond_the_end() {
        let activity = Activity::new();
        activity.waits_for_input();
        let begin = Instant::now();
        let late = activity.wait(pending::<()>(), "it", IDLE, Some(End::after(Duration::from_secs(300)))).await;
        assert!(matches!(late, Err(ClientError::Late { what: "all of it", .. })));
        assert_eq!(begin.elapsed().as_secs(), 300);
    }
}
