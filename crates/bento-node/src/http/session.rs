//! Sessions: accepted, counted, bounded, served.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Json, Router, extract::State, routing::get};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::{Instant, Sleep},
};

use crate::node::{Node, NodeStatus};

/// Longest head of a request, in bytes: arguments (16 KiB), a token, two digests, and room for what a browser sends.
const HEAD_BYTES_MAX: usize = 48 * 1024;

/// Most streams of one h2c session. Each can be an invocation.
const STREAMS_MAX: u32 = 32;

/// What a session may be idle beyond an invocation, so that the invocation's own bound comes first and is told.
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
}

/// One accepted stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Box::new(stream)
            }
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Serves sessions until the node stops; each then ends with the request that it is at.
pub async fn serve(listener: Listener, node: Arc<Node>) {
    let limits = node.config().limits.clone();
    let room = Arc::new(Semaphore::new(limits.sessions));
    let router = super::router(Arc::clone(&node));
    loop {
        // No room: the next one waits in the system's queue, not here.
        let permit = tokio::select! {
            permit = Arc::clone(&room).acquire_owned() => permit,
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
        let (head, idle) = (limits.head.duration(), limits.idle.duration() + IDLE_MORE);
        let session = Arc::clone(&node);
        node.sessions.spawn(async move {
            self::session(stream, router, &session, head, idle).await;
            drop(permit);
        });
    }
}

async fn session(stream: Box<dyn Stream>, router: Router, node: &Node, head: Duration, idle: Duration) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(HEAD_BYTES_MAX);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEAD_BYTES_MAX as u32);
    let stream = TokioIo::new(Watched::new(stream, head, idle));
    let connection = server.serve_connection(stream, TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = node.stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// A stream that fails when no byte has passed in either direction for too long: a peer that neither sends nor reads holds nothing.
struct Watched {
    stream: Box<dyn Stream>,
    idle: Duration,
    end: Pin<Box<Sleep>>,
}

impl Watched {
    /// The first byte must come in the time for a head: until there is one, hyper does not know whose deadline to set.
    fn new(stream: Box<dyn Stream>, head: Duration, idle: Duration) -> Self {
        Self { stream, idle, end: Box::pin(tokio::time::sleep(head)) }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.end.as_mut().reset(Instant::now() + self.idle);
            return polled;
        }
        self.end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watch(context, polled)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, polled)
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
