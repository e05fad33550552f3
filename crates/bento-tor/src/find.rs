//! Finding what the machine already has: a `tor` program, a running Tor.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::Socks;

/// How long a Tor on this machine may take to answer a greeting. It answers in under a millisecond when it is there.
const PROBE_DEADLINE: Duration = Duration::from_millis(500);

/// Where `tor` lies when PATH does not have it: a person's PATH often leaves out the directories of system programs.
const ELSEWHERE: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// Finds the `tor` program: on PATH first, then where distributions put it.
pub fn find_tor() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain(ELSEWHERE.iter().map(PathBuf::from))
        .map(|directory| directory.join("tor"))
        .find(|file| file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0))
}

/// Finds a Tor that already runs here: the system's (port 9050), then Tor Browser's (port 9150).
pub async fn system_socks() -> Option<Socks> {
    for port in [9050, 9150] {
        let socks = Socks::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        if socks.answers(PROBE_DEADLINE).await {
            return Some(socks);
        }
    }
    None
}
