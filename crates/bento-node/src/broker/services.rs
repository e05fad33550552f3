//! A function's onion services: made, listened for, made again when Tor returns, closed.
//!
//! Tor brings their clients to sockets of the node, one for each port, whose queue is short; a client is taken from there when the function asks for
//! one. The key stays in memory for as long as the function's process lives, so that the service can be made again under its address.

use std::{
    fmt, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use data_encoding::BASE64;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, UnixListener, UnixSocket},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use bento_tor::{ControlError, Controller, Onion, OnionService, Pow, Target};

use super::{
    Broker, Running, Tor, backends,
    backends::Held,
    bad_call, by_control,
    event::{Event, ServiceStatus},
    over,
    table::Owner,
};
use crate::{
    egress::Stream,
    link::{CallError, CallErrorKind},
};

/// Clients that wait at one port.
const BACKLOG: u32 = 16;

/// Longest wait of one call for a client.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(20);

/// Most ports of one onion service, and most clients that are named.
const PORTS_MAX: usize = 16;
const CLIENTS_MAX: usize = 32;

/// What making one counts for in traffic, in bytes: introduction circuits, and a descriptor at each of its directories.
const SERVICE_BYTES: usize = 64 * 1024;

/// Pause before making one again is tried once more.
const AGAIN_PAUSE: Duration = Duration::from_secs(5);

/// How often that is tried.
const AGAIN_TRIES: u32 = 12;

/// An onion service that is wanted.
#[derive(Clone, Default)]
pub struct OnionWish {
    /// Its ports.
    pub ports: Vec<u16>,
    /// Its key, as Tor writes it; or a new one.
    pub key: Option<String>,
    /// Most streams on one circuit of a client.
    pub max_streams: Option<u16>,
    /// Who may connect, if not everybody: x25519 keys in base32.
    pub client_auth: Vec<String>,
    /// Whether clients have to prove work when there are many.
    pub pow: Option<Pow>,
    /// The front whose clients it takes as well.
    pub front: Option<String>,
}

impl fmt::Debug for OnionWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnionWish").field("ports", &self.ports).finish_non_exhaustive()
    }
}

/// An onion service of the function's own.
#[derive(Clone)]
pub struct ServiceInfo {
    /// Its number.
    pub number: u64,
    /// Its address, with `.onion` at its end.
    pub address: String,
    /// Its key.
    pub key: Option<String>,
}

impl fmt::Debug for ServiceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceInfo").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A client of an onion service.
pub struct Incoming {
    /// The port that it came to.
    pub port: u16,
    /// Its bytes.
    pub stream: Box<dyn Stream>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("port", &self.port).finish_non_exhaustive()
    }
}

/// An onion service, as the table has it.
#[derive(Debug)]
pub(super) struct Service {
    /// None until Tor has made it.
    pub(super) address: Option<String>,
    /// What it is made with, now and again.
    pub(super) wanted: OnionService,
    /// Has a directory stored its descriptor?
    pub(super) uploaded: watch::Sender<bool>,
    /// The front whose clients it takes as well, and what ends it then.
    pub(super) front: Option<String>,
    pub(super) backend: Option<Held>,
    door: Arc<Door>,
    /// Raised when it is closed.
    closed: CancellationToken,
}

#[cfg(test)]
impl Service {
    /// One that no client reaches.
    pub(super) fn for_tests() -> Self {
        let target = Target::Tcp(([127, 0, 0, 1], 1).into());
        let door = Door { listeners: Vec::new(), turn: tokio::sync::Mutex::new(()) };
        Self {
            address: None,
            wanted: OnionService::new(80, target),
            uploaded: watch::channel(false).0,
            front: None,
            backend: None,
            door: Arc::new(door),
            closed: CancellationToken::new(),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// Where its clients come in.
#[derive(Debug)]
struct Door {
    listeners: Vec<(u16, Listener)>,
    /// Who waits for a client has its turn.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes sockets that a node left which was killed.
pub(super) fn sweep(directory: &Path) {
    let _ = fs::remove_dir_all(directory);
}

impl Tor {
    /// Opens a socket for each port, and says where each is.
    fn door(&self, ports: &[u16], own: bool) -> io::Result<(Door, Vec<(u16, Target)>)> {
        let (mut listeners, mut targets) = (Vec::new(), Vec::new());
        for port in ports {
            let (listener, target) = if own { self.unix_listener()? } else { tcp_listener()? };
            listeners.push((*port, listener));
            targets.push((*port, target));
        }
        Ok((Door { listeners, turn: tokio::sync::Mutex::new(()) }, targets))
    }

    fn unix_listener(&self) -> io::Result<(Listener, Target)> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.sockets)?;
        let path = self.sockets.join(self.socket.fetch_add(1, Ordering::Relaxed).to_string());
        let socket = UnixSocket::new_stream()?;
        socket.bind(&path)?;
        let listener = Listener::Unix(socket.listen(BACKLOG)?, path.clone());
        Ok((listener, Target::Unix(path)))
    }

    /// Has Tor make a backend, and puts it into the table.
    async fn make_backend(
        &self,
        running: &Running,
        owner: Owner,
        number: u64,
        front: &str,
        wanted: &OnionService,
    ) -> Result<Onion, CallError> {
        let Some(backends) = &running.backends else { return Err(over()) };
        let onion = backends.add(&backends::wanted(front, wanted)).await.map_err(|error| backends::not_made(&error))?;
        let held = Held::new(backends, &onion.address);
        let mut table = self.table();
        table.service_made(owner, number, &onion.address, onion.key.as_ref());
        let service = table.of(owner).and_then(|owned| owned.services.get_mut(&number));
        // Of a function that has left meanwhile: it is dropped, and so ended.
        service.ok_or_else(over)?.backend = Some(held);
        Ok(onion)
    }

    /// Makes all onion services again that functions had at the last Tor.
    pub(super) async fn make_again(&self, controller: &Controller) {
        let services = self.table().services();
        let each = services.into_iter().map(|(owner, number, wanted, front)| async move {
            for _ in 0..AGAIN_TRIES {
                let table = Arc::clone(&self.table);
                let made = move |onion: &Onion| {
                    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                    table.service_made(owner, number, &onion.address, None)
                };
                // A function may have left, or closed it, meanwhile.
                if self.table().of(owner).is_none_or(|owned| !owned.services.contains_key(&number)) {
                    return;
                }
                if let (Some(front), Ok(running)) = (&front, self.running()) {
                    match self.make_backend(&running, owner, number, front, &wanted).await {
                        Ok(_) => return,
                        Err(_) => sleep(AGAIN_PAUSE).await,
                    }
                    continue;
                }
                match controller.add_onion_then(&wanted, made).await {
                    Ok(_) | Err(ControlError::Closed) => return,
                    Err(_) => sleep(AGAIN_PAUSE).await,
                }
            }
            if let Some(owned) = self.table().of(owner) {
                let reason = Some("NOT_MADE_AGAIN".to_owned());
                owned.tell(&Event::Service { service: number, status: ServiceStatus::Failed, hsdir: None, reason });
            }
        });
        futures_util::future::join_all(each).await;
    }
}

impl Broker {
    /// Makes an onion service.
    ///
    /// # Errors
    /// In the words of the function API.
    pub async fn onion_service(&self, wish: &OnionWish) -> Result<ServiceInfo, CallError> {
        check(wish)?;
        let running = self.tor.running()?;
        if wish.front.is_some() && running.backends.is_none() {
            let text = "a backend needs a tor that the node has started itself, and this node uses another";
            return Err(CallError::new(CallErrorKind::Refused, text));
        }
        let mut wanted = OnionService::new(0, Target::Tcp(([127, 0, 0, 1], 0).into()));
        wanted.key.clone_from(&wish.key);
        wanted.client_auth.clone_from(&wish.client_auth);
        (wanted.max_streams, wanted.pow) = (wish.max_streams, wish.pow);
        let number = self.reserve(&running, &wish.ports, &mut wanted, wish.front.clone())?;
        let reserved = Reserved { broker: self, number };
        self.count(SERVICE_BYTES).await?;
        if let Some(front) = &wish.front {
            let onion = self.tor.make_backend(&running, self.owner, number, front, &wanted).await?;
            std::mem::forget(reserved);
            return Ok(ServiceInfo { number, address: onion.address, key: onion.key });
        }
        let (table, owner) = (Arc::clone(&self.tor.table), self.owner);
        let made = move |onion: &Onion| {
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.service_made(owner, number, &onion.address, onion.key.as_ref())
        };
        let onion = running.controller.add_onion_then(&wanted, made).await.map_err(|error| not_made(&error))?;
        std::mem::forget(reserved);
        Ok(ServiceInfo { number, address: onion.address, key: onion.key })
    }

    /// Makes room for it in the table, with its sockets.
    fn reserve(&self, running: &Running, ports: &[u16], wanted: &mut OnionService, front: Option<String>) -> Result<u64, CallError> {
        let mut table = self.tor.table();
        let all = table.service_count();
        let owned = table.of(self.owner).ok_or_else(over)?;
        let most = self.grant.onion_services();
        if owned.services.len() >= most as usize {
            let text = format!("the function may have {most} onion services at a time, and has them");
            return Err(CallError::new(CallErrorKind::Refused, text));
        }
        if all >= self.tor.bounds.onion_services {
            return Err(CallError::new(CallErrorKind::Busy, "the node has as many onion services of functions as it takes"));
        }
        let no_socket = |_| CallError::new(CallErrorKind::Busy, "the node has no more sockets");
        let (door, targets) = self.tor.door(ports, running.own).map_err(no_socket)?;
        wanted.ports = targets;
        let service = Service {
            address: None,
            wanted: wanted.clone(),
            uploaded: watch::channel(false).0,
            front,
            backend: None,
            door: Arc::new(door),
            closed: CancellationToken::new(),
        };
        table.add_service(self.owner, service).ok_or_else(over)
    }

    /// Waits until a directory has stored an onion service's descriptor, or for the node's time. Says whether one has.
    ///
    /// # Errors
    /// When the function has no such onion service, or it is closed meanwhile.
    pub async fn published(&self, number: u64) -> Result<bool, CallError> {
        let mut uploaded = self.service(number, |service| service.uploaded.subscribe())?;
        let waited = timeout(self.tor.bounds.connect, uploaded.wait_for(|uploaded| *uploaded)).await;
        match waited {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Ok(false),
        }
    }

    /// Waits for the next client of an onion service; for a while, and then there is none.
    ///
    /// # Errors
    /// When the function has no such onion service, or it is closed meanwhile.
    pub async fn accept(&self, number: u64) -> Result<Option<Incoming>, CallError> {
        let (door, over) = self.service(number, |service| (Arc::clone(&service.door), service.closed.clone()))?;
        let came = async {
            let _turn = door.turn.lock().await;
            door.accept().await
        };
        tokio::select! {
            biased;
            () = over.cancelled() => Err(closed()),
            came = timeout(ACCEPT_DEADLINE, came) => match came {
                Err(_) => Ok(None),
                Ok(Ok(incoming)) => Ok(Some(incoming)),
                Ok(Err(_)) => Err(CallError::new(CallErrorKind::Busy, "the node has no more sockets")),
            },
        }
    }

    /// Closes an onion service. Clients that were accepted are left alone.
    ///
    /// # Errors
    /// When the function has no such onion service.
    pub async fn close_service(&self, number: u64) -> Result<(), CallError> {
        let orders = self.tor.table().drop_service(self.owner, number).ok_or_else(missing)?;
        match self.tor.running() {
            // Where no Tor runs there is nothing to end, and it will not be made again.
            Err(_) => Ok(()),
            Ok(running) => running.controller.order(orders).await.map_err(|error| by_control(&error)),
        }
    }

    /// The function's onion services.
    pub fn services(&self) -> Vec<ServiceInfo> {
        let mut table = self.tor.table();
        let Some(owned) = table.of(self.owner) else { return Vec::new() };
        let info = |(number, service): (&u64, &Service)| {
            let address = service.address.clone()?;
            Some(ServiceInfo { number: *number, address, key: service.wanted.key.clone() })
        };
        owned.services.iter().filter_map(info).collect()
    }

    fn service<T>(&self, number: u64, of: impl FnOnce(&Service) -> T) -> Result<T, CallError> {
        let mut table = self.tor.table();
        table.of(self.owner).and_then(|owned| owned.services.get(&number)).map(of).ok_or_else(missing)
    }
}

impl Door {
    /// The next client at any port. Each port has its turn, so that a busy one does not shut out the others.
    async fn accept(&self) -> io::Result<Incoming> {
        let mut first = 0;
        std::future::poll_fn(|context| {
            let all = self.listeners.len();
            for index in (0..all).map(|index| (first + index) % all.max(1)) {
                let (port, listener) = &self.listeners[index];
                let polled = match listener {
                    Listener::Unix(listener, _) => listener.poll_accept(context).map_ok(|(stream, _)| boxed(stream)),
                    Listener::Tcp(listener) => listener.poll_accept(context).map_ok(|(stream, _)| {
                        let _ = stream.set_nodelay(true);
                        boxed(stream)
                    }),
                };
                if let Poll::Ready(came) = polled {
                    return Poll::Ready(came.map(|stream| Incoming { port: *port, stream }));
                }
            }
            first = (first + 1) % all.max(1);
            Poll::Pending
        })
        .await
    }
}

fn boxed(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Box<dyn Stream> {
    Box::new(stream)
}

fn tcp_listener() -> io::Result<(Listener, Target)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok((Listener::Tcp(listener), Target::Tcp(address)))
}

/// A place for an onion service that Tor has not made.
struct Reserved<'a> {
    broker: &'a Broker,
    number: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        // Should Tor make it all the same, it finds no place and is ended.
        drop(self.broker.tor.table().drop_service(self.broker.owner, self.number));
    }
}

fn check(wish: &OnionWish) -> Result<(), CallError> {
    let mut ports = wish.ports.clone();
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() || ports.len() != wish.ports.len() || ports.len() > PORTS_MAX || ports[0] == 0 {
        return Err(bad_call(format!("an onion service has 1 to {PORTS_MAX} ports, each once, from 1 to 65535")));
    }
    let is_key =
        |key: &str| key.strip_prefix("ED25519-V3:").and_then(|key| BASE64.decode(key.as_bytes()).ok()).is_some_and(|key| key.len() == 64);
    if wish.key.as_deref().is_some_and(|key| !is_key(key)) {
        return Err(bad_call("a key is of the form ED25519-V3:…, as Tor writes it"));
    }
    if wish.front.is_some() && (!wish.client_auth.is_empty() || wish.pow.is_some()) {
        return Err(bad_call("a backend is found by its front alone: `client_auth` and `pow` are the front's"));
    }
    if wish.client_auth.len() > CLIENTS_MAX {
        return Err(bad_call(format!("an onion service names at most {CLIENTS_MAX} clients")));
    }
    let is_client = |client: &String| client.len() == 52 && client.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'));
    if !wish.client_auth.iter().all(is_client) {
        return Err(bad_call("a client of an onion service is named by an x25519 key, 52 letters and digits of base32"));
    }
    if wish.max_streams == Some(0) || wish.pow.is_some_and(|pow| pow.rate == 0 || pow.burst < pow.rate) {
        return Err(bad_call("`max_streams` is at least 1, `pow.rate` as well, and `pow.burst` not less than that"));
    }
    Ok(())
}

fn missing() -> CallError {
    CallError::new(CallErrorKind::Missing, "the function has no onion service of this number")
}

fn closed() -> CallError {
    CallError::new(CallErrorKind::Missing, "the onion service was closed")
}

fn not_made(error: &ControlError) -> CallError {
    match error {
        ControlError::Refused { code: 550, .. } => {
            CallError::new(CallErrorKind::Busy, "there is an onion service of this address at this node")
        }
        ControlError::Refused { code: 512, text, .. } if text.contains("key") => bad_call("this is no key of an onion service"),
        ControlError::Refused { code: 512, text, .. } if text.contains("PoW") => {
            CallError::new(CallErrorKind::Refused, "the node's Tor cannot ask clients for proof of work")
        }
        error => by_control(error),
    }
}
