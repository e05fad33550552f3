//! Keys and identities of the daemons, made once and kept.
//!
//! They take some ten seconds of computing, so a prepared directory is what makes later starts fast. The directory belongs to this program:
//! what does not fit is made anew.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Trouble;
use crate::claim::Claim;
use crate::layout::{DIR_PORT, DNS, OR_PORT, Relay, Role, plan};
use crate::network::{CLAIM_DEADLINE, tor};

/// To be raised whenever the daemons, their addresses or their keys change.
const VERSION: u32 = 1;

/// The authorities' signing certificates are good for twelve months; a tenth of a year before that they are made anew.
const KEPT: Duration = Duration::from_secs(330 * 24 * 3600);

/// How long a program may take to make keys. It takes seconds; a busy machine may need minutes.
const KEYS_DEADLINE: Duration = Duration::from_secs(180);

/// What is written down about a prepared directory.
#[derive(Debug, Deserialize, Serialize)]
struct Prepared {
    version: u32,
    /// Seconds since 1970.
    made: u64,
    relays: Vec<Relay>,
}

/// Makes the keys of the network in this directory, unless they are there.
pub async fn prepare(directory: &Path, mut progress: impl FnMut(&str) + Send) -> Result<(), Trouble> {
    let _claim = Claim::take(directory, CLAIM_DEADLINE, &mut progress).await?;
    identities(directory, &mut progress).await.map(drop)
}

/// The directory of one daemon.
pub(crate) fn home(directory: &Path, name: &str) -> PathBuf {
    directory.join("daemons").join(name)
}

/// The daemons with their identities; they are made if they are not there. The caller holds the claim.
pub(crate) async fn identities(directory: &Path, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Vec<Relay>, Trouble> {
    private_directory(directory)?;
    private_file(&directory.join("resolv.conf"), format!("nameserver {DNS}\n").as_bytes())?;
    let record = directory.join("prepared.json");
    if let Some(relays) = kept(&record) {
        return Ok(relays);
    }
    progress("making the keys of the network, once");
    let daemons = directory.join("daemons");
    if daemons.exists() {
        std::fs::remove_dir_all(&daemons).map_err(Trouble::at("removing", &daemons))?;
    }
    let mut tasks = JoinSet::new();
    for relay in plan() {
        let home = home(directory, &relay.name);
        tasks.spawn(async move { identity(relay, &home).await });
    }
    let mut relays = Vec::new();
    while let Some(done) = tasks.join_next().await {
        relays.push(done.map_err(|error| Trouble::doing("making keys")(error.into()))??);
    }
    relays.sort_by_key(|relay| relay.address);
    let made = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = serde_json::to_vec_pretty(&Prepared { version: VERSION, made, relays: relays.clone() });
    let text = text.map_err(|error| Trouble::doing("writing down the identities")(error.into()))?;
    // Last, and in one step: a run that was interrupted leaves a directory that is prepared again.
    private_file(&record, &text)?;
    Ok(relays)
}

fn kept(record: &Path) -> Option<Vec<Relay>> {
    let prepared: Prepared = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
    let age = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(prepared.made))?.elapsed().ok()?;
    (prepared.version == VERSION && age < KEPT).then_some(prepared.relays)
}

/// Makes the keys of one daemon and reads its identity from them.
async fn identity(mut relay: Relay, home: &Path) -> Result<Relay, Trouble> {
    let keys = home.join("keys");
    private_directory(&keys)?;
    if relay.role == Role::Client {
        return Ok(relay);
    }
    if relay.role == Role::Authority {
        let address = relay.at(DIR_PORT).to_string();
        let mut command = Command::new("tor-gencert");
        command.args(["--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a", &address]);
        for (option, file) in [("-i", "authority_identity_key"), ("-s", "authority_signing_key"), ("-c", "authority_certificate")] {
            command.arg(option).arg(keys.join(file));
        }
        run("tor-gencert", command).await?;
        relay.v3ident = Some(word_after(&keys.join("authority_certificate"), "fingerprint ")?);
    }
    let mut command = Command::new(tor()?);
    command.args(["--defaults-torrc", "/dev/null", "--ignore-missing-torrc", "-f", "/dev/null", "DataDirectory"]).arg(home);
    command.args(["ORPort", &relay.at(OR_PORT).to_string(), "Nickname", &relay.name, "SocksPort", "0"]);
    command.args(["GeoIPFile", "/dev/null", "GeoIPv6File", "/dev/null", "--list-fingerprint"]);
    run("tor", command).await?;
    relay.fingerprint = Some(word_after(&home.join("fingerprint"), &format!("{} ", relay.name))?);
    Ok(relay)
}

/// Runs a program to its end, with an empty line as its input: a passphrase that nobody needs to know.
async fn run(program: &'static str, mut command: Command) -> Result<(), Trouble> {
    let failed = |said: String| Trouble::Keys { program, said };
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    let mut child = spawned.map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Programs that ask for nothing may be gone already.
        let _ = stdin.write_all(b"testnet\n").await;
    }
    match timeout(KEYS_DEADLINE, child.wait_with_output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            Err(failed(said.lines().rev().take(5).collect::<Vec<_>>().join("; ")))
        }
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("it did not end within {} s", KEYS_DEADLINE.as_secs()))),
    }
}

/// Reads the rest of the line that starts so:
/// ```text
/// fingerprint 14C131DFC5C6F93646BE72FA1401C02A8DF2E8B4
/// ```
fn word_after(file: &Path, start: &str) -> Result<String, Trouble> {
    let text = std::fs::read_to_string(file).map_err(Trouble::at("reading", file))?;
    let word = text.lines().find_map(|line| line.strip_prefix(start)).map(str::trim);
    word.map(str::to_owned).ok_or_else(|| {
        let missing = std::io::Error::other("it has no fingerprint");
        Trouble::at("reading", file)(missing)
    })
}

/// Makes a directory that only we can enter.
pub(crate) fn private_directory(path: &Path) -> Result<(), Trouble> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(Trouble::at("making", path))
}

/// Writes a file that only we can read, whole or not at all.
pub(crate) fn private_file(path: &Path, bytes: &[u8]) -> Result<(), Trouble> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        std::fs::rename(&new, path)
    };
    write().map_err(Trouble::at("writing", path))
}
