//! A node: its policy, its functions, and what is asked of them, free of HTTP.

mod remember;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

use bento_proto::{
    Bound, Digest, Grant, InvocationToken, Manifest, Policy, Refusal, SealKey, ShutdownToken, Size, Span,
    bundle::Bundle,
    node::{Description, FunctionStatus},
};
use bento_tor::Isolation;

use crate::{
    archive::{Archive, Room},
    broker,
    cgroup::Groups,
    conclave::{Conclave, ConclaveStatus},
    config::Config,
    container::{Container, Host, Made, Room as Taken},
    egress::Egress,
    functions::{Functions, Installed},
    image::Images,
    jail::{self, Trouble},
    keep::{Keep, blocking},
    lease::Lease,
    places::Places,
    pool::Pool,
    process::StartError,
    share::Shares,
    store::{New, Registry, StoreError, Used},
};

/// The unit in which storage is shared out, in bytes.
const STORAGE_UNIT: u64 = 64 * 1024;

/// Longest wait at a stop for functions that were ended by it, until the last of what they put out and used is on the disk.
const ENDED_DEADLINE: Duration = Duration::from_secs(20);

/// Jails that are ready at the start for the usual function of each image; those that are in fact asked for then take their place.
const WARM: usize = 2;

/// A running node.
#[derive(Debug)]
pub struct Node {
    config: Config,
    policy: RwLock<Arc<Policy>>,
    images: Images,
    host: Arc<Host>,
    functions: Arc<Functions>,
    places: Places,
    /// The memory for bundles of functions that are here.
    bundles: Arc<Room>,
    storage: Arc<Semaphore>,
    /// Held while a function is written down: two requests for the same one make one.
    installing: tokio::sync::Mutex<()>,
    runs: Mutex<Vec<Weak<Container>>>,
    conclave: Option<Conclave>,
    isolations: AtomicU64,
    onion: Mutex<Option<String>>,
    /// Where it is on this machine, if it has no onion service.
    near: OnceLock<String>,
    /// How often the onion service was published again because nobody could reach it.
    pub(crate) published_again: AtomicU64,
    /// Functions that wait until it is known what time it is.
    seem_over: AtomicUsize,
    /// Raised when no new work is taken.
    pub stopping: CancellationToken,
    /// Sessions open right now.
    pub sessions: TaskTracker,
    /// Room for more of them.
    pub session_room: Arc<Semaphore>,
    born: Instant,
}

/// What the operator may know: numbers, and nothing of any client.
#[derive(Debug, Deserialize, Serialize)]
pub struct NodeStatus {
    /// The program's version.
    pub version: String,
    /// Its onion service, when it is published.
    pub onion: Option<String>,
    /// How often that was published again because it was not reached.
    #[serde(default)]
    pub published_again: u64,
    /// Time since start.
    pub up: Span,
    /// Functions installed.
    pub functions: usize,
    /// Of these, with a process.
    pub awake: usize,
    /// Most that are taken.
    pub functions_max: u32,
    /// Functions that came within the last 24 hours.
    pub functions_today: u64,
    /// Most that are taken within 24 hours.
    pub functions_per_day: u32,
    /// Jails that wait for one.
    pub ready: usize,
    /// Sessions open.
    pub sessions: usize,
    /// Streams of functions to elsewhere.
    pub connections: usize,
    /// What all functions together are granted to store.
    pub storage_granted: Size,
    /// Functions that seem to be past their end by a clock that is not believed yet.
    #[serde(default)]
    pub seem_over: usize,
    /// The conclave beside it.
    #[serde(default)]
    pub conclave: Option<ConclaveStatus>,
}

/// What a change of policy means for the functions that are here. They keep what they were granted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Meant {
    /// The keys that changed.
    pub changed: Vec<String>,
    /// Functions that are here.
    pub functions: usize,
    /// Of these, those that would not be admitted now.
    pub not_admitted: usize,
}

/// A function that lives for one call: ends when dropped.
#[derive(Debug)]
pub struct Run(Weak<Container>);

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(container) = self.0.upgrade() {
            container.end(Bound::Shutdown);
        }
    }
}

impl Node {
    /// A node with nothing installed. `jail`: the program that puts up the walls, and what holds functions to memory and CPU share.
    pub fn new(
        config: Config,
        policy: Policy,
        images: Images,
        (jail, groups, shares): (PathBuf, Arc<Groups>, Shares),
        egress: Egress,
        registry: Registry,
    ) -> Self {
        let limits = config.limits.clone();
        Self {
            places: Places::new(policy.offers.functions, policy.offers.functions_per_day),
            bundles: Arc::new(Room::new(limits.bundles)),
            session_room: Arc::new(Semaphore::new(limits.sessions)),
            host: Arc::new(Host {
                pool: Pool::new(jail, &limits, groups),
                shares,
                egress,
                tor: broker::Tor::new(
                    broker::Bounds { circuits: limits.circuits, onion_services: limits.onion_services, connect: limits.connect.duration() },
                    config.state.join("onions"),
                ),
                connections: Arc::new(Semaphore::new(limits.connections)),
                registry,
                nodes: config.nodes.clone(),
                incoming: Arc::new(Room::new(limits.bundles)),
                limits,
            }),
            storage: Arc::new(Semaphore::new(units(config.limits.storage).min(Semaphore::MAX_PERMITS as u64) as usize)),
            installing: tokio::sync::Mutex::default(),
            conclave: Conclave::new(&config, &policy),
            config,
            policy: RwLock::new(Arc::new(policy)),
            images,
            functions: Arc::default(),
            runs: Mutex::default(),
            isolations: AtomicU64::new(0),
            onion: Mutex::default(),
            near: OnceLock::new(),
            published_again: AtomicU64::new(0),
            seem_over: AtomicUsize::new(0),
            stopping: CancellationToken::new(),
            sessions: TaskTracker::new(),
            born: Instant::now(),
        }
    }

    /// Has jails put up for functions that ask for no more than the usual.
    pub fn warm(&self) {
        let policy = self.policy();
        for name in &policy.offers.image {
            let usual = format!("name = \"usual\"\nmethods = [\"usual\"]\n[needs]\nimage = \"{name}\"\n");
            let Some((image, manifest)) = self.images.get(name).zip(Manifest::parse(&usual).ok()) else { continue };
            let Ok(grant) = policy.admit(&manifest) else { continue };
            let spec = jail::spec(&grant, image, grant.cpu().as_millis());
            for _ in 0..WARM {
                self.host.pool.expect(&spec);
            }
        }
    }

    /// The bounds in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What functions have of Tor.
    pub fn tor(&self) -> Arc<broker::Tor> {
        Arc::clone(&self.host.tor)
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another policy in force, for new installs.
    pub fn apply(&self, policy: Policy) -> Meant {
        let before = self.policy();
        // Those of which nobody has brought the key since the start are admitted again when somebody does.
        let here: Vec<Arc<Container>> = self.containers().into_iter().filter(|container| container.reason().is_none()).collect();
        let meant = Meant {
            changed: policy.changed(&before),
            functions: here.len(),
            not_admitted: here.iter().filter(|container| policy.admit(&container.bundle.manifest).is_err()).count(),
        };
        self.places.set(policy.offers.functions, policy.offers.functions_per_day);
        if let Some(conclave) = &self.conclave {
            conclave.bound(&self.config.conclave, &policy);
        }
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        meant
    }

    /// The conclave beside it, if there is one.
    pub fn conclave(&self) -> Option<&Conclave> {
        self.conclave.as_ref()
    }

    /// The ways out of it.
    pub fn egress(&self) -> &Egress {
        &self.host.egress
    }

    /// Room for streams to elsewhere.
    pub fn connections(&self) -> Arc<Semaphore> {
        Arc::clone(&self.host.connections)
    }

    /// What clients know it by, and what a conclave's evidence says: the key of its onion service, or its place on this machine where it has none.
    pub fn identity(&self) -> Option<Vec<u8>> {
        let onion = self.onion.lock().unwrap_or_else(PoisonError::into_inner).clone();
        onion.or_else(|| self.near.get().cloned())?.parse::<bento::NodeAddress>().ok().map(|address| address.identity())
    }

    /// Says that it has no onion service, and where it is on this machine.
    pub fn is_near(&self, place: String) {
        let _ = self.near.set(place);
    }

    /// Where functions are written down.
    pub fn registry(&self) -> Registry {
        self.host.registry.clone()
    }

    /// Its functions.
    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    /// Says where it can be reached, or that it cannot at the moment.
    pub fn publish(&self, onion: Option<String>) {
        *self.onion.lock().unwrap_or_else(PoisonError::into_inner) = onion;
    }

    /// What it says of itself.
    pub fn description(&self) -> Description {
        let policy = self.policy();
        let offered = self.images.iter().filter(|(name, _)| policy.offers.image.contains(name));
        Description {
            name: self.config.name.clone(),
            contact: self.config.contact.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            tee: self.tee(),
            images: offered.map(|(name, image)| (name.clone(), image.packages.clone())).collect(),
            policy: Policy::clone(&policy),
        }
    }

    /// What protects functions from this node: the conclave beside it, or the one that this runs in.
    fn tee(&self) -> String {
        let beside = || self.conclave.as_ref().and_then(Conclave::kind);
        self.config.inside.clone().or_else(beside).unwrap_or_else(|| "none".into())
    }

    /// The memory for bundles that are coming.
    pub fn incoming(&self) -> Arc<Room> {
        Arc::clone(&self.host.incoming)
    }

    /// Numbers for the operator.
    pub fn status(&self) -> NodeStatus {
        let (functions, policy) = (self.functions.all(), self.policy());
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            onion: self.onion.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            published_again: self.published_again.load(Ordering::Relaxed),
            up: Span::seconds(self.born.elapsed().as_secs()),
            awake: functions.iter().filter_map(|installed| installed.container.get()).filter(|container| container.is_awake()).count(),
            functions: functions.len(),
            functions_max: policy.offers.functions,
            functions_today: self.places.today(),
            functions_per_day: policy.offers.functions_per_day,
            ready: self.host.pool.ready(),
            sessions: self.sessions.len(),
            connections: self.config.limits.connections - self.host.connections.available_permits(),
            storage_granted: Size::bytes(
                (units(self.config.limits.storage) - self.storage.available_permits() as u64).saturating_mul(STORAGE_UNIT),
            ),
            seem_over: self.seem_over.load(Ordering::Relaxed),
            conclave: self.conclave.as_ref().map(Conclave::status),
        }
    }

    /// The function of an invocation token, and the key to what it keeps.
    ///
    /// # Errors
    /// When there is none, or it was installed before the node was started and is no longer admitted.
    pub async fn function(&self, token: &InvocationToken) -> Result<(Arc<Container>, SealKey), StartError> {
        let installed = self.functions.by_invocation(token.digest()).map_err(StartError::Refused)?;
        let key = SealKey::of(token);
        Ok((self.open(&installed, &key).await?, key))
    }

    /// Opens what is sealed, if it is.
    ///
    /// # Errors
    /// When it is no longer admitted, the key is another's, or the node fails.
    pub async fn open(&self, installed: &Arc<Installed>, key: &SealKey) -> Result<Arc<Container>, StartError> {
        let opening = installed.container.get_or_try_init(|| async {
            let (registry, id, secret) = (self.host.registry.clone(), installed.record.id, key.clone());
            let (head, used) = blocking(move || Ok((registry.head(id, &secret)?, registry.used(id, &secret)?))).await.map_err(|error| match error {
                StoreError::Missing => StartError::Refused(Refusal::UnknownToken),
                StoreError::Damaged { .. } => StartError::Refused(Refusal::BadRequest(
                    "what the node keeps of this function does not open with its token: it was installed with a `bento-seal` of another, or is damaged".into(),
                )),
                error => trouble(error),
            })?;
            let (depth, bundle) = head.split_first_chunk().ok_or(StartError::Trouble(Trouble::Late("a function's head")))?;
            let depth = u32::from_le_bytes(*depth);
            let mut archive = Archive::new(Arc::clone(&self.bundles));
            archive.push(bundle).map_err(StartError::Refused)?;
            let (bundle, grant) = self.admit(&archive, depth)?;
            let mut room = installed.room.lock().await;
            let mut taken = room.take().unwrap_or(Taken { place: None, bundle: None, storage: None });
            taken.bundle = archive.into_taken();
            let made = self.made(bundle, grant, &installed.invocation.to_string(), taken, Arc::clone(&installed.keep))?;
            Ok(Container::new(Made { lease: Arc::clone(&installed.lease), used, depth, ..made }, Arc::clone(&self.host)))
        });
        let container = opening.await?;
        if installed.is_removed() {
            // Ended while it was being opened.
            container.end(Bound::Shutdown);
            return Err(StartError::Refused(Refusal::UnknownToken));
        }
        Ok(Arc::clone(container))
    }

    /// Installs a function. The same again answers the same. The key is that under which it is kept.
    ///
    /// # Errors
    /// When it is not admitted, does not load, or the node fails.
    pub async fn install(
        &self,
        archive: Archive,
        (invocation, shutdown): (Digest, Digest),
        key: SealKey,
        depth: u32,
    ) -> Result<(FunctionStatus, bool), StartError> {
        let (bundle, grant) = self.admit(&archive, depth)?;
        if let Some(container) = self.same(&bundle, (invocation, shutdown), &key).await? {
            return Ok((container.status(Some(&key)).await, false));
        }
        let head = [&depth.to_le_bytes(), archive.bytes()].concat();
        let room = self.room(&grant, archive)?;
        let keep = Arc::new(Keep::new(self.host.registry.clone(), grant.storage().as_bytes()));
        let mut made = self.made(bundle, grant, &invocation.to_string(), room, Arc::clone(&keep))?;
        made.depth = depth;
        let container = self.start(made, Some(&key)).await?;
        let given_up = container.over.clone().drop_guard();

        // The same may have been asked twice at a time: a client that lost its circuit does not know that the first is still loading.
        let _one = self.installing.lock().await;
        if let Some(other) = self.same(&container.bundle, (invocation, shutdown), &key).await? {
            container.end(Bound::Shutdown);
            return Ok((other.status(Some(&key)).await, false));
        }
        let (registry, secret, lease) = (self.host.registry.clone(), key.clone(), Arc::clone(&container.lease));
        let (storage, keep_awake) = (container.grant.storage().as_bytes(), container.grant.keep_awake());
        let lifetime = container.grant.lifetime().duration();
        let record = blocking(move || {
            let ends = SystemTime::now() + lease.left();
            registry.add(New { invocation, shutdown, ends, lifetime, storage, keep_awake, key: &secret, head: &head })
        });
        let record = record.await.map_err(trouble)?;
        keep.at(record.id);
        let lease = Arc::clone(&container.lease);
        let installed = Arc::new(Installed::new(record, lease, Arc::clone(&keep), None, Some(Arc::clone(&container))));
        if let Err(refusal) = self.functions.add(installed) {
            let _ = keep.erase().await;
            return Err(StartError::Refused(refusal));
        }
        given_up.disarm();
        Ok((container.status(Some(&key)).await, true))
    }

    /// The function that is already here under these tokens, if it is this one.
    async fn same(&self, bundle: &Bundle, tokens: (Digest, Digest), key: &SealKey) -> Result<Option<Arc<Container>>, StartError> {
        let Some(installed) = self.functions.same(tokens.0, tokens.1).map_err(StartError::Refused)? else { return Ok(None) };
        let container = self.open(&installed, key).await?;
        if container.bundle.files == bundle.files { Ok(Some(container)) } else { Err(StartError::Refused(Refusal::TokenInUse)) }
    }

    /// Makes a function's lease begin anew.
    ///
    /// # Errors
    /// When there is none of this token, or the node fails.
    pub async fn renew(&self, token: &ShutdownToken) -> Result<Span, StartError> {
        let installed = self.functions.by_shutdown(token.digest()).map_err(StartError::Refused)?;
        let (registry, id, lease) = (self.host.registry.clone(), installed.record.id, Arc::clone(&installed.lease));
        installed.renew();
        // Written down before it is told.
        blocking(move || registry.renew(id, SystemTime::now() + lease.left())).await.map_err(|error| match error {
            StoreError::Missing => StartError::Refused(Refusal::UnknownToken),
            error => trouble(error),
        })?;
        if installed.is_removed() {
            return Err(StartError::Refused(Refusal::UnknownToken));
        }
        Ok(Span::millis(u64::try_from(installed.lease.left().as_millis()).unwrap_or(u64::MAX)))
    }

    /// Starts a function for one call.
    ///
    /// # Errors
    /// When it is not admitted, does not load, or the node fails.
    pub async fn run(&self, archive: Archive, depth: u32) -> Result<(Arc<Container>, Run), StartError> {
        let (bundle, grant) = self.admit(&archive, depth)?;
        let number = self.isolations.fetch_add(1, Ordering::Relaxed);
        let room = self.room(&grant, archive)?;
        let keep = Arc::new(Keep::new(self.host.registry.clone(), grant.storage().as_bytes()));
        let mut made = self.made(bundle, grant, &format!("run {number}"), room, keep)?;
        made.depth = depth;
        let container = self.start(made, None).await?;
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.retain(|run| run.strong_count() > 0);
        runs.push(Arc::downgrade(&container));
        drop(runs);
        let run = Run(Arc::downgrade(&container));
        Ok((container, run))
    }

    fn admit(&self, archive: &Archive, depth: u32) -> Result<(Bundle, Grant), StartError> {
        if self.stopping.is_cancelled() {
            return Err(StartError::Refused(Refusal::Stopping));
        }
        let bundle = Bundle::unpack(archive.bytes()).map_err(|error| StartError::Refused(Refusal::BadBundle(error.to_string())))?;
        let policy = self.policy();
        policy.permits_depth(depth).map_err(StartError::Refused)?;
        let grant = policy.admit(&bundle.manifest).map_err(StartError::Refused)?;
        Ok((bundle, grant))
    }

    /// What a function takes of the node.
    fn room(&self, grant: &Grant, archive: Archive) -> Result<Taken, StartError> {
        let place = self.places.take().map_err(StartError::Refused)?;
        let full = || {
            let limit = self.config.limits.storage.as_bytes();
            StartError::Refused(Refusal::Busy { what: "bytes of storage promised", limit })
        };
        let storage = match u32::try_from(units(grant.storage())).map_err(|_| full())? {
            0 => None,
            units => Some(Arc::clone(&self.storage).try_acquire_many_owned(units).map_err(|_| full())?),
        };
        let bundle = archive.kept_in(&self.bundles).map_err(StartError::Refused)?;
        Ok(Taken { place: Some(place), bundle: Some(bundle), storage })
    }

    /// All that a container is made of, its lease as granted and nothing used.
    fn made(&self, bundle: Bundle, grant: Grant, isolation: &str, room: Taken, keep: Arc<Keep>) -> Result<Made, StartError> {
        let image = self.images.get(grant.image()).ok_or(StartError::Trouble(Trouble::Late("an image that the policy offers")))?;
        // Another process of the same tor may use the same words; the node's birth makes them its own.
        let isolation = Isolation::new(&format!("function {:?} {isolation}", self.born));
        let lease = Arc::new(Lease::new(grant.lifetime().duration()));
        Ok(Made { bundle, grant, image: Arc::clone(image), isolation, room, keep, lease, used: Used::default(), depth: 0 })
    }

    async fn start(&self, made: Made, key: Option<&SealKey>) -> Result<Arc<Container>, StartError> {
        tokio::select! {
            launched = Container::launch(made, Arc::clone(&self.host), key) => launched,
            () = self.stopping.cancelled() => Err(StartError::Refused(Refusal::Stopping)),
        }
    }

    /// All that are here, installed or for one call.
    fn containers(&self) -> Vec<Arc<Container>> {
        let runs: Vec<Arc<Container>> = self.runs.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        self.functions.all().into_iter().filter_map(|installed| installed.container.get().cloned()).chain(runs).collect()
    }

    /// Waits until no session is open.
    pub async fn quiet(&self) {
        self.sessions.close();
        self.sessions.wait().await;
    }

    /// Takes no new work, waits for what runs as long as the configuration says, and ends what is then left. What detached invocations have put
    /// out is kept, with how they ended.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.host.pool.close();
        let all = self.containers();
        let quiet = async {
            for container in &all {
                container.quiet().await;
                container.detached.quiet().await;
            }
        };
        let _ = tokio::time::timeout(self.config.limits.stop.duration(), quiet).await;
        for container in &all {
            container.end(Bound::Stop);
        }
        let ended = async {
            for container in &all {
                container.ended().await;
                container.detached.quiet().await;
            }
        };
        let _ = tokio::time::timeout(ENDED_DEADLINE, ended).await;
        let registry = self.registry();
        if let Err(error) = blocking(move || registry.see(SystemTime::now())).await {
            error!(%error, "the time could not be written down");
        }
    }
}

/// How many units of storage a size takes.
fn units(size: Size) -> u64 {
    size.as_bytes().div_ceil(STORAGE_UNIT)
}

/// Trouble with the disk, as what it means for a function that was to start.
pub(crate) fn trouble(error: StoreError) -> StartError {
    match error {
        StoreError::DiskFull => StartError::Refused(Refusal::DiskFull),
        error => StartError::Trouble(Trouble::System("keeping a function", std::io::Error::other(error))),
    }
}
