//! A node that does what a test tells it: right answers, and every kind of wrong one, byte by byte.
//!
//! It speaks raw HTTP/1.1 on purpose. A library would not let it lie.

// Each test binary uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod dropbox;
#[cfg(feature = "cli")]
pub mod home;
pub mod shard;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bento_proto::{Policy, Problem, Rate, Share, Size, Span, grant::Granted, node::Description, node::FunctionStatus};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `POST /v1/run/page`.
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, wanted: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }
}

/// What the node does on a stream.
#[derive(Clone, Debug)]
pub enum Act {
    Send(Vec<u8>),
    Wait(Duration),
    /// Nothing more, and the stream stays open.
    Hold,
    /// This again and again.
    Forever(Vec<u8>, Duration),
    /// Answers with the head and then sends each chunk of the input back as it comes, while it comes.
    Echo,
}

pub type Script = Arc<dyn Fn(&Asked) -> Vec<Act> + Send + Sync>;

/// The node. Dropping it ends it.
pub struct FakeNode {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeNode {
    pub async fn start(script: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let script: Script = Arc::new(script);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&log)));
            }
        });
        Self { address, asked, task }
    }

    pub fn node(&self) -> bento::NodeAddress {
        self.address.to_string().parse().unwrap()
    }

    pub fn last(&self) -> Asked {
        self.asked.lock().unwrap().last().cloned().unwrap()
    }
}

async fn serve(mut stream: TcpStream, script: Script, log: Arc<Mutex<Vec<Asked>>>) -> Option<()> {
    let mut asked = head(&mut stream).await?;
    // A script may count, and is asked once where the input is not needed while it comes.
    let mut acts = if asked.line.ends_with("/echo") { script(&asked) } else { Vec::new() };
    if !matches!(acts.first(), Some(Act::Echo)) {
        asked.body = body(&mut stream, &asked).await?;
        acts = script(&asked);
    }
    log.lock().unwrap().push(asked.clone());
    for act in acts {
        match act {
            Act::Send(bytes) => stream.write_all(&bytes).await.ok()?,
            Act::Wait(time) => tokio::time::sleep(time).await,
            Act::Hold => std::future::pending().await,
            Act::Forever(bytes, pause) => loop {
                stream.write_all(&bytes).await.ok()?;
                tokio::time::sleep(pause).await;
            },
            Act::Echo => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
                let mut bundle: usize = asked.header("bento-bundle-length").map_or(0, |length| length.parse().unwrap());
                while let Some(bytes) = chunk(&mut stream).await {
                    let skipped = bundle.min(bytes.len());
                    bundle -= skipped;
                    if skipped < bytes.len() {
                        stream.write_all(&chunked(&bytes[skipped..])).await.ok()?;
                    }
                }
                stream.write_all(&trailer(r#"{"outcome":"returned"}"#)).await.ok()?;
            }
        }
    }
    // Read what may still come, so that closing does not reset what was sent.
    stream.shutdown().await.ok()?;
    let _ = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut [0; 1024])).await;
    Some(())
}

async fn line(stream: &mut TcpStream) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.ok()?);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).ok()
}

async fn head(stream: &mut TcpStream) -> Option<Asked> {
    let first = line(stream).await?;
    let mut asked = Asked { line: first.trim_end_matches(" HTTP/1.1").to_owned(), ..Asked::default() };
    loop {
        let next = line(stream).await?;
        let Some((name, value)) = next.split_once(": ") else { return Some(asked) };
        asked.headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

async fn chunk(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = usize::from_str_radix(&line(stream).await?, 16).ok()?;
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.ok()?;
    line(stream).await?;
    (length > 0).then_some(bytes)
}

async fn body(stream: &mut TcpStream, asked: &Asked) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = asked.header("content-length") {
        body.resize(length.parse().ok()?, 0);
        stream.read_exact(&mut body).await.ok()?;
    } else if asked.header("transfer-encoding").is_some() {
        while let Some(bytes) = chunk(stream).await {
            body.extend(bytes);
        }
    }
    Some(body)
}

pub fn chunked(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

pub fn trailer(outcome: &str) -> Vec<u8> {
    format!("0\r\nBento-Outcome: {outcome}\r\n\r\n").into_bytes()
}

/// A streamed output with its outcome.
pub fn streamed(chunks: &[&[u8]], outcome: &str) -> Vec<Act> {
    let mut bytes =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\nTrailer: Bento-Outcome\r\n\r\n"
            .to_vec();
    chunks.iter().for_each(|chunk| bytes.extend(chunked(chunk)));
    bytes.extend(trailer(outcome));
    vec![Act::Send(bytes)]
}

/// An output with a length.
pub fn whole(bytes: &[u8]) -> Vec<Act> {
    short("200 OK", "application/octet-stream", bytes)
}

pub fn short(status: &str, kind: &str, body: &[u8]) -> Vec<Act> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    vec![Act::Send([head.as_bytes(), body].concat())]
}

pub fn json(status: &str, value: &impl serde::Serialize) -> Vec<Act> {
    short(status, "application/json", &serde_json::to_vec(value).unwrap())
}

pub fn problem(problem: &Problem) -> Vec<Act> {
    short(&format!("{} No", problem.status), "application/problem+json", &serde_json::to_vec(problem).unwrap())
}

pub const POLICY: &str = "[offers]\nimage = [\"python3\", \"web\"]\nmemory = \"1 GiB\"\n";

pub fn description() -> Description {
    Description {
        name: "fake".into(),
        contact: None,
        version: "0.1.0".into(),
        tee: "none".into(),
        images: [("python3".to_owned(), vec![])].into(),
        policy: Policy::parse(POLICY).unwrap(),
    }
}

pub fn status() -> FunctionStatus {
    FunctionStatus {
        name: "hello".into(),
        methods: vec!["hello".into()],
        awake: true,
        invocations: 0,
        remaining: Span::seconds(59),
        cpu_used: Span::seconds(0),
        traffic_used: Size::bytes(120),
        storage_used: Size::bytes(0),
        changes: Some(0),
        granted: Granted {
            memory: Size::mib(32),
            scratch: Size::mib(1),
            storage: Size::bytes(0),
            cpu: Span::seconds(1),
            share: Share::CORE,
            traffic: Size::mib(1),
            rate: Rate::mib(4),
            lifetime: Span::seconds(60),
            egress: None,
        },
        log: vec!["hello came up".into(), "a\u{1b}[31mb".into()],
    }
}

pub fn pad(payload: &[u8], total: usize) -> Vec<u8> {
    let mut out = [b"bentopad".as_slice(), &(payload.len() as u64).to_be_bytes(), &Sha256::digest(payload), payload].concat();
    out.resize(total, 0);
    out
}

pub fn page(html: &str, warc: &str) -> Vec<u8> {
    let header = serde_json::json!({"outcome": "page", "error": null, "url": "https://site.example/", "status": 200, "title": "A \u{1b}]0;site\u{7}",
        "html": html.len(), "warc": warc.len(), "fetched": 3, "bytes": 4242, "missing": [{"url": "https://site.example/gone.png", "reason": "404"}]});
    format!("{header}\n{html}{warc}").into_bytes()
}

/// A node that does everything right.
pub fn good(asked: &Asked) -> Vec<Act> {
    match asked.line.as_str() {
        "GET /v1/node" => json("200 OK", &description()),
        "GET /v1/policy" => short("200 OK", "application/toml", POLICY.as_bytes()),
        "POST /v1/functions" => json("201 Created", &status()),
        "GET /v1/function" => json("200 OK", &status()),
        "DELETE /v1/function" => vec![Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())],
        "POST /v1/invoke/hello" | "POST /v1/run/hello" => streamed(&[b"Hello, ", b"world!\n"], r#"{"outcome":"returned"}"#),
        "POST /v1/invoke/echo" | "POST /v1/run/echo" => vec![Act::Echo],
        "POST /v1/run/page" => whole(&pad(&page("<p>Hi", "WARC/1.1"), 1_000_000)),
        _ => problem(&Problem::new("bad-request", 400, "there is nothing of this name")),
    }
}
