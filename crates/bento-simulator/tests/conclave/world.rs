//! A node, its conclave, the host between them, and a person with the program `bento`.

use std::{
    fs,
    io::{BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::{host::Host, site};

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

const POLICY: &str = r#"
[offers]
image = ["python3", "web", "shard"]
egress = ["direct"]
memory = "1 GiB"
processes = 64
connect = ["accept 127.0.0.1:*", "accept *:80", "accept *:443"]
"#;

/// A program that runs, with what it said. It ends with this.
pub(crate) struct Running {
    child: Child,
    said: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Running {
    /// Starts it, and waits until it has said this; what comes behind it on that line.
    fn start(mut command: Command, awaited: &str) -> (Self, String) {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let found = loop {
            let line = lines.next().unwrap_or_else(|| panic!("{command:?} ended: {}", said.lock().unwrap())).unwrap();
            *said.lock().unwrap() += &format!("{line}\n");
            if let Some((_, rest)) = line.split_once(awaited) {
                break rest.trim().to_owned();
            }
        };
        let more = std::sync::Arc::clone(&said);
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| *more.lock().unwrap() += &(line + "\n")));
        (Self { child, said }, found)
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Stops it as an operator does.
    pub(crate) fn stop(mut self) {
        self.signal("-TERM");
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it does not stop: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of this workspace, which is built with all others.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_bento-simulated-conclave")).with_file_name(name);
    assert!(path.exists(), "{} is not there: `cargo build --workspace --bins` first", path.display());
    path
}

pub(crate) fn functions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../functions").canonicalize().unwrap()
}

/// A node with a conclave.
pub(crate) struct Node {
    directory: tempfile::TempDir,
    pub(crate) address: String,
    pub(crate) host: Host,
    bentod: Running,
    conclave: Option<Running>,
}

impl Node {
    pub(crate) fn start(more: &[&str]) -> Self {
        Self::knowing(&[], more)
    }

    /// A node that lets its functions have others on these nodes.
    pub(crate) fn knowing(nodes: &[&str], more: &[&str]) -> Self {
        Self::bounding(nodes, more, "")
    }

    /// The same, with these lines more about its conclave.
    pub(crate) fn bounding(nodes: &[&str], more: &[&str], bounds: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["outside", "inside"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("policy.toml"), POLICY).unwrap();
        let known: String =
            nodes.iter().enumerate().map(|(index, address)| format!("{{name = \"n{index}\", address = \"{address}\"}},")).collect();
        let trust = site::shared().certificate.display().to_string();
        let images = format!(
            "[images.python3]\n[images.web]\npackages = [\"brotli\", \"_brotli\", \"idna\", \"webencodings\"]\ncertificates = \"{trust}\"\n[images.shard]\npackages = [\"zfec\", \"nacl\", \"_cffi_backend\"]\n"
        );
        let bentod = format!(
            "name = \"Test\"\nstate = \"state\"\nlisten = \"127.0.0.1:0\"\nnodes = [{known}]\n[tor]\noff = true\n[conclave]\ndirectory = \"outside\"\n{bounds}\n{images}"
        );
        fs::write(at("bentod.toml"), bentod).unwrap();
        fs::write(at("conclave.toml"), format!("name = \"Test, inside\"\nstate = \"sealed\"\nnodes = [{known}]\n{images}")).unwrap();
        let host = Host::between(&at("outside"), &at("inside"));
        let mut command = Command::new(program("bentod"));
        command.arg("run").arg("--config").arg(at("bentod.toml")).env("BENTOD_LOG", "trace");
        let (bentod, address) = Running::start(command, "listening");
        let address = address.rsplit('=').next().unwrap().replace("\u{1b}[0m", "").trim().to_owned();
        let mut node = Self { directory, address, host, bentod, conclave: None };
        node.start_conclave(more);
        // Its kind is what the node says of itself from then on.
        let end = Instant::now() + PATIENCE;
        while !node.bentod.said().contains("the conclave answers") {
            assert!(Instant::now() < end, "{}", node.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
        node
    }

    /// Starts the conclave anew, as the same machine does: with a root of its own.
    pub(crate) fn start_conclave(&mut self, more: &[&str]) {
        self.conclave = None;
        let _ = fs::remove_dir_all(self.given());
        self.conclave = Some(self.another_conclave("inside", "sealed", more));
    }

    /// A conclave of the same files, in this directory.
    pub(crate) fn another_conclave(&self, directory: &str, give: &str, more: &[&str]) -> Running {
        let give = if give == "sealed" { self.given() } else { self.path(give) };
        let mut command = Command::new(program("bento-simulated-conclave"));
        command.arg("run").arg("--config").arg(self.path("conclave.toml")).arg("--directory").arg(self.path(directory));
        command.arg("--give").arg(give).args(more).env("BENTO_CONCLAVE_LOG", "trace");
        Running::start(command, "listening for the host").0
    }

    pub(crate) fn stop_conclave(&mut self) {
        self.conclave.take().unwrap().stop();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What its simulator handed over.
    pub(crate) fn given(&self) -> PathBuf {
        self.path("given")
    }

    /// What `bentod status` says of it.
    pub(crate) async fn status(&self) -> String {
        let mut command = Command::new(program("bentod"));
        command.arg("status").arg("--config").arg(self.path("bentod.toml"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What both programs logged.
    pub(crate) fn logs(&self) -> String {
        self.bentod.said() + &self.conclave.as_ref().map(Running::said).unwrap_or_default()
    }
}

/// A person with a home.
pub(crate) struct Person {
    pub(crate) home: tempfile::TempDir,
}

impl Person {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    /// Runs `bento`. Does not wait in this thread, which plays the host.
    pub(crate) async fn bento(&self, words: &[&str]) -> Said {
        let mut command = Command::new(program("bento"));
        command.args(words).current_dir(self.home.path()).env_clear().env("HOME", self.home.path()).env("COLUMNS", "200");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let words = format!("{words:?}");
        let ran = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
            let reading = std::thread::spawn(move || {
                let mut text = Vec::new();
                err.read_to_end(&mut text).unwrap();
                text
            });
            let watch = child.id();
            let (ended, ends) = std::sync::mpsc::channel::<()>();
            let watching = std::thread::spawn(move || {
                if ends.recv_timeout(PATIENCE).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout) {
                    let _ = Command::new("kill").args(["-KILL", &watch.to_string()]).status();
                }
            });
            let mut stdout = Vec::new();
            out.read_to_end(&mut stdout).unwrap();
            let status = child.wait().unwrap();
            drop(ended);
            watching.join().unwrap();
            Output { status, stdout, stderr: reading.join().unwrap() }
        });
        let output = ran.await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let status = output.status.code().unwrap_or_else(|| panic!("{words} did not end within {PATIENCE:?}"));
        Said { status, out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs it where it must be done.
    pub(crate) async fn done(&self, words: &[&str]) -> String {
        let said = self.bento(words).await;
        assert_eq!(said.status, 0, "{words:?}: {said:?}");
        said.out
    }
}

/// What it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// It was not done, with this exit status and these words.
    #[track_caller]
    pub(crate) fn refused(&self, status: i32, words: &str) {
        assert!(self.status == status && self.err.contains(words), "{words}: {self:?}");
    }
}
