//! Onion services of a function, and descriptors: ADD_ONION, DEL_ONION, HSFETCH, HSPOST.
//!
//! A service's streams go to ports of the function itself, at which it listens by asking for the next one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Mutex as Turn, mpsc},
    time::{Instant, sleep_until},
};

use super::{
    Event, Reply,
    backend::{Backend, Service},
    command::Router,
    onion::AddOnion,
    view::{View, failed},
};
use crate::{
    egress::Stream,
    link::{CallError, CallErrorKind},
};

/// Streams that wait at one port of a function.
const WAITING_MAX: usize = 16;

/// How long the next stream is waited for at once.
const LISTEN: Duration = Duration::from_secs(20);

/// How long a function may take to ask for the next stream before nobody seems to listen.
const LISTENS: Duration = Duration::from_secs(30);

/// A relay whose name nobody knows: what is told of no single directory needs the name of one, for scripts to read it.
const NOBODY: &str = "$0000000000000000000000000000000000000000~Unnamed";

/// The onion services of one function, by address, and the ports that it listens at.
#[derive(Default)]
pub(super) struct Services {
    open: BTreeMap<String, Entry>,
    ports: HashMap<u16, Port>,
}

struct Entry {
    number: u64,
    /// The control connection with which it ends; none for one that was detached.
    session: Option<u64>,
}

/// A port of the function's.
struct Port {
    sender: mpsc::Sender<Box<dyn Stream>>,
    waiting: Arc<Turn<mpsc::Receiver<Box<dyn Stream>>>>,
    /// Until when somebody seems to listen.
    until: Instant,
}

impl Services {
    /// Those of a control connection, or the detached ones.
    pub(super) fn lines(&self, session: Option<u64>) -> String {
        self.open.iter().filter(|(_, entry)| entry.session == session).map(|(address, _)| address.as_str()).collect::<Vec<_>>().join("\n")
    }
}

impl<B: Backend> View<B> {
    /// ADD_ONION.
    pub(super) async fn add_onion(self: &Arc<Self>, wanted: AddOnion, session: u64) -> Result<Reply, Reply> {
        self.permits("tor.onion_service")?;
        let ports: Vec<u16> = wanted.ports.iter().map(|port| port.outside).collect();
        let key = wanted.key.as_ref().map(|key| format!("ED25519-V3:{key}"));
        let most = Some(wanted.max_streams).filter(|most| *most > 0);
        let made = self.backend.onion_service(&ports, key.as_deref(), most).await;
        let Service { number, address, key: made } = made.map_err(|error| failed(&error))?;
        let session = Some(session).filter(|_| !wanted.detach);
        self.state().services.open.insert(address.clone(), Entry { number, session });
        let inside: HashMap<u16, u16> = wanted.ports.iter().map(|port| (port.outside, port.inside)).collect();
        let view = Arc::clone(self);
        self.spawn(async move {
            // Each round waits for one client, and the last fails when the service is closed.
            while let Ok(client) = view.backend.accept(number).await {
                if let Some((port, far)) = client
                    && let Some(inside) = inside.get(&port)
                {
                    view.arrived(*inside, far);
                }
            }
        });
        let reply = Reply::ok().after(format!("ServiceID={address}"));
        Ok(if wanted.discard || key.is_some() { reply } else { reply.after(format!("PrivateKey={made}")) })
    }

    /// A client of an onion service: to who listens at its port, if anybody does. Else it is refused, as by a port that is closed.
    fn arrived(&self, port: u16, far: Box<dyn Stream>) {
        let state = self.state();
        if let Some(port) = state.services.ports.get(&port).filter(|port| port.until > Instant::now()) {
            let _ = port.sender.try_send(far);
        }
    }

    /// The next stream at a port of the function's own; nothing if none comes in time.
    ///
    /// # Errors
    /// When the function listens at too many ports.
    pub async fn listen(&self, port: u16) -> Result<Option<Box<dyn Stream>>, CallError> {
        const PORTS_MAX: usize = 64;
        let busy = |text| CallError::new(CallErrorKind::Busy, text);
        let _turn = self.listening.try_acquire().map_err(|_| busy("the function waits at as many ports as it may"))?;
        let waiting = {
            let mut state = self.state();
            let ports = &mut state.services.ports;
            let now = Instant::now();
            ports.retain(|_, port| port.until > now);
            if ports.len() >= PORTS_MAX && !ports.contains_key(&port) {
                return Err(busy("the function listens at as many ports as it may"));
            }
            let new = || {
                let (sender, receiver) = mpsc::channel(WAITING_MAX);
                Port { sender, waiting: Arc::new(Turn::new(receiver)), until: now }
            };
            let port = ports.entry(port).or_insert_with(new);
            port.until = now + LISTEN + LISTENS;
            Arc::clone(&port.waiting)
        };
        let end = Instant::now() + LISTEN;
        let next = async { waiting.lock().await.recv().await };
        tokio::select! {
            next = next => Ok(next),
            () = sleep_until(end) => Ok(None),
        }
    }

    #[cfg(test)]
    pub(super) fn listens_at(&self, port: u16) -> bool {
        self.state().services.ports.contains_key(&port)
    }

    /// DEL_ONION.
    pub(super) async fn del_onion(&self, address: &str, session: u64) -> Result<Reply, Reply> {
        self.permits("tor.close_service")?;
        let number = {
            let mut state = self.state();
            let open = &mut state.services.open;
            // As with tor, one of another connection is as unknown as one that never was.
            if open.get(address).is_none_or(|entry| entry.session.is_some_and(|of| of != session)) {
                return Err(Reply::new(552, "Unknown Onion Service id"));
            }
            open.remove(address).map(|entry| entry.number)
        };
        if let Some(number) = number {
            self.backend.close_service(number).await;
        }
        Ok(Reply::ok())
    }

    /// Ends the onion services of a control connection that has ended.
    pub(super) async fn session_ended(&self, session: u64) {
        let ended: Vec<u64> = {
            let mut state = self.state();
            let open = std::mem::take(&mut state.services.open);
            let (ended, kept): (BTreeMap<_, _>, BTreeMap<_, _>) = open.into_iter().partition(|(_, entry)| entry.session == Some(session));
            state.services.open = kept;
            ended.into_values().map(|entry| entry.number).collect()
        };
        for number in ended {
            self.backend.close_service(number).await;
        }
    }

    /// A directory has stored a service's descriptor, or has not.
    pub(super) async fn uploaded(&self, service: u64, directory: Option<String>, reason: Option<String>) {
        let address = {
            let state = self.state();
            let found = state.services.open.iter().find(|(_, entry)| entry.number == service);
            found.map(|(address, _)| address.clone())
        };
        let Some(address) = address else { return };
        self.tell_upload(&address, directory.as_deref(), reason.as_deref()).await;
    }

    async fn tell_upload(&self, address: &str, directory: Option<&str>, reason: Option<&str>) {
        let name = match directory {
            Some(directory) => self.long_name(directory).await,
            None => NOBODY.to_owned(),
        };
        self.tell(Event::Descriptor(format!("UPLOAD {address} UNKNOWN {name} UNKNOWN")));
        self.tell(Event::Descriptor(match reason {
            None => format!("UPLOADED {address} UNKNOWN {name}"),
            Some(reason) => format!("FAILED {address} UNKNOWN {name} UNKNOWN REASON={reason}"),
        }));
    }

    /// HSFETCH.
    pub(super) async fn fetch(self: &Arc<Self>, address: String, servers: &[Router]) -> Result<Reply, Reply> {
        self.permits("tor.descriptor")?;
        let servers = self.servers(servers).await?;
        let busy = || Reply::new(551, "too many descriptors are being fetched or published");
        let permit = Arc::clone(&self.fetches).try_acquire_owned().map_err(|_| busy())?;
        let view = Arc::clone(self);
        self.spawn(async move {
            let fetched = view.backend.descriptor(&address, &servers).await;
            match fetched {
                Ok((directory, text)) => {
                    let name = view.long_name(&directory).await;
                    view.keep(&address, &text);
                    view.tell(Event::Descriptor(format!("REQUESTED {address} NO_AUTH {name} UNKNOWN")));
                    view.tell(Event::Descriptor(format!("RECEIVED {address} NO_AUTH {name} UNKNOWN")));
                    view.tell(Event::Content(format!("{address} UNKNOWN {name}"), text));
                }
                Err(error) => {
                    let reason = match error.kind {
                        CallErrorKind::Missing => "NOT_FOUND",
                        CallErrorKind::BadCall => "BAD_DESC",
                        _ => "UNEXPECTED",
                    };
                    view.tell(Event::Descriptor(format!("FAILED {address} NO_AUTH {NOBODY} UNKNOWN REASON={reason}")));
                    view.tell(Event::Content(format!("{address} UNKNOWN {NOBODY}"), String::new()));
                }
            }
            drop(permit);
        });
        Ok(Reply::ok())
    }

    /// HSPOST.
    pub(super) async fn post(self: &Arc<Self>, address: Option<String>, servers: &[Router], descriptor: String) -> Result<Reply, Reply> {
        self.permits("tor.publish")?;
        let address = address.ok_or_else(|| Reply::new(512, "Missing HSADDRESS: it is needed for a descriptor of version 3"))?;
        if !descriptor.starts_with("hs-descriptor 3\n") {
            return Err(Reply::new(554, "Invalid descriptor"));
        }
        let servers = self.servers(servers).await?;
        let busy = || Reply::new(551, "too many descriptors are being fetched or published");
        let permit = Arc::clone(&self.fetches).try_acquire_owned().map_err(|_| busy())?;
        let view = Arc::clone(self);
        self.spawn(async move {
            match view.backend.publish(&address, &servers, &descriptor).await {
                Ok(told) => {
                    for (directory, reason) in told {
                        view.tell_upload(&address, Some(&directory), reason.as_deref()).await;
                    }
                }
                Err(_) => view.tell_upload(&address, None, Some("UPLOAD_REJECTED")).await,
            }
            drop(permit);
        });
        Ok(Reply::ok())
    }

    async fn servers(&self, servers: &[Router]) -> Result<Vec<String>, Reply> {
        let mut found = Vec::new();
        for server in servers {
            let resolved = self.resolve(std::slice::from_ref(server)).await;
            found.extend(resolved.map_err(|_| Reply::new(552, format!("Server \"{server}\" not found")))?);
        }
        Ok(found)
    }
}
