//! The last lines of what `tor` writes, kept in memory and bounded.
//!
//! SafeLogging keeps clients' destinations out of the log already. Here addresses of any kind are taken out as well, because these lines are
//! shown in error messages.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::ChildStdout;
use tokio::sync::watch;

/// Lines kept. A failed start says why in its last few.
const LINES_MAX: usize = 20;

/// Characters kept of a line. Longer lines are lists.
const LINE_BYTES_MAX: usize = 500;

/// The last lines, while a task keeps reading: a pipe that nobody reads would stop `tor`.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
    open: watch::Receiver<()>,
}

impl Tail {
    pub(super) fn follow(stdout: Option<ChildStdout>) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::with_capacity(LINES_MAX)));
        let (open, watcher) = watch::channel(());
        let kept = lines.clone();
        tokio::spawn(async move {
            let _open = open;
            let Some(mut stdout) = stdout else { return };
            let mut buffer = [0; 4096];
            let mut line = Vec::new();
            while let Ok(length @ 1..) = stdout.read(&mut buffer).await {
                for byte in &buffer[..length] {
                    match byte {
                        b'\n' => keep(&kept, &std::mem::take(&mut line)),
                        _ if line.len() < LINE_BYTES_MAX => line.push(*byte),
                        _ => {}
                    }
                }
            }
        });
        Self { lines, open: watcher }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Waits until all is read, within the deadline: the process may end before its last lines are read.
    pub(super) async fn ended(&self, deadline: Duration) {
        let mut open = self.open.clone();
        // The sender never sends; it goes when the reading task ends.
        let _ = tokio::time::timeout(deadline, open.changed()).await;
    }
}

fn keep(lines: &Mutex<VecDeque<String>>, line: &[u8]) {
    let line = scrubbed(&String::from_utf8_lossy(line));
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() == LINES_MAX {
        lines.pop_front();
    }
    lines.push_back(line);
}

/// ```text
/// Nov 22 18:18:35.000 [warn] Could not bind to 127.0.0.1:9050: Address already in use. Is Tor already running?
/// ```
fn scrubbed(line: &str) -> String {
    let message = line.find('[').map_or(line, |start| &line[start..]);
    let mut text = String::with_capacity(message.len());
    for word in message.split_inclusive(' ') {
        let bare = word.trim_matches(|character: char| !character.is_ascii_alphanumeric() && character != ':');
        let bare = bare.strip_suffix(':').unwrap_or(bare);
        let ip: Option<IpAddr> = bare.parse().ok();
        // Tor's version, 0.4.9.11, reads as an address of the network 0, where nobody is.
        let address = ip.is_some_and(|ip| !matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 0))
            || bare.parse::<SocketAddr>().is_ok()
            || format!("[{bare}").parse::<SocketAddr>().is_ok()
            || bare.contains(".onion");
        if address {
            text.push_str(&word.replace(bare, "[scrubbed]"));
        } else {
            text.push_str(word);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_addresses_are_taken_out_and_the_rest_is_kept() {
        let line = "Nov 22 18:18:35.000 [warn] Could not bind to 127.0.0.1:9050: Address already in use. Is Tor 0.4.9.11 running?";
        assert_eq!(scrubbed(line), "[warn] Could not bind to [scrubbed]: Address already in use. Is Tor 0.4.9.11 running?");
        assert_eq!(scrubbed("[notice] at (192.0.2.1), [2001:db8::1]:443."), "[notice] at ([scrubbed]), [[scrubbed].");
        assert_eq!(scrubbed("[warn] abc.onion:80 failed"), "[warn] [scrubbed] failed");
    }
}
