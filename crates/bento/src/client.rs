//! One request after another, each on a stream of its own.

use std::{fmt, sync::Arc, time::Duration};

use bento_proto::{
    InvocationToken, SealKey, ShutdownToken,
    bundle::Bundle,
    node::{Description, FunctionStatus},
    token,
};
use bento_tor::{Isolation, Socks, SocksError};
use bytes::Bytes;
use hyper::{
    Method, Request, Response,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderValue},
    http::request::Builder,
};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Attested, Call, ClientError, Demand, Input, NodeAddress, Output, Tokens,
    activity::{Activity, End},
    body::RequestBody,
    error::{self, CONNECTING},
    json,
    tokens::random,
};

/// Longest head of an answer, in bytes. A node's own has under 1 KiB.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Most header fields of an answer.
const HEAD_FIELDS_MAX: usize = 64;

/// Pause before a stream that Tor could not open is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Longest that one of several tries may take. An onion service on the live network answers within this, or its circuit is dead.
const ONE_TRY: Duration = Duration::from_secs(40);

/// Most tries to open a stream, all within [`Bounds::connect`].
const TRIES_MAX: u32 = 4;

/// How long the client waits.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For a stream to the node. Tor may have to fetch a descriptor and build two circuits.
    pub connect: Duration,
    /// From the last byte sent to the first one of the answer. A function may compute before it writes.
    pub answer: Duration,
    /// For the next byte of an output.
    pub idle: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connect: Duration::from_secs(90), answer: Duration::from_secs(300), idle: Duration::from_secs(300) }
    }
}

/// How far a request is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// A stream is being opened; the number of the try.
    Connecting(u32),
    /// The stream is there.
    Connected,
    /// The request is on its way.
    Sent,
    /// The node has begun to answer.
    Answered,
}

/// Speaks to nodes. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    socks: Option<Socks>,
    /// How nodes on this machine are reached, if not by a connection from here.
    near: Option<Socks>,
    demand: Option<Arc<Demand>>,
    bounds: Bounds,
    /// Whose streams these are, where one program speaks to nodes for several.
    owner: Option<Isolation>,
    depth: u32,
    watch: Option<Arc<dyn Fn(Stage) + Send + Sync>>,
}

/// What came back: its head is there, its body arrives while it is read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) bounds: Bounds,
    pub(crate) end: Option<End>,
    /// Drives the stream; dropped, it closes it.
    pub(crate) connection: AbortOnDropHandle<()>,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("socks", &self.socks).field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that reaches nodes over this Tor, and nodes on this machine directly.
    pub fn over(socks: Socks) -> Self {
        Self { socks: Some(socks), ..Self::direct() }
    }

    /// A client without Tor: it reaches nodes on this machine only.
    pub fn direct() -> Self {
        Self { socks: None, near: None, demand: None, bounds: Bounds::default(), owner: None, depth: 0, watch: None }
    }

    /// With other bounds.
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// On circuits that it shares with nobody but this owner.
    #[must_use]
    pub fn owned_by(mut self, owner: Isolation) -> Self {
        self.owner = Some(owner);
        self
    }

    /// A client that reaches nodes on this machine over this as well: it has no network of its own.
    #[must_use]
    pub fn near(mut self, socks: Socks) -> Self {
        self.near = Some(socks);
        self
    }

    /// A client that accepts these conclaves. What is addressed to a conclave is said to nobody else.
    #[must_use]
    pub fn demanding(mut self, demand: Demand) -> Self {
        self.demand = Some(Arc::new(demand));
        self
    }

    /// Installs on behalf of a function: what it installs comes through so many of them.
    #[must_use]
    pub fn through(mut self, depth: u32) -> Self {
        self.depth = depth;
        self
    }

    /// What it accepts of conclaves, as a function at that node takes it along to others.
    pub(crate) fn demand_from(&self, node: &NodeAddress) -> Result<String, ClientError> {
        if !node.is_conclave() {
            let text = "only a conclave judges another one: a function that goes to conclaves must be in one";
            return Err(ClientError::Request(text.into()));
        }
        let demand = self.demand.as_ref().ok_or(ClientError::NoDemand)?;
        demand.text().map_err(|error| ClientError::Request(error.to_string()))
    }

    /// How long it waits.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Told how far each request is.
    #[must_use]
    pub fn watched(mut self, watch: impl Fn(Stage) + Send + Sync + 'static) -> Self {
        self.watch = Some(Arc::new(watch));
        self
    }

    /// What the node says of itself.
    ///
    /// # Errors
    /// When the node cannot be reached or does not answer as one.
    pub async fn describe(&self, node: &NodeAddress) -> Result<Description, ClientError> {
        let request = start(Method::GET, "/v1/node", node);
        let answer = self.send(request, None, Input::Empty, node, &alone()?, None).await?;
        json::description(json::read(answer, "its description").await?)
    }

    /// The node's policy, as its operator wrote it.
    ///
    /// # Errors
    /// When the node cannot be reached, or what it sends is no policy.
    pub async fn policy(&self, node: &NodeAddress) -> Result<String, ClientError> {
        let request = start(Method::GET, "/v1/policy", node);
        let answer = json::good(self.send(request, None, Input::Empty, node, &alone()?, None).await?).await?;
        let violation =
            |error: &dyn fmt::Display| ClientError::Violation(format!("its policy is none: {}", crate::line(&error.to_string())));
        let text = String::from_utf8(json::bytes(answer).await?).map_err(|error| violation(&error))?;
        bento_proto::Policy::parse(&text).map_err(|error| violation(&error))?;
        Ok(crate::paragraph(&text))
    }

    /// Installs a function under tokens that were made, and best kept, before. The same again is answered the same.
    ///
    /// # Errors
    /// When the node refuses it; [`ClientError::is_undecided`] when it may be installed nevertheless.
    pub async fn install(&self, node: &NodeAddress, bundle: &Bundle, tokens: &Tokens) -> Result<FunctionStatus, ClientError> {
        let (invocation, shutdown) = (tokens.invocation.digest(), tokens.shutdown.digest());
        let request = start(Method::POST, "/v1/functions", node)
            .header(header::CONTENT_TYPE, "application/x-tar")
            .header("bento-invocation-digest", invocation.to_string())
            .header("bento-shutdown-digest", shutdown.to_string())
            .header("bento-seal", secret(&SealKey::of(&tokens.invocation).reveal())?);
        let request = self.deep(request);
        let answer = self.send(request, Some(pack(bundle)?), Input::Empty, node, &function(node, invocation), None).await?;
        Ok(json::status(json::read(answer, "the function's status").await?))
    }

    /// Invokes a method of an installed function.
    ///
    /// # Errors
    /// When the node refuses, or the function ends without any output and does not return.
    pub async fn invoke(&self, node: &NodeAddress, token: &InvocationToken, call: Call) -> Result<Output, ClientError> {
        let request = start(Method::POST, &format!("/v1/invoke/{}", call.method()?), node)
            .header(header::AUTHORIZATION, bearer(&token.reveal())?)
            .header("bento-arguments", call.arguments()?);
        let request = match call.seen {
            Some(seen) => request.header("bento-seen", seen),
            None => request,
        };
        self.call(request, None, call, node, &function(node, token.digest())).await
    }

    /// Installs a function, invokes it once and ends it, in one round trip.
    ///
    /// # Errors
    /// As [`install`](Self::install) and [`invoke`](Self::invoke).
    pub async fn run(&self, node: &NodeAddress, bundle: &Bundle, call: Call) -> Result<Output, ClientError> {
        let archive = pack(bundle)?;
        let request = start(Method::POST, &format!("/v1/run/{}", call.method()?), node)
            .header("bento-bundle-length", archive.len())
            .header("bento-arguments", call.arguments()?);
        let request = self.deep(request);
        self.call(request, Some(archive), call, node, &alone()?).await
    }

    /// The state of an installed function.
    ///
    /// # Errors
    /// When the node does not know the token.
    pub async fn status(&self, node: &NodeAddress, token: &InvocationToken) -> Result<FunctionStatus, ClientError> {
        let request = start(Method::GET, "/v1/function", node).header(header::AUTHORIZATION, bearer(&token.reveal())?);
        let answer = self.send(request, None, Input::Empty, node, &function(node, token.digest()), None).await?;
        Ok(json::status(json::read(answer, "the function's status").await?))
    }

    /// Ends a function.
    ///
    /// # Errors
    /// When the node does not know the token.
    pub async fn shutdown(&self, node: &NodeAddress, token: &ShutdownToken) -> Result<(), ClientError> {
        let request = start(Method::DELETE, "/v1/function", node).header(header::AUTHORIZATION, bearer(&token.reveal())?);
        json::good(self.send(request, None, Input::Empty, node, &function(node, token.digest()), None).await?).await?;
        Ok(())
    }

    /// Says through how many functions it comes, where it does.
    fn deep(&self, request: Builder) -> Builder {
        if self.depth == 0 { request } else { request.header("bento-depth", self.depth) }
    }

    /// Follows a link of a function, which needs no token: a path on its node, `/l/TOKEN` with what may come behind it.
    ///
    /// # Errors
    /// When there is nothing at the link, or the function behind it fails.
    pub async fn follow(&self, node: &NodeAddress, path: &str) -> Result<Output, ClientError> {
        let wrong = || ClientError::Request("a link's path is `/l/` and letters, digits, hyphens and slashes".into());
        let rest = path.strip_prefix("/l/").filter(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-/".contains(&byte)));
        let token = rest.and_then(|rest| rest.split('/').next()).filter(|token| !token.is_empty()).ok_or_else(wrong)?;
        // One link's requests share circuits, and no two links' do. Tor is told a digest only.
        let isolation = Isolation::new(&format!("bento link {} at {node}", data_encoding::HEXLOWER.encode(&Sha256::digest(token))));
        let answer = self.send(start(Method::GET, path, node), None, Input::Empty, node, &isolation, None).await?;
        Output::new(json::good(answer).await?, None)
    }

    async fn call(
        &self,
        request: Builder,
        first: Option<Bytes>,
        call: Call,
        node: &NodeAddress,
        isolation: &Isolation,
    ) -> Result<Output, ClientError> {
        let request = request.header(header::TE, "trailers").header(header::CONNECTION, "te");
        let answer = self.send(request, first, call.input, node, isolation, call.within).await?;
        Output::new(json::good(answer).await?, call.output_max)
    }

    pub(crate) async fn send(
        &self,
        request: Builder,
        first: Option<Bytes>,
        input: Input,
        node: &NodeAddress,
        isolation: &Isolation,
        within: Option<Duration>,
    ) -> Result<Answer, ClientError> {
        let end = within.map(End::after);
        let stream = self.connect(node, isolation).await?;
        self.tell(Stage::Connected);

        let activity = Arc::new(Activity::new());
        let body = RequestBody::new(first, input, Arc::clone(&activity));
        let request = request.body(body).map_err(|error| ClientError::Request(error.to_string()))?;
        let mut http = http1::Builder::new();
        http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEAD_FIELDS_MAX);
        let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(|error| error::of_stream(&error))?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // Its errors come out of the response as well.
            let _ = connection.await;
        }));
        self.tell(Stage::Sent);
        let response = activity.wait(sender.send_request(request), "the answer's first byte", self.bounds.answer, end).await?;
        let response = response.map_err(|error| activity.take_input_error().unwrap_or_else(|| error::of_stream(&error)))?;
        activity.moved();
        self.tell(Stage::Answered);
        Ok(Answer { response, activity, bounds: self.bounds, end, connection })
    }

    /// What a conclave's evidence says, once it was accepted. Nothing is asked of it.
    ///
    /// # Errors
    /// When the node cannot be reached, has no conclave, or one that is not accepted.
    pub async fn attest(&self, node: &NodeAddress) -> Result<Attested, ClientError> {
        let stream = self.reach(node, &alone()?).await?;
        Ok(self.open(stream, node).await?.1)
    }

    /// A stream to the node, or the channel in it to its conclave.
    async fn connect(&self, node: &NodeAddress, isolation: &Isolation) -> Result<Box<dyn Stream>, ClientError> {
        let stream = self.reach(node, isolation).await?;
        if node.is_conclave() { Ok(self.open(stream, node).await?.0) } else { Ok(stream) }
    }

    async fn open(&self, stream: Box<dyn Stream>, node: &NodeAddress) -> Result<(Box<dyn Stream>, Attested), ClientError> {
        let demand = self.demand.as_ref().ok_or(ClientError::NoDemand)?;
        let late = |_| ClientError::Late { what: CONNECTING, bound: self.bounds.connect };
        timeout(self.bounds.connect, demand.open(stream, &node.identity())).await.map_err(late)?
    }

    async fn reach(&self, node: &NodeAddress, isolation: &Isolation) -> Result<Box<dyn Stream>, ClientError> {
        let late = || ClientError::Late { what: CONNECTING, bound: self.bounds.connect };
        if let (Some(address), Some(near)) = (node.loopback(), &self.near) {
            self.tell(Stage::Connecting(1));
            let stream = near.connect(&address.ip().to_string(), address.port(), isolation, self.bounds.connect).await;
            return Ok(Box::new(stream.map_err(ClientError::Tor)?));
        }
        if let Some(address) = node.loopback() {
            self.tell(Stage::Connecting(1));
            let stream = timeout(self.bounds.connect, TcpStream::connect(address)).await.map_err(|_| late())?;
            let stream = stream.map_err(ClientError::NotThere)?;
            stream.set_nodelay(true).map_err(ClientError::NotThere)?;
            return Ok(Box::new(stream));
        }
        let (Some(socks), Some((host, port))) = (&self.socks, node.onion()) else { return Err(ClientError::NoTor) };
        let isolation = self.owner.as_ref().map_or_else(|| isolation.clone(), |owner| isolation.within(owner));
        let end = Instant::now() + self.bounds.connect;
        let mut tries = 1;
        loop {
            self.tell(Stage::Connecting(tries));
            let left = end.saturating_duration_since(Instant::now());
            let isolation = if tries == 1 { isolation.clone() } else { isolation.afresh(tries) };
            match socks.connect(host, port, &isolation, left.min(ONE_TRY)).await {
                Ok(stream) => return Ok(Box::new(stream)),
                // A circuit to where the service was before can stay open and carry nothing; another isolation gets another circuit.
                Err(SocksError::Deadline(_)) if Instant::now() < end && tries < TRIES_MAX => {}
                Err(SocksError::Deadline(_)) => return Err(late()),
                // Nothing was sent yet, so trying again asks for nothing twice.
                Err(error) if error.is_passing() && tries < TRIES_MAX && Instant::now() + AGAIN < end => sleep(AGAIN).await,
                Err(error) => return Err(ClientError::Tor(error)),
            }
            tries += 1;
        }
    }

    fn tell(&self, stage: Stage) {
        if let Some(watch) = &self.watch {
            watch(stage);
        }
    }
}

/// What HTTP runs over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(crate) fn start(method: Method, path: &str, node: &NodeAddress) -> Builder {
    Request::builder().method(method).uri(path).header(header::HOST, node.authority())
}

pub(crate) fn bearer(token: &str) -> Result<HeaderValue, ClientError> {
    secret(&format!("Bearer {token}"))
}

/// A header that no `{:?}` shows.
fn secret(text: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| ClientError::Request("the token cannot be sent".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn pack(bundle: &Bundle) -> Result<Bytes, ClientError> {
    bundle.pack().map(Bytes::from).map_err(|error| ClientError::Request(format!("the function cannot be sent: {error}")))
}

/// All requests for one function share circuits, and no two functions do: a node cannot tell by a circuit that two of them are one
/// client's. Made of the token's digest, which Tor and the node may know.
pub(crate) fn function(node: &NodeAddress, digest: token::Digest) -> Isolation {
    Isolation::new(&format!("bento function {digest} at {node}"))
}

/// A request that shares its circuits with no other.
fn alone() -> Result<Isolation, ClientError> {
    Ok(Isolation::new(&data_encoding::HEXLOWER.encode(&random()?)))
}
