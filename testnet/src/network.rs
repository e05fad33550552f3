//! The network: up, and surely down again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bento_tor::{Managed, ManagedError, Setup, Socks};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::claim::Claim;
use crate::dns::{Names, Resolver};
use crate::layout::{Relay, Role, SOCKS_PORT, VOTING_INTERVAL, common_lines, lines, voting_offset};
use crate::prepare::{home, identities, private_file};
use crate::{Ca, Trouble};

/// How long another network may run before we give up. A test binary takes a minute or two.
pub(crate) const CLAIM_DEADLINE: Duration = Duration::from_secs(300);

/// How long all daemons may take to connect. A first start takes half a minute on a quiet machine.
const UP_DEADLINE: Duration = Duration::from_secs(180);

/// How long daemons of an ended network may take to go. They end at once, if the machine is not very busy.
const LEFT_DEADLINE: Duration = Duration::from_secs(20);

/// A running private network. Dropping it kills all its daemons.
#[derive(Debug)]
pub struct Network {
    directory: PathBuf,
    // In the order in which they are dropped: the daemons go before the right to run them.
    daemons: Vec<(Relay, Managed)>,
    names: Names,
    _resolver: Resolver,
    _claim: Claim,
}

/// Where the prepared network is kept when nobody says otherwise.
pub fn default_directory() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    cache.or_else(home).unwrap_or_else(std::env::temp_dir).join("bento").join("testnet")
}

/// The `tor` program.
pub(crate) fn tor() -> Result<PathBuf, Trouble> {
    bento_tor::find_tor().ok_or_else(|| Trouble::daemon("tor")(ManagedError::NoTor))
}

impl Network {
    /// Brings the network up and waits until every daemon is connected. `progress` hears what goes on, line by line.
    pub async fn up(directory: &Path, mut progress: impl FnMut(&str) + Send) -> Result<Self, Trouble> {
        let directory = std::path::absolute(directory).map_err(Trouble::at("finding", directory))?;
        let claim = Claim::take(&directory, CLAIM_DEADLINE, &mut progress).await?;
        let relays = identities(&directory, &mut progress).await?;
        let end = Instant::now() + LEFT_DEADLINE;
        for relay in &relays {
            free(relay.control_port(), end).await?;
        }
        let names = Names::new();
        let resolver = Resolver::start(names.clone()).await?;

        progress(&format!("starting {} daemons", relays.len()));
        let tor = tor()?;
        let offset = voting_offset(SystemTime::now());
        let stale = stale(&home(&directory, &relays[0].name).join("cached-consensus"));
        let mut tasks = JoinSet::new();
        for relay in relays.clone() {
            let setup = Setup {
                tor: tor.clone(),
                data: home(&directory, &relay.name),
                lines: lines(&relay, &relays, &directory, offset),
                deadline: UP_DEADLINE,
            };
            tasks.spawn(async move {
                let managed = start(&setup, stale).await.map_err(Trouble::daemon(&relay.name))?;
                Ok::<_, Trouble>((relay, managed))
            });
        }
        let mut daemons = Vec::new();
        while let Some(done) = tasks.join_next().await {
            daemons.push(done.map_err(|error| Trouble::doing("starting the daemons")(error.into()))??);
            progress(&format!("{} of {} daemons are connected", daemons.len(), relays.len()));
        }
        daemons.sort_by_key(|(relay, _)| relay.address);
        Ok(Self { directory, daemons, names, _resolver: resolver, _claim: claim })
    }

    /// Where it is kept.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The SOCKS port of the client.
    pub fn client_socks(&self) -> SocketAddr {
        let client = self.daemons.iter().find(|(relay, _)| relay.role == Role::Client);
        SocketAddr::new(client.map_or([127, 0, 0, 1].into(), |(relay, _)| relay.address.into()), SOCKS_PORT)
    }

    /// The same, as what `bento-tor` opens streams with.
    pub fn socks(&self) -> Socks {
        Socks::tcp(self.client_socks())
    }

    /// What a further `tor` needs in its configuration to be a client of this network.
    pub fn torrc_lines(&self) -> Vec<String> {
        common_lines(&self.relays())
    }

    /// The daemons, the client included.
    pub fn relays(&self) -> Vec<Relay> {
        self.daemons.iter().map(|(relay, _)| relay.clone()).collect()
    }

    /// One daemon, by its name, for its control connection or its end.
    pub fn daemon(&self, name: &str) -> Option<&Managed> {
        self.daemons.iter().find(|(relay, _)| relay.name == name).map(|(_, managed)| managed)
    }

    /// The names that the exits can resolve.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The certificate authority kept beside the network.
    pub fn ca(&self) -> Result<Ca, Trouble> {
        Ca::open(&self.directory.join("ca"))
    }

    /// Writes [`Network::torrc_lines`] into a file, and gives its path.
    pub fn torrc_file(&self) -> Result<PathBuf, Trouble> {
        let file = self.directory.join("torrc-lines");
        private_file(&file, (self.torrc_lines().join("\n") + "\n").as_bytes())?;
        Ok(file)
    }

    /// Takes the network down: asks every daemon to end, and kills those that do not.
    pub async fn down(self) {
        let mut tasks: JoinSet<_> = self.daemons.into_iter().map(|(_, managed)| managed.stop()).collect();
        while tasks.join_next().await.is_some() {}
    }
}

/// Starts one daemon and waits until it is connected; if the kept consensus is stale, also until it has a new one.
async fn start(setup: &Setup, stale: bool) -> Result<Managed, ManagedError> {
    let end = Instant::now() + setup.deadline;
    let managed = Managed::launch(setup).await?;
    let mut events = managed.control().events(&["NEWCONSENSUS"]).await.map_err(ManagedError::Control)?;
    managed.bootstrapped(setup.deadline, |_, _| {}).await?;
    if stale {
        let late = |_| ManagedError::Silent { deadline: setup.deadline };
        timeout_at(end, events.next()).await.map_err(late)?.map_err(ManagedError::Control)?;
    }
    Ok(managed)
}

/// Whether the consensus of the last run, of which this file is a copy, is too old to begin with.
///
/// Tor begins with one that is up to a day old. An onion service that is made in the time of such a consensus gets lost when the next one
/// comes, some seconds later: it is published for a time period that has long ended.
fn stale(consensus: &Path) -> bool {
    let age = consensus.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
    age.is_none_or(|age| age > Duration::from_secs(24 * VOTING_INTERVAL / 2))
}

/// Waits until nothing listens on a daemon's address any more: a daemon of an ended network may still be about to go.
async fn free(address: SocketAddr, end: Instant) -> Result<(), Trouble> {
    let gone = async {
        // A connection is closed when its daemon ends, so reading it to the end is the wait.
        while let Ok(mut daemon) = TcpStream::connect(address).await {
            let mut bytes = [0; 64];
            while let Ok(1..) = daemon.read(&mut bytes).await {}
        }
    };
    timeout_at(end, gone).await.map_err(|_| Trouble::AddressTaken(address))
}
