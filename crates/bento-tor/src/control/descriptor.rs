//! Descriptors of onion services: what Tor tells of their way to directories and from them, and what is inside.

use data_encoding::BASE64;

use super::ids::{Fingerprint, Hop};
use super::{ControlError, Event};

/// Longest descriptor that directories take (`HSV3MaxDescriptorSize`).
const DESCRIPTOR_BYTES_MAX: usize = 50_000;

/// Letters of base64 in a line.
const LINE: usize = 64;

/// One step of a descriptor on its way to a directory or from it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Descriptor {
    /// The onion service's address, with `.onion` at its end.
    pub address: String,
    /// What happened.
    pub step: Step,
    /// The directory that it is about, if it is about one.
    pub hsdir: Option<Fingerprint>,
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
    /// A directory is asked for it.
    Requested,
    /// A directory has given it.
    Received,
    /// Anything else.
    Other,
}

impl Descriptor {
    /// The kind of event that this is read from.
    pub const EVENT: &str = "HS_DESC";

    /// Why a step has failed where a directory has refused to store the descriptor.
    pub const REJECTED: &str = "UPLOAD_REJECTED";

    /// Reads the event (control-spec, "Rendezvous Service Descriptor Events"):
    /// ```text
    /// 650 HS_DESC UPLOAD bk5uipfi…wryd UNKNOWN $95499F60677E3C40DB0A58F706AB93CEAD3FDBC7~middle1 B8/JKRfZCTFx…TItns HSDIR_INDEX=0E2F…
    /// 650 HS_DESC UPLOADED bk5uipfi…wryd UNKNOWN $95499F60677E3C40DB0A58F706AB93CEAD3FDBC7~middle1
    /// 650 HS_DESC FAILED bk5uipfi…wryd UNKNOWN $95499F60677E3C40DB0A58F706AB93CEAD3FDBC7~middle1 B8/JKRfZCTFx…TItns REASON=UPLOAD_REJECTED
    /// 650 HS_DESC REQUESTED bk5uipfi…wryd NO_AUTH $95499F60677E3C40DB0A58F706AB93CEAD3FDBC7~middle1 B8/JKRfZCTFx…TItns HSDIR_INDEX=0E2F…
    /// 650 HS_DESC FAILED bk5uipfi…wryd NO_AUTH $95499F60677E3C40DB0A58F706AB93CEAD3FDBC7~middle1 B8/JKRfZCTFx…TItns REASON=NOT_FOUND
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
            "REQUESTED" => Step::Requested,
            "RECEIVED" => Step::Received,
            "FAILED" => Step::Failed(event.field("REASON").unwrap_or_default()),
            _ => Step::Other,
        };
        let hsdir = words.nth(1).and_then(Hop::parse).map(|hop| hop.fingerprint);
        Some(Self { address: format!("{id}.onion"), step, hsdir })
    }
}

/// A descriptor that a directory has given, or that it has none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DescriptorContent {
    /// The onion service's address, with `.onion` at its end.
    pub address: String,
    /// The directory.
    pub hsdir: Fingerprint,
    /// The descriptor; empty if the directory has none.
    pub text: String,
}

impl DescriptorContent {
    /// The kind of event that this is read from.
    pub const EVENT: &str = "HS_DESC_CONTENT";

    /// Reads the event:
    /// ```text
    /// 650+HS_DESC_CONTENT w6mvmhaj…yryd u7xZF/b1cQJTvHQffBGQ0PLQx9M7zZQQvuawBWHDHII $A8BCA5A700B51B09AFD9916E292568EACF5D652B~authority2
    /// hs-descriptor 3
    /// …
    /// .
    /// 650 OK
    /// ```
    pub fn parse(event: &Event) -> Option<Self> {
        let mut words = event.words().filter(|_| event.kind == Self::EVENT);
        let (id, hsdir) = (words.next()?, words.nth(1).and_then(Hop::parse)?);
        let text = event.lines.first()?.data.clone()?;
        let text = if text.trim().is_empty() { String::new() } else { text };
        Some(Self { address: format!("{id}.onion"), hsdir: hsdir.fingerprint, text })
    }
}

/// An onion service's descriptor as directories see it (rend-spec, "Outer descriptor format"), read into its parts.
///
/// What is inside is encrypted, and nothing here looks whether the signature is right: directories do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceDescriptor {
    lifetime: u32,
    certificate: Vec<u8>,
    revision: u64,
    encrypted: Vec<u8>,
    signature: Vec<u8>,
}

impl ServiceDescriptor {
    /// Reads it:
    /// ```text
    /// hs-descriptor 3
    /// descriptor-lifetime 180
    /// descriptor-signing-key-cert
    /// -----BEGIN ED25519 CERT-----
    /// AQgAB5zPAV5017XCD8oMlZjUteS5qvTR6Rbbf3fvxmHh9Ks2WK9OAQAgBAC7vFkX
    /// …
    /// -----END ED25519 CERT-----
    /// revision-counter 21828161
    /// superencrypted
    /// -----BEGIN MESSAGE-----
    /// KOW5ZdEMeAV2oUgyYPmWawyCVQz2cPD6l/7uTm4MPl2XNPMj0FZ07xl4/eVZ3y99
    /// …
    /// -----END MESSAGE-----
    /// signature jBQ8…
    /// ```
    ///
    /// # Errors
    /// When it is not written exactly so. What is sent on is written anew, and a signature is over the very bytes.
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        let read = || {
            let mut lines = text.lines();
            let mut line = |start: &str| lines.next()?.strip_prefix(start).map(str::to_owned);
            line("hs-descriptor 3").filter(String::is_empty)?;
            let lifetime = line("descriptor-lifetime ")?.parse().ok()?;
            line("descriptor-signing-key-cert").filter(String::is_empty)?;
            let certificate = object(&mut lines, "ED25519 CERT")?;
            let mut line = |start: &str| lines.next()?.strip_prefix(start).map(str::to_owned);
            let revision = line("revision-counter ")?.parse().ok()?;
            line("superencrypted").filter(String::is_empty)?;
            let encrypted = object(&mut lines, "MESSAGE")?;
            let signature = data_encoding::BASE64_NOPAD.decode(lines.next()?.strip_prefix("signature ")?.as_bytes()).ok()?;
            let descriptor = Self { lifetime, certificate, revision, encrypted, signature };
            (descriptor.signature.len() == 64 && descriptor.to_string() == text).then_some(descriptor)
        };
        let wrong = ControlError::Argument("this is no descriptor of an onion service of version 3, in the form in which it is signed");
        if text.len() > DESCRIPTOR_BYTES_MAX { Err(wrong) } else { read().ok_or(wrong) }
    }
}

impl std::fmt::Display for ServiceDescriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lifetime, revision, .. } = self;
        let (certificate, encrypted) = (wrapped(&self.certificate), wrapped(&self.encrypted));
        write!(f, "hs-descriptor 3\ndescriptor-lifetime {lifetime}\ndescriptor-signing-key-cert\n")?;
        write!(f, "-----BEGIN ED25519 CERT-----\n{certificate}-----END ED25519 CERT-----\nrevision-counter {revision}\nsuperencrypted\n")?;
        write!(f, "-----BEGIN MESSAGE-----\n{encrypted}-----END MESSAGE-----\n")?;
        writeln!(f, "signature {}", data_encoding::BASE64_NOPAD.encode(&self.signature))
    }
}

/// The bytes of an object between its lines `BEGIN` and `END`.
fn object<'a>(lines: &mut impl Iterator<Item = &'a str>, kind: &str) -> Option<Vec<u8>> {
    lines.next().filter(|line| *line == format!("-----BEGIN {kind}-----"))?;
    let end = format!("-----END {kind}-----");
    let mut letters = String::new();
    loop {
        match lines.next()? {
            line if line == end => return BASE64.decode(letters.as_bytes()).ok(),
            line => letters += line,
        }
    }
}

/// Base64 in lines.
fn wrapped(bytes: &[u8]) -> String {
    let letters = BASE64.encode(bytes);
    let lines = letters.as_bytes().chunks(LINE).map(String::from_utf8_lossy);
    lines.fold(String::with_capacity(letters.len() * 66 / 64 + 2), |text, line| text + &line + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::ReplyLine;
    use super::*;

    fn event(kind: &str, text: &str) -> Event {
        Event { kind: kind.to_owned(), text: text.to_owned(), lines: Vec::new() }
    }

    #[test]
    fn steps_are_read_as_tor_writes_them_and_other_events_are_none() {
        let read = |text: &str| Descriptor::parse(&event("HS_DESC", text));
        let step = |text| read(text).map(|descriptor| (descriptor.address, descriptor.step));
        let is = |step| Some(("abc7.onion".to_owned(), step));
        assert_eq!(step("REQUESTED abc7 NO_AUTH $9549~middle1 Ipq2 HSDIR_INDEX=0E2F"), is(Step::Requested));
        assert_eq!(step("RECEIVED abc7 NO_AUTH $9549~middle1 Ipq2"), is(Step::Received));
        assert_eq!(step("CREATED abc7 UNKNOWN UNKNOWN Ipq2kJX7s"), is(Step::Other));
        assert_eq!(step("UPLOAD abc7 UNKNOWN $9549~middle1 Ipq2 HSDIR_INDEX=0E2F"), is(Step::Upload));
        assert_eq!(step("UPLOADED abc7 UNKNOWN $9549~middle1"), is(Step::Uploaded));
        assert_eq!(step("FAILED abc7 UNKNOWN $9549~middle1 Ipq2 REASON=UPLOAD_REJECTED"), is(Step::Failed("UPLOAD_REJECTED".into())));
        assert_eq!(step("FAILED abc7 NO_AUTH UNKNOWN"), is(Step::Failed(String::new())));
        let hsdir = "62B250DE403BA8DB38A79133C36111C0D217C74C";
        let stored = format!("UPLOADED abc7 UNKNOWN ${hsdir}~middle1");
        assert_eq!(read(&stored).unwrap().hsdir, hsdir.parse().ok());
        assert_eq!(read("UPLOADED abc7 UNKNOWN UNKNOWN").unwrap().hsdir, None);
        for odd in ["", "UPLOADED", "UPLOADED  ", "UPLOADED a\"b\"", "UPLOADED ab/c UNKNOWN"] {
            assert_eq!(read(odd), None, "{odd}");
        }
        assert_eq!(Descriptor::parse(&event("HS_DESC_CONTENT", "UPLOADED abc7 UNKNOWN $9549~middle1")), None);
    }

    #[test]
    fn contents_are_read_and_an_empty_one_says_that_there_is_none() {
        let read = |data: &str| {
            let line = ReplyLine { code: 650, text: String::new(), data: Some(data.into()) };
            let text = "abc7 u7xZF/b1 $62B250DE403BA8DB38A79133C36111C0D217C74C~middle1".into();
            DescriptorContent::parse(&Event { kind: "HS_DESC_CONTENT".into(), text, lines: vec![line] })
        };
        let content = read("hs-descriptor 3\nx\n").unwrap();
        assert_eq!((content.address.as_str(), content.text.as_str()), ("abc7.onion", "hs-descriptor 3\nx\n"));
        assert_eq!(read("\n").unwrap().text, "");
        let bare = Event { kind: "HS_DESC_CONTENT".into(), text: "abc7".into(), lines: Vec::new() };
        assert_eq!(DescriptorContent::parse(&bare), None);
    }

    #[test]
    fn a_descriptor_is_sent_on_as_it_was_signed_or_not_at_all() {
        let descriptor = ServiceDescriptor {
            lifetime: 180,
            certificate: vec![7; 140],
            revision: 21_828_161,
            encrypted: vec![9; 1000],
            signature: vec![1; 64],
        };
        let text = descriptor.to_string();
        assert_eq!(ServiceDescriptor::parse(&text).unwrap(), descriptor);
        assert!(text.lines().all(|line| line.len() <= 64 || line.starts_with("signature ")));
        for (from, to) in [
            ("hs-descriptor 3", "hs-descriptor 2"),
            ("hs-descriptor 3\n", "hs-descriptor 3\n\n"),
            ("lifetime 180", "lifetime 0180"),
            ("lifetime 180", "lifetime -1"),
            ("21828161\n", "21828161\nSIGNAL HALT\n"),
            ("\n", "\r\n"),
            ("BEGIN MESSAGE", "BEGIN MESSAGES"),
            ("BwcH", "Bw"),
            ("CQkJ", "C.\n"),
            ("AQEB", ""),
        ] {
            let wrong = text.replacen(from, to, 1);
            assert_ne!(wrong, text);
            assert!(ServiceDescriptor::parse(&wrong).is_err(), "{from} / {to}");
        }
        assert!(ServiceDescriptor::parse(&(text.clone() + "more\n")).is_err() && ServiceDescriptor::parse("").is_err());
        let long = ServiceDescriptor { encrypted: vec![0; 40_000], ..descriptor };
        assert!(ServiceDescriptor::parse(&long.to_string()).is_err());
    }
}
