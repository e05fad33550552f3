//! A function's circuits: begun, made longer, waited for, closed.

use std::sync::PoisonError;

use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use bento_tor::{CircuitId, ControlError, Fingerprint, Hop, Order};

use super::{
    Broker, Wish, bad_call, by_control, over,
    table::{Owned, Progress},
};
use crate::{
    link::{CallError, CallErrorKind},
    process::TRY_BYTES,
};

/// Most relays of a circuit: Tor has no more RELAY_EARLY cells to make it longer with.
pub(super) const PATH_MAX: usize = 8;

/// How often a circuit is begun in all, if Tor gives it up for its time. Tor learns how long circuits take and ends those that take longer than four of
/// five did (path-spec, "Learning when to give up"), which says little of their relays; its own clients then use another circuit.
const TRIES_MAX: usize = 3;

/// Tor's word for that.
const TOO_SLOW: &str = "TIMEOUT";

/// Where a new circuit goes.
#[derive(Clone, Debug)]
pub enum Route {
    /// Through these relays.
    Given(Vec<Fingerprint>),
    /// Through relays that the node chooses.
    Chosen(Wish),
}

/// A circuit of the function's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Circuit {
    /// Its number.
    pub number: u64,
    /// Its relays so far.
    pub path: Vec<Hop>,
    /// Is it there, as long as it was to be?
    pub built: bool,
}

/// A circuit that is being built, or made longer.
#[derive(Debug)]
pub struct Building {
    /// Its number.
    pub number: u64,
    progress: watch::Receiver<Progress>,
}

impl Broker {
    /// Begins a circuit through these relays. It is there when an event says so, or [`built`](Self::built).
    ///
    /// # Errors
    /// In the words of the function API.
    pub async fn begin_circuit(&self, relays: &[Fingerprint]) -> Result<Building, CallError> {
        check_path(&[], relays)?;
        let running = self.tor.running()?;
        let (number, progress) = {
            let mut table = self.tor.table();
            let all = table.circuit_count();
            let owned = table.of(self.owner).ok_or_else(over)?;
            let most = self.grant.circuits();
            if owned.circuits.len() >= most as usize {
                let text = format!("the function may have {most} circuits at a time, and has them");
                return Err(CallError::new(CallErrorKind::Refused, text));
            }
            if all >= self.tor.bounds.circuits {
                return Err(CallError::new(CallErrorKind::Busy, "the node has as many circuits of functions as it takes"));
            }
            table.reserve_circuit(self.owner).ok_or_else(over)?
        };
        let reserved = Reserved { broker: self, number };
        self.count(TRY_BYTES * relays.len()).await?;
        let (table, owner) = (self.tor.table.clone(), self.owner);
        let begun = move |id: &CircuitId| {
            if let Some(record) = &running.record {
                record.begun(id);
            }
            table.lock().unwrap_or_else(PoisonError::into_inner).circuit_begun(owner, number, id)
        };
        let begun = running.controller.clone().extend_circuit(None, relays, begun).await;
        begun.map_err(|error| not_extended(&error))?;
        std::mem::forget(reserved);
        Ok(Building { number, progress })
    }

    /// Makes a circuit longer by these relays. It is there again when an event says so, or [`built`](Self::built).
    ///
    /// # Errors
    /// In the words of the function API.
    pub async fn extend_circuit(&self, number: u64, relays: &[Fingerprint]) -> Result<Building, CallError> {
        let running = self.tor.running()?;
        let (id, progress) = {
            let mut table = self.tor.table();
            let circuit = own(table.of(self.owner), number)?;
            let path: Vec<Fingerprint> = circuit.path.iter().map(|hop| hop.fingerprint).collect();
            check_path(&path, relays)?;
            if *circuit.progress.borrow() != Progress::Built {
                return Err(CallError::new(CallErrorKind::Busy, "the circuit is still being built"));
            }
            circuit.progress.send_replace(Progress::Building);
            (circuit.id.clone().ok_or_else(missing)?, circuit.progress.subscribe())
        };
        let extended = async {
            self.count(TRY_BYTES * relays.len()).await?;
            running.controller.extend_circuit(Some(&id), relays, |_| Vec::new()).await.map_err(|error| not_extended(&error))
        };
        if let Err(error) = extended.await {
            // Tor did not begin, so that it is as long as before.
            if let Ok(circuit) = own(self.tor.table().of(self.owner), number) {
                circuit.progress.send_if_modified(|progress| {
                    let was = *progress == Progress::Building;
                    if was {
                        *progress = Progress::Built;
                    }
                    was
                });
            }
            return Err(error);
        }
        Ok(Building { number, progress })
    }

    /// Makes a circuit, and waits until it is there. One that Tor gives up for being slower than others is begun again, through other relays if the node
    /// chooses them; all tries together have the node's time for a connection.
    ///
    /// # Errors
    /// With Tor's reason when it could not be built.
    pub async fn circuit(&self, route: &Route) -> Result<Circuit, CallError> {
        let deadline = Instant::now() + self.tor.bounds.connect;
        let mut tries = 1;
        loop {
            let building = match route {
                Route::Given(relays) => self.begin_circuit(relays).await?,
                Route::Chosen(wish) => self.begin_circuit(&self.choose(wish).await?).await?,
            };
            match self.wait(building, deadline).await? {
                Err(reason) if reason == TOO_SLOW && tries < TRIES_MAX => tries += 1,
                ended => return ended.map_err(|reason| not_built(&reason)),
            }
        }
    }

    /// Waits until a circuit is there. One that takes too long is closed.
    ///
    /// # Errors
    /// With Tor's reason when it could not be built.
    pub async fn built(&self, building: Building) -> Result<Circuit, CallError> {
        self.wait(building, Instant::now() + self.tor.bounds.connect).await?.map_err(|reason| not_built(&reason))
    }

    /// Waits until a circuit is there, or Tor says why it cannot be. One that is not there in time is closed.
    async fn wait(&self, building: Building, deadline: Instant) -> Result<Result<Circuit, String>, CallError> {
        let Building { number, mut progress } = building;
        let ended = timeout_at(deadline, progress.wait_for(|progress| *progress != Progress::Building)).await;
        match ended.map(|progress| progress.map(|progress| progress.clone())) {
            Ok(Ok(Progress::Built)) => self.circuits().into_iter().find(|circuit| circuit.number == number).map(Ok).ok_or_else(missing),
            Ok(Ok(Progress::Gone(reason))) => Ok(Err(reason)),
            Ok(_) => Err(over()),
            Err(_) => {
                let _ = self.close_circuit(number).await;
                Err(CallError::new(CallErrorKind::Timeout, "the circuit could not be built within the node's time"))
            }
        }
    }

    /// The function's circuits.
    pub fn circuits(&self) -> Vec<Circuit> {
        let mut table = self.tor.table();
        let Some(owned) = table.of(self.owner) else { return Vec::new() };
        let each = owned.circuits.iter().filter(|(_, circuit)| circuit.id.is_some());
        each.map(|(number, circuit)| Circuit {
            number: *number,
            path: circuit.path.clone(),
            built: *circuit.progress.borrow() == Progress::Built,
        })
        .collect()
    }

    /// Closes a circuit, and its streams with it. An event tells it as well.
    ///
    /// # Errors
    /// When the function has no such circuit.
    pub async fn close_circuit(&self, number: u64) -> Result<(), CallError> {
        let (id, mut progress) = {
            let mut table = self.tor.table();
            let circuit = own(table.of(self.owner), number)?;
            (circuit.id.clone().ok_or_else(missing)?, circuit.progress.subscribe())
        };
        let running = self.tor.running()?;
        running.controller.order(vec![Order::close_circuit(&id)]).await.map_err(|error| by_control(&error))?;
        // Tor tells that it is closed, also when it just was.
        let gone = |progress: &Progress| matches!(progress, Progress::Gone(_));
        let closed = timeout(self.tor.bounds.connect, progress.wait_for(gone)).await;
        closed.map(drop).map_err(|_| CallError::new(CallErrorKind::Timeout, "the node's Tor does not answer"))
    }

    /// Tor's name of a circuit that is there.
    pub(super) fn circuit_id(&self, number: u64) -> Result<CircuitId, CallError> {
        let mut table = self.tor.table();
        let circuit = own(table.of(self.owner), number)?;
        if *circuit.progress.borrow() != Progress::Built {
            return Err(CallError::new(CallErrorKind::Busy, "the circuit is still being built"));
        }
        circuit.id.clone().ok_or_else(missing)
    }
}

/// A place for a circuit that Tor has not taken up.
struct Reserved<'a> {
    broker: &'a Broker,
    number: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        // Should Tor take it up all the same, it finds no place and is ended.
        self.broker.tor.table().drop_circuit(self.broker.owner, self.number, "NONE");
    }
}

fn not_built(reason: &str) -> CallError {
    CallError::new(CallErrorKind::Unreachable, format!("the circuit could not be built: {reason}"))
}

fn own(owned: Option<&mut Owned>, number: u64) -> Result<&mut super::table::Circuit, CallError> {
    owned.and_then(|owned| owned.circuits.get_mut(&number)).ok_or_else(missing)
}

fn missing() -> CallError {
    CallError::new(CallErrorKind::Missing, "the function has no circuit of this number")
}

/// Checks a path as far as it can be without the network: relays one after the other, each another than that before it.
fn check_path(before: &[Fingerprint], relays: &[Fingerprint]) -> Result<(), CallError> {
    let whole: Vec<&Fingerprint> = before.iter().chain(relays).collect();
    if relays.is_empty() || whole.len() > PATH_MAX {
        return Err(bad_call(format!("a circuit has 1 to {PATH_MAX} relays")));
    }
    if whole.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(bad_call("a relay cannot follow itself"));
    }
    Ok(())
}

fn not_extended(error: &ControlError) -> CallError {
    match error {
        ControlError::Refused { code: 552, text, .. } if text.starts_with("No such router") => {
            CallError::new(CallErrorKind::Missing, "the network has no relay of this fingerprint")
        }
        ControlError::Refused { code: 552, text, .. } if text.starts_with("No descriptor") => {
            CallError::new(CallErrorKind::Unreachable, "the node's Tor does not know one of the relays well enough yet")
        }
        ControlError::Refused { code: 552, .. } => missing(),
        ControlError::Refused { .. } => CallError::new(CallErrorKind::Unreachable, "the circuit could not be begun"),
        error => by_control(error),
    }
}
