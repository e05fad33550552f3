//! Sessions: accepted, counted, bounded, served.

use std::{
    convert::Infallible,
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Json, Router, body::Body, extract::State, http::Request, response::Response, routing::get};
use bytes::Bytes;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::Service,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    conclave,
    node::{Node, NodeStatus},
};

/// Longest head of a request, in bytes: arguments (16 KiB), a token, two digests, and room for what a browser sends.
const HEAD_BYTES_MAX: usize = 48 * 1024;

/// Most streams of one h2c session. Each can be an invocation.
const STREAMS_MAX: u32 = 32;

/// Bytes of an answer that wait in memory for a slow client, for each stream of h2c. Its own default of 400 KiB is more than a circuit can use.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// What a session may be idle beyond twice an invocation's bound, so that this comes first and is told: an output that is short and declared is held
/// back for its outcome, which may come as late after it as it came after the request.
const IDLE_MORE: Duration = Duration::from_secs(15);

/// How long a listener pauses when the system has no more descriptors, so as not to spin.
const PAUSE: Duration = Duration::from_millis(200);

/// Where sessions come from.
#[derive(Debug)]
pub enum Listener {
    /// A loopback address.
    Tcp(TcpListener),
    /// The onion service's streams.
    Unix(UnixListener),
    /// Streams of the host of the conclave that this node runs in, with a channel to a client in each.
    Host(UnixListener, Door),
}

/// Opens the channel in a stream of the host: what of a conclave is not as in a plain node.
#[derive(Clone)]
pub struct Door(pub Arc<dyn Fn(UnixStream) -> Opening + Send + Sync>);

/// A channel, as it is being opened; nothing where there will be none.
pub type Opening = Pin<Box<dyn Future<Output = Option<Box<dyn Stream>>> + Send>>;

impl fmt::Debug for Door {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Door")
    }
}

/// One accepted stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream that came.
enum Came {
    Tcp(TcpStream),
    Unix(UnixStream),
    Host(UnixStream, Door),
}

impl Listener {
    async fn accept(&self) -> io::Result<Came> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Came::Tcp(stream)
            }
            Self::Unix(listener) => Came::Unix(listener.accept().await?.0),
            Self::Host(listener, door) => Came::Host(listener.accept().await?.0, door.clone()),
        })
    }
}

/// How long a session may be idle.
fn idle(node: &Node) -> Duration {
    2 * node.config().limits.idle.duration() + IDLE_MORE
}

impl Came {
    /// A session of this node's own, unless it is for the conclave; that is carried there, to its end.
    async fn own(self, node: &Node) -> Option<Box<dyn Stream>> {
        let head = node.config().limits.head.duration();
        let first = match &self {
            Self::Tcp(stream) => {
                let mut first = [1];
                timeout(head, stream.peek(&mut first)).await.ok()?.ok()?;
                first[0]
            }
            Self::Unix(stream) => timeout(head, peek(stream)).await.ok()?.ok()?,
            Self::Host(..) => 1,
        };
        match (self, first) {
            (Self::Tcp(stream), 0) => conclave::session(stream, node, idle(node)).await,
            (Self::Unix(stream), 0) => conclave::session(stream, node, idle(node)).await,
            (Self::Tcp(stream), _) => return Some(Box::new(stream)),
            (Self::Unix(stream), _) => return Some(Box::new(stream)),
            (Self::Host(stream, door), _) => return timeout(head, (door.0)(stream)).await.ok()?,
        }
        None
    }
}

/// The first byte, which stays to be read; 1 at the end.
async fn peek(stream: &UnixStream) -> io::Result<u8> {
    let mut first = [1];
    let peeking = || rustix::net::recv(stream, &mut first, rustix::net::RecvFlags::PEEK).map(drop).map_err(io::Error::from);
    stream.async_io(Interest::READABLE, peeking).await?;
    Ok(first[0])
}

/// Serves sessions until the node stops; each then ends with the request that it is at.
pub async fn serve(listener: Listener, node: Arc<Node>) {
    let router = super::router(Arc::clone(&node));
    loop {
        // No room: the next one waits in the system's queue, not here.
        let permit = tokio::select! {
            permit = Arc::clone(&node.session_room).acquire_owned() => permit,
            () = node.stopping.cancelled() => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => stream,
                Err(_) => { tokio::time::sleep(PAUSE).await; continue }
            },
            () = node.stopping.cancelled() => break,
        };
        let router = router.clone();
        let session = Arc::clone(&node);
        node.sessions.spawn(async move {
            let own = tokio::select! {
                own = stream.own(&session) => own,
                () = session.stopping.cancelled() => None,
            };
            if let Some(stream) = own {
                self::session(stream, router, &session).await;
            }
            drop(permit);
        });
    }
}

async fn session(stream: Box<dyn Stream>, router: Router, node: &Node) {
    let limits = &node.config().limits;
    let (head, idle) = (limits.head.duration(), idle(node));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(HEAD_BYTES_MAX);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(SEND_BYTES_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32);
    let activity = Arc::new(Activity::new());
    let asked = Arc::clone(&activity);
    let service = hyper::service::service_fn(move |request| Arc::clone(&asked).answer(router.clone(), request));
    let stream = Counting { stream, activity: Arc::clone(&activity) };
    let connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        // A peer that neither asks nor reads holds nothing, whatever else it sends.
        () = activity.over(head, idle) => return,
        () = node.stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = activity.over(head, idle) => {}
    }
}

/// What a session does for its requests. Bytes that are for none, such as h2's PING, do not count.
#[derive(Debug)]
struct Activity {
    born: Instant,
    /// Requests of which the answer is not through.
    requests: AtomicUsize,
    /// When something was last done for one, in milliseconds since `born`.
    last_ms: AtomicU64,
    /// Bytes of answers handed to what writes them, and bytes written: what is between is on its way to a client that reads slowly. Written ones
    /// are more by heads and frames, so the two are made equal when the first of several requests comes.
    given: AtomicU64,
    written: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            born: Instant::now(),
            requests: AtomicUsize::new(0),
            last_ms: AtomicU64::new(0),
            given: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    fn beat(&self) {
        self.last_ms.store(u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Answers a request, counting it until its answer is written or dropped.
    async fn answer(self: Arc<Self>, router: Router, request: Request<Incoming>) -> Result<Response, Infallible> {
        if self.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            self.given.fetch_max(self.written.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.beat();
        let counted = Counted(Arc::clone(&self));
        let sent = Arc::clone(&self);
        let request = request.map(|body| Body::new(Beating { activity: sent, body, _counted: None }));
        let response = TowerToHyperService::new(router).call(request).await?;
        Ok(response.map(|body| Body::new(Beating { activity: self, body, _counted: Some(counted) })))
    }

    /// Is something of an answer given and not written?
    fn owes(&self) -> bool {
        self.written.load(Ordering::Relaxed) < self.given.load(Ordering::Relaxed)
    }

    /// Waits until there is no request for as long as a head may take, or nothing is done for one for as long as it may be idle.
    async fn over(&self, head: Duration, idle: Duration) {
        loop {
            let is_over = self.requests.load(Ordering::Relaxed) == 0 && !self.owes();
            let longest = if is_over { head } else { idle };
            let end = self.born + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + longest;
            if end <= Instant::now() {
                return;
            }
            // Not until the end itself: the bound is another as soon as a request comes or goes.
            sleep_until(end.min(Instant::now() + head)).await;
        }
    }
}

/// A body that says when it is asked for, and when it is through.
struct Beating<B> {
    activity: Arc<Activity>,
    body: B,
    _counted: Option<Counted>,
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for Beating<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.activity.beat();
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let (Some(_), Poll::Ready(Some(Ok(frame)))) = (&self._counted, &polled) {
            self.activity.given.fetch_add(frame.data_ref().map_or(0, |data| data.len() as u64), Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// One request that is not through.
struct Counted(Arc<Activity>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.beat();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that says when something of an answer is written: a client that reads slowly is not idle.
struct Counting {
    stream: Box<dyn Stream>,
    activity: Arc<Activity>,
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            if self.activity.owes() {
                self.activity.beat();
            }
            self.activity.written.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What the operator asks on a socket of their own.
pub async fn operator(listener: UnixListener, node: Arc<Node>) -> io::Result<()> {
    let router = Router::new().route("/status", get(async |State(node): State<Arc<Node>>| -> Json<NodeStatus> { Json(node.status()) }));
    axum::serve(listener, router.with_state(node)).await
}
