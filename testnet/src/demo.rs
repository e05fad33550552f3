//! `testnet demo`: a page over Tor from nothing, step by step, for a person to watch.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use testnet::{Network, Program, Trouble, bento, binary};
use tokio::process::Command;

/// Fetching the page takes a few seconds; a machine that needs this long is in trouble.
const BROWSE_DEADLINE: Duration = Duration::from_secs(150);

/// Tells a step, and how long after the start it was done.
struct Steps(Instant);

impl Steps {
    fn tell(&self, text: &str) {
        let mut out = std::io::stdout();
        let time = format!("{:5.1} s", self.0.elapsed().as_secs_f32());
        let time = if out.is_terminal() { format!("\u{1b}[2m{time}\u{1b}[0m") } else { time };
        // Whoever watched may have gone; the demo then ends for want of a reader at its next line, and stops everything all the same.
        let _ = writeln!(out, "{time}  {text}");
    }
}

pub(crate) async fn demo(directory: &Path, page: &Path, told: impl Future<Output = ()>) -> Result<(), Trouble> {
    let steps = Steps(Instant::now());
    let scratch = Scratch::new()?;
    tokio::pin!(told);
    let mut network = None;
    let shown = tokio::select! {
        shown = show(&steps, directory, scratch.path(), page, &mut network) => shown.map(|()| "everything is stopped; nothing is left but the page"),
        () = &mut told => Ok("interrupted; everything is stopped"),
    };
    if let Some(network) = network {
        network.down().await;
    }
    drop(scratch);
    steps.tell(shown?);
    Ok(())
}

async fn show(steps: &Steps, directory: &Path, scratch: &Path, page: &Path, kept: &mut Option<Network>) -> Result<(), Trouble> {
    steps.tell("starting a private Tor network: 3 authorities, 3 middle relays, 2 exits, 1 client, all on loopback");
    let network = Network::up(directory, |line| steps.tell(&format!("  {line}"))).await?;
    let network = kept.insert(network);
    steps.tell("network up");
    let site = bento::Site::start(network).await?;
    steps.tell(&format!("website up, outside the network: {} and {}", site.http, site.https));
    let (direct_directory, tor_directory) = (scratch.join("direct"), scratch.join("tor"));
    let (direct, tor) = tokio::try_join!(
        bento::Node::start(network, &direct_directory, "Direct", "direct", ""),
        bento::Node::start(network, &tor_directory, "Through Tor", "tor", ""),
    )?;
    steps.tell(&format!("node `direct` up (connects from its own address): {}", direct.address));
    steps.tell(&format!("node `tor` up (connects through Tor and an exit): {}", tor.address));

    let client = |node: &str, arguments: &[&str]| -> Result<Command, Trouble> {
        let mut command = Command::new(binary("bento")?);
        // A list for each, so that it is seen how the client finds the node and compares its policy.
        command
            .args(arguments)
            .arg("--nodes")
            .arg(scratch.join(format!("{node}.toml")))
            .arg("--socks")
            .arg(network.client_socks().to_string());
        // A client of its own: what the person at this machine has installed is neither read nor written.
        command.env("XDG_DATA_HOME", scratch.join("data")).env("XDG_CONFIG_HOME", scratch.join("config"));
        Ok(command)
    };
    for (name, node) in [("direct", &direct), ("tor", &tor)] {
        let adding = Program::start("bento nodes add", &mut client(name, &["nodes", "add", name, &node.address])?)?;
        succeeded(&adding, "bento nodes add").await?;
    }
    for (node, url, output) in [("direct", &site.http, scratch.join("first.html")), ("tor", &site.https, page.to_owned())] {
        steps.tell(&format!("$ bento browse {url}   (the list has the node `{node}`)"));
        let output = output.display().to_string();
        let mut browsing = client(node, &["browse", url, "--connect", bento::SITE_RULE, "--progress", "--force", "--output", &output])?;
        let browsing = Program::start("bento browse", &mut browsing)?;
        let mut told = 0;
        let end = Instant::now() + BROWSE_DEADLINE;
        loop {
            let running = browsing.is_running();
            let lines = browsing.stderr();
            for line in lines.iter().skip(told) {
                steps.tell(&format!("  {line}"));
            }
            told = lines.len();
            if !running || Instant::now() > end {
                break;
            }
            let _ = browsing.finished(Duration::from_millis(100)).await;
        }
        succeeded(&browsing, "bento browse").await?;
    }
    steps.tell(&format!("the page, in one file that loads nothing: {}", page.display()));
    direct.program.stop().await;
    tor.program.stop().await;
    site.program.stop().await;
    Ok(())
}

async fn succeeded(program: &Program, name: &str) -> Result<(), Trouble> {
    let status = program.finished(BROWSE_DEADLINE).await?;
    if status.success() {
        return Ok(());
    }
    Err(Trouble::Program { program: name.into(), how: format!("ended with {status}"), wrote: program.stderr().join("\n") })
}

/// A directory that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Trouble> {
        let path = std::env::temp_dir().join(format!("bento-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(Trouble::doing("making a directory for the demo"))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
