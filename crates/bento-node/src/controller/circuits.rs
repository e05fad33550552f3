//! EXTENDCIRCUIT, CLOSECIRCUIT, SETCIRCUITPURPOSE: circuits under the numbers of one function.
//!
//! The broker answers once a circuit is built; a script hears of its number at once and of the rest by events, as from Tor.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use super::{
    Event, Reply,
    backend::{Backend, Built},
    command::{Extend, Purpose, unknown_circuit},
    event::Circuit,
    view::{View, failed},
};
use crate::link::{CallError, CallErrorKind};

/// Ends of circuits that the broker told of before it told of their beginning.
const EARLY_MAX: usize = 64;

/// The circuits of one function.
#[derive(Default)]
pub(super) struct Circuits {
    last: u64,
    open: BTreeMap<u64, Entry>,
    /// Numbers of the broker's that have ended and that no entry has, with the reason.
    early: Vec<(u64, String)>,
}

pub(super) struct Entry {
    pub(super) circuit: Circuit,
    /// The broker's number, once it is built.
    pub(super) number: Option<u64>,
    /// Is it built, and nothing under way?
    pub(super) ready: bool,
    /// How many hops it has.
    pub(super) hops: usize,
    /// How many streams are on it.
    pub(super) streams: usize,
}

impl Circuits {
    pub(super) fn get(&self, id: u64) -> Option<&Entry> {
        self.open.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Entry> {
        self.open.get_mut(&id)
    }

    /// The lines of `circuit-status`.
    pub(super) fn lines(&self) -> String {
        self.open.values().map(|entry| entry.circuit.line()).collect::<Vec<_>>().join("\n")
    }
}

impl<B: Backend> View<B> {
    /// EXTENDCIRCUIT.
    pub(super) async fn extend(self: &Arc<Self>, Extend { circuit, path, purpose }: Extend) -> Result<Reply, Reply> {
        self.permits(match (circuit, path.is_empty()) {
            (Some(_), _) => "tor.extend",
            (None, true) => "tor.circuit",
            (None, false) => "tor.path",
        })?;
        if let Some(id) = circuit {
            self.state().circuits.get(id).ok_or_else(|| unknown_circuit(id))?;
        }
        let relays = self.resolve(&path).await?;
        let (id, number) = match circuit {
            Some(id) => (id, Some(self.lengthened(id)?)),
            None => (self.launched(purpose).await?, None),
        };
        let view = Arc::clone(self);
        // The view's own tasks end with it, so that this holds it no longer than it lives.
        self.spawn(async move {
            let built = match number {
                Some(number) => view.backend.extend(number, &relays).await,
                None if relays.is_empty() => view.backend.circuit().await,
                None => view.backend.path(&relays).await,
            };
            match built {
                Ok(built) => view.built(id, built).await,
                Err(error) => view.circuit_gone(id, reason(&error), number.is_none()),
            }
        });
        Ok(Reply::new(250, format!("EXTENDED {id}")))
    }

    /// A number for a new circuit.
    async fn launched(&self, purpose: Purpose) -> Result<u64, Reply> {
        // Names of relays for the events to come.
        if self.state().circuits.last == 0 {
            self.statuses().await.map_err(|error| failed(&error))?;
        }
        let created = SystemTime::now();
        let circuit = {
            let mut state = self.state();
            let circuits = &mut state.circuits;
            if circuits.open.len() >= self.backend.circuits() {
                return Err(Reply::new(551, "Couldn't start circuit"));
            }
            circuits.last += 1;
            let id = circuits.last;
            let circuit = Circuit { id, status: "LAUNCHED".into(), path: String::new(), purpose, created };
            circuits.open.insert(id, Entry { circuit: circuit.clone(), number: None, ready: false, hops: 0, streams: 0 });
            circuit
        };
        let id = circuit.id;
        self.tell(Event::Circuit { circuit, reason: None });
        Ok(id)
    }

    /// Takes a circuit that is to become longer.
    fn lengthened(&self, id: u64) -> Result<u64, Reply> {
        let mut state = self.state();
        let entry = state.circuits.get_mut(id).ok_or_else(|| unknown_circuit(id))?;
        match entry.number {
            Some(number) if entry.ready => {
                entry.ready = false;
                entry.circuit.status = "EXTENDED".into();
                Ok(number)
            }
            _ => Err(Reply::new(551, "Can't extend a circuit that is not built")),
        }
    }

    /// Tells hop by hop of a circuit that is built.
    async fn built(self: &Arc<Self>, id: u64, Built { number, path }: Built) {
        let names: Vec<String> = path.iter().map(|fingerprint| self.long_name(fingerprint)).collect();
        let mut told = Vec::new();
        let ended = {
            let mut state = self.state();
            let circuits = &mut state.circuits;
            let ended = circuits.early.iter().position(|(early, _)| *early == number).map(|at| circuits.early.swap_remove(at).1);
            if let Some(entry) = circuits.open.get_mut(&id) {
                for hops in entry.hops + 1..=names.len() {
                    entry.circuit.path = names[..hops].join(",");
                    told.push(Circuit { status: "EXTENDED".into(), ..entry.circuit.clone() });
                }
                entry.circuit.status = "BUILT".into();
                told.push(entry.circuit.clone());
                (entry.number, entry.ready, entry.hops) = (Some(number), true, names.len());
            }
            ended
        };
        if told.is_empty() {
            // It was closed before it was built.
            self.backend.close_circuit(number).await;
            return;
        }
        for circuit in told {
            self.tell(Event::Circuit { circuit, reason: None });
        }
        if let Some(reason) = ended {
            self.circuit_gone(id, reason, false);
        }
    }

    /// The broker tells that a circuit has ended.
    pub(super) fn circuit_ended(&self, number: u64, reason: &str) {
        let id = {
            let mut state = self.state();
            let circuits = &mut state.circuits;
            let id = circuits.open.iter().find(|(_, entry)| entry.number == Some(number)).map(|(id, _)| *id);
            if id.is_none() {
                if circuits.early.len() >= EARLY_MAX {
                    circuits.early.remove(0);
                }
                circuits.early.push((number, reason.to_owned()));
            }
            id
        };
        if let Some(id) = id {
            self.circuit_gone(id, reason.to_owned(), false);
        }
    }

    fn circuit_gone(&self, id: u64, reason: String, failed: bool) {
        let Some(entry) = self.state().circuits.open.remove(&id) else { return };
        let status = if failed { "FAILED" } else { "CLOSED" }.to_owned();
        self.tell(Event::Circuit { circuit: Circuit { status, ..entry.circuit }, reason: Some(reason) });
    }

    /// CLOSECIRCUIT.
    pub(super) async fn close_circuit(&self, id: u64, if_unused: bool) -> Result<Reply, Reply> {
        self.permits("tor.close_circuit")?;
        let number = {
            let state = self.state();
            let entry = state.circuits.get(id).ok_or_else(|| unknown_circuit(id))?;
            if if_unused && entry.streams > 0 {
                return Ok(Reply::ok());
            }
            entry.number
        };
        self.circuit_gone(id, "REQUESTED".into(), false);
        if let Some(number) = number {
            self.backend.close_circuit(number).await;
        }
        Ok(Reply::ok())
    }

    /// SETCIRCUITPURPOSE.
    pub(super) fn repurpose(&self, id: u64, purpose: Purpose) -> Result<Reply, Reply> {
        let (circuit, before) = {
            let mut state = self.state();
            let circuit = &mut state.circuits.get_mut(id).ok_or_else(|| unknown_circuit(id))?.circuit;
            let before = std::mem::replace(&mut circuit.purpose, purpose);
            (circuit.clone(), before)
        };
        if before != purpose {
            self.tell(Event::Purpose { circuit, before });
        }
        Ok(Reply::ok())
    }
}

/// Tor's word for why a circuit was not built (control-spec, "Circuit status changed").
fn reason(error: &CallError) -> String {
    match error.kind {
        CallErrorKind::Timeout => "TIMEOUT",
        CallErrorKind::Busy => "RESOURCELIMIT",
        CallErrorKind::Missing => "NOPATH",
        CallErrorKind::Refused | CallErrorKind::BadCall => "REQUESTED",
        _ => "DESTROYED",
    }
    .into()
}
