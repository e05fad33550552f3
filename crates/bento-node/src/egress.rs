//! Where functions' connections leave: through Tor, or from the node's own address.
//!
//! A name is resolved where the connection leaves, and what is connected to is the address that was checked, never the name again:
//! a second answer to the same question could be another one (DNS rebinding).

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::runtime::TokioRuntimeProvider,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use bento_proto::{Egress as Kind, Grant, Policy, Refusal, address::is_private};
use bento_tor::{Isolation, Socks, SocksError};

use crate::link::{CallError, CallErrorKind};

/// Longest name of a host (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Longest wait for one address of several, so that a dead first one leaves time for the second.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(15);

/// Where a conclave's host listens for what is to go through Tor, in the directory that both have,
pub const TOR_SOCKET: &str = "tor.sock";

/// and for what is to leave from its own address.
pub const DIRECT_SOCKET: &str = "direct.sock";

/// A stream to elsewhere.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Who says where a connection may go.
#[derive(Clone, Copy, Debug)]
pub enum Permit<'a> {
    /// A function's grant.
    Grant(&'a Grant),
    /// What this node offers at all: for the conclave beside it, whose grants it does not see.
    Offers(&'a Policy),
}

impl Permit<'_> {
    fn port(self, port: u16) -> Result<(), Refusal> {
        match self {
            Self::Grant(grant) => grant.permits_port(port),
            Self::Offers(policy) if policy.offers.connect.may_accept_port(port) => Ok(()),
            Self::Offers(_) => Err(Refusal::Destination { port }),
        }
    }

    fn destination(self, address: IpAddr, port: u16) -> Result<(), Refusal> {
        match self {
            Self::Grant(grant) => grant.permits_destination(address, port),
            Self::Offers(policy) if policy.offers.connect.accepts(address, port) => Ok(()),
            Self::Offers(_) => Err(Refusal::Destination { port }),
        }
    }
}

/// How a connection leaves that does not go through Tor.
enum Direct {
    /// From this machine.
    Machine(Box<TokioResolver>),
    /// By the host of this conclave, at a SOCKS port of its own.
    Host(Socks),
}

/// The ways out of this node.
pub struct Egress {
    tor: Option<Arc<dyn Fn() -> Option<Socks> + Send + Sync>>,
    direct: Direct,
    deadline: Duration,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Egress")
    }
}

impl Egress {
    /// With a SOCKS port, which may come and go with its tor, and these DNS servers, or the system's.
    ///
    /// # Errors
    /// When the system's DNS configuration cannot be read.
    pub fn new(
        tor: Option<Arc<dyn Fn() -> Option<Socks> + Send + Sync>>,
        nameservers: &[SocketAddr],
        deadline: Duration,
    ) -> Result<Self, hickory_resolver::net::NetError> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = if nameservers.is_empty() {
            TokioResolver::builder(provider)?
        } else {
            let servers = nameservers.iter().map(|server| {
                let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                for connection in &mut connections {
                    connection.port = server.port();
                }
                NameServerConfig::new(server.ip(), true, connections.into())
            });
            TokioResolver::builder_with_config(ResolverConfig::from_parts(None, Vec::new(), servers.collect()), provider)
        };
        let options: &mut ResolverOpts = builder.options_mut();
        // A function says which name it means; the operator's search domains and hosts file are not its affair.
        options.ndots = 0;
        // One cache for all functions would tell one, by the time of an answer, what another has looked up.
        options.cache_size = 0;
        options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
        Ok(Self { tor, direct: Direct::Machine(Box::new(builder.build()?)), deadline })
    }

    /// For a conclave: its host opens every stream, at two SOCKS ports in this directory. What leaves is checked here first, and by the host as well.
    pub fn through_host(directory: &Path, deadline: Duration) -> Self {
        let tor = Socks::unix(directory.join(TOR_SOCKET));
        Self { tor: Some(Arc::new(move || Some(tor.clone()))), direct: Direct::Host(Socks::unix(directory.join(DIRECT_SOCKET))), deadline }
    }

    /// How nodes on this machine are reached, where that is not by a connection from here.
    pub(crate) fn near(&self) -> Option<Socks> {
        match &self.direct {
            Direct::Machine(_) => None,
            Direct::Host(socks) => Some(socks.clone()),
        }
    }

    /// The SOCKS port of the node's Tor, while it runs.
    pub(crate) fn socks(&self) -> Option<Socks> {
        self.tor.as_ref().and_then(|tor| tor())
    }

    /// Connects on behalf of a function, if its grant permits the place.
    ///
    /// # Errors
    /// In the words of the function API.
    pub async fn connect(
        &self,
        host: &str,
        port: u16,
        grant: &Grant,
        isolation: &Isolation,
    ) -> Result<(Box<dyn Stream>, IpAddr), CallError> {
        let way = grant.egress().ok_or_else(|| CallError::new(CallErrorKind::Refused, "this node lets functions connect nowhere"))?;
        self.leave(way, host, port, Permit::Grant(grant), isolation).await
    }

    /// Connects that way, if it is permitted.
    ///
    /// # Errors
    /// In the words of the function API.
    pub async fn leave(
        &self,
        way: Kind,
        host: &str,
        port: u16,
        permit: Permit<'_>,
        isolation: &Isolation,
    ) -> Result<(Box<dyn Stream>, IpAddr), CallError> {
        permit.port(port).map_err(|refusal| refused(&refusal))?;
        let literal: Option<IpAddr> = host.parse().ok();
        match literal {
            Some(address) => permit.destination(address, port).map_err(|refusal| refused(&refusal))?,
            None => check_name(host)?,
        }
        let connecting = async {
            match way {
                Kind::Tor => {
                    let socks = self
                        .socks()
                        .ok_or_else(|| CallError::new(CallErrorKind::Unreachable, "the node's Tor is not running at the moment"))?;
                    self.by_socks(&socks, (host, literal, port), permit, isolation).await
                }
                _ => match &self.direct {
                    Direct::Machine(resolver) => direct(resolver, (host, literal, port), permit).await,
                    Direct::Host(socks) => self.by_socks(socks, (host, literal, port), permit, isolation).await,
                },
            }
        };
        timeout(self.deadline, connecting).await.unwrap_or_else(|_| Err(late()))
    }

    /// The address of a name, as it is found out where connections leave that way.
    ///
    /// # Errors
    /// In the words of the function API.
    pub async fn resolve(&self, way: Kind, name: &str, isolation: &Isolation) -> Result<IpAddr, CallError> {
        check_name(name)?;
        let resolving = async {
            match (way, &self.direct) {
                (Kind::Tor, _) => {
                    let down = || CallError::new(CallErrorKind::Unreachable, "the node's Tor is not running at the moment");
                    found(&self.socks().ok_or_else(down)?, name, isolation, self.deadline).await
                }
                (_, Direct::Host(socks)) => found(socks, name, isolation, self.deadline).await,
                (_, Direct::Machine(resolver)) => {
                    let addresses = addresses(resolver, name).await?;
                    addresses.first().copied().ok_or_else(|| CallError::new(CallErrorKind::Resolve, "the name has no address"))
                }
            }
        };
        timeout(self.deadline, resolving).await.unwrap_or_else(|_| Err(late()))
    }

    async fn by_socks(
        &self,
        socks: &Socks,
        (host, literal, port): (&str, Option<IpAddr>, u16),
        permit: Permit<'_>,
        isolation: &Isolation,
    ) -> Result<(Box<dyn Stream>, IpAddr), CallError> {
        let address = match literal {
            Some(address) => address,
            None => {
                let found = found(socks, host, isolation, self.deadline).await?;
                permit.destination(found, port).map_err(|refusal| refused(&refusal))?;
                found
            }
        };
        let stream = socks.connect(&address.to_string(), port, isolation, self.deadline).await.map_err(|error| by_tor(&error))?;
        Ok((Box::new(stream), address))
    }
}

fn refused(refusal: &Refusal) -> CallError {
    CallError::new(CallErrorKind::Refused, refusal.to_string())
}

fn late() -> CallError {
    CallError::new(CallErrorKind::Timeout, "no connection within the node's time")
}

async fn found(socks: &Socks, name: &str, isolation: &Isolation, deadline: Duration) -> Result<IpAddr, CallError> {
    socks.resolve(name, isolation, deadline).await.map_err(|error| match error {
        SocksError::HostUnreachable => CallError::new(CallErrorKind::Resolve, "there is no such name"),
        error => by_tor(&error),
    })
}

/// All addresses that a name has, as far as they are tried.
async fn addresses(resolver: &TokioResolver, name: &str) -> Result<Vec<IpAddr>, CallError> {
    // The trailing dot makes the name absolute.
    match resolver.lookup_ip(format!("{}.", name.trim_end_matches('.'))).await {
        Ok(found) => Ok(found.iter().map(|address| address.to_canonical()).take(ADDRESSES_MAX).collect()),
        Err(error) if error.is_no_records_found() => Err(CallError::new(CallErrorKind::Resolve, "there is no such name")),
        Err(_) => Err(CallError::new(CallErrorKind::Resolve, "the name could not be resolved")),
    }
}

async fn direct(
    resolver: &TokioResolver,
    (host, literal, port): (&str, Option<IpAddr>, u16),
    permit: Permit<'_>,
) -> Result<(Box<dyn Stream>, IpAddr), CallError> {
    let addresses = match literal {
        Some(address) => vec![address.to_canonical()],
        None => addresses(resolver, host).await?,
    };
    let mut last = CallError::new(CallErrorKind::Resolve, "the name has no address");
    for address in addresses {
        if let Err(refusal) = permit.destination(address, port) {
            last = refused(&refusal);
            continue;
        }
        match timeout(ADDRESS_DEADLINE, TcpStream::connect((address, port))).await {
            // The node's own public address, which no rule names: Tor's exits reject theirs as well (tor's manual, ExitPolicyRejectPrivate).
            Ok(Ok(stream)) if !is_private(address) && stream.local_addr().is_ok_and(|own| own.ip().to_canonical() == address) => {
                last = refused(&Refusal::Destination { port });
            }
            Ok(Ok(stream)) => {
                // Functions write in pieces of their own choice; waiting to join them only delays.
                let _ = stream.set_nodelay(true);
                return Ok((Box::new(stream), address));
            }
            Ok(Err(error)) => last = CallError::new(CallErrorKind::Unreachable, plain(&error)),
            Err(_) => last = CallError::new(CallErrorKind::Timeout, "the host does not answer"),
        }
    }
    Err(last)
}

pub(crate) fn check_name(host: &str) -> Result<(), CallError> {
    let label =
        |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let bare = host.strip_suffix('.').unwrap_or(host);
    if host.len() > NAME_BYTES_MAX || !bare.split('.').all(label) {
        return Err(CallError::new(CallErrorKind::BadCall, "the host is neither an IP address nor a DNS name in ASCII"));
    }
    let ending = bare.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "onion" => Err(CallError::new(CallErrorKind::Refused, "this node does not connect functions to onion services")),
        "exit" | "localhost" => Err(CallError::new(CallErrorKind::Refused, "names that end so are not resolved")),
        // `127.1` and `0x7f.1` are addresses to some resolvers; a top-level domain is never all digits.
        last if last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") => {
            Err(CallError::new(CallErrorKind::BadCall, "the host is neither an IP address nor a DNS name in ASCII"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn by_tor(error: &SocksError) -> CallError {
    let kind = match error {
        SocksError::TimedOut | SocksError::Deadline(_) => CallErrorKind::Timeout,
        SocksError::Policy => CallErrorKind::Refused,
        SocksError::OnionNotFound => CallErrorKind::Resolve,
        _ => CallErrorKind::Unreachable,
    };
    CallError::new(kind, error.to_string())
}

/// The system's word for it, without the operating system's number or any path.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "the host refused the connection".into(),
        std::io::ErrorKind::TimedOut => "the host does not answer".into(),
        std::io::ErrorKind::NetworkUnreachable | std::io::ErrorKind::HostUnreachable => "there is no way to the host".into(),
        _ => "the connection failed".into(),
    }
}

#[cfg(test)]
mod tests {
    use bento_proto::{Manifest, Policy};

    use super::*;

    fn grant(connect: &str) -> Grant {
        let policy = Policy::parse("[offers]\negress = [\"direct\"]\nconnect = [\"accept 127.0.0.0/8:*\", \"accept *:*\"]\n").unwrap();
        let needs = format!("name = \"n\"\nmethods = [\"m\"]\n[needs]\ncalls = [\"net.connect\"]\nconnect = [{connect}]\n");
        policy.admit(&Manifest::parse(&needs).unwrap()).unwrap()
    }

    #[test]
    fn names_are_names_and_their_lookalikes_are_not() {
        assert!(check_name("www.example.org").is_ok() && check_name("example.org.").is_ok() && check_name("a_b.example").is_ok());
        for wrong in [
            "",
            ".",
            "a..b",
            "127.1",
            "0x7f.0x1",
            "2130706433",
            "a b",
            "ä.example",
            "localhost",
            "x.localhost",
            "x.onion",
            "X.ONION.",
            "x.exit",
            &"a".repeat(64),
            &"a.".repeat(150),
        ] {
            assert!(check_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_granted_is_reached_and_its_neighbours_are_refused() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let egress = Egress::new(None, &["127.0.0.1:9".parse().unwrap()], Duration::from_secs(5)).unwrap();
        let isolation = Isolation::new("test");
        let connect = |host: &'static str, rules: String, port| {
            let (egress, isolation) = (&egress, isolation.clone());
            async move { egress.connect(host, port, &grant(&rules), &isolation).await.map(|(_, address)| address) }
        };
        assert_eq!(connect("127.0.0.1", format!("\"accept 127.0.0.1:{port}\""), port).await.unwrap(), IpAddr::from([127, 0, 0, 1]));
        for (host, rules, port) in [
            ("127.0.0.2", format!("\"accept 127.0.0.1:{port}\""), port),
            ("127.0.0.1", format!("\"accept 127.0.0.1:{port}\""), port.wrapping_add(1).max(1)),
            ("127.0.0.1", "\"accept *:*\"".into(), port),
            ("::ffff:127.0.0.1", "\"accept *:*\"".into(), port),
        ] {
            assert_eq!(connect(host, rules, port).await.unwrap_err().kind, CallErrorKind::Refused, "{host}");
        }
    }
}
