//! EXTENDCIRCUIT, CLOSECIRCUIT, SETCIRCUITPURPOSE: the function's circuits, under the numbers that the broker gives them.
//!
//! What becomes of them the broker tells. What they are for is a note of the function's own: only it puts streams on them.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry as Place},
    time::SystemTime,
};

use super::{
    Event, Reply,
    backend::{Backend, Change},
    command::{Extend, Purpose, unknown_circuit},
    event::Circuit,
    view::{View, failed},
};

/// Closed circuits that are remembered: more than a function can have at a time.
const CLOSED_MAX: usize = 256;

/// The circuits of one function.
#[derive(Default)]
pub(super) struct Circuits {
    open: BTreeMap<u64, Entry>,
    /// The last ones that were closed: what is still told of them makes none anew.
    closed: VecDeque<u64>,
}

pub(super) struct Entry {
    pub(super) circuit: Circuit,
    /// How many streams of the SOCKS port are on it.
    pub(super) streams: usize,
}

impl Entry {
    pub(super) fn is_built(&self) -> bool {
        self.circuit.status == "BUILT"
    }

    pub(super) fn hops(&self) -> usize {
        self.circuit.path.split(',').filter(|hop| !hop.is_empty()).count()
    }
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

    fn close(&mut self, id: u64) {
        self.open.remove(&id);
        if self.closed.len() >= CLOSED_MAX {
            self.closed.pop_front();
        }
        self.closed.push_back(id);
    }

    /// The entry of a circuit; a new one if it is the first that is heard of it.
    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        match self.open.entry(id) {
            Place::Occupied(entry) => Some(entry.into_mut()),
            Place::Vacant(_) if self.closed.contains(&id) => None,
            Place::Vacant(place) => {
                let circuit =
                    Circuit { id, status: "LAUNCHED", path: String::new(), purpose: Purpose::General, created: SystemTime::now() };
                Some(place.insert(Entry { circuit, streams: 0 }))
            }
        }
    }
}

impl<B: Backend> View<B> {
    /// EXTENDCIRCUIT.
    pub(super) async fn extend(&self, Extend { circuit, path, purpose }: Extend) -> Result<Reply, Reply> {
        self.permits(match (circuit, path.is_empty()) {
            (Some(_), _) => "tor.extend",
            (None, true) => "tor.circuit",
            (None, false) => "tor.path",
        })?;
        if let Some(id) = circuit {
            let state = self.state();
            let entry = state.circuits.get(id).ok_or_else(|| unknown_circuit(id))?;
            if !entry.is_built() {
                return Err(Reply::new(551, "Can't extend a circuit that is not built"));
            }
        }
        let relays = self.resolve(&path).await?;
        let refused = |error| failed(&error);
        let id = match circuit {
            Some(id) => {
                self.backend.extend(id, &relays).await.map_err(refused)?;
                id
            }
            None if relays.is_empty() => self.backend.circuit().await.map_err(refused)?,
            None => self.backend.path(&relays).await.map_err(refused)?,
        };
        if circuit.is_none()
            && let Some(entry) = self.state().circuits.entry(id)
        {
            entry.circuit.purpose = purpose;
        }
        Ok(Reply::new(250, format!("EXTENDED {id}")))
    }

    /// The broker tells what has become of a circuit.
    pub(super) fn circuit_is(&self, number: u64, change: Change) {
        let Change { status, path, reason } = change;
        let told = {
            let mut state = self.state();
            // It was closed, and that was told.
            let Some(entry) = state.circuits.entry(number) else { return };
            entry.circuit.status = status;
            if !path.is_empty() {
                entry.circuit.path = path;
            }
            let circuit = entry.circuit.clone();
            if matches!(status, "FAILED" | "CLOSED") {
                state.circuits.close(number);
            }
            circuit
        };
        self.tell(Event::Circuit { circuit: told, reason });
    }

    /// CLOSECIRCUIT.
    pub(super) async fn close_circuit(&self, id: u64, if_unused: bool) -> Result<Reply, Reply> {
        self.permits("tor.close_circuit")?;
        {
            let state = self.state();
            let entry = state.circuits.get(id).ok_or_else(|| unknown_circuit(id))?;
            if if_unused && entry.streams > 0 {
                return Ok(Reply::ok());
            }
        }
        self.circuit_is(id, Change { status: "CLOSED", path: String::new(), reason: Some("REQUESTED".into()) });
        self.backend.close_circuit(id).await;
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
