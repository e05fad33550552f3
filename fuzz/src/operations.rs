//! Lists of operations against a node: install, invoke, run, status, shutdown, a client that leaves in the middle, a function that is
//! killed, a restart, in any order. A model says what must be known after each, and after each list nothing may be left.

mod ask;
mod list;
mod place;

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use bento_proto::{SealKey, node::FunctionStatus};
use bytes::Bytes;
use http_body_util::{BodyExt, channel::Channel};
use hyper::Request;
use tokio::time::timeout;

use crate::node::{PATIENCE, ROOM, Running, until};
use ask::{Answer, Ended, Held, read};
use list::{How, Op};
use place::{BUNDLES, children, invocation, place, shutdown};

const FUNCTIONS: usize = 2;
const INVOCATIONS: usize = 2;
/// Most operations of a list; a longer one only repeats.
const OPERATIONS: usize = 14;

/// A function that must be there.
#[derive(Debug)]
struct Known {
    who: u8,
    ender: u8,
    what: u8,
    /// Its process was killed, and the node may not have seen it yet.
    shaken: bool,
    /// The node was started again since, and its key may not have been there.
    sealed: bool,
}

struct World {
    running: Running,
    known: Vec<Known>,
    held: Vec<Held>,
}

pub fn run(data: &[u8]) {
    let Ok(operations) = Vec::<Op>::arbitrary(&mut Unstructured::new(data)) else { return };
    if operations.is_empty() {
        return;
    }
    let place = place();
    let mut slot = place.running.lock().expect("one list at a time");
    let running = slot.take().expect("a node");
    if std::env::var_os("BENTO_FUZZ_SHOW").is_some() {
        eprintln!("{operations:?}");
    }
    *slot = Some(place.machine.runtime.block_on(async {
        let mut world = World { running, known: Vec::new(), held: Vec::new() };
        for operation in operations.into_iter().take(OPERATIONS) {
            let step = world.step(operation);
            world = timeout(PATIENCE * 3, step).await.unwrap_or_else(|_| panic!("{operation:?} does not end"));
        }
        world.finish().await
    }));
}

impl World {
    async fn step(mut self, operation: Op) -> Self {
        match operation {
            Op::Install { who, ender, what } => self.install(who % 3, ender % 3, what % BUNDLES, false).await,
            Op::Twice { who, ender, what } => self.twice(who % 3, ender % 3, what % 2).await,
            Op::InstallPart { who, ender, what, part } => {
                let (who, ender, what) = (who % 3, ender % 3, what % 2);
                self.part(&self.install_head(who, ender, what), &place().bundles[usize::from(what)], part).await;
                // Who lost the answer asks again, and it is there or comes to be.
                self.install(who, ender, what, true).await;
            }
            Op::Invoke { who, how } => self.invoke(who % 3, how).await,
            Op::InvokePart { who, part } => {
                let head = format!(
                    "POST /v1/invoke/echo HTTP/1.1\r\nhost: n\r\nte: trailers\r\nauthorization: Bearer {}\r\ncontent-length: 5000\r\n\r\n",
                    invocation(who).reveal()
                );
                self.part(&head, &[b'a'; 5000], part).await;
            }
            Op::Hold { who, connected } => self.hold(who % 3, connected).await,
            Op::Release { which } => {
                if let Some(held) = self.take(which) {
                    held.release().await;
                }
            }
            Op::Drop { which } => drop(self.take(which)),
            Op::Run { what, how } => self.run(what % BUNDLES, how).await,
            Op::RunPart { what, part } => {
                let bundle = &place().bundles[usize::from(what % BUNDLES)];
                let head = format!(
                    "POST /v1/run/echo HTTP/1.1\r\nhost: n\r\nte: trailers\r\nbento-bundle-length: {}\r\ncontent-length: {}\r\n\r\n",
                    bundle.len(),
                    bundle.len() + 2000
                );
                self.part(&head, &[bundle.as_slice(), &[b'a'; 2000]].concat(), part).await;
            }
            Op::Status { who, by_ender } => self.status(who % 3, by_ender).await,
            Op::End { ender } => self.end(ender % 3).await,
            Op::Swapped { who } => {
                let (inv, shut) = (invocation(who).reveal(), shutdown(who).reveal());
                self.ask("DELETE", "/v1/function", &[("authorization", &format!("Bearer {inv}"))], b"").await.is(401, "bad-token");
                self.ask("POST", "/v1/invoke/echo", &[("authorization", &format!("Bearer {shut}"))], b"").await.is(401, "bad-token");
            }
            Op::Kill => {
                for pid in children("python3.11") {
                    let _ = std::process::Command::new("/bin/kill").args(["-9", &pid.to_string()]).status();
                }
                self.held.iter_mut().filter(|held| held.ended.is_none()).for_each(|held| held.ended = Some(Ended::Process));
                self.known.iter_mut().for_each(|known| known.shaken = true);
            }
            Op::Restart => {
                // They are there again, asleep and sealed.
                self.known.iter_mut().for_each(|known| (known.shaken, known.sealed) = (false, true));
                self.held.iter_mut().filter(|held| held.ended.is_none()).for_each(|held| held.ended = Some(Ended::Stop));
                // Clients that are told of the stop must be reading, or the stop would wait for them.
                let told = self.held.drain(..).map(|held| tokio::spawn(held.release())).collect::<Vec<_>>();
                self.running.stop().await;
                for one in told {
                    one.await.expect("an end that is told");
                }
                self.running = Running::start(&place().machine).await;
            }
        }
        self
    }

    fn find(&mut self, who: u8) -> Option<&mut Known> {
        self.known.iter_mut().find(|known| known.who == who)
    }

    fn take(&mut self, which: u8) -> Option<Held> {
        (!self.held.is_empty()).then(|| self.held.remove(usize::from(which) % self.held.len()))
    }

    fn install_headers(who: u8, ender: u8) -> [(&'static str, String); 3] {
        [
            ("bento-invocation-digest", invocation(who).digest().to_string()),
            ("bento-shutdown-digest", shutdown(ender).digest().to_string()),
            ("bento-seal", SealKey::of(&invocation(who)).reveal().to_string()),
        ]
    }

    fn install_head(&self, who: u8, ender: u8, what: u8) -> String {
        let digests: String = Self::install_headers(who, ender).map(|(name, value)| format!("{name}: {value}\r\n")).concat();
        let length = place().bundles[usize::from(what)].len();
        format!("POST /v1/functions HTTP/1.1\r\nhost: n\r\ncontent-length: {length}\r\n{digests}\r\n")
    }

    async fn ask_install(&self, who: u8, ender: u8, what: u8) -> Answer {
        let headers = Self::install_headers(who, ender);
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        self.ask("POST", "/v1/functions", &headers, &place().bundles[usize::from(what)]).await
    }

    /// `asked`: the same was asked before, and its answer not heard.
    async fn install(&mut self, who: u8, ender: u8, what: u8, asked: bool) {
        let same = self.known.iter().any(|known| (known.who, known.ender, known.what) == (who, ender, what));
        let taken = self.known.iter().any(|known| known.who == who || known.ender == ender);
        let answer = self.patient(self.known.len() < FUNCTIONS, async || self.ask_install(who, ender, what).await).await;
        match what {
            _ if what == 3 => answer.is(403, "not-offered"),
            _ if what == 4 => answer.is(422, "bad-bundle"),
            _ if same => {
                assert_eq!(answer.status, 200, "{}", answer.code());
                self.find(who).into_iter().for_each(|known| known.sealed = false);
            }
            _ if taken => answer.is(409, "token-in-use"),
            _ if self.known.len() == FUNCTIONS => answer.is(429, "busy"),
            2 => answer.is(422, "unloadable"),
            _ => {
                let made = answer.status == 201 || asked && answer.status == 200;
                assert!(made, "{} {}", answer.status, String::from_utf8_lossy(&answer.body));
                self.known.push(Known { who, ender, what, shaken: false, sealed: false });
            }
        }
    }

    async fn twice(&mut self, who: u8, ender: u8, what: u8) {
        let before = self.known.iter().any(|known| known.who == who || known.ender == ender) || self.known.len() == FUNCTIONS;
        if !before {
            let (one, other) = tokio::join!(self.ask_install(who, ender, what), self.ask_install(who, ender, what));
            for answer in [&one, &other] {
                // The second may meet the place that the first took.
                assert!(matches!(answer.status, 200 | 201) || answer.code() == "busy", "{} {}", answer.status, answer.code());
            }
            let made = [&one, &other].iter().filter(|answer| answer.status == 201).count();
            assert!(made <= 1, "made twice");
            if made == 1 {
                self.known.push(Known { who, ender, what, shaken: false, sealed: false });
            }
        }
        self.install(who, ender, what, false).await;
    }

    async fn invoke(&mut self, who: u8, how: How) {
        let busy = self.running_of(who) >= INVOCATIONS;
        let input = if let How::Echo(length) = how { vec![b'i'; length.into()] } else { Vec::new() };
        let token = format!("Bearer {}", invocation(who).reveal());
        let path = format!("/v1/invoke/{}", how.method());
        let shaken = self.find(who).is_some_and(|known| known.shaken);
        let what = self.find(who).map(|known| known.what);
        let may_try = |answer: &Answer| shaken && matches!(answer.status, 500 | 502);
        let answer = self.patient_if(!busy, may_try, async || self.ask("POST", &path, &[("authorization", &token)], &input).await).await;
        let Some(what) = what else { return answer.is(401, "unknown-token") };
        if let How::Unknown = how {
            return answer.is(404, "unknown-method");
        }
        if busy {
            return answer.is(429, "busy");
        }
        if !shaken || answer.status == 200 {
            how.check(&answer, what, &input);
        }
        if let Some(known) = self.find(who) {
            known.shaken &= answer.status != 200;
            known.sealed = false;
        }
        if matches!(how, How::Leave | How::Lie) {
            self.held.iter_mut().filter(|held| held.who == who && held.ended.is_none()).for_each(|held| held.ended = Some(Ended::Process));
        }
    }

    /// Invocations of a function that go on for certain.
    fn running_of(&self, who: u8) -> usize {
        self.held.iter().filter(|held| held.who == who && held.ended.is_none()).count()
    }

    async fn hold(&mut self, who: u8, connected: bool) {
        let busy = self.running_of(who) >= INVOCATIONS;
        let port = format!("{{\"port\": {}}}", place().port);
        let (path, arguments) = if connected { ("/v1/invoke/reach", port.as_str()) } else { ("/v1/invoke/hold", "{}") };
        let token = format!("Bearer {}", invocation(who).reveal());
        let (shaken, what) = self.find(who).map_or((false, None), |known| (known.shaken, Some(known.what)));
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let (input, body) = Channel::<Bytes>::new(1);
            let request = Request::post(path).header("host", "n").header("te", "trailers").header("authorization", &token);
            let request = request.header("bento-arguments", arguments).body(body).expect("a request");
            let response = self.send(request).await;
            if response.status() == 200 && !busy && what.is_some() {
                let mut response = response;
                let name = match response.body_mut().frame().await {
                    Some(Ok(frame)) => frame.into_data().unwrap_or_default().to_vec(),
                    // It was being killed as it began.
                    other if shaken => panic_unless_late(end, other.is_none()).await,
                    _ => panic!("an output that breaks off"),
                };
                if name.is_empty() {
                    continue;
                }
                let expected = if connected { b"pong".to_vec() } else { what.map(|what| vec![b'0' + what]).unwrap_or_default() };
                assert_eq!(name, expected);
                let name = name.to_vec();
                self.held.push(Held { who, name, input, response, ended: None });
                if let Some(known) = self.find(who) {
                    known.shaken = false;
                }
                return;
            }
            let answer = read(response).await;
            match what {
                None => return answer.is(401, "unknown-token"),
                Some(_) if busy => return answer.is(429, "busy"),
                Some(_) => {
                    // Those that were left behind give their place back soon; connections as well.
                    let connections = connected && answer.status == 502 && answer.code() == "function-failed";
                    let passing = answer.status == 429 || connections || shaken && matches!(answer.status, 500 | 502);
                    assert!(passing && std::time::Instant::now() < end, "{} {}", answer.status, String::from_utf8_lossy(&answer.body));
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    async fn run(&mut self, what: u8, how: How) {
        let bundle = &place().bundles[usize::from(what)];
        let input = if let How::Echo(length) = how { vec![b'r'; length.into()] } else { Vec::new() };
        let (path, length) = (format!("/v1/run/{}", how.method()), bundle.len().to_string());
        let body = [bundle.as_slice(), &input].concat();
        let full = self.known.len() >= FUNCTIONS;
        let answer = self.patient(!full, async || self.ask("POST", &path, &[("bento-bundle-length", &length)], &body).await).await;
        match what {
            3 => answer.is(403, "not-offered"),
            4 => answer.is(422, "bad-bundle"),
            _ if full => answer.is(429, "busy"),
            2 => answer.is(422, "unloadable"),
            _ if matches!(how, How::Unknown) => answer.is(404, "unknown-method"),
            _ => how.check(&answer, what, &input),
        }
    }

    async fn status(&mut self, who: u8, by_ender: bool) {
        let token = if by_ender { shutdown(who).reveal() } else { invocation(who).reveal() };
        let answer = self.ask("GET", "/v1/function", &[("authorization", &format!("Bearer {token}"))], b"").await;
        match self.known.iter().find(|known| if by_ender { known.ender == who } else { known.who == who }) {
            None => answer.is(401, "unknown-token"),
            Some(known) => {
                if by_ender && known.sealed && answer.status == 409 {
                    return answer.is(409, "sealed");
                }
                assert_eq!(answer.status, 200);
                let told: FunctionStatus = serde_json::from_slice(&answer.body).expect("a status");
                let running = self.running_of(known.who);
                assert!(told.name == "fuzzed" && told.granted.memory.as_bytes() == 64 << 20);
                assert!(known.shaken || told.invocations as usize >= running, "{} of {running} are told", told.invocations);
                assert!(told.invocations as usize <= INVOCATIONS);
            }
        }
    }

    async fn end(&mut self, ender: u8) {
        let token = format!("Bearer {}", shutdown(ender).reveal());
        let answer = self.ask("DELETE", "/v1/function", &[("authorization", &token)], b"").await;
        let Some(index) = self.known.iter().position(|known| known.ender == ender) else { return answer.is(401, "unknown-token") };
        assert_eq!(answer.status, 204, "{}", answer.code());
        let known = self.known.remove(index);
        let why = if known.shaken { Ended::Process } else { Ended::Shutdown };
        self.held.iter_mut().filter(|held| held.who == known.who && held.ended.is_none()).for_each(|held| held.ended = Some(why));
        // Gone at once, under both its tokens.
        self.status(known.who, false).await;
        self.status(ender, true).await;
    }

    /// All is ended, and nothing is left.
    async fn finish(mut self) -> Running {
        while let Some(held) = self.take(0) {
            held.release().await;
        }
        while let Some(known) = self.known.first() {
            let ender = known.ender;
            self.end(ender).await;
        }
        let node = &self.running.node;
        until("every session ends", || node.sessions.is_empty()).await;
        until("every connection ends", || node.status().connections == 0).await;
        until("every jail ends", || children("bento-jail").is_empty() && children("python3.11").is_empty()).await;
        until("the bundles' memory is given back", || self.running.room() == ROOM).await;
        assert_eq!(node.status().functions, 0);
        let count = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let before = *place().descriptors.get_or_init(count);
        // The far ends of functions' connections close a moment later.
        until("every descriptor is closed", || count() <= before + 1).await;
        self.running
    }
}

async fn panic_unless_late(end: std::time::Instant, _none: bool) -> Vec<u8> {
    assert!(std::time::Instant::now() < end, "no process for an invocation");
    tokio::time::sleep(Duration::from_millis(10)).await;
    Vec::new()
}
