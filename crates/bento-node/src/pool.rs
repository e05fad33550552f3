//! Jails kept ready, so that a function does not wait for walls and interpreter.
//!
//! A ready jail has had nothing of any function in it. It is handed out once, to a function that asks for exactly such a jail, and dies with
//! that function's process.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::mpsc, time::sleep};

use bento_jail::Spec;

use crate::{
    cgroup::Groups,
    config::Limits,
    jail::{Ready, Trouble},
};

/// Kinds of jail remembered. One that is asked for a second time is kept ready from then on: whoever asks for a new kind each time makes nobody wait.
const KINDS: usize = 32;

/// How long after a jail was handed out the next one is put up, so that the two do not share the processor.
const PAUSE: Duration = Duration::from_millis(50);

/// Shortest and longest pause between two looks whether those that are ready are still up. It doubles while some have died, so that whatever
/// kills them does not keep the node busy with new ones.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Jails, ready or not.
#[derive(Debug)]
pub struct Pool {
    program: PathBuf,
    deadline: Duration,
    /// Most that are kept.
    room: usize,
    kept: Mutex<Kept>,
    /// After what is kept, whose groups it removes.
    groups: Arc<Groups>,
    wanted: mpsc::Sender<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// With the spec of each. The oldest comes first, and goes first when another kind is wanted more.
    ready: VecDeque<(Vec<u8>, Ready)>,
    seen: VecDeque<Vec<u8>>,
    is_closed: bool,
}

impl Kept {
    fn take(&mut self, spec: &[u8]) -> Option<Ready> {
        while let Some(index) = self.ready.iter().position(|(kept, _)| kept == spec) {
            // One may have been killed while nobody looked.
            if let Some((_, mut ready)) = self.ready.remove(index)
                && ready.jail.is_up()
            {
                return Some(ready);
            }
        }
        None
    }

    /// Takes those out that have died, and says of which kinds they were.
    fn died(&mut self) -> Vec<Vec<u8>> {
        let mut kinds = Vec::new();
        self.ready.retain_mut(|(spec, ready)| {
            let is_up = ready.jail.is_up();
            if !is_up {
                kinds.push(std::mem::take(spec));
            }
            is_up
        });
        kinds
    }

    /// Has this kind been asked for lately, or is it kept, though it may have died meanwhile?
    fn knows(&mut self, spec: &[u8]) -> bool {
        let mut known = self.seen.iter().chain(self.ready.iter().map(|(kept, _)| kept));
        if known.any(|known| known == spec) {
            return true;
        }
        self.seen.truncate(KINDS - 1);
        self.seen.push_front(spec.to_vec());
        false
    }
}

impl Pool {
    /// An empty pool, filled by and by as jails are asked for. Ends with its last owner.
    pub fn new(program: PathBuf, limits: &Limits, groups: Arc<Groups>) -> Arc<Self> {
        let (wanted, orders) = mpsc::channel(limits.ready.max(1));
        let pool = Arc::new(Self { program, deadline: limits.load.duration(), room: limits.ready, groups, kept: Mutex::default(), wanted });
        tokio::spawn(fill(Arc::downgrade(&pool), orders));
        pool
    }

    /// Has one more jail of this kind put up, since one will be asked for.
    pub fn expect(&self, spec: &Spec) {
        self.order(serde_json::to_vec(spec).unwrap_or_default());
    }

    /// A jail of this kind: a ready one, or a new one.
    ///
    /// # Errors
    /// When none was ready and none can be put up.
    pub async fn take(&self, spec: &Spec) -> Result<Ready, Trouble> {
        let spec = serde_json::to_vec(spec).map_err(|error| Trouble::System("writing the spec", error.into()))?;
        let (is_usual, ready) = {
            let mut kept = self.kept();
            (kept.knows(&spec), kept.take(&spec))
        };
        let ready = match ready {
            Some(ready) => ready,
            None => Ready::start(&self.program, &spec, self.deadline, &self.groups).await?,
        };
        if is_usual {
            self.order(spec);
        }
        Ok(ready)
    }

    /// Gives all of them up, and keeps none any more.
    pub fn close(&self) {
        let mut kept = self.kept();
        kept.is_closed = true;
        kept.ready.clear();
    }

    /// How many are ready.
    pub fn ready(&self) -> usize {
        self.kept().ready.len()
    }

    fn order(&self, spec: Vec<u8>) {
        if self.room > 0 {
            // More orders than there is room for are not worth remembering.
            let _ = self.wanted.try_send(spec);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts up what was ordered, one after the other, and again what has died.
async fn fill(pool: Weak<Pool>, mut orders: mpsc::Receiver<Vec<u8>>) {
    let mut look = LOOK.0;
    loop {
        let is_any = pool.upgrade().is_some_and(|pool| pool.ready() > 0);
        let wanted = tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(spec) => vec![spec],
                None => return,
            },
            () = sleep(look), if is_any => {
                let Some(pool) = pool.upgrade() else { return };
                let died = pool.kept().died();
                look = if died.is_empty() { LOOK.0 } else { (look * 2).min(LOOK.1) };
                died
            }
        };
        for spec in wanted {
            sleep(PAUSE).await;
            let Some(pool) = pool.upgrade().filter(|pool| !pool.kept().is_closed) else { return };
            // Whoever next needs such a jail and finds none hears what is wrong.
            let Ok(ready) = Ready::start(&pool.program, &spec, pool.deadline, &pool.groups).await else { continue };
            let mut kept = pool.kept();
            if kept.is_closed {
                return;
            }
            if kept.ready.len() == pool.room {
                kept.ready.pop_front();
            }
            kept.ready.push_back((spec, ready));
        }
    }
}
