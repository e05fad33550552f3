//! One control connection: commands in, replies and events out.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::broadcast::error::RecvError,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Command, Event, Lines, Reply, Request,
    backend::{Backend, Relay},
    event::Kind,
    info::{Key, Which, Working},
    options::several,
    view::{Listens, View, failed},
};
use crate::pace::Pace;

/// How long a function may leave its control connection unread.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);

/// Most bytes of values in one answer to `GETINFO`: somewhat more than all microdescriptors of the public network.
const INFO_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of a reply that are written at once, at the function's rate.
const PIECE_BYTES: usize = 16 * 1024;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A control connection.
struct Session<B> {
    view: Arc<View<B>>,
    number: u64,
    authenticated: bool,
    /// Was PROTOCOLINFO asked for before that? Once it may be.
    asked: bool,
    listens: Listens,
}

/// What comes after a reply.
enum Then {
    GoOn,
    End,
}

impl<B: Backend> View<B> {
    /// Serves one control connection until its end.
    pub async fn control(self: &Arc<Self>, function: UnixStream) {
        let Ok(_permit) = Arc::clone(&self.sessions).try_acquire_owned() else { return };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let session = Session { view: Arc::clone(self), number, authenticated: false, asked: false, listens: Listens::default() };
        session.run(function).await;
        self.session_ended(number).await;
    }
}

impl<B: Backend> Session<B> {
    async fn run(mut self, mut function: UnixStream) {
        let mut lines = Lines::default();
        let mut events = self.view.subscribe();
        let mut buffer = vec![0; 4096];
        let mut pace = Pace::new();
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut before = self.view.backend.traffic();
        // Events that came while a command was done, which its reply goes before.
        let mut held: VecDeque<Event> = VecDeque::new();
        loop {
            match lines.next_request() {
                Err(_) => {
                    let _ = self.write(&mut function, &Reply::new(500, "Syntax error: the command is too long")).await;
                    return;
                }
                Ok(Some(request)) => {
                    pace.wait(request.bytes()).await;
                    let (reply, then) = self.answer(&request).await;
                    if self.write(&mut function, &reply).await.is_err() || matches!(then, Then::End) {
                        return;
                    }
                    continue;
                }
                Ok(None) => {}
            }
            if let Some(event) = held.pop_front() {
                if self.listens.to(event.kind()) && self.write(&mut function, &event.reply()).await.is_err() {
                    return;
                }
                continue;
            }
            tokio::select! {
                read = function.read(&mut buffer) => match read {
                    Ok(count @ 1..) => lines.push(&buffer[..count]),
                    _ => return,
                },
                event = events.recv() => match event {
                    Ok(event) => held.push_back(event),
                    // It did not read what it asked for, and would wait in vain for what was dropped.
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return,
                },
                _ = second.tick() => {
                    let now = self.view.backend.traffic();
                    let (read, written) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
                    before = now;
                    if self.listens.to(Kind::Bw) {
                        held.push_back(Event::Bandwidth { read, written });
                    }
                },
            }
        }
    }

    async fn write(&self, function: &mut UnixStream, reply: &Reply) -> std::io::Result<()> {
        let text = reply.write();
        for piece in text.as_bytes().chunks(PIECE_BYTES) {
            self.view.backend.slow(piece.len()).await;
            timeout(WRITE_DEADLINE, function.write_all(piece)).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
        }
        Ok(())
    }

    async fn answer(&mut self, request: &Request) -> (Reply, Then) {
        let command = Command::parse(request);
        if !self.authenticated {
            return self.answer_first(command).await;
        }
        if matches!(command, Ok(Command::Quit)) {
            return (Reply::new(250, "closing connection"), Then::End);
        }
        let reply = match command {
            Ok(command) => self.done(command).await,
            Err(reply) => Err(reply),
        };
        (reply.unwrap_or_else(|refusal| refusal), Then::GoOn)
    }

    /// Before it is authenticated.
    ///
    /// ```text
    /// 514 Authentication required.
    /// 515 Cookie authentication is disabled
    /// ```
    async fn answer_first(&mut self, command: Result<Command, Reply>) -> (Reply, Then) {
        match command {
            Ok(Command::Authenticate) => {
                self.authenticated = true;
                (Reply::ok(), Then::GoOn)
            }
            Ok(Command::ProtocolInfo) if !self.asked => {
                self.asked = true;
                (self.protocol_info().await.unwrap_or_else(|refusal| refusal), Then::GoOn)
            }
            Ok(Command::Quit) => (Reply::new(250, "closing connection"), Then::End),
            Ok(Command::AuthChallenge) => (Reply::new(515, "Cookie authentication is disabled"), Then::End),
            _ => (Reply::new(514, "Authentication required."), Then::End),
        }
    }

    async fn done(&mut self, command: Command) -> Result<Reply, Reply> {
        let view = Arc::clone(&self.view);
        match command {
            Command::ProtocolInfo => self.protocol_info().await,
            Command::Authenticate | Command::UseFeature | Command::ClearDnsCache | Command::Quit => Ok(Reply::ok()),
            Command::AuthChallenge => Err(Reply::new(515, "Cookie authentication is disabled")),
            Command::GetInfo(keys) => self.get_info(&keys).await,
            Command::GetConf(names) => Ok(view.state().options.get(&names)),
            Command::SetConf(settings) | Command::ResetConf(settings) => {
                let changed = view.state().options.set(&settings);
                if !changed.is_empty() {
                    view.tell(Event::Options(changed));
                }
                Ok(Reply::ok())
            }
            Command::SetEvents(kinds) => {
                // Of what the function itself did with this view it may hear in any case, as Stem wants to.
                let own = |kind: &Kind| matches!(kind, Kind::ConfChanged | Kind::Signal | Kind::Bw | Kind::Silent(_));
                if !kinds.iter().all(own) {
                    view.permits("tor.events")?;
                }
                self.listens.set(kinds);
                Ok(Reply::ok())
            }
            Command::Extend(extend) => view.extend(extend).await,
            Command::Repurpose { circuit, purpose } => view.repurpose(circuit, purpose),
            Command::CloseCircuit { circuit, if_unused } => view.close_circuit(circuit, if_unused).await,
            Command::AttachStream { stream, circuit, hop } => view.attach_stream(stream, circuit, hop),
            Command::CloseStream { stream } => view.close_stream(stream),
            Command::NewIdentity => {
                view.state().epoch += 1;
                view.tell(Event::Signal("NEWNYM"));
                Ok(Reply::ok())
            }
            Command::AddOnion(service) => view.add_onion(service, self.number).await,
            Command::DelOnion(address) => view.del_onion(&address, self.number).await,
            Command::HsFetch { address, servers } => view.fetch(address, &servers).await,
            Command::HsPost { address, servers, descriptor } => view.post(address, &servers, descriptor).await,
        }
    }

    /// ```text
    /// 250-PROTOCOLINFO 1
    /// 250-AUTH METHODS=NULL
    /// 250-VERSION Tor="0.4.9.11"
    /// 250 OK
    /// ```
    async fn protocol_info(&self) -> Result<Reply, Reply> {
        let version = self.view.backend.version().await.map_err(|error| failed(&error))?;
        let reply = Reply::ok().after("PROTOCOLINFO 1").after("AUTH METHODS=NULL");
        Ok(reply.after(format!("VERSION Tor=\"{}\"", version.replace(['"', '\\'], ""))))
    }

    async fn get_info(&self, keys: &[(String, Key)]) -> Result<Reply, Reply> {
        let unknown: Vec<String> =
            keys.iter().filter(|(_, key)| matches!(key, Key::Unknown)).map(|(text, _)| format!("Unrecognized key \"{text}\"")).collect();
        if !unknown.is_empty() {
            return Err(several(552, unknown));
        }
        let (mut reply, mut length) = (Reply::ok(), 0);
        for (text, key) in keys {
            let value = self.value(text, key).await?;
            length += value.len();
            // All of it is in the node's memory until it is read, at the function's own rate.
            if length > INFO_BYTES_MAX {
                return Err(Reply::new(551, "That is more than one answer may have; ask for less at once"));
            }
            reply = reply.after_value(text, value);
        }
        Ok(reply)
    }

    async fn value(&self, text: &str, key: &Key) -> Result<String, Reply> {
        let view = &self.view;
        let refused = |error| failed(&error);
        let unrecognized = || Reply::new(552, format!("Unrecognized key \"{text}\""));
        Ok(match key {
            Key::Version => view.backend.version().await.map_err(refused)?,
            Key::Fixed(value) => (*value).to_owned(),
            Key::Names(which) => Key::names(which),
            Key::Circuits => view.state().circuits.lines(),
            Key::Streams => view.state().streams.lines(),
            Key::Services => view.state().services.lines(Some(self.number)),
            Key::Detached => view.state().services.lines(None),
            Key::Working(how) => {
                let works = view.backend.version().await.is_ok();
                match (how, works) {
                    (Working::Bootstrap, true) => "NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY=\"Done\"",
                    (Working::Bootstrap, false) => "WARN BOOTSTRAP PROGRESS=0 TAG=starting SUMMARY=\"Starting\"",
                    (Working::Flag, true) => "1",
                    (Working::Flag, false) => "0",
                    (Working::Liveness, true) => "up",
                    (Working::Liveness, false) => "down",
                }
                .to_owned()
            }
            Key::Status(which) => {
                view.permits("tor.relays")?;
                let relay = self.which(text, which).await?;
                view.backend.status(relay.as_ref()).await.map_err(refused)?.ok_or_else(unrecognized)?
            }
            Key::Microdescriptor(which) => {
                view.permits("tor.relays")?;
                let relay = self.which(text, which).await?;
                view.backend.microdescriptor(relay.as_ref()).await.map_err(refused)?.ok_or_else(unrecognized)?
            }
            Key::Descriptor(how) => {
                let text = "We fetch microdescriptors, not router descriptors. You'll need to use";
                return Err(Reply::new(552, format!("{text} md/{how}/* instead of desc/{how}/*.")));
            }
            Key::Consensus(which) => {
                view.permits("tor.consensus")?;
                let times = view.backend.consensus().await.map_err(refused)?;
                let time = std::time::UNIX_EPOCH + Duration::from_secs(times[*which]);
                super::event::timestamp(time)[..19].replace('T', " ")
            }
            Key::Fetched(address) => {
                let state = view.state();
                let found = state.fetched.iter().find(|(kept, _)| kept == address);
                found.map(|(_, text)| text.clone()).ok_or_else(|| Reply::new(551, "Not found in cache"))?
            }
            Key::Absent(why) => return Err(Reply::new(551, *why)),
            Key::Unknown => return Err(unrecognized()),
        })
    }

    /// The relay that a key names; none for all of them.
    ///
    /// ```text
    /// 551 Data not decodeable as hex
    /// ```
    async fn which(&self, key: &str, which: &Which) -> Result<Option<Relay>, Reply> {
        let unrecognized = || Reply::new(552, format!("Unrecognized key \"{key}\""));
        match which {
            Which::All => Ok(None),
            Which::Malformed if key.contains("/id/") => Err(Reply::new(551, "Data not decodeable as hex")),
            Which::Malformed => Err(unrecognized()),
            Which::One(router) => {
                let found = self.view.backend.relay(router).await.map_err(|error| failed(&error))?;
                found.map(Some).ok_or_else(unrecognized)
            }
        }
    }
}
