//! The standard function `shard` from the client's side: a file on several nodes, of which any few rebuild it.
//!
//! What is spread is a drop as [`Dropbox`] takes it: encrypted here, under a key that no node learns. The function splits it, seals each
//! shard once more, and keeps them in Dropboxes on other nodes. Nothing here keeps anything: recipes are the caller's to remember.

mod drip;
mod recipe;

use std::time::Duration;

use bento_proto::{InvocationToken, Outcome, Size, Span, bundle::Bundle};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Client, ClientError, DropId, Dropbox, Fetched, Input, NodeAddress, Output, OutputId, Standard, Taker, Tokens,
    dropbox::{call, whole_mib},
    json,
    standard::needing,
};

pub use drip::{Drip, Next, Portion};
pub use recipe::{Mode, Recipe, RecipeError, SealedFile, Shards, Shelf, Split};

/// Bytes of the dots that come before an answer, and tell how far the function is.
const MARKS: u64 = 1000;

/// Longest answer with a recipe: what the function reads of one.
const RECIPE_BYTES_MAX: u64 = 256 << 10;

/// Bytes that a shard takes on its node besides itself, as `functions/shard/shelves.py` counts them.
const SPARE: u64 = 16 << 10;

/// Longest piece of a shard, whose rest may be filled up.
const PIECE_BYTES_MAX: u64 = 1 << 20;

/// How long a function that only fetches or looks may live.
const VISIT: Span = Span::seconds(6 * 3600);

/// Shard, installed on a node.
#[derive(Clone, Debug)]
pub struct Shard {
    /// The way there.
    pub client: Client,
    /// Where.
    pub node: NodeAddress,
    /// The right to use it.
    pub token: InvocationToken,
}

/// Where shards may go.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    /// Nodes to choose from.
    pub nodes: Vec<Candidate>,
    /// Of these, those that come last.
    pub avoid: Vec<NodeAddress>,
}

/// A node that a shard may go to.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its address.
    pub address: NodeAddress,
    /// Whose it is, where that is known: of each operator one node is taken before any has a second.
    pub operator: Option<String>,
}

impl Candidates {
    fn has_conclaves(&self) -> bool {
        self.nodes.iter().any(|node| node.address.is_conclave())
    }

    fn arguments(&self) -> (Value, Value) {
        let nodes = self.nodes.iter().map(|node| json!({"address": node.address.to_string(), "operator": node.operator})).collect();
        (nodes, self.avoid.iter().map(ToString::to_string).collect())
    }
}

/// A Dropbox in which parts of a file are left, for Shard to gather them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Intake {
    /// Its node.
    pub node: NodeAddress,
    /// Its tokens.
    pub tokens: Tokens,
}

/// How far something is that goes on without its client.
#[derive(Debug)]
pub enum Progress {
    /// So many thousandths of it are done.
    Running(u64),
    /// It is done.
    Done(Box<Shards>),
    /// Its node was stopped meanwhile: asked for again, it goes on.
    Stopped,
}

/// What a look at the shards found.
#[derive(Clone, Debug, Deserialize)]
pub struct Checked {
    /// How many are needed.
    pub k: u32,
    /// How many are good.
    pub good: usize,
    /// Each of them.
    pub shards: Vec<CheckedShard>,
}

/// What a look at one shard found.
#[derive(Clone, Debug, Deserialize)]
pub struct CheckedShard {
    /// Its number.
    pub number: u32,
    /// Its node.
    pub node: String,
    /// Is it there?
    pub good: bool,
    /// Why it is not.
    pub why: Option<String>,
}

/// Which shards a download met that are missing or corrupt.
#[derive(Clone, Debug, Deserialize)]
pub struct Lost {
    /// How many are needed,
    pub k: u32,
    /// how many there should be,
    pub of: usize,
    /// and how many of them are good, as far as they were looked at.
    pub good: usize,
    /// The others.
    pub lost: Vec<LostShard>,
}

/// A shard that could not be had.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LostShard {
    /// Its number.
    pub number: u32,
    /// Its node.
    pub node: String,
    /// What is wrong with it.
    pub why: String,
}

/// How a file is put together of its shards, for [`Download`](crate::Download).
#[derive(Clone, Debug)]
pub struct Rebuild {
    /// The way to the node that does it.
    pub client: Client,
    /// That node.
    pub node: NodeAddress,
    /// Bytes of the file as it was spread.
    pub(crate) size: u64,
    bundle: Bundle,
    shards: Bytes,
    /// Does any shard lie in a conclave?
    conclaves: bool,
    report: usize,
}

/// What Shard needs of a node.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes of the file as it is spread.
    pub size: u64,
    /// How it is split.
    pub split: Split,
    /// How long the shards are kept.
    pub keep: Span,
    /// How many shards are made.
    pub made: u32,
    /// How many functions it may have elsewhere: one for each of them, and others in place of some. It asks for no more traffic with more of these,
    /// since what it asks for each of the others asks for as well.
    pub installs: u32,
}

impl Load {
    /// Bytes of one shard, at most.
    fn shard(&self) -> u64 {
        let need = u64::from(self.split.need.max(1));
        // Each piece has a tag, and is filled up to whole bytes, or symbols with two of them to spare in each stripe.
        let plain = self.size.div_ceil(need) + PIECE_BYTES_MAX.min(self.size / 8 + 8192);
        let symbols = if self.split.mode == Mode::Fountain { plain / 16 } else { 0 };
        plain + plain / 512 + symbols + SPARE
    }

    /// Shard with room for this.
    ///
    /// # Errors
    /// When that makes no bundle.
    pub fn shard_bundle(&self) -> Result<Bundle, ClientError> {
        let shards = self.shard().saturating_mul(u64::from(self.made));
        self.bundle(self.size, self.size.saturating_add(shards))
    }

    /// Shard with room to make up lost shards of this. `thorough`: all shards are read to see whether they are good; else their nodes are
    /// believed.
    ///
    /// # Errors
    /// When that makes no bundle.
    pub fn repair_bundle(&self, thorough: bool) -> Result<Bundle, ClientError> {
        let looked_at = if thorough { self.split.of } else { 0 };
        let shards = self.shard().saturating_mul(u64::from(looked_at) + u64::from(self.made));
        // What is read goes on to the new shards; and is read once more if another shard turns out to be lost meanwhile.
        self.bundle(0, self.size.saturating_mul(2).saturating_add(shards))
    }

    fn bundle(&self, stored: u64, passed: u64) -> Result<Bundle, ClientError> {
        // Once more for what streams that break carry in vain.
        let traffic = whole_mib(passed.saturating_add(passed / 4).saturating_add(16 << 20));
        let storage = whole_mib(stored.max(self.shard()).saturating_add(512 << 10));
        let (keep, installs) = (self.keep, self.installs);
        made(|needs| {
            needs.insert("storage".into(), storage.to_string().into());
            needs.insert("traffic".into(), traffic.to_string().into());
            needs.insert("cpu".into(), cpu(traffic).to_string().into());
            needs.insert("lifetime".into(), keep.to_string().into());
            needs.insert("installs".into(), i64::from(installs).into());
        })
    }

    /// The Dropbox that a shard of this will lie in, to see which nodes can take it; `shard` is the function that will install it.
    ///
    /// # Errors
    /// When that makes no bundle.
    pub fn shelf_bundle(&self, shard: &Bundle) -> Result<Bundle, ClientError> {
        let needs = shard.manifest.needs.clone();
        let wanted = |name: &str| shard.files.iter().find(|(known, _)| known == name).map(|(_, content)| content.clone());
        let missing = || ClientError::Request("the function shard has no Dropbox with it".into());
        let (manifest, code) = (wanted("dropbox/manifest.toml").ok_or_else(missing)?, wanted("dropbox/dropbox.py").ok_or_else(missing)?);
        let bundle = Bundle::new(vec![("dropbox.py".into(), code), ("manifest.toml".into(), manifest)]);
        // The function asks for it to the KiB; what a person may be told is a number that can be read.
        let storage = whole_mib(self.shard());
        let made = bundle.and_then(|bundle| {
            needing(bundle, |own| {
                own.insert("storage".into(), storage.to_string().into());
                own.insert("traffic".into(), needs.traffic.to_string().into());
                own.insert("rate".into(), needs.rate.to_string().into());
                own.insert("lifetime".into(), needs.lifetime.to_string().into());
            })
        });
        made.map_err(|error| ClientError::Request(format!("the function shard cannot be sent: {error}")))
    }
}

/// Shard as it fetches a file of this size, or looks at its shards: it installs nothing.
///
/// # Errors
/// When that makes no bundle.
pub fn visit_bundle(passed: u64) -> Result<Bundle, ClientError> {
    let traffic = whole_mib(passed.saturating_mul(2).saturating_add(passed / 2).saturating_add(16 << 20));
    made(|needs| {
        needs.insert("storage".into(), "0 B".into());
        needs.insert("traffic".into(), traffic.to_string().into());
        needs.insert("cpu".into(), cpu(traffic).to_string().into());
        needs.insert("lifetime".into(), VISIT.to_string().into());
        needs.insert("installs".into(), 0.into());
        needs.insert("calls".into(), vec![toml::Value::from("nodes.*")].into());
    })
}

fn made(change: impl FnOnce(&mut toml::Table)) -> Result<Bundle, ClientError> {
    let made = Standard::Shard.bundle().and_then(|bundle| needing(bundle, change));
    made.map_err(|error| ClientError::Request(format!("the function shard cannot be sent: {error}")))
}

/// Bytes that Shard moves, seals and encodes in a second of CPU time on a slow processor, with what its node computes for its store. A multiple
/// of what was measured (docs/benchmarks.md).
const CPU_BYTES: u64 = 32 << 20;

fn cpu(traffic: Size) -> Span {
    Span::seconds(30 + traffic.as_bytes() / CPU_BYTES)
}

impl Shard {
    /// Itself as it takes the file that is to be spread.
    pub fn stage(&self) -> Dropbox {
        Dropbox { client: self.client.clone(), node: self.node.clone(), token: self.token.clone(), taker: Taker::Shard }
    }

    /// Has a drop spread that was staged, or that is gathered first from where its parts were left. Returns when that has begun; it goes on
    /// without the client. Asked for again under another name, it goes on where it is.
    ///
    /// # Errors
    /// When the node refuses; [`ClientError::is_undecided`] when it may have begun nevertheless.
    pub async fn spread(
        &self,
        id: OutputId,
        drop: DropId,
        split: Split,
        to: &Candidates,
        drip: Option<(&Drip, &[Intake])>,
    ) -> Result<(), ClientError> {
        let (nodes, avoid) = to.arguments();
        let arguments = json!({
            "drop": drop.to_string(), "n": split.of, "k": split.need, "mode": split.mode, "nodes": nodes, "avoid": avoid, "marks": true,
        });
        let places = drip.map_or(&[][..], |(_, places)| places);
        let input = match drip {
            Some((drip, places)) => order(drip, places)?,
            None => Input::Empty,
        };
        let others = to.has_conclaves() || places.iter().any(|place| place.node.is_conclave());
        let arguments = demanding(&self.client, &self.node, others, arguments)?;
        self.client.detach(&self.node, &self.token, id, call("spread", arguments, input)).await
    }

    /// Has lost shards made up on other nodes. As [`spread`](Self::spread), it goes on without the client.
    ///
    /// # Errors
    /// When the node refuses; [`ClientError::is_undecided`] when it may have begun nevertheless.
    pub async fn repair(
        &self,
        id: OutputId,
        job: DropId,
        shards: &Shards,
        to: &Candidates,
        more: u32,
        thorough: bool,
    ) -> Result<(), ClientError> {
        let (nodes, avoid) = to.arguments();
        let arguments = json!({"job": job.to_string(), "more": more, "thorough": thorough, "nodes": nodes, "avoid": avoid, "marks": true});
        let arguments = demanding(&self.client, &self.node, to.has_conclaves() || shards.has_conclaves(), arguments)?;
        let input = Input::Bytes(shards.text()?.into());
        self.client.detach(&self.node, &self.token, id, call("repair", arguments, input)).await
    }

    /// How far one of the two is, waiting so long for its end.
    ///
    /// # Errors
    /// When it failed, or the node knows nothing of it.
    pub async fn progress(&self, id: OutputId, wait: Duration) -> Result<Progress, ClientError> {
        let output = match self.client.output(&self.node, &self.token, id, 0, wait).await? {
            Fetched::Running(bytes) => return Ok(Progress::Running(bytes.min(MARKS))),
            Fetched::Ended { output, .. } => output,
        };
        let (bytes, outcome) = output.collect(MARKS + RECIPE_BYTES_MAX).await?;
        match outcome {
            Outcome::Returned => {
                let text: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == b'.').collect();
                Ok(Progress::Done(Box::new(Shards::parse(&text).map_err(|error| ClientError::Violation(error.to_string()))?)))
            }
            // What a node says of an invocation that it could not bring to its end, and what it does to one when it stops.
            Outcome::Failed { error, .. } if error.starts_with("the node was stopped") || error.contains("Underway") => {
                Ok(Progress::Stopped)
            }
            Outcome::Failed { error, .. } if error.starts_with("the function's process ended") => Ok(Progress::Stopped),
            Outcome::Killed { bound: bento_proto::Bound::Stop } => Ok(Progress::Stopped),
            outcome => Err(ClientError::Ended(outcome)),
        }
    }
}

impl Checked {
    /// Looks at the shards from a node; `thorough`: each is read there, else their nodes are believed.
    ///
    /// # Errors
    /// When the node does not do it.
    pub async fn look(client: &Client, node: &NodeAddress, shards: &Shards, thorough: bool) -> Result<Self, ClientError> {
        let passed = if thorough { shards.stored() } else { 0 };
        let arguments = demanding(client, node, shards.has_conclaves(), json!({ "thorough": thorough }))?;
        let mut call = call("check", arguments, Input::Bytes(shards.text()?.into()));
        call.output_max = Some(RECIPE_BYTES_MAX);
        let output = client.run(node, &visit_bundle(passed)?, call).await?;
        let (bytes, outcome) = output.collect(RECIPE_BYTES_MAX).await?;
        if outcome != Outcome::Returned {
            return Err(ClientError::Ended(outcome));
        }
        let mut told: Self = json::parse(&bytes, "what it says of the shards")?;
        for shard in &mut told.shards {
            shard.node = crate::line(&shard.node);
            shard.why = shard.why.as_deref().map(crate::line);
        }
        Ok(told)
    }
}

impl Rebuild {
    /// From these shards, by this node.
    ///
    /// # Errors
    /// When the function makes no bundle.
    pub fn new(client: Client, node: NodeAddress, shards: &Shards) -> Result<Self, ClientError> {
        let report = 1024 + 512 * shards.shards.len();
        let (bundle, text, conclaves) = (visit_bundle(shards.size)?, shards.text()?.into(), shards.has_conclaves());
        Ok(Self { client, node, size: shards.size, bundle, shards: text, conclaves, report })
    }

    /// The bundle that does it.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    pub(crate) async fn get(&self, offset: u64) -> Result<Output, ClientError> {
        let arguments = demanding(&self.client, &self.node, self.conclaves, json!({"offset": offset, "report": self.report}))?;
        let call = call("get", arguments, Input::Bytes(self.shards.clone()));
        self.client.run(&self.node, &self.bundle, call).await
    }
}

impl Lost {
    /// What a download from shards met, once it is at its end.
    ///
    /// # Errors
    /// When the function said nothing that can be read.
    pub fn of(download: &crate::Download) -> Result<Self, ClientError> {
        let mut told: Self = json::parse(download.report(), "what it says of the shards")?;
        for shard in &mut told.lost {
            (shard.node, shard.why) = (crate::line(&shard.node), crate::line(&shard.why));
        }
        Ok(told)
    }
}

/// The arguments with which conclaves are accepted, where the function goes to any.
fn demanding(client: &Client, node: &NodeAddress, conclaves: bool, mut arguments: Value) -> Result<Value, ClientError> {
    if conclaves {
        arguments["conclave"] = client.demand_from(node)?.into();
    }
    Ok(arguments)
}

/// The list of parts, as `functions/shard/jobs.py` reads it.
fn order(drip: &Drip, places: &[Intake]) -> Result<Input, ClientError> {
    let parts: Vec<Value> = drip
        .portions
        .iter()
        .map(|portion| json!({"place": portion.place, "drop": portion.drop, "size": drip.each, "sha256": portion.sha256}))
        .collect();
    let places: Vec<Value> = places
        .iter()
        .map(|place| {
            let (invocation, shutdown) = (place.tokens.invocation.reveal(), place.tokens.shutdown.reveal());
            json!({"node": place.node.to_string(), "invocation": invocation, "shutdown": shutdown})
        })
        .collect();
    let order = json!({"size": drip.each * drip.portions.len() as u64, "places": places, "parts": parts});
    serde_json::to_vec(&order).map(|text| Input::Bytes(text.into())).map_err(|error| ClientError::Request(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(size: u64, need: u32, of: u32) -> Load {
        Load { size, split: Split { need, of, mode: Mode::Rs }, keep: "24 h".parse().unwrap(), made: of, installs: of }
    }

    #[test]
    fn a_node_with_the_usual_policy_takes_what_it_should_and_shard_may_install_its_dropboxes() {
        let policy = bento_proto::Policy::parse("[offers]\nimage = [\"python3\", \"shard\"]\n").unwrap();
        for (size, need, of) in [(1_000_000, 2, 4), (50_000_000, 2, 4), (30_000_000, 1, 3), (100_000, 4, 4)] {
            let load = load(size, need, of);
            let shard = load.shard_bundle().unwrap();
            let grant = policy.admit(&shard.manifest).unwrap();
            assert_eq!(grant.covers(&load.shelf_bundle(&shard).unwrap().manifest), Ok(()));
            // More in place of some asks the others for no more.
            let spare = Load { installs: of + 2, ..load }.shard_bundle().unwrap();
            assert_eq!(load.shelf_bundle(&spare).unwrap().manifest.needs, load.shelf_bundle(&shard).unwrap().manifest.needs);
            // What could be put can be repaired there, where all are lost that may be; to read all besides takes more.
            let lost = Load { made: of - need, installs: of - need, ..load };
            assert!(policy.admit(&lost.repair_bundle(false).unwrap().manifest).is_ok(), "{size} {need} of {of}");
            let is_thorough = policy.admit(&lost.repair_bundle(true).unwrap().manifest).is_ok();
            assert_eq!(is_thorough, size < 30_000_000, "{size} {need} of {of}");
            assert!(policy.admit(&visit_bundle(size).unwrap().manifest).is_ok());
        }
        assert!(policy.admit(&load(1_000_000, 2, 5).shard_bundle().unwrap().manifest).is_err(), "the usual policy has four installs");
        assert!(policy.admit(&load(70_000_000, 2, 4).shard_bundle().unwrap().manifest).is_err());
    }

    #[test]
    fn a_shard_has_room_for_what_the_function_makes_of_the_file() {
        // What `functions/shard/erasure.py` makes of these: stripes, and bytes of a piece.
        let (rs, fountain) = (Mode::Rs, Mode::Fountain);
        for (mode, size, need, of, stripes, piece) in [
            (rs, 1, 1, 1, 1, 1),
            (rs, 1, 3, 5, 1, 1),
            (rs, 1_000_079, 3, 5, 1, 333_360),
            (rs, 60_000_000, 2, 4, 29, 1_034_483),
            (rs, 5_000_000_000, 100, 128, 382, 130_891),
            (fountain, 1, 3, 5, 1, 1024),
            (fountain, 1_000_079, 3, 5, 1, 334_848),
            (fountain, 60_000_000, 2, 4, 29, 1_036_288),
            (fountain, 60_000_000, 60, 100, 15, 67_584),
            (fountain, 10_000_000_000, 128, 128, 2385, 33_792),
        ] {
            let needed = stripes * (piece + 16) + SPARE;
            let load = Load { split: Split { need, of, mode }, ..load(size, need, of) };
            assert!(load.shard() >= needed, "{size} {need} of {of}: {} and {needed}", load.shard());
        }
    }

    #[test]
    fn what_only_fetches_asks_for_no_installs_and_no_store() {
        let bundle = visit_bundle(1 << 20).unwrap();
        let needs = &bundle.manifest.needs;
        assert_eq!((needs.installs, needs.storage), (0, Size::bytes(0)));
        assert!(bundle.files.iter().any(|(name, _)| name == "dropbox/dropbox.py"));
    }
}
