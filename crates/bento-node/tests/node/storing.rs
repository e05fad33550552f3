//! What the node computes for a function's store is in the function's account.

use bento_proto::Bound;

use crate::support::{Node, POLICY, installed_at};

const CODE: &str = r#"
import time

def fill(api, count):
    for number in range(count):
        api.store.put(f"{number % 7}/{number:05}", b"")

def watch(api, rounds):
    # As a function does that looks after an index: it changes something and looks again.
    for number in range(rounds):
        api.store.put(f"0/new {number}", b"")
        next(api.store.list("0/"))
        next(api.store.list("1/"))
    api.output.write(str(time.process_time()).encode())

def burn(api):
    # Each of these was never asked for before, so that all names are looked at.
    number = 0
    while True:
        number += 1
        for entry in api.store.list(f"{number}/"):
            break
        if number % 50 == 0:
            api.output.write(f"{time.process_time()} ".encode())
"#;

#[tokio::test]
async fn who_has_the_node_look_through_a_large_store_pays_for_it_and_who_looks_where_it_looked_before_does_not() {
    let node = Node::start(POLICY, "");
    let needs = "storage = \"4 MiB\"\ncpu = \"6 s\"\ncalls = [\"store.*\"]";
    let function = installed_at(node.address, needs, CODE).await;
    assert!(function.invoke("fill", "{\"count\": 1000}").await.whole);
    let before = function.status().await.cpu_used;
    let watched = function.invoke("watch", "{\"rounds\": 300}").await;
    assert!(watched.whole, "{:?}", watched.trailer);
    let watching = function.status().await.cpu_used.as_millis() - before.as_millis();
    assert!(watching < 2000, "{watching} ms");
    let burnt = function.invoke("burn", "{}").await;
    assert_eq!(burnt.trailer, Some(bento_proto::Outcome::Killed { bound: Bound::Cpu }));
    // Its own part of it, as it saw it last, was the least of it.
    let own = String::from_utf8_lossy(&burnt.body).split_whitespace().next_back().map_or(0.0, |text| text.parse::<f64>().unwrap());
    assert!(own < 4.0, "{own} s");
    assert!(function.status().await.cpu_used.as_millis() >= 6000);
    assert_eq!(function.invoke("watch", "{\"rounds\": 1}").await.code(), "spent");
}
