//! Events, and what Bento reads in them.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::wire::{self, Reply, ReplyLine};
use super::{ControlError, Controller};

/// One event: its kind, the rest of its first line, and any further lines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Such as `STATUS_CLIENT`.
    pub kind: String,
    /// What follows the kind on the first line.
    pub text: String,
    /// The lines after the first, without the final `OK`.
    pub lines: Vec<ReplyLine>,
}

/// ```text
/// 650 CIRC 4 LAUNCHED BUILD_FLAGS=NEED_CAPACITY PURPOSE=GENERAL
/// ```
/// or, with more than one line:
/// ```text
/// 650+NEWCONSENSUS
/// r alpha …
/// .
/// 650 OK
/// ```
impl From<Reply> for Event {
    fn from(reply: Reply) -> Self {
        let mut lines = reply.lines;
        if lines.len() > 1 && lines.last().is_some_and(|line| line.text == "OK") {
            lines.pop();
        }
        let first = lines.first().map(|line| line.text.clone()).unwrap_or_default();
        let (kind, text) = first.split_once(' ').unwrap_or((&first, ""));
        // The first line stays in the list when it carries data, for the data would be lost otherwise.
        if lines.first().is_some_and(|line| line.data.is_none()) {
            lines.remove(0);
        }
        Self { kind: kind.to_owned(), text: text.to_owned(), lines }
    }
}

impl Event {
    /// The value of `KEY=VALUE` or `KEY="VALUE"` on the first line.
    pub fn field(&self, key: &str) -> Option<String> {
        wire::field(&self.text, key)
    }

    /// The words of the first line after the kind.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        wire::words(&self.text)
    }
}

/// A subscription to events. It keeps its control connection open.
#[derive(Debug)]
pub struct Events {
    controller: Controller,
    receiver: broadcast::Receiver<Event>,
    kinds: Vec<String>,
}

impl Events {
    pub(super) fn new(controller: Controller, receiver: broadcast::Receiver<Event>, kinds: &[&str]) -> Self {
        Self { controller, receiver, kinds: kinds.iter().map(|kind| kind.to_ascii_uppercase()).collect() }
    }

    /// Waits for the next event of the kinds asked for. The caller sets the bound with a timeout; dropping the future loses nothing.
    ///
    /// It fails once with [`ControlError::EventsLost`] if this reader was too slow, and with [`ControlError::Closed`] at the end.
    pub async fn next(&mut self) -> Result<Event, ControlError> {
        loop {
            let event = tokio::select! {
                event = self.receiver.recv() => event,
                // What has arrived is given out before the end of the connection is told.
                () = self.controller.closed() => match self.receiver.try_recv() {
                    Ok(event) => Ok(event),
                    Err(TryRecvError::Lagged(lost)) => Err(RecvError::Lagged(lost)),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => Err(RecvError::Closed),
                },
            };
            match event {
                Ok(event) if self.kinds.contains(&event.kind) => return Ok(event),
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => return Err(ControlError::EventsLost(lost)),
                Err(RecvError::Closed) => return Err(ControlError::Closed),
            }
        }
    }
}

/// How far Tor has come with connecting to the network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bootstrap {
    /// From 0 to 100; at 100 Tor can carry streams.
    pub percent: u8,
    /// Tor's short name of the phase, such as `loading_descriptors`.
    pub tag: String,
    /// The phase in words.
    pub summary: String,
    /// What hinders Tor, if it says so: its reason, never an address.
    pub trouble: Option<String>,
}

impl Bootstrap {
    /// Reads the event, or the value of `status/bootstrap-phase`, which has the same form:
    /// ```text
    /// NOTICE BOOTSTRAP PROGRESS=50 TAG=loading_descriptors SUMMARY="Loading relay descriptors"
    /// WARN BOOTSTRAP PROGRESS=10 TAG=conn_done SUMMARY="Connected to a relay" WARNING="Network is unreachable" REASON=NOROUTE COUNT=5 RECOMMENDATION=warn HOSTID="…" HOSTADDR="192.0.2.1:443"
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        if wire::words(text).nth(1) != Some("BOOTSTRAP") {
            return None;
        }
        let percent = wire::field(text, "PROGRESS")?.parse().ok().filter(|percent| *percent <= 100)?;
        Some(Self {
            percent,
            tag: wire::field(text, "TAG").unwrap_or_default(),
            summary: wire::field(text, "SUMMARY").unwrap_or_default(),
            trouble: wire::field(text, "WARNING"),
        })
    }

    /// Whether Tor can carry streams.
    pub fn is_done(&self) -> bool {
        self.percent == 100
    }
}
