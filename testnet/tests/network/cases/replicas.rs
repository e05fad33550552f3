//! A site whose load is spread over replicas on other nodes, as a person has it: `bento balance`.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bento_tor::{Isolation, Socks};
use serde_json::Value;
use testnet::bento::Node;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use crate::{
    bento::Person,
    world::{Case, Error, Outcome, STREAM_DEADLINE, World, case},
};

pub(crate) const CASES: &[Case] = &[case!("a_site_is_served_by_replicas_that_come_with_its_load_and_one_that_is_killed_is_out", served)];

/// What nodes offer besides, so that functions can have onion services and replicas elsewhere.
const OFFERS: &str = "calls = [\"store.*\", \"nodes.*\", \"tor.*\"]\nonion_services = 4\n";

/// How long the next thing may take: a replica is installed, its onion service and then the front published.
const STEP_DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

async fn served(world: &World) -> Outcome {
    let home = |name: &str| world.scratch.path().join(format!("balance-{name}"));
    let (a, b, c) = (home("a"), home("b"), home("c"));
    let connect = "connect = [\"accept *:*\"]\n";
    let offers = format!("{OFFERS}{connect}");
    let start = async |directory: &Path, name: &str| Node::start(&world.network, directory, name, "tor", &offers).await;
    let (a, b, c) = tokio::try_join!(start(&a, "Front"), start(&b, "Left"), start(&c, "Right"))?;
    let person = Person::new(world, "balance");
    for (name, node) in [("front", &a), ("left", &b), ("right", &c)] {
        person.bento(&["nodes", "add", name, &node.address]).await.good();
    }
    let site = person.home.join("site");
    fs::create_dir_all(&site)?;
    fs::write(site.join("index.html"), "<h1>spread</h1>")?;
    let up = person
        .bento(&["balance", "up", "--site", "site", "--node", "front", "--connections", "2", "--up", "1s", "--most", "2", "--json"])
        .await
        .good()
        .json();
    let address = up["address"].as_str().ok_or("an address")?.to_owned();
    let told = until(&person, |told| serving(told) == 1).await?;
    let first = told["replicas"][0]["name"].as_str().unwrap_or_default().to_owned();
    assert_eq!(page(&world.socks(), &address, 0).await?, "<h1>spread</h1>");

    // Two connections are what it is meant for: one more replica comes.
    let mut held = Vec::new();
    for number in 0..2 {
        held.push(opened(&world.socks(), &address, number + 100).await?);
    }
    let told = until(&person, |told| serving(told) == 2).await?;
    assert!(told["events"].to_string().contains("above 80%"), "{told}");
    let nodes: BTreeSet<&str> = told["replicas"].as_array().into_iter().flatten().filter_map(|one| one["node"].as_str()).collect();
    assert_eq!(nodes, BTreeSet::from([b.address.as_str(), c.address.as_str()]));
    drop(held);

    // The node of the first is killed: it is out.
    let victim = told["replicas"].as_array().into_iter().flatten().find(|one| one["name"] == *first).ok_or("the first")?;
    let (victim, other) = if victim["node"] == *b.address { (b, c) } else { (c, b) };
    let killed = Instant::now();
    drop(victim);
    until(&person, |told| serving(told) == 1 && !told["replicas"].to_string().contains("\"draining\"")).await?;
    eprintln!("testnet: a killed replica was out of the front after {:.1} s", killed.elapsed().as_secs_f32());
    drop((a, other));
    Ok(())
}

fn serving(told: &Value) -> usize {
    told["replicas"].as_array().into_iter().flatten().filter(|one| one["state"] == "serving").count()
}

/// Asks until it is so.
async fn until(person: &Person, is_so: impl Fn(&Value) -> bool) -> Result<Value, Error> {
    let end = Instant::now() + STEP_DEADLINE;
    loop {
        let told = person.bento(&["balance", "status", "--json"]).await.good().json();
        if is_so(&told) {
            return Ok(told);
        }
        if Instant::now() > end {
            return Err(format!("it did not come to that: {told:#}").into());
        }
        sleep(LOOK).await;
    }
}

/// Connects as a client of its own, and asks for the page without reading it.
async fn opened(socks: &Socks, address: &str, client: usize) -> Result<bento_tor::Stream, Error> {
    let end = Instant::now() + STEP_DEADLINE;
    for attempt in 0.. {
        let isolation = Isolation::new(&format!("{address} {client} {attempt}"));
        match socks.connect(address, 80, &isolation, STREAM_DEADLINE).await {
            Ok(mut stream) => {
                stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
                return Ok(stream);
            }
            Err(error) if Instant::now() > end || !error.is_passing() => return Err(error.into()),
            Err(_) => sleep(LOOK).await,
        }
    }
    Err("no attempt was made".into())
}

async fn page(socks: &Socks, address: &str, client: usize) -> Result<String, Error> {
    let mut stream = opened(socks, address, client).await?;
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("</h1>") {
        match tokio::time::timeout(STREAM_DEADLINE, stream.read(&mut buffer)).await?? {
            0 => return Err(format!("it ended early: {text}").into()),
            count => text += &String::from_utf8_lossy(&buffer[..count]),
        }
    }
    Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
