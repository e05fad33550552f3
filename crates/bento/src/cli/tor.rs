//! The way into the Tor network: a SOCKS port that was given, one that is there, or a `tor` of our own.

use std::{
    env,
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use bento_tor::{Managed, ManagedError, Setup, Socks, find_tor, system_socks};

use super::{
    args::Options,
    failure::{Failure, TOR},
    place::{cache, make_private},
    show::Show,
};

/// Most `tor` processes of our own for one person at once: each needs a directory, which two cannot share.
const TORS_MAX: u32 = 8;

/// Most bytes of further configuration lines.
const LINES_BYTES_MAX: u64 = 256 * 1024;

/// A `tor` of our own, and the lock on its directory.
#[derive(Debug)]
pub(crate) struct Running {
    managed: Managed,
    _lock: File,
}

impl Running {
    /// Ends it, giving it time to keep which guards it has chosen.
    pub(crate) async fn stop(self) {
        self.managed.stop().await;
    }
}

/// Finds a way, or makes one.
pub(crate) async fn reach(options: &Options, show: &Show) -> Result<(Socks, Option<Running>), Failure> {
    if let Some(lines) = &options.torrc_lines {
        return start(read_lines(lines)?, show).await;
    }
    let from_environment = || env::var("BENTO_SOCKS").ok().filter(|text| !text.is_empty());
    if let Some(given) = options.socks.clone().or_else(from_environment) {
        return Ok((parse(&given)?, None));
    }
    if let Some(socks) = system_socks().await {
        show.now(&format!("using the Tor at {socks}"));
        return Ok((socks, None));
    }
    start(Vec::new(), show).await
}

/// `127.0.0.1:9050`, `unix:/run/tor/socks`.
fn parse(text: &str) -> Result<Socks, Failure> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(Socks::unix(path));
    }
    text.parse().map(Socks::tcp).map_err(|_| {
        Failure::input("the SOCKS port is neither an IP address with a port nor unix:PATH")
            .with_hint("for example `--socks 127.0.0.1:9050`")
    })
}

fn read_lines(path: &Path) -> Result<Vec<String>, Failure> {
    let failed = |error| Failure::file("reading", path, &error);
    if fs::metadata(path).map_err(failed)?.len() > LINES_BYTES_MAX {
        return Err(Failure::input(format!("{} is too long for configuration lines of Tor", path.display())));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

async fn start(lines: Vec<String>, show: &Show) -> Result<(Socks, Option<Running>), Failure> {
    let tor = find_tor().ok_or_else(|| {
        Failure::new(TOR, "no Tor runs here, and there is no `tor` program to start")
            .with_hint("`apt install tor`, start Tor Browser, or give `--socks`")
    })?;
    let (data, lock) = directory()?;
    let setup = Setup { lines, ..Setup::new(tor, data) };
    show.now("starting Tor");
    let mut last = None;
    let started = Managed::start(&setup, |percent, phase| {
        if last.replace(percent) != Some(percent) {
            show.now(&format!("starting Tor: {percent} %, {}", bento::line(phase)));
        }
    });
    let managed = started.await.map_err(|error| failure(&error))?;
    Ok((managed.socks(), Some(Running { managed, _lock: lock })))
}

fn failure(error: &ManagedError) -> Failure {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Failure::new(TOR, bento::line(&text)).with_hint(error.hint())
}

/// The first directory that no other program of ours uses.
fn directory() -> Result<(PathBuf, File), Failure> {
    let parent = cache()?.join("tor");
    make_private(&parent)?;
    for number in 1..=TORS_MAX {
        let path = parent.join(format!("{number}.lock"));
        let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = opened.map_err(|error| Failure::file("opening", &path, &error))?;
        match file.try_lock() {
            Ok(()) => return Ok((parent.join(number.to_string()), file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(Failure::file("locking", &path, &error)),
        }
    }
    Err(Failure::new(TOR, format!("{TORS_MAX} other `bento` have a `tor` of their own running"))
        .with_hint("start one Tor for all of them: `apt install tor`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socks_port_is_an_address_or_a_socket_and_no_name() {
        assert_eq!(parse("127.0.0.1:9050").unwrap(), Socks::tcp("127.0.0.1:9050".parse().unwrap()));
        assert_eq!(parse("unix:/run/tor/socks").unwrap(), Socks::unix("/run/tor/socks"));
        for wrong in ["", "unix:", "localhost:9050", "9050", "127.0.0.1", "/run/tor/socks"] {
            assert_eq!(parse(wrong).unwrap_err().status, 2, "{wrong}");
        }
    }
}
