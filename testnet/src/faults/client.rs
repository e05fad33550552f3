//! A client that looks closely at how each request ends.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bento_tor::{Isolation, Socks};
use bytes::Bytes;
use futures_util::stream;
use hkdf::Hkdf;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::{Request, body::Frame};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};

use super::chance::Chance;

/// Everything that is asked is done within two seconds where nothing was killed, so whoever waits this long hangs.
const HANG: Duration = Duration::from_secs(25);

/// How a request ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// As it should, with this body.
    Whole(Bytes),
    /// With a clear word: a problem, or an outcome that is not `returned`.
    Told(String),
    /// The connection was refused or broke.
    Cut,
    /// Not at all.
    Hung,
    /// In a way that no client could make sense of.
    Odd(String),
}

/// How to reach the node.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    Loopback(SocketAddr),
    Tor { socks: Socks, onion: String },
}

impl Way {
    async fn stream(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Loopback(address) => Box::new(TcpStream::connect(address).await?),
            Self::Tor { socks, onion } => {
                let isolation = Isolation::new(&format!("faults {:?}", std::time::Instant::now()));
                Box::new(socks.connect(onion, 80, &isolation, HANG).await.map_err(io::Error::other)?)
            }
        })
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What is sent after the head.
pub(crate) enum Sent {
    All(Vec<u8>),
    /// This chunk again and again, with a pause in between, until told to end; and a count of the bytes sent.
    Drip(Bytes, Duration, watch::Receiver<bool>, Arc<AtomicUsize>),
}

/// Asks, and waits for the end of the answer.
pub(crate) async fn ask(way: &Way, method: &str, path: &str, headers: &[(&str, String)], sent: Sent) -> End {
    let mut request = Request::builder().method(method).uri(path).header("host", "node").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let bound = match &sent {
        Sent::All(_) => HANG,
        Sent::Drip(..) => Duration::from_secs(600),
    };
    let body = match sent {
        Sent::All(bytes) => Either::Left(Full::new(Bytes::from(bytes))),
        Sent::Drip(chunk, pause, stop, count) => {
            Either::Right(StreamBody::new(Box::pin(stream::unfold((chunk, stop, count), move |(chunk, mut stop, count)| async move {
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = stop.wait_for(|stop| *stop) => return None,
                }
                count.fetch_add(chunk.len(), Ordering::Relaxed);
                Some((Ok::<_, std::convert::Infallible>(Frame::data(chunk.clone())), (chunk, stop, count)))
            }))))
        }
    };
    let request = match request.body(body) {
        Ok(request) => request,
        Err(error) => return End::Odd(error.to_string()),
    };
    let asking = async {
        let stream = match (way.stream().await, way) {
            (Ok(stream), _) => stream,
            // What Tor says of a service that it cannot reach is worth reading.
            (Err(error), Way::Tor { .. }) => return End::Odd(error.to_string()),
            (Err(_), Way::Loopback(_)) => return End::Cut,
        };
        let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await else { return End::Cut };
        let connection = tokio::spawn(connection);
        let end = match sender.send_request(request).await {
            Ok(response) => read(response).await,
            Err(_) => End::Cut,
        };
        connection.abort();
        end
    };
    timeout(bound, asking).await.unwrap_or(End::Hung)
}

async fn read(response: hyper::Response<hyper::body::Incoming>) -> End {
    let (head, mut body) = response.into_parts();
    let (mut data, mut outcome) = (Vec::new(), None);
    // What announces its outcome has to keep that promise; what has a length is whole when all of it is there.
    let promised = head.headers.get("trailer").is_some();
    loop {
        // Each piece on its own, for a body may be as long as a round.
        match timeout(HANG, body.frame()).await {
            Err(_) => return End::Hung,
            Ok(None) => break,
            Ok(Some(Err(_))) => return End::Cut,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => outcome = frame.into_trailers().ok().and_then(|map| map.get("bento-outcome").cloned()),
            },
        }
    }
    if head.status.is_success() {
        let outcome = outcome.map(|outcome| serde_json::from_slice::<Value>(outcome.as_bytes()).unwrap_or_default());
        return match (promised, outcome.as_ref().and_then(|outcome| outcome["outcome"].as_str())) {
            (false, None) | (true, Some("returned")) => End::Whole(data.into()),
            (true, Some(word @ ("failed" | "killed"))) => End::Told(word.to_owned()),
            _ => End::Odd(format!("status {} and outcome {outcome:?} after {} bytes", head.status, data.len())),
        };
    }
    match serde_json::from_slice::<Value>(&data) {
        Ok(problem) if problem["detail"].is_string() && problem["type"].is_string() => {
            let kind = problem["type"].as_str().unwrap_or_default();
            End::Told(kind.rsplit([':', '/', '#']).next().unwrap_or(kind).to_owned())
        }
        _ => End::Odd(format!("status {} with {:?}", head.status, String::from_utf8_lossy(&data))),
    }
}

/// A function of the node's, as its client holds it.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    invocation: String,
    shutdown: String,
}

impl Function {
    /// Tokens that follow from the seed, so that the whole run does.
    pub(crate) fn new(chance: &mut Chance) -> Self {
        let mut token = |prefix: &str| format!("{prefix}{}", data_encoding::BASE32_NOPAD.encode(&chance.bytes()).to_ascii_lowercase());
        Self { invocation: token("bento-invoke-"), shutdown: token("bento-shutdown-") }
    }

    pub(crate) async fn install(&self, way: &Way, archive: &[u8]) -> End {
        let digest = |token: &str| data_encoding::HEXLOWER.encode(&Sha256::digest(token));
        let mut key = [0; 32];
        // Fails for more than 8,160 bytes only.
        let _ = Hkdf::<Sha256>::new(None, self.invocation.as_bytes()).expand(b"bento seal 1", &mut key);
        let seal = format!("bento-seal-{}", data_encoding::BASE32_NOPAD.encode(&key).to_ascii_lowercase());
        let headers = [
            ("bento-invocation-digest", digest(&self.invocation)),
            ("bento-shutdown-digest", digest(&self.shutdown)),
            ("bento-seal", seal),
        ];
        ask(way, "POST", "/v1/functions", &headers, Sent::All(archive.to_vec())).await
    }

    pub(crate) async fn invoke(&self, way: &Way, method: &str, arguments: Value, input: Sent) -> End {
        let headers = [("authorization", format!("Bearer {}", self.invocation)), ("bento-arguments", arguments.to_string())];
        ask(way, "POST", &format!("/v1/invoke/{method}"), &headers, input).await
    }

    pub(crate) async fn status(&self, way: &Way) -> Option<Value> {
        let headers = [("authorization", format!("Bearer {}", self.invocation))];
        match ask(way, "GET", "/v1/function", &headers, Sent::All(Vec::new())).await {
            End::Whole(body) => serde_json::from_slice(&body).ok(),
            _ => None,
        }
    }

    pub(crate) async fn end(&self, way: &Way) -> End {
        let headers = [("authorization", format!("Bearer {}", self.shutdown))];
        ask(way, "DELETE", "/v1/function", &headers, Sent::All(Vec::new())).await
    }
}

/// Installs, invokes and ends in one request.
pub(crate) async fn run(way: &Way, archive: &[u8], method: &str, arguments: Value) -> End {
    let headers = [("bento-bundle-length", archive.len().to_string()), ("bento-arguments", arguments.to_string())];
    ask(way, "POST", &format!("/v1/run/{method}"), &headers, Sent::All(archive.to_vec())).await
}

/// Asks the node what it is.
pub(crate) async fn greet(way: &Way) -> End {
    ask(way, "GET", "/v1/node", &[], Sent::All(Vec::new())).await
}

/// A bundle of a manifest and one file of code.
pub(crate) fn bundle(manifest: &str, code: &str) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in [("manifest.toml", manifest), ("function.py", code)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, text.as_bytes())?;
    }
    archive.into_inner()
}
