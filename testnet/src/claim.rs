//! One network at a time on a machine, for its addresses exist once.
//!
//! Whoever holds the network listens on one loopback port. Others connect, read who it is, and wait for the end of that connection: the
//! kernel closes it however the holder ends, so no stale lock can be left.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::Trouble;
use crate::layout::CLAIM;

/// The right to run the network, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    task: JoinHandle<()>,
}

impl Claim {
    /// Takes the right, or waits for it within the deadline. `progress` hears who is waited for.
    pub(crate) async fn take(directory: &Path, deadline: Duration, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Self, Trouble> {
        let end = Instant::now() + deadline;
        let mut by = String::from("a program that does not say who it is");
        loop {
            match TcpListener::bind(CLAIM).await {
                Ok(listener) => return Ok(Self::hold(listener, directory)),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(Trouble::doing(format!("listening on {CLAIM}"))(error)),
            }
            // It may end between our two steps; then the connection fails and we try again.
            let gone = async {
                let Ok(mut holder) = TcpStream::connect(CLAIM).await else { return };
                let mut text = [0; 300];
                if let Ok(length @ 1..) = holder.read(&mut text).await {
                    by = String::from_utf8_lossy(&text[..length]).chars().filter(|c| !c.is_control()).collect();
                    progress(&format!("waiting for {by}"));
                }
                while let Ok(1..) = holder.read(&mut text).await {}
            };
            if timeout_at(end, gone).await.is_err() || Instant::now() >= end {
                return Err(Trouble::Held { by, waited: deadline });
            }
        }
    }

    fn hold(listener: TcpListener, directory: &Path) -> Self {
        let text = format!("process {} with {}\n", std::process::id(), directory.display());
        let task = tokio::spawn(async move {
            let mut waiting = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(text.as_bytes()).await;
                waiting.push(stream);
            }
        });
        Self { task }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.task.abort();
    }
}
