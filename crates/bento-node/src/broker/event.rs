//! What a function is told of its own objects, in its own numbers.
//!
//! Each subscriber has a queue of a bounded length. A function that does not read loses what does not fit, is told how much, and holds nobody up.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Serialize, Serializer};
use tokio::sync::Notify;

use bento_tor::{Fingerprint, Hop};

/// Most events that wait for a subscriber to read them.
pub(super) const EVENTS_MAX: usize = 1_000;

/// Why circuits and streams end when the node's Tor does.
pub const TOR_LOST: &str = "TOR_LOST";

/// Something that happened to an object of the function.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Event {
    /// To a circuit.
    Circuit {
        /// Its number.
        circuit: u64,
        /// What.
        status: CircuitStatus,
        /// Its relays so far.
        #[serde(serialize_with = "fingerprints")]
        path: Vec<Hop>,
        /// Why it ended, in Tor's word.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Why the relay that ended it did so.
        #[serde(skip)]
        remote_reason: Option<String>,
    },
    /// To a stream.
    Stream {
        /// Its number.
        stream: u64,
        /// The function's circuit that it is attached to, if it is one.
        circuit: Option<u64>,
        /// What.
        status: StreamStatus,
        /// Host and port, as the function asked for them.
        target: String,
        /// Why it ended, in Tor's word.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// To an onion service's descriptor.
    Service {
        /// The onion service's number.
        service: u64,
        /// What.
        status: ServiceStatus,
        /// The directory.
        #[serde(serialize_with = "fingerprint", skip_serializing_if = "Option::is_none")]
        hsdir: Option<Fingerprint>,
        /// Why not, in Tor's word.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// To the node's Tor.
    Tor {
        /// What.
        status: TorStatus,
    },
    /// Events that were dropped here, because the function did not read.
    Missed {
        /// How many.
        count: u64,
    },
}

/// What can happen to a circuit.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CircuitStatus {
    /// It is begun.
    Launched,
    /// It has one relay more.
    Extended,
    /// It is there; also after it was made longer.
    Built,
    /// It could not be built.
    Failed,
    /// It has ended.
    Closed,
}

/// What can happen to a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamStatus {
    /// It is to be connected.
    New,
    /// It is connected.
    Connected,
    /// It could not be connected.
    Failed,
    /// It has ended.
    Closed,
}

/// What can happen to an onion service's descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceStatus {
    /// A directory has stored it.
    Uploaded,
    /// A directory has not stored it, or the service could not be made again.
    Failed,
}

/// What can happen to the node's Tor.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TorStatus {
    /// It has ended, and with it all circuits and streams.
    Lost,
    /// It runs again.
    Back,
}

fn fingerprints<S: Serializer>(path: &[Hop], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(path.iter().map(|hop| hop.fingerprint.to_string()))
}

fn fingerprint<S: Serializer>(hsdir: &Option<Fingerprint>, serializer: S) -> Result<S::Ok, S::Error> {
    match hsdir {
        Some(hsdir) => serializer.collect_str(hsdir),
        None => serializer.serialize_none(),
    }
}

/// A subscription of a function to its events. Dropping it ends it.
#[derive(Debug)]
pub struct Events(Arc<Queue>);

/// The other end: where events are put.
#[derive(Debug)]
pub(super) struct Subscriber(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    missed: u64,
    ended: bool,
}

/// A new subscription, both ends.
pub(super) fn subscription() -> (Subscriber, Events) {
    let queue: Arc<Queue> = Arc::default();
    (Subscriber(Arc::clone(&queue)), Events(queue))
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// The next event; none once the function's process has ended. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            {
                let mut waiting = self.0.waiting();
                if let Some(event) = waiting.events.pop_front() {
                    return Some(event);
                }
                if waiting.missed > 0 {
                    return Some(Event::Missed { count: std::mem::take(&mut waiting.missed) });
                }
                if waiting.ended {
                    return None;
                }
            }
            self.0.came.notified().await;
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.0.waiting().ended = true;
    }
}

impl Subscriber {
    /// Does somebody still read?
    pub(super) fn reads(&self) -> bool {
        !self.0.waiting().ended
    }

    /// Puts an event into the queue, if there is room. False if nobody reads it any more.
    pub(super) fn tell(&self, event: &Event) -> bool {
        let mut waiting = self.0.waiting();
        if waiting.ended {
            return false;
        }
        // Once something was dropped, what follows is dropped as well until that is told, so that the count stands where the gap is.
        if waiting.events.len() < EVENTS_MAX && waiting.missed == 0 {
            waiting.events.push_back(event.clone());
        } else {
            waiting.missed += 1;
        }
        drop(waiting);
        self.0.came.notify_one();
        true
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.0.waiting().ended = true;
        self.0.came.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit(circuit: u64) -> Event {
        Event::Circuit { circuit, status: CircuitStatus::Built, path: Vec::new(), reason: None, remote_reason: None }
    }

    #[tokio::test]
    async fn events_come_in_order_and_what_is_not_read_is_counted_where_the_gap_is() {
        let (subscriber, mut events) = subscription();
        let most = EVENTS_MAX as u64;
        for number in 0..most + 7 {
            assert!(subscriber.tell(&circuit(number)));
        }
        for number in 0..most {
            assert_eq!(events.next().await, Some(circuit(number)));
            // There is room again, and yet the gap has to be told first.
            if number == 10 {
                subscriber.tell(&circuit(most + 7));
            }
        }
        assert_eq!(events.next().await, Some(Event::Missed { count: 8 }));
        subscriber.tell(&circuit(5));
        assert_eq!(events.next().await, Some(circuit(5)));
        drop(subscriber);
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn who_reads_loses_none_and_who_has_left_is_told_nothing() {
        let (subscriber, mut events) = subscription();
        let telling = async {
            for number in 0..20_000 {
                assert!(subscriber.tell(&circuit(number)));
                tokio::task::yield_now().await;
            }
        };
        let reading = async {
            for number in 0..20_000 {
                assert_eq!(events.next().await, Some(circuit(number)));
            }
            events
        };
        let ((), events) = tokio::join!(telling, reading);
        drop(events);
        assert!(!subscriber.tell(&circuit(0)));
    }

    #[test]
    fn events_are_written_as_the_function_api_has_them() {
        let relay: Fingerprint = "62B250DE403BA8DB38A79133C36111C0D217C74C".parse().unwrap();
        let text = |event: Event| serde_json::to_string(&event).unwrap();
        let path = vec![Hop { fingerprint: relay, nickname: Some("middle1".into()) }];
        assert_eq!(
            text(Event::Circuit { circuit: 1, status: CircuitStatus::Closed, path, reason: Some("DESTROYED".into()), remote_reason: None }),
            r#"{"event":"circuit","circuit":1,"status":"closed","path":["62B250DE403BA8DB38A79133C36111C0D217C74C"],"reason":"DESTROYED"}"#
        );
        assert_eq!(
            text(Event::Stream { stream: 2, circuit: None, status: StreamStatus::New, target: "a:80".into(), reason: None }),
            r#"{"event":"stream","stream":2,"circuit":null,"status":"new","target":"a:80"}"#
        );
        assert_eq!(
            text(Event::Service { service: 3, status: ServiceStatus::Uploaded, hsdir: Some(relay), reason: None }),
            r#"{"event":"service","service":3,"status":"uploaded","hsdir":"62B250DE403BA8DB38A79133C36111C0D217C74C"}"#
        );
        assert_eq!(text(Event::Tor { status: TorStatus::Back }), r#"{"event":"tor","status":"back"}"#);
        assert_eq!(text(Event::Missed { count: 4 }), r#"{"event":"missed","count":4}"#);
    }
}
