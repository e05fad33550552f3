//! Files in shards on several nodes, some of which die, lie or come late.

use std::{
    collections::BTreeMap,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use testnet::bento::Node;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStderr},
    task::JoinSet,
};

use crate::{
    bento::Person,
    world::{Case, Error, Outcome, World, case},
};

pub(crate) const CASES: &[Case] = &[
    case!("a_file_in_shards_outlives_two_of_its_nodes_and_a_disk_that_changes_it_and_is_repaired", nodes_die),
    case!("a_fountain_makes_more_shards_when_some_are_lost", fountain),
    case!("a_file_is_spread_though_its_client_and_the_node_that_spreads_it_are_killed", killed_and_again),
    case!("a_sensitive_upload_goes_on_where_its_client_was_killed", dripped),
];

/// What a node must offer besides, for five shards and two in place of others.
const OFFERS: &str = "installs = 8";

/// Longest wait for something that a command says.
const SAID: Duration = Duration::from_secs(90);

fn content(size: u32) -> Vec<u8> {
    (0..size).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Some nodes beside one `tor`, by what a person calls them.
struct Nodes {
    nodes: BTreeMap<String, Node>,
}

impl Nodes {
    async fn start(world: &World, person: &Person, name: &str, count: usize) -> Result<Self, Error> {
        let tor = world.shared_tor().await?;
        let started = (0..count).map(|number| async move {
            let (own, directory) = (format!("{name}{number}"), world.scratch.path().join(format!("{name}{number}")));
            Node::start_beside(&world.network, tor, &directory, &own, "tor", OFFERS).await.map(|node| (own, node))
        });
        let mut nodes = BTreeMap::new();
        for node in futures_util::future::try_join_all(started).await? {
            person.bento(&["nodes", "add", &node.0, &node.1.address]).await.good();
            nodes.insert(node.0, node.1);
        }
        Ok(Self { nodes })
    }

    /// What nobody can prepare for: it is gone from one moment to the next.
    async fn kill(&mut self, name: &str) -> Result<PathBuf, Error> {
        let node = self.nodes.remove(name).ok_or("no such node")?;
        let config = node.config.clone();
        node.program.kill().await;
        Ok(config)
    }

    /// The directory of one.
    fn state(&self, name: &str) -> PathBuf {
        self.nodes[name].config.with_file_name("state")
    }

    async fn stop(self) {
        let mut stopping: JoinSet<()> = self
            .nodes
            .into_values()
            .map(|node| async move {
                let _ = node.program.stop().await;
            })
            .collect();
        while stopping.join_next().await.is_some() {}
    }
}

/// Changes a byte in each file of some size below a directory: what a node stores in files of their own.
fn spoil(directory: &Path) -> Result<usize, Error> {
    let mut count = 0;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let found = path.metadata()?;
        if found.is_dir() {
            count += spoil(&path)?;
        } else if found.len() > 60_000 && path.extension().is_none() {
            let (file, mut byte) = (std::fs::File::options().read(true).write(true).open(&path)?, [0]);
            file.read_exact_at(&mut byte, 30_000)?;
            file.write_all_at(&[byte[0] ^ 1], 30_000)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Which nodes have the shards, in their order.
fn holders(put: &Value) -> Vec<String> {
    put["nodes"].as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// What a download met: the numbers of what was lost, each with the reason.
fn lost(got: &Value) -> BTreeMap<u64, String> {
    let all = got["lost"].as_array().into_iter().flatten();
    all.filter_map(|shard| Some((shard["number"].as_u64()?, shard["why"].as_str()?.to_owned()))).collect()
}

async fn nodes_die(world: &World) -> Outcome {
    let person = Person::new(world, "shards");
    let mut nodes = Nodes::start(world, &person, "shelf", 7).await?;
    let file = content(3_000_000);
    std::fs::write(person.home.join("report.pdf"), &file)?;
    let put = person.bento(&["shard", "put", "report.pdf", "--need", "2", "--of", "5", "--recipe", "recipe", "--json"]).await.good().json();
    let holders = holders(&put);
    assert_eq!(holders.iter().collect::<std::collections::BTreeSet<_>>().len(), 5, "{put}");

    nodes.kill(&holders[0]).await?;
    nodes.kill(&holders[1]).await?;
    let spoilt = spoil(&nodes.state(&holders[2]))?;
    assert!(spoilt > 0, "nothing to spoil");
    let got = person.bento(&["shard", "get", "recipe", "-o", "copy", "--json"]).await.good().json();
    assert!(std::fs::read(person.home.join("copy"))? == file);
    let met = lost(&got);
    assert_eq!((got["good"].as_u64(), met.keys().copied().collect::<Vec<_>>()), (Some(2), vec![0, 1, 2]), "{got}");
    assert!(met[&0].starts_with("missing: ") && met[&1].starts_with("missing: ") && met[&2].starts_with("corrupt: "), "{got}");

    let repaired = person.bento(&["shard", "repair", "recipe", "--thorough", "--json"]).await.good().json();
    assert_eq!((repaired["lost"].as_array().map(Vec::len), repaired["made"].as_array().map(Vec::len)), (Some(3), Some(3)), "{repaired}");
    let check = person.bento(&["shard", "check", "recipe", "--thorough", "--json"]).await.good().json();
    assert_eq!((check["good"].as_u64(), check["of"].as_u64()), (Some(5), Some(5)), "{check}");
    // Of the three that are left when two more die, two are new.
    let left = check["shards"].as_array().into_iter().flatten().filter_map(|shard| shard["node"].as_str());
    for name in left.take(2).map(str::to_owned).collect::<Vec<_>>() {
        nodes.kill(&name).await?;
    }
    person.bento(&["shard", "get", "recipe", "-o", "again"]).await.good();
    assert!(std::fs::read(person.home.join("again"))? == file);
    nodes.stop().await;
    Ok(())
}

async fn fountain(world: &World) -> Outcome {
    let person = Person::new(world, "fountain");
    let mut nodes = Nodes::start(world, &person, "spring", 5).await?;
    let file = content(2_500_000);
    std::fs::write(person.home.join("film"), &file)?;
    let put = person.bento(&["shard", "put", "film", "--need", "2", "--of", "4", "--mode", "fountain", "--json"]).await;
    if put.status == Some(3) && put.stderr.contains("raptorq") {
        eprintln!("testnet: SKIPPED: there is no package raptorq here (setup.sh installs it)");
        nodes.stop().await;
        return Ok(());
    }
    let put = put.good().json();
    nodes.kill(&holders(&put)[0]).await?;
    let got = person.bento(&["shard", "get", "film", "-o", "copy", "--json"]).await.good().json();
    assert!(std::fs::read(person.home.join("copy"))? == file);
    assert_eq!(lost(&got).keys().copied().collect::<Vec<_>>(), [0], "{got}");
    let repaired = person.bento(&["shard", "repair", "film", "--json"]).await.good().json();
    assert_eq!((&repaired["lost"][0]["number"], &repaired["made"][0]["number"]), (&0.into(), &4.into()), "{repaired}");
    // A new shard and one of the first.
    for name in holders(&put).into_iter().skip(1).take(2) {
        nodes.kill(&name).await?;
    }
    person.bento(&["shard", "get", "film", "-o", "again"]).await.good();
    assert!(std::fs::read(person.home.join("again"))? == file);
    nodes.stop().await;
    Ok(())
}

/// The lines that a command says.
struct Lines(tokio::io::Lines<BufReader<ChildStderr>>, Vec<String>);

impl Lines {
    fn of(child: &mut Child) -> Result<Self, Error> {
        Ok(Self(BufReader::new(child.stderr.take().ok_or("no stderr")?).lines(), Vec::new()))
    }

    /// Waits for a line that begins so.
    async fn until(&mut self, begins: &str) -> Outcome {
        let found = async {
            while let Some(line) = self.0.next_line().await? {
                self.1.push(line.clone());
                if line.starts_with(begins) {
                    return Ok(());
                }
            }
            Err(Error::from(format!("it ended without saying `{begins}`: {:?}", self.1)))
        };
        tokio::time::timeout(SAID, found).await?
    }
}

async fn killed_and_again(world: &World) -> Outcome {
    let person = Person::new(world, "spread");
    let mut nodes = Nodes::start(world, &person, "mortal", 5).await?;
    // Takes more than a second at the greatest rate that a node allows, and is made into shards in several stripes.
    let file = content(20_000_000);
    std::fs::write(person.home.join("letter"), &file)?;
    let put = ["shard", "put", "letter", "--need", "2", "--of", "4", "--progress"];
    let mut first = person.command(&put).spawn()?;
    let mut lines = Lines::of(&mut first)?;
    lines.until("sending").await?;
    first.kill().await?;

    let mut second = person.command(&put).spawn()?;
    let mut lines = Lines::of(&mut second)?;
    lines.until("all of it is there").await?;
    // The node that makes the shards begins with that now, and dies.
    let kept: Value = serde_json::from_slice(&std::fs::read(person.home.join("data/bento/shards/letter.json"))?)?;
    let address = kept["work"]["shard"]["node"].as_str().ok_or("no node")?.to_owned();
    let host = nodes.nodes.iter().find(|(_, node)| node.address == address).map(|(name, _)| name.clone()).ok_or("no host")?;
    lines.until("sent; waiting for the answer").await?;
    let config = nodes.kill(&host).await?;
    second.kill().await?;
    nodes.nodes.insert(host.clone(), Node::start_again(&host, &config).await?);
    let mut said = person.bento(&["shard", "put", "--resume", "--json"]).await;
    for _ in 0..5 {
        // Its descriptor is soon renewed.
        if said.status == Some(0) {
            break;
        }
        said = person.bento(&["shard", "put", "--resume", "--json"]).await;
    }
    let put = said.good().json();
    assert_eq!(holders(&put).len(), 4, "{put}");
    let check = person.bento(&["shard", "check", "letter", "--thorough", "--json"]).await.good().json();
    assert_eq!(check["good"].as_u64(), Some(4), "{check}");
    person.bento(&["shard", "get", "letter", "-o", "copy"]).await.good();
    assert!(std::fs::read(person.home.join("copy"))? == file);
    let gone = person.bento(&["shard", "rm", "letter", "--json"]).await.good().json();
    assert_eq!(gone["ended"].as_u64(), Some(4), "{gone}");
    // Of what was begun nothing is left anywhere: neither shards nor what made them.
    for node in nodes.nodes.values() {
        let left = std::fs::read_dir(node.config.with_file_name("state").join("functions"));
        let left = left.map(|entries| entries.count()).unwrap_or_default();
        assert_eq!(left, 0, "{}", node.address);
    }
    nodes.stop().await;
    Ok(())
}

async fn dripped(world: &World) -> Outcome {
    let person = Person::new(world, "drip");
    let nodes = Nodes::start(world, &person, "drop", 4).await?;
    let file = content(900_000);
    std::fs::write(person.home.join("papers.tar"), &file)?;
    let put = ["shard", "put", "papers.tar", "--need", "2", "--of", "3", "--over", "8s", "--each", "100000", "--progress"];
    let mut first = person.command(&put).spawn()?;
    let mut lines = Lines::of(&mut first)?;
    lines.until("upload 3 of 10 is there").await?;
    first.kill().await?;
    let list = person.bento(&["shard", "list"]).await.good().text();
    assert!(list.contains(" of 10 uploads are there; `bento shard put --resume papers.tar` goes on"), "{list}");
    let again = person.bento(&["shard", "put", "--resume", "--json"]).await.good().json();
    let seen = &again["seen"];
    assert_eq!((seen["portions"].as_u64(), seen["each"].as_u64(), &again["resumed"]), (Some(10), Some(100_000), &true.into()), "{again}");
    assert!(seen["uploads"].as_u64() >= Some(10) && seen["uploads"].as_u64() <= Some(12), "{again}");
    person.bento(&["shard", "get", "papers.tar", "-o", "copy"]).await.good();
    assert!(std::fs::read(person.home.join("copy"))? == file);
    // The Dropboxes that the uploads went to have ended: what is there are the shards.
    let check = person.bento(&["shard", "check", "papers.tar", "--json"]).await.good().json();
    assert_eq!(check["good"].as_u64(), Some(3), "{check}");
    person.bento(&["shard", "rm", "papers.tar"]).await.good();
    nodes.stop().await;
    Ok(())
}
