//! What Tor tells of an onion service's descriptors: which directories were asked to store one, and what they said.

use super::Event;

/// One step of a descriptor on its way to a directory or from it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Descriptor {
    /// The onion service's address, with `.onion` at its end.
    pub address: String,
    /// What happened.
    pub step: Step,
}

/// What happened to a descriptor.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// A directory is asked to store it.
    Upload,
    /// A directory has stored it.
    Uploaded,
    /// A directory has not stored it, or has not given it, with Tor's word for why.
    Failed(String),
    /// Anything else: made, asked for, received.
    Other,
}

impl Descriptor {
    /// The kind of event that this is read from.
    pub const EVENT: &str = "HS_DESC";

    /// Reads the event (control-spec, "Rendezvous Service Descriptor Events"):
    /// ```text
    /// 650 HS_DESC UPLOAD bk5uipfi…wryd UNKNOWN $95499F60677E3C40DB0A58F706AB93CEAD3FDBC7~middle1 B8/JKRfZCTFx…TItns HSDIR_INDEX=0E2F…
    /// 650 HS_DESC UPLOADED bk5uipfi…wryd UNKNOWN $95499F60677E3C40DB0A58F706AB93CEAD3FDBC7~middle1
    /// 650 HS_DESC FAILED bk5uipfi…wryd UNKNOWN $95499F60677E3C40DB0A58F706AB93CEAD3FDBC7~middle1 B8/JKRfZCTFx…TItns REASON=UPLOAD_REJECTED
    /// ```
    pub fn parse(event: &Event) -> Option<Self> {
        let mut words = event.words().filter(|_| event.kind == Self::EVENT);
        let (action, id) = (words.next()?, words.next()?);
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let step = match action {
            "UPLOAD" => Step::Upload,
            "UPLOADED" => Step::Uploaded,
            "FAILED" => Step::Failed(event.field("REASON").unwrap_or_default()),
            _ => Step::Other,
        };
        Some(Self { address: format!("{id}.onion"), step })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, text: &str) -> Event {
        Event { kind: kind.to_owned(), text: text.to_owned(), lines: Vec::new() }
    }

    #[test]
    fn steps_are_read_as_tor_writes_them_and_other_events_are_none() {
        let read = |text| Descriptor::parse(&event("HS_DESC", text));
        let step = |text| read(text).map(|descriptor| (descriptor.address, descriptor.step));
        let is = |step| Some(("abc7.onion".to_owned(), step));
        assert_eq!(step("CREATED abc7 UNKNOWN UNKNOWN Ipq2kJX7s"), is(Step::Other));
        assert_eq!(step("UPLOAD abc7 UNKNOWN $9549~middle1 Ipq2 HSDIR_INDEX=0E2F"), is(Step::Upload));
        assert_eq!(step("UPLOADED abc7 UNKNOWN $9549~middle1"), is(Step::Uploaded));
        assert_eq!(step("FAILED abc7 UNKNOWN $9549~middle1 Ipq2 REASON=UPLOAD_REJECTED"), is(Step::Failed("UPLOAD_REJECTED".into())));
        assert_eq!(step("FAILED abc7 NO_AUTH UNKNOWN"), is(Step::Failed(String::new())));
        for odd in ["", "UPLOADED", "UPLOADED  ", "UPLOADED a\"b\"", "UPLOADED ab/c UNKNOWN"] {
            assert_eq!(read(odd), None, "{odd}");
        }
        assert_eq!(Descriptor::parse(&event("HS_DESC_CONTENT", "UPLOADED abc7 UNKNOWN $9549~middle1")), None);
    }
}
