//! Links: whoever has one may run one method of a function with given arguments, by GET, and nothing else.
//!
//! A link is 256 random bits. The node keeps their digest, and under a key derived from them the key to what the function keeps, so that a
//! link also wakes a function that sleeps since the node was started.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bento_proto::SealKey;
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    container::Container,
    link::{Call, CallError, CallErrorKind},
    process::Process,
    store::{NewLink, Space, Store, StoreError},
};

/// Most links of one function.
const LINKS_MAX: usize = 1024;

/// Longest time of a link. Its function ends before.
const LASTS_MAX: Duration = Duration::from_secs(u32::MAX as u64);

/// The path of a link begins so.
const PATH: &str = "/l/";

/// The right that a link is.
pub(crate) struct LinkToken([u8; 32]);

/// What a link runs.
#[derive(Deserialize, Serialize)]
pub(crate) struct Linked {
    /// The method.
    pub(crate) method: String,
    /// Its arguments.
    pub(crate) arguments: Map<String, Value>,
    /// When it ends, in seconds since 1970.
    ends: u64,
}

impl LinkToken {
    fn mint() -> Result<Self, CallError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| CallError::new(CallErrorKind::Failed, "the node has no random numbers"))?;
        Ok(Self(bytes))
    }

    /// From the text in a path.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_uppercase();
        BASE32_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }

    fn reveal(&self) -> String {
        BASE32_NOPAD.encode(&self.0).to_ascii_lowercase()
    }

    /// What the node keeps of it.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.reveal()).into()
    }

    /// The key under which the function's own is kept.
    pub(crate) fn secret(&self) -> [u8; 32] {
        self.0
    }
}

impl From<[u8; 32]> for LinkToken {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// The name of a link's record.
pub(crate) fn name(digest: &[u8; 32]) -> String {
    HEXLOWER.encode(digest)
}

pub(crate) async fn make(process: &Process, container: &Arc<Container>, call: &Call) -> Result<Value, CallError> {
    #[derive(Deserialize)]
    struct Make {
        method: String,
        #[serde(default)]
        arguments: Map<String, Value>,
        seconds: f64,
    }
    let bad = |text: String| CallError::new(CallErrorKind::BadCall, text);
    let Make { method, arguments, seconds } =
        call.arguments("link.make takes `method`, a text, `arguments`, an object, and `seconds`, a number")?;
    let lasts = Duration::try_from_secs_f64(seconds).map_err(|_| bad("`seconds` is how long the link lasts".into()))?.min(LASTS_MAX);
    if !container.bundle.manifest.methods.contains(&method) {
        return Err(bad("the function has no such method".into()));
    }
    let (key, id) = kept(process, container)?;
    let store = process.vault(container).await?.space(Space::Links);
    let token = LinkToken::mint()?;
    let path = format!("{PATH}{}", token.reveal());
    let ends = SystemTime::now() + lasts;
    let linked = Linked { method, arguments, ends: ends.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) };
    let linked = serde_json::to_vec(&linked).map_err(|_| bad("the arguments cannot be kept".into()))?;
    let registry = container.keep.registry();
    container.meter.slow(linked.len() + 4096).await;
    let made = container.cpu.work(move || {
        if store.list("", None, LINKS_MAX)?.0.len() >= LINKS_MAX && sweep(&store)? == 0 {
            return Ok(false);
        }
        store.put(&name(&token.digest()), &linked)?;
        registry.link(NewLink { digest: token.digest(), secret: token.secret(), function: id, key: &key, ends })?;
        Ok(true)
    });
    if !made.await? {
        return Err(CallError::new(CallErrorKind::Busy, format!("a function may have {LINKS_MAX} links; end one with link.end")));
    }
    Ok(json!({ "path": path }))
}

/// Removes the records of links that are over. Says how many there were.
fn sweep(store: &Store) -> Result<usize, StoreError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut gone = 0;
    for (name, _) in store.list("", None, LINKS_MAX)?.0 {
        if serde_json::from_slice::<Linked>(&whole(store, &name)?).is_ok_and(|linked| linked.ends < now) {
            store.delete(&name)?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// All of a short value.
pub(crate) fn whole(store: &Store, name: &str) -> Result<Vec<u8>, StoreError> {
    let (mut reader, mut text) = (store.reader(name, 0, None)?, Vec::new());
    while let Some(piece) = reader.piece()? {
        text.extend_from_slice(&piece);
    }
    Ok(text)
}

pub(crate) async fn end(process: &Process, container: &Arc<Container>, call: &Call) -> Result<Value, CallError> {
    #[derive(Deserialize)]
    struct End {
        path: String,
    }
    let End { path } = call.arguments("link.end takes `path`, a text")?;
    let token = path.strip_prefix(PATH).and_then(LinkToken::parse);
    let token = token.ok_or_else(|| CallError::new(CallErrorKind::BadCall, "this is no path of a link"))?;
    let (_, id) = kept(process, container)?;
    let store = process.vault(container).await?.space(Space::Links);
    let registry = container.keep.registry();
    let ending = container.cpu.work(move || {
        // One function cannot end another's.
        if !store.delete(&name(&token.digest()))? {
            return Err(StoreError::Missing);
        }
        registry.unlink(id, token.digest())
    });
    ending.await?;
    Ok(Value::Null)
}

/// What a link runs.
pub(crate) async fn read(container: &Container, key: &SealKey, digest: [u8; 32]) -> Result<Linked, StoreError> {
    let store = container.keep.vault(Some(key)).await?.space(Space::Links);
    let text = container.cpu.serve(move || whole(&store, &name(&digest)));
    serde_json::from_slice(&text.await?).map_err(|_| StoreError::Missing)
}

fn kept(process: &Process, container: &Container) -> Result<(SealKey, crate::store::Id), CallError> {
    let found = process.key().cloned().zip(container.keep.id());
    found.ok_or_else(|| CallError::new(CallErrorKind::Refused, "a function that lives for one call has no links"))
}
