//! Requests, their answers, and invocations that go on.

use std::time::Duration;

use bento_proto::{Outcome, Problem};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::World;
use crate::node::PATIENCE;

/// An invocation that goes on.
pub struct Held {
    pub who: u8,
    pub name: Vec<u8>,
    pub input: http_body_util::channel::Sender<Bytes>,
    pub response: Response<Incoming>,
    /// How it must end, when something has ended it.
    pub ended: Option<Ended>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ended {
    Shutdown,
    Stop,
    Process,
}

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    pub outcome: Option<Outcome>,
}

impl Answer {
    pub fn code(&self) -> String {
        serde_json::from_slice::<Problem>(&self.body).map(|problem| problem.code().to_owned()).unwrap_or_default()
    }

    pub fn is(&self, status: u16, code: &str) {
        assert!(
            self.status == status && self.code() == code,
            "{} {} and not {status} {code}: {}",
            self.status,
            self.code(),
            String::from_utf8_lossy(&self.body)
        );
    }
}

impl World {
    /// Sends the beginning of a request, some of it and perhaps all, and goes.
    pub async fn part(&self, head: &str, body: &[u8], part: u8) {
        let mut stream = UnixStream::connect(&self.running.path).await.expect("a session");
        let whole = [head.as_bytes(), body].concat();
        let length = whole.len() * usize::from(part.min(200)) / 200;
        let _ = stream.write_all(&whole[..length]).await;
        // At once, or after some of what the node does then.
        if part % 4 > 0 {
            let mut some = [0; 16];
            let _ = timeout(Duration::from_millis(u64::from(part % 4) * 30), stream.read(&mut some)).await;
        }
    }

    /// Asks again while the answer is `busy`, where there must be a place soon: those that were ended give theirs back a moment later.
    pub async fn patient(&self, free: bool, ask: impl AsyncFn() -> Answer) -> Answer {
        self.patient_if(free, |_| false, ask).await
    }

    pub async fn patient_if(&self, free: bool, passing: impl Fn(&Answer) -> bool, ask: impl AsyncFn() -> Answer) -> Answer {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let answer = ask().await;
            let again = passing(&answer) || free && answer.status == 429;
            if !again || std::time::Instant::now() > end {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn send<B>(&self, request: Request<B>) -> Response<Incoming>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let stream = UnixStream::connect(&self.running.path).await.expect("a session");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a session");
        tokio::spawn(connection);
        timeout(PATIENCE, sender.send_request(request)).await.expect("no answer").expect("an answer")
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "n").header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(self.send(request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request")).await).await
    }
}

pub async fn read(response: Response<Incoming>) -> Answer {
    let status = response.status().as_u16();
    let told = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let collected = timeout(PATIENCE, response.into_body().collect()).await.expect("a body that does not end");
    let Ok(collected) = collected else { return Answer { status, body: Vec::new(), outcome: None } };
    let outcome = collected.trailers().and_then(|trailers| serde_json::from_slice(trailers.get("bento-outcome")?.as_bytes()).ok());
    let body = collected.to_bytes().to_vec();
    // A whole body of a length that was told means success.
    let outcome = outcome.or_else(|| (told == Some(body.len()) && status == 200).then_some(Outcome::Returned));
    Answer { status, body, outcome }
}

impl Held {
    /// Ends its input, and sees that it ends as it must.
    pub async fn release(self) {
        let Self { name, input, response, ended, .. } = self;
        drop(input);
        let answer = read(response).await;
        match ended {
            None => {
                let expected: &[u8] = if name == b"pong" { b"" } else { b"end" };
                assert_eq!((answer.body.as_slice(), answer.outcome), (expected, Some(Outcome::Returned)));
            }
            // It may have come to its own end first: its input ended as well.
            Some(Ended::Stop) => assert!(answer.outcome.is_some(), "a stop is not told"),
            Some(Ended::Shutdown) => {
                let bound = bento_proto::Bound::Shutdown;
                assert_eq!(answer.outcome, Some(Outcome::Killed { bound }), "a shutdown is not told");
            }
            Some(Ended::Process) => {
                let told = matches!(answer.outcome, Some(Outcome::Failed { .. } | Outcome::Killed { .. }));
                assert!(told, "{:?} after its process was killed", answer.outcome);
            }
        }
    }
}
