//! The standard function `dropbox` from the client's side: its methods, and uploads and downloads that go on where they broke off.
//!
//! Everything that decides what a node can see happens here: a drop is encrypted before it leaves, and nothing that comes is given as
//! whole before it was opened to its end. Nothing here keeps anything: ids, keys and links are the caller's to remember.

mod age;
mod download;
mod link;
mod pad;
mod seal;
mod source;
mod spool;
mod upload;

use std::{fmt, io, str::FromStr, time::Duration};

use bento_proto::{InvocationToken, Outcome, Size, Span};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::{Call, Client, ClientError, Input, NodeAddress, Output, json, standard::Room, text, tokens::random};

pub use age::{AgeIdentity, AgeRecipient, age_seal, age_size_max};
pub use download::{Download, Origin, Piece};
pub use link::{DropLink, LinkError, Locked, Opening};
pub use seal::{FileKey, OpenError, Opener};
pub use source::{Parcel, Source};
pub use spool::{Spooled, spool};
pub use upload::{Upload, Uploaded};

/// Bytes that a Dropbox moves in a second of CPU time, its own and the node's for its store, on a slow processor: docs/benchmarks.md has what was
/// measured, and this asks for a multiple of that, since who has used up its CPU time is killed, and the drop is gone.
const CPU_BYTES: u64 = 64 << 20;

/// Longest answer of a method that tells something: a thousand drops with their metadata.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// The name of a drop, made before the node hears of it. 128 random bits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DropId([u8; 16]);

impl DropId {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn mint() -> Result<Self, ClientError> {
        let mut id = [0; 16];
        id.copy_from_slice(&random()?[..16]);
        Ok(Self(id))
    }
}

impl fmt::Display for DropId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for DropId {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let wrong = || ClientError::Request("a drop is named by 32 hexadecimal digits in lower case".into());
        HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(wrong)
    }
}

/// A Dropbox that is installed on a node, or another function that takes drops.
#[derive(Clone, Debug)]
pub struct Dropbox {
    /// The way there.
    pub client: Client,
    /// Where.
    pub node: NodeAddress,
    /// The right to use it.
    pub token: InvocationToken,
    /// What it is.
    pub taker: Taker,
}

/// The function that takes drops. What they have in common goes under different names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Taker {
    /// Dropbox itself.
    #[default]
    Dropbox,
    /// Shard, which spreads what it took.
    Shard,
}

impl Taker {
    fn method(self, name: &'static str) -> &'static str {
        match (self, name) {
            (Self::Shard, "begin") => "stage",
            (Self::Shard, "put") => "add",
            (Self::Shard, "finish") => "staged",
            _ => name,
        }
    }
}

/// A drop as it is announced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announcement {
    /// Its name.
    pub id: DropId,
    /// Bytes of it.
    pub size: u64,
    /// How long it is kept, from now on.
    pub expires: Duration,
    /// How often it can be fetched.
    pub gets: Option<u64>,
    /// Under which name a browser saves it. The node sees it.
    pub name: Option<String>,
}

/// What a Dropbox tells of a drop.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    /// Its name.
    pub drop: String,
    /// Bytes of it when it is whole,
    pub size: u64,
    /// and how many are there.
    pub offset: u64,
    /// When it is erased, in seconds since 1970.
    pub expires: u64,
    /// How often it can be fetched in all,
    pub gets: Option<u64>,
    /// and how often it was.
    pub taken: u64,
    /// Under which name a browser saves it.
    pub name: Option<String>,
    /// SHA-256 of it in hexadecimal, once it is whole.
    pub sha256: Option<String>,
}

/// Why something was not done with a drop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DropError {
    /// Not because of the drop.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The Dropbox will not do it.
    #[error("{0}")]
    Refused(DropRefusal),
    /// What came cannot be opened.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The file that is sent cannot be read, or was changed.
    #[error("reading the file")]
    File(#[source] io::Error),
    /// It broke off again and again.
    #[error("it broke off {tries} times without a byte more; {at} of {size} bytes are there: {last}")]
    Tired {
        /// Tries.
        tries: u32,
        /// Bytes that are there.
        at: u64,
        /// And of how many.
        size: u64,
        /// What happened last.
        last: Box<ClientError>,
    },
}

/// Why a Dropbox will not do something.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DropRefusal {
    /// It was never there, or is no longer.
    #[error("there is no such drop, or no more")]
    Gone,
    /// A limit of its sender is reached.
    #[error("the drop was fetched as often as its sender allowed")]
    UsedUp,
    /// Not all of it is there.
    #[error("the drop is still on its way to the node")]
    NotFinished,
    /// No room for it.
    #[error("the Dropbox is full: {0}")]
    Full(String),
    /// What is there is not what was sent.
    #[error("what is on the node is not what was sent")]
    WrongHash,
    /// Another drop has this id.
    #[error("there is another drop of this id")]
    Exists,
}

impl DropError {
    /// What the person may try, in one line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Client(error) => error.hint(),
            Self::Refused(DropRefusal::Gone) => "ask its sender whether it has expired, or was fetched",
            Self::Refused(DropRefusal::UsedUp) => "ask its sender to send it again",
            Self::Refused(DropRefusal::NotFinished) => "try again later, or ask its sender",
            Self::Refused(DropRefusal::Full(_)) => "remove drops with `bento dropbox rm`, or leave `--at` out for a Dropbox of its own",
            Self::Refused(DropRefusal::WrongHash | DropRefusal::Exists) => "send it again",
            Self::Open(OpenError::Key) => "copy the link again, to its end",
            Self::Open(OpenError::Age(_)) => "look whether the identity is the one that it was sent to",
            Self::Open(_) => "fetch it again; if it stays so, ask its sender to send it again",
            Self::File(_) => "leave the file as it is until it is sent, and try again",
            Self::Tired { .. } => "the same command goes on from there",
        }
    }

    /// The function's own words, if they are some that it is known to use.
    pub(crate) fn of(error: ClientError) -> Self {
        let ClientError::Ended(Outcome::Failed { error: said, .. }) = &error else { return Self::Client(error) };
        let (name, text) = said.split_once(':').unwrap_or((said, ""));
        let refusal = match name.rsplit('.').next().unwrap_or_default() {
            "NoSuchDrop" => DropRefusal::Gone,
            "UsedUp" => DropRefusal::UsedUp,
            "NotFinished" => DropRefusal::NotFinished,
            "WrongHash" => DropRefusal::WrongHash,
            "DropExists" => DropRefusal::Exists,
            // `[Errno 122] the drop has …`
            "Full" => DropRefusal::Full(text::line(text.split_once("] ").map_or(text, |(_, text)| text).trim())),
            _ => return Self::Client(error),
        };
        Self::Refused(refusal)
    }

    /// May the same be tried again, as it is?
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Client(ClientError::Refused(problem)) => matches!(problem.code(), "busy" | "stopping"),
            Self::Client(ClientError::Ended(Outcome::Failed { error, .. })) => error.contains("WrongOffset"),
            Self::Client(ClientError::Ended(Outcome::Killed { bound })) => {
                matches!(bound, bento_proto::Bound::Stop | bento_proto::Bound::Idle)
            }
            Self::Client(ClientError::Violation(_) | ClientError::Request(_) | ClientError::Input(_) | ClientError::Random(_)) => false,
            Self::Client(error) => !error.is_tor_unreachable(),
            _ => false,
        }
    }
}

impl Dropbox {
    /// What a Dropbox needs for one drop of this size that is fetched so often and kept so long.
    pub fn room_for(size: u64, gets: Option<u64>, lifetime: Duration) -> Room {
        // Once in, as often out, and once more for what streams that break carry in vain.
        let passes = gets.unwrap_or(2).saturating_add(2);
        let traffic = size.saturating_mul(passes).saturating_add(8 << 20);
        Room {
            // Beside the drop: what is known of it, and its readers.
            storage: whole_mib(size.saturating_add(gets.unwrap_or_default().saturating_mul(64)).saturating_add(512 << 10)),
            traffic: whole_mib(traffic),
            lifetime: Span::millis(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX)),
            cpu: Span::seconds(30 + traffic / CPU_BYTES),
        }
    }

    /// Announces a drop. Returns how much of it is there: after the first time, that may be something.
    ///
    /// # Errors
    /// When there is no room for it.
    pub async fn begin(&self, drop: &Announcement) -> Result<u64, DropError> {
        let arguments = json!({
            "drop": drop.id.to_string(), "size": drop.size, "expires": drop.expires.as_secs(), "gets": drop.gets, "name": drop.name,
        });
        Ok(self.ask::<Offset>("begin", arguments, Input::Empty).await?.offset)
    }

    /// Sends a part, from this byte of the drop on. Returns how much is there then; all of it is durable.
    ///
    /// # Errors
    /// When the stream breaks, or the node's function does not take it.
    pub async fn put(&self, id: DropId, offset: u64, part: Input) -> Result<u64, DropError> {
        Ok(self.ask::<Offset>("put", json!({"drop": id.to_string(), "offset": offset}), part).await?.offset)
    }

    /// Has the Dropbox check that all of the drop is there and right. Returns when it expires, in seconds since 1970.
    ///
    /// # Errors
    /// When it is not all there, or not right.
    pub async fn finish(&self, id: DropId, sha256: &[u8; 32]) -> Result<u64, DropError> {
        #[derive(Deserialize)]
        struct Finished {
            sha256: String,
            expires: u64,
        }
        let sha256 = HEXLOWER.encode(sha256);
        let told: Finished = self.ask("finish", json!({"drop": id.to_string(), "sha256": sha256}), Input::Empty).await?;
        if told.sha256 == sha256 { Ok(told.expires) } else { Err(DropError::Refused(DropRefusal::WrongHash)) }
    }

    /// Leaves a drop in one request: all that is seen of it is one upload. The same again sends it again, and changes nothing.
    ///
    /// # Errors
    /// When the stream breaks, there is no room for it, or something else came.
    pub async fn leave(&self, drop: &Announcement, content: Bytes) -> Result<(), DropError> {
        #[derive(Deserialize)]
        struct Finished {
            sha256: String,
        }
        let sha256 = HEXLOWER.encode(&Sha256::digest(&content));
        let arguments = json!({"drop": drop.id.to_string(), "size": drop.size, "expires": drop.expires.as_secs(), "sha256": sha256});
        let told: Finished = self.ask("drop", arguments, Input::Bytes(content)).await?;
        if told.sha256 == sha256 { Ok(()) } else { Err(DropError::Refused(DropRefusal::WrongHash)) }
    }

    /// All drops.
    ///
    /// # Errors
    /// When the node cannot be asked.
    pub async fn list(&self) -> Result<Vec<Told>, DropError> {
        #[derive(Deserialize)]
        struct All {
            drops: Vec<Told>,
        }
        let mut all = self.ask::<All>("list", json!({}), Input::Empty).await?.drops;
        for told in &mut all {
            told.drop = text::line(&told.drop);
            told.name = told.name.as_deref().map(text::line);
        }
        Ok(all)
    }

    /// Erases a drop. Was it there?
    ///
    /// # Errors
    /// When the node cannot be asked.
    pub async fn delete(&self, id: DropId) -> Result<bool, DropError> {
        #[derive(Deserialize)]
        struct Deleted {
            existed: bool,
        }
        Ok(self.ask::<Deleted>("delete", json!({"drop": id.to_string()}), Input::Empty).await?.existed)
    }

    /// Makes a link to a drop, for so long. With `page`, a browser is shown a page that decrypts it. Returns `/l/TOKEN`.
    ///
    /// # Errors
    /// When there is no such drop.
    pub async fn link(&self, id: DropId, seconds: u64, page: bool) -> Result<String, DropError> {
        #[derive(Deserialize)]
        struct Made {
            path: String,
        }
        let made: Made = self.ask("link", json!({"drop": id.to_string(), "seconds": seconds, "page": page}), Input::Empty).await?;
        // It is put into a text that is shown, and into a path that is asked for.
        let link = format!("http://{}{}", self.node.authority(), made.path).parse::<DropLink>();
        link.map(|link| link.path).map_err(|_| ClientError::Violation("its link to the drop is none".into()).into())
    }

    /// The drop's bytes, from one of them on. All requests of one reader count as one.
    pub(super) async fn get(&self, id: DropId, reader: DropId, offset: u64) -> Result<Output, DropError> {
        let call = call("get", json!({"drop": id.to_string(), "offset": offset, "reader": reader.to_string()}), Input::Empty);
        self.client.invoke(&self.node, &self.token, call).await.map_err(DropError::of)
    }

    async fn ask<T: DeserializeOwned>(&self, method: &'static str, arguments: Value, input: Input) -> Result<T, DropError> {
        let call = call(self.taker.method(method), arguments, input);
        let output = self.client.invoke(&self.node, &self.token, call).await.map_err(DropError::of)?;
        let (bytes, outcome) = output.collect(ANSWER_BYTES_MAX).await?;
        match outcome {
            Outcome::Returned => Ok(json::parse(&bytes, "the Dropbox's answer")?),
            other => Err(DropError::of(ClientError::Ended(other))),
        }
    }
}

#[derive(Deserialize)]
struct Offset {
    offset: u64,
}

pub(crate) fn call(method: &str, arguments: Value, input: Input) -> Call {
    let mut call = Call::new(method);
    call.arguments = match arguments {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    call.input = input;
    call
}

/// At least so much, as a number of MiB that a person can read.
pub(crate) fn whole_mib(bytes: u64) -> Size {
    Size::bytes(bytes.checked_next_multiple_of(1 << 20).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: &str) -> DropError {
        DropError::of(ClientError::Ended(Outcome::Failed { error: error.into(), traceback: String::new() }))
    }

    #[test]
    fn what_a_dropbox_refuses_is_told_in_our_words_and_anything_else_in_its_own() {
        let full = DropRefusal::Full("the drop has 9 bytes, and there is room for 3".into());
        for (said, expected) in [
            ("NoSuchDrop: there is no such drop, or no more", DropRefusal::Gone),
            ("dropbox.UsedUp: it was fetched 1 times", DropRefusal::UsedUp),
            ("Full: [Errno 122] the drop has 9 bytes, and there is room for 3", full),
        ] {
            assert!(matches!(failed(said), DropError::Refused(refusal) if refusal == expected), "{said}");
        }
        assert!(matches!(failed("ValueError: no"), DropError::Client(ClientError::Ended(_))));
        assert!(
            failed("WrongOffset: 3 bytes are there").is_passing()
                && !failed("UsedUp: no").is_passing()
                && !failed("KeyError: 1").is_passing()
        );
    }

    #[test]
    fn the_room_for_a_drop_grows_with_it_and_a_small_one_needs_little() {
        let small = Dropbox::room_for(5_000_000, Some(3), Duration::from_secs(3600));
        assert_eq!((small.storage, small.traffic, small.cpu), (Size::mib(6), Size::mib(32), Span::seconds(30)));
        let large = Dropbox::room_for(5 << 30, None, Duration::from_secs(3600));
        assert!(
            large.storage > Size::mib(5 << 10) && large.traffic > Size::mib(20 << 10) && (300..600).contains(&large.cpu.as_seconds_up())
        );
        assert!(Dropbox::room_for(u64::MAX, Some(u64::MAX), Duration::MAX).traffic > large.traffic);
    }
}
