//! Where a running flow takes requests of other programs of the same person: a local socket.
//!
//! ```text
//! → {"ask": {"method": "page", "arguments": {…}}}    ← any number of: length (4 bytes, big endian), so many bytes; then a length of 0 and
//!                                                      {"outcome": "returned"} or {"outcome": "failed", "text": "…"}
//! → {"status": true}                                 ← a length of 0 and {"name": …, …}
//! ```

use std::{convert::Infallible, fs, io, path::PathBuf, time::Duration};

use bento::{Asker, CoverError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
    time::timeout,
};

use super::{refused, seconds};
use crate::cli::{
    failure::{BAD_INPUT, Failure},
    place,
};

const KIND: &str = "cover";

/// Longest request, in bytes: a question of the flow and its braces.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;

/// Most bytes of an answer: the largest padded page.
const ANSWER_BYTES_MAX: u64 = 128 << 20;

/// For a flow on this machine to say what it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// For a request to come once somebody has connected.
const REQUEST: Duration = Duration::from_secs(10);

/// Longest name of a flow: a socket's path has at most 107 bytes.
const NAME_MAX: usize = 32;

/// What a flow says of itself.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) node: String,
    /// Bytes a second from the node.
    pub(crate) rate: u64,
    /// Bytes a second to the node.
    pub(crate) up: u64,
    /// Seconds.
    pub(crate) left: u64,
    pub(crate) received: u64,
    pub(crate) carried: u64,
    pub(crate) open: usize,
    /// Seconds that it is late.
    #[serde(default)]
    pub(crate) late: f64,
}

/// The flow's side. Dropped, it takes its socket away.
#[derive(Debug)]
pub(crate) struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Opens one under this name.
    pub(crate) async fn open(name: &str) -> Result<Self, Failure> {
        let path = path(name)?;
        if UnixStream::connect(&path).await.is_ok() {
            return Err(Failure::input(format!("a flow named `{name}` runs already")).with_hint("give another name with `--name`"));
        }
        // Nobody answers: it is one of a program that was killed.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Failure::file("removing", &path, &error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(|error| Failure::file("listening at", &path, &error))?;
        Ok(Self { listener, path })
    }

    /// Serves whoever comes.
    pub(crate) async fn serve(&self, asker: &Asker, told: watch::Receiver<Told>) -> Infallible {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (asker, told) = (asker.clone(), told.clone());
                    tokio::spawn(async move {
                        // Whoever asked has left, or did not ask as one does: nobody is there to be told.
                        let _ = answer(stream, &asker, &told).await;
                    });
                }
                // No descriptor is free; the flow itself goes on.
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Request {
    Ask { method: String, arguments: Map<String, Value> },
    Status(#[allow(dead_code)] bool),
}

async fn answer(mut stream: UnixStream, asker: &Asker, told: &watch::Receiver<Told>) -> io::Result<()> {
    let (reads, mut writes) = stream.split();
    let mut line = String::new();
    let mut reads = BufReader::new(reads).take(REQUEST_BYTES_MAX);
    timeout(REQUEST, reads.read_line(&mut line)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let end = match serde_json::from_str(&line)? {
        Request::Status(_) => {
            let mut told = told.borrow().clone();
            // Also while nothing comes.
            told.late = seconds(asker.late());
            serde_json::to_value(told)?
        }
        Request::Ask { method, arguments } => {
            let carried = async {
                let mut reply = asker.ask(&method, &arguments, ANSWER_BYTES_MAX).await?;
                while let Some(bytes) = reply.next().await? {
                    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    let sent = async {
                        writes.write_all(&length.to_be_bytes()).await?;
                        writes.write_all(&bytes).await
                    };
                    sent.await.map_err(|_| CoverError::Ended)?;
                }
                Ok::<_, CoverError>(())
            };
            let gone = async {
                // Nothing more is to come: an end is one who has left.
                let mut more = [0; 1];
                let _ = reads.read(&mut more).await;
            };
            tokio::select! {
                carried = carried => match carried {
                    Ok(()) => json!({"outcome": "returned"}),
                    Err(error) => json!({"outcome": "failed", "text": error.to_string()}),
                },
                () = gone => return Ok(()),
            }
        }
    };
    writes.write_all(&0_u32.to_be_bytes()).await?;
    writes.write_all(format!("{end}\n").as_bytes()).await
}

/// The side of who asks.
pub(crate) struct Knock(BufReader<UnixStream>);

impl Knock {
    /// At the flow of this name.
    pub(crate) async fn at(name: &str) -> Result<Self, Failure> {
        let nobody = |_| {
            Failure::new(BAD_INPUT, format!("no flow named `{}` runs here", bento::line(name)))
                .with_hint("`bento cover run NODE` starts one, `bento cover status` lists them")
        };
        Ok(Self(BufReader::new(UnixStream::connect(path(name)?).await.map_err(nobody)?)))
    }

    /// A method's output, all of it.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        arguments: &Map<String, Value>,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<u8>, Failure> {
        #[derive(Deserialize)]
        struct End {
            outcome: String,
            #[serde(default)]
            text: String,
        }
        let broken = |error: io::Error| refused(&format!("the flow's program is gone: {error}"));
        self.send(&json!({"ask": {"method": method, "arguments": arguments}})).await.map_err(broken)?;
        let mut all = Vec::new();
        loop {
            let length = self.0.read_u32().await.map_err(broken)?;
            if length == 0 {
                break;
            }
            let begin = all.len();
            all.resize(begin + usize::try_from(length).unwrap_or_default(), 0);
            self.0.read_exact(&mut all[begin..]).await.map_err(broken)?;
            progress(all.len() as u64);
        }
        let end: End = serde_json::from_value(self.end().await.map_err(broken)?).map_err(|error| refused(&error.to_string()))?;
        if end.outcome == "returned" { Ok(all) } else { Err(refused(&end.text)) }
    }

    async fn status(&mut self) -> io::Result<Told> {
        self.send(&json!({"status": true})).await?;
        self.0.read_u32().await?;
        Ok(serde_json::from_value(self.end().await?)?)
    }

    async fn send(&mut self, request: &Value) -> io::Result<()> {
        self.0.get_mut().write_all(format!("{request}\n").as_bytes()).await
    }

    async fn end(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        (&mut self.0).take(REQUEST_BYTES_MAX).read_line(&mut line).await?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// What the flows that run here say of themselves.
pub(crate) async fn all() -> Result<Vec<Told>, Failure> {
    let directory = place::runtime()?;
    let mut flows = Vec::new();
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.extension().is_some_and(|kind| kind == KIND) {
            // One that does not answer is gone, or going.
            let told = async { Knock::at(&name).await.ok()?.status().await.ok() };
            flows.extend(timeout(PATIENCE, told).await.ok().flatten());
        }
    }
    flows.sort_by(|one: &Told, other| one.name.cmp(&other.name));
    Ok(flows)
}

fn path(name: &str) -> Result<PathBuf, Failure> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_plain) {
        return Err(Failure::input(format!("a flow's name is 1 to {NAME_MAX} lower-case letters, digits and hyphens"))
            .with_hint("leave it out to have it called `cover`"));
    }
    let directory = place::runtime()?;
    place::make_private(&directory)?;
    Ok(directory.join(format!("{name}.{KIND}")))
}
