//! A site whose load is spread over replicas on other nodes, as a person has it: `bento balance`.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant, SystemTime},
};

use bento_tor::{Isolation, Socks, Stream};
use serde_json::Value;
use testnet::{bento::Node, binary};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::{sleep, timeout},
};

use super::balance::forget;
use crate::{
    bento::Person,
    world::{Case, Error, Outcome, STREAM_DEADLINE, World, case},
};

pub(crate) const CASES: &[Case] = &[
    case!("a_site_is_served_by_as_many_replicas_as_its_load_needs_and_none_is_left_at_its_end", served),
    case!("clients_get_through_again_when_a_replicas_node_is_killed_and_the_end_is_told_what_is_left", killed),
    case!("a_standby_publishes_when_the_publishers_node_is_killed_and_who_comes_back_stands_by", taken_over),
];

/// What nodes offer besides, so that functions can have onion services and replicas elsewhere.
const OFFERS: &str = "calls = [\"store.*\", \"nodes.*\", \"tor.*\"]\nonion_services = 4\nconnect = [\"accept *:*\"]\n";

/// How long the next thing may take: a replica is installed, its onion service and then the front published.
const STEP_DEADLINE: Duration = Duration::from_secs(90);

/// How long a new client may take to get through, with other tests beside it.
const FAILOVER: Duration = Duration::from_secs(20);

/// How long the end may take with a node that is not reached.
const END: Duration = Duration::from_secs(100);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Exit status of `bento`: a node does not do what it should.
const UNREACHED: i32 = 6;

/// Some nodes, and a person who has them in their list under these names.
struct Place {
    person: Person,
    nodes: Vec<Node>,
}

impl Place {
    async fn new(world: &World, name: &str, names: &[&str]) -> Result<Self, Error> {
        let home = |node: &str| world.scratch.path().join(format!("{name}-{node}"));
        let start = async |node: &str| Node::start(&world.network, &home(node), node, "tor", OFFERS).await;
        let nodes = futures_util::future::try_join_all(names.iter().map(|node| start(node))).await?;
        let person = Person::new(world, name);
        for (name, node) in names.iter().zip(&nodes) {
            person.bento(&["nodes", "add", name, &node.address]).await.good();
        }
        let site = person.home.join("site");
        fs::create_dir_all(&site)?;
        fs::write(site.join("index.html"), "<h1>spread</h1>")?;
        Ok(Self { person, nodes })
    }

    /// Begins, and gives the address once a replica serves.
    async fn up(&self, more: &[&str]) -> Result<String, Error> {
        let words =
            [&["balance", "up", "--site", "site", "--connections", "4", "--up", "1s", "--down", "2s", "--most", "2", "--json"], more]
                .concat();
        let up = self.person.bento(&words).await.good().json();
        // Several that are begun together may be named together.
        self.until(|told| serving(told) >= 1).await?;
        Ok(up["address"].as_str().ok_or("an address")?.to_owned())
    }

    /// Asks until it is so.
    async fn until(&self, is_so: impl Fn(&Value) -> bool) -> Result<Value, Error> {
        let end = Instant::now() + STEP_DEADLINE;
        loop {
            let said = self.person.bento(&["balance", "status", "--json"]).await;
            let told = if said.status == Some(0) { said.json() } else { said.stderr.clone().into() };
            if is_so(&told) {
                return Ok(told);
            }
            if Instant::now() > end {
                return Err(format!("it did not come to that: {told:#}").into());
            }
            sleep(LOOK).await;
        }
    }

    fn node(&self, address: &Value) -> Result<usize, Error> {
        Ok(self.nodes.iter().position(|node| *address == *node.address).ok_or("a node")?)
    }

    /// How many functions each node has.
    async fn functions(&self) -> Result<Vec<u64>, Error> {
        let mut counts = Vec::new();
        for node in &self.nodes {
            let told = Command::new(binary("bentod")?).arg("status").arg("--config").arg(&node.config).output().await?;
            let told = String::from_utf8_lossy(&told.stdout).into_owned();
            let line = told.lines().find_map(|line| line.strip_prefix("functions ")).ok_or(format!("bentod status: {told}"))?;
            counts.push(line.split_whitespace().next().ok_or("a number")?.parse()?);
        }
        Ok(counts)
    }

    async fn stop(self) {
        for node in self.nodes {
            node.program.stop().await;
        }
    }
}

async fn served(world: &World) -> Outcome {
    let place = Place::new(world, "balance", &["front", "left", "right"]).await?;
    let address = place.up(&["--node", "front"]).await?;
    assert_eq!(page(&world.socks(), &address, 0).await?, "<h1>spread</h1>");

    // Four connections are what a replica is meant for: one more comes, on another node.
    let mut held = Vec::new();
    for number in 0..4 {
        held.push(opened(&world.socks(), &address, number + 100).await?);
    }
    let told = place.until(|told| serving(told) == 2).await?;
    assert!(told["events"].to_string().contains("above 80%"), "{told}");
    let nodes: BTreeSet<&str> = told["replicas"].as_array().into_iter().flatten().filter_map(|one| one["node"].as_str()).collect();
    assert_eq!(nodes, BTreeSet::from([place.nodes[1].address.as_str(), place.nodes[2].address.as_str()]));
    assert_eq!(place.functions().await?, [1, 1, 1]);

    // One connection is left, at the first: it is the second that goes.
    let mut last = held.pop().ok_or("a connection")?;
    drop(held);
    let told = place.until(|told| told["replicas"].as_array().is_some_and(|all| all.len() == 1)).await?;
    assert_eq!((told["replicas"][0]["name"].as_str(), told["replicas"][0]["connections"].as_u64()), (Some("replica-1"), Some(1)));
    assert!(told["events"].to_string().contains("replica-2 is retired"), "{told}");
    assert_eq!(place.functions().await?.iter().sum::<u64>(), 2);
    assert_eq!(read(&mut last).await?, "<h1>spread</h1>", "what it was sent first");
    last.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    assert_eq!(read(&mut last).await?, "<h1>spread</h1>", "it serves on");

    // The end ends it, whoever is connected.
    place.person.bento(&["balance", "down"]).await.good();
    assert_eq!(place.functions().await?, [0, 0, 0]);
    assert_eq!(place.person.bento(&["balance", "status"]).await.status, Some(2), "there is none any more");
    place.stop().await;
    Ok(())
}

async fn killed(world: &World) -> Outcome {
    let mut place = Place::new(world, "balance-killed", &["front", "left", "right"]).await?;
    let address = place.up(&["--node", "front", "--least", "2"]).await?;
    let told = place.until(|told| serving(told) == 2).await?;
    // Both are under load, and clients know both.
    let visitor = world.client("balance-visitor").await?;
    let mut held = Vec::new();
    for number in 0..4 {
        held.push(opened(&visitor.socks(), &address, number + 100).await?);
    }
    let victim = place.node(&told["replicas"][0]["node"])?;
    let (began, killed) = (Instant::now(), SystemTime::now());
    place.nodes[victim].program.kill().await;
    let old = async { through(&visitor.socks(), &address, 200).await };
    let out = async {
        place.until(|told| serving(told) == 1 && happened(told, killed, "the front names 1 of 1 replicas")).await?;
        Ok::<_, Error>(began.elapsed())
    };
    let (old, out) = tokio::try_join!(old, out)?;
    forget(&visitor.control()).await?;
    let new = through(&visitor.socks(), &address, 300).await?;
    let (out, old, new) = (out.as_secs_f32(), old.as_secs_f32(), new.as_secs_f32());
    eprintln!(
        "testnet: after kill -9 of a replica's node it was out of the front after {out:.1} s; the slowest of 6 clients that knew it got through after {old:.1} s, of 6 new ones after {new:.1} s"
    );
    // One that takes an introduction point of a machine that vanished waits for it as long as its Tor, or here its own deadline, has it.
    assert!(old < 2.0 * STREAM_DEADLINE.as_secs_f32() && new < FAILOVER.as_secs_f32(), "{old} {new}");

    // There is no other node for it, and it is not reached: the end comes all the same, and says so.
    let asked = Instant::now();
    let said = place.person.bento(&["balance", "down"]).await;
    let taken = asked.elapsed();
    eprintln!("testnet: the end took {:.1} s with one node gone", taken.as_secs_f32());
    assert!(
        said.status == Some(UNREACHED) && said.stderr.contains("replica-") && said.stderr.contains("--force"),
        "{:?} {}",
        said.status,
        said.stderr
    );
    assert!(taken < END, "{taken:?}");

    // Its node comes back, with the replica in it.
    let config = place.nodes[victim].config.clone();
    place.nodes[victim] = Node::start_again("again", &config).await?;
    assert_eq!(place.functions().await?[victim], 1);
    let end = Instant::now() + STEP_DEADLINE * 2;
    loop {
        let said = place.person.bento(&["balance", "down"]).await;
        if said.status == Some(0) {
            break;
        }
        // It has to be found again first.
        assert!(said.status == Some(UNREACHED) && Instant::now() < end, "{:?} {}", said.status, said.stderr);
    }
    assert_eq!(place.functions().await?, [0, 0, 0]);
    drop(held);
    place.stop().await;
    Ok(())
}

async fn taken_over(world: &World) -> Outcome {
    let mut place = Place::new(world, "balance-standby", &["front", "second", "left", "right"]).await?;
    let address = place.up(&["--node", "front", "--standby", "second"]).await?;
    assert_eq!(page(&world.socks(), &address, 0).await?, "<h1>spread</h1>");
    let leads = async |name: &str| {
        let told = place.person.bento(&["invoke", name, "status"]).await.good().json();
        Ok::<_, Error>((told["running"] == true, told["leads"] == true, told["term"].as_u64()))
    };
    assert_eq!(leads("load-balancer").await?, (true, true, Some(1)));
    assert_eq!(leads("load-balancer-standby").await?, (true, false, Some(1)));
    assert_eq!(place.functions().await?.iter().sum::<u64>(), 3);

    // The publisher's node is gone: the replica serves on, and the standby publishes what changes from then on.
    let began = Instant::now();
    place.nodes[0].program.kill().await;
    assert_eq!(page(&world.socks(), &address, 1).await?, "<h1>spread</h1>");
    place.until(|told| told["leads"] == true && told["term"] == 2 && serving(told) == 1).await?;
    eprintln!("testnet: the standby published {:.1} s after kill -9 of the publisher's node", began.elapsed().as_secs_f32());
    let mut held = Vec::new();
    for number in 0..4 {
        held.push(opened(&world.socks(), &address, number + 100).await?);
    }
    let told = place.until(|told| serving(told) == 2).await?;
    assert_eq!(told["front"]["missing"], serde_json::json!({}));
    // Somebody who has never been there finds it.
    let stranger = world.client("balance-stranger").await?;
    assert_eq!(page(&stranger.socks(), &address, 0).await?, "<h1>spread</h1>");
    drop(held);

    // The node comes back. The other has it run again, and it stands by.
    let config = place.nodes[0].config.clone();
    place.nodes[0] = Node::start_again("again", &config).await?;
    let end = Instant::now() + STEP_DEADLINE * 2;
    loop {
        let said = place.person.bento(&["invoke", "load-balancer", "status"]).await;
        if said.status == Some(0) && said.json()["running"] == true && said.json()["term"] == 2 {
            assert_eq!(said.json()["leads"], false);
            break;
        }
        assert!(Instant::now() < end, "it does not come back: {:?} {} {}", said.status, said.text(), said.stderr);
        sleep(LOOK).await;
    }
    place.until(|told| told["leads"] == true && told["term"] == 2).await?;
    place.person.bento(&["balance", "down"]).await.good();
    assert_eq!(place.functions().await?, [0, 0, 0, 0]);
    place.stop().await;
    Ok(())
}

fn serving(told: &Value) -> usize {
    told["replicas"].as_array().into_iter().flatten().filter(|one| one["state"] == "serving").count()
}

/// Has this happened since then?
fn happened(told: &Value, since: SystemTime, text: &str) -> bool {
    let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut events = told["events"].as_array().into_iter().flatten();
    events
        .any(|event| event["time"].as_f64().is_some_and(|time| time > since) && event["text"].as_str().is_some_and(|it| it.contains(text)))
}

/// Connects as a client of its own, and asks for the page without reading it.
async fn opened(socks: &Socks, address: &str, client: usize) -> Result<Stream, Error> {
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

/// How long the slowest of some clients takes to get the page, each on circuits of its own.
async fn through(socks: &Socks, address: &str, first: usize) -> Result<Duration, Error> {
    let mut slowest = Duration::ZERO;
    for number in first..first + 6 {
        let asked = Instant::now();
        assert_eq!(page(socks, address, number).await?, "<h1>spread</h1>");
        slowest = slowest.max(asked.elapsed());
    }
    Ok(slowest)
}

/// Gets the page, again if a stream that was opened brings nothing.
async fn page(socks: &Socks, address: &str, client: usize) -> Result<String, Error> {
    let end = Instant::now() + STEP_DEADLINE;
    loop {
        let read = async { read(&mut opened(socks, address, client).await?).await }.await;
        if read.is_ok() || Instant::now() > end {
            return read;
        }
    }
}

/// Reads one answer.
async fn read(stream: &mut Stream) -> Result<String, Error> {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("</h1>") {
        match timeout(STREAM_DEADLINE, stream.read(&mut buffer)).await?? {
            0 => return Err(format!("it ended early: {text}").into()),
            count => text += &String::from_utf8_lossy(&buffer[..count]),
        }
    }
    Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
