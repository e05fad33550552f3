//! A child process that surely ends: asked first, killed after a while, killed at once when dropped.
//!
//! Signals go through a pidfd, so they never reach another process that was given the same number.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a process may take to end after SIGTERM. `tor` sometimes hangs after "exiting cleanly", and then only SIGKILL helps.
pub const TERM_DEADLINE: Duration = Duration::from_secs(4);

/// A running child.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    handle: OwnedFd,
    exited: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts the command. The pipes are there if the command asks for them.
    pub fn spawn(command: &mut Command) -> io::Result<(Self, Option<ChildStdin>, Option<ChildStdout>)> {
        let mut child = command.kill_on_drop(true).spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the child ended before it could be watched"))?;
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let number = number.ok_or_else(|| io::Error::other("the child has no process id"))?;
        // Nobody has waited for the child yet, so its number is still its own.
        let handle = pidfd_open(number, PidfdFlags::empty())?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (tell, exited) = watch::channel(None);
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                let _ = tell.send(Some(status));
            }
        });
        Ok((Self { pid, handle, exited }, stdin, stdout))
    }

    /// Its process id. For people and for `/proc`; signals belong to [`Process::signal`].
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.exited.borrow().is_none() && self.exited.has_changed().is_ok()
    }

    /// Sends a signal. That it has ended already is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.handle, signal);
    }

    /// Completes when it has ended. The future does not borrow the process.
    pub fn exited(&self) -> impl Future<Output = ExitStatus> + Send + use<> {
        let mut exited = self.exited.clone();
        async move {
            match exited.wait_for(Option::is_some).await {
                Ok(status) => status.unwrap_or_default(),
                // The task that waits was dropped together with its runtime, and that kills the child.
                Err(_) => ExitStatus::from_raw(Signal::KILL.as_raw()),
            }
        }
    }

    /// Asks it to end, and kills it if it does not within [`TERM_DEADLINE`].
    pub async fn stop(&self) -> ExitStatus {
        self.signal(Signal::TERM);
        if let Ok(status) = timeout(TERM_DEADLINE, self.exited()).await {
            return status;
        }
        self.signal(Signal::KILL);
        self.exited().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[tokio::test]
    async fn a_process_that_ignores_the_request_is_killed_and_a_polite_one_is_not() {
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
            Process::spawn(&mut command).unwrap()
        };
        let (polite, _, _) = shell("exec sleep 60");
        assert!(polite.is_running());
        assert_eq!(polite.stop().await.signal(), Some(Signal::TERM.as_raw()));
        assert!(!polite.is_running());

        let (stubborn, _, stdout) = shell("trap '' TERM; echo ready; while :; do sleep 1; done");
        tokio::io::AsyncReadExt::read_u8(&mut stdout.unwrap()).await.unwrap();
        assert_eq!(stubborn.stop().await.signal(), Some(Signal::KILL.as_raw()));
    }

    #[tokio::test]
    async fn a_dropped_process_ends() {
        let mut command = Command::new("/bin/sleep");
        let (process, _, _) = Process::spawn(command.arg("60")).unwrap();
        let exited = process.exited();
        drop(process);
        assert_eq!(exited.await.signal(), Some(Signal::KILL.as_raw()));
    }
}
