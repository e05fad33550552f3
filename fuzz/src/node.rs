//! A node in this process, reached over a Unix socket, with real jails.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bento_node::{
    archive::Archive,
    cgroup::Groups,
    config::Config,
    egress::Egress,
    http::{self, Listener},
    image::{self, Images},
    node::Node,
    share::Shares,
    store::Registry,
};
use bento_proto::{Policy, bundle};
use tokio::{net::UnixListener, runtime::Runtime, task::JoinHandle};

/// Memory for all bundles together, in bytes.
pub const ROOM: usize = 256 * 1024;

/// Nothing takes longer than this unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What all nodes of this process share.
pub struct Machine {
    pub runtime: Runtime,
    config: Config,
    images: Images,
    policy: Policy,
    directory: tempfile::TempDir,
}

impl Machine {
    /// With this policy, and these lines below `[limits]`.
    pub fn new(policy: &str, limits: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let text = format!(
            "name = \"Fuzz\"\nstate = {:?}\n[images.python3]\n[limits]\nbundles = \"{ROOM} B\"\n{limits}\n",
            directory.path().join("state")
        );
        let config: Config = toml::from_str(&text).expect("a configuration");
        std::fs::create_dir(&config.state).expect("a state directory");
        let images = runtime.block_on(image::prepare(&config.images, &config.state)).expect("an image");
        Self { runtime, config, images, policy: Policy::parse(policy).expect("a policy"), directory }
    }
}

/// A node that serves.
pub struct Running {
    pub node: Arc<Node>,
    pub path: PathBuf,
    serving: JoinHandle<()>,
}

impl Running {
    /// Starts one. Called in the machine's runtime.
    pub async fn start(machine: &Machine) -> Self {
        let jail = std::env::var("BENTO_JAIL").expect("BENTO_JAIL names the program bento-jail; fuzz/run sets it");
        let nowhere = "127.0.0.1:9".parse().expect("an address");
        let egress = Egress::new(None, &[nowhere], Duration::from_secs(5)).expect("egress");
        let held = (jail.into(), Arc::new(Groups::new(&machine.config.state)), Shares::new().expect("a thread"));
        let registry = Registry::open(&machine.config.state).expect("what functions keep");
        let node = Arc::new(Node::new(machine.config.clone(), machine.policy.clone(), machine.images.clone(), held, egress, registry));
        node.remember().await.expect("the functions that are here");
        let path = machine.directory.path().join("socket");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a listener");
        let serving = tokio::spawn(http::serve(Listener::Unix(listener), Arc::clone(&node)));
        Self { node, path, serving }
    }

    /// Stops it as `bentod` does, and sees that it comes to its end.
    pub async fn stop(self) {
        let stopping = async {
            self.node.stop().await;
            self.serving.await.expect("the listener ends");
            self.node.quiet().await;
        };
        tokio::time::timeout(PATIENCE, stopping).await.expect("the node does not come to its end");
    }

    /// Bytes that bundles may still take.
    pub fn room(&self) -> usize {
        let mut archive = Archive::new(self.node.incoming());
        (0..ROOM / 1024).take_while(|_| archive.push(&[0; 1024]).is_ok()).count() * 1024
    }
}

/// A bundle of one file whose methods are its functions.
pub fn pack(needs: &str, code: &str) -> Vec<u8> {
    let methods = code.lines().filter_map(|line| line.strip_prefix("def ")?.split_once('('));
    let methods: Vec<String> = methods.map(|(name, _)| format!("\"{name}\"")).collect();
    let manifest = format!("name = \"fuzzed\"\nmethods = [{}]\n[needs]\n{needs}\n", methods.join(", "));
    bundle::pack([("manifest.toml", manifest.as_bytes()), ("function.py", code.as_bytes())]).expect("a bundle")
}

/// Waits until something holds that has no event of its own.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    while !holds() {
        assert!(std::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
