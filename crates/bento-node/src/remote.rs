//! What a function does on other nodes: the calls `nodes.*`.
//!
//! A function passes on no more than it was granted, to so many functions at a time as it was granted, and everything that it sends and gets
//! counts against its traffic. What it installed lives on when it ends: who has the tokens decides, and work may go on while nobody watches.

mod install;
mod invoke;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};

use bento::{Bounds, Client, ClientError, Demand, NodeAddress};
use bento_proto::{Digest, Span};
use bento_tor::SocksError;

use crate::{
    container::Container,
    link::{Call, CallError, CallErrorKind, FRAME_BYTES_MAX, stream_pair},
    meter::Way,
    process::{Process, TRY_BYTES, answer_call, clip, connect_permit},
    seal,
    store::Away,
};

/// Most results that may wait for a function to ask for them, of each kind. More than its connections it cannot begin at the same time anyway.
const UNASKED_MAX: usize = 64;

/// Part of the time that an invocation may be idle, for which another node is waited for: the function that waits must hear of it before its own
/// invocation counts as idle.
const PATIENCE: f32 = 0.75;

/// Longest answer, in bytes of JSON. The rest of a frame is for what is around it.
const ANSWER_BYTES_MAX: usize = FRAME_BYTES_MAX - 1024;

/// Longest word for programs that another node's refusal is passed on with.
const CODE_CHARS_MAX: usize = 64;

/// What a container has on other nodes, over all processes that it has one after the other.
#[derive(Debug)]
pub struct Elsewhere {
    /// Each counts until it is shut down or its lifetime is over; nothing stands for one that is on its way.
    installed: Mutex<BTreeMap<PlaceId, Option<Until>>>,
    /// Whoever seals one stream at a time cannot take a processor from others.
    pub(crate) sealing: Arc<Semaphore>,
}

/// The same moment by both clocks: what is written down must not change while nothing happens.
type Until = (Instant, SystemTime);

/// A digest of the node's address and the shutdown token's digest.
type PlaceId = [u8; 32];

fn place_of(node: &NodeAddress, shutdown: Digest) -> PlaceId {
    // Neither has a space.
    Sha256::digest(format!("{node} {shutdown}")).into()
}

impl Elsewhere {
    /// What was there when it was written down, as far as it is not over.
    pub fn resumed(away: &[Away]) -> Self {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let until = |away: &Away| Some((now.checked_add(away.until.duration_since(wall).ok()?)?, away.until));
        let left = away.iter().filter_map(|away| Some((away.place, Some(until(away)?))));
        Self { installed: Mutex::new(left.collect()), sealing: Arc::new(Semaphore::new(1)) }
    }

    /// What is to be written down: all that may be there.
    pub fn kept(&self) -> Vec<Away> {
        self.installed().iter().filter_map(|(place, until)| Some(Away { place: *place, until: until.as_ref()?.1 })).collect()
    }

    /// A place for one more, if there is one. The same function again, as after a lost answer, takes no second one.
    fn take(&self, node: &NodeAddress, shutdown: Digest, limit: u32) -> Result<Place<'_>, CallError> {
        let id = place_of(node, shutdown);
        let mut installed = self.installed();
        let now = Instant::now();
        installed.retain(|_, until| until.is_none_or(|(until, _)| until > now));
        let is_new = !installed.contains_key(&id);
        if is_new && installed.len() >= limit as usize {
            let text = format!("the function may have {limit} functions on other nodes at a time, and has them");
            return Err(CallError::new(CallErrorKind::Refused, text));
        }
        installed.entry(id).or_insert(None);
        Ok(Place { of: self, id, is_new, is_kept: false })
    }

    /// Gives back the place of a function that has ended.
    fn ended(&self, node: &NodeAddress, shutdown: Digest) {
        self.installed().remove(&place_of(node, shutdown));
    }

    fn installed(&self) -> MutexGuard<'_, BTreeMap<PlaceId, Option<Until>>> {
        self.installed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for a function elsewhere. Given back when dropped, but for one that is kept.
#[derive(Debug)]
struct Place<'a> {
    of: &'a Elsewhere,
    id: PlaceId,
    /// It was not there before: the same tokens again give back nothing that an earlier function still has.
    is_new: bool,
    is_kept: bool,
}

impl Place<'_> {
    /// The function may be there from now on, for so long at most.
    fn keep(&mut self, lifetime: Span) {
        self.is_kept = true;
        let lifetime = lifetime.duration();
        let until = Instant::now().checked_add(lifetime).zip(SystemTime::now().checked_add(lifetime));
        let mut installed = self.of.installed();
        // What is there already may be there longer.
        let before = installed.get(&self.id).copied().flatten();
        installed.insert(self.id, before.max(until));
    }

    /// The other node said that it is not there.
    fn give_back(mut self) {
        self.is_kept = false;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.is_new && !self.is_kept {
            self.of.installed().remove(&self.id);
        }
    }
}

/// What a process has begun elsewhere and not asked the result of.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    uploads: Results,
    invocations: Results,
}

/// Results to come, by number.
#[derive(Debug, Default)]
struct Results(Mutex<Coming>);

type Told = Result<Value, CallError>;

#[derive(Debug, Default)]
struct Coming {
    last: u64,
    open: HashMap<u64, oneshot::Receiver<Told>>,
}

impl Results {
    fn begin(&self) -> Result<(u64, oneshot::Sender<Told>), CallError> {
        let mut coming = self.coming();
        if coming.open.len() >= UNASKED_MAX {
            let text = format!("the function has begun {UNASKED_MAX} of these and not asked how they ended");
            return Err(CallError::new(CallErrorKind::Busy, text));
        }
        coming.last += 1;
        let (number, (sender, receiver)) = (coming.last, oneshot::channel());
        coming.open.insert(number, receiver);
        Ok((number, sender))
    }

    /// Forgets one that the function never heard of.
    fn forget(&self, number: u64) {
        self.coming().open.remove(&number);
    }

    /// Waits for a result. It is told once.
    async fn end(&self, number: u64) -> Told {
        let receiver = self.coming().open.remove(&number);
        let unknown = || CallError::new(CallErrorKind::BadCall, "nothing of this number was begun, or it was asked before");
        receiver.ok_or_else(unknown)?.await.unwrap_or_else(|_| Err(CallError::new(CallErrorKind::Failed, "it was broken off")))
    }

    fn coming(&self) -> MutexGuard<'_, Coming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is it one of the calls here?
pub(crate) fn serves(call: &str) -> bool {
    call == "seal" || call.starts_with("nodes.")
}

/// What a call takes while it goes on: room for a stream, where it has one.
pub(crate) fn permit(container: &Container, call: &str) -> Result<Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>, CallError> {
    match call {
        "nodes.list" | "nodes.installed" | "nodes.outcome" => Ok(None),
        _ => connect_permit(container).map(Some),
    }
}

/// Does what a call asks for, until the last byte of its stream.
pub(crate) async fn serve(process: &Process, container: &Container, call: &Call) {
    // What ends another call is allowed with it.
    let named = match call.name.as_str() {
        "nodes.installed" => "nodes.install",
        "nodes.outcome" => "nodes.invoke",
        name => name,
    };
    let served = match container.grant.permits_call(named) {
        Err(refusal) => Err(CallError::new(CallErrorKind::Refused, refusal.to_string())),
        Ok(()) => match call.name.as_str() {
            "nodes.list" => list(container).map(Some),
            "nodes.install" => install::begin(process, container, call).await.map(|()| None),
            "nodes.installed" => install::end(process, call).await.map(Some),
            "nodes.invoke" => invoke::begin(process, container, call).await.map(|()| None),
            "nodes.outcome" => invoke::end(process, call).await.map(Some),
            "nodes.shutdown" => shutdown(container, call).await.map(Some),
            "seal" => seal::serve(process, container, call).await.map(|()| None),
            _ => Err(CallError::new(CallErrorKind::BadCall, "there is no such call")),
        },
    };
    // What was answered before its stream is not answered again.
    if let Some(answer) = served.transpose() {
        let _ = answer_call(process.link(), call.number, answer, None).await;
    }
}

fn list(container: &Container) -> Result<Value, CallError> {
    let nodes = container.node.nodes.iter().map(|known| json!({"name": known.name, "address": known.address.to_string()}));
    Ok(nodes.collect())
}

async fn shutdown(container: &Container, call: &Call) -> Result<Value, CallError> {
    #[derive(Deserialize)]
    struct Order {
        node: String,
        shutdown: String,
        conclave: Option<String>,
    }
    let takes = "nodes.shutdown takes `node`, an address, `shutdown`, a token, and, if wanted, `conclave`, a demand";
    let Order { node, shutdown, conclave } = call.arguments(takes)?;
    let node = address(container, &node)?;
    let demand = demand(container, &node, conclave.as_deref())?;
    let token: bento_proto::ShutdownToken = shutdown.parse().map_err(bad_call)?;
    let client = client(container, demand).await?;
    match client.shutdown(&node, &token).await {
        Ok(()) => {
            container.elsewhere.ended(&node, token.digest());
            Ok(Value::Null)
        }
        Err(error) => {
            // It ended before, by itself or by another's word.
            if matches!(&error, ClientError::Refused(problem) if problem.code() == "unknown-token") {
                container.elsewhere.ended(&node, token.digest());
            }
            Err(trouble(&error))
        }
    }
}

/// A node's address that a function may go to.
fn address(container: &Container, text: &str) -> Result<NodeAddress, CallError> {
    let address: NodeAddress = text.parse().map_err(bad_call)?;
    if address.loopback().is_some() && !container.node.nodes.iter().any(|known| known.address.authority() == address.authority()) {
        let text = "an address on the node's own machine can be reached only if its operator lists it under `nodes`";
        return Err(CallError::new(CallErrorKind::Refused, text));
    }
    Ok(address)
}

/// Which conclaves the function's client accepts, where the function goes to one. Only what runs in a conclave itself can judge: whoever sees and changes
/// what a function does need not be asked to keep others from it.
fn demand(container: &Container, node: &NodeAddress, text: Option<&str>) -> Result<Option<Demand>, CallError> {
    let denied = |text: &str| Err(CallError::new(CallErrorKind::Refused, text));
    match text {
        None if node.is_conclave() => denied("to reach a conclave, `conclave` must say which are accepted"),
        Some(_) if !node.is_conclave() => denied("with `conclave`, the address must be a conclave's: `/conclave` behind it"),
        Some(_) if container.node.egress.near().is_none() => denied("this node runs in no conclave, so it judges none for others"),
        text => text.map(Demand::parse).transpose().map_err(|error| trouble(&error)),
    }
}

/// A client for one request of this function. That it is asked counts as traffic, also when nothing comes of it.
async fn client(container: &Container, demand: Option<Demand>) -> Result<Client, CallError> {
    container.meter.pass(Way::Sent, TRY_BYTES).await.map_err(|_| used_up())?;
    let idle = container.node.limits.idle.duration().mul_f32(PATIENCE);
    let mut client = container.node.egress.socks().map_or_else(Client::direct, Client::over);
    if let Some(near) = container.node.egress.near() {
        client = client.near(near);
    }
    if let Some(demand) = demand {
        client = client.demanding(demand);
    }
    let bounds = Bounds { answer: idle, idle, ..Bounds::default() };
    Ok(client.with_bounds(bounds).owned_by(container.isolation.clone()).through(container.depth.saturating_add(1)))
}

/// A stream for the function, and what it is told with it.
async fn hand_over(process: &Process, call: &Call, value: Value) -> Result<UnixStream, CallError> {
    let busy = |_| CallError::new(CallErrorKind::Busy, "the node has no more sockets");
    let (ours, theirs) = stream_pair().map_err(busy)?;
    // Where this fails the process is ending, and nobody hears of it.
    let told = answer_call(process.link(), call.number, Ok(value), Some(theirs)).await;
    told.map(|()| ours).map_err(|_| CallError::new(CallErrorKind::Failed, "the function does not hear"))
}

/// The number of what was begun.
fn number(call: &Call, key: &'static str, takes: &'static str) -> Result<u64, CallError> {
    let arguments: HashMap<String, Value> = call.arguments(takes)?;
    arguments.get(key).and_then(Value::as_u64).ok_or_else(|| CallError::new(CallErrorKind::BadCall, takes))
}

/// What another node says, as far as it fits into a frame.
fn fitting(value: Value) -> Result<Value, CallError> {
    if value.to_string().len() <= ANSWER_BYTES_MAX {
        return Ok(value);
    }
    Err(CallError::new(CallErrorKind::Failed, "the other node's answer is too long"))
}

fn bad_call(error: impl std::fmt::Display) -> CallError {
    CallError::new(CallErrorKind::BadCall, error.to_string())
}

fn used_up() -> CallError {
    CallError::new(CallErrorKind::Refused, "traffic is used up")
}

/// What went wrong between this node and another, in the words of the function API.
fn trouble(error: &ClientError) -> CallError {
    let kind = match error {
        ClientError::Refused(_) => CallErrorKind::Refused,
        ClientError::Late { .. } | ClientError::Tor(SocksError::TimedOut | SocksError::Deadline(_)) => CallErrorKind::Timeout,
        ClientError::NoTor | ClientError::Tor(_) | ClientError::NotThere(_) => CallErrorKind::Unreachable,
        ClientError::Request(_) => CallErrorKind::BadCall,
        ClientError::Evidence { .. } => CallErrorKind::Refused,
        _ => CallErrorKind::Failed,
    };
    let code = match error {
        ClientError::Refused(problem) => Some(clip(problem.code(), CODE_CHARS_MAX)),
        _ => None,
    };
    CallError { code, ..CallError::new(kind, error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(byte: u8) -> Digest {
        bento_proto::ShutdownToken::from_random([byte; 32]).digest()
    }

    #[test]
    fn places_elsewhere_are_given_back_and_never_more_than_there_are() {
        let (elsewhere, node): (Elsewhere, NodeAddress) = (Elsewhere::resumed(&[]), "127.0.0.1:1".parse().unwrap());
        let take = |byte| elsewhere.take(&node, token(byte), 2);
        let (mut one, two) = (take(1).unwrap(), take(2).unwrap());
        assert_eq!(take(3).unwrap_err().kind, CallErrorKind::Refused);
        // The same again takes no second place, and gives none back that is not its own.
        drop(take(2).unwrap());
        assert!(take(3).is_err());
        // What came to nothing is given back, what may be there is not.
        drop(two);
        one.keep(Span::seconds(3600));
        drop(one);
        // The same tokens once more, and refused there: what has them keeps its place, and is not over sooner.
        let mut again = take(1).unwrap();
        again.keep(Span::millis(0));
        again.give_back();
        let mut three = take(3).unwrap();
        assert!(take(4).is_err());
        // What is over by itself counts no longer.
        three.keep(Span::millis(0));
        drop(three);
        let four = take(4).unwrap();
        elsewhere.ended(&node, token(1));
        let five = take(5).unwrap();
        assert!(take(6).is_err());
        four.give_back();
        drop((take(6).unwrap(), five));
        assert!(elsewhere.take(&node, token(7), 0).is_err());
    }

    #[test]
    fn places_elsewhere_outlive_the_node_and_not_what_is_there() {
        let (elsewhere, node): (Elsewhere, NodeAddress) = (Elsewhere::resumed(&[]), "127.0.0.1:1".parse().unwrap());
        let mut stays = elsewhere.take(&node, token(1), 3).unwrap();
        stays.keep(Span::seconds(3600));
        let mut over = elsewhere.take(&node, token(2), 3).unwrap();
        over.keep(Span::millis(1));
        // One that is on its way was not heard of by anybody.
        let coming = elsewhere.take(&node, token(3), 3).unwrap();
        let kept = elsewhere.kept();
        assert_eq!((kept.len(), elsewhere.kept()), (2, kept.clone()));
        std::thread::sleep(std::time::Duration::from_millis(2));
        let again = Elsewhere::resumed(&kept);
        let one = again.take(&node, token(4), 2).unwrap();
        assert!(again.take(&node, token(5), 2).is_err());
        // It is known by node and token, and can be given back.
        again.ended(&"127.0.0.1:2".parse().unwrap(), token(1));
        assert!(again.take(&node, token(5), 2).is_err());
        again.ended(&node, token(1));
        drop((again.take(&node, token(5), 2).unwrap(), one, coming));
    }

    #[tokio::test]
    async fn results_are_told_once_and_wait_in_bounded_number() {
        let results = Results::default();
        let (number, sender) = results.begin().unwrap();
        assert_eq!(results.end(number + 1).await.unwrap_err().kind, CallErrorKind::BadCall);
        sender.send(Ok(Value::Null)).unwrap();
        assert_eq!(results.end(number).await.unwrap(), Value::Null);
        assert_eq!(results.end(number).await.unwrap_err().kind, CallErrorKind::BadCall);
        let begun: Vec<_> = (0..UNASKED_MAX).map(|_| results.begin().unwrap().0).collect();
        assert_eq!(results.begin().unwrap_err().kind, CallErrorKind::Busy);
        assert_eq!(results.end(begun[0]).await.unwrap_err().kind, CallErrorKind::Failed);
        results.begin().unwrap();
    }
}
