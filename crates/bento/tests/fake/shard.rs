//! Some nodes with Shard and Dropbox, all of which share what they keep. The file itself is kept, and no shard is made of it: that is the real
//! function's, which runs on real nodes in `testnet/tests`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bento::Tokens;
use bento_proto::{Policy, Problem, node::Description};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Act, Asked, FakeNode, dropbox, good, json as answered, problem, whole};

pub const POLICY: &str = "[offers]\nimage = [\"python3\", \"shard\"]\nmemory = \"1 GiB\"\ninstalls = 8\n";

/// What all nodes have together.
#[derive(Debug, Default)]
pub struct World {
    pub drops: dropbox::State,
    /// What was spread, by the key in its recipe.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What detached invocations wrote, and how they ended.
    pub outputs: BTreeMap<String, (Vec<u8>, Value)>,
    /// Detached invocations by their methods, with their arguments.
    pub begun: Vec<(String, Value)>,
    /// How often an output is asked for before it is there.
    pub runs: usize,
    /// How the next detached invocations end: with this error.
    pub fails: Vec<String>,
    /// What a download says of shards that are lost: number, and why.
    pub lost: Vec<(u32, String)>,
    /// Addresses in the order in which shards go to them.
    pub order: Vec<String>,
    /// The first shard is said to lie in its node's conclave, where none was asked for.
    pub mixes: bool,
    /// Tokens of functions that were ended.
    pub ended: usize,
    pub renewed: usize,
    /// The next install is refused, for now.
    pub busy: bool,
    /// The nodes' policy.
    pub policy: Option<String>,
}

pub type Shared = Arc<Mutex<World>>;

/// So many nodes.
pub async fn start(count: usize) -> (Vec<FakeNode>, Shared) {
    let world = Shared::default();
    let mut nodes = Vec::new();
    for _ in 0..count {
        let world = Arc::clone(&world);
        nodes.push(FakeNode::start(move |asked| answer(&mut world.lock().unwrap(), asked)).await);
    }
    world.lock().unwrap().order = nodes.iter().map(|node| node.address.to_string()).collect();
    (nodes, world)
}

fn answer(world: &mut World, asked: &Asked) -> Vec<Act> {
    let arguments: Value = serde_json::from_str(asked.header("bento-arguments").unwrap_or("{}")).unwrap();
    let (method, path) = asked.line.split_once(' ').unwrap();
    match (method, path.split('?').next().unwrap()) {
        ("GET", "/v1/node") => answered("200 OK", &description(world)),
        ("POST", "/v1/functions") if std::mem::take(&mut world.busy) => problem(&Problem::new("busy", 503, "the node has too much to do")),
        ("DELETE", "/v1/function") => {
            world.ended += 1;
            good(asked)
        }
        ("POST", "/v1/renew") => {
            world.renewed += 1;
            answered("200 OK", &json!({"remaining": "24 h"}))
        }
        ("GET", path) if path.starts_with("/v1/output/") => output(world, path.trim_start_matches("/v1/output/")),
        ("POST", "/v1/run/get") => get(world, &asked.body[bundle(asked)..], &arguments),
        ("POST", "/v1/run/check") => check(world, &asked.body[bundle(asked)..]),
        ("POST", path) => match (path.strip_prefix("/v1/invoke/"), asked.header("bento-detach")) {
            (Some(method), Some(id)) => {
                world.begun.push((method.to_owned(), arguments.clone()));
                let (written, outcome) = detached(world, method, &arguments, &asked.body);
                world.outputs.insert(id.to_owned(), (written, outcome));
                answered("202 Accepted", &json!({ "output": id }))
            }
            _ => dropbox::answer(&mut world.drops, asked),
        },
        _ => dropbox::answer(&mut world.drops, asked),
    }
}

fn bundle(asked: &Asked) -> usize {
    asked.header("bento-bundle-length").unwrap().parse().unwrap()
}

fn description(world: &World) -> Description {
    Description {
        images: [("python3".to_owned(), vec![]), ("shard".to_owned(), vec!["zfec".to_owned(), "nacl".to_owned()])].into(),
        policy: Policy::parse(world.policy.as_deref().unwrap_or(POLICY)).unwrap(),
        ..super::description()
    }
}

fn output(world: &mut World, id: &str) -> Vec<Act> {
    let Some((written, outcome)) = world.outputs.get(id) else {
        return problem(&Problem::new("no-output", 404, "there is no output of this name; it was never begun, or was deleted"));
    };
    if let Some(left) = world.runs.checked_sub(1) {
        world.runs = left;
        let head = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nBento-Output-Bytes: 500\r\nContent-Length: 2\r\n\r\n{}";
        return vec![Act::Send(head.as_bytes().to_vec())];
    }
    let head = format!("HTTP/1.1 200 OK\r\nBento-Outcome: {outcome}\r\nContent-Length: {}\r\n\r\n", written.len());
    vec![Act::Send([head.as_bytes(), written].concat())]
}

fn detached(world: &mut World, method: &str, arguments: &Value, input: &[u8]) -> (Vec<u8>, Value) {
    let failed = |error: &str| (b"..".to_vec(), json!({"outcome": "failed", "error": error, "traceback": ""}));
    if !world.fails.is_empty() {
        return failed(&world.fails.remove(0));
    }
    let made = match method {
        "spread" => spread(world, arguments, input),
        "repair" => Ok(repair(world, arguments, serde_json::from_slice(input).unwrap())),
        _ => Err(format!("LookupError: {method}")),
    };
    match made {
        Ok(recipe) => ([vec![b'.'; 1000], serde_json::to_vec(&recipe).unwrap()].concat(), json!({"outcome": "returned"})),
        Err(error) => failed(&error),
    }
}

fn spread(world: &mut World, arguments: &Value, input: &[u8]) -> Result<Value, String> {
    let content = if input.is_empty() {
        let drop = &world.drops.drops[arguments["drop"].as_str().unwrap()];
        assert!(drop.sha256.is_some(), "it was not finished");
        drop.bytes.clone()
    } else {
        gathered(world, &serde_json::from_slice(input).unwrap())?
    };
    let count = arguments["n"].as_u64().unwrap();
    let mut nodes: Vec<String> =
        arguments["nodes"].as_array().unwrap().iter().map(|node| node["address"].as_str().unwrap().to_owned()).collect();
    nodes.sort_by_key(|node| world.order.iter().position(|own| own == node));
    let digest = HEXLOWER.encode(&Sha256::digest(&content));
    if world.mixes {
        nodes[0] += "/conclave";
    }
    let shelves: Vec<Value> = (0..count).zip(&nodes).map(|(number, node)| shelf(number, node)).collect();
    assert_eq!(shelves.len() as u64, count, "there are enough nodes");
    let recipe = json!({
        "bento_shard": 1, "mode": arguments["mode"], "n": count, "k": arguments["k"], "size": content.len(), "stripe": 1, "sha256": digest,
        "key": digest, "next": count, "shards": shelves,
    });
    world.files.insert(digest, content);
    Ok(recipe)
}

fn shelf(number: u64, node: &str) -> Value {
    let tokens = Tokens::mint().unwrap();
    let (invocation, shutdown) = (tokens.invocation.reveal(), tokens.shutdown.reveal());
    json!({"number": number, "node": node, "invocation": invocation, "shutdown": shutdown, "drop": format!("{number:032}"), "sha256": "00"})
}

fn gathered(world: &World, order: &Value) -> Result<Vec<u8>, String> {
    let (mut content, mut missing) = (Vec::new(), Vec::new());
    for (index, part) in order["parts"].as_array().unwrap().iter().enumerate() {
        match world.drops.drops.get(part["drop"].as_str().unwrap()) {
            Some(drop) if drop.sha256.as_deref() == part["sha256"].as_str() => content.extend(&drop.bytes),
            _ => missing.push(index.to_string()),
        }
    }
    if missing.is_empty() { Ok(content) } else { Err(format!("jobs.PartsMissing: {}; it is gone", missing.join(","))) }
}

fn repair(world: &mut World, arguments: &Value, mut recipe: Value) -> Value {
    let lost: Vec<u64> = std::mem::take(&mut world.lost).into_iter().map(|(number, _)| number.into()).collect();
    let shards = recipe["shards"].as_array_mut().unwrap();
    shards.retain(|shelf| !lost.contains(&shelf["number"].as_u64().unwrap()));
    let taken: Vec<String> = shards.iter().map(|shelf| shelf["node"].as_str().unwrap().to_owned()).collect();
    let more = lost.len() as u64 + arguments["more"].as_u64().unwrap();
    let next = recipe["next"].as_u64().unwrap();
    let free: Vec<String> = world.order.iter().filter(|node| !taken.contains(node)).cloned().collect();
    let fresh: Vec<Value> = (next..next + more).zip(&free).map(|(number, node)| shelf(number, node)).collect();
    recipe["shards"].as_array_mut().unwrap().extend(fresh);
    recipe["next"] = (next + more).into();
    recipe
}

fn get(world: &World, recipe: &[u8], arguments: &Value) -> Vec<Act> {
    let recipe: Value = serde_json::from_slice(recipe).unwrap();
    let content = &world.files[recipe["key"].as_str().unwrap()];
    let shards = recipe["shards"].as_array().unwrap();
    let needed = usize::try_from(recipe["k"].as_u64().unwrap()).unwrap();
    let good = shards.len() - world.lost.len();
    if good < needed {
        return dropbox::failed(&format!(
            "filling.TooFewShards: {good} shards are good, and {needed} are needed; shard 0 at x: missing: gone"
        ));
    }
    let node = |number: u32| shards.iter().find(|shelf| shelf["number"] == number).unwrap()["node"].clone();
    let lost: Vec<Value> = world.lost.iter().map(|(number, why)| json!({"number": number, "node": node(*number), "why": why})).collect();
    let mut report = json!({"k": needed, "of": shards.len(), "good": good, "lost": lost}).to_string().into_bytes();
    report.resize(usize::try_from(arguments["report"].as_u64().unwrap()).unwrap(), b' ');
    let offset = usize::try_from(arguments["offset"].as_u64().unwrap()).unwrap();
    let rest = [&content[offset..], &report].concat();
    let faults = &world.drops.faults;
    // One stream that breaks once it has sent so much.
    match faults.short && offset == 0 {
        true => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", rest.len());
            vec![Act::Send([head.as_bytes(), &rest[..rest.len() - 2000]].concat())]
        }
        false => whole(&rest),
    }
}

fn check(world: &World, recipe: &[u8]) -> Vec<Act> {
    let recipe: Value = serde_json::from_slice(recipe).unwrap();
    let why = |number: &Value| world.lost.iter().find(|(lost, _)| json!(lost) == *number).map(|(_, why)| why.clone());
    let shards: Vec<Value> = recipe["shards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shelf| {
            let why = why(&shelf["number"]);
            json!({"number": shelf["number"], "node": shelf["node"], "good": why.is_none(), "why": why})
        })
        .collect();
    let good = shards.iter().filter(|shard| shard["good"] == true).count();
    dropbox::told(&json!({"k": recipe["k"], "good": good, "shards": shards}))
}
