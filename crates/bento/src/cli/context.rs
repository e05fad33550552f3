//! What every command needs: options, the list of nodes, the functions, a way to nodes.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bento::{Bounds, Client, Demand, NodeAddress, Stage, read_bundle};
use bento_proto::{Manifest, bundle::Bundle, limits::MANIFEST_BYTES_MAX};
use bento_tor::Socks;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{
    args::Options,
    ask, conclave,
    failure::{EVIDENCE, Failure},
    nodes::NodeList,
    place,
    show::Show,
    store::Store,
    tor::{self, Running},
};

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) options: Options,
    pub(crate) show: Arc<Show>,
    /// The way into the Tor network, once it was needed; or why there is none.
    tor: Mutex<Option<Result<Way, Failure>>>,
    /// Which conclaves are accepted, once it was needed.
    demand: std::sync::OnceLock<Result<Demand, Failure>>,
    /// Is nothing said but to conclaves?
    conclaves_only: AtomicBool,
    leave: std::sync::Mutex<Option<String>>,
}

#[derive(Debug)]
struct Way {
    socks: Socks,
    running: Option<Running>,
}

impl Context {
    pub(crate) fn new(options: Options) -> Self {
        let (show, conclaves_only) = (Arc::new(Show::new(options.progress)), AtomicBool::new(options.require_conclave));
        let (demand, leave) = (std::sync::OnceLock::new(), std::sync::Mutex::default());
        Self { options, show, tor: Mutex::new(None), demand, conclaves_only, leave }
    }

    /// What is said at the first signal, in place of ending.
    pub(crate) fn take_leave(&self, text: String) {
        *self.leave.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    /// The same, once.
    pub(crate) fn leave(&self) -> Option<String> {
        self.leave.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends what was started.
    pub(crate) async fn close(&self) {
        self.show.clear();
        if let Some(Ok(Way { running: Some(running), .. })) = self.tor.lock().await.take() {
            running.stop().await;
        }
    }

    /// Is nothing said but to conclaves?
    pub(crate) fn requires_conclave(&self) -> bool {
        self.conclaves_only.load(Ordering::Relaxed)
    }

    /// From here on, as if the person had said `--require-conclave`: what was begun in conclaves stays in them.
    pub(crate) fn keep_to_conclaves(&self) {
        self.conclaves_only.store(true, Ordering::Relaxed);
    }

    /// The list of nodes.
    pub(crate) fn nodes(&self) -> Result<NodeList, Failure> {
        let path = match &self.options.nodes {
            Some(path) => path.clone(),
            None => place::config()?.join("nodes.toml"),
        };
        Ok(NodeList::at(path, self.requires_conclave()))
    }

    /// A node by its name in the list, or by its address. The name is what to call it.
    pub(crate) fn node(&self, text: &str) -> Result<(String, NodeAddress), Failure> {
        // Names have neither of the two, and every address has one.
        if text.contains(['.', ':']) {
            let address: NodeAddress = text.parse().map_err(|error: bento::AddressError| {
                Failure::input(error.to_string()).with_hint("copy the address again, or use a name of the list (`bento nodes`)")
            })?;
            let address = if self.requires_conclave() { address.in_conclave() } else { address };
            return Ok((address.to_string(), address));
        }
        let list = self.nodes()?.read()?;
        match list.into_iter().find(|(name, _)| name == text) {
            Some(found) => Ok(found),
            None => Err(Failure::input(format!("there is no node `{}` in the list", bento::line(text)))
                .with_hint("`bento nodes` shows the list, `bento nodes add NAME ADDRESS` adds one")),
        }
    }

    /// The functions that are installed.
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        Ok(Store::in_directory(place::data()?))
    }

    /// The bounds of a request that may take long.
    pub(crate) fn bounds(&self) -> Bounds {
        let usual = Bounds::default();
        match self.options.wait {
            Some(wait) => Bounds { connect: usual.connect.min(wait), answer: wait, idle: wait },
            None => usual,
        }
    }

    /// A client that can reach this node, and tells on the terminal how far its requests are.
    pub(crate) async fn client(&self, node: &NodeAddress) -> Result<Client, Failure> {
        let show = Arc::clone(&self.show);
        Ok(self.quiet_client(node).await?.watched(move |stage| match stage {
            Stage::Connecting(1) => show.now("connecting to the node"),
            Stage::Connecting(again) => show.now(&format!("connecting to the node, try {again}")),
            Stage::Connected => show.now("connected"),
            Stage::Sent => show.now("sent; waiting for the answer"),
            Stage::Answered => show.now("the node answers"),
        }))
    }

    /// Which conclaves are accepted. Says each time when those are a simulator's.
    pub(crate) fn demand(&self) -> Result<Demand, Failure> {
        let read = || {
            let demand = conclave::demand(&self.options)?;
            if demand.is_simulated() {
                self.show.say("Warning: a simulator's conclaves are accepted. They protect from nobody.");
            }
            Ok(demand)
        };
        self.demand.get_or_init(read).clone()
    }

    /// A client that can reach this node and tells nothing. What is kept of a conclave is said to that conclave only.
    pub(crate) async fn quiet_client(&self, node: &NodeAddress) -> Result<Client, Failure> {
        if self.requires_conclave() && !node.is_conclave() {
            return Err(Failure::new(EVIDENCE, format!("{node} was used without a conclave, and one is required"))
                .with_hint("install the function again with `--require-conclave`, or leave it out"));
        }
        let client = self.plain_client(node).await?;
        if node.is_conclave() { Ok(client.demanding(self.demand()?)) } else { Ok(client) }
    }

    /// A client that asks a node what it is, and its conclave as far as that is accepted.
    pub(crate) async fn asking_client(&self, node: &NodeAddress, demand: Option<&Demand>) -> Result<Client, Failure> {
        let client = self.plain_client(node).await?.with_bounds(ask::bounds(self));
        Ok(match demand {
            Some(demand) => client.demanding(demand.clone()),
            None => client,
        })
    }

    async fn plain_client(&self, node: &NodeAddress) -> Result<Client, Failure> {
        if node.loopback().is_some() {
            return Ok(Client::direct().with_bounds(self.bounds()));
        }
        let mut tor = self.tor.lock().await;
        if tor.is_none() {
            let reached = tor::reach(&self.options, &self.show).await;
            *tor = Some(reached.map(|(socks, running)| Way { socks, running }));
        }
        match tor.as_ref() {
            Some(Ok(way)) => Ok(Client::over(way.socks.clone()).with_bounds(self.bounds())),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(Failure::from(bento::ClientError::NoTor)),
        }
    }

    /// Writes to stdout what is to be known before the result is there. With JSON it is a part of the result.
    pub(crate) fn tell(&self, text: &str) -> Result<(), Failure> {
        if self.options.json {
            return Ok(());
        }
        self.show.clear();
        let mut out = io::stdout().lock();
        write!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
    }

    /// Writes a result to stdout: the JSON object if that is wanted, else the text.
    pub(crate) fn say(&self, text: &str, json: &Value) -> Result<(), Failure> {
        self.show.clear();
        let mut out = io::stdout().lock();
        let written = if self.options.json { writeln!(out, "{json}") } else { write!(out, "{text}") };
        written.and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
    }
}

/// Reads a manifest: the file, or the one in a function's directory.
pub(crate) fn manifest(path: &Path) -> Result<Manifest, Failure> {
    let path = if path.is_dir() { path.join("manifest.toml") } else { path.to_owned() };
    let mut text = String::new();
    // One byte more than may be, so that what is too long is told as that.
    let reading = File::open(&path).and_then(|file| file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_string(&mut text));
    reading.map_err(|error| Failure::file("reading", &path, &error))?;
    Manifest::parse(&text).map_err(|error| {
        Failure::input(bento::line(&format!("{}: {error}", path.display())))
            .with_hint("give a manifest.toml, or the directory of a function")
    })
}

/// Reads a function's directory.
pub(crate) fn function(directory: &Path) -> Result<Bundle, Failure> {
    read_bundle(directory).map_err(|error| match error {
        bento::FilesError::Read(path, error) => Failure::file("reading", &path, &error),
        wrong => Failure::input(wrong.to_string()).with_hint("a function is a directory with manifest.toml and its code"),
    })
}
