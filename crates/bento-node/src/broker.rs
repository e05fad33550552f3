//! Functions use the node's Tor, each its own part of it: the calls `tor.*`.
//!
//! [`Tor`] is shared by all functions and knows which circuit, stream and onion service belongs to whom; a [`Broker`] is what one function's process
//! gets of it. A function has numbers of its own and never hears Tor's: it names, sees and ends only what it has made. What it says is read into
//! values; each command to Tor is written from these.
//!
//! Streams are put on a function's circuit while Tor leaves all streams unattached. It does so only as long as one is being connected, and what is not a
//! function's is given back to Tor at once, so that the node's own streams, and those of others who use the same Tor, go on as ever.

mod backends;
mod calls;
mod choose;
mod circuits;
mod descriptors;
mod directory;
mod event;
mod front;
mod hold;
mod network;
mod orphans;
mod services;
mod streams;
mod table;
#[cfg(test)]
mod tests;

pub use circuits::{Building, Circuit, Route};
pub use descriptors::Published;
pub use directory::Directory;
pub use event::{CircuitStatus, Event, Events, ServiceStatus, StreamStatus, TOR_LOST, TorStatus};
pub use network::Wish;
pub use services::{Incoming, OnionWish, ServiceInfo};
pub use streams::{Connected, Via};

pub(crate) use calls::{permit, serve, serves};

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::warn;

use bento_proto::Grant;
use bento_tor::{CircuitEvent, Consensus, ControlError, Controller, Descriptor, DescriptorContent, Isolation, Order, Socks, StreamEvent};

use crate::{
    container::Container,
    link::{CallError, CallErrorKind},
    meter::Meter,
    process::TRY_BYTES,
};
use hold::Holds;
use orphans::Record;
use table::{Owner, Table};

/// How long what ends a function's objects may take to reach Tor.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// The node's Tor, as far as functions have part in it.
#[derive(Debug)]
pub struct Tor {
    table: Arc<Mutex<Table>>,
    running: Mutex<Option<Running>>,
    /// The network as it was last asked for.
    network: tokio::sync::Mutex<Option<(String, Arc<Consensus>)>>,
    holds: Holds,
    posting: descriptors::Turns,
    fronts: front::Fronts,
    bounds: Bounds,
    /// Where sockets of onion services are.
    sockets: PathBuf,
    socket: AtomicU64,
}

/// What there may be of all functions together, and how long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Circuits.
    pub circuits: usize,
    /// Onion services.
    pub onion_services: usize,
    /// Time for a circuit or connection to be made.
    pub connect: Duration,
}

/// A Tor that runs.
#[derive(Clone, Debug)]
struct Running {
    controller: Controller,
    socks: Socks,
    /// It is the node's own child, which no other user of this machine has to reach.
    own: bool,
    /// What is open there, if it outlives the node.
    record: Option<Record>,
    /// Onion services that are backends, of a Tor that is the node's own.
    backends: Option<Arc<bento_tor::Backends>>,
}

impl Tor {
    /// With these bounds, and sockets of onion services in this directory, which nobody else can enter.
    pub fn new(bounds: Bounds, sockets: impl Into<PathBuf>) -> Arc<Self> {
        let sockets = sockets.into();
        services::sweep(&sockets);
        Arc::new(Self {
            table: Arc::default(),
            running: Mutex::default(),
            network: tokio::sync::Mutex::default(),
            holds: Holds::default(),
            posting: descriptors::Turns::default(),
            fronts: front::Fronts::default(),
            bounds,
            sockets,
            socket: AtomicU64::new(0),
        })
    }

    /// Lets functions use this Tor for as long as its control connection lasts. What an earlier process of this node has left there is ended first.
    ///
    /// # Errors
    /// When Tor does not do as it is told from the start.
    pub async fn serve(self: &Arc<Self>, controller: Controller, socks: Socks, own: bool, state: &Path) -> Result<(), ControlError> {
        // A Tor of the node's own ends with the node, and so leaves nothing.
        let record = if own { None } else { Some(Record::take_over(&controller, state).await?) };
        let backends = match own {
            // Without a place for their directories there are none; all else works.
            true => bento_tor::Backends::new(controller.clone(), backends::place(state)).await.ok().map(Arc::new),
            false => None,
        };
        let (weak, recording) = (Arc::downgrade(self), record.clone());
        let kinds = [CircuitEvent::EVENT, StreamEvent::EVENT, Descriptor::EVENT, DescriptorContent::EVENT];
        let observer = move |event: &bento_tor::Event| {
            let Some(tor) = weak.upgrade() else { return Vec::new() };
            if let Some(record) = &recording {
                record.heard(event);
            }
            tor.table().heard(event)
        };
        controller.observe(&kinds, observer).await?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Running { controller: controller.clone(), socks, own, record, backends });
        self.table().tell_all(&Event::Tor { status: TorStatus::Back });
        tokio::select! {
            () = controller.closed() => {}
            () = self.make_again(&controller) => controller.closed().await,
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.network.lock().await = None;
        self.table().lost();
        Ok(())
    }

    /// What a function's process gets.
    pub(crate) fn broker(self: &Arc<Self>, container: &Container) -> Broker {
        let owner = self.table().enter();
        let function = Isolation::new("tor").within(&container.isolation);
        Broker {
            owner,
            tor: Arc::clone(self),
            grant: Arc::clone(&container.grant),
            meter: Arc::clone(&container.meter),
            attached: Isolation::new(&format!("attached {}", owner.0)).within(&function),
            isolation: function,
            gate: tokio::sync::Mutex::new(()),
            streams: AtomicU64::new(0),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Result<Running, CallError> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        running.ok_or_else(|| CallError::new(CallErrorKind::Unreachable, "the node's Tor is not running at the moment"))
    }
}

/// One function's part of the node's Tor, for as long as its process lives.
#[derive(Debug)]
pub struct Broker {
    tor: Arc<Tor>,
    owner: Owner,
    grant: Arc<Grant>,
    meter: Arc<Meter>,
    /// Keeps its streams apart from everybody else's.
    isolation: Isolation,
    /// Marks those that are put on its circuits.
    attached: Isolation,
    /// Streams of one isolation are asked for one after the other, so that it is known which one an event tells of.
    gate: tokio::sync::Mutex<()>,
    streams: AtomicU64,
}

impl Broker {
    /// Ends all that the function has.
    pub async fn close(&self) {
        if let Some((controller, orders)) = self.leave() {
            let _ = controller.order(orders).await;
        }
    }

    /// A subscription to what happens from now on to what is the function's own.
    ///
    /// # Errors
    /// When it has as many as it may have, or has ended.
    pub fn events(&self) -> Result<Events, CallError> {
        const SUBSCRIPTIONS_MAX: usize = 4;
        let (subscriber, events) = event::subscription();
        let mut table = self.tor.table();
        let owned = table.of(self.owner).ok_or_else(over)?;
        owned.forget_left();
        if owned.subscribers.len() >= SUBSCRIPTIONS_MAX {
            return Err(CallError::new(CallErrorKind::Busy, format!("a function may hear its events {SUBSCRIPTIONS_MAX} times at once")));
        }
        owned.subscribers.push(subscriber);
        Ok(events)
    }

    /// Takes the function out of the table. What is still on its way to Tor finds it gone, and is ended as well.
    fn leave(&self) -> Option<(Controller, Vec<Order>)> {
        let orders = self.tor.table().leave(self.owner);
        let running = self.tor.running().ok().filter(|_| !orders.is_empty())?;
        Some((running.controller.with_deadline(CLOSE_DEADLINE), orders))
    }

    /// Counts what Tor is made to do.
    async fn count(&self, bytes: usize) -> Result<(), CallError> {
        let passed = self.meter.pass(crate::meter::Way::Sent, bytes).await;
        passed.map_err(|_| CallError::new(CallErrorKind::Refused, "traffic is used up"))
    }

    async fn count_try(&self) -> Result<(), CallError> {
        self.count(TRY_BYTES).await
    }

    fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let (Some((controller, orders)), Ok(runtime)) = (self.leave(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                if controller.order(orders).await.is_err() {
                    warn!("Tor did not hear that a function's circuits are to be closed");
                }
            });
        }
    }
}

/// The function's process has ended while something was done for it.
fn over() -> CallError {
    CallError::new(CallErrorKind::Failed, "the function's process has ended")
}

fn bad_call(text: impl Into<String>) -> CallError {
    CallError::new(CallErrorKind::BadCall, text)
}

/// What Tor says, in the words of the function API.
fn by_control(error: &ControlError) -> CallError {
    match error {
        ControlError::Closed => CallError::new(CallErrorKind::Unreachable, "the node's Tor has ended"),
        ControlError::Deadline { .. } => CallError::new(CallErrorKind::Timeout, "the node's Tor does not answer"),
        // Its words may repeat what was said, which is the function's own.
        ControlError::Refused { text, .. } => CallError::new(CallErrorKind::Unreachable, format!("the node's Tor says: {text}")),
        ControlError::Argument(text) => bad_call(*text),
        _ => CallError::new(CallErrorKind::Failed, "the node's Tor does not do as it is told"),
    }
}
