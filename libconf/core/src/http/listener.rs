//! The accept loop: from a listening socket to [`Routes`], with bounds on everything and a graceful
//! stop.
//!
//! HTTP/1.1 alone: hyper-util's automatic choice of a version waits without a bound for the first
//! bytes.

use std::{fs, io, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use warp::{Filter as _, Reply};

use crate::daemon::make_folder;
use crate::http::{
    answer::{Response, Routes, refuse},
    peer::Peer,
};

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// On a network address.
    Tcp(TcpListener),
    /// On a path in the file system.
    Unix(UnixListener),
}

impl Listener {
    /// The address, with the port that the system chose for port 0; `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// Listens on a network address.
pub async fn bind_tcp(address: SocketAddr) -> io::Result<Listener> {
    TcpListener::bind(address)
        .await
        .map(Listener::Tcp)
        .map_err(|cause| io::Error::new(cause.kind(), format!("cannot listen on {address}: {cause}")))
}

/// Listens on a Unix socket with these permissions. A file that a dead process left is replaced; if
/// a process still answers on it, that is an error.
pub async fn bind_unix(path: &Path, mode: u32) -> io::Result<Listener> {
    let explain = |cause: io::Error| {
        io::Error::new(cause.kind(), format!("cannot listen on the socket {}: {cause}", path.display()))
    };
    match tokio::net::UnixStream::connect(path).await {
        Ok(_) => {
            let words = "another process answers on it; stop that one first, or choose another path";
            return Err(explain(io::Error::new(io::ErrorKind::AddrInUse, words)));
        }
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(explain)?,
        Err(_) => {}
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // Whoever may connect must get there, and nobody else may put another socket in its place.
        make_folder(folder, 0o755).map_err(explain)?;
    }
    let listener = UnixListener::bind(path).map_err(explain)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(explain)?;
    Ok(Listener::Unix(listener))
}

/// Bounds of the accept loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerLimits {
    /// Connections at once; more wait in the system's backlog.
    pub connections: usize,
    /// How long a client may take to send the head of a request, and how long an idle connection is
    /// kept.
    pub header_timeout: Duration,
    /// How long requests in progress may go on after the stop.
    pub stop_timeout: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            // Every host of a large datacenter holds one or two connections to its cache.
            connections: 20_000,
            header_timeout: Duration::from_secs(30),
            // SIGTERM promises an end within 5 s; this leaves 2 s for the rest.
            stop_timeout: Duration::from_secs(3),
        }
    }
}

/// Milliseconds that sent bytes may stay unacknowledged; then the reader is gone or stuck.
const STUCK_READER_MILLISECONDS: u32 = 120_000;

/// Serves `routes` until `stop`, then finishes the requests in progress, for at most three seconds.
/// Server-sent events end at once, so that their readers connect to the next server.
pub async fn serve(listener: Listener, routes: Routes, stop: CancellationToken) {
    serve_with(listener, routes, stop, ListenerLimits::default()).await;
}

/// Like [`serve`], with other bounds.
pub(crate) async fn serve_with(listener: Listener, routes: Routes, stop: CancellationToken, limits: ListenerLimits) {
    let service = TowerToHyperService::new(warp::service(routes.recover(refuse).map(Reply::into_response).boxed()));
    let answer = move |mut request: http::Request<Incoming>, peer: Peer, stop: CancellationToken| {
        request.extensions_mut().insert(peer);
        let response = service.call(request);
        async move { response.await.map(|response| end_events_on_stop(response, stop)) }
    };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();

    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (io, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                // Nearly always no file descriptor is left. Waiting lets other connections end.
                tracing::warn!(%cause, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (answer, stop) = (answer.clone(), stop.clone());
        let service = hyper::service::service_fn(move |request| answer(request, peer, stop.clone()));
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(io), service));
        connections.spawn(async move {
            if let Err(cause) = connection.await {
                tracing::debug!(%cause, ?peer, "a connection broke");
            }
            drop(slot);
        });
    }
    drop(listener);
    // Requests that are not done in time are dropped with `connections`.
    let _ = tokio::time::timeout(limits.stop_timeout, graceful.shutdown()).await;
    connections.shutdown().await;
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

async fn accept(
    listener: &Listener,
    slots: &Arc<Semaphore>,
) -> io::Result<(Box<dyn Connection>, Peer, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
    match listener {
        Listener::Tcp(listener) => {
            let (io, address) = listener.accept().await?;
            set_options(&io);
            Ok((Box::new(io), Peer::Tcp(address), slot))
        }
        Listener::Unix(listener) => {
            let (io, _) = listener.accept().await?;
            let peer = io.peer_cred()?;
            Ok((Box::new(io), Peer::Unix { uid: peer.uid(), pid: peer.pid() }, slot))
        }
    }
}

/// Sets options of a connection. Without `TCP_NODELAY` each answer of Git takes 40 to 85 ms more. A
/// failure means that the client is gone already.
fn set_options(io: &TcpStream) {
    let _ = io.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(io, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(io, Duration::from_secs(60));
    let _ = rustix::net::sockopt::set_tcp_user_timeout(io, STUCK_READER_MILLISECONDS);
}

type Outgoing = UnsyncBoxBody<Bytes, warp::Error>;

fn end_events_on_stop(response: Response, stop: CancellationToken) -> http::Response<Outgoing> {
    let is_events = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    if !is_events {
        return response.map(BodyExt::boxed_unsync);
    }
    response.map(|body| {
        let frames = http_body_util::BodyStream::new(body).take_until(stop.cancelled_owned());
        StreamBody::new(frames).boxed_unsync()
    })
}
