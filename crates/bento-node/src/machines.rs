//! Maybenot machines for functions: `maybenot.*`. A function says what happened on a stream of its own, and is told what its machines want done.
//!
//! Pure computation: no timers, no streams. Times are the function's, and concern its own machines alone. All is bounded by what a machine may have, by how
//! many there may be, and by the pace of the function's frames; a function's calls are done one after the other.

use std::{
    collections::HashMap,
    ops::AddAssign,
    sync::{Arc, Mutex, PoisonError},
};

use maybenot::{Framework, Machine, MachineId, Timer, TriggerAction, TriggerEvent};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    container::Container,
    link::{Call, CallError, CallErrorKind},
};

/// Sets of machines that a function may have.
const SETS_MAX: usize = 4;

/// Machines in a set.
const MACHINES_MAX: usize = 4;

/// Streams of a function that have machines, together.
const FRAMEWORKS_MAX: usize = 128;

/// Longest machine as text. Those that are in use have some hundred bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// States and transitions of a machine: together some 40 KiB.
const STATES_MAX: usize = 64;
const TRANSITIONS_MAX: usize = 1024;

/// Events at once.
const EVENTS_MAX: usize = 16;

/// What starting a set costs of the pace of frames, in bytes: 20 ms. Unpacking a machine may take a few of them.
pub(crate) const START_BYTES: usize = 1_000_000;

/// The machines of one process.
#[derive(Debug, Default)]
pub(crate) struct Machines(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    frameworks: HashMap<u64, Framework<Arc<[Machine]>, ChaCha8Rng, At>>,
    /// How many frameworks of each set there are, by the number of its first.
    sets: HashMap<u64, u64>,
}

/// Does it do this call?
pub(crate) fn serves(call: &str) -> bool {
    call.starts_with("maybenot.")
}

impl Machines {
    /// Does one call.
    pub(crate) fn serve(&self, container: &Container, call: &Call) -> Result<Value, CallError> {
        container.grant.permits_call(&call.name).map_err(|refusal| CallError::new(CallErrorKind::Refused, refusal.to_string()))?;
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match call.name.as_str() {
            "maybenot.start" => state.start(call.arguments(Start::TAKES)?),
            "maybenot.trigger" => state.trigger(call.arguments(Trigger::TAKES)?),
            "maybenot.end" => state.end(call.arguments("maybenot.end takes `first`, a number that maybenot.start gave")?),
            _ => Err(bad("there is no such call")),
        }
    }
}

#[derive(Deserialize)]
struct Start {
    machines: Vec<String>,
    #[serde(default = "one")]
    count: usize,
    #[serde(default)]
    padding: f64,
    #[serde(default)]
    blocking: f64,
}

impl Start {
    const TAKES: &str =
        "maybenot.start takes `machines`, texts, and, if wanted, `count`, a number, and `padding` and `blocking`, from 0 to 1";
}

#[derive(Deserialize)]
struct Trigger {
    stream: u64,
    at: u64,
    events: Vec<Happened>,
}

impl Trigger {
    const TAKES: &str =
        "maybenot.trigger takes `stream`, a number, `at`, microseconds, and `events`, objects with `event` and, for some, `machine`";
}

#[derive(Deserialize)]
struct End {
    first: u64,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Happened {
    NormalRecv,
    PaddingRecv,
    TunnelRecv,
    NormalSent,
    PaddingSent { machine: usize },
    TunnelSent,
    BlockingBegin { machine: usize },
    BlockingEnd,
    TimerBegin { machine: usize },
    TimerEnd { machine: usize },
}

impl From<&Happened> for TriggerEvent {
    fn from(happened: &Happened) -> Self {
        let machine = |raw: &usize| MachineId::from_raw(*raw);
        match happened {
            Happened::NormalRecv => Self::NormalRecv,
            Happened::PaddingRecv => Self::PaddingRecv,
            Happened::TunnelRecv => Self::TunnelRecv,
            Happened::NormalSent => Self::NormalSent,
            Happened::PaddingSent { machine: raw } => Self::PaddingSent { machine: machine(raw) },
            Happened::TunnelSent => Self::TunnelSent,
            Happened::BlockingBegin { machine: raw } => Self::BlockingBegin { machine: machine(raw) },
            Happened::BlockingEnd => Self::BlockingEnd,
            Happened::TimerBegin { machine: raw } => Self::TimerBegin { machine: machine(raw) },
            Happened::TimerEnd { machine: raw } => Self::TimerEnd { machine: machine(raw) },
        }
    }
}

impl State {
    fn start(&mut self, Start { machines, count, padding, blocking }: Start) -> Result<Value, CallError> {
        if !(1..=MACHINES_MAX).contains(&machines.len()) {
            return Err(bad(format!("a stream has 1 to {MACHINES_MAX} machines")));
        }
        if self.sets.len() >= SETS_MAX || count == 0 || count > FRAMEWORKS_MAX - self.frameworks.len() {
            let text = format!("a function has machines for at most {FRAMEWORKS_MAX} streams, in at most {SETS_MAX} sets");
            return Err(CallError::new(CallErrorKind::Busy, text));
        }
        let machines: Arc<[Machine]> = machines.iter().map(|text| machine(text)).collect::<Result<_, _>>()?;
        let first = self.last + 1;
        for number in first..first + count as u64 {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|_| CallError::new(CallErrorKind::Failed, "the node has no random numbers"))?;
            let made = Framework::new(Arc::clone(&machines), padding, blocking, At(0), ChaCha8Rng::from_seed(seed));
            self.frameworks.insert(number, made.map_err(|error| bad(error.to_string()))?);
            self.last = number;
        }
        self.sets.insert(first, count as u64);
        Ok(json!({"first": first, "count": count}))
    }

    fn trigger(&mut self, Trigger { stream, at, events }: Trigger) -> Result<Value, CallError> {
        if events.len() > EVENTS_MAX {
            return Err(bad(format!("at most {EVENTS_MAX} events at once")));
        }
        let framework = self.frameworks.get_mut(&stream).ok_or_else(unknown)?;
        let events: Vec<TriggerEvent> = events.iter().map(Into::into).collect();
        Ok(framework.trigger_events(&events, At(at)).map(told).collect())
    }

    fn end(&mut self, End { first }: End) -> Result<Value, CallError> {
        let count = self.sets.remove(&first).ok_or_else(unknown)?;
        self.frameworks.retain(|number, _| !(first..first + count).contains(number));
        Ok(Value::Null)
    }
}

fn machine(text: &str) -> Result<Machine, CallError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(bad(format!("a machine has at most {TEXT_BYTES_MAX} bytes as text")));
    }
    let machine: Machine = text.parse().map_err(|error: maybenot::Error| bad(error.to_string()))?;
    // Counted only where there are few states: each is copied for it.
    let transitions = || machine.states.iter().map(|state| state.get_transitions().values().map(Vec::len).sum::<usize>()).sum::<usize>();
    if machine.states.len() > STATES_MAX || transitions() > TRANSITIONS_MAX {
        return Err(bad(format!("a machine has at most {STATES_MAX} states and {TRANSITIONS_MAX} transitions")));
    }
    Ok(machine)
}

fn told(action: &TriggerAction<At>) -> Value {
    match *action {
        TriggerAction::Cancel { machine, timer } => {
            let timer = match timer {
                Timer::Action => "action",
                Timer::Internal => "internal",
                Timer::All => "all",
            };
            json!({"action": "cancel", "machine": machine.into_raw(), "timer": timer})
        }
        TriggerAction::SendPadding { timeout, bypass, replace, machine } => {
            json!({"action": "send_padding", "machine": machine.into_raw(), "timeout": timeout.0, "bypass": bypass, "replace": replace})
        }
        TriggerAction::BlockOutgoing { timeout, duration, bypass, replace, machine } => json!({
            "action": "block_outgoing", "machine": machine.into_raw(), "timeout": timeout.0, "duration": duration.0,
            "bypass": bypass, "replace": replace,
        }),
        TriggerAction::UpdateTimer { duration, replace, machine } => {
            json!({"action": "update_timer", "machine": machine.into_raw(), "duration": duration.0, "replace": replace})
        }
    }
}

fn one() -> usize {
    1
}

fn bad(text: impl Into<String>) -> CallError {
    CallError::new(CallErrorKind::BadCall, text.into())
}

fn unknown() -> CallError {
    CallError::new(CallErrorKind::Missing, "no machines have this number")
}

/// The function's own time, in microseconds since whenever it likes.
#[derive(Clone, Copy, Debug)]
struct At(u64);

#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Micros(u64);

impl maybenot::time::Instant for At {
    type Duration = Micros;

    fn saturating_duration_since(&self, earlier: Self) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }
}

impl maybenot::time::Duration for Micros {
    fn zero() -> Self {
        Self(0)
    }

    fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    fn is_zero(&self) -> bool {
        self.0 == 0
    }

    fn div_duration_f64(self, other: Self) -> f64 {
        self.0 as f64 / other.0 as f64
    }
}

impl AddAssign for Micros {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

#[cfg(test)]
mod tests {
    use maybenot::{
        action::Action,
        dist::{Dist, DistType},
        event::Event,
        state::{State as MachineState, Trans},
    };
    use proptest::prelude::*;

    use super::*;

    /// Pads after so many microseconds, and again after each.
    fn steady(timeout: f64, states: usize) -> String {
        let made = (0..states).map(|_| {
            let mut transitions = enum_map::EnumMap::default();
            transitions[Event::NormalSent] = vec![Trans(0, 1.0)];
            transitions[Event::PaddingSent] = vec![Trans(0, 1.0)];
            let mut state = MachineState::new(transitions);
            let timeout = Dist { dist: DistType::Uniform { low: timeout, high: timeout }, start: 0.0, max: 0.0 };
            state.action = Some(Action::SendPadding { bypass: false, replace: false, timeout, limit: None });
            state
        });
        Machine::new(u64::MAX, 0.0, 0, 0.0, made.collect()).unwrap().serialize()
    }

    fn start(state: &mut State, machines: Vec<String>, count: usize) -> Result<u64, CallErrorKind> {
        let started = state.start(Start { machines, count, padding: 0.0, blocking: 0.0 });
        started.map(|value| value["first"].as_u64().unwrap()).map_err(|error| error.kind)
    }

    fn trigger(state: &mut State, stream: u64, events: Value) -> Result<Value, CallErrorKind> {
        state.trigger(Trigger { stream, at: 5, events: serde_json::from_value(events).unwrap() }).map_err(|error| error.kind)
    }

    #[test]
    fn a_machine_says_what_it_wants_and_each_stream_has_its_own_state() {
        let mut state = State::default();
        let first = start(&mut state, vec![steady(250.0, 1)], 2).unwrap();
        let wanted = json!([{"action": "send_padding", "machine": 0, "timeout": 250, "bypass": false, "replace": false}]);
        assert_eq!(trigger(&mut state, first, json!([{"event": "normal_sent"}])), Ok(wanted.clone()));
        assert_eq!(
            trigger(&mut state, first, json!([{"event": "padding_sent", "machine": 0}, {"event": "tunnel_sent"}])),
            Ok(wanted.clone())
        );
        assert_eq!(trigger(&mut state, first, json!([{"event": "tunnel_recv"}])), Ok(json!([])));
        assert_eq!(trigger(&mut state, first + 1, json!([{"event": "normal_sent"}])), Ok(wanted));
        // A machine that there is not is nobody's.
        assert_eq!(trigger(&mut state, first, json!([{"event": "padding_sent", "machine": usize::MAX}])), Ok(json!([])));
        state.end(End { first }).unwrap();
        assert_eq!(trigger(&mut state, first, json!([])), Err(CallErrorKind::Missing));
        assert!(state.end(End { first }).is_err() && state.frameworks.is_empty());
    }

    #[test]
    fn all_is_bounded() {
        let (mut state, small) = (State::default(), steady(1.0, 1));
        assert_eq!(start(&mut state, vec![], 1), Err(CallErrorKind::BadCall));
        assert_eq!(start(&mut state, vec![small.clone(); MACHINES_MAX + 1], 1), Err(CallErrorKind::BadCall));
        assert_eq!(start(&mut state, vec![small.clone()], 0), Err(CallErrorKind::Busy));
        assert_eq!(start(&mut state, vec![small.clone()], FRAMEWORKS_MAX + 1), Err(CallErrorKind::Busy));
        assert!(start(&mut state, vec![steady(1.0, STATES_MAX)], 1).is_ok());
        assert_eq!(start(&mut state, vec![steady(1.0, STATES_MAX + 1)], 1), Err(CallErrorKind::BadCall));
        assert_eq!(start(&mut state, vec!["0".repeat(TEXT_BYTES_MAX + 1)], 1), Err(CallErrorKind::BadCall));
        for _ in 1..SETS_MAX {
            start(&mut state, vec![small.clone(); MACHINES_MAX], 1).unwrap();
        }
        assert_eq!(start(&mut state, vec![small.clone()], 1), Err(CallErrorKind::Busy));
        state.end(End { first: 1 }).unwrap();
        let first = start(&mut state, vec![small], 1).unwrap();
        let event = json!({"event": "normal_sent"});
        assert!(trigger(&mut state, first, json!(vec![event.clone(); EVENTS_MAX])).is_ok());
        assert_eq!(trigger(&mut state, first, json!(vec![event; EVENTS_MAX + 1])), Err(CallErrorKind::BadCall));
    }

    proptest! {
        #[test]
        fn no_text_is_a_machine_by_accident_and_none_does_harm(text in "02[A-Za-z0-9+/=]{0,80}|.{0,40}") {
            let _ = machine(&text);
        }

        #[test]
        fn no_order_of_events_and_times_does_harm(happened in prop::collection::vec((0_usize..4, 0_usize..3, any::<u64>()), 0..40)) {
            let mut state = State::default();
            let first = start(&mut state, vec![steady(10.0, 2), steady(20.0, 3)], 1).unwrap();
            for (kind, machine, at) in happened {
                let events = match kind {
                    0 => json!([{"event": "padding_sent", "machine": machine}]),
                    1 => json!([{"event": "blocking_begin", "machine": machine}, {"event": "normal_sent"}]),
                    2 => json!([{"event": "blocking_end"}, {"event": "timer_end", "machine": machine}]),
                    _ => json!([{"event": "normal_sent"}, {"event": "tunnel_recv"}]),
                };
                let told = state.trigger(Trigger { stream: first, at, events: serde_json::from_value(events).unwrap() }).unwrap();
                prop_assert!(told.as_array().unwrap().len() <= 2);
            }
        }
    }
}
