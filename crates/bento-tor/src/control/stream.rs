//! What Tor tells of streams.

use super::ids::{CircuitId, StreamId};
use super::{Event, wire};
use crate::socks::Isolation;

/// What has become of a stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StreamEvent {
    /// Which.
    pub id: StreamId,
    /// What.
    pub status: StreamStatus,
    /// The circuit that it is attached to, if it is.
    pub circuit: Option<CircuitId>,
    /// Host and port.
    pub target: String,
    /// Why it failed, was detached or closed, in Tor's word.
    pub reason: Option<String>,
    /// The same in the word of the relay at the end of the circuit.
    pub remote_reason: Option<String>,
    /// What it is for, such as `USER` or `DIR_FETCH`; told when it is new.
    pub purpose: Option<String>,
    /// Whose it is, if it came by [`Socks`](crate::Socks).
    pub isolation: Option<Isolation>,
}

/// What can become of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum StreamStatus {
    /// Somebody wants to connect.
    New,
    /// Somebody wants to look a name up.
    NewResolve,
    /// The request is on its way through a circuit.
    Sent,
    /// It is connected.
    Succeeded,
    /// It could not be connected, and may be attached to another circuit.
    Detached,
    /// It could not be connected.
    Failed,
    /// It has ended.
    Closed,
    /// Anything else.
    Other,
}

impl StreamEvent {
    /// The kind of event that this is read from.
    pub const EVENT: &str = "STREAM";

    /// Reads the event (control-spec, "Stream status changed"):
    /// ```text
    /// 650 STREAM 10 NEW 0 127.61.0.1:80 SOURCE_ADDR=/run/socks:0 PURPOSE=USER SOCKS_USERNAME="bento" SOCKS_PASSWORD="2c26…" CLIENT_PROTOCOL=SOCKS5 NYM_EPOCH=0 SESSION_GROUP=-4 ISO_FIELDS=SOCKS_USERNAME,SOCKS_PASSWORD,SESSION_GROUP,NYM_EPOCH
    /// 650 STREAM 25 NEWRESOLVE 0 site.example:0 SOURCE_ADDR=/run/socks:0 PURPOSE=DNS_REQUEST SOCKS_USERNAME="bento" SOCKS_PASSWORD="2c26…" …
    /// 650 STREAM 10 SENTCONNECT 10 127.61.0.1:80 SOCKS_USERNAME="bento" SOCKS_PASSWORD="2c26…" …
    /// 650 STREAM 10 REMAP 10 127.61.0.1:80 SOURCE=EXIT SOCKS_USERNAME="bento" SOCKS_PASSWORD="2c26…" …
    /// 650 STREAM 10 SUCCEEDED 10 127.61.0.1:80 SOCKS_USERNAME="bento" SOCKS_PASSWORD="2c26…" …
    /// 650 STREAM 11 DETACHED 10 127.61.0.1:81 REASON=END REMOTE_REASON=EXITPOLICY SOCKS_USERNAME="bento" SOCKS_PASSWORD="2c26…" …
    /// 650 STREAM 10 CLOSED 10 127.61.0.1:80 REASON=DONE SOCKS_USERNAME="bento" SOCKS_PASSWORD="2c26…" …
    /// ```
    pub fn parse(event: &Event) -> Option<Self> {
        let mut words = event.words().filter(|_| event.kind == Self::EVENT);
        let (id, status) = (StreamId::parse(words.next()?)?, words.next()?);
        let (circuit, target) = (words.next()?, words.next()?);
        let status = match status {
            "NEW" => StreamStatus::New,
            "NEWRESOLVE" => StreamStatus::NewResolve,
            "SENTCONNECT" | "SENTRESOLVE" => StreamStatus::Sent,
            "SUCCEEDED" => StreamStatus::Succeeded,
            "DETACHED" => StreamStatus::Detached,
            "FAILED" => StreamStatus::Failed,
            "CLOSED" => StreamStatus::Closed,
            _ => StreamStatus::Other,
        };
        // In one pass: these lines are long, and there are many.
        let (mut reason, mut remote_reason, mut purpose, mut name, mut password) = (None, None, None, None, None);
        for word in words {
            let Some((key, value)) = word.split_once('=') else { continue };
            let place = match key {
                "REASON" => &mut reason,
                "REMOTE_REASON" => &mut remote_reason,
                "PURPOSE" => &mut purpose,
                "SOCKS_USERNAME" => &mut name,
                "SOCKS_PASSWORD" => &mut password,
                _ => continue,
            };
            *place = Some(wire::unquote(value));
        }
        let isolation = name.zip(password).and_then(|(name, password)| Isolation::of(&name, password));
        Some(Self { id, status, circuit: CircuitId::parse(circuit), target: target.to_owned(), reason, remote_reason, purpose, isolation })
    }

    /// Does Tor wait for a controller to attach it, where streams are left unattached? Streams of its own it attaches itself.
    pub fn waits(&self) -> bool {
        match self.status {
            StreamStatus::New | StreamStatus::NewResolve => matches!(self.purpose.as_deref(), None | Some("USER" | "DNS_REQUEST")),
            StreamStatus::Detached => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<StreamEvent> {
        StreamEvent::parse(&Event { kind: "STREAM".into(), text: text.into(), lines: Vec::new() })
    }

    #[test]
    fn streams_are_read_as_tor_writes_them_and_know_whose_they_are() {
        let own = Isolation::new("own");
        let socks = format!("{} CLIENT_PROTOCOL=SOCKS5 NYM_EPOCH=0 SESSION_GROUP=-4", own.told());
        let new = read(&format!("10 NEW 0 127.61.0.1:80 SOURCE_ADDR=/run/socks:0 PURPOSE=USER {socks}")).unwrap();
        assert_eq!((new.status, new.circuit.clone(), new.target.as_str()), (StreamStatus::New, None, "127.61.0.1:80"));
        assert_eq!(new.isolation, Some(own.clone()));
        assert!(new.waits());
        let failed = read(&format!("11 DETACHED 10 127.61.0.1:81 REASON=END REMOTE_REASON=EXITPOLICY {socks}")).unwrap();
        assert_eq!((failed.reason.as_deref(), failed.remote_reason.as_deref()), (Some("END"), Some("EXITPOLICY")));
        assert_eq!((failed.circuit.map(|circuit| circuit.to_string()).as_deref(), failed.isolation), (Some("10"), Some(own)));
        assert!(read("25 NEWRESOLVE 0 site.example:0 PURPOSE=DNS_REQUEST").unwrap().waits());
        for its_own in ["7 NEW 0 1.2.3.4.$AB.exit:5001 PURPOSE=DIR_FETCH", "7 SENTCONNECT 3 1.2.3.4:80", "7 CONTROLLER_WAIT 0 a:80"] {
            assert!(!read(its_own).unwrap().waits(), "{its_own}");
        }
        // Somebody else's name, or one that is quoted oddly, is nobody's of ours.
        for other in
            ["SOCKS_USERNAME=\"tor\" SOCKS_PASSWORD=\"x\"", "SOCKS_USERNAME=\"bento\"", "SOCKS_USERNAME=\"bento\" SOCKS_PASSWORD=\"x\""]
        {
            assert_eq!(read(&format!("10 NEW 0 a:80 {other}")).unwrap().isolation, None, "{other}");
        }
        for odd in ["", "10", "10 NEW", "10 NEW 0", "0 NEW 0 a:80"] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
