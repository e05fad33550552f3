//! Links: whoever has one may run one method of a function with given arguments, by GET, and nothing else.
//!
//! A link is 256 random bits. The node keeps their digest, and under a key derived from them the key to what the function keeps, so that a
//! link also wakes a function that sleeps since the node was started.

use std::{sync::Arc, time::Duration};

use bento_proto::SealKey;
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    container::Container,
    keep::blocking,
    link::{Call, CallError, CallErrorKind},
    process::Process,
    store::{NewLink, Space, StoreError},
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
    let store = container.keep.vault(Some(&key)).await?.space(Space::Links);
    let token = LinkToken::mint()?;
    let path = format!("{PATH}{}", token.reveal());
    let linked = serde_json::to_vec(&Linked { method, arguments }).map_err(|_| bad("the arguments cannot be kept".into()))?;
    let registry = container.keep.registry();
    container.meter.slow(linked.len() + 4096).await;
    blocking(move || {
        if store.list("", None, LINKS_MAX)?.0.len() >= LINKS_MAX {
            return Err(StoreError::Busy);
        }
        store.put(&name(&token.digest()), &linked)?;
        let ends = std::time::SystemTime::now() + lasts;
        registry.link(NewLink { digest: token.digest(), secret: token.secret(), function: id, key: &key, ends })
    })
    .await?;
    Ok(json!({ "path": path }))
}

pub(crate) async fn end(process: &Process, container: &Arc<Container>, call: &Call) -> Result<Value, CallError> {
    #[derive(Deserialize)]
    struct End {
        path: String,
    }
    let End { path } = call.arguments("link.end takes `path`, a text")?;
    let token = path.strip_prefix(PATH).and_then(LinkToken::parse);
    let token = token.ok_or_else(|| CallError::new(CallErrorKind::BadCall, "this is no path of a link"))?;
    let (key, id) = kept(process, container)?;
    let store = container.keep.vault(Some(&key)).await?.space(Space::Links);
    let registry = container.keep.registry();
    blocking(move || {
        // One function cannot end another's.
        if !store.delete(&name(&token.digest()))? {
            return Err(StoreError::Missing);
        }
        registry.unlink(id, token.digest())
    })
    .await?;
    Ok(Value::Null)
}

/// What a link runs.
pub(crate) async fn read(container: &Container, key: &SealKey, digest: [u8; 32]) -> Result<Linked, StoreError> {
    let store = container.keep.vault(Some(key)).await?.space(Space::Links);
    let text = blocking(move || {
        let (mut reader, mut text) = (store.reader(&name(&digest), 0, None)?, Vec::new());
        while let Some(piece) = reader.piece()? {
            text.extend_from_slice(&piece);
        }
        Ok(text)
    });
    serde_json::from_slice(&text.await?).map_err(|_| StoreError::Missing)
}

fn kept(process: &Process, container: &Container) -> Result<(SealKey, crate::store::Id), CallError> {
    let found = process.key().cloned().zip(container.keep.id());
    found.ok_or_else(|| CallError::new(CallErrorKind::Refused, "a function that lives for one call has no links"))
}
