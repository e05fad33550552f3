//! What Tor tells of circuits.

use super::ids::{CircuitId, Hop};
use super::{Event, wire};

/// What has become of a circuit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CircuitEvent {
    /// Which.
    pub id: CircuitId,
    /// What.
    pub status: CircuitStatus,
    /// Its relays so far.
    pub path: Vec<Hop>,
    /// What it is for, such as `GENERAL` or `CONTROLLER`.
    pub purpose: String,
    /// Why it failed or was closed, in Tor's word.
    pub reason: Option<String>,
    /// Why the relay that closed it did so.
    pub remote_reason: Option<String>,
}

/// What can become of a circuit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CircuitStatus {
    /// It was begun.
    Launched,
    /// It is there; also after it was made longer.
    Built,
    /// It has one relay more.
    Extended,
    /// It could not be built.
    Failed,
    /// It has ended.
    Closed,
    /// Anything else.
    Other,
}

impl CircuitEvent {
    /// The kind of event that this is read from.
    pub const EVENT: &str = "CIRC";

    /// Reads the event (control-spec, "Circuit status changed"):
    /// ```text
    /// 650 CIRC 10 LAUNCHED PURPOSE=CONTROLLER TIME_CREATED=2026-11-28T00:55:54.318311
    /// 650 CIRC 10 EXTENDED $62B250DE403BA8DB38A79133C36111C0D217C74C~middle1 PURPOSE=CONTROLLER TIME_CREATED=2026-11-28T00:55:54.318311
    /// 650 CIRC 10 BUILT $62B2…C74C~middle1,$3992…2070~middle2,$400A…45E8~exit1 PURPOSE=CONTROLLER TIME_CREATED=2026-11-28T00:55:54.318311
    /// 650 CIRC 15 FAILED $3992…2070~middle2,$8DE3…7982~middle3 PURPOSE=CONTROLLER TIME_CREATED=… REASON=DESTROYED REMOTE_REASON=DESTROYED
    /// 650 CIRC 10 CLOSED $62B2…C74C~middle1,$3992…2070~middle2,$400A…45E8~exit1 PURPOSE=CONTROLLER TIME_CREATED=… REASON=REQUESTED
    /// ```
    pub fn parse(event: &Event) -> Option<Self> {
        if event.kind == Self::EVENT { Self::line(&event.text) } else { None }
    }

    /// Reads the value of `circuit-status`, one line for each circuit:
    /// ```text
    /// 5 BUILT $A8BC…652B~authority2,$8DE3…7982~middle3,$400A…45E8~exit1 BUILD_FLAGS=NEED_CAPACITY,NEED_UPTIME PURPOSE=GENERAL TIME_CREATED=2026-11-28T00:55:53.051632
    /// ```
    pub(super) fn list(text: &str) -> Vec<Self> {
        text.lines().filter_map(Self::line).collect()
    }

    fn line(text: &str) -> Option<Self> {
        let mut words = wire::words(text);
        let (id, status) = (CircuitId::parse(words.next()?)?, words.next()?);
        let status = match status {
            "LAUNCHED" => CircuitStatus::Launched,
            "BUILT" => CircuitStatus::Built,
            "EXTENDED" => CircuitStatus::Extended,
            "FAILED" => CircuitStatus::Failed,
            "CLOSED" => CircuitStatus::Closed,
            _ => CircuitStatus::Other,
        };
        // There is none while no relay has answered.
        let path = words.next().and_then(Hop::path).unwrap_or_default();
        let field = |key| wire::field(text, key);
        let purpose = field("PURPOSE").unwrap_or_default();
        Some(Self { id, status, path, purpose, reason: field("REASON"), remote_reason: field("REMOTE_REASON") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: &str = "$62B250DE403BA8DB38A79133C36111C0D217C74C~middle1";

    fn read(text: &str) -> Option<CircuitEvent> {
        CircuitEvent::parse(&Event { kind: "CIRC".into(), text: text.into(), lines: Vec::new() })
    }

    #[test]
    fn circuits_are_read_as_tor_writes_them() {
        let launched = read("10 LAUNCHED PURPOSE=CONTROLLER TIME_CREATED=2026-11-28T00:55:54.318311").unwrap();
        assert_eq!((launched.status, launched.path.len(), launched.purpose.as_str()), (CircuitStatus::Launched, 0, "CONTROLLER"));
        let built = read(&format!("10 BUILT {MIDDLE},{MIDDLE} BUILD_FLAGS=IS_INTERNAL PURPOSE=GENERAL")).unwrap();
        assert_eq!((built.status, built.path.len(), built.reason), (CircuitStatus::Built, 2, None));
        let failed = read(&format!("15 FAILED {MIDDLE} PURPOSE=CONTROLLER REASON=DESTROYED REMOTE_REASON=TORPROTOCOL")).unwrap();
        assert_eq!((failed.reason.as_deref(), failed.remote_reason.as_deref()), (Some("DESTROYED"), Some("TORPROTOCOL")));
        assert_eq!(read("7 GUARD_WAIT").unwrap().status, CircuitStatus::Other);
        for odd in ["", "10", "0 BUILT", "1\u{e9} BUILT"] {
            assert_eq!(read(odd), None, "{odd}");
        }
        assert_eq!(CircuitEvent::parse(&Event { kind: "STREAM".into(), text: "1 BUILT".into(), lines: Vec::new() }), None);
        let list = CircuitEvent::list(&format!("1 BUILT {MIDDLE} PURPOSE=CONFLUX_LINKED\n2 LAUNCHED PURPOSE=GENERAL\n\n"));
        assert_eq!(list.iter().map(|circuit| circuit.id.to_string()).collect::<Vec<_>>(), ["1", "2"]);
    }
}
