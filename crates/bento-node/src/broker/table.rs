//! Which of Tor's objects belongs to which function.
//!
//! Hears each event of the control connection in its order, translates it for its owner, and drops what is nobody's. No input or output: what is to
//! be said to Tor is given back as orders.

mod heard;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
    time::Instant,
};

use tokio::sync::{oneshot, watch};

use bento_tor::{CircuitId, Fingerprint, Hop, Isolation, Order, StreamId};

use super::{
    event::{CircuitStatus, Event, StreamStatus, Subscriber, TOR_LOST, TorStatus},
    services::Service,
};

/// A function's process, as the table knows it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Owner(pub(super) u64);

/// What became of a circuit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Progress {
    /// It is being built, or made longer.
    Building,
    /// It is there.
    Built,
    /// It is gone, for this reason of Tor's.
    Gone(String),
}

/// All that belongs to functions.
#[derive(Debug, Default)]
pub(super) struct Table {
    last: u64,
    owned: BTreeMap<Owner, Owned>,
    circuits: HashMap<CircuitId, (Owner, u64)>,
    streams: HashMap<StreamId, Whose>,
    /// Streams that were asked for at the SOCKS port, and that Tor has not told of yet.
    expected: HashMap<Isolation, Expected>,
    /// Onion services by address.
    addresses: HashMap<String, (Owner, u64)>,
    /// Descriptors that Tor uploads by itself and has not heard of, by address and directory.
    uploads: HashMap<(String, Fingerprint), (u32, Instant)>,
    fetches: Vec<(String, Fetch)>,
    posts: Vec<(String, Post)>,
    /// Does Tor leave streams unattached at the moment?
    pub(super) held: bool,
}

/// What one function has.
#[derive(Debug, Default)]
pub(super) struct Owned {
    last_circuit: u64,
    last_stream: u64,
    last_service: u64,
    pub(super) circuits: BTreeMap<u64, Circuit>,
    pub(super) streams: BTreeMap<u64, Stream>,
    pub(super) services: BTreeMap<u64, Service>,
    pub(super) subscribers: Vec<Subscriber>,
}

/// A circuit of a function.
#[derive(Debug)]
pub(super) struct Circuit {
    /// None until Tor has taken it up.
    pub(super) id: Option<CircuitId>,
    pub(super) path: Vec<Hop>,
    pub(super) progress: watch::Sender<Progress>,
}

/// A stream of a function.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: Option<StreamId>,
    /// The function's circuit that it has to be on.
    pub(super) circuit: Option<u64>,
    pub(super) target: String,
    /// It is left alone until somebody says where it goes.
    pub(super) waits: bool,
    /// Why it could not be connected, in Tor's word.
    pub(super) why: Arc<OnceLock<String>>,
}

/// Whose stream it is that Tor knows.
#[derive(Debug)]
struct Whose {
    owner: Owner,
    /// None for one that only looks a name up.
    number: Option<u64>,
    /// It is for the circuit that it is attached to, and for no other.
    bound: bool,
    why: Arc<OnceLock<String>>,
}

/// A stream that was asked for.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) owner: Owner,
    /// None for one that only looks a name up.
    pub(super) number: Option<u64>,
    /// Where it has to go. Without one, Tor chooses.
    pub(super) circuit: Option<CircuitId>,
    /// It is left alone until somebody says where it goes.
    pub(super) later: bool,
    /// Told once Tor has it.
    pub(super) seen: oneshot::Sender<()>,
    /// Why it could not be connected.
    pub(super) why: Arc<OnceLock<String>>,
}

/// A descriptor that is asked for.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) number: u64,
    /// The directories that were named, if any were.
    pub(super) hsdirs: Vec<Fingerprint>,
    /// How often a directory was asked, and how often it had none; and why the last had none.
    pub(super) tries: watch::Sender<Tries>,
    pub(super) found: Option<oneshot::Sender<(Fingerprint, String)>>,
}

/// Tries to get a descriptor.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Tries {
    pub(super) asked: usize,
    pub(super) failed: usize,
    pub(super) reason: String,
}

/// A descriptor that is brought to directories.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) number: u64,
    /// The directories that were named, if any were.
    pub(super) hsdirs: Vec<Fingerprint>,
    /// What each has said: nothing if it took the descriptor, else why not.
    pub(super) said: watch::Sender<Vec<(Fingerprint, Option<String>)>>,
}

impl Table {
    /// A new function.
    pub(super) fn enter(&mut self) -> Owner {
        self.last += 1;
        let owner = Owner(self.last);
        self.owned.insert(owner, Owned::default());
        owner
    }

    /// A number that nothing else has.
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// What a function has; nothing once it has left.
    pub(super) fn of(&mut self, owner: Owner) -> Option<&mut Owned> {
        self.owned.get_mut(&owner)
    }

    /// Circuits of all functions.
    pub(super) fn circuit_count(&self) -> usize {
        self.owned.values().map(|owned| owned.circuits.len()).sum()
    }

    /// Onion services of all functions.
    pub(super) fn service_count(&self) -> usize {
        self.owned.values().map(|owned| owned.services.len()).sum()
    }

    /// Takes out all that a function has, and gives what ends it at Tor.
    pub(super) fn leave(&mut self, owner: Owner) -> Vec<Order> {
        let Some(owned) = self.owned.remove(&owner) else { return Vec::new() };
        self.expected.retain(|_, expected| expected.owner != owner);
        let mut orders = Vec::new();
        for id in owned.circuits.into_values().filter_map(|circuit| circuit.id) {
            self.circuits.remove(&id);
            orders.push(Order::close_circuit(&id));
        }
        // Its streams end with its sockets, and are remembered until Tor says so.
        for service in owned.services.into_values() {
            orders.extend(self.forget_address(&service));
        }
        orders
    }

    /// Makes room for a circuit that is about to be begun.
    pub(super) fn reserve_circuit(&mut self, owner: Owner) -> Option<(u64, watch::Receiver<Progress>)> {
        let owned = self.owned.get_mut(&owner)?;
        owned.last_circuit += 1;
        let (progress, receiver) = watch::channel(Progress::Building);
        owned.circuits.insert(owned.last_circuit, Circuit { id: None, path: Vec::new(), progress });
        Some((owned.last_circuit, receiver))
    }

    /// Tor has taken a circuit up. One of a function that has left meanwhile is ended.
    pub(super) fn circuit_begun(&mut self, owner: Owner, number: u64, id: &CircuitId) -> Vec<Order> {
        match self.owned.get_mut(&owner).and_then(|owned| owned.circuits.get_mut(&number)) {
            Some(circuit) => {
                circuit.id = Some(id.clone());
                self.circuits.insert(id.clone(), (owner, number));
                Vec::new()
            }
            None => vec![Order::close_circuit(id)],
        }
    }

    /// A circuit is gone, or came to nothing.
    pub(super) fn drop_circuit(&mut self, owner: Owner, number: u64, reason: &str) -> Option<Circuit> {
        let circuit = self.owned.get_mut(&owner)?.circuits.remove(&number)?;
        if let Some(id) = &circuit.id {
            self.circuits.remove(id);
        }
        circuit.progress.send_replace(Progress::Gone(reason.to_owned()));
        Some(circuit)
    }

    /// A stream that is about to be asked for.
    pub(super) fn add_stream(
        &mut self,
        owner: Owner,
        circuit: Option<u64>,
        target: &str,
        waits: bool,
        why: Arc<OnceLock<String>>,
    ) -> Option<u64> {
        let owned = self.owned.get_mut(&owner)?;
        owned.last_stream += 1;
        let stream = owned.last_stream;
        owned.streams.insert(stream, Stream { id: None, circuit, target: target.to_owned(), waits, why });
        owned.tell(&Event::Stream { stream, circuit, status: StreamStatus::New, target: target.to_owned(), reason: None });
        Some(stream)
    }

    /// A stream that came to nothing before Tor knew it.
    pub(super) fn drop_stream(&mut self, owner: Owner, number: u64) {
        let Some(owned) = self.owned.get_mut(&owner) else { return };
        if owned.streams.get(&number).is_some_and(|stream| stream.id.is_none()) {
            owned.end_stream(number, StreamStatus::Failed, None);
        }
    }

    pub(super) fn expect(&mut self, isolation: &Isolation, expected: Expected) {
        self.expected.insert(isolation.clone(), expected);
    }

    pub(super) fn expect_no_more(&mut self, isolation: &Isolation) {
        self.expected.remove(isolation);
    }

    /// Makes room for an onion service.
    pub(super) fn add_service(&mut self, owner: Owner, service: Service) -> Option<u64> {
        let owned = self.owned.get_mut(&owner)?;
        owned.last_service += 1;
        owned.services.insert(owned.last_service, service);
        Some(owned.last_service)
    }

    /// Tor has made an onion service. One of a function that has left meanwhile is ended.
    pub(super) fn service_made(&mut self, owner: Owner, number: u64, address: &str, key: Option<&String>) -> Vec<Order> {
        match self.owned.get_mut(&owner).and_then(|owned| owned.services.get_mut(&number)) {
            Some(service) => {
                service.address = Some(address.to_owned());
                if let Some(key) = key {
                    service.wanted.key = Some(key.clone());
                }
                self.addresses.insert(address.to_owned(), (owner, number));
                Vec::new()
            }
            None => Order::del_onion(address).into_iter().collect(),
        }
    }

    /// Takes an onion service out, and gives what ends it at Tor.
    pub(super) fn drop_service(&mut self, owner: Owner, number: u64) -> Option<Vec<Order>> {
        let service = self.owned.get_mut(&owner)?.services.remove(&number)?;
        Some(self.forget_address(&service))
    }

    fn forget_address(&mut self, service: &Service) -> Vec<Order> {
        let Some(address) = service.address.as_deref() else { return Vec::new() };
        self.addresses.remove(address);
        self.uploads.retain(|(of, _), _| of != address);
        // A backend ends when it is dropped.
        Order::del_onion(address).into_iter().filter(|_| service.front.is_none()).collect()
    }

    /// Onion services that are to be made again.
    pub(super) fn services(&self) -> Vec<(Owner, u64, bento_tor::OnionService, Option<String>)> {
        let each = self.owned.iter().flat_map(|(owner, owned)| owned.services.iter().map(|(number, service)| (*owner, *number, service)));
        // One that has no address yet is being made by whoever asked for it.
        each.filter(|(.., service)| service.address.is_some())
            .map(|(owner, number, service)| (owner, number, service.wanted.clone(), service.front.clone()))
            .collect()
    }

    pub(super) fn fetch(&mut self, address: &str, fetch: Fetch) {
        self.fetches.push((address.to_owned(), fetch));
    }

    pub(super) fn fetch_no_more(&mut self, number: u64) {
        self.fetches.retain(|(_, fetch)| fetch.number != number);
    }

    pub(super) fn post(&mut self, address: &str, post: Post) {
        self.posts.push((address.to_owned(), post));
    }

    pub(super) fn post_no_more(&mut self, number: u64) {
        self.posts.retain(|(_, post)| post.number != number);
    }

    /// Tells every function.
    pub(super) fn tell_all(&mut self, event: &Event) {
        for owned in self.owned.values_mut() {
            owned.tell(event);
        }
    }

    /// Tor is gone, and all circuits and streams with it. Onion services stay, to be made again.
    pub(super) fn lost(&mut self) {
        self.circuits.clear();
        self.streams.clear();
        self.expected.clear();
        self.uploads.clear();
        self.fetches.clear();
        self.posts.clear();
        self.held = false;
        for owned in self.owned.values_mut() {
            for number in owned.streams.keys().copied().collect::<Vec<_>>() {
                owned.end_stream(number, StreamStatus::Closed, Some(TOR_LOST));
            }
            for (circuit, gone) in std::mem::take(&mut owned.circuits) {
                gone.progress.send_replace(Progress::Gone(TOR_LOST.to_owned()));
                let reason = Some(TOR_LOST.to_owned());
                owned.tell(&Event::Circuit { circuit, status: CircuitStatus::Closed, path: gone.path, reason, remote_reason: None });
            }
            owned.tell(&Event::Tor { status: TorStatus::Lost });
        }
    }
}

impl Owned {
    /// Forgets subscribers that have left.
    pub(super) fn forget_left(&mut self) {
        self.subscribers.retain(Subscriber::reads);
    }

    /// Tells all subscribers, and forgets those that have left.
    pub(super) fn tell(&mut self, event: &Event) {
        self.subscribers.retain(|subscriber| subscriber.tell(event));
    }

    fn connected(&mut self, number: u64) {
        let Some(stream) = self.streams.get(&number) else { return };
        let (circuit, target) = (stream.circuit, stream.target.clone());
        self.tell(&Event::Stream { stream: number, circuit, status: StreamStatus::Connected, target, reason: None });
    }

    fn end_stream(&mut self, stream: u64, status: StreamStatus, reason: Option<&str>) {
        let Some(Stream { circuit, target, why, .. }) = self.streams.remove(&stream) else { return };
        // What ended the try is the reason, and not that it was then closed.
        let reason = why.get().map(String::as_str).or(reason).map(str::to_owned);
        if let Some(reason) = &reason {
            let _ = why.set(reason.clone());
        }
        self.tell(&Event::Stream { stream, circuit, status, target, reason });
    }
}

/// The number of a reason for which a stream is ended (tor-spec, "Closing streams").
pub(super) fn reason_code(reason: &str) -> u8 {
    const REASONS: [&str; 14] = [
        "MISC",
        "RESOLVEFAILED",
        "CONNECTREFUSED",
        "EXITPOLICY",
        "DESTROY",
        "DONE",
        "TIMEOUT",
        "NOROUTE",
        "HIBERNATING",
        "INTERNAL",
        "RESOURCELIMIT",
        "CONNRESET",
        "TORPROTOCOL",
        "NOTDIRECTORY",
    ];
    // They begin with 1, and 1 says nothing.
    REASONS.iter().position(|known| *known == reason).map_or(1, |index| index as u8 + 1)
}
