//! Frames from a function: a function is the enemy that is nearest. What is taken says what its JSON says, and every right frame is taken.

use bento_node::link::{FRAME_BYTES_MAX, FromFunction};
use serde_json::{Map, Value};

use crate::text;

#[derive(Debug, PartialEq)]
enum Kind {
    Call,
    Done,
    Loaded,
    Unloadable,
}

pub fn run(data: &[u8]) {
    if data.len() > FRAME_BYTES_MAX {
        return;
    }
    let parsed = text::is_quick("a frame", || FromFunction::parse(data));
    let read = serde_json::from_slice::<Value>(data);
    match parsed {
        Ok(frame) => {
            // A frame is a JSON object, says the specification, and nothing else is one.
            let first = data.iter().find(|byte| !byte.is_ascii_whitespace());
            assert_eq!(first, Some(&b'{'), "{frame:?}");
            if let Ok(Value::Object(read)) = &read {
                says(&frame, read);
            }
        }
        Err(violation) => text::is_short(&violation.to_string()),
    }
    if let Ok(Value::Object(read)) = &read
        && let Some(kind) = expected(read)
    {
        let again = serde_json::to_vec(read).expect("JSON");
        let frame = FromFunction::parse(&again).unwrap_or_else(|_| panic!("a right frame is refused: {}", String::from_utf8_lossy(&again)));
        assert_eq!(kind_of(&frame), kind);
        says(&frame, read);
    }
}

fn kind_of(frame: &FromFunction) -> Kind {
    match frame {
        FromFunction::Call { .. } => Kind::Call,
        FromFunction::Done { .. } => Kind::Done,
        FromFunction::Loaded { .. } => Kind::Loaded,
        FromFunction::Unloadable { .. } => Kind::Unloadable,
    }
}

/// The kind of an object that has just the keys of `spec/function-api.md`, each with a value of its kind.
fn expected(frame: &Map<String, Value>) -> Option<Kind> {
    let only = |keys: &[&str]| frame.keys().all(|key| keys.contains(&key.as_str()));
    let text = |key: &str| frame.get(key).is_some_and(Value::is_string);
    let number = |key: &str| frame.get(key).is_some_and(Value::is_u64);
    if only(&["call", "invocation", "name", "arguments"]) && number("call") && text("name") {
        let invocation = !frame.contains_key("invocation") || number("invocation");
        return (invocation && frame.get("arguments").is_none_or(Value::is_object)).then_some(Kind::Call);
    }
    if number("done") {
        let good = match frame.get("outcome").and_then(Value::as_str)? {
            "returned" => only(&["done", "outcome"]),
            "failed" => only(&["done", "outcome", "error", "traceback"]) && text("error") && text("traceback"),
            "killed" => {
                let bound = frame.get("bound").and_then(Value::as_str)?;
                only(&["done", "outcome", "bound"]) && ["memory", "scratch", "processes", "descriptors"].contains(&bound)
            }
            _ => false,
        };
        return good.then_some(Kind::Done);
    }
    if only(&["loaded"]) && frame.get("loaded")?.is_object() {
        return Some(Kind::Loaded);
    }
    let why = frame.get("unloadable").filter(|_| only(&["unloadable"]))?.as_object()?;
    let texts = why.iter().all(|(key, value)| ["error", "traceback"].contains(&key.as_str()) && value.is_string());
    (texts && why.contains_key("error")).then_some(Kind::Unloadable)
}

/// What was understood stands in the JSON.
fn says(frame: &FromFunction, read: &Map<String, Value>) {
    match frame {
        FromFunction::Call { .. } => assert!(read["call"].is_u64() && read["name"].is_string(), "{read:?}"),
        FromFunction::Done { done, outcome } => {
            assert_eq!(read["done"].as_u64(), Some(*done));
            let told = serde_json::to_value(outcome).expect("JSON");
            assert_eq!(read["outcome"], told["outcome"], "{read:?}");
            for key in ["error", "bound"] {
                assert!(told.get(key).is_none_or(|value| read.get(key) == Some(value)), "{read:?}");
            }
        }
        FromFunction::Loaded { .. } => assert!(read.contains_key("loaded"), "{read:?}"),
        FromFunction::Unloadable { .. } => assert!(read["unloadable"]["error"].is_string(), "{read:?}"),
    }
}
