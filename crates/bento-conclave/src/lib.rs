//! A node's functions inside attested hardware.
//!
//! Everything but two things is `bento-node`, as outside: sessions come from the host, each with a channel to a client in it that ends here; and connections are
//! opened by the host, with TLS of the function's own in them. The host sees sizes, times and destinations, and what functions send without TLS.
//!
//! Here is what ends the channel, and the program around it. Which hardware signs is handed in, so that a simulator is a program of its own.
#![forbid(unsafe_code)]

mod program;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bento_attest::{
    Kind,
    channel::{self, ConclaveKey, Failed},
    evidence::{Collateral, EVIDENCE_BYTES_MAX, sha256},
    source::{NoEvidence, Source},
};
use bento_node::{
    conclave::{COLLATERAL_SOCKET, NODE_BYTES_MAX, QUOTE},
    config::Config,
    daemon::{self, Inside, RunError},
    http::{Door, Stream},
    policy,
};
use bento_proto::{CallPattern, Policy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use tracing::{debug, warn};

pub use program::{Arguments, program};

/// How long the host has to hand over collateral.
const COLLATERAL_DEADLINE: Duration = Duration::from_secs(5);

/// Where the collateral that goes with a quote comes from.
#[derive(Clone, Debug)]
pub enum Stapled {
    /// The host fetches it from the hardware's maker. It can hold it back, and not change it.
    ByHost,
    /// It is here. Only a simulator has that.
    Here(Box<Collateral>),
}

/// Who signs for this conclave.
pub struct Attester {
    source: Arc<Mutex<Box<dyn Source>>>,
    kind: Kind,
    stapled: Stapled,
}

/// Why a conclave cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// A file is wrong.
    #[error("{0}")]
    Config(String),
    /// There is no key for the channel.
    #[error("making the channel's key")]
    Key(#[from] Failed),
    /// The node in it cannot run.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// What is attested besides the code: both files.
#[derive(Debug)]
pub struct Attested {
    config: Config,
    policy: Policy,
    /// SHA-256 over both texts, each with its length in front, as clients see it.
    pub digest: [u8; 32],
}

impl Attester {
    /// One that has this source of quotes.
    pub fn new(source: Box<dyn Source>, stapled: Stapled) -> Self {
        Self { kind: source.kind(), source: Arc::new(Mutex::new(source)), stapled }
    }

    async fn quote(&self, asked: [u8; 64]) -> Result<Vec<u8>, NoEvidence> {
        let source = Arc::clone(&self.source);
        // The hardware takes milliseconds, in which a thread waits.
        let quoting = tokio::task::spawn_blocking(move || source.lock().unwrap_or_else(PoisonError::into_inner).quote(&asked));
        quoting.await.map_err(|_| NoEvidence::Unknown("the source of quotes failed".into()))?
    }

    async fn attest(&self, asked: [u8; 64], directory: &Path) -> Result<(Vec<u8>, Collateral), NoEvidence> {
        let quote = self.quote(asked).await?;
        let collateral = match &self.stapled {
            Stapled::Here(collateral) => Collateral::clone(collateral),
            Stapled::ByHost => by_host(directory).await?,
        };
        Ok((quote, collateral))
    }
}

async fn by_host(directory: &Path) -> Result<Collateral, NoEvidence> {
    let failed = |source| NoEvidence::File { doing: "asking the host for collateral", source };
    let asking = async {
        let stream = UnixStream::connect(directory.join(COLLATERAL_SOCKET)).await?;
        let mut bytes = Vec::new();
        stream.take(EVIDENCE_BYTES_MAX as u64).read_to_end(&mut bytes).await?;
        Ok(bytes)
    };
    let asked = timeout(COLLATERAL_DEADLINE, asking).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    Collateral::from_bytes(&asked.map_err(failed)?)
        .map_err(|malformed| NoEvidence::Unknown(format!("the host's collateral is none: {malformed}")))
}

impl Attested {
    /// Reads the file, which is one of a node without what a conclave has not, and the policy that it names.
    ///
    /// # Errors
    /// When one is missing or wrong, or offers what a conclave cannot keep.
    pub fn read(path: &Path) -> Result<Self, Trouble> {
        let wrong = |text: String| Trouble::Config(format!("{}: {text}", path.display()));
        let config = Config::read(path).map_err(|error| Trouble::Config(policy::chain(&error)))?;
        config.check_inside().map_err(wrong)?;
        let read =
            |path: &Path| std::fs::read_to_string(path).map_err(|error| Trouble::Config(format!("reading {}: {error}", path.display())));
        let (text, rules) = (read(path)?, read(&config.policy)?);
        let parsed = Policy::parse(&rules).map_err(|error| Trouble::Config(format!("{}: {error}", config.policy.display())))?;
        if parsed.offers.keep_awake {
            return Err(wrong("the policy offers `keep_awake`: the key to such a function would lie on the host's disk".into()));
        }
        let opens_tor = |call: &&CallPattern| call.to_string() == "*" || call.to_string().starts_with("tor.");
        if let Some(call) = parsed.offers.calls.iter().find(opens_tor) {
            return Err(wrong(format!("the policy offers `{call}`: the host's Tor is the host's")));
        }
        let field = |bytes: &str| [&(bytes.len() as u32).to_be_bytes()[..], bytes.as_bytes()].concat();
        let digest = sha256(&[field(&text), field(&rules)].concat());
        Ok(Self { config, policy: parsed, digest })
    }
}

/// Runs until it is told to stop. The directory is the one that it and its host have in common, unless the host is reached over vsock.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    attested: Attested,
    (directory, vsock): (PathBuf, bool),
    attester: Attester,
    stop: impl Future<Output = ()>,
) -> Result<(), Trouble> {
    let Attested { mut config, policy, digest } = attested;
    config.inside = Some(attester.kind.name().to_owned());
    // Made here, never stored: with it ends what was said under it.
    let end = Arc::new(End { attester, key: ConclaveKey::generate()?, digest, directory: directory.clone() });
    let door = Door(Arc::new(move |stream| {
        let end = Arc::clone(&end);
        Box::pin(async move { end.open(stream).await })
    }));
    daemon::run_inside(config, policy, Inside { directory, vsock, door }, stop).await?;
    Ok(())
}

/// The conclave's end of all channels.
struct End {
    attester: Attester,
    key: ConclaveKey,
    digest: [u8; 32],
    directory: PathBuf,
}

impl End {
    /// A stream of the host: the length of its node's name and the name, then what a client sends. Without a name the host asks what this is; with a length that no
    /// name has, for a quote.
    async fn open(&self, mut stream: UnixStream) -> Option<Box<dyn Stream>> {
        let length = usize::from(stream.read_u8().await.ok()?);
        if length == 0 {
            stream.write_all(self.attester.kind.name().as_bytes()).await.ok()?;
            return None;
        }
        if length == usize::from(QUOTE) {
            // No channel is bound to zeros: what that is is a digest.
            match self.attester.quote([0; 64]).await {
                Ok(quote) => stream.write_all(&quote).await.ok()?,
                Err(error) => warn!("there is no quote: {}", policy::chain(&error)),
            }
            return None;
        }
        if length > NODE_BYTES_MAX {
            return None;
        }
        let mut node = vec![0; length];
        stream.read_exact(&mut node).await.ok()?;
        let conclave = channel::Conclave { kind: self.attester.kind, key: &self.key, config_hash: self.digest, node: &node };
        match channel::accept(stream, &conclave, async |asked| self.attester.attest(asked, &self.directory).await).await {
            Ok(channel) => Some(Box::new(channel)),
            // The operator's to mend.
            Err(Failed::NoEvidence(error)) => {
                warn!("there is no evidence: {}", policy::chain(&error));
                None
            }
            Err(error) => {
                debug!("a session did not become a channel: {error}");
                None
            }
        }
    }
}
