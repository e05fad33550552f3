//! What is sent when, fixed before the first byte.

use std::time::Duration;

use bento_proto::{
    Rate, Size, Span,
    bundle::{Bundle, BundleError},
};
use serde_json::{Value, json};

use crate::{Call, Input, NodeAddress, Room, Standard, standard::needing, with_room};

/// What one of Tor's cells carries of a stream (tor-spec, section 6.1): frames are whole cells, so that none is cut.
const CELL_BYTES: u64 = 498;

/// Time between two frames that is aimed at: short enough to read by, long enough to cost little.
const INTERVAL_AIM_MS: u64 = 100;

/// Slowest and fastest flow, in bytes a second. A slower one has more silence than a node bears; a faster one leaves too little of the rate
/// that the manifest asks for to pages that come in while it runs.
const RATES: std::ops::RangeInclusive<u64> = 128..=1 << 20;

/// Shortest and longest run, in seconds.
const RUNS: std::ops::RangeInclusive<u64> = 60..=7 * 86_400;

/// What the function itself asks to be left of its `traffic` (`OVERHEAD_BYTES` in `cover.py`).
pub(super) const OVERHEAD_BYTES: u64 = 256 * 1024;

/// CPU time of one frame at the node, in microseconds; `bench/run cover` measures it.
const FRAME_CPU_US: u64 = 300;

/// CPU time besides that.
const CPU_SECONDS: u64 = 15;

/// Its threads: for the flow both ways, for requests, and the runtime's.
const PROCESSES: u32 = 16;

/// Lifetime beyond the run: for the start, and for a network that makes it late.
const SPARE_SECONDS: u64 = 180;

/// Frames of one direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// How many.
    pub frames: u64,
    /// Of how many bytes each.
    pub bytes: usize,
    /// From one to the next.
    pub interval: Duration,
    /// How long the rate rises at the start, and falls at the end.
    pub ramp: Duration,
}

/// A flow, both ways.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CoverPlan {
    /// From the node.
    pub down: Pace,
    /// To the node.
    pub up: Pace,
    /// Bytes that the function may spend on pages, beside the flow's own.
    pub fetch: u64,
}

/// Why there is no such flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Too slow or too fast.
    #[error("a flow has a rate of {} B/s to 1 MiB/s", RATES.start())]
    Rate,
    /// Too short or too long.
    #[error("a flow lasts 1 min to 7 d")]
    Run,
    /// It has hardly begun when it ends.
    #[error("both ramps together must not be longer than the run")]
    Ramp,
}

impl Pace {
    fn new(rate: Rate, run: Duration, ramp: Duration) -> Result<Self, PlanError> {
        let rate = rate.bytes_per_second();
        if !RATES.contains(&rate) {
            return Err(PlanError::Rate);
        }
        let cells = (rate * INTERVAL_AIM_MS / 1000 / CELL_BYTES).max(1);
        let bytes = cells * CELL_BYTES;
        // In whole microseconds, so that both sides mean the same.
        let interval = Duration::from_micros(bytes * 1_000_000 / rate);
        // A ramp is half as much as the same time at the full rate.
        let frames = (run.saturating_sub(ramp).as_micros() / interval.as_micros()).max(1);
        let frames = u64::try_from(frames).map_err(|_| PlanError::Run)?;
        Ok(Self { frames, bytes: usize::try_from(bytes).map_err(|_| PlanError::Rate)?, interval, ramp })
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.frames * self.bytes as u64
    }

    /// From the start to the end.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds())
    }

    fn seconds(&self) -> f64 {
        self.frames as f64 * self.interval.as_secs_f64() + self.ramp.as_secs_f64()
    }

    /// From the start to this frame, counted from 0. As `schedule.py` has it.
    pub fn due(&self, number: u64) -> Duration {
        let (interval, ramp) = (self.interval.as_secs_f64(), self.ramp.as_secs_f64());
        let (number, of_ramp) = (number as f64, ramp / interval / 2.0);
        let left = self.frames as f64 - number;
        let seconds = if number < of_ramp {
            (2.0 * ramp * number * interval).sqrt()
        } else if left < of_ramp {
            self.seconds() - (2.0 * ramp * left.max(0.0) * interval).sqrt()
        } else {
            ramp + (number - of_ramp) * interval
        };
        Duration::from_secs_f64(seconds.max(0.0))
    }

    fn arguments(&self) -> Value {
        json!({"frames": self.frames, "bytes": self.bytes, "interval": self.interval.as_secs_f64()})
    }
}

impl CoverPlan {
    /// A flow of these rates. `chance`, from 0 to 1 and drawn at random, makes it up to a quarter longer than was asked for: a run whose end says
    /// when its client had enough would tell something.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(down: Rate, up: Rate, run: Duration, ramp: Duration, chance: f64) -> Result<Self, PlanError> {
        if !RUNS.contains(&run.as_secs()) {
            return Err(PlanError::Run);
        }
        if ramp * 2 > run {
            return Err(PlanError::Ramp);
        }
        let run = run.mul_f64(1.0 + chance.clamp(0.0, 1.0) / 4.0);
        Ok(Self { down: Pace::new(down, run, ramp)?, up: Pace::new(up, run, ramp)?, fetch: 0 })
    }

    /// The same, with so many bytes for pages besides: what Browser's results may have, and its bundle for each.
    #[must_use]
    pub fn with_fetch(mut self, bytes: u64) -> Self {
        self.fetch = bytes;
        self
    }

    /// How long it lasts.
    pub fn duration(&self) -> Duration {
        self.down.duration().max(self.up.duration())
    }

    /// The `traffic` that it takes.
    pub fn traffic(&self) -> u64 {
        self.down.total() + self.up.total() + OVERHEAD_BYTES + self.fetch
    }

    /// Cover, asking for what this takes; with Browser, if pages are to come in it: Cover then needs all that Browser does, since a function
    /// passes on only what it has.
    ///
    /// # Errors
    /// When that makes no bundle.
    pub fn bundle(&self, browser: Option<Bundle>) -> Result<Bundle, BundleError> {
        // Its own manifest is for its other methods.
        let mut cover = needing(Standard::Cover.bundle()?, |own| {
            for key in ["calls", "installs", "circuits", "onion_services", "descriptors", "connect"] {
                own.remove(key);
            }
            own.insert("processes".into(), PROCESSES.into());
        })?;
        if let Some(browser) = browser {
            let needs = browser.manifest.needs.clone();
            cover.files.extend(browser.files.into_iter().map(|(name, content)| (format!("browser/{name}"), content)));
            cover.files.sort();
            cover = needing(cover, |own| {
                for (key, amount) in [("memory", needs.memory.to_string()), ("scratch", needs.scratch.to_string())] {
                    own.insert(key.into(), amount.into());
                }
                own.insert("processes".into(), needs.processes.max(PROCESSES).into());
                own.insert("descriptors".into(), needs.descriptors.max(64).into());
                own.insert("installs".into(), 4.into());
                let calls = ["nodes.install", "nodes.invoke", "nodes.shutdown", "net.connect"];
                own.insert("calls".into(), calls.map(toml::Value::from).to_vec().into());
                let rules = needs.connect.rules().iter().map(|rule| toml::Value::String(rule.to_string()));
                own.insert("connect".into(), toml::Value::Array(rules.collect()));
            })?;
            let room = Room { storage: needs.storage, traffic: needs.traffic, lifetime: needs.lifetime, cpu: needs.cpu };
            cover = with_room(cover, room)?;
        }
        let frames = self.down.frames + self.up.frames;
        let room = Room {
            storage: Size::bytes(0),
            traffic: Size::bytes(self.traffic()),
            lifetime: Span::seconds(self.duration().as_secs() + SPARE_SECONDS),
            cpu: Span::seconds(CPU_SECONDS + frames * FRAME_CPU_US / 1_000_000),
        };
        with_room(cover, room)
    }

    /// The call of its method `stream`.
    pub(crate) fn call(&self, browser: Option<&NodeAddress>, input: Input) -> Call {
        let mut call = Call::new("stream");
        for (name, value) in [
            ("down", self.down.arguments()),
            ("up", self.up.arguments()),
            ("ramp", json!(self.down.ramp.as_secs_f64())),
            ("traffic", json!(self.traffic())),
            ("fetch", json!(self.fetch)),
            ("browser", json!(browser.map(ToString::to_string))),
        ] {
            call.arguments.insert(name.into(), value);
        }
        call.input = input;
        call.output_max = Some(self.down.total());
        call.within = Some(self.duration() + Duration::from_secs(SPARE_SECONDS));
        call
    }
}

#[cfg(test)]
mod tests {
    use bento_proto::Policy;

    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    fn plan(down: &str, seconds: u64, ramp: u64, chance: f64) -> Result<CoverPlan, PlanError> {
        CoverPlan::new(rate(down), rate("1 KiB/s"), Duration::from_secs(seconds), Duration::from_secs(ramp), chance)
    }

    #[test]
    fn a_plan_keeps_its_rate_and_its_time() {
        for (down, seconds) in [("50 KiB/s", 1800), ("2 KiB/s", 86_400), ("1 MiB/s", 60), ("128 B/s", 3600)] {
            let plan = plan(down, seconds, 10, 0.0).unwrap();
            let (aim, pace) = (rate(down).bytes_per_second() as f64, plan.down);
            let is = pace.bytes as f64 / pace.interval.as_secs_f64();
            assert!((is / aim - 1.0).abs() < 0.001, "{down}: {is}");
            assert!(pace.bytes.is_multiple_of(498) && pace.interval.as_millis() >= 40, "{pace:?}");
            let off = pace.duration().as_secs_f64() - seconds as f64;
            assert!(off <= 0.001 && off >= -2.0 * pace.interval.as_secs_f64(), "{down}: {off}");
        }
        assert!(plan("50 KiB/s", 1000, 10, 1.0).unwrap().duration().as_secs().abs_diff(1250) <= 1);
    }

    #[test]
    fn the_rate_rises_and_falls_and_is_even_between() {
        let pace = plan("50 KiB/s", 120, 10, 0.0).unwrap().down;
        let times: Vec<f64> = (0..=pace.frames).map(|number| pace.due(number).as_secs_f64()).collect();
        assert_eq!(times[0], 0.0);
        assert!((times.last().unwrap() - pace.duration().as_secs_f64()).abs() < 1e-6);
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let interval = pace.interval.as_secs_f64();
        assert!(gaps.iter().all(|gap| *gap > interval * 0.9999));
        for (rise, fall) in gaps.iter().zip(gaps.iter().rev()) {
            assert!((rise - fall).abs() < 1e-6);
        }
        assert!(gaps[0] > 10.0 * interval && (gaps[gaps.len() / 2] - interval).abs() < 1e-6);
    }

    #[test]
    fn what_cannot_be_planned_is_refused() {
        assert!(plan("128 B/s", 60, 30, 0.0).is_ok() && plan("1 MiB/s", 7 * 86_400, 0, 0.0).is_ok());
        assert_eq!(plan("127 B/s", 60, 0, 0.0), Err(PlanError::Rate));
        assert_eq!(plan("2 MiB/s", 60, 0, 0.0), Err(PlanError::Rate));
        assert_eq!(plan("1 KiB/s", 59, 0, 0.0), Err(PlanError::Run));
        assert_eq!(plan("1 KiB/s", 8 * 86_400, 0, 0.0), Err(PlanError::Run));
        assert_eq!(plan("1 KiB/s", 60, 31, 0.0), Err(PlanError::Ramp));
    }

    #[test]
    fn cover_asks_for_what_its_plan_takes_and_with_pages_for_what_browser_needs() {
        let plan = plan("100 KiB/s", 3600, 10, 1.0).unwrap().with_fetch(64 << 20);
        let alone = plan.bundle(None).unwrap();
        let needs = &alone.manifest.needs;
        assert!(needs.traffic.as_bytes() >= plan.traffic() && needs.lifetime.duration() > plan.duration());
        assert!(needs.calls.is_empty() && needs.connect.rules().is_empty());
        assert!(alone.files.iter().all(|(name, _)| !name.contains('/')));

        let browser = Standard::Browser.bundle().unwrap();
        let with = plan.bundle(Some(browser.clone())).unwrap();
        assert!(with.files.iter().any(|(name, _)| name == "browser/manifest.toml") && with.pack().is_ok());
        let policy = Policy::parse(
            "[offers]\nmemory = \"1 GiB\"\ntraffic = \"1 GiB\"\ncpu = \"10 min\"\ninstalls = 4\nconnect = [\"accept *:*\"]\n",
        );
        let grant = policy.unwrap().admit(&with.manifest).unwrap();
        assert_eq!(grant.covers(&browser.manifest), Ok(()));
        let without = Policy::parse("[offers]\ntraffic = \"1 GiB\"\ncpu = \"10 min\"\n").unwrap().admit(&alone.manifest).unwrap();
        assert!(without.covers(&browser.manifest).is_err());
    }
}
