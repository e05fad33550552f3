//! `bento balance` as a person runs it, against nodes that answer as the function does, lead or stand by, leave replicas, and are gone.
//! `functions/load-balancer/tests` and `testnet/tests` have the real function.
#![cfg(test)]

mod fake;

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard},
};

use fake::{
    Act, Asked, FakeNode, good,
    home::{Home, text},
    json, streamed,
};
use serde_json::{Value, json};

const KEY: &str = "ED25519-V3:QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl9AQUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVpbXF1eXw==";

/// What one load balancer says of itself, and what it was told.
#[derive(Default)]
struct Balancer {
    running: bool,
    leads: bool,
    ended: Option<bool>,
    left: Vec<&'static str>,
    gone: bool,
    setup: Option<(Value, Vec<u8>)>,
    refuses_setup: bool,
}

impl Balancer {
    fn answer(&mut self, asked: &Asked) -> Vec<Act> {
        if self.gone {
            return Vec::new();
        }
        let said = |value: Value| streamed(&[format!("{value}\n").as_bytes()], r#"{"outcome":"returned"}"#);
        let arguments = || serde_json::from_str::<Value>(asked.header("bento-arguments").unwrap_or("{}")).unwrap();
        match asked.line.as_str() {
            "POST /v1/invoke/setup" if self.refuses_setup => {
                streamed(&[], r#"{"outcome":"failed","error":"ValueError: this cannot be served","traceback":""}"#)
            }
            "POST /v1/invoke/setup" => {
                let end = asked.body.iter().position(|byte| *byte == b'\n').unwrap();
                let wanted: Value = serde_json::from_slice(&asked.body[..end]).unwrap();
                self.setup = Some((json!({"key": wanted["key"], "arguments": arguments()}), asked.body[end + 1..].to_vec()));
                said(json!({"address": "front.onion", "key": KEY}))
            }
            "POST /v1/invoke/run" => {
                assert!(asked.header("bento-detach").is_some(), "it runs on by itself");
                self.running = true;
                json("202 Accepted", &json!({}))
            }
            "POST /v1/invoke/status" => said(json!({
                "running": self.running, "address": "front.onion", "time": 100.0, "leads": self.leads, "term": 2, "front": {"stored": 8},
                "replicas": [{"name": "replica-1", "node": "n.onion", "state": "serving", "load": 0.25, "connections": 2, "accepted": 9,
                    "bytes": 1000, "rate": 10, "weight": 8}],
                "decision": {"act": "hold", "why": "mean load 25% over 1"}, "events": [],
            })),
            "POST /v1/invoke/end" => {
                self.running = false;
                self.ended = arguments()["replicas"].as_bool();
                said(json!({ "left": self.left }))
            }
            _ => good(asked),
        }
    }
}

/// A person with a site and two nodes in their list.
struct Place {
    home: Home,
    balancers: [Arc<Mutex<Balancer>>; 2],
    nodes: Vec<FakeNode>,
    _runtime: tokio::runtime::Runtime,
}

impl Place {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let balancers: [Arc<Mutex<Balancer>>; 2] = Default::default();
        let nodes: Vec<FakeNode> = balancers
            .iter()
            .map(|balancer| {
                let balancer = Arc::clone(balancer);
                runtime.block_on(FakeNode::start(move |asked| balancer.lock().unwrap().answer(asked)))
            })
            .collect();
        let home = Home::new();
        for (name, node) in ["anna", "bert"].iter().zip(&nodes) {
            home.good(&["nodes", "add", name, &node.address.to_string()]);
        }
        fs::create_dir(home.path("site")).unwrap();
        fs::write(home.path("site/index.html"), "<h1>Hello").unwrap();
        balancers[0].lock().unwrap().leads = true;
        Self { home, balancers, nodes, _runtime: runtime }
    }

    fn balancer(&self, number: usize) -> MutexGuard<'_, Balancer> {
        self.balancers[number].lock().unwrap()
    }

    fn lines(&self, number: usize) -> Vec<String> {
        self.nodes[number].asked.lock().unwrap().iter().map(|asked| asked.line.clone()).collect()
    }

    fn up(&self, more: &[&str]) -> String {
        self.home.good(&[&["balance", "up", "--site", "site", "--node", "anna"], more].concat())
    }
}

#[test]
fn a_load_balancer_is_set_up_shown_and_ended() {
    let place = Place::new();
    let said = place.up(&["--most", "3", "--connections", "5", "--up", "2 s"]);
    assert!(said.contains("load-balancer serves http://front.onion/"), "{said}");
    let (setup, site) = place.balancer(0).setup.clone().unwrap();
    assert_eq!(setup["key"], Value::Null);
    assert_eq!(setup["arguments"]["plan"], json!({"most": 3, "connections": 5, "up_seconds": 2.0}));
    assert_eq!(setup["arguments"]["nodes"], json!([place.nodes[1].address.to_string()]), "its own node is for no replica");
    assert!(setup["arguments"].get("peer").is_none());
    assert!(site.windows(9).any(|window| window == b"<h1>Hello"));
    // The key that was made is kept, for this person alone.
    let file = place.home.path(".local/share/bento/fronts/load-balancer.key");
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), KEY);
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap()) & 0o777, 0o600);

    let table = place.home.good(&["balance", "status"]);
    assert!(table.contains("replica-1  serving  25 %") && table.contains("hold: mean load 25% over 1"), "{table}");
    assert_eq!(place.home.json(&["balance", "status"])["replicas"][0]["connections"], 2);
    let again = place.home.run(&["balance", "up", "--name", "load-balancer"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("runs already"));

    assert!(place.home.good(&["balance", "down"]).contains("Ended load-balancer."));
    assert_eq!(place.balancer(0).ended, Some(true));
    assert!(!place.home.kept().contains("load-balancer"));
    let none = place.home.run(&["balance", "status"]);
    assert!(none.status.code() == Some(2) && text(&none.stderr).contains("there is no load balancer"));
}

#[test]
fn what_could_not_be_ended_is_named_and_left_only_where_that_is_wanted() {
    let place = Place::new();
    place.up(&[]);
    place.balancer(0).left = vec!["replica-2", "replica-3\u{1b}[2J"];
    let down = place.home.run(&["balance", "down"]);
    let said = text(&down.stderr);
    assert_eq!(down.status.code(), Some(6), "{said}");
    assert!(said.contains("could not be ended: replica-2, replica-3[2J") && said.contains("--force"), "{said}");
    assert!(place.home.kept().contains("load-balancer") && !place.lines(0).contains(&"DELETE /v1/function".to_owned()));
    place.home.good(&["balance", "down", "--force"]);
    assert!(!place.home.kept().contains("load-balancer") && place.lines(0).contains(&"DELETE /v1/function".to_owned()));
}

#[test]
fn a_standby_knows_the_key_and_the_other_and_is_asked_when_the_first_does_not_publish() {
    let place = Place::new();
    place.up(&["--standby", "bert", "--on", "anna"]);
    let (first, second) = (place.balancer(0).setup.clone().unwrap().0, place.balancer(1).setup.clone().unwrap().0);
    assert_eq!((&first["key"], &second["key"]), (&Value::Null, &json!(KEY)));
    assert_eq!((&first["arguments"]["first"], &second["arguments"]["first"]), (&json!(true), &json!(false)));
    let other = |setup: &Value| setup["arguments"]["peer"]["node"].clone();
    assert_eq!((other(&first), other(&second)), (json!(place.nodes[1].address.to_string()), json!(place.nodes[0].address.to_string())));
    assert!(place.balancer(0).running && place.balancer(1).running);
    // No shutdown token goes from the one to the other.
    assert_eq!(first["arguments"]["peer"].as_object().unwrap().keys().collect::<Vec<_>>(), ["invocation", "node"]);

    let asked = |number: usize| place.lines(number).iter().filter(|line| line.ends_with("/status")).count();
    assert!(place.home.good(&["balance", "status"]).starts_with("load-balancer at front.onion"));
    assert_eq!((asked(0), asked(1)), (1, 0));
    (place.balancer(0).leads, place.balancer(1).leads) = (false, true);
    assert!(place.home.good(&["balance", "status"]).starts_with("load-balancer-standby at front.onion"));

    place.home.good(&["balance", "down"]);
    assert_eq!((place.balancer(1).ended, place.balancer(0).ended), (Some(false), Some(true)), "one of both ends the replicas");
    assert!(!place.home.kept().contains("load-balancer"));
}

#[test]
fn a_standby_on_the_same_node_is_refused_and_one_that_cannot_be_set_up_leaves_nothing() {
    let place = Place::new();
    let same = place.home.run(&["balance", "up", "--site", "site", "--node", "anna", "--standby", "anna"]);
    assert!(same.status.code() == Some(2) && text(&same.stderr).contains("the same node"), "{}", text(&same.stderr));
    assert!(place.lines(0).is_empty(), "nothing was installed: {:?}", place.lines(0));

    place.balancer(1).refuses_setup = true;
    let failed = place.home.run(&["balance", "up", "--site", "site", "--node", "anna", "--standby", "bert", "--on", "anna"]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stderr));
    for number in 0..2 {
        assert!(place.lines(number).contains(&"DELETE /v1/function".to_owned()), "{:?}", place.lines(number));
    }
    assert!(!place.home.kept().contains("load-balancer"));
}

#[test]
fn the_standby_ends_the_replicas_where_the_first_is_gone() {
    let place = Place::new();
    place.up(&["--standby", "bert", "--on", "anna"]);
    place.balancer(0).gone = true;
    place.balancer(1).leads = true;
    assert!(place.home.good(&["balance", "status"]).starts_with("load-balancer-standby at front.onion"));
    let down = place.home.run(&["balance", "down"]);
    assert_eq!(down.status.code(), Some(6), "{}", text(&down.stderr));
    assert_eq!(place.balancer(1).ended, Some(true));
    assert!(place.home.kept().contains("load-balancer") && !place.home.kept().contains("load-balancer-standby"));
    place.home.good(&["balance", "down", "--force"]);
    assert!(!place.home.kept().contains("load-balancer"));
}
