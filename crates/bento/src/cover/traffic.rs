//! Cover traffic that a node sends through circuits of its own: what the method `send` is asked, and what it tells.

use std::{net::Ipv4Addr, time::Duration};

use bento_proto::{
    Outcome, Size, Span,
    bundle::{Bundle, BundleError},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::plan::OVERHEAD_BYTES;
use crate::{Call, Client, ClientError, NodeAddress, Part, Room, Standard, standard::needing, with_room};

/// What the function sends at once (`FRAME_BYTES` in `traffic.py`).
const FRAME_BYTES: u64 = 498;

/// What it leaves of its `traffic` for each circuit and each sink (`CIRCUIT_BYTES`, `SERVICE_BYTES` in `cover.py`).
const CIRCUIT_BYTES: u64 = 8 * 1024;
const SERVICE_BYTES: u64 = 128 * 1024;

/// Length of a line that it tells.
const LINE_BYTES: usize = 256;

/// From one line to the next.
const EVERY: Duration = Duration::from_secs(10);

/// CPU time of one frame, in microseconds, and beside that.
const FRAME_CPU_US: u64 = 300;
const CPU_SECONDS: u64 = 20;

/// Lifetime beyond the run: for making circuits, and for sinks, which last longer than what comes to them.
const SPARE_SECONDS: u64 = 300;

/// When frames are sent on a circuit.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// So many a second, evenly.
    Constant(f64),
    /// So many a second in the mean, at random.
    Poisson(f64),
    /// As these Maybenot machines say, and at most so many bytes in all.
    Maybenot(Vec<String>, u64),
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct CoverTraffic {
    /// Through so many circuits.
    pub circuits: u32,
    /// When.
    pub shape: Shape,
    /// For how long.
    pub run: Duration,
    /// To sinks that are installed on these nodes,
    pub sinks: Vec<NodeAddress>,
    /// or to this host and port; without either the function is its own sink.
    pub to: Option<String>,
    /// Do sinks send back what they get?
    pub back: bool,
}

/// What became of it so far.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Sent {
    /// Seconds.
    pub elapsed: f64,
    /// Circuits that are there.
    pub open: u32,
    /// Frames that were due.
    pub due: u64,
    /// Of these, frames that were sent,
    pub sent: u64,
    /// and that were left out, since their circuit was behind or gone.
    pub held: u64,
    /// How often a circuit was lost.
    pub lost: u64,
    /// Bytes that came back.
    pub received: u64,
    /// By how much the latest frame was late, in seconds.
    pub late: f64,
}

impl CoverTraffic {
    /// Frames of all circuits, with what chance may add.
    fn frames(&self) -> f64 {
        let mean = |rate: f64| f64::from(self.circuits) * rate * self.run.as_secs_f64();
        match &self.shape {
            Shape::Constant(rate) => mean(*rate) + f64::from(self.circuits),
            Shape::Poisson(rate) => mean(*rate) + 6.0 * mean(*rate).sqrt(),
            Shape::Maybenot(_, bytes) => *bytes as f64 / FRAME_BYTES as f64,
        }
    }

    /// The `traffic` that it takes.
    pub fn traffic(&self) -> u64 {
        // What goes to itself passes the function twice, and what comes back does so again.
        let own = if self.sinks.is_empty() && self.to.is_none() { 2 } else { 1 };
        let times = own * (1 + u64::from(self.back));
        let sinks = self.sinks.len().max(1) as u64;
        OVERHEAD_BYTES
            + u64::from(self.circuits) * CIRCUIT_BYTES
            + sinks * SERVICE_BYTES
            + (self.frames().ceil() as u64 + 1) * FRAME_BYTES * times
    }

    /// Cover, asking for what this takes.
    ///
    /// # Errors
    /// When that makes no bundle.
    pub fn bundle(&self) -> Result<Bundle, BundleError> {
        let cover = needing(Standard::Cover.bundle()?, |needs| {
            let circuits = if self.to.is_some() { self.circuits } else { 0 };
            let mut calls = vec!["tor.connect", "tor.onion_service", "tor.accept", "tor.close_service"];
            if self.to.is_some() {
                calls = vec!["tor.circuit", "tor.circuit_connect", "tor.close_circuit"];
            }
            if !self.sinks.is_empty() {
                calls.extend(["nodes.install", "nodes.invoke", "nodes.shutdown"]);
            }
            if matches!(self.shape, Shape::Maybenot(..)) {
                calls.extend(["maybenot.start", "maybenot.trigger"]);
            }
            needs.insert("calls".into(), calls.into_iter().map(toml::Value::from).collect::<Vec<_>>().into());
            needs.insert("circuits".into(), i64::from(circuits).into());
            needs.insert("onion_services".into(), i64::from(self.to.is_none()).into());
            needs.insert("installs".into(), i64::try_from(self.sinks.len()).unwrap_or(i64::MAX).into());
            needs.insert("descriptors".into(), (i64::from(self.circuits) * 2 + 56).into());
            if let Some((host, port)) = self.to.as_ref().and_then(|to| to.rsplit_once(':')) {
                // Where a name leads is seen only at the exit.
                let host = if host.parse::<Ipv4Addr>().is_ok() { host } else { "*" };
                needs.insert("connect".into(), vec![toml::Value::from(format!("accept {host}:{port}"))].into());
            }
        })?;
        let frames = self.frames() as u64;
        let room = Room {
            storage: Size::bytes(0),
            traffic: Size::bytes(self.traffic()),
            lifetime: Span::seconds(self.run.as_secs() + SPARE_SECONDS),
            cpu: Span::seconds(CPU_SECONDS + frames * FRAME_CPU_US / 1_000_000),
        };
        with_room(cover, room)
    }

    fn call(&self) -> Call {
        let mut call = Call::new("send");
        let (shape, rate, machines) = match &self.shape {
            Shape::Constant(rate) => ("constant", json!(rate), Value::Null),
            Shape::Poisson(rate) => ("poisson", json!(rate), Value::Null),
            Shape::Maybenot(machines, _) => ("maybenot", json!(1.0), json!(machines)),
        };
        for (name, value) in [
            ("circuits", json!(self.circuits)),
            ("shape", json!(shape)),
            ("rate", rate),
            ("machines", machines),
            ("seconds", json!(self.run.as_secs_f64())),
            ("traffic", json!(self.traffic())),
            ("sinks", json!(self.sinks.iter().map(ToString::to_string).collect::<Vec<_>>())),
            ("to", json!(self.to)),
            ("back", json!(self.back)),
            ("every", json!(EVERY.as_secs_f64())),
        ] {
            call.arguments.insert(name.into(), value);
        }
        call.within = Some(self.run + Duration::from_secs(SPARE_SECONDS));
        call
    }

    /// Has a node send it, to the end. `progress` hears what became of it so far.
    ///
    /// # Errors
    /// When the node refuses, or the function fails.
    pub async fn send(
        &self,
        client: &Client,
        node: &NodeAddress,
        bundle: &Bundle,
        mut progress: impl FnMut(&Sent),
    ) -> Result<Sent, ClientError> {
        let mut output = client.run(node, bundle, self.call()).await?;
        let (mut buffer, mut last) = (Vec::new(), Sent::default());
        loop {
            match output.next().await? {
                Part::Bytes(bytes) => buffer.extend_from_slice(&bytes),
                Part::End(Outcome::Returned) => return Ok(last),
                Part::End(outcome) => return Err(ClientError::Ended(outcome)),
            }
            while buffer.len() >= LINE_BYTES {
                let line: Vec<u8> = buffer.drain(..LINE_BYTES).collect();
                last = serde_json::from_slice(&line)
                    .map_err(|_| ClientError::Violation("what it tells of its circuits cannot be read".into()))?;
                progress(&last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bento_proto::Policy;

    use super::*;

    fn traffic(shape: Shape) -> CoverTraffic {
        CoverTraffic { circuits: 10, shape, run: Duration::from_secs(600), sinks: Vec::new(), to: None, back: false }
    }

    #[test]
    fn it_asks_for_what_it_takes_and_for_no_more_calls_than_it_makes() {
        let own = traffic(Shape::Constant(5.0));
        assert_eq!(own.traffic(), (256 + 80 + 128) * 1024 + (30_000 + 10 + 1) * 498 * 2);
        let to = CoverTraffic { to: Some("sink.example:9000".into()), back: true, ..own.clone() };
        assert_eq!(to.traffic(), own.traffic());
        let (own, to) = (own.bundle().unwrap().manifest.needs, to.bundle().unwrap().manifest.needs);
        assert_eq!((own.circuits, own.onion_services, to.circuits, to.onion_services), (0, 1, 10, 0));
        assert_eq!((own.connect.rules()[0].to_string(), to.connect.rules()[0].to_string()), ("accept *:80".into(), "accept *:9000".into()));
        let machined = traffic(Shape::Maybenot(vec!["02e".into()], 1 << 20)).bundle().unwrap();
        let policy = |calls: &str| Policy::parse(&format!("[offers]\ncalls = [{calls}]\n")).unwrap().admit(&machined.manifest);
        assert!(policy("\"tor.*\", \"maybenot.*\"").is_ok() && policy("\"tor.*\"").is_err() && policy("\"maybenot.*\"").is_err());
    }

    #[test]
    fn sinks_are_functions_that_it_may_install() {
        let sinks = vec!["127.0.0.1:8030".parse().unwrap(); 3];
        let bundle = CoverTraffic { sinks, ..traffic(Shape::Poisson(1.0)) }.bundle().unwrap();
        let policy = Policy::parse("[offers]\ncalls = [\"tor.*\", \"nodes.*\"]\n").unwrap();
        // The sink travels with the same manifest.
        assert_eq!(policy.admit(&bundle.manifest).unwrap().covers(&bundle.manifest), Ok(()));
        assert_eq!(bundle.manifest.needs.installs, 3);
    }
}
