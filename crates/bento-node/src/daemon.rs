//! `bentod run`, from the configuration to the stop: what is started in which order, and how it ends.
//!
//! 1. configuration and policy are read, and a relay is asked for its rules where the policy wants them; 2. the state directory is locked; 3. a jail is put up and probed: without walls nothing starts;
//! 4. images are prepared; 5. the listeners open; 6. tor starts, and its onion service is published; started again if it ends.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::Signal,
    task::JoinSet,
};
use tracing::{info, warn};

use bento_proto::Policy;
use bento_tor::{
    Auth, ControlAddr, ControlError, Controller, Managed, ManagedError, OnionService, Patience, Publication, PublicationError, Setup,
    Socks, Target, Told,
};

use crate::{
    cgroup::Groups,
    check, conclave,
    config::{Config, control_address},
    egress::Egress,
    http::{self, Door, Listener},
    image::{self, ImageError, Images},
    keep::blocking,
    node::Node,
    policy,
    share::Shares,
    store::{Registry, StoreError},
    vsock,
};

/// The port of the node's onion service: plain HTTP, since the onion service itself encrypts and authenticates.
const ONION_PORT: u16 = 80;

/// First and longest pause before tor is started again.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long the first connection to the Tor network may take; on a slow line it does take minutes.
const BOOTSTRAP_DEADLINE: Duration = Duration::from_secs(300);

/// Why a node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory cannot be used.
    #[error("using the state directory {path}")]
    State {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another node has the state directory.
    #[error("another bentod runs with the state directory {0}")]
    Running(PathBuf),
    /// The walls do not stand.
    #[error("this machine cannot put up every wall, so no function may run on it: {0}")]
    Walls(String),
    /// An image cannot be offered.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// What functions keep cannot be read.
    #[error("opening what functions keep")]
    Store(#[from] StoreError),
    /// The resolver cannot be set up.
    #[error("setting up name resolution: {0}")]
    Resolver(String),
    /// A listener cannot be opened.
    #[error("listening at {place}")]
    Listen {
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// No tor program.
    #[error("no tor program was found; install one (on Debian: apt install tor), or name it in bentod.toml under [tor]")]
    NoTor,
    /// A task that runs as long as the node ended before it: a defect.
    #[error("a listener ended by itself")]
    Deaf,
    /// A control address cannot be read.
    #[error("[tor] control = \"{0}\" is neither an address such as 127.0.0.1:9051 nor unix:PATH")]
    Control(String),
}

/// What was prepared before anything listens.
struct Prepared {
    jail: PathBuf,
    images: Images,
    groups: Arc<Groups>,
    shares: Shares,
    registry: Registry,
    _lock: fs::File,
}

/// What a node in a conclave has in place of a network of its own.
#[derive(Debug)]
pub struct Inside {
    /// The directory with the sockets that it and its host have.
    pub directory: PathBuf,
    /// Is the host another machine, which is reached over vsock?
    pub vsock: bool,
    /// Opens the channel in each of the host's streams.
    pub door: Door,
}

/// Runs a node in a conclave until it is told to stop: the same as outside, with sessions and connections through its host. Its policy is part of what is
/// attested, and is not read again.
///
/// # Errors
/// When it cannot start.
pub async fn run_inside(config: Config, policy: Policy, inside: Inside, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let prepared = prepare(&config).await?;
    let egress = Egress::through_host(&inside.directory, config.limits.connect.duration());
    let path = inside.directory.join(conclave::SESSIONS_SOCKET);
    let listener = Listener::Host(unix_listener(&path)?, inside.door);
    let jail = (prepared.jail, prepared.groups, prepared.shares);
    let node = Arc::new(Node::new(config, policy, prepared.images, jail, egress, prepared.registry));
    node.remember().await?;
    node.warm();
    let carrying = if inside.vsock { Some(vsock_carried(&inside.directory, vsock::HOST, vsock::Side::Inside, &node)?) } else { None };
    info!(socket = %path.display(), vsock = inside.vsock, "listening for the host");
    let serving = tokio::spawn(http::serve(listener, Arc::clone(&node)));
    stop.await;
    info!("stopping");
    node.stop().await;
    let _ = serving.await;
    drop(carrying);
    let _ = tokio::time::timeout(node.config().limits.stop.duration(), node.quiet()).await;
    let _ = fs::remove_file(path);
    info!("stopped");
    Ok(())
}

/// Runs a node until it is told to stop. At each `hangup` the policy is read again, from what `path` says by then.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    path: PathBuf,
    config: Config,
    policy: Policy,
    mut hangup: Signal,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let prepared = prepare(&config).await?;
    let mut near = None;
    let tor = if config.tor.off { None } else { Some(TorPlan::new(&config)?) };
    let socks: Arc<Mutex<Option<Socks>>> = Arc::default();
    let egress_socks = tor.as_ref().map(|_| {
        let socks = Arc::clone(&socks);
        Arc::new(move || socks.lock().unwrap_or_else(PoisonError::into_inner).clone()) as Arc<dyn Fn() -> Option<Socks> + Send + Sync>
    });
    let egress = Egress::new(egress_socks, &config.nameservers, config.limits.connect.duration())
        .map_err(|error| RunError::Resolver(error.to_string()))?;

    let operator = unix_listener(&config.state.join("operator.sock"))?;
    let mut listeners = Vec::new();
    let mut target = None;
    if let Some(listen) = config.listen {
        let listener = tcp_listener(listen).await?;
        let address = listener.local_addr().map_err(|source| RunError::Listen { place: listen.to_string(), source })?;
        info!(%address, "listening");
        target = Some(Target::Tcp(address));
        near = Some(address.to_string());
        listeners.push(Listener::Tcp(listener));
    }
    match &tor {
        // The tor of this node runs as the same user, so a socket that only this user can open is enough.
        Some(TorPlan::Own(_)) => {
            let path = config.state.join("onion.sock");
            listeners.push(Listener::Unix(unix_listener(&path)?));
            target = Some(Target::Unix(path));
        }
        Some(TorPlan::Running { .. }) if target.is_none() => {
            let listener = tcp_listener(([127, 0, 0, 1], 0).into()).await?;
            target = listener.local_addr().ok().map(Target::Tcp);
            listeners.push(Listener::Tcp(listener));
        }
        _ => {}
    }

    let state = config.state.clone();
    let beside = config.conclave.clone();
    let streams = match &beside.directory {
        Some(directory) => Vec::from(conclave::sockets(directory)),
        None => Vec::new(),
    };
    let streams: Vec<_> = streams.into_iter().map(|(path, way)| Ok((unix_listener(&path)?, way))).collect::<Result<_, RunError>>()?;
    let jail = (prepared.jail, prepared.groups, prepared.shares);
    let node = Arc::new(Node::new(config, policy, prepared.images, jail, egress, prepared.registry));
    if let Some(place) = near.filter(|_| tor.is_none()) {
        node.is_near(place);
    }
    node.remember().await?;
    node.warm();
    let mut serving: JoinSet<()> = listeners.into_iter().map(|listener| http::serve(listener, Arc::clone(&node))).collect();
    let opening: JoinSet<()> = streams.into_iter().map(|(listener, way)| conclave::serve(listener, way, Arc::clone(&node))).collect();
    let stapling = match beside.directory.as_ref().zip(beside.collateral) {
        Some((directory, file)) => {
            let listener = unix_listener(&directory.join(conclave::COLLATERAL_SOCKET))?;
            Some(tokio::spawn(conclave::staple(listener, file, Arc::clone(&node))))
        }
        None => None,
    };
    let carrying = match beside.directory.as_ref().zip(beside.vsock) {
        Some((directory, guest)) => Some(vsock_carried(directory, guest, vsock::Side::Host, &node)?),
        None => None,
    };
    let watched = Arc::clone(&node);
    let watching = tokio::spawn(async move {
        if let Some(conclave) = watched.conclave() {
            conclave.watch().await;
        }
    });
    let operating = tokio::spawn(http::operator(operator, Arc::clone(&node)));
    let publishing = tor.zip(target).map(|(plan, target)| tokio::spawn(keep_published(plan, target, Arc::clone(&node), socks)));

    let following = Arc::clone(&node);
    let reading = tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            policy::reload(&path, &following).await;
        }
    });

    let ended = tokio::select! {
        () = stop => Ok(()),
        // Whoever watches over the node starts it again; half a node that nobody reaches would stay.
        _ = serving.join_next() => Err(RunError::Deaf),
    };
    info!("stopping");
    reading.abort();
    watching.abort();
    // Functions first: their sessions end with them, and tor carries what they still have to say.
    node.stop().await;
    while serving.join_next().await.is_some() {}
    let _ = tokio::time::timeout(node.config().limits.stop.duration(), node.quiet()).await;
    if let Some(publishing) = publishing {
        let _ = publishing.await;
    }
    operating.abort();
    drop((opening, carrying));
    if let Some(directory) = &node.config().conclave.directory {
        for (path, _) in conclave::sockets(directory) {
            let _ = fs::remove_file(path);
        }
        if let Some(stapling) = stapling {
            stapling.abort();
            let _ = fs::remove_file(directory.join(conclave::COLLATERAL_SOCKET));
        }
    }
    for socket in ["operator.sock", "onion.sock"] {
        let _ = fs::remove_file(state.join(socket));
    }
    info!("stopped");
    ended
}

/// Erases all functions of a node that does not run. Says how many there were.
///
/// # Errors
/// When it runs, or the disk fails.
pub async fn forget(config: &Config) -> Result<usize, RunError> {
    let _lock = locked(config)?;
    let state = config.state.clone();
    Ok(blocking(move || {
        let registry = Registry::open(&state)?;
        let all = registry.all()?;
        for record in &all {
            registry.remove(record.id)?;
        }
        Ok(all.len())
    })
    .await?)
}

/// The state directory, which nobody else has then.
fn locked(config: &Config) -> Result<fs::File, RunError> {
    let state = |source| RunError::State { path: config.state.clone(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.state).map_err(state)?;
    fs::set_permissions(&config.state, fs::Permissions::from_mode(0o700)).map_err(state)?;
    let lock =
        fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(config.state.join("lock")).map_err(state)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| RunError::Running(config.state.clone()))?;
    Ok(lock)
}

async fn prepare(config: &Config) -> Result<Prepared, RunError> {
    let lock = locked(config)?;
    let state = |source| RunError::State { path: config.state.clone(), source };

    // Before anything is started, since it may move this process to another group.
    let groups = Arc::new(Groups::new(&config.state));
    info!("{}", groups.holds());
    let shares = Shares::new().map_err(state)?;
    let jail = check::jail_program(config);
    let walls = check::walls(&jail).await.map_err(|error| RunError::Walls(format!("{}: {error}", jail.display())))?;
    let down: Vec<String> = walls.iter().filter(|wall| !wall.holds).map(|wall| format!("{} ({})", wall.wall, wall.detail)).collect();
    if !down.is_empty() || walls.is_empty() {
        return Err(RunError::Walls(down.join(", ")));
    }
    info!(walls = walls.len(), "every wall stands");
    let images = image::prepare(&config.images, &config.state).await?;
    let state = config.state.clone();
    let registry = blocking(move || Registry::open(&state)).await?;
    Ok(Prepared { jail, images, groups, shares, registry, _lock: lock })
}

async fn tcp_listener(address: std::net::SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { place: address.to_string(), source })
}

fn vsock_carried(directory: &Path, other: u32, side: vsock::Side, node: &Node) -> Result<JoinSet<()>, RunError> {
    vsock::carry(directory, other, side, &node.config().limits)
        .map_err(|source| RunError::Listen { place: format!("vsock and {}", directory.display()), source })
}

fn unix_listener(path: &Path) -> Result<UnixListener, RunError> {
    // Left by a node that was killed; the lock says that none runs.
    let _ = fs::remove_file(path);
    UnixListener::bind(path).map_err(|source| RunError::Listen { place: path.display().to_string(), source })
}

/// Which tor carries the node.
enum TorPlan {
    /// A child of this process.
    Own(Setup),
    /// One that runs already.
    Running { control: ControlAddr, socks: Socks },
}

impl TorPlan {
    fn new(config: &Config) -> Result<Self, RunError> {
        if let (Some(control), Some(socks)) = (&config.tor.control, config.tor.socks) {
            let control = control_address(control).ok_or_else(|| RunError::Control(control.clone()))?;
            return Ok(Self::Running { control, socks: Socks::tcp(socks) });
        }
        let tor = config.tor.program.clone().or_else(bento_tor::find_tor).ok_or(RunError::NoTor)?;
        let mut setup = Setup::new(tor, config.state.join("tor"));
        setup.lines = config.tor.lines.clone();
        setup.deadline = BOOTSTRAP_DEADLINE;
        Ok(Self::Own(setup))
    }
}

/// Keeps the onion service published as long as the node runs, whatever tor does.
async fn keep_published(plan: TorPlan, target: Target, node: Arc<Node>, socks: Arc<Mutex<Option<Socks>>>) {
    let set_socks = |value| *socks.lock().unwrap_or_else(PoisonError::into_inner) = value;
    let (mut pause, mut patience) = (RESTART_PAUSE.0, Patience::default());
    while !node.stopping.is_cancelled() {
        let started = std::time::Instant::now();
        let lost = match &plan {
            TorPlan::Own(setup) => own(setup, &target, &node, &patience, &set_socks).await,
            TorPlan::Running { control, socks } => running(control, socks, &target, &node, &patience, &set_socks).await,
        };
        // Starting again ends the streams of functions and clients, so it comes ever more rarely where it does not help.
        patience.again = match &lost {
            Err(Lost::Publication(PublicationError::Unreached { times, .. })) => times.saturating_mul(2),
            _ => Patience::default().again,
        };
        node.publish(None);
        set_socks(None);
        let Err(error) = lost else { return };
        if started.elapsed() > RESTART_PAUSE.1 {
            pause = RESTART_PAUSE.0;
        }
        warn!(again_in = ?pause, "{error}");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = node.stopping.cancelled() => return,
        }
        pause = (pause * 2).min(RESTART_PAUSE.1);
    }
}

#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("tor did not start: {0}")]
    Start(#[from] ManagedError),
    #[error("tor does not do as it is told: {0}")]
    Control(#[from] ControlError),
    #[error("{}", crate::policy::chain(.0))]
    Publication(#[from] PublicationError),
    #[error("tor ended")]
    Ended,
    #[error("keeping the onion service's key")]
    Key(#[source] io::Error),
}

async fn own(setup: &Setup, target: &Target, node: &Node, patience: &Patience, set_socks: &impl Fn(Option<Socks>)) -> Result<(), Lost> {
    info!(program = %setup.tor.display(), "starting tor");
    let mut told = 0;
    let starting = Managed::start(setup, |percent, phase| {
        if percent >= told + 25 || percent == 100 {
            told = percent;
            info!(percent, phase, "connecting to the Tor network");
        }
    });
    let tor = tokio::select! {
        tor = starting => tor?,
        () = node.stopping.cancelled() => return Ok(()),
    };
    let ended = match publish(&tor.control(), target, node, patience).await {
        Err(lost) => Err(lost),
        Ok(mut publication) => {
            let socks = tor.socks();
            set_socks(Some(socks.clone()));
            let lending = lend(node, tor.control(), socks.clone(), true);
            tokio::select! {
                // First, since its end is the end of its control connection as well.
                biased;
                _ = tor.exited() => Err(Lost::Ended),
                () = node.stopping.cancelled() => Ok(()),
                lost = lending => Err(lost),
                error = keep_reached(&mut publication, &socks, node) => Err(error),
            }
        }
    };
    if ended.is_ok() {
        // What functions still have to say goes through this tor, so it stays until they are done.
        let grace = node.config().limits.stop.duration();
        let _ = tokio::time::timeout(grace, node.quiet()).await;
    }
    tor.stop().await;
    ended
}

async fn running(
    control: &ControlAddr,
    socks: &Socks,
    target: &Target,
    node: &Node,
    patience: &Patience,
    set_socks: &impl Fn(Option<Socks>),
) -> Result<(), Lost> {
    let controller = Controller::connect(control, &Auth::Automatic).await?;
    let mut publication = publish(&controller, target, node, patience).await?;
    set_socks(Some(socks.clone()));
    let lending = lend(node, controller.clone(), socks.clone(), false);
    tokio::select! {
        biased;
        () = controller.closed() => Err(Lost::Ended),
        lost = lending => Err(lost),
        error = keep_reached(&mut publication, socks, node) => Err(error),
        // The onion service goes with the control connection that made it.
        () = node.stopping.cancelled() => { node.quiet().await; Ok(()) }
    }
}

/// Lets functions have their part in this tor. Goes on by itself, and says if tor does not do as it is told.
async fn lend(node: &Node, controller: Controller, socks: Socks, own: bool) -> Lost {
    let (tor, state) = (node.tor(), node.config().state.clone());
    let serving = tokio::spawn(async move { tor.serve(controller, socks, own, &state).await });
    match serving.await {
        Ok(Err(error)) => error.into(),
        _ => Lost::Ended,
    }
}

/// Publishes the node's onion service, always with the same key.
async fn publish(controller: &Controller, target: &Target, node: &Node, patience: &Patience) -> Result<Publication, Lost> {
    let path = node.config().state.join("onion.key");
    let kept = match fs::read_to_string(&path) {
        Ok(key) => Some(key.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Lost::Key(error)),
    };
    let mut service = OnionService::new(ONION_PORT, target.clone());
    service.key = kept.clone();
    let publication = Publication::new(controller, service, patience.clone()).await?;
    if let (None, Some(key)) = (kept, publication.key()) {
        keep(&path, key).map_err(Lost::Key)?;
    }
    info!(address = %publication.address(), "published");
    node.publish(Some(publication.address().to_owned()));
    Ok(publication)
}

/// Has the onion service watched and published again where it is not reached. Ends when that does not help, or tor is gone.
async fn keep_reached(publication: &mut Publication, socks: &Socks, node: &Node) -> Lost {
    let mut was_reached = false;
    let told = |told| match told {
        // Once, and again after it was not so.
        Told::Reached => {
            if !std::mem::replace(&mut was_reached, true) {
                info!("the onion service is reached through Tor");
            }
        }
        Told::Again(why, after) => {
            was_reached = false;
            node.published_again.fetch_add(1, Ordering::Relaxed);
            warn!(?after, "the onion service is published again: {why}");
        }
    };
    publication.keep(socks, told).await.into()
}

/// Writes a file that is there as a whole or not at all, also after a power cut.
fn keep(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
