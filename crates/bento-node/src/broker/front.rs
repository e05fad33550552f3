//! The call `tor.front`: publishes an onion service whose clients are spread over backends.
//!
//! The key comes with each call and is not kept. What is kept here tells nothing of whom a front has: the consensus as it was last read, and the
//! last revision of each front, without which a directory would refuse what is published within the same second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rand::seq::SliceRandom;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use bento_front::{Address, Backend, ClientKey, Directory, Front, FrontKey, Period, Revision, seats};
use bento_tor::{Controller, Fingerprint, Stored};

use super::{Broker, by_control};
use crate::{
    link::{Call, CallError, CallErrorKind},
    meter::Way,
};

/// Most backends of one front.
const BACKENDS_MAX: usize = 64;

/// Most clients that alone may find a front. More would not fit into a descriptor.
const CLIENTS_MAX: usize = 128;

/// Largest weight.
const WEIGHT_MAX: u32 = 1_000_000;

/// Descriptors that are fetched at the same time: each takes a circuit of its own.
const FETCHES: usize = 4;

/// How many directories are asked for a backend's descriptor before it counts as missing.
const ASKED_MAX: usize = 3;

/// How long one directory may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long all of it may take: a function waits for it.
const DEADLINE: Duration = Duration::from_secs(150);

/// Fronts whose last revision is remembered.
const FRONTS_MAX: usize = 1024;

/// What a call asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    backends: Vec<(String, u32)>,
    #[serde(default)]
    clients: Vec<String>,
}

/// What a call asks for, as it is meant.
struct Wanted {
    key: FrontKey,
    backends: Vec<(Address, u32)>,
    clients: Vec<ClientKey>,
}

/// What a front costs and what came of it.
struct Published {
    /// For the function.
    answer: Value,
    /// Bytes of descriptors, fetched and given.
    bytes: u64,
}

impl Wanted {
    /// Reads the arguments of the call.
    fn read(call: &Call) -> Result<Self, CallError> {
        Self::of(call.arguments("tor.front takes `key`, `backends` and `clients`")?)
    }

    fn of(Asked { key, backends, clients }: Asked) -> Result<Self, CallError> {
        let bad = |error: &dyn std::fmt::Display| CallError::new(CallErrorKind::BadCall, error.to_string());
        if backends.len() > BACKENDS_MAX || clients.len() > CLIENTS_MAX {
            return Err(bad(&format!("a front has at most {BACKENDS_MAX} backends and {CLIENTS_MAX} clients")));
        }
        let key = match key {
            Some(text) => text.parse().map_err(|error| bad(&error))?,
            None => FrontKey::generate(&mut rand::rng()),
        };
        let mut named: Vec<(Address, u32)> = Vec::new();
        for (address, weight) in backends {
            let address: Address = address.parse().map_err(|error| bad(&error))?;
            if weight > WEIGHT_MAX || named.iter().any(|(other, _)| *other == address) {
                return Err(bad(&format!("each backend is named once, with a weight of 0 to {WEIGHT_MAX}")));
            }
            named.push((address, weight));
        }
        let clients = clients.iter().map(|client| client.parse()).collect::<Result<_, _>>().map_err(|error| bad(&error))?;
        Ok(Self { key, backends: named, clients })
    }
}

impl Broker {
    /// Publishes a front as a call asks for, and tells what came of it.
    ///
    /// # Errors
    /// In the words of the function API.
    pub(super) async fn front(&self, call: &Call) -> Result<Value, CallError> {
        let wanted = Wanted::read(call)?;
        let running = self.tor.running()?;
        self.count_try().await?;
        let published = self.tor.fronts.publish(&running.controller, &wanted).await?;
        let used_up = |_| CallError::new(CallErrorKind::Refused, "traffic is used up");
        self.meter.pass(Way::Sent, usize::try_from(published.bytes).unwrap_or(usize::MAX)).await.map_err(used_up)?;
        Ok(published.answer)
    }
}

/// What the node remembers for its functions' fronts.
#[derive(Debug, Default)]
pub(super) struct Fronts {
    directory: Mutex<Option<(String, Arc<Directory>)>>,
    last: Mutex<HashMap<Address, Revision>>,
}

impl Fronts {
    /// Does it. Without backends nothing is published, and the answer has the address alone.
    async fn publish(&self, control: &Controller, wanted: &Wanted) -> Result<Published, CallError> {
        timeout(DEADLINE, self.published(control, wanted))
            .await
            .map_err(|_| CallError::new(CallErrorKind::Timeout, format!("the front was not published within {} s", DEADLINE.as_secs())))?
    }

    async fn published(&self, control: &Controller, wanted: &Wanted) -> Result<Published, CallError> {
        let address = wanted.key.address();
        let mut answer = json!({
            "address": address.to_string(), "key": *wanted.key.to_text(), "backends": [], "periods": [], "fetched": false, "again": 3600.0,
        });
        if wanted.backends.is_empty() {
            return Ok(Published { answer, bytes: 0 });
        }
        let directory = self.directory(control).await?;
        let mut bytes = 0;
        let fetched = self.fetched(control, &directory, &wanted.backends).await?;
        let (mut backends, mut weights, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for ((address, weight), found) in wanted.backends.iter().zip(fetched) {
            told.push(match found {
                Ok((backend, length)) => {
                    bytes += length as u64;
                    let points = backend.introduction_points();
                    backends.push(backend);
                    weights.push(*weight);
                    json!({"address": address.to_string(), "points": points, "missing": null})
                }
                Err(why) => json!({"address": address.to_string(), "points": 0, "missing": why}),
            });
        }
        let front = Front { key: &wanted.key, backends: &backends, clients: &wanted.clients };
        let mut periods = Vec::new();
        for (number, period) in directory.periods().into_iter().enumerate() {
            let given = self.give(control, &directory, &front, &weights, period).await?;
            bytes += given.bytes;
            if number == 0 {
                // As a client would: the first of the periods is the one that clients ask for.
                answer["fetched"] = json!(self.is_there(control, &address, &given.took).await?);
            }
            periods.push(given.told());
        }
        answer["backends"] = told.into();
        answer["periods"] = periods.into();
        answer["again"] = json!(directory.interval().as_secs_f64());
        Ok(Published { answer, bytes })
    }

    /// The consensus, read again when there is another.
    async fn directory(&self, control: &Controller) -> Result<Arc<Directory>, CallError> {
        let version = control.get_info("consensus/valid-after").await.map_err(unreachable)?;
        let kept = lock(&self.directory).as_ref().filter(|(known, _)| *known == version).map(|(_, directory)| Arc::clone(directory));
        if let Some(directory) = kept {
            return Ok(directory);
        }
        let consensus = control.get_info("dir/status-vote/current/consensus-microdesc").await.map_err(unreachable)?;
        let microdescriptors = control.get_info("md/all").await.map_err(unreachable)?;
        let is_testing = control.get_conf("TestingTorNetwork").await.map_err(unreachable)? == ["1"];
        // Of the public network it takes some tenths of a second.
        let read = tokio::task::spawn_blocking(move || Directory::read(&consensus, &microdescriptors, is_testing)).await;
        let read = read.map_err(|_| CallError::new(CallErrorKind::Failed, "the node failed"))?;
        let directory = Arc::new(read.map_err(|error| CallError::new(CallErrorKind::Unreachable, error.to_string()))?);
        *lock(&self.directory) = Some((version, Arc::clone(&directory)));
        Ok(directory)
    }

    /// The backends' descriptors, in the order in which they were named; or why there is none.
    async fn fetched(
        &self,
        control: &Controller,
        directory: &Arc<Directory>,
        backends: &[(Address, u32)],
    ) -> Result<Vec<Result<(Backend, usize), String>>, CallError> {
        let places = Arc::new(Semaphore::new(FETCHES));
        let mut tasks = JoinSet::new();
        for (index, (address, _)) in backends.iter().enumerate() {
            let (control, directory, address, places) = (control.clone(), Arc::clone(directory), *address, Arc::clone(&places));
            tasks.spawn(async move {
                let _place = places.acquire_owned().await;
                (index, fetch(&control, &directory, address).await)
            });
        }
        let mut all = Vec::with_capacity(backends.len());
        while let Some(done) = tasks.join_next().await {
            all.push(done.map_err(|error| failed(&error))?);
        }
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, found)| found).collect()
    }

    /// Gives each directory of a period a descriptor of its own.
    async fn give(
        &self,
        control: &Controller,
        directory: &Directory,
        front: &Front<'_>,
        weights: &[u32],
        period: Period,
    ) -> Result<Given, CallError> {
        let address = front.key.address();
        let relays = fingerprints(directory.directories(&address, period).map_err(|error| failed(&error))?);
        let mut given = self.once(control, front, weights, period, &relays).await?;
        if given.took.is_empty() && !given.refused.is_empty() {
            // Somebody has published a greater revision: this key elsewhere, by a clock that is ahead. What it is, the directories tell.
            let content = control.fetch_descriptor(&address.to_string(), &relays, PATIENCE).await.map_err(unreachable)?;
            if let Some(revision) = content.and_then(|content| Revision::of(&content.text)) {
                self.remember(address, revision);
                given = self.once(control, front, weights, period, &relays).await?;
            }
        }
        Ok(given)
    }

    async fn once(
        &self,
        control: &Controller,
        front: &Front<'_>,
        weights: &[u32],
        period: Period,
        relays: &[Fingerprint],
    ) -> Result<Given, CallError> {
        let address = front.key.address();
        let mut descriptors = Vec::with_capacity(relays.len());
        for (relay, seats) in relays.iter().zip(seats(front.backends, weights, relays.len())) {
            let now = SystemTime::now();
            let revision = Revision::next(lock(&self.last).get(&address).copied(), now);
            self.remember(address, revision);
            let text = front.build(period, &seats, revision, now, &mut rand::rng());
            let text = text.map_err(|error| CallError::new(CallErrorKind::Missing, error.to_string()))?;
            descriptors.push((*relay, text));
        }
        let said = control.post_descriptors(&address.to_string(), &descriptors, PATIENCE).await.map_err(unreachable)?;
        let mut given = Given::default();
        for ((relay, text), said) in descriptors.into_iter().zip(said) {
            given.bytes += text.len() as u64;
            match said {
                Stored::Took => given.took.push((relay, text)),
                Stored::Refused(why) => given.refused.push((relay, why)),
                _ => given.silent.push(relay),
            }
        }
        Ok(given)
    }

    /// Is what was given what a client gets?
    async fn is_there(&self, control: &Controller, address: &Address, took: &[(Fingerprint, String)]) -> Result<bool, CallError> {
        let Some((relay, text)) = took.first() else { return Ok(false) };
        let content = control.fetch_descriptor(&address.to_string(), &[*relay], PATIENCE).await.map_err(unreachable)?;
        Ok(content.is_some_and(|content| content.text.trim_end() == text.trim_end()))
    }

    fn remember(&self, address: Address, revision: Revision) {
        let mut last = lock(&self.last);
        // By the clock they go on without being remembered; only within one second they would not.
        if last.len() >= FRONTS_MAX && !last.contains_key(&address) {
            last.clear();
        }
        let known = last.entry(address).or_insert(revision);
        *known = revision.max(*known);
    }
}

/// What the directories of one period said.
#[derive(Default)]
struct Given {
    took: Vec<(Fingerprint, String)>,
    refused: Vec<(Fingerprint, String)>,
    silent: Vec<Fingerprint>,
    bytes: u64,
}

impl Given {
    fn told(&self) -> Value {
        let took: Vec<String> = self.took.iter().map(|(relay, _)| relay.to_string()).collect();
        let refused: Vec<(String, &str)> = self.refused.iter().map(|(relay, why)| (relay.to_string(), why.as_str())).collect();
        let silent: Vec<String> = self.silent.iter().map(ToString::to_string).collect();
        json!({"took": took, "refused": refused, "silent": silent})
    }
}

/// The descriptor of one backend, from any of the first directories that are asked; or why there is none.
async fn fetch(control: &Controller, directory: &Directory, address: Address) -> Result<Result<(Backend, usize), String>, CallError> {
    let periods = directory.periods();
    let current = *periods.first().ok_or_else(|| failed(&"the consensus has no period"))?;
    let mut relays = fingerprints(directory.directories(&address, current).map_err(|error| failed(&error))?);
    relays.shuffle(&mut rand::rng());
    relays.truncate(ASKED_MAX);
    let content = control.fetch_descriptor(&address.to_string(), &relays, PATIENCE).await.map_err(unreachable)?;
    let Some(content) = content else { return Ok(Err("no directory has its descriptor".to_owned())) };
    let read = Backend::read(&content.text, &address, &periods, SystemTime::now());
    Ok(read.map(|backend| (backend, content.text.len())).map_err(|error| error.to_string()))
}

fn fingerprints(names: Vec<String>) -> Vec<Fingerprint> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

fn unreachable(error: bento_tor::ControlError) -> CallError {
    by_control(&error)
}

fn failed(error: &dyn std::fmt::Display) -> CallError {
    CallError::new(CallErrorKind::Failed, error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "descriptor:x25519:N2NU7BSRL6YODZCYPN4CREB54TYLKGIE2KYOQWLFYC23ZJVCE5DQ";

    fn address() -> String {
        FrontKey::generate(&mut rand::rng()).address().to_string()
    }

    fn read(asked: Value) -> Result<Wanted, CallError> {
        Wanted::of(serde_json::from_value(asked).unwrap())
    }

    #[test]
    fn what_is_asked_for_is_read_and_a_new_key_is_made_where_none_is_given() {
        let key = FrontKey::generate(&mut rand::rng());
        let backends = [address(), address()];
        let wanted = read(json!({"key": *key.to_text(), "backends": [[backends[0], 3], [backends[1], 0]], "clients": [CLIENT]})).unwrap();
        assert_eq!(wanted.key.address(), key.address());
        assert_eq!(
            wanted.backends.iter().map(|(address, weight)| (address.to_string(), *weight)).collect::<Vec<_>>(),
            [(backends[0].clone(), 3), (backends[1].clone(), 0)]
        );
        assert_eq!(wanted.clients.len(), 1);
        let (one, other) = (read(json!({})).unwrap(), read(json!({})).unwrap());
        assert!(one.key.address() != other.key.address() && one.backends.is_empty() && one.clients.is_empty());
    }

    #[test]
    fn what_is_too_much_or_is_none_is_refused_as_a_bad_call() {
        let (own, many) = (address(), |count: usize| (0..count).map(|_| json!([address(), 1])).collect::<Vec<_>>());
        assert!(read(json!({"backends": many(BACKENDS_MAX)})).is_ok() && read(json!({"clients": vec![CLIENT; CLIENTS_MAX]})).is_ok());
        assert!(read(json!({"backends": [[own, WEIGHT_MAX]]})).is_ok());
        for wrong in [
            json!({"key": "ED25519-V3:AAAA"}),
            json!({"backends": many(BACKENDS_MAX + 1)}),
            json!({"backends": [[own, WEIGHT_MAX + 1]]}),
            json!({"backends": [["www.example.com", 1]]}),
            // Once more in other letters.
            json!({"backends": [[own, 1], [own.to_ascii_uppercase().trim_end_matches(".ONION"), 1]]}),
            json!({"clients": ["N2NU7BSRL6YODZCYPN4CREB54TYLKGIE2KYOQWLFYC23ZJVCE5DQ"]}),
            json!({"clients": vec![CLIENT; CLIENTS_MAX + 1]}),
        ] {
            let refused = read(wrong.clone()).err().map(|error| error.kind);
            assert!(matches!(refused, Some(CallErrorKind::BadCall)), "{wrong}");
        }
        // What is not known is not passed over.
        assert!(serde_json::from_value::<Asked>(json!({"pow": true})).is_err());
    }

    #[test]
    fn revisions_of_one_front_only_grow_and_so_many_fronts_are_remembered() {
        let fronts = Fronts::default();
        let own: Address = address().parse().unwrap();
        fronts.remember(own, Revision(7));
        fronts.remember(own, Revision(5));
        assert_eq!(lock(&fronts.last).get(&own), Some(&Revision(7)));
        fronts.remember(own, Revision(9));
        assert_eq!(lock(&fronts.last).get(&own), Some(&Revision(9)));
        for _ in 0..FRONTS_MAX {
            fronts.remember(address().parse().unwrap(), Revision(1));
        }
        assert!(lock(&fronts.last).len() <= FRONTS_MAX);
    }

    #[test]
    fn each_directory_is_told_with_what_it_said() {
        let relay = |digit: &str| digit.repeat(40).parse::<Fingerprint>().unwrap();
        let given = Given {
            took: vec![(relay("A"), "a descriptor".into())],
            refused: vec![(relay("B"), "UPLOAD_REJECTED".into())],
            silent: vec![relay("C")],
            bytes: 12,
        };
        let (a, b, c) = ("A".repeat(40), "B".repeat(40), "C".repeat(40));
        // The descriptor itself is nobody's business.
        assert_eq!(given.told(), json!({"took": [a], "refused": [[b, "UPLOAD_REJECTED"]], "silent": [c]}));
    }
}
