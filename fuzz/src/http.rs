//! Bytes of anybody at a node's socket, through its sessions, its router and one real function.
//!
//! Half of the inputs are bytes as they are. The other half is the body of a right request, cut anywhere, which must come back unchanged.
//! After each, whatever it was, nothing is left of it in the node.

use std::{sync::OnceLock, time::Duration};

use bento_proto::{InvocationToken, Problem, SealKey, ShutdownToken};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::node::{Machine, PATIENCE, Running, pack, until};

const POLICY: &str =
    "[offers]\nfunctions_per_day = 4000000000\negress = []\nfunctions = 1\ntraffic = \"1 TiB\"\ncpu = \"1000 h\"\nlifetime = \"1000 h\"\n";
const NEEDS: &str = "traffic = \"1 TiB\"\ncpu = \"1000 h\"\nlifetime = \"1000 h\"\ninvocations = 8";
const CODE: &str = "
def echo(api, **more):
    for chunk in api.input:
        api.output.write(chunk)

def exact(api, n=1, m=None):
    api.output.length(n)
    api.output.write(b'x' * (n if m is None else m))

def fail(api, text='no'):
    raise ValueError(text)
";

/// How long a session may be silent before the client takes it that no more comes.
const QUIET: Duration = Duration::from_millis(4);

struct Place {
    machine: Machine,
    running: Running,
    room: usize,
    words: Vec<(&'static [u8], Vec<u8>)>,
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let machine = Machine::new(POLICY, "head = \"2 s\"\nidle = \"4 s\"\nsessions = 8");
        let (invocation, shutdown) = (InvocationToken::from_random([1; 32]), ShutdownToken::from_random([2; 32]));
        let bundle = pack(NEEDS, CODE);
        let running = machine.runtime.block_on(async {
            let running = Running::start(&machine).await;
            let head = format!(
                "POST /v1/functions HTTP/1.1\r\nhost: n\r\nconnection: close\r\ncontent-length: {}\r\nbento-invocation-digest: {}\r\n\
                 bento-shutdown-digest: {}\r\nbento-seal: {}\r\n\r\n",
                bundle.len(),
                invocation.digest(),
                shutdown.digest(),
                *SealKey::of(&invocation).reveal()
            );
            let mut stream = UnixStream::connect(&running.path).await.expect("a session");
            stream.write_all(&[head.as_bytes(), &bundle].concat()).await.expect("a request");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("an answer");
            assert!(answer.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&answer));
            running
        });
        let words = vec![
            (b"@I".as_slice(), format!("Bearer {}", invocation.reveal()).into_bytes()),
            // The right to end the function is of another one, or it would be gone after the first try.
            (b"@S", format!("Bearer {}", ShutdownToken::from_random([3; 32]).reveal()).into_bytes()),
            (b"@D", invocation.digest().to_string().into_bytes()),
            (b"@E", shutdown.digest().to_string().into_bytes()),
            (b"@L", bundle.len().to_string().into_bytes()),
            (b"@B", bundle),
        ];
        let room = running.room();
        Place { machine, running, room, words }
    })
}

/// Long words have short names in the bytes that are tried.
fn spelled(data: &[u8], words: &[(&'static [u8], Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = data;
    while let Some((first, tail)) = rest.split_first() {
        match words.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, word)) => {
                out.extend_from_slice(word);
                rest = &rest[name.len()..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

pub fn run(data: &[u8]) {
    let Some(([mode, cut], bytes)) = data.split_first_chunk::<2>() else { return };
    let place = place();
    let echoed = mode & 1 == 1;
    let request = if echoed { echo(bytes, *mode, *cut, &place.words) } else { spelled(bytes, &place.words) };
    place.machine.runtime.block_on(async {
        let heard = timeout(PATIENCE, speak(place, &request, usize::from(*cut) * 16 + 1, echoed)).await.expect("a session that never ends");
        if !request.starts_with(b"PRI ") {
            let answers = answers(&heard);
            if echoed {
                let [answer] = answers.as_slice() else { panic!("{} answers", answers.len()) };
                assert!(answer.whole && answer.status == 200, "{answer:?}");
                assert_eq!(answer.body, bytes, "not what was sent");
                assert!(bytes.is_empty() || answer.tail.contains("bento-outcome: {\"outcome\":\"returned\"}"), "{answer:?}");
            }
            answers.iter().for_each(Answer::holds);
        }
        let node = &place.running.node;
        until("the session ends", || node.sessions.is_empty()).await;
        let status = node.status();
        assert_eq!((status.functions, status.connections), (1, 0));
        until("the bundles' memory is given back", || place.running.room() == place.room).await;
    });
}

/// A right request with this body, in one piece or in chunks.
fn echo(body: &[u8], mode: u8, cut: u8, words: &[(&'static [u8], Vec<u8>)]) -> Vec<u8> {
    let head = spelled(b"POST /v1/invoke/echo HTTP/1.1\r\nhost: n\r\nte: trailers\r\nconnection: close\r\nauthorization: @I\r\n", words);
    if mode & 2 == 0 {
        return [head.as_slice(), format!("content-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat();
    }
    let mut out = [head.as_slice(), b"transfer-encoding: chunked\r\n\r\n"].concat();
    for chunk in body.chunks(usize::from(cut >> 2) + 1) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    [out.as_slice(), b"0\r\n\r\n"].concat()
}

async fn speak(place: &Place, request: &[u8], piece: usize, to_the_end: bool) -> Vec<u8> {
    let mut stream = UnixStream::connect(&place.running.path).await.expect("a session");
    let mut heard = Vec::new();
    for piece in request.chunks(piece.max(request.len() / 64)) {
        // The node may have heard enough.
        if stream.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut buffer = vec![0; 16 * 1024];
    let mut closed = false;
    loop {
        let read = stream.read(&mut buffer);
        let read = if closed || to_the_end { Ok(read.await) } else { timeout(QUIET, read).await };
        match read {
            Ok(Ok(length @ 1..)) => heard.extend_from_slice(&buffer[..length]),
            Ok(_) => return heard,
            Err(_) => {
                let _ = stream.shutdown().await;
                closed = true;
            }
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    tail: String,
    whole: bool,
}

impl Answer {
    fn holds(&self) {
        // 500 would be the node's own trouble, and nothing that is sent here may cause any.
        assert!((200..500).contains(&self.status) || self.status == 502, "{self:?}");
        if self.head.contains("application/problem+json") && self.whole && !self.body.is_empty() {
            let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"));
            assert_eq!(problem.status, self.status);
        }
    }
}

/// The answers of a session, as RFC 9112 frames them.
fn answers(mut heard: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(end) = heard.windows(4).position(|end| end == b"\r\n\r\n") {
        let head = std::str::from_utf8(&heard[..end]).expect("a head is text").to_ascii_lowercase();
        heard = &heard[end + 4..];
        let status = head.strip_prefix("http/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("no answer: {head:?}"));
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
        let mut answer = Answer { status, body: Vec::new(), tail: String::new(), whole: true, head: String::new() };
        if status >= 200 {
            if let Some(length) = field("content-length").map(|text| text.parse::<usize>().expect("a length")) {
                // An answer to HEAD has a length and no body; what follows then is no body of it.
                let there = length.min(heard.len());
                answer.whole = there == length;
                if !(heard.starts_with(b"HTTP/1.") && length > 0) {
                    answer.body = heard[..there].to_vec();
                    heard = &heard[there..];
                }
            } else if field("transfer-encoding") == Some("chunked") {
                heard = chunked(heard, &mut answer);
            } else if !matches!(status, 204 | 304) {
                answer.body = std::mem::take(&mut heard).to_vec();
            }
        }
        answer.head = head;
        answers.push(answer);
    }
    assert!(heard.is_empty() || answers.is_empty() || b"HTTP/1.".starts_with(&heard[..heard.len().min(7)]), "bytes behind an answer");
    answers
}

fn chunked<'a>(mut rest: &'a [u8], answer: &mut Answer) -> &'a [u8] {
    let line = |rest: &'a [u8]| rest.windows(2).position(|end| end == b"\r\n").map(|end| (&rest[..end], &rest[end + 2..]));
    answer.whole = false;
    while let Some((size, behind)) = line(rest) {
        let size = std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size, 16).ok()).expect("a chunk's size");
        if size == 0 {
            let mut behind = behind;
            while let Some((field, next)) = line(behind) {
                behind = next;
                if field.is_empty() {
                    answer.whole = true;
                    break;
                }
                answer.tail += &String::from_utf8_lossy(field);
            }
            return behind;
        }
        if behind.len() < size + 2 {
            return &[];
        }
        answer.body.extend_from_slice(&behind[..size]);
        rest = &behind[size + 2..];
    }
    &[]
}
