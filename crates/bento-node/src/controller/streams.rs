//! Streams of a function that it opened at its SOCKS port: attached by Tor, or by the function (ATTACHSTREAM, CLOSESTREAM).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use tokio::{
    net::UnixStream,
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Event, Reply,
    backend::Backend,
    command::{unknown_circuit, unknown_stream},
    event,
    options::Switch,
    socks::{self, Answer, Wanted},
    view::View,
};
use crate::{
    egress::Stream,
    link::{CallError, CallErrorKind},
};

/// How long a stream waits for its request, and for a circuit: tor's `SocksTimeout`.
const SOCKS_DEADLINE: Duration = Duration::from_secs(120);

/// The streams of one function.
#[derive(Default)]
pub(super) struct Streams {
    last: u64,
    open: BTreeMap<u64, Entry>,
}

struct Entry {
    stream: event::Stream,
    /// Where to say on which circuit it goes, while it waits for that.
    waits: Option<oneshot::Sender<Option<u64>>>,
    /// Raised to close it.
    close: CancellationToken,
}

impl Streams {
    /// The lines of `stream-status`.
    pub(super) fn lines(&self) -> String {
        self.open.values().map(|entry| entry.stream.line()).collect::<Vec<_>>().join("\n")
    }
}

impl<B: Backend> View<B> {
    /// Serves one connection to the function's SOCKS port until its end.
    pub async fn socks(self: &Arc<Self>, mut function: UnixStream) {
        let Ok(Ok(Some(wanted))) = timeout(SOCKS_DEADLINE, socks::wanted(&mut function)).await else { return };
        let (id, close) = self.opened(&wanted);
        // Whatever way it ends, also with its task, it is no longer there.
        let gone = Gone { view: self, id };
        let reached = tokio::select! {
            reached = self.reach(id, &wanted) => reached,
            () = close.cancelled() => Err((Answer::Failed, "REASON=DONE")),
            () = hung_up(&function) => return,
        };
        match reached {
            Err((answer, reason)) => {
                self.stream_is(id, "FAILED", None, reason);
                let _ = socks::answer(&mut function, answer).await;
            }
            Ok(far) => {
                self.stream_is(id, "SUCCEEDED", None, "");
                if socks::answer(&mut function, Answer::Succeeded).await.is_ok() {
                    tokio::select! {
                        () = self.backend.join(function, far) => {}
                        () = close.cancelled() => {}
                    }
                }
            }
        }
        drop(gone);
    }

    fn opened(&self, wanted: &Wanted) -> (u64, CancellationToken) {
        let close = CancellationToken::new();
        let stream = {
            let mut state = self.state();
            let streams = &mut state.streams;
            streams.last += 1;
            let host = if wanted.host.contains(':') { format!("[{}]", wanted.host) } else { wanted.host.clone() };
            let stream = event::Stream { id: streams.last, status: "NEW", circuit: 0, target: format!("{host}:{}", wanted.port) };
            streams.open.insert(stream.id, Entry { stream: stream.clone(), waits: None, close: close.clone() });
            stream
        };
        let id = stream.id;
        (id, close)
    }

    /// Connects a stream: on the circuit that the function says, or on one that Tor chooses.
    async fn reach(self: &Arc<Self>, id: u64, wanted: &Wanted) -> Result<Box<dyn Stream>, (Answer, &'static str)> {
        let deadline = Instant::now() + SOCKS_DEADLINE;
        let mut said = self.waits(id);
        self.stream_is(id, "NEW", Some(0), "SOURCE_ADDR=127.0.0.1:9 PURPOSE=USER CLIENT_PROTOCOL=SOCKS5");
        loop {
            let circuit = match said.take() {
                None => None,
                Some(said) => match timeout_at(deadline, said).await {
                    Err(_) => return Err((Answer::TimedOut, "REASON=TIMEOUT")),
                    Ok(Err(_)) => return Err((Answer::Failed, "REASON=DONE")),
                    Ok(Ok(circuit)) => circuit,
                },
            };
            let error = match self.connect(id, circuit, wanted).await {
                Ok(far) => return Ok(far),
                Err(error) => error,
            };
            let reason = reason(error.kind);
            // As tor: what failed on a circuit of the function's choice waits for another choice.
            said = self.waits(id);
            if said.is_none() || circuit.is_none() {
                return Err((error.kind.into(), reason));
            }
            self.stream_is(id, "DETACHED", None, reason);
            self.stream_is(id, "NEW", Some(0), "PURPOSE=USER CLIENT_PROTOCOL=SOCKS5");
        }
    }

    /// Makes a stream wait for ATTACHSTREAM, if the function has said that its streams do.
    fn waits(&self, id: u64) -> Option<oneshot::Receiver<Option<u64>>> {
        let mut state = self.state();
        if !state.options.is_on(Switch::LeaveStreamsUnattached) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        state.streams.open.get_mut(&id)?.waits = Some(sender);
        Some(receiver)
    }

    async fn connect(&self, id: u64, circuit: Option<u64>, wanted: &Wanted) -> Result<Box<dyn Stream>, CallError> {
        let Wanted { host, port, isolation } = wanted;
        let Some(circuit) = circuit else {
            self.backend.permits("tor.connect")?;
            self.stream_is(id, "SENTCONNECT", Some(0), "");
            let epoch = self.state().epoch;
            // A digest: the broker takes a short text, and user and password may be long.
            let digest = Sha256::digest(format!("{epoch} {isolation:?}"));
            return self.backend.connect(host, *port, &data_encoding::HEXLOWER.encode(&digest)).await;
        };
        self.backend.permits("tor.circuit_connect")?;
        let gone = || CallError::new(CallErrorKind::Unreachable, "the circuit has ended");
        self.state().circuits.get_mut(circuit).ok_or_else(gone)?.streams += 1;
        self.stream_is(id, "SENTCONNECT", Some(circuit), "");
        self.backend.circuit_connect(circuit, host, *port).await
    }

    /// Notes how a stream is, and tells it.
    fn stream_is(&self, id: u64, status: &'static str, circuit: Option<u64>, more: &str) {
        let told = {
            let mut state = self.state();
            let Some(entry) = state.streams.open.get_mut(&id) else { return };
            let before = entry.stream.circuit;
            entry.stream.status = status;
            entry.stream.circuit = circuit.unwrap_or(before);
            let told = entry.stream.clone();
            if status == "DETACHED" {
                entry.stream.circuit = 0;
                if let Some(left) = state.circuits.get_mut(before) {
                    left.streams = left.streams.saturating_sub(1);
                }
            }
            told
        };
        self.tell(Event::Stream { stream: told, more: more.to_owned() });
    }

    fn stream_gone(&self, id: u64) {
        let stream = {
            let mut state = self.state();
            let Some(entry) = state.streams.open.remove(&id) else { return };
            if let Some(circuit) = state.circuits.get_mut(entry.stream.circuit) {
                circuit.streams = circuit.streams.saturating_sub(1);
            }
            entry.stream
        };
        self.tell(Event::Stream { stream: event::Stream { status: "CLOSED", ..stream }, more: "REASON=DONE".into() });
    }

    /// ATTACHSTREAM.
    pub(super) fn attach_stream(&self, stream: u64, circuit: u64, hop: Option<u8>) -> Result<Reply, Reply> {
        let mut state = self.state();
        if !state.streams.open.contains_key(&stream) {
            return Err(unknown_stream(stream));
        }
        let circuit = match circuit {
            0 => None,
            id => {
                let entry = state.circuits.get(id).ok_or_else(|| unknown_circuit(id))?;
                if !entry.is_built() {
                    return Err(Reply::new(551, "Can't attach stream to non-open origin circuit"));
                }
                if entry.hops() < 2 {
                    return Err(Reply::new(551, "Can't attach stream to this one-hop circuit."));
                }
                if let Some(hop) = hop.filter(|hop| usize::from(*hop) != entry.hops()) {
                    return Err(Reply::new(552, format!("Bad value hop={hop}")));
                }
                Some(id)
            }
        };
        let waits = state.streams.open.get_mut(&stream).and_then(|entry| entry.waits.take());
        let unmanaged = || Reply::new(555, "Connection is not managed by controller.");
        waits.ok_or_else(unmanaged)?.send(circuit).map_err(|_| unmanaged())?;
        Ok(Reply::ok())
    }

    /// CLOSESTREAM.
    pub(super) fn close_stream(&self, stream: u64) -> Result<Reply, Reply> {
        self.state().streams.open.get(&stream).ok_or_else(|| unknown_stream(stream))?.close.cancel();
        Ok(Reply::ok())
    }
}

/// Takes a stream out of the view.
struct Gone<'a, B: Backend> {
    view: &'a View<B>,
    id: u64,
}

impl<B: Backend> Drop for Gone<'_, B> {
    fn drop(&mut self) {
        self.view.stream_gone(self.id);
    }
}

/// Completes when the function has closed its end of a stream that is not connected yet.
async fn hung_up(function: &UnixStream) {
    loop {
        if function.readable().await.is_err() {
            return;
        }
        // What is sent early stays for later; only the end is looked for.
        match function.try_io(tokio::io::Interest::READABLE, || {
            let mut byte = [0];
            Ok(rustix::net::recv(function, &mut byte, rustix::net::RecvFlags::PEEK).map(|(count, _)| count)?)
        }) {
            Ok(0) => return,
            Ok(_) => std::future::pending().await,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Tor's words for why a stream was not connected (control-spec, "Stream status changed").
fn reason(kind: CallErrorKind) -> &'static str {
    match kind {
        CallErrorKind::Refused => "REASON=END REMOTE_REASON=EXITPOLICY",
        CallErrorKind::Resolve => "REASON=END REMOTE_REASON=RESOLVEFAILED",
        CallErrorKind::Timeout => "REASON=TIMEOUT",
        CallErrorKind::Unreachable => "REASON=END REMOTE_REASON=CONNECTREFUSED",
        _ => "REASON=MISC",
    }
}
