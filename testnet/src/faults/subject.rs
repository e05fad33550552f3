//! The node that is killed and started again, as its service manager would, and what it has to keep.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bento_tor::Socks;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use testnet::{Program, Trouble, binary};
use tokio::{process::Command, time::sleep};

use super::{client::Way, traces};

/// Longest that a node may take to listen; it compiles its runtime and tries its walls before that.
const LISTENING: Duration = Duration::from_secs(60);

/// Longest that it may take to be published. Every further end of its tor doubles its pause, up to a minute.
const PUBLISHED: Duration = Duration::from_secs(150);

/// Jails that it keeps ready for functions to come.
pub(crate) const READY: usize = 3;

/// The private network it is in.
#[derive(Clone, Debug)]
pub(crate) struct TorNetwork {
    /// Lines for a further `tor` of the network.
    pub(crate) torrc: Vec<String>,
    /// A client's SOCKS port.
    pub(crate) socks: SocketAddr,
}

pub(crate) struct Subject {
    program: Option<Program>,
    directory: PathBuf,
    network: Option<TorNetwork>,
    /// Where it listens besides its onion service.
    pub(crate) way: Way,
    /// What it has said it can be reached at, since its state directory was made.
    pub(crate) onion: Option<String>,
}

impl Subject {
    /// Prepares a node; it is not started.
    pub(crate) fn new(directory: &Path, network: Option<TorNetwork>) -> Result<Self, Trouble> {
        let doing = || Trouble::doing("preparing the node");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory.join("tmp")).map_err(doing())?;
        let tor = match &network {
            Some(network) => format!("lines = {:?}", network.torrc),
            None => "off = true".to_owned(),
        };
        let config = format!(
            "name = \"Faults\"\nstate = \"state\"\nlisten = \"127.0.0.1:0\"\n[tor]\n{tor}\n[limits]\nstop = \"2 s\"\nready = {READY}\n"
        );
        let policy = "[offers]\negress = [\"direct\"]\nconnect = [\"accept 127.0.0.1:*\"]\nmemory = \"128 MiB\"\ncpu = \"600 s\"\ntraffic = \"1 GiB\"\n";
        fs::write(directory.join("bentod.toml"), config).map_err(doing())?;
        fs::write(directory.join("policy.toml"), policy).map_err(doing())?;
        let way = Way::Loopback(SocketAddr::from(([127, 0, 0, 1], 9)));
        Ok(Self { program: None, directory: directory.to_owned(), network, way, onion: None })
    }

    /// Starts its process, and waits for nothing.
    pub(crate) fn spawn(&mut self) -> Result<(), Trouble> {
        // Its log goes to standard error, and is what says when it is published.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$0\" run --config \"$1\" 2>&1"]).arg(binary("bentod")?).arg(self.directory.join("bentod.toml"));
        // A directory of its own for what is temporary: anything that stays there was forgotten.
        command.env("TMPDIR", self.directory.join("tmp"));
        self.program = Some(Program::start("bentod", &mut command)?);
        Ok(())
    }

    /// Starts it and waits until it can be reached.
    pub(crate) async fn start(&mut self) -> Result<(), Trouble> {
        self.spawn()?;
        let program = self.program.as_mut().ok_or_else(|| Trouble::NotBuilt("bentod".into()))?;
        let line = program.wait_for_line(|line| line.contains("listening address="), LISTENING).await?;
        let address = line.rsplit('=').next().and_then(|text| text.trim().parse().ok());
        self.way = Way::Loopback(address.ok_or_else(|| Trouble::doing("reading where the node listens")(std::io::Error::other(line)))?);
        Ok(())
    }

    /// Waits until it is published once more. The error says that it is so under another address than before.
    pub(crate) async fn published(&mut self) -> Result<Result<(), String>, Trouble> {
        if self.network.is_none() {
            return Ok(Ok(()));
        }
        let Some(program) = &mut self.program else { return Ok(Err("it does not run".into())) };
        let line = program.wait_for_line(|line| line.contains("published address="), PUBLISHED).await?;
        let address = line.rsplit('=').next().unwrap_or_default().trim().to_owned();
        let before = self.onion.get_or_insert_with(|| address.clone());
        Ok(if *before == address { Ok(()) } else { Err(format!("it was reached at {before}, and now says {address}")) })
    }

    /// The way through Tor, where there is one.
    pub(crate) fn through_tor(&self) -> Option<Way> {
        let (network, onion) = (self.network.as_ref()?, self.onion.clone()?);
        Some(Way::Tor { socks: Socks::tcp(network.socks), onion })
    }

    /// Takes what it has told of itself until now, also if nobody waited for it.
    pub(crate) fn told(&self) -> Vec<String> {
        self.program.as_ref().map(Program::stdout).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.program.as_ref().filter(|program| program.is_running()).map(Program::pid)
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) {
        if let Some(program) = self.program.take() {
            program.kill().await;
            // What it had said before is read by then.
            sleep(Duration::from_millis(50)).await;
            self.program = Some(program);
        }
    }

    /// SIGTERM, as a service manager stops it. The answer says how it did not end well.
    pub(crate) async fn stop(&mut self) -> Option<String> {
        let program = self.program.take()?;
        let signalled = send(program.pid(), "bentod", Signal::TERM);
        let ended = program.finished(Duration::from_secs(30)).await;
        match (signalled, ended) {
            (true, Ok(status)) if status.success() => None,
            (_, Ok(status)) => Some(format!("told to stop, it ended with {status}")),
            (_, Err(trouble)) => Some(trouble.to_string()),
        }
    }

    /// Forgets everything: a node that was never started.
    pub(crate) fn wipe(&mut self) -> Result<(), Trouble> {
        self.onion = None;
        fs::remove_dir_all(self.directory.join("state")).map_err(Trouble::doing("removing the state directory"))
    }

    /// The key of its onion service, as it lies on the disk.
    pub(crate) fn key(&self) -> Option<String> {
        fs::read_to_string(self.directory.join("state/onion.key")).ok()
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Processes below it with this name.
    pub(crate) fn below(&self, name: &str) -> Vec<u32> {
        let below = self.pid().map(traces::below).unwrap_or_default();
        below.into_iter().filter(|process| process.name.starts_with(name) && !process.ended).map(|process| process.pid).collect()
    }

    /// Control groups of everything below it.
    pub(crate) fn groups(&self) -> BTreeSet<PathBuf> {
        let own = traces::groups(std::process::id());
        let below = self.pid().map(traces::below).unwrap_or_default();
        below.iter().flat_map(|process| traces::groups(process.pid)).filter(|group| !own.contains(group)).collect()
    }
}

/// Sends a signal to a process of this name, never to another one that was given the same number. False if there is none any more.
pub(crate) fn send(pid: u32, name: &str, signal: Signal) -> bool {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(handle) = pidfd_open(number, PidfdFlags::empty()) else { return false };
    let is_it = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name));
    is_it && pidfd_send_signal(&handle, signal).is_ok()
}
