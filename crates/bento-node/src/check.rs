//! `bentod check`: what this machine enforces, and whether the files are right.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use tokio::process::Command;

use crate::config::Config;

/// Probing all walls takes some tens of milliseconds.
const CHECK_DEADLINE: Duration = Duration::from_secs(30);

/// One wall, probed.
#[derive(Clone, Debug, Deserialize)]
pub struct Wall {
    /// Its name.
    pub wall: String,
    /// Does it stand?
    pub holds: bool,
    /// What was seen.
    #[serde(default)]
    pub detail: String,
}

/// The program that puts up the walls: the configured one, or the one beside this program.
pub fn jail_program(config: &Config) -> PathBuf {
    let beside = || std::env::current_exe().ok().map(|own| own.with_file_name("bento-jail"));
    config.jail.clone().or_else(beside).unwrap_or_else(|| "bento-jail".into())
}

/// Puts up a jail and probes each wall from inside.
///
/// # Errors
/// When the program is not there, or says nothing that can be read.
pub async fn walls(jail: &Path) -> io::Result<Vec<Wall>> {
    let mut command = Command::new(jail);
    command.arg("--check").env_clear().stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(CHECK_DEADLINE, command.output()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::other)).collect()
}
