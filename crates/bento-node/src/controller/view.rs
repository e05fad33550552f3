//! What one function sees of Tor: its circuits, streams and onion services, its options, and what happens to them.
//!
//! One view for a function's process, shared by its control connections as those of one `tor` share it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Semaphore, broadcast},
    task::JoinSet,
};

use super::{
    Event, Reply,
    backend::{Backend, Happening, Relay},
    circuits::Circuits,
    command::{Router, no_such_router},
    event::Kind,
    options::Options,
    services::Services,
    streams::Streams,
};
use crate::link::{CallError, CallErrorKind};

/// Events kept for a control connection that does not read. One that is further behind is closed: a script that waits for an event that was
/// dropped would wait for ever. Sixteen circuits make a hundred at once; the longest, a descriptor, has 50 kB.
const EVENTS_MAX: usize = 256;

/// Control connections of one function at a time.
const SESSIONS_MAX: usize = 8;

/// Descriptors that are fetched or published at a time, for one function.
const FETCHES_MAX: usize = 8;

/// Calls that wait for a client at a time, for one function.
const LISTENING_MAX: usize = 64;

/// Fetched descriptors that are kept, the last ones, for `hs/client/desc/id/…`: at most 400 kB.
const FETCHED_MAX: usize = 8;

/// One function's view of Tor.
pub struct View<B> {
    pub(super) backend: Arc<B>,
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    pub(super) sessions: Arc<Semaphore>,
    pub(super) fetches: Arc<Semaphore>,
    pub(super) listening: Semaphore,
    tasks: Mutex<JoinSet<()>>,
}

impl<B> std::fmt::Debug for View<B> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("View")
    }
}

/// All that changes.
#[derive(Default)]
pub(super) struct State {
    pub(super) options: Options,
    pub(super) circuits: Circuits,
    pub(super) streams: Streams,
    pub(super) services: Services,
    pub(super) fetched: VecDeque<(String, String)>,
    /// Goes up with each NEWNYM: streams of before and after share no circuit.
    pub(super) epoch: u64,
}

impl<B: Backend> View<B> {
    /// A new one. It follows what the broker tells until it is dropped.
    pub fn new(backend: Arc<B>) -> Arc<Self> {
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let mut happenings = backend.happenings();
        let view = Arc::new(Self {
            backend,
            state: Mutex::default(),
            events,
            sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            listening: Semaphore::new(LISTENING_MAX),
            tasks: Mutex::default(),
        });
        let weak = Arc::downgrade(&view);
        view.spawn(async move {
            while let Some(happening) = happenings.recv().await {
                let Some(view) = weak.upgrade() else { return };
                match happening {
                    Happening::Circuit(number, change) => view.circuit_is(number, change),
                    Happening::Uploaded { service, directory, failed } => view.uploaded(service, directory, failed).await,
                }
            }
        });
        view
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs beside the sessions, and ends with the view.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Tells all control connections; each takes the kinds that it has asked for.
    pub(super) fn tell(&self, event: Event) {
        // Nobody may be connected at the moment.
        let _ = self.events.send(event);
    }

    /// `$FINGERPRINT~nickname` of a relay.
    pub(super) async fn long_name(&self, fingerprint: &str) -> String {
        let found = self.backend.relay(&Router::Fingerprint(fingerprint.to_owned())).await.ok().flatten();
        found.unwrap_or_else(|| Relay { fingerprint: fingerprint.to_owned(), nickname: "Unnamed".into() }).to_string()
    }

    /// Relays that are in the consensus.
    pub(super) async fn resolve(&self, routers: &[Router]) -> Result<Vec<String>, Reply> {
        let mut found = Vec::new();
        for router in routers {
            let relay = self.backend.relay(router).await.map_err(|error| failed(&error))?;
            found.push(relay.ok_or_else(|| no_such_router(router))?.fingerprint);
        }
        Ok(found)
    }

    /// Checks the grant.
    pub(super) fn permits(&self, call: &'static str) -> Result<(), Reply> {
        self.backend.permits(call).map_err(|error| failed(&error))
    }

    /// Keeps a descriptor that was fetched.
    pub(super) fn keep(&self, address: &str, text: &str) {
        let mut state = self.state();
        state.fetched.retain(|(kept, _)| kept != address);
        if state.fetched.len() >= FETCHED_MAX {
            state.fetched.pop_front();
        }
        state.fetched.push_back((address.to_owned(), text.to_owned()));
    }

    /// Ends what goes on beside the sessions.
    pub fn end(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// ```text
/// 551 the grant does not cover tor.path
/// ```
pub(super) fn failed(error: &CallError) -> Reply {
    let code = match error.kind {
        CallErrorKind::BadCall => 512,
        CallErrorKind::Missing => 552,
        _ => 551,
    };
    Reply::new(code, error.text.clone())
}

/// What a control connection listens to.
#[derive(Debug, Default)]
pub(super) struct Listens(BTreeSet<Kind>);

impl Listens {
    pub(super) fn set(&mut self, kinds: Vec<Kind>) {
        self.0 = kinds.into_iter().collect();
    }

    pub(super) fn to(&self, kind: Kind) -> bool {
        self.0.contains(&kind)
    }
}
