//! The configuration file of a `tor` of our own.

use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt;

use super::{ManagedError, Setup};
use crate::socks::Socks;

/// Longest path of a Unix socket: `sun_path` has 108 bytes, with the zero at its end.
const SOCKET_PATH_MAX: usize = 107;

/// A configuration that lies on the disk.
pub(super) struct Torrc {
    pub(super) file: PathBuf,
    /// The SOCKS port, where it is known before the start.
    pub(super) socks: Option<Socks>,
}

/// Writes the configuration into the directory, and makes the directory first.
pub(super) async fn write(setup: &Setup) -> Result<Torrc, ManagedError> {
    let data = setup.directory()?;
    let (text, socks) = text(setup, &data)?;
    let file = data.join("torrc");
    let write = async {
        let mut builder = tokio::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&data).await?;
        let mut options = tokio::fs::OpenOptions::new();
        let mut torrc = options.write(true).create(true).truncate(true).mode(0o600).open(&file).await?;
        torrc.write_all(text.as_bytes()).await?;
        torrc.flush().await
    };
    write.await.map_err(|source: io::Error| ManagedError::Directory { path: data.clone(), source })?;
    Ok(Torrc { file, socks })
}

fn text(setup: &Setup, data: &Path) -> Result<(String, Option<Socks>), ManagedError> {
    if let Some(line) = setup.lines.iter().find(|line| line.contains(['\r', '\n', '\0'])) {
        return Err(ManagedError::Line(line.escape_debug().to_string()));
    }
    let socket = data.join("socks");
    let fits = socket.as_os_str().as_bytes().len() <= SOCKET_PATH_MAX;
    let port = match fits {
        true => format!("unix:{}", quoted(&socket)?),
        false => "127.0.0.1:auto".to_owned(),
    };
    let own = [
        // The pipe to us is read at all times and only its last lines are kept.
        ("Log", "notice stdout".to_owned()),
        ("SocksPort", format!("{port} ExtendedErrors")),
        // The tables that map addresses to countries cost 30 MiB of memory, and nothing here asks for a country.
        ("GeoIPFile", "/dev/null".to_owned()),
        ("GeoIPv6File", "/dev/null".to_owned()),
        // A tor that was idle for a day remembers it, and would not connect at its next start.
        ("DormantCanceledByStartup", "1".to_owned()),
    ];
    let mut text = format!("DataDirectory {}\n", quoted(data)?);
    for (option, value) in own {
        if !setup.sets(option) {
            text += &format!("{option} {value}\n");
        }
    }
    for line in &setup.lines {
        text += line;
        text.push('\n');
    }
    let known = fits && !setup.sets("SocksPort");
    Ok((text, known.then(|| Socks::unix(socket))))
}

fn quoted(path: &Path) -> Result<String, ManagedError> {
    let text = path.to_str().filter(|text| !text.contains(['\r', '\n', '\0']));
    let text = text.ok_or_else(|| ManagedError::Line(path.display().to_string()))?;
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Reads the first of the listeners, as `GETINFO net/listeners/socks` gives them:
/// ```text
/// "unix:/run/tor/socks" "127.0.0.1:9050"
/// ```
pub(super) fn listener(text: &str) -> Option<Socks> {
    let first = text.split('"').nth(1)?;
    if let Some(path) = first.strip_prefix("unix:") {
        return Some(Socks::unix(path));
    }
    first.parse::<SocketAddr>().ok().map(Socks::tcp)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn setup(lines: &[&str]) -> Setup {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        Setup { tor: "/usr/bin/tor".into(), data: "/d".into(), lines, deadline: Duration::from_secs(1) }
    }

    #[test]
    fn a_given_line_takes_the_place_of_ours() {
        let (ours, socks) = text(&setup(&[]), Path::new("/d \"x")).unwrap();
        assert!(ours.contains("SocksPort unix:\"/d \\\"x/socks\" ExtendedErrors\n"));
        assert!(socks.is_some());
        let (theirs, socks) = text(&setup(&["socksport 0"]), Path::new("/d")).unwrap();
        assert!(theirs.contains("socksport 0\n") && !theirs.contains("SocksPort"));
        assert!(socks.is_none());
    }

    #[test]
    fn a_long_path_falls_back_to_tcp_and_a_broken_line_is_refused() {
        let long = format!("/{}", "d".repeat(SOCKET_PATH_MAX));
        let (text_, socks) = text(&setup(&[]), Path::new(&long)).unwrap();
        assert!(text_.contains("SocksPort 127.0.0.1:auto ExtendedErrors\n") && socks.is_none());
        assert!(text(&setup(&["Nickname a\nExitRelay 1"]), Path::new("/d")).is_err());
    }

    #[test]
    fn listeners_are_read_as_tor_writes_them() {
        assert_eq!(listener("\"unix:/a b\" \"127.0.0.1:9050\""), Some(Socks::unix("/a b")));
        assert_eq!(listener("\"127.0.0.1:9050\""), Some(Socks::tcp("127.0.0.1:9050".parse().unwrap())));
        assert_eq!(listener(""), None);
    }
}
