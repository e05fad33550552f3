//! The host, between its `bentod` and the conclave: every byte of both goes through here, is kept, and can be changed.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

use crate::messages::next;
pub(crate) use crate::messages::{Do, FIRST_RECORD, To};

/// Session, direction, number of the message, and it.
pub(crate) type Tamper = Arc<dyn Fn(usize, To, usize, Vec<u8>) -> Do + Send + Sync>;

/// A host.
pub(crate) struct Host {
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    /// All that passed.
    seen: Mutex<Vec<u8>>,
    /// What clients sent, by session, as the conclave got it: to be played again.
    sent: Mutex<Vec<Vec<u8>>>,
    tamper: Mutex<Option<Tamper>>,
    /// Where sessions go, and whose name is in front of them.
    conclave: Mutex<(PathBuf, Option<Vec<u8>>)>,
    sessions: AtomicUsize,
}

impl Host {
    /// `outside` is the directory of `bentod`, `inside` that of the conclave.
    pub(crate) fn between(outside: &Path, inside: &Path) -> Self {
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            sent: Mutex::default(),
            tamper: Mutex::default(),
            conclave: Mutex::new((inside.join("sessions.sock"), None)),
            sessions: AtomicUsize::new(0),
        });
        let mut serving = JoinSet::new();
        let listener = UnixListener::bind(outside.join("sessions.sock")).unwrap();
        let sessions = Arc::clone(&shared);
        serving.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(session(stream, Arc::clone(&sessions)));
            }
        });
        for name in ["tor.sock", "direct.sock"] {
            let listener = UnixListener::bind(inside.join(name)).unwrap();
            let (shared, outside) = (Arc::clone(&shared), outside.join(name));
            serving.spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (shared, outside) = (Arc::clone(&shared), outside.clone());
                    tokio::spawn(async move {
                        let Ok(there) = UnixStream::connect(outside).await else { return };
                        let ((reads, writes), (there_reads, there_writes)) = (stream.into_split(), there.into_split());
                        tokio::join!(copy(reads, there_writes, &shared), copy(there_reads, writes, &shared));
                    });
                }
            });
        }
        Self { shared, _serving: serving }
    }

    /// Does this from now on.
    pub(crate) fn does(&self, tamper: impl Fn(usize, To, usize, Vec<u8>) -> Do + Send + Sync + 'static) {
        *self.shared.tamper.lock().unwrap() = Some(Arc::new(tamper));
    }

    /// Is honest from now on.
    pub(crate) fn is_honest(&self) {
        *self.shared.tamper.lock().unwrap() = None;
    }

    /// Brings sessions to another conclave, and says there that it is this node.
    pub(crate) fn diverts(&self, directory: &Path, node: Option<&[u8]>) {
        *self.shared.conclave.lock().unwrap() = (directory.join("sessions.sock"), node.map(<[u8]>::to_vec));
    }

    /// Has it seen this?
    pub(crate) fn saw(&self, secret: &[u8]) -> bool {
        contains(&self.shared.seen.lock().unwrap(), secret)
    }

    pub(crate) fn seen_bytes(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// What clients sent, session by session.
    pub(crate) fn sent(&self) -> Vec<Vec<u8>> {
        self.shared.sent.lock().unwrap().clone()
    }
}

pub(crate) fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

async fn copy(mut reads: impl AsyncReadExt + Unpin, mut writes: impl AsyncWriteExt + Unpin, shared: &Shared) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = reads.read(&mut chunk).await {
        shared.seen.lock().unwrap().extend_from_slice(&chunk[..count]);
        if writes.write_all(&chunk[..count]).await.is_err() {
            break;
        }
    }
    let _ = writes.shutdown().await;
}

async fn session(mut client: UnixStream, shared: Arc<Shared>) {
    let (place, name) = shared.conclave.lock().unwrap().clone();
    let Ok(mut conclave) = UnixStream::connect(place).await else { return };
    let Ok(length) = client.read_u8().await else { return };
    let mut node = vec![0; usize::from(length)];
    if client.read_exact(&mut node).await.is_err() {
        return;
    }
    // Without a name the host only asks what it is.
    let node = if node.is_empty() { node } else { name.unwrap_or(node) };
    if conclave.write_all(&[&[node.len() as u8][..], &node].concat()).await.is_err() {
        return;
    }
    if node.is_empty() {
        let ((reads, writes), (there_reads, there_writes)) = (client.into_split(), conclave.into_split());
        tokio::join!(copy(reads, there_writes, &shared), copy(there_reads, writes, &shared));
        return;
    }
    let number = shared.sessions.fetch_add(1, Ordering::SeqCst);
    let ((reads, writes), (there_reads, there_writes)) = (client.into_split(), conclave.into_split());
    shared.sent.lock().unwrap().push([&[node.len() as u8][..], &node].concat());
    let place = shared.sent.lock().unwrap().len() - 1;
    tokio::join!(
        carry(reads, there_writes, (number, To::Conclave, Some(place)), &shared),
        carry(there_reads, writes, (number, To::Client, None), &shared)
    );
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    (session, way, place): (usize, To, Option<usize>),
    shared: &Shared,
) {
    for count in 0.. {
        let Some(message) = next(&mut from, count).await else { break };
        shared.seen.lock().unwrap().extend_from_slice(&message);
        if let Some(place) = place
            && let Some(sent) = shared.sent.lock().unwrap().get_mut(place)
        {
            sent.extend_from_slice(&message);
        }
        let tamper = shared.tamper.lock().unwrap().clone();
        let done = tamper.map_or_else(|| Do::Pass(message.clone()), |tamper| tamper(session, way, count, message.clone()));
        let (bytes, ends) = match done {
            Do::Pass(bytes) => (bytes, false),
            Do::Cut(bytes) => (bytes, true),
        };
        if to.write_all(&bytes).await.is_err() || ends {
            break;
        }
    }
    let _ = to.shutdown().await;
}
