//! What the table hears: Tor's events, each translated for its owner.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bento_tor::{
    CircuitEvent, CircuitId, CircuitStatus as TorCircuit, Descriptor, DescriptorContent, Event as TorEvent, Fingerprint, Order, Step,
    StreamEvent, StreamId, StreamStatus as TorStream,
};

use super::{
    super::event::{CircuitStatus, Event, ServiceStatus, StreamStatus},
    Expected, Fetch, Owner, Post, Progress, Table, Tries, Whose, reason_code,
};

/// How long a directory may take to say whether it has stored what Tor uploads. Where it never does, no event says so.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(120);

/// Descriptors of one onion service that are valid at a time, and so brought to one directory at most: that of this time period and that of another.
const DESCRIPTORS_MAX: u32 = 2;

impl Table {
    /// Hears an event. What it gives is written to Tor at once.
    pub(in super::super) fn heard(&mut self, event: &TorEvent) -> Vec<Order> {
        match event.kind.as_str() {
            CircuitEvent::EVENT => {
                if let Some(circuit) = CircuitEvent::parse(event) {
                    self.circuit(circuit);
                }
                Vec::new()
            }
            StreamEvent::EVENT => StreamEvent::parse(event).map_or_else(Vec::new, |stream| self.stream(stream)),
            Descriptor::EVENT => {
                if let Some(descriptor) = Descriptor::parse(event) {
                    self.descriptor(&descriptor);
                }
                Vec::new()
            }
            DescriptorContent::EVENT => {
                if let Some(content) = DescriptorContent::parse(event) {
                    self.content(&content);
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn circuit(&mut self, event: CircuitEvent) {
        let Some(&(owner, number)) = self.circuits.get(&event.id) else { return };
        let CircuitEvent { path, reason, remote_reason, .. } = event;
        let status = match event.status {
            TorCircuit::Launched => CircuitStatus::Launched,
            TorCircuit::Extended => CircuitStatus::Extended,
            TorCircuit::Built => CircuitStatus::Built,
            TorCircuit::Failed => CircuitStatus::Failed,
            TorCircuit::Closed => CircuitStatus::Closed,
            _ => return,
        };
        if matches!(status, CircuitStatus::Failed | CircuitStatus::Closed) {
            self.drop_circuit(owner, number, remote_reason.as_deref().or(reason.as_deref()).unwrap_or("NONE"));
        } else if let Some(circuit) = self.owned.get_mut(&owner).and_then(|owned| owned.circuits.get_mut(&number)) {
            circuit.path.clone_from(&path);
            if status == CircuitStatus::Built {
                circuit.progress.send_replace(Progress::Built);
            }
        }
        if let Some(owned) = self.owned.get_mut(&owner) {
            owned.tell(&Event::Circuit { circuit: number, status, path, reason, remote_reason });
        }
    }

    fn stream(&mut self, event: StreamEvent) -> Vec<Order> {
        let is_new = matches!(event.status, TorStream::New | TorStream::NewResolve);
        let expected = event.isolation.as_ref().filter(|_| is_new).and_then(|isolation| self.expected.remove(isolation));
        if let Some(expected) = expected {
            return self.began(&event, expected);
        }
        let Some(whose) = self.streams.get(&event.id) else {
            // Somebody else's: of the node itself, or of whoever uses this Tor as well. Tor shall do with it as it always does.
            return if self.held && event.waits() { vec![Order::attach(&event.id, None)] } else { Vec::new() };
        };
        let reason = event.remote_reason.as_deref().or(event.reason.as_deref());
        match event.status {
            TorStream::Succeeded => {
                let owned = self.owned.get_mut(&whose.owner);
                if let Some((number, owned)) = whose.number.zip(owned) {
                    owned.connected(number);
                }
                Vec::new()
            }
            // It is for that circuit alone, and Tor would let it wait for another one.
            TorStream::Detached if whose.bound => {
                let reason = reason.unwrap_or("END").to_owned();
                let order = Order::close_stream(&event.id, reason_code(&reason));
                let _ = whose.why.set(reason);
                vec![order]
            }
            TorStream::Detached if self.held => vec![Order::attach(&event.id, None)],
            TorStream::Failed | TorStream::Closed => {
                let status = if event.status == TorStream::Failed { StreamStatus::Failed } else { StreamStatus::Closed };
                let owned = self.owned.get_mut(&whose.owner);
                if let Some((number, owned)) = whose.number.zip(owned) {
                    owned.end_stream(number, status, reason);
                }
                self.streams.remove(&event.id);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A stream that was asked for is there.
    fn began(&mut self, event: &StreamEvent, expected: Expected) -> Vec<Order> {
        let Expected { owner, number, circuit, later, seen, why } = expected;
        let _ = seen.send(());
        if let Some(stream) = number.and_then(|number| self.owned.get_mut(&owner)?.streams.get_mut(&number)) {
            stream.id = Some(event.id.clone());
        }
        let bound = circuit.is_some();
        self.streams.insert(event.id.clone(), Whose { owner, number, bound, why: Arc::clone(&why) });
        match circuit {
            Some(circuit) => attach(event.status, &event.id, &circuit, why),
            None if later || !self.held => Vec::new(),
            None => vec![Order::attach(&event.id, None)],
        }
    }

    /// Attaches a stream that was left alone: to this circuit of its function, or to one that Tor chooses. Nothing if it does not wait.
    pub(in super::super) fn attach(&mut self, owner: Owner, number: u64, circuit: Option<(u64, CircuitId)>) -> Option<Vec<Order>> {
        let stream = self.owned.get_mut(&owner)?.streams.get_mut(&number).filter(|stream| stream.waits)?;
        let id = stream.id.clone()?;
        let whose = self.streams.get_mut(&id)?;
        stream.waits = false;
        let Some((circuit, to)) = circuit else { return Some(vec![Order::attach(&id, None)]) };
        (stream.circuit, whose.bound) = (Some(circuit), true);
        Some(attach(TorStream::New, &id, &to, Arc::clone(&whose.why)))
    }

    fn descriptor(&mut self, event: &Descriptor) {
        let Descriptor { address, step, hsdir } = event;
        match step {
            Step::Upload => {
                if let Some(hsdir) = hsdir {
                    let (count, since) = self.uploads.entry((address.clone(), *hsdir)).or_insert((0, Instant::now()));
                    (*count, *since) = ((*count + 1).min(DESCRIPTORS_MAX), Instant::now());
                }
            }
            Step::Uploaded => self.stored(address, *hsdir, None),
            Step::Failed(reason) if reason == Descriptor::REJECTED => self.stored(address, *hsdir, Some(reason)),
            Step::Requested => self.tries(address, *hsdir, |tries| tries.asked += 1),
            Step::Failed(reason) => self.tries(address, *hsdir, |tries| {
                tries.failed += 1;
                tries.reason.clone_from(reason);
            }),
            _ => {}
        }
    }

    /// A directory has stored a descriptor or refused it: one that Tor uploaded for an onion service, or else one that a function brings.
    fn stored(&mut self, address: &str, hsdir: Option<Fingerprint>, refused: Option<&str>) {
        // Tor tells only of its own uploads when they begin. What those account for is no answer to anybody else: who brings a descriptor of another
        // function's onion service must learn nothing of that.
        let key = hsdir.map(|hsdir| (address.to_owned(), hsdir));
        let own =
            key.and_then(|key| self.uploads.get_mut(&key).filter(|(_, since)| since.elapsed() < UPLOAD_DEADLINE).map(|own| (key, own)));
        if let Some((key, (count, _))) = own {
            let hsdir = key.1;
            *count -= 1;
            if *count == 0 {
                self.uploads.remove(&key);
            }
            let Some(&(owner, service)) = self.addresses.get(address) else { return };
            let Some(owned) = self.owned.get_mut(&owner) else { return };
            let status = if refused.is_some() { ServiceStatus::Failed } else { ServiceStatus::Uploaded };
            if let Some(service) = owned.services.get(&service).filter(|_| refused.is_none()) {
                service.uploaded.send_replace(true);
            }
            owned.tell(&Event::Service { service, status, hsdir: Some(hsdir), reason: refused.map(str::to_owned) });
            return;
        }
        let Some(hsdir) = hsdir else { return };
        let wanted = |post: &Post| post.hsdirs.is_empty() || post.hsdirs.contains(&hsdir);
        for (_, post) in self.posts.iter().filter(|(of, post)| of == address && wanted(post)) {
            post.said.send_modify(|said| {
                if said.iter().all(|(known, _)| *known != hsdir) {
                    said.push((hsdir, refused.map(str::to_owned)));
                }
            });
        }
    }

    fn tries(&mut self, address: &str, hsdir: Option<Fingerprint>, change: impl Fn(&mut Tries)) {
        let wanted = |fetch: &Fetch| fetch.hsdirs.is_empty() || hsdir.is_none_or(|hsdir| fetch.hsdirs.contains(&hsdir));
        for (_, fetch) in self.fetches.iter().filter(|(of, fetch)| of == address && wanted(fetch)) {
            fetch.tries.send_modify(&change);
        }
    }

    fn content(&mut self, content: &DescriptorContent) {
        if content.text.is_empty() {
            return;
        }
        let wanted = |fetch: &Fetch| fetch.hsdirs.is_empty() || fetch.hsdirs.contains(&content.hsdir);
        let waiting = self.fetches.iter_mut().filter(|(of, fetch)| *of == content.address && wanted(fetch));
        for found in waiting.filter_map(|(_, fetch)| fetch.found.take()) {
            let _ = found.send((content.hsdir, content.text.clone()));
        }
    }
}

/// Attaches a stream to the circuit that it has to be on, and ends it if that cannot be: it must not wait for another one.
fn attach(status: TorStream, stream: &StreamId, circuit: &CircuitId, why: Arc<OnceLock<String>>) -> Vec<Order> {
    let id = stream.clone();
    let ended = move |attached: Result<(), bento_tor::ControlError>| match attached {
        Ok(()) => Vec::new(),
        Err(_) => {
            let _ = why.set("DESTROY".to_owned());
            vec![Order::close_stream(&id, reason_code("DESTROY"))]
        }
    };
    match status {
        TorStream::NewResolve => Order::attach_resolve(stream, circuit, ended),
        _ => vec![Order::attach(stream, Some(circuit)).then(ended)],
    }
}
