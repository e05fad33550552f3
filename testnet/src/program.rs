//! A program under test: started, listened to, surely ended.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bento_tor::process::Process;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Trouble;

/// Lines kept of each output. Older ones are forgotten.
const LINES_MAX: usize = 5000;

/// Lines shown when something went wrong.
const LINES_SHOWN: usize = 30;

/// A running program. Dropping it kills it.
///
/// Its standard input is a pipe that we hold: a program that ends when that closes ends even if we are killed.
#[derive(Debug)]
pub struct Program {
    name: String,
    process: Process,
    stdin: Option<ChildStdin>,
    stdout: Output,
    stderr: Output,
    /// Lines of stdout that were looked at, counted from the start.
    seen: usize,
}

impl Program {
    /// Starts a program. `name` is what messages call it. Its outputs are kept, not shown.
    pub fn start(name: &str, command: &mut Command) -> Result<Self, Trouble> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // Both outputs are pipes of ours; the second is made here because a process hands out only the first.
        let (reader, writer) = std::io::pipe().map_err(Trouble::doing("making a pipe"))?;
        command.stderr(writer);
        let spawned = Process::spawn(command);
        // The command would keep the pipe open after the program's end.
        command.stderr(Stdio::null());
        let (process, stdin, stdout) = spawned.map_err(Trouble::doing(format!("starting {name}")))?;
        let stderr = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into());
        let stderr = stderr.map_err(Trouble::doing("reading a pipe"))?;
        let stdout = stdout.map_or_else(Output::closed, Output::follow);
        Ok(Self { name: name.to_owned(), process, stdin, stdout, stderr: Output::follow(stderr), seen: 0 })
    }

    /// Waits for the next line of standard output that matches, within the deadline. Lines before it are passed over.
    pub async fn wait_for_line(&mut self, matches: impl Fn(&str) -> bool, deadline: Duration) -> Result<String, Trouble> {
        let (output, seen) = (&mut self.stdout, &mut self.seen);
        let found = timeout(deadline, async {
            loop {
                if let Some(line) = output.find(seen, &matches) {
                    return Some(line);
                }
                if output.changed.changed().await.is_err() {
                    // What came in between the two looks is still there to be found.
                    return output.find(seen, &matches);
                }
            }
        })
        .await;
        match found {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(self.trouble("ended before it wrote the line that was waited for")),
            Err(_) => Err(Trouble::NoLine { program: self.name.clone(), waited: deadline, wrote: self.wrote() }),
        }
    }

    /// Waits until it ends by itself, within the deadline.
    pub async fn finished(&self, deadline: Duration) -> Result<ExitStatus, Trouble> {
        let ended = timeout(deadline, self.process.exited()).await;
        ended.map_err(|_| self.trouble(&format!("did not end within {} s", deadline.as_secs_f32())))
    }

    /// The lines of standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lines()
    }

    /// The lines of standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lines()
    }

    /// Its standard input, once.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Asks it to end (SIGTERM), and kills it if it does not within four seconds.
    pub async fn stop(&self) -> ExitStatus {
        self.process.stop().await
    }

    /// Kills it, as `kill -9` does, and waits until it is gone.
    pub async fn kill(&self) -> ExitStatus {
        self.process.signal(rustix::process::Signal::KILL);
        self.process.exited().await
    }

    fn trouble(&self, how: &str) -> Trouble {
        Trouble::Program { program: self.name.clone(), how: how.to_owned(), wrote: self.wrote() }
    }

    fn wrote(&self) -> String {
        let tail = |mut lines: Vec<String>| lines.split_off(lines.len().saturating_sub(LINES_SHOWN));
        [tail(self.stdout()), tail(self.stderr())].concat().join("\n")
    }
}

/// One output of a program, read by a task of its own so that the program never waits for us.
#[derive(Debug)]
struct Output {
    kept: Arc<Mutex<Kept>>,
    changed: watch::Receiver<()>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    forgotten: usize,
}

impl Output {
    fn closed() -> Self {
        Self { kept: Arc::default(), changed: watch::channel(()).1 }
    }

    fn follow(stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let kept: Arc<Mutex<Kept>> = Arc::default();
        let (tell, changed) = watch::channel(());
        let output = Self { kept: kept.clone(), changed };
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while let Ok(1..) = stream.read_until(b'\n', &mut line).await {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
                line.clear();
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.lines.len() == LINES_MAX {
                    kept.lines.pop_front();
                    kept.forgotten += 1;
                }
                kept.lines.push_back(text);
                drop(kept);
                let _ = tell.send(());
            }
        });
        output
    }

    fn lines(&self) -> Vec<String> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).lines.iter().cloned().collect()
    }

    fn find(&self, seen: &mut usize, matches: impl Fn(&str) -> bool) -> Option<String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for line in kept.lines.iter().skip(seen.saturating_sub(kept.forgotten)) {
            *seen = (*seen).max(kept.forgotten) + 1;
            if matches(line) {
                return Some(line.clone());
            }
        }
        None
    }
}

/// Finds a program of this workspace, built beside the one that runs: in `BENTO_BIN`, or in the same target directory.
pub fn binary(name: &str) -> Result<PathBuf, Trouble> {
    let given = std::env::var_os("BENTO_BIN").map(PathBuf::from);
    let own = std::env::current_exe().map_err(Trouble::doing("finding our own program"))?;
    // Test programs lie in `deps`, one level below the others.
    let places = given.iter().map(PathBuf::as_path).chain(own.ancestors().skip(1).take(2));
    let found = places.map(|place| place.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| Trouble::NotBuilt(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Program {
        Program::start("sh", Command::new("/bin/sh").args(["-c", script])).unwrap()
    }

    #[tokio::test]
    async fn lines_are_found_in_their_order_and_each_only_once() {
        let mut program = shell("echo one; echo two; echo one; echo problem >&2; read x; exit 3");
        assert_eq!(program.wait_for_line(|line| line == "one", SOON).await.unwrap(), "one");
        assert_eq!(program.wait_for_line(|line| line == "one", SOON).await.unwrap(), "one");
        let error = program.wait_for_line(|line| line == "one", Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, Trouble::NoLine { .. }));
        assert!(program.is_running());
        drop(program.stdin());
        let error = program.wait_for_line(|_| true, SOON).await.unwrap_err();
        assert!(matches!(&error, Trouble::Program { .. }) && error.to_string().contains("two"), "{error}");
        assert_eq!(program.finished(SOON).await.unwrap().code(), Some(3));
        assert_eq!(program.stdout(), ["one", "two", "one"]);
        assert_eq!(program.stderr(), ["problem"]);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told() {
        assert!(Program::start("x", &mut Command::new("/nowhere/x")).is_err());
        assert!(matches!(binary("no-such-program"), Err(Trouble::NotBuilt(_))));
    }
}
