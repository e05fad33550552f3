//! A `tor` process of our own.
//!
//! It inherits one end of a socket pair as its standard input and takes it for a control connection that is authenticated and owns it
//! (`__OwningControllerFD`, as in tor's `tor_api`). So there is no control port, cookie or file to wait for, nobody else can control it, and
//! it ends the moment that we do, even by `kill -9`.

mod error;
mod log;
mod torrc;

pub use error::ManagedError;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{Instant, timeout, timeout_at};

use crate::control::{Bootstrap, ControlError, Controller};
use crate::process::{Process, TERM_DEADLINE};
use crate::socks::Socks;
use log::Tail;

/// What a `tor` of our own is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The program: see [`find_tor`](crate::find_tor).
    pub tor: PathBuf,
    /// Its directory, made with mode 0700 if it is not there. Kept between starts, it makes the next start faster.
    pub data: PathBuf,
    /// More lines for its configuration. A line takes the place of ours of the same name, so `SocksPort 0` makes a Tor without a SOCKS port.
    pub lines: Vec<String>,
    /// How long it may take to be ready.
    pub deadline: Duration,
}

/// A running `tor` of our own. Dropping it kills the process.
#[derive(Debug)]
pub struct Managed {
    process: Process,
    control: Controller,
    socks: Socks,
    log: Tail,
}

impl Managed {
    /// Starts `tor` and waits until it can carry streams. `progress` hears how far it is: the percentage, and the phase in words.
    pub async fn start(setup: &Setup, progress: impl FnMut(u8, &str) + Send) -> Result<Self, ManagedError> {
        let end = Instant::now() + setup.deadline;
        let managed = Self::launch(setup).await?;
        managed.bootstrapped(end.saturating_duration_since(Instant::now()), progress).await?;
        Ok(managed)
    }

    /// Starts `tor` and waits until it takes commands, not until it is connected to the network.
    pub async fn launch(setup: &Setup) -> Result<Self, ManagedError> {
        let torrc = torrc::write(setup).await?;
        let (ours, its) = std::os::unix::net::UnixStream::pair().map_err(ManagedError::Spawn)?;
        ours.set_nonblocking(true).map_err(ManagedError::Spawn)?;
        let ours = UnixStream::from_std(ours).map_err(ManagedError::Spawn)?;

        let mut command = Command::new(&setup.tor);
        command.args(["--defaults-torrc", "/dev/null", "-f"]).arg(&torrc.file);
        // The command line beats the file, so no further line can undo these.
        command.args(["SafeLogging", "1", "__OwningControllerFD", "0"]);
        // The second guard, should a fork of ours hold the socket open: tor looks every 15 s whether this process lives.
        command.args(["__OwningControllerProcess", &std::process::id().to_string()]);
        command.stdin(Stdio::from(OwnedFd::from(its))).stdout(Stdio::piped()).stderr(Stdio::null());
        let (process, _, stdout) = Process::spawn(&mut command).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ManagedError::NoTor,
            _ => ManagedError::Spawn(error),
        })?;
        // The command holds a copy of the other end, and tor's exit must be seen as the end of the stream.
        drop(command);
        let log = Tail::follow(stdout);
        let control = Controller::over(ours);

        let mut managed = Self { process, control, socks: torrc.socks.unwrap_or_else(|| Socks::unix("")), log };
        // It may take a busy machine longer than a command does until tor hears the first one.
        let patient = managed.control.with_deadline(setup.deadline);
        match timeout(setup.deadline, patient.get_info("net/listeners/socks")).await {
            Ok(Ok(listeners)) => {
                if let Some(socks) = torrc::listener(&listeners) {
                    managed.socks = socks;
                }
                Ok(managed)
            }
            Ok(Err(error)) => Err(managed.failure(error).await),
            Err(_) => Err(ManagedError::Silent { deadline: setup.deadline }),
        }
    }

    /// Waits until it can carry streams, within the deadline.
    pub async fn bootstrapped(&self, deadline: Duration, mut progress: impl FnMut(u8, &str) + Send) -> Result<(), ManagedError> {
        let end = Instant::now() + deadline;
        let mut latest = Bootstrap { percent: 0, tag: String::new(), summary: String::new(), trouble: None };
        let wait = async {
            let mut events = self.control.events(&["STATUS_CLIENT"]).await?;
            let mut next = Some(self.control.bootstrap().await?);
            loop {
                if let Some(mut now) = next.take() {
                    // An old trouble stays until something is better, for it says why nothing is.
                    if now.trouble.is_none() && now.percent == latest.percent {
                        now.trouble = latest.trouble.take();
                    }
                    progress(now.percent, &now.summary);
                    latest = now;
                }
                if latest.is_done() {
                    return Ok(());
                }
                next = match events.next().await {
                    Ok(event) => Bootstrap::parse(&event.text),
                    Err(ControlError::EventsLost(_)) => Some(self.control.bootstrap().await?),
                    Err(error) => return Err(error),
                };
            }
        };
        let outcome = timeout_at(end, wait).await;
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failure(error).await),
            Err(_) => Err(ManagedError::NoBootstrap { deadline, reached: latest }),
        }
    }

    /// Its SOCKS port, a Unix socket in its directory where the path is short enough.
    pub fn socks(&self) -> Socks {
        self.socks.clone()
    }

    /// Its control connection. When it closes, `tor` ends.
    pub fn control(&self) -> Controller {
        self.control.clone()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Completes when it has ended, for whatever reason. The future does not borrow it.
    pub fn exited(&self) -> impl Future<Output = ExitStatus> + Send + use<> {
        self.process.exited()
    }

    /// The last lines of its log, without times and addresses.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Stops it: SIGTERM, and SIGKILL if that does not do within four seconds.
    pub async fn stop(self) -> ExitStatus {
        self.process.stop().await
    }

    /// Says what an error at the control connection means: mostly that `tor` has ended.
    async fn failure(&self, error: ControlError) -> ManagedError {
        if !matches!(error, ControlError::Closed) {
            return ManagedError::Control(error);
        }
        match timeout(TERM_DEADLINE, self.exited()).await {
            Ok(status) => {
                self.log.ended(TERM_DEADLINE).await;
                ManagedError::Exited { status, log: self.log.lines() }
            }
            Err(_) => ManagedError::Control(error),
        }
    }
}

impl Setup {
    /// A setup with no further lines and two minutes of time, which is enough for a first start on the public network.
    pub fn new(tor: impl Into<PathBuf>, data: impl Into<PathBuf>) -> Self {
        Self { tor: tor.into(), data: data.into(), lines: Vec::new(), deadline: Duration::from_secs(120) }
    }

    /// The name of the option that a configuration line sets.
    fn option(line: &str) -> &str {
        line.split_whitespace().next().unwrap_or_default()
    }

    fn sets(&self, option: &str) -> bool {
        self.lines.iter().any(|line| Self::option(line).eq_ignore_ascii_case(option))
    }

    fn directory(&self) -> Result<PathBuf, ManagedError> {
        let failed = |source| ManagedError::Directory { path: self.data.clone(), source };
        // Tor would take a relative path as relative to its own directory.
        std::path::absolute(&self.data as &Path).map_err(failed)
    }
}
