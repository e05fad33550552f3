//! A host between a client and a conclave, which sees every message and may do with it what it likes.

use std::sync::{Arc, Mutex};

use bento_attest::channel::{Conclave, ConclaveKey, Expected, Failed, accept, connect};
use bento_attest::evidence::{Evidence, sha256};
use bento_attest::source::NoEvidence;
use bento_attest::{Assurance, Format, Kind, Policy, Roots, Simulated};
use bento_simulator::Simulator;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::messages::next;
pub(crate) use crate::messages::{Do, FIRST_RECORD, To};
use crate::support::{NOW, policy, roots, simulator};

/// What the client asks, over several records, and what it gets back. The host may see neither.
pub(crate) const SECRET: &str = "a token that is nobody's business. ";
const REPEATED: usize = 3_000;

pub(crate) type Tamper = Box<dyn FnMut(To, usize, Vec<u8>) -> Do + Send>;

/// A node with a conclave.
pub(crate) struct Node {
    pub(crate) simulator: Simulator,
    pub(crate) key: ConclaveKey,
    pub(crate) name: [u8; 32],
    pub(crate) config: [u8; 32],
    pub(crate) kind: Kind,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What the client has read to its end, or why not.
    pub(crate) client: Result<Vec<u8>, String>,
    /// What the conclave has.
    pub(crate) conclave: Result<Vec<u8>, String>,
    /// All that the host saw.
    pub(crate) seen: Vec<u8>,
}

impl Node {
    pub(crate) fn new(name: u8) -> Self {
        Self {
            simulator: simulator(Format::Tdx, |_| ()),
            key: ConclaveKey::generate().expect("a key"),
            name: [name; 32],
            config: sha256(b"configuration"),
            kind: Kind::Simulated(Format::Tdx),
        }
    }

    pub(crate) fn roots(&self) -> Roots<Simulated> {
        roots(&self.simulator)
    }

    pub(crate) fn policy(&self) -> Policy {
        policy(&self.simulator)
    }

    /// The conclave answers one client.
    pub(crate) async fn serve(&self, stream: DuplexStream) -> Result<Vec<u8>, String> {
        let conclave = Conclave { kind: self.kind, key: &self.key, config_hash: self.config, node: &self.name };
        let attest = |asked| async move {
            let quote = self.simulator.sign(&asked).map_err(|trouble| NoEvidence::Unknown(trouble.to_string()))?;
            Ok((quote, self.simulator.collateral()))
        };
        let mut channel = accept(stream, &conclave, attest).await.map_err(said)?;
        let mut asked = Vec::new();
        channel.read_to_end(&mut asked).await.map_err(|error| error.to_string())?;
        channel.write_all(&answer(&asked)).await.map_err(|error| error.to_string())?;
        channel.shutdown().await.map_err(|error| error.to_string())?;
        Ok(asked)
    }
}

pub(crate) fn asked() -> Vec<u8> {
    SECRET.repeat(REPEATED).into_bytes()
}

pub(crate) fn answer(asked: &[u8]) -> Vec<u8> {
    asked.iter().rev().copied().collect()
}

/// A client that expects this node, at its own time.
pub(crate) async fn ask<A: Assurance>(stream: DuplexStream, expected: &Expected<'_, A>) -> Result<Vec<u8>, String> {
    let mut channel = connect(stream, expected).await.map_err(said)?.channel;
    channel.write_all(&asked()).await.map_err(|error| error.to_string())?;
    channel.shutdown().await.map_err(|error| error.to_string())?;
    let mut got = Vec::new();
    channel.read_to_end(&mut got).await.map_err(|error| error.to_string())?;
    Ok(got)
}

fn said(failed: Failed) -> String {
    failed.to_string()
}

/// A client that expects `expected` meets `node`, through a host that does this.
pub(crate) async fn meet<A: Assurance>(node: &Node, expected: &Expected<'_, A>, tamper: Tamper) -> Outcome {
    let (client, host_client) = duplex(8 * 1024);
    let (host_conclave, conclave) = duplex(8 * 1024);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let host = host(host_client, host_conclave, tamper, Arc::clone(&seen));
    let (client, conclave, ()) = tokio::join!(ask(client, expected), node.serve(conclave), host);
    let seen = seen.lock().expect("nobody panics with it").clone();
    Outcome { client, conclave, seen }
}

/// The same with a client that expects just this node.
pub(crate) async fn meet_own(node: &Node, tamper: Tamper) -> Outcome {
    meet(node, &expected(node, &node.roots(), &node.policy()), tamper).await
}

pub(crate) fn expected<'a, A>(node: &'a Node, roots: &'a Roots<A>, policy: &'a Policy) -> Expected<'a, A> {
    Expected { roots, policy, node: &node.name, config_hash: Some(node.config), now: NOW }
}

/// A host that does nothing but carry.
pub(crate) fn honest() -> Tamper {
    Box::new(|_, _, message| Do::Pass(message))
}

/// A host that changes one message.
pub(crate) fn change(way: To, which: usize, mut how: impl FnMut(Vec<u8>) -> Do + Send + 'static) -> Tamper {
    Box::new(move |to, count, message| if (to, count) == (way, which) { how(message) } else { Do::Pass(message) })
}

/// A host that understands the Evidence, and sends other.
pub(crate) fn evidence(mut how: impl FnMut(&mut Evidence) + Send + 'static) -> Tamper {
    change(To::Client, 0, move |message| {
        let mut evidence = Evidence::from_bytes(&message[4..]).expect("what a conclave sent");
        how(&mut evidence);
        Do::Pass(framed(&evidence.to_bytes()))
    })
}

/// A message with its length in front.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes()[..], message].concat()
}

async fn host(client: DuplexStream, conclave: DuplexStream, tamper: Tamper, seen: Arc<Mutex<Vec<u8>>>) {
    let tamper = Arc::new(Mutex::new(tamper));
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_conclave, mut to_conclave) = tokio::io::split(conclave);
    let there = carry(&mut from_client, &mut to_conclave, To::Conclave, Arc::clone(&tamper), Arc::clone(&seen));
    let back = carry(&mut from_conclave, &mut to_client, To::Client, tamper, seen);
    tokio::join!(there, back);
}

async fn carry(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    way: To,
    tamper: Arc<Mutex<Tamper>>,
    seen: Arc<Mutex<Vec<u8>>>,
) {
    for count in 0.. {
        let Some(message) = next(from, count).await else { break };
        seen.lock().expect("nobody panics with it").extend_from_slice(&message);
        let done = (tamper.lock().expect("nobody panics with it"))(way, count, message);
        match done {
            Do::Pass(bytes) => {
                if to.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            Do::Cut(bytes) => {
                let _ = to.write_all(&bytes).await;
                break;
            }
        }
    }
    let _ = to.shutdown().await;
}
