//! Bento in the network: a website, a node of each egress, and the client as a person runs it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bento_tor::{Auth, ControlAddr, ControlError, Controller, Socks};
use testnet::{
    Trouble,
    bento::{Node, Site},
    binary,
};
use tokio::process::Command;

use crate::world::World;

/// Longest that one command of the client may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(90);

/// Longest until a tor knows all relays: on a busy machine several consensuses.
pub(crate) const KNOWN_DEADLINE: Duration = Duration::from_secs(150);

pub(crate) struct Bento {
    pub(crate) site: Site,
    pub(crate) direct: Node,
    pub(crate) tor: Node,
}

impl Bento {
    pub(crate) async fn start(world: &World) -> Result<Self, Trouble> {
        let network = &world.network;
        let site = Site::start(network).await?;
        let (direct, tor) = (world.scratch.path().join("node-direct"), world.scratch.path().join("node-tor"));
        let (direct, tor) =
            tokio::try_join!(Node::start(network, &direct, "Direct", "direct", ""), Node::start(network, &tor, "Through Tor", "tor", ""),)?;
        Ok(Self { site, direct, tor })
    }
}

/// A node that lets functions use its Tor, and the control port of that tor, to look at it from outside.
pub(crate) struct Lender {
    pub(crate) node: Node,
    control: PathBuf,
}

impl Lender {
    pub(crate) async fn start(world: &World, name: &str) -> Result<Self, Trouble> {
        let directory = world.scratch.path().join(name);
        let control = directory.join("control");
        // After some hundred circuits on a quiet machine Tor gives up each that takes more than 60 ms, which on a busy one is every circuit.
        let steady = ["LearnCircuitBuildTimeout 0".to_owned(), "CircuitBuildTimeout 60".to_owned()];
        let own = [[format!("ControlSocket {}", control.display()), "CookieAuthentication 0".to_owned()], steady].concat();
        let lines: Vec<String> = world.network.torrc_lines().iter().chain(&own).map(|line| format!("{line:?}")).collect();
        let tor = format!("lines = [{}]", lines.join(", "));
        let node = Node::start_with(&world.network, &directory, name, "tor", LENT, &tor).await?;
        let lender = Self { node, control };
        let known = async { knows_all(&lender.tor().await?, world).await };
        let known = tokio::time::timeout(KNOWN_DEADLINE, known).await;
        let trouble = Trouble::doing("waiting for a tor that knows all relays");
        match known {
            Ok(Ok(())) => Ok(lender),
            Ok(Err(error)) => Err(trouble(std::io::Error::other(error))),
            Err(_) => Err(trouble(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// Its tor, as whoever else may control it sees it.
    pub(crate) async fn tor(&self) -> Result<Controller, ControlError> {
        Controller::connect(&ControlAddr::Unix(self.control.clone()), &Auth::Automatic).await
    }

    /// Circuits of functions, by their paths.
    pub(crate) async fn circuits(&self) -> Result<Vec<Vec<String>>, ControlError> {
        let circuits = self.tor().await?.circuits().await?;
        let of_functions = circuits.into_iter().filter(|circuit| circuit.purpose == "CONTROLLER");
        Ok(of_functions.map(|circuit| circuit.path.iter().map(|hop| hop.fingerprint.to_string()).collect()).collect())
    }
}

/// Waits until a tor knows all relays of the network: the first consensus of one that was started again lacks some.
pub(crate) async fn knows_all(tor: &Controller, world: &World) -> Result<(), ControlError> {
    let relays = world.network.relays().iter().filter(|relay| relay.fingerprint.is_some()).count();
    let mut events = tor.events(&["NEWCONSENSUS"]).await?;
    while tor.consensus().await?.relays.iter().filter(|relay| relay.ed25519.is_some()).count() < relays {
        // What the relays' own documents say comes some time after that, and nothing tells of it.
        if let Ok(event) = tokio::time::timeout(Duration::from_secs(1), events.next()).await {
            event?;
        }
    }
    Ok(())
}

/// What such a node offers.
pub(crate) const LENT: &str = "calls = [\"tor.*\", \"net.connect\"]\ncircuits = 40\nonion_services = 3\ninvocations = 4\n";

/// What a command of the client said.
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", self.text(), self.stderr))
    }

    /// It ended well.
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.status, Some(0), "{} {}", self.text(), self.stderr);
        self
    }
}

/// One person with files of their own.
pub(crate) struct Person {
    pub(crate) home: PathBuf,
    socks: String,
}

impl Person {
    pub(crate) fn new(world: &World, name: &str) -> Self {
        Self::by(world, name, world.network.client_socks().to_string())
    }

    /// One who has a Tor of their own.
    pub(crate) fn over(world: &World, name: &str, socks: &Socks) -> Self {
        let text = socks.to_string();
        Self::by(world, name, if text.starts_with('/') { format!("unix:{text}") } else { text })
    }

    fn by(world: &World, name: &str, socks: String) -> Self {
        let home = world.scratch.path().join(format!("home-{name}"));
        fs::create_dir_all(&home).expect("a home");
        Self { home, socks }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("bento").expect("bento is built"));
        command.args(arguments).args(["--socks", &self.socks]).current_dir(&self.home);
        command.env("XDG_DATA_HOME", self.home.join("data")).env("XDG_CONFIG_HOME", self.home.join("config"));
        command.env("XDG_RUNTIME_DIR", self.home.join("run"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub(crate) async fn bento(&self, arguments: &[&str]) -> Said {
        let output = tokio::time::timeout(COMMAND_DEADLINE, self.command(arguments).output()).await;
        let output = output.unwrap_or_else(|_| panic!("it hangs: bento {arguments:?}")).expect("it starts");
        Said { status: output.status.code(), stdout: output.stdout, stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// A directory with a function in it.
    pub(crate) fn function(&self, name: &str, needs: &str, code: &str) -> String {
        let directory = self.home.join(name);
        fs::create_dir_all(&directory).expect("a directory");
        let methods: Vec<String> =
            code.lines().filter_map(|line| Some(format!("{:?}", line.strip_prefix("def ")?.split_once('(')?.0))).collect();
        let manifest = format!("name = \"{name}\"\nmethods = [{}]\n[needs]\n{needs}\n", methods.join(", "));
        fs::write(directory.join("manifest.toml"), manifest).expect("a manifest");
        fs::write(directory.join("function.py"), code).expect("the code");
        directory.display().to_string()
    }
}

/// A function that comes with the source.
pub(crate) fn shipped(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../functions").join(name).display().to_string()
}
