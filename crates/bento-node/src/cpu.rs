//! The CPU time of one function: what its processes used, and what the node computed directly for it, such as sealing what it stores.
//!
//! What the node computes is measured on the thread that does nothing else meanwhile, by that thread's own clock, so that waiting for the disk,
//! for others or for a processor costs nobody anything. It is held to half of the function's share. What the node does for its own order,
//! such as reading frames and writing down what was used, is in no function's account.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{jail::cpu_of, keep::blocking, store::StoreError};

/// So much the node may compute for a function at once, by the function's part of a processor.
const BURST: Duration = Duration::from_millis(100);

/// What the node has computed after which it looks whether that is still within the function's `cpu`: a look costs some 15 µs.
const UNSEEN_MAX: Duration = Duration::from_millis(10);

/// What a function has used of its `cpu`.
#[derive(Debug)]
pub struct Cpu {
    limit: Duration,
    /// Of one processor, of what the node computes.
    percent: u64,
    account: Mutex<Account>,
    /// Microseconds that were counted since it was last looked.
    unseen: AtomicU64,
    /// Raised when more was used than there is.
    pub exhausted: CancellationToken,
}

#[derive(Debug)]
struct Account {
    counted: Duration,
    /// A process whose time is not counted yet.
    running: Option<u32>,
    /// When what the node has computed is within the share again (the generic cell rate algorithm, ITU-T I.371).
    even: Instant,
}

impl Cpu {
    /// So much there is, of which this was used before, and so many percent of a processor.
    pub fn new(limit: Duration, percent: u32, used: Duration) -> Self {
        Self {
            limit,
            percent: u64::from(percent).div_ceil(2).max(1),
            account: Mutex::new(Account { counted: used, running: None, even: Instant::now() }),
            unseen: AtomicU64::new(0),
            exhausted: CancellationToken::new(),
        }
    }

    /// A process of the function has begun. Its time counts as the kernel tells it, until [`ended`](Self::ended).
    pub fn runs(&self, pid: u32) {
        self.account().running = Some(pid);
    }

    /// The process has ended, and this is what it used.
    pub fn ended(&self, used: Duration) {
        let mut account = self.account();
        account.running = None;
        account.counted += used;
    }

    /// What was used so far.
    pub fn used(&self) -> Duration {
        let account = self.account();
        let running = account.running.and_then(cpu_of).map_or(Duration::ZERO, Duration::from_millis);
        account.counted + running
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.used())
    }

    /// Does what waits for the disk, for the function: as soon as its share allows, and counted.
    ///
    /// # Errors
    /// Those of what is done.
    pub async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.done(work, true).await
    }

    /// The same for its client: as soon as the function's share allows, and not counted, since the function did not ask for it.
    ///
    /// # Errors
    /// Those of what is done.
    pub async fn serve<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.done(work, false).await
    }

    async fn done<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
        is_counted: bool,
    ) -> Result<T, StoreError> {
        self.turn().await;
        let cpu = Arc::clone(self);
        // Counted where it is done: whoever gives up waiting does not get it for nothing.
        blocking(move || {
            let begun = thread_time();
            let done = work();
            let took = thread_time().saturating_sub(begun);
            cpu.hold_back(took);
            if is_counted {
                cpu.count(took);
            }
            done
        })
        .await
    }

    /// Counts what the node has computed for the function.
    pub fn count(&self, took: Duration) {
        self.account().counted += took;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if self.unseen.fetch_add(micros, Ordering::Relaxed).saturating_add(micros) >= UNSEEN_MAX.as_micros() as u64 {
            self.unseen.store(0, Ordering::Relaxed);
            self.look();
        }
    }

    /// Raises [`exhausted`](Self::exhausted), if nothing is left.
    pub fn look(&self) {
        if self.left().is_zero() {
            self.exhausted.cancel();
        }
    }

    /// Waits until the node may compute for the function again.
    async fn turn(&self) {
        let even = self.account().even;
        if let Some(until) = even.checked_sub(BURST) {
            sleep_until(until).await;
        }
    }

    fn hold_back(&self, took: Duration) {
        let mut account = self.account();
        let takes = Duration::from_nanos(u64::try_from(took.as_nanos() * 100 / u128::from(self.percent)).unwrap_or(u64::MAX));
        account.even = account.even.max(Instant::now()) + takes;
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time that the thread it is called on has computed.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::{io, thread};

    use super::*;
    use crate::store::Cause;

    const SECOND: Duration = Duration::from_secs(1);

    fn compute(time: Duration) {
        let until = thread_time() + time;
        while thread_time() < until {}
    }

    #[tokio::test]
    async fn what_is_computed_counts_and_what_is_waited_for_does_not() {
        let cpu = Arc::new(Cpu::new(SECOND, 100, SECOND / 4));
        cpu.work(|| {
            compute(SECOND / 10);
            Ok(())
        })
        .await
        .unwrap();
        assert!(cpu.used() >= SECOND * 35 / 100 && cpu.used() < SECOND / 2, "{:?}", cpu.used());
        let before = cpu.used();
        cpu.work(|| {
            thread::sleep(SECOND / 5);
            Ok(())
        })
        .await
        .unwrap();
        cpu.serve(|| {
            compute(SECOND / 10);
            Ok(())
        })
        .await
        .unwrap();
        assert!(cpu.used() - before < SECOND / 20, "{:?}", cpu.used() - before);
        // What fails is computed all the same, and who gives up waiting has asked for it.
        let failing = cpu.work(|| {
            compute(SECOND / 10);
            Err::<(), _>(StoreError::System("failing", Cause::File(io::ErrorKind::Other.into())))
        });
        assert!(failing.await.is_err());
        assert!(cpu.used() - before >= SECOND / 10 && !cpu.exhausted.is_cancelled());
        let (begun, begins) = tokio::sync::oneshot::channel();
        let working = Arc::clone(&cpu);
        let given_up = tokio::spawn(async move {
            let work = working.work(|| {
                let _ = begun.send(());
                compute(SECOND);
                Ok(())
            });
            work.await
        });
        begins.await.unwrap();
        given_up.abort();
        tokio::time::timeout(60 * SECOND, cpu.exhausted.cancelled()).await.unwrap();
        assert!(cpu.left().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn the_node_computes_for_a_function_no_more_than_half_of_its_share() {
        for (share, percent) in [(100, 50), (10, 5), (1, 1), (400, 200)] {
            let cpu = Cpu::new(1000 * SECOND, share, Duration::ZERO);
            let begun = Instant::now();
            let mut computed = Duration::ZERO;
            while begun.elapsed() < 100 * SECOND {
                cpu.turn().await;
                tokio::time::advance(SECOND / 1000).await;
                cpu.hold_back(SECOND / 50);
                computed += SECOND / 50;
            }
            let may = 100 * SECOND * percent / 100;
            // A burst of a tenth of a second, and what was begun within the time.
            assert!(computed <= may + SECOND / 4 && computed + SECOND / 4 >= may, "{share} %: {computed:?}");
        }
        // What was little is not waited for.
        let (cpu, begun) = (Cpu::new(SECOND, 100, Duration::ZERO), Instant::now());
        cpu.hold_back(BURST / 4);
        cpu.turn().await;
        assert!(begun.elapsed().is_zero());
    }

    #[test]
    fn a_process_counts_once_while_it_runs_and_after() {
        let cpu = Cpu::new(60 * SECOND, 100, Duration::ZERO);
        let begun = cpu_of(std::process::id()).unwrap();
        cpu.runs(std::process::id());
        compute(SECOND / 20);
        let (now, running) = (cpu_of(std::process::id()).unwrap(), cpu.used());
        assert!(running >= Duration::from_millis(begun) && running <= Duration::from_millis(now) + SECOND);
        cpu.ended(SECOND * 2);
        assert_eq!(cpu.used(), SECOND * 2);
        cpu.look();
        assert!(!cpu.exhausted.is_cancelled());
        cpu.count(SECOND * 58);
        assert!(cpu.exhausted.is_cancelled());
    }
}
