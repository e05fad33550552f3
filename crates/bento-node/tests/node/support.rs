//! A node to test, and an HTTP client that can also misbehave.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock},
    time::Duration,
};

use bento_proto::{InvocationToken, Outcome, Problem, SealKey, ShutdownToken, node::FunctionStatus};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const POLICY: &str = r#"
[offers]
image = ["python3"]
egress = ["direct"]
memory = "256 MiB"
scratch = "16 MiB"
cpu = "20 s"
traffic = "64 MiB"
lifetime = "10 min"
connect = ["accept 127.0.0.1:*", "accept *:80"]
"#;

pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) child: Child,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) log: std::sync::Arc<Mutex<String>>,
    /// From its start until it listened.
    pub(crate) started_in: Duration,
}

/// One node for all tests that need nothing special of it.
pub(crate) fn shared() -> SocketAddr {
    static NODE: OnceLock<Node> = OnceLock::new();
    // The last test does not drop a static, so the node watches for the end of this process itself: its standard input ends.
    NODE.get_or_init(|| Node::start(POLICY, "")).address
}

/// The program under test: the one cargo built, or a copy that another user can read.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("BENTOD_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_bentod").into(), PathBuf::from)
}

impl Node {
    /// Starts a node with this policy and more lines for its configuration.
    pub(crate) fn start(policy: &str, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("policy.toml"), policy).unwrap();
        let text = format!("name = \"Test\"\nstate = \"state\"\nlisten = \"127.0.0.1:0\"\n{more}\n[tor]\noff = true\n");
        std::fs::write(directory.path().join("bentod.toml"), text).unwrap();
        Self::start_in(directory)
    }

    /// Kills it, and starts another one with what it left.
    pub(crate) fn killed_and_started(self) -> Self {
        self.ended_and_started(rustix::process::Signal::KILL, |_| {})
    }

    /// The same, with something done to its state directory in between.
    pub(crate) fn killed_and_filled(self, fill: impl FnOnce(&Path)) -> Self {
        self.ended_and_started(rustix::process::Signal::KILL, fill)
    }

    /// Stops it as an operator does, and starts another one with what it left.
    pub(crate) fn stopped_and_started(self) -> Self {
        self.ended_and_started(rustix::process::Signal::TERM, |_| {})
    }

    fn ended_and_started(mut self, signal: rustix::process::Signal, fill: impl FnOnce(&Path)) -> Self {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        std::fs::write(directory.path().join("again"), "").unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        drop(self);
        std::fs::remove_file(directory.path().join("again")).unwrap();
        fill(&directory.path().join("state"));
        Self::start_in(directory)
    }

    fn start_in(directory: tempfile::TempDir) -> Self {
        let config = directory.path().join("bentod.toml");
        let begun = std::time::Instant::now();
        // A shell between them passes on that this process has ended, however it ended, and clears up: a static is never dropped.
        let script = r#""$0" run --config "$1" & pid=$!; trap 'kill -9 $pid' TERM; (cat >/dev/null; kill $pid) <&3 & wait $pid; [ -e "$2/again" ] || rm -rf "$2""#;
        let mut child = Command::new("/bin/sh");
        child.args(["-c", &format!("exec 3<&0; {script}")]).arg(program()).arg(&config).arg(directory.path());
        // The most that a node can be made to log, so that tests can look for what no level may say.
        child.env("BENTOD_LOG", "trace");
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = std::sync::Arc::new(Mutex::new(String::new()));
        let address = loop {
            let line = lines.next().expect("the node ends without listening").unwrap();
            let plain = line.replace("\u{1b}[3m", "").replace("\u{1b}[0m", "").replace("\u{1b}[2m", "");
            log.lock().unwrap().push_str(&plain);
            if let Some((_, address)) = plain.split_once("listening address=") {
                break address.trim().parse().unwrap();
            }
            assert!(!plain.contains("Error"), "{plain}");
        };
        let started_in = begun.elapsed();
        let more = std::sync::Arc::clone(&log);
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| *more.lock().unwrap() += &(line + "\n")));
        Self { address, child, directory, log, started_in }
    }

    /// The process id of `bentod` itself.
    pub(crate) fn pid(&self) -> u32 {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.child.id())).unwrap();
        let is_bentod = |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "bentod");
        children.split_whitespace().find(is_bentod).unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Processes below this one, by name.
pub(crate) fn descendants(root: u32, name: &str) -> Vec<u32> {
    let children = |pid: u32| -> Vec<u32> {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
            .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
            .collect()
    };
    let mut found = Vec::new();
    let mut left = vec![root];
    while let Some(pid) = left.pop() {
        if std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name) {
            found.push(pid);
        }
        left.extend(children(pid));
    }
    found
}

/// Waits until something holds. What is waited for has no event that a test could see.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A bundle of one file, its manifest as it comes.
pub(crate) fn bundle(needs: &str, code: &str) -> Vec<u8> {
    let methods: Vec<String> =
        code.lines().filter_map(|line| Some(format!("{:?}", line.strip_prefix("def ")?.split_once('(')?.0))).collect();
    let manifest = format!("name = \"test\"\nmethods = [{}]\n[needs]\n{needs}\n", methods.join(", "));
    let files = [("manifest.toml", manifest.as_str()), ("function.py", code)];
    bento_proto::bundle::pack(files.map(|(name, text)| (name, text.as_bytes()))).unwrap()
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailer: Option<Outcome>,
    /// Did the body end as it should?
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{:?}", self.body);
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn code(&self) -> String {
        self.problem().code().to_owned()
    }
}

pub(crate) async fn connect(address: SocketAddr) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) async fn start(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> hyper::Response<Incoming> {
    let mut request = Request::builder().method(method).uri(path).header("host", "node").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let sending = async { connect(address).await.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap() };
    tokio::time::timeout(PATIENCE, sending).await.expect("no answer")
}

pub(crate) async fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let response = start(address, method, path, headers, body).await;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut incoming = response.into_body();
    let (mut body, mut trailer, mut whole) = (Vec::new(), None, true);
    let reading = async {
        while let Some(frame) = incoming.frame().await {
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(data)) => body.extend_from_slice(&data),
                Ok(Err(frame)) => {
                    trailer = frame.into_trailers().ok().and_then(|map| serde_json::from_slice(map["bento-outcome"].as_bytes()).ok())
                }
                Err(_) => {
                    whole = false;
                    break;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the body does not end");
    Answer { status, headers, body: body.into(), trailer, whole }
}

pub(crate) struct Installed {
    pub(crate) address: SocketAddr,
    pub(crate) invocation: InvocationToken,
    pub(crate) shutdown: ShutdownToken,
}

pub(crate) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

impl Installed {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, invocation: InvocationToken::from_random(random()), shutdown: ShutdownToken::from_random(random()) }
    }

    pub(crate) async fn install(&self, archive: Vec<u8>) -> Answer {
        let headers = [
            ("bento-invocation-digest", self.invocation.digest().to_string()),
            ("bento-shutdown-digest", self.shutdown.digest().to_string()),
            ("bento-seal", SealKey::of(&self.invocation).reveal().to_string()),
        ];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        ask(self.address, "POST", "/v1/functions", &headers, archive).await
    }

    pub(crate) async fn invoke(&self, method: &str, arguments: &str) -> Answer {
        self.invoke_with(method, arguments, Bytes::new()).await
    }

    pub(crate) async fn invoke_with(&self, method: &str, arguments: &str, input: impl Into<Bytes>) -> Answer {
        let token = format!("Bearer {}", self.invocation.reveal());
        ask(self.address, "POST", &format!("/v1/invoke/{method}"), &[("authorization", &token), ("bento-arguments", arguments)], input)
            .await
    }

    pub(crate) async fn status(&self) -> FunctionStatus {
        let token = format!("Bearer {}", self.invocation.reveal());
        let answer = ask(self.address, "GET", "/v1/function", &[("authorization", &token)], "").await;
        serde_json::from_slice(&answer.body).unwrap()
    }

    pub(crate) async fn end(&self) -> Answer {
        let token = format!("Bearer {}", self.shutdown.reveal());
        ask(self.address, "DELETE", "/v1/function", &[("authorization", &token)], "").await
    }
}

/// A function installed on the shared node.
pub(crate) async fn installed(needs: &str, code: &str) -> Installed {
    installed_at(shared(), needs, code).await
}

pub(crate) async fn installed_at(address: SocketAddr, needs: &str, code: &str) -> Installed {
    let function = Installed::new(address);
    let answer = function.install(bundle(needs, code)).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    function
}

pub(crate) async fn run(address: SocketAddr, needs: &str, code: &str, method: &str, input: &[u8]) -> Answer {
    let archive = bundle(needs, code);
    let length = archive.len().to_string();
    ask(address, "POST", &format!("/v1/run/{method}"), &[("bento-bundle-length", &length)], [archive.as_slice(), input].concat()).await
}
