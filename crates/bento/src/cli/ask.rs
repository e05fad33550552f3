//! Asking nodes what they are, many at the same time.

use std::{sync::Arc, time::Duration};

use bento::{Bounds, NodeAddress};
use bento_proto::node::Description;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{context::Context, failure::Failure};

/// Nodes asked at the same time: each costs Tor two circuits.
const AT_ONCE: usize = 16;

/// How long a node may take that is only asked. There are others.
const BOUNDS: Bounds = Bounds { connect: Duration::from_secs(60), answer: Duration::from_secs(30), idle: Duration::from_secs(30) };

/// A node and what it told.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) address: NodeAddress,
    pub(crate) told: Result<Description, Failure>,
}

/// Questions that are on their way. Dropping them takes them back.
pub(crate) type Questions = JoinSet<(usize, Asked)>;

/// Asks these nodes. The answers come as they come, each with the node's place in the list.
pub(crate) async fn start(context: &Context, nodes: Vec<(String, NodeAddress)>) -> Questions {
    let mut questions = JoinSet::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let bounds = bounds(context);
    for (index, (name, address)) in nodes.into_iter().enumerate() {
        let client = context.quiet_client(&address).await;
        let places = Arc::clone(&places);
        questions.spawn(async move {
            let _place = places.acquire().await;
            let told = match client {
                Ok(client) => client.with_bounds(bounds).describe(&address).await.map_err(Failure::from),
                Err(failure) => Err(failure),
            };
            (index, Asked { name, address, told })
        });
    }
    questions
}

/// How long each may take.
pub(crate) fn bounds(context: &Context) -> Bounds {
    let own = context.bounds();
    Bounds { connect: BOUNDS.connect.min(own.connect), answer: BOUNDS.answer.min(own.answer), idle: BOUNDS.idle }
}

/// Asks these nodes and waits for all, in the order of the list.
pub(crate) async fn all(context: &Context, nodes: Vec<(String, NodeAddress)>) -> Vec<Asked> {
    let count = nodes.len();
    let mut questions = start(context, nodes).await;
    let mut answers = Vec::with_capacity(count);
    context.show.now(&format!("asking {}", counted(count)));
    while let Some(answer) = questions.join_next().await {
        // A question that panicked has no answer; it is a fault of ours, which the tests look for.
        answers.extend(answer.ok());
        context.show.now(&format!("asking {}, {} answered", counted(count), answers.len()));
    }
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, asked)| asked).collect()
}

/// `; 2 nodes did not answer`, if there are any: they may be others than those that refuse.
pub(crate) fn unheard(silent: usize) -> String {
    if silent == 0 { String::new() } else { format!("; {} did not answer", counted(silent)) }
}

/// `1 node`, `2 nodes`.
pub(crate) fn counted(count: usize) -> String {
    if count == 1 { "1 node".into() } else { format!("{count} nodes") }
}
