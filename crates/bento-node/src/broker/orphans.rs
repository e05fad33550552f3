//! What a node has open at a Tor that outlives it, written down so that the next process of the node can end it.
//!
//! Circuits outlive the control connection that began them, and so does the order to leave streams alone, which would make that Tor useless to everybody
//! else. A file in the state directory says which Tor it was, and what is there; it names nothing but Tor's own numbers.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bento_tor::{CircuitEvent, CircuitId, CircuitStatus, ControlError, Controller, Event, Order};

/// How far two readings of when a process was started may be apart and yet mean the same one.
const SAME_START: Duration = Duration::from_secs(10);

/// The file's name.
const FILE: &str = "tor.open";

/// What is open at a Tor.
#[derive(Clone, Debug)]
pub(super) struct Record(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    file: PathBuf,
    /// Which Tor: its process, and when that was started.
    tor: (String, u64),
    unattached: bool,
    circuits: BTreeSet<CircuitId>,
}

impl Record {
    /// Ends what an earlier process of this node has left at this Tor, and begins anew.
    pub(super) async fn take_over(controller: &Controller, state: &Path) -> Result<Self, ControlError> {
        let file = state.join(FILE);
        let uptime: u64 = controller.get_info("uptime").await?.parse().unwrap_or(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let tor = (controller.get_info("process/pid").await?, now.saturating_sub(uptime));
        let left = fs::read_to_string(&file).ok().and_then(|text| Open::parse(&text, file.clone()));
        if let Some(left) = left.filter(|left| left.tor.0 == tor.0 && left.tor.1.abs_diff(tor.1) <= SAME_START.as_secs()) {
            if left.unattached {
                controller.leave_streams_unattached(false, Vec::new).await?;
            }
            // Only those that a controller made: numbers of others are never used again while that process lives, but nothing is taken for granted.
            let there = controller.circuits().await?;
            let orphans = there.iter().filter(|circuit| circuit.purpose == "CONTROLLER" && left.circuits.contains(&circuit.id));
            controller.order(orphans.map(|circuit| Order::close_circuit(&circuit.id)).collect()).await?;
        }
        let open = Open { file, tor, unattached: false, circuits: BTreeSet::new() };
        open.write();
        Ok(Self(Arc::new(Mutex::new(open))))
    }

    /// Streams are left unattached, or no longer.
    pub(super) fn unattached(&self, on: bool) {
        self.change(|open| open.unattached = on);
    }

    /// A circuit was begun.
    pub(super) fn begun(&self, circuit: &CircuitId) {
        self.change(|open| open.circuits.extend([circuit.clone()]));
    }

    /// Hears which circuits have ended.
    pub(super) fn heard(&self, event: &Event) {
        let ended = |circuit: &CircuitEvent| matches!(circuit.status, CircuitStatus::Failed | CircuitStatus::Closed);
        if let Some(circuit) = CircuitEvent::parse(event).filter(ended) {
            self.change(|open| open.circuits.retain(|known| *known != circuit.id));
        }
    }

    fn change(&self, change: impl FnOnce(&mut Open)) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (open.unattached, open.circuits.len());
        change(&mut open);
        if before != (open.unattached, open.circuits.len()) {
            open.write();
        }
    }
}

impl Open {
    /// ```text
    /// tor 8023 1795827343
    /// unattached
    /// circuit 10
    /// ```
    fn parse(text: &str, file: PathBuf) -> Option<Self> {
        let mut lines = text.lines();
        let (pid, started) = lines.next()?.strip_prefix("tor ")?.split_once(' ')?;
        let mut open = Self { file, tor: (pid.to_owned(), started.parse().ok()?), unattached: false, circuits: BTreeSet::new() };
        for line in lines {
            match line.split_once(' ') {
                Some(("circuit", id)) => open.circuits.extend(id.parse::<CircuitId>()),
                _ => open.unattached |= line == "unattached",
            }
        }
        Some(open)
    }

    /// Written as a whole or not at all. Not synchronised: a machine that went down has no Tor left either.
    fn write(&self) {
        let mut text = format!("tor {} {}\n", self.tor.0, self.tor.1);
        if self.unattached {
            text += "unattached\n";
        }
        for circuit in &self.circuits {
            text += &format!("circuit {circuit}\n");
        }
        let new = self.file.with_extension("new");
        let written = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            fs::rename(&new, &self.file)
        });
        if let Err(error) = written {
            tracing::warn!(%error, "what is open at Tor could not be written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_read_back_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE);
        let open = Open { file: file.clone(), tor: ("8023".into(), 1_795_827_343), unattached: true, circuits: BTreeSet::new() };
        let record = Record(Arc::new(Mutex::new(open)));
        for circuit in ["10", "7", "12"] {
            record.begun(&circuit.parse().unwrap());
        }
        record.heard(&Event { kind: "CIRC".into(), text: "7 CLOSED REASON=DESTROYED".into(), lines: Vec::new() });
        record.heard(&Event { kind: "CIRC".into(), text: "12 EXTENDED".into(), lines: Vec::new() });
        assert_eq!(fs::read_to_string(&file).unwrap(), "tor 8023 1795827343\nunattached\ncircuit 10\ncircuit 12\n");
        record.unattached(false);
        let read = Open::parse(&fs::read_to_string(&file).unwrap(), file.clone()).unwrap();
        assert_eq!((read.tor.0.as_str(), read.tor.1, read.unattached, read.circuits.len()), ("8023", 1_795_827_343, false, 2));
        for odd in ["", "circuit 10\n", "tor 8023\n", "tor 8023 yesterday\n"] {
            assert!(Open::parse(odd, file.clone()).is_none(), "{odd:?}");
        }
    }
}
