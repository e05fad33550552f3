//! A Dropbox on a node that breaks streams when a test wants that.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bento_proto::{Problem, Size, Span, grant::Granted, node::FunctionStatus};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Act, Asked, FakeNode, good, json, problem, status, whole};

#[derive(Clone, Debug, Default)]
pub struct Drop {
    pub size: usize,
    pub bytes: Vec<u8>,
    pub sha256: Option<String>,
    pub gets: Option<usize>,
    pub readers: Vec<String>,
    pub name: Option<String>,
    pub page: bool,
}

/// What goes wrong, each once and one after the other.
#[derive(Debug, Default)]
pub struct Faults {
    /// Of the next input so many bytes are taken, and the stream ends without an answer.
    pub cut_puts: Vec<usize>,
    /// Of the next output so many bytes are sent.
    pub cut_gets: Vec<usize>,
    /// This byte of all outputs is another one.
    pub flip: Option<usize>,
    /// The next input is taken so far, and nothing more happens on the stream.
    pub hold_put: Option<usize>,
    /// Says that it has so many bytes, whatever came.
    pub lie: Option<usize>,
    /// The last byte of the next output is missing, and not announced.
    pub short: bool,
}

#[derive(Debug, Default)]
pub struct State {
    pub drops: BTreeMap<String, Drop>,
    pub faults: Faults,
    pub installed: usize,
    pub ended: usize,
}

pub type Shared = Arc<Mutex<State>>;

pub async fn start() -> (FakeNode, Shared) {
    let state = Shared::default();
    (FakeNode::start(script(&state)).await, state)
}

pub fn script(state: &Shared) -> impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static {
    let state = Arc::clone(state);
    move |asked| answer(&mut state.lock().unwrap(), asked)
}

pub fn lasting() -> FunctionStatus {
    let own = status();
    let granted = Granted { storage: Size::mib(64), traffic: Size::mib(256), ..own.granted.clone() };
    FunctionStatus { remaining: Span::seconds(20 * 3600), granted, ..own }
}

pub fn failed(error: &str) -> Vec<Act> {
    problem(&Problem::new("function-failed", 502, error))
}

pub fn told(value: &Value) -> Vec<Act> {
    whole(value.to_string().as_bytes())
}

pub fn answer(state: &mut State, asked: &Asked) -> Vec<Act> {
    match asked.line.as_str() {
        "POST /v1/functions" => {
            state.installed += 1;
            return json("201 Created", &lasting());
        }
        "GET /v1/function" => return json("200 OK", &lasting()),
        "DELETE /v1/function" => state.ended += 1,
        _ => {}
    }
    if let Some(path) = asked.line.strip_prefix("GET /l/") {
        return follow(state, path);
    }
    let Some(method) = asked.line.strip_prefix("POST /v1/invoke/") else { return good(asked) };
    // Shard has them under other names.
    let method = match method {
        "stage" => "begin",
        "add" => "put",
        "staged" => "finish",
        other => other,
    };
    let arguments: Value = serde_json::from_str(asked.header("bento-arguments").unwrap_or("{}")).unwrap();
    let id = arguments["drop"].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| arguments[name].as_u64().map(|number| usize::try_from(number).unwrap());
    if !matches!(method, "begin" | "drop" | "list") && !state.drops.contains_key(&id) {
        return if method == "delete" { told(&json!({"existed": false})) } else { failed("NoSuchDrop: there is no such drop, or no more") };
    }
    let State { drops, faults, .. } = state;
    match method {
        "begin" => {
            let size = number("size").unwrap();
            if size > 50_000_000 {
                return failed("Full: [Errno 122] the drop is too large");
            }
            let name = arguments["name"].as_str().map(str::to_owned);
            let drop = drops.entry(id).or_insert_with(|| Drop { size, gets: number("gets"), name, ..Drop::default() });
            told(&json!({"offset": drop.bytes.len()}))
        }
        "drop" => {
            let sha256 = HEXLOWER.encode(&Sha256::digest(&asked.body));
            assert_eq!((arguments["sha256"].as_str(), number("size")), (Some(sha256.as_str()), Some(asked.body.len())));
            if let Some(taken) = faults.hold_put.take() {
                drops.insert(id, Drop { size: asked.body.len(), bytes: asked.body[..taken].to_vec(), ..Drop::default() });
                return vec![Act::Hold];
            }
            drops.insert(id, Drop { size: asked.body.len(), bytes: asked.body.clone(), sha256: Some(sha256.clone()), ..Drop::default() });
            told(&json!({"size": asked.body.len(), "sha256": sha256, "expires": 4_000_000_000u64}))
        }
        "put" => {
            let drop = drops.get_mut(&id).unwrap();
            let offset = number("offset").unwrap();
            assert!(offset <= drop.bytes.len());
            let taken = match (faults.cut_puts.is_empty(), faults.hold_put) {
                (false, _) => faults.cut_puts.remove(0).min(asked.body.len()),
                (_, Some(taken)) => taken.min(asked.body.len()),
                _ => asked.body.len(),
            };
            drop.bytes.truncate(offset);
            drop.bytes.extend_from_slice(&asked.body[..taken]);
            if let Some(lie) = faults.lie {
                return told(&json!({ "offset": lie }));
            }
            match (taken < asked.body.len(), faults.hold_put.take()) {
                (true, None) => vec![],
                (true, Some(_)) => vec![Act::Hold],
                _ => told(&json!({"offset": drop.bytes.len()})),
            }
        }
        "finish" => {
            let drop = drops.get_mut(&id).unwrap();
            let found = HEXLOWER.encode(&Sha256::digest(&drop.bytes));
            assert_eq!(drop.bytes.len(), drop.size);
            if arguments["sha256"] != found.as_str() {
                return failed("WrongHash: what is there is not what was sent");
            }
            drop.sha256 = Some(found.clone());
            told(&json!({"size": drop.size, "sha256": found, "expires": 4_000_000_000u64}))
        }
        "link" => {
            drops.get_mut(&id).unwrap().page = arguments["page"] == true;
            told(&json!({"path": format!("/l/{id}")}))
        }
        "get" => sent(faults, drops.get_mut(&id).unwrap(), arguments["reader"].as_str().unwrap(), number("offset").unwrap()),
        "delete" => {
            drops.remove(&id);
            told(&json!({"existed": true}))
        }
        "list" => {
            let all: Vec<Value> = drops
                .iter()
                .map(|(id, drop)| {
                    json!({"drop": id, "size": drop.size, "offset": drop.bytes.len(), "expires": 4_000_000_000u64, "gets": drop.gets,
                        "taken": drop.readers.len(), "name": drop.name, "sha256": drop.sha256})
                })
                .collect();
            told(&json!({ "drops": all }))
        }
        _ => problem(&Problem::new("unknown-method", 404, "there is no such method")),
    }
}

fn follow(state: &mut State, path: &str) -> Vec<Act> {
    let parts: Vec<&str> = path.split('/').collect();
    let Some(drop) = state.drops.get_mut(parts[0]) else {
        return problem(&Problem::new("no-link", 404, "there is nothing at this link, or there is no longer"));
    };
    match parts.as_slice() {
        [_, "raw", reader, offset] => sent(&mut state.faults, drop, reader, offset.parse().unwrap()),
        _ => failed("NoSuchDrop: there is nothing at this address"),
    }
}

fn sent(faults: &mut Faults, drop: &mut Drop, reader: &str, offset: usize) -> Vec<Act> {
    if drop.sha256.is_none() {
        return failed("NotFinished: the drop is still on its way here");
    }
    if !drop.readers.iter().any(|known| known == reader) {
        if drop.gets.is_some_and(|gets| drop.readers.len() >= gets) {
            return failed("UsedUp: it was fetched as often as was allowed");
        }
        drop.readers.push(reader.to_owned());
    }
    let mut bytes = drop.bytes.clone();
    if let Some(at) = faults.flip {
        bytes[at] ^= 1;
    }
    if std::mem::take(&mut faults.short) {
        bytes.pop();
    }
    let rest = &bytes[offset..];
    let count = if faults.cut_gets.is_empty() { rest.len() } else { faults.cut_gets.remove(0).min(rest.len()) };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n", rest.len());
    vec![Act::Send([head.as_bytes(), &rest[..count]].concat())]
}
