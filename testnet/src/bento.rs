//! Bento nodes and a website for a private network, started as a person would start them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bento_tor::{Controller, Managed, Setup};
use tokio::process::Command;

use crate::{Network, Program, Trouble, binary, network::tor};

/// The first origin of the website.
pub const SITE_NAME: &str = "www.gazette.example";
/// The second, with some of its pictures and fonts.
pub const SECOND_NAME: &str = "media.gazette.example";

const SITE: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 2);

/// What a node of a private network must open by name: the addresses of the website are private ones.
pub const SITE_RULE: &str = "accept 127.80.0.0/16:*";

/// Longest wait for a node's first connection to the network and its onion service.
const PUBLISHED_DEADLINE: Duration = Duration::from_secs(90);
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// The website, over HTTP and HTTPS.
#[derive(Debug)]
pub struct Site {
    /// Its process.
    pub program: Program,
    /// `http://…` of its front page.
    pub http: String,
    /// `https://…` of its front page.
    pub https: String,
}

impl Site {
    /// Starts it on this network: names, certificates and all.
    pub async fn start(network: &Network) -> Result<Self, Trouble> {
        network.names().set(SITE_NAME, &[SITE]);
        network.names().set(SECOND_NAME, &[SECOND]);
        let server = network.ca()?.server(&[SITE_NAME, SECOND_NAME], &[IpAddr::V4(SITE), IpAddr::V4(SECOND)])?;
        // An ordinary user cannot have the usual ports; then others do.
        let usual = std::net::TcpListener::bind((SITE, 80)).is_ok();
        let (http, https) = if usual { (80, 443) } else { (8080, 8443) };
        let mut command = Command::new("/usr/bin/python3");
        command.arg(source("testnet/site/site.py"));
        for (option, address, port) in
            [("--http", SITE, http), ("--https", SITE, https), ("--second-http", SECOND, http), ("--second-https", SECOND, https)]
        {
            command.arg(option).arg(format!("{address}:{port}"));
        }
        command.arg("--cert").arg(&server.certificate).arg("--key").arg(&server.key).args(["--second-name", SECOND_NAME]);
        let mut program = Program::start("the website", &mut command)?;
        program.wait_for_line(|line| line.starts_with("ready"), READY_DEADLINE).await?;
        let url =
            |scheme: &str, port: u16| if usual { format!("{scheme}://{SITE_NAME}/") } else { format!("{scheme}://{SITE_NAME}:{port}/") };
        Ok(Self { program, http: url("http", http), https: url("https", https) })
    }
}

/// A running `bentod`.
#[derive(Debug)]
pub struct Node {
    /// Its process.
    pub program: Program,
    /// Its onion service.
    pub address: String,
    /// Its configuration file.
    pub config: PathBuf,
}

impl Node {
    /// Starts a node with a managed tor of its own in this directory, with this egress and more lines for its policy's `[offers]`,
    /// and waits until its onion service is published.
    pub async fn start(network: &Network, directory: &Path, name: &str, egress: &str, offers: &str) -> Result<Self, Trouble> {
        let lines: Vec<String> = network.torrc_lines().iter().map(|line| format!("{line:?}")).collect();
        Self::start_with(network, directory, name, egress, offers, &format!("lines = [{}]", lines.join(", "))).await
    }

    /// The same with a `tor` that it shares with others.
    pub async fn start_beside(
        network: &Network,
        tor: &SharedTor,
        directory: &Path,
        name: &str,
        egress: &str,
        offers: &str,
    ) -> Result<Self, Trouble> {
        Self::start_with(network, directory, name, egress, offers, &tor.config()).await
    }

    /// The same with a simulated conclave beside it, which has the same policy.
    pub async fn start_with_conclave(network: &Network, directory: &Path, name: &str, egress: &str) -> Result<(Self, Conclave), Trouble> {
        let lines: Vec<String> = network.torrc_lines().iter().map(|line| format!("{line:?}")).collect();
        let doing = || Trouble::doing(format!("preparing the conclave of {name}"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory.join("beside")).map_err(doing())?;
        let tor = format!("lines = [{}]\n[conclave]\ndirectory = \"beside\"", lines.join(", "));
        let node = Self::start_with(network, directory, name, egress, "", &tor).await?;
        // What a conclave has not is taken out of the node's own file; the rest is the same.
        let config = fs::read_to_string(&node.config).map_err(doing())?;
        let images = config.find("[images.python3]").map(|begin| &config[begin..]).unwrap_or_default();
        let path = directory.join("conclave.toml");
        fs::write(&path, format!("name = {name:?}\nstate = \"sealed\"\n{images}")).map_err(doing())?;
        let given = directory.join("given");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$0\" run \"$@\" 2>&1"]).arg(binary("bento-simulated-conclave")?);
        command.arg("--config").arg(&path).arg("--directory").arg(directory.join("beside")).arg("--give").arg(&given);
        let mut program = Program::start(&format!("the conclave of {name}"), &mut command)?;
        program.wait_for_line(|line| line.contains("listening for the host"), READY_DEADLINE).await?;
        Ok((node, Conclave { program, given }))
    }

    /// The same with these lines for the configuration's `[tor]`.
    pub async fn start_with(
        network: &Network,
        directory: &Path,
        name: &str,
        egress: &str,
        offers: &str,
        tor: &str,
    ) -> Result<Self, Trouble> {
        let doing = || Trouble::doing(format!("preparing node {name}"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(doing())?;
        let config = format!(
            "name = {name:?}\nstate = \"state\"\nnameservers = [\"{}\"]\n[tor]\n{tor}\n[images.python3]\n[images.shard]\n{}\n[images.tor]\npackages = [\"stem\", \"cryptography\", \"_cffi_backend\"]\n[images.web]\npackages = [{}]\ncertificates = {:?}\n",
            network.names().address(),
            shard_image(directory)?,
            WEB.map(|package| format!("{package:?}")).join(", "),
            network.ca()?.file().display().to_string(),
        );
        let connect = format!("connect = [\"{SITE_RULE}\", \"accept *:80\", \"accept *:443\"]");
        let connect = if offers.contains("connect = ") { "" } else { &connect };
        let policy = format!(
            "[offers]\nimage = [\"python3\", \"web\", \"shard\", \"tor\"]\nmemory = \"1 GiB\"\negress = [{egress:?}]\n{connect}\n{offers}\n"
        );
        let path = directory.join("bentod.toml");
        fs::write(&path, config).map_err(doing())?;
        fs::write(directory.join("policy.toml"), policy).map_err(doing())?;
        Self::start_again(name, &path).await
    }

    /// Starts a node with the configuration of an earlier one.
    pub async fn start_again(name: &str, config: &Path) -> Result<Self, Trouble> {
        // Its log goes to standard error, and is what says when it is published.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$0\" run --config \"$1\" 2>&1"]).arg(binary("bentod")?).arg(config);
        let mut program = Program::start(name, &mut command)?;
        let line = program.wait_for_line(|line| line.contains("published address="), PUBLISHED_DEADLINE).await?;
        let address = line.rsplit('=').next().unwrap_or_default().trim().to_owned();
        Ok(Self { program, address, config: config.to_owned() })
    }
}

/// A running `bento-simulated-conclave`. It protects from nobody.
#[derive(Debug)]
pub struct Conclave {
    /// Its process.
    pub program: Program,
    /// What a client needs to accept it.
    pub given: PathBuf,
}

/// A `tor` of the network that several nodes share, each with an onion service of its own: a node is then one process less.
#[derive(Debug)]
pub struct SharedTor {
    tor: Managed,
    control: PathBuf,
    socks: SocketAddr,
}

impl SharedTor {
    /// Starts it in this directory, whose path must be short enough for a socket in it, and waits until it is connected.
    pub async fn start(network: &Network, directory: &Path) -> Result<Self, Trouble> {
        let doing = || Trouble::doing("starting a tor for several nodes");
        // Free now, and nobody else takes ports here.
        let socks = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).map_err(doing())?;
        let control = directory.join("control");
        let own = [format!("SocksPort {socks}"), format!("ControlPort unix:{}", control.display()), "CookieAuthentication 1".to_owned()];
        let setup = Setup { lines: network.torrc_lines().into_iter().chain(own).collect(), ..Setup::new(tor()?, directory) };
        let tor = Managed::start(&setup, |_, _| {}).await.map_err(Trouble::daemon("the shared tor"))?;
        Ok(Self { tor, control, socks })
    }

    /// Its control port, as whoever else uses this `tor` has it.
    pub fn control(&self) -> Controller {
        self.tor.control()
    }

    /// Ends it, and with it the onion services of its nodes.
    pub async fn stop(self) {
        self.tor.stop().await;
    }

    fn config(&self) -> String {
        format!("control = \"unix:{}\"\nsocks = \"{}\"", self.control.display(), self.socks)
    }
}

/// What the image `shard` has: with raptorq where `setup.sh` has put it, in a directory as `docs/operating.md` has it.
fn shard_image(directory: &Path) -> Result<String, Trouble> {
    let cache = || Some(crate::default_directory().parent()?.join("wheels"));
    let wheels = std::env::var_os("BENTO_WHEELS").map(PathBuf::from).or_else(cache).filter(|wheels| wheels.join("raptorq").is_dir());
    let Some(wheels) = wheels else { return Ok("packages = [\"zfec\", \"nacl\", \"_cffi_backend\"]".to_owned()) };
    let packages = std::path::absolute(directory.join("packages")).map_err(Trouble::at("finding", directory))?;
    fs::create_dir_all(&packages).map_err(Trouble::at("making", &packages))?;
    let debian = fs::read_dir("/usr/lib/python3/dist-packages").map_err(Trouble::doing("looking for Debian's packages"))?;
    let wanted = |name: &str| name == "zfec" || name == "nacl" || name.starts_with("_cffi_backend.");
    let own =
        debian.flatten().map(|entry| entry.path()).filter(|path| path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())));
    for path in own.chain([wheels.join("raptorq")]) {
        let link = packages.join(path.file_name().unwrap_or_default());
        if !link.exists() {
            std::os::unix::fs::symlink(&path, &link).map_err(Trouble::at("making", &link))?;
        }
    }
    Ok(format!("packages = [\"zfec\", \"nacl\", \"_cffi_backend\", \"raptorq\"]\npackages_from = {:?}", packages.display().to_string()))
}

/// What the image `web` has, as `packaging/bentod.toml` has it.
const WEB: [&str; 15] = [
    "requests",
    "urllib3",
    "html5lib",
    "tinycss2",
    "webencodings",
    "brotli",
    "_brotli",
    "six",
    "idna",
    "certifi",
    "chardet",
    "lxml",
    "bs4",
    "soupsieve",
    "charset_normalizer",
];

/// A file of the source tree, which the tests and the demo run from.
fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).join(path)
}
