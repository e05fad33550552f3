//! A node: its policy, its functions, and what is asked of them, free of HTTP.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use bento_proto::{
    Bound, Digest, Grant, Manifest, Policy, Refusal, Span,
    bundle::Bundle,
    node::{Description, FunctionStatus},
};
use bento_tor::Isolation;

use crate::{
    archive::{Archive, Room},
    cgroup::Groups,
    config::Config,
    container::{Container, Host},
    egress::Egress,
    functions::Functions,
    image::Images,
    jail::{self, Trouble},
    places::Places,
    pool::Pool,
    process::StartError,
    share::Shares,
};

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
    bundles: Arc<Room>,
    runs: Mutex<Vec<Weak<Container>>>,
    isolations: AtomicU64,
    onion: Mutex<Option<String>>,
    /// How often the onion service was published again because nobody could reach it.
    pub(crate) published_again: AtomicU64,
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
    pub fn new(config: Config, policy: Policy, images: Images, jail: (PathBuf, Arc<Groups>, Shares), egress: Egress) -> Self {
        let limits = config.limits.clone();
        let (jail, groups, shares) = jail;
        Self {
            places: Places::new(policy.offers.functions, policy.offers.functions_per_day),
            bundles: Arc::new(Room::new(limits.bundles)),
            session_room: Arc::new(Semaphore::new(limits.sessions)),
            host: Arc::new(Host {
                pool: Pool::new(jail, &limits, groups),
                shares,
                egress,
                connections: Arc::new(Semaphore::new(limits.connections)),
                limits,
            }),
            config,
            policy: RwLock::new(Arc::new(policy)),
            images,
            functions: Arc::default(),
            runs: Mutex::default(),
            isolations: AtomicU64::new(0),
            onion: Mutex::default(),
            published_again: AtomicU64::new(0),
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

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another policy in force, for new installs.
    pub fn apply(&self, policy: Policy) -> Meant {
        let before = self.policy();
        let here: Vec<Arc<Container>> = self.containers().into_iter().filter(|container| container.reason().is_none()).collect();
        let meant = Meant {
            changed: policy.changed(&before),
            functions: here.len(),
            not_admitted: here.iter().filter(|container| policy.admit(&container.bundle.manifest).is_err()).count(),
        };
        self.places.set(policy.offers.functions, policy.offers.functions_per_day);
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        meant
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
            tee: "none".into(),
            images: offered.map(|(name, image)| (name.clone(), image.packages.clone())).collect(),
            policy: Policy::clone(&policy),
        }
    }

    /// The memory for bundles.
    pub fn bundles(&self) -> Arc<Room> {
        Arc::clone(&self.bundles)
    }

    /// Numbers for the operator.
    pub fn status(&self) -> NodeStatus {
        let (functions, policy) = (self.functions.all(), self.policy());
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            onion: self.onion.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            published_again: self.published_again.load(Ordering::Relaxed),
            up: Span::seconds(self.born.elapsed().as_secs()),
            awake: functions.iter().filter(|container| container.is_awake()).count(),
            functions: functions.len(),
            functions_max: policy.offers.functions,
            functions_today: self.places.today(),
            functions_per_day: policy.offers.functions_per_day,
            ready: self.host.pool.ready(),
            sessions: self.sessions.len(),
            connections: self.config.limits.connections - self.host.connections.available_permits(),
        }
    }

    /// Installs a function. The same again answers the same.
    ///
    /// # Errors
    /// When it is not admitted, does not load, or the node fails.
    pub async fn install(&self, archive: Archive, invocation: Digest, shutdown: Digest) -> Result<(FunctionStatus, bool), StartError> {
        let (bundle, grant) = self.admit(&archive)?;
        if let Some(container) = self.functions.same(invocation, shutdown, &bundle.files).map_err(StartError::Refused)? {
            return Ok((container.status(), false));
        }
        let container = self.launch(bundle, grant, archive, &invocation.to_string()).await?;
        if let Err(refusal) = self.functions.add(invocation, shutdown, Arc::clone(&container)) {
            container.end(Bound::Shutdown);
            // The same may have been asked twice at a time: a client that lost its circuit does not know that the first is still loading.
            let other = self.functions.same(invocation, shutdown, &container.bundle.files).map_err(StartError::Refused)?;
            return other.map(|other| (other.status(), false)).ok_or(StartError::Refused(refusal));
        }
        Ok((container.status(), true))
    }

    /// Starts a function for one call.
    ///
    /// # Errors
    /// When it is not admitted, does not load, or the node fails.
    pub async fn run(&self, archive: Archive) -> Result<(Arc<Container>, Run), StartError> {
        let (bundle, grant) = self.admit(&archive)?;
        let number = self.isolations.fetch_add(1, Ordering::Relaxed);
        let container = self.launch(bundle, grant, archive, &format!("run {number}")).await?;
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.retain(|run| run.strong_count() > 0);
        runs.push(Arc::downgrade(&container));
        drop(runs);
        let run = Run(Arc::downgrade(&container));
        Ok((container, run))
    }

    fn admit(&self, archive: &Archive) -> Result<(Bundle, Grant), StartError> {
        if self.stopping.is_cancelled() {
            return Err(StartError::Refused(Refusal::Stopping));
        }
        let bundle = Bundle::unpack(archive.bytes()).map_err(|error| StartError::Refused(Refusal::BadBundle(error.to_string())))?;
        let grant = self.policy().admit(&bundle.manifest).map_err(StartError::Refused)?;
        Ok((bundle, grant))
    }

    async fn launch(&self, bundle: Bundle, grant: Grant, archive: Archive, isolation: &str) -> Result<Arc<Container>, StartError> {
        let place = self.places.take().map_err(StartError::Refused)?;
        let image = self.images.get(grant.image()).ok_or(StartError::Trouble(Trouble::Late("an image that the policy offers")))?;
        // Another process of the same tor may use the same words; the node's birth makes them its own.
        let isolation = Isolation::new(&format!("function {:?} {isolation}", self.born));
        let launching =
            Container::launch(bundle, grant, Arc::clone(image), Arc::clone(&self.host), isolation, (place, archive.into_taken()));
        tokio::select! {
            launched = launching => launched,
            () = self.stopping.cancelled() => Err(StartError::Refused(Refusal::Stopping)),
        }
    }

    /// All that are here, installed or for one call.
    fn containers(&self) -> Vec<Arc<Container>> {
        let runs: Vec<Arc<Container>> = self.runs.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        self.functions.all().into_iter().chain(runs).collect()
    }

    /// Waits until no session is open.
    pub async fn quiet(&self) {
        self.sessions.close();
        self.sessions.wait().await;
    }

    /// Takes no new work, waits for what runs as long as the configuration says, and ends what is then left.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.host.pool.close();
        let all = self.containers();
        let quiet = async {
            for container in &all {
                container.quiet().await;
            }
        };
        let _ = tokio::time::timeout(self.config.limits.stop.duration(), quiet).await;
        for container in &all {
            container.end(Bound::Stop);
        }
        for container in &all {
            container.ended().await;
        }
    }
}
