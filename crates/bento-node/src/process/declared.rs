//! What a function says of an invocation's output before its first byte: the calls `output.*`.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Process, Slot};
use crate::{
    link::{Call, CallError, CallErrorKind},
    sending::Sending,
};

/// What a function says of an invocation's output before its first byte.
#[derive(Debug, Default)]
pub struct Declared {
    /// Its length in bytes.
    pub length: OnceLock<u64>,
    /// What it is, for a browser.
    pub kind: OnceLock<Kind>,
}

/// What an output is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kind {
    /// Its media type (RFC 9110, section 8.3).
    pub media: String,
    /// The name under which it is to be saved, if it is.
    pub name: Option<String>,
}

impl Process {
    /// What was said of the output of the invocation that makes a call.
    fn declared(&self, call: &Call) -> Result<Arc<Declared>, CallError> {
        self.slot_of(call, |slot| Arc::clone(&slot.declared))
    }

    /// Where stored bytes are put into the output of the invocation that makes a call.
    pub(crate) fn output_of(&self, call: &Call) -> Result<mpsc::Sender<Sending>, CallError> {
        self.slot_of(call, |slot| slot.sends.clone())
    }

    fn slot_of<T>(&self, call: &Call, look: impl FnOnce(&Slot) -> T) -> Result<T, CallError> {
        let slots = self.slots();
        let slot = call.invocation.zip(slots.as_ref()).and_then(|(number, slots)| slots.open.get(&number));
        slot.map(look).ok_or_else(|| CallError::new(CallErrorKind::BadCall, "there is no such invocation"))
    }

    pub(super) fn declare_length(&self, call: &Call) -> Result<Value, CallError> {
        #[derive(Deserialize)]
        struct Length {
            bytes: u64,
        }
        let Length { bytes } = call.arguments("output.length takes `bytes`, a whole number")?;
        let twice = |_| CallError::new(CallErrorKind::BadCall, "the output's length is already declared");
        self.declared(call)?.length.set(bytes).map_err(twice)?;
        Ok(Value::Null)
    }

    pub(super) fn declare_kind(&self, call: &Call) -> Result<Value, CallError> {
        #[derive(Deserialize)]
        struct Type {
            #[serde(rename = "type")]
            media: String,
            name: Option<String>,
        }
        let bad = |text| CallError::new(CallErrorKind::BadCall, text);
        let Type { media, name } = call.arguments("output.type takes `type`, a text, and `name`, a text or null")?;
        // Becomes a header.
        let is_plain = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !is_plain(&media, 100) || !media.contains('/') {
            return Err(bad("a type is a media type such as text/html; charset=utf-8"));
        }
        if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > 255 || name.chars().any(|c| c.is_control() || c == '/')) {
            return Err(bad("a name is a file name: at most 255 bytes, without `/` and control characters"));
        }
        self.declared(call)?.kind.set(Kind { media, name }).map_err(|_| bad("the output's type is already declared"))?;
        Ok(Value::Null)
    }
}
