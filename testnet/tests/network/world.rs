//! What all cases share: the runtime, the network, and helpers.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bento_tor::{Isolation, Managed, Setup, Socks, SocksError, Stream, find_tor};
use libtest_mimic::Failed;
use tempfile::TempDir;
use testnet::{Network, bento::SharedTor, default_directory};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::bento::{Bento, Lender};
use crate::cases::stem::Plain;

/// Longest a case may take. Each waits for Tor a few times, and one watches a flow of a minute, if need be twice.
const CASE_DEADLINE: Duration = Duration::from_secs(300);

/// Longest one stream may take to open.
pub(crate) const STREAM_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Outcome = Result<(), Error>;
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;
pub(crate) type Case = (&'static str, fn(&World) -> Running<'_>);

/// Writes a case: `case!("a sentence", function)`, where the function is `async fn function(world: &World) -> Outcome`.
macro_rules! case {
    ($sentence:literal, $function:path) => {
        ($sentence, |world| Box::pin($function(world)))
    };
}
pub(crate) use case;

pub(crate) struct World {
    runtime: Runtime,
    pub(crate) network: Network,
    /// A directory for the cases, gone at the end.
    pub(crate) scratch: TempDir,
    bento: OnceCell<Bento>,
    lender: OnceCell<Lender>,
    plain: OnceCell<Plain>,
    shared: OnceCell<SharedTor>,
}

impl World {
    pub(crate) fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let directory = std::env::var_os("BENTO_TESTNET").map_or_else(default_directory, Into::into);
        let network = runtime.block_on(Network::up(&directory, |line| eprintln!("testnet: {line}"))).expect("a network");
        let scratch = tempfile::tempdir().expect("a directory");
        Self { runtime, network, scratch, bento: OnceCell::new(), lender: OnceCell::new(), plain: OnceCell::new(), shared: OnceCell::new() }
    }

    pub(crate) fn run(&self, name: &str, case: fn(&World) -> Running<'_>) -> Result<(), Failed> {
        let started = Instant::now();
        let ended = self.runtime.block_on(async { tokio::time::timeout(CASE_DEADLINE, case(self)).await });
        eprintln!("testnet: a case took {:.1} s: {name}", started.elapsed().as_secs_f32());
        ended.map_err(|_| Failed::from("it did not end in time"))?.map_err(|error| Failed::from(chain(&*error)))
    }

    pub(crate) fn end(mut self) {
        self.runtime.block_on(async {
            if let Some(bento) = self.bento.take() {
                tokio::join!(bento.direct.program.stop(), bento.tor.program.stop(), bento.site.program.stop());
            }
            if let Some(plain) = self.plain.take() {
                plain.end().await;
            }
            if let Some(lender) = self.lender.take() {
                lender.node.program.stop().await;
            }
            if let Some(shared) = self.shared.take() {
                shared.stop().await;
            }
            self.network.down().await;
        });
    }

    /// The website and the nodes, started by the first case that needs them.
    pub(crate) async fn bento(&self) -> Result<&Bento, testnet::Trouble> {
        self.bento.get_or_try_init(|| Bento::start(self)).await
    }

    /// A node that lets functions use its Tor, started by the first case that needs it.
    pub(crate) async fn lender(&self) -> Result<&Lender, testnet::Trouble> {
        self.lender.get_or_try_init(|| Lender::start(self, "lender")).await
    }

    /// A `tor` for cases with many nodes, started by the first case that needs it.
    pub(crate) async fn shared_tor(&self) -> Result<&SharedTor, testnet::Trouble> {
        let directory = self.scratch.path().join("shared");
        self.shared.get_or_try_init(|| SharedTor::start(&self.network, &directory)).await
    }

    /// A `tor` with a control port, started by the first case that needs it.
    pub(crate) async fn plain(&self) -> Result<&Plain, Error> {
        self.plain.get_or_try_init(|| Plain::start(self)).await
    }

    /// The client's SOCKS port.
    pub(crate) fn socks(&self) -> Socks {
        self.network.socks()
    }

    /// What a further `tor` of this network is started with: a directory of its own, and more lines.
    pub(crate) fn tor(&self, name: &str, lines: &[&str]) -> Result<Setup, Error> {
        let setup = Setup::new(find_tor().ok_or("there is no `tor`")?, self.scratch.path().join(name));
        let own = lines.iter().map(|line| (*line).to_owned());
        Ok(Setup { lines: self.network.torrc_lines().into_iter().chain(own).collect(), ..setup })
    }

    /// Starts a further client of this network, and waits until it is connected.
    pub(crate) async fn client(&self, name: &str) -> Result<Managed, Error> {
        Ok(Managed::start(&self.tor(name, &[])?, |_, _| {}).await?)
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = format!("{error} ({error:?})");
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// A small HTTP server that answers every request with its text.
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Web {
    pub(crate) async fn start(address: &str, text: &'static str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    let length = text.len();
                    let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}");
                    let _ = stream.write_all(reply.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Fetches `/` and gives the body.
pub(crate) async fn fetch(socks: &Socks, host: &str, port: u16, isolation: &str) -> Result<String, SocksError> {
    fetch_path(socks, host, port, "/", isolation).await
}

/// Fetches a path and gives the body.
pub(crate) async fn fetch_path(socks: &Socks, host: &str, port: u16, path: &str, isolation: &str) -> Result<String, SocksError> {
    let mut stream = socks.connect(host, port, &Isolation::new(isolation), STREAM_DEADLINE).await?;
    get_path(&mut stream, host, path).await.map_err(SocksError::Broken)
}

/// Speaks one HTTP exchange over a stream.
pub(crate) async fn get(stream: &mut Stream, host: &str) -> std::io::Result<String> {
    get_path(stream, host, "/").await
}

async fn get_path(stream: &mut Stream, host: &str, path: &str) -> std::io::Result<String> {
    let exchange = async {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        Ok(reply.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    };
    tokio::time::timeout(STREAM_DEADLINE, exchange).await?
}
