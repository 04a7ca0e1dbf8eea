//! The accept loop: from a listening socket to [`Routes`], with bounds on everything and a graceful
//! stop.
//!
//! HTTP/1.1 alone: hyper-util's automatic choice of a version waits without a bound for the first
//! bytes.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::{rt::TokioTimer, server::graceful::GracefulShutdown, service::TowerToHyperService};
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use warp::{Filter as _, Reply};

use crate::daemon::make_folder;
use crate::http::{
    answer::Routes,
    connection::{Connection, Patience},
    gate::Gate,
    handshake::{HANDSHAKE, Incoming},
    health::no_files_left,
    peer::Peer,
    server::Server,
    shares::{Share, Shares},
    spool::Spools,
    unrouted::refuse,
};
use crate::tls::ServerTls;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// On a network address, for whom the gate lets in; over TLS where there is one.
    Tcp(TcpListener, Gate, Option<ServerTls>),
    /// On a path in the file system.
    Unix(UnixListener),
}

impl Listener {
    /// What keeps web pages out; a browser reaches no Unix socket.
    fn gate(&self) -> Option<Gate> {
        match self {
            Listener::Tcp(_, gate, _) => Some(gate.clone()),
            Listener::Unix(_) => None,
        }
    }

    /// The same, over TLS where there is one. A Unix socket stays as it is.
    #[must_use]
    pub fn over(self, tls: Option<ServerTls>) -> Self {
        match self {
            Listener::Tcp(listener, gate, _) => Listener::Tcp(listener, gate, tls),
            unix @ Listener::Unix(_) => unix,
        }
    }

    /// The beginning of its URLs: `http`, or over TLS `https`.
    pub fn scheme(&self) -> &'static str {
        if matches!(self, Listener::Tcp(.., Some(_))) { "https" } else { "http" }
    }

    /// The address, with the port that the system chose for port 0; `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener, ..) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// Listens on a network address. An error says what to do.
pub async fn bind_tcp(address: SocketAddr, gate: Gate) -> io::Result<Listener> {
    TcpListener::bind(address).await.map(|listener| Listener::Tcp(listener, gate, None)).map_err(|cause| {
        let step = way_out(&cause, address);
        io::Error::new(cause.kind(), format!("cannot listen on {address}: {cause}{step}"))
    })
}

/// What a person can do about an address that cannot be taken.
pub(crate) fn way_out(cause: &io::Error, address: SocketAddr) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "; ports below 1024 are for root: take a port from 1024 on with --listen, or write \
             AmbientCapabilities=CAP_NET_BIND_SERVICE into the [Service] of the unit"
        }
        io::ErrorKind::AddrInUse => "; another program listens there: stop it, or take another address with --listen",
        io::ErrorKind::AddrNotAvailable => {
            "; this machine does not have the address: 127.0.0.1 is for programs of this machine, 0.0.0.0 for everybody"
        }
        _ => "",
    }
}

/// Listens on a Unix socket with these permissions. A file that a dead process left is replaced; if
/// a process still answers on it, that is an error.
pub async fn bind_unix(path: &Path, mode: u32) -> io::Result<Listener> {
    let explain = |cause: io::Error| {
        // Of a path that is too long the kernel hears nothing.
        let is_long = cause.kind() == io::ErrorKind::InvalidInput;
        let step = if is_long { "; a socket's path may have 107 bytes: take a folder with a shorter one" } else { "" };
        io::Error::new(cause.kind(), format!("cannot listen on the socket {}: {cause}{step}", path.display()))
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

/// The most connections at once, where the limit of open files allows them.
const MOST_CONNECTIONS: usize = 20_000;
/// How long a client is waited for, and served, that comes in on the last file descriptor.
const LAST_ONE: Duration = Duration::from_secs(1);
/// The pause after a connection could not be accepted, because no descriptor is left.
const PAUSE: Duration = Duration::from_millis(100);
/// The pause after a connection could not be accepted for another reason: an error that stays must
/// not keep a processor busy.
const BREATH: Duration = Duration::from_millis(1);

/// The connections that a daemon holds at once. Every host of a large datacenter holds one or two
/// to its cache. A quarter of the files is left for the work that connections ask for.
pub(crate) fn most_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    files.map_or(MOST_CONNECTIONS, |files| MOST_CONNECTIONS.min(files / 4 * 3).max(1))
}

/// 128 KiB: the longest head of a request, and what of an answer waits in memory for its reader.
const BUFFER: usize = 128 << 10;

/// Bounds of the accept loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerLimits {
    /// Connections at once; more wait in the system's backlog.
    pub connections: usize,
    /// How long a handshake of TLS may take.
    pub handshake_timeout: Duration,
    /// How long a client may take to send the head of a request, and how long an idle connection is
    /// kept.
    pub header_timeout: Duration,
    /// How long requests in progress may go on after the stop.
    pub stop_timeout: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: most_connections(),
            handshake_timeout: HANDSHAKE,
            header_timeout: Duration::from_secs(30),
            // SIGTERM promises an end within 5 s; this leaves 2 s for the rest.
            stop_timeout: Duration::from_secs(3),
        }
    }
}

/// Serves `routes` until `stop`, then finishes the requests in progress, for at most three seconds.
/// Server-sent events end at once, so that their readers connect to the next server.
pub async fn serve(listener: Listener, routes: Routes, stop: CancellationToken) {
    serve_spooling(listener, routes, Spools::new(&std::env::temp_dir()), stop).await;
}

/// Like [`serve`], with this room for bodies.
pub async fn serve_spooling(listener: Listener, routes: Routes, spools: Spools, stop: CancellationToken) {
    serve_with(listener, routes, spools, stop, ListenerLimits::default()).await;
}

/// Like [`serve`], with other bounds.
pub(crate) async fn serve_with(
    listener: Listener,
    routes: Routes,
    spools: Spools,
    stop: CancellationToken,
    limits: ListenerLimits,
) {
    let routes = warp::service(routes.recover(refuse).map(Reply::into_response).boxed());
    let (routes, handshake) = (TowerToHyperService::new(routes), limits.handshake_timeout);
    let server = Server { gate: listener.gate(), routes, spools, stop: stop.clone(), handshake };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(BUFFER);
    let mut once = builder.clone();
    once.keep_alive(false).header_read_timeout(PAUSE);
    let (graceful, mut connections, mut spare) = (GracefulShutdown::new(), JoinSet::new(), Spare::new());
    let (mut slots, mut of_peers) = (Slots::new(limits.connections), OfPeers::new(limits.connections));
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &mut slots) => accepted,
        };
        let (io, peer, patience, slot) = match accepted {
            Ok(accepted) => {
                spare.is_back();
                accepted
            }
            Err(cause) if !is_out_of_descriptors(&cause) => {
                // It is the client's: it went away before it was accepted, or its network did.
                tracing::debug!(%cause, "a connection could not be accepted");
                tokio::time::sleep(BREATH).await;
                continue;
            }
            Err(cause) => {
                spare.give_up(&cause);
                // One client at a time still comes in, and learns what is wrong.
                match tokio::time::timeout(PAUSE, accept(&listener, &mut slots)).await {
                    Ok(Ok((io, peer, patience, _slot))) => {
                        let server = Server { handshake: PAUSE, ..server.clone() };
                        let serving = server.serve(&once, graceful.watcher(), io, (peer, patience));
                        let _ = tokio::time::timeout(LAST_ONE, serving).await;
                    }
                    _ => tokio::time::sleep(PAUSE).await,
                }
                spare.take_back();
                continue;
            }
        };
        // One more of a peer that has half of them is closed.
        let Some(place) = of_peers.take(peer) else { continue };
        let serving = server.clone().serve(&builder, graceful.watcher(), io, (peer, patience));
        connections.spawn(async move {
            serving.await;
            drop((slot, place));
        });
    }
    drop(listener);
    // Requests that are not done in time are dropped with `connections`.
    let _ = tokio::time::timeout(limits.stop_timeout, graceful.shutdown()).await;
    connections.shutdown().await;
}

/// A file descriptor that is kept for the moment when no other is left.
struct Spare {
    file: Option<File>,
    /// The log has a line about connections that could not be accepted.
    is_told: bool,
}

impl Spare {
    fn new() -> Self {
        let mut spare = Spare { file: None, is_told: false };
        spare.take_back();
        spare
    }

    fn take_back(&mut self) {
        if self.file.is_none() {
            self.file = File::open("/dev/null").ok();
        }
    }

    fn give_up(&mut self, cause: &io::Error) {
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::error!(%cause, "cannot accept connections; one at a time is let in until that is over");
        }
        self.file = None;
    }

    fn is_back(&mut self) {
        // One that got in among many is no end of it.
        if self.is_told && no_files_left().is_none() {
            self.is_told = false;
            tracing::info!("connections are accepted again");
        }
        self.take_back();
    }
}

/// Tells whether a connection was not accepted because this process or this machine can hold no
/// more. Source: accept(2), "ERRORS".
fn is_out_of_descriptors(cause: &io::Error) -> bool {
    let of_limits = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(cause).is_some_and(|cause| of_limits.contains(&cause))
}

/// The connections that may be open at once.
struct Slots {
    free: Arc<Semaphore>,
    most: usize,
    /// The log has a line about clients that wait.
    is_told: bool,
}

impl Slots {
    fn new(most: usize) -> Self {
        Slots { free: Arc::new(Semaphore::new(most)), most, is_told: false }
    }

    /// Waits for a free one. Nobody can ask this daemon meanwhile, so the log says it.
    async fn take(&mut self) -> OwnedSemaphorePermit {
        // A tenth: around the limit the log does not say it again and again.
        if self.free.available_permits() * 10 > self.most && std::mem::replace(&mut self.is_told, false) {
            tracing::info!("connections do not wait any more");
        }
        if let Ok(slot) = self.free.clone().try_acquire_owned() {
            return slot;
        }
        if !std::mem::replace(&mut self.is_told, true) {
            let most = self.most;
            tracing::error!(
                "all {most} connections that this daemon may hold are in use, and others wait, /readyz among them; raise \
                 LimitNOFILE of the service, or see who holds so many"
            );
        }
        self.free.clone().acquire_owned().await.expect("the semaphore is never closed")
    }
}

/// The connections of each peer: half of all at most, so that nobody keeps all others out. A proxy
/// is one peer.
struct OfPeers {
    shares: Shares,
    /// The log has a line about a peer that has too many.
    is_told: bool,
}

impl OfPeers {
    fn new(most: usize) -> Self {
        OfPeers { shares: Shares::halves(most as u64, 0), is_told: false }
    }

    fn take(&mut self, peer: Peer) -> Option<Share> {
        let place = self.shares.try_take(peer.into(), 1);
        if place.is_none() && !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(?peer, "a peer has half of the connections that this daemon may hold; more are closed");
        }
        self.is_told &= self.shares.taken_now() > 1;
        place
    }
}

/// A connection, who made it, how long its reader is waited for, and its slot.
type Accepted = (Incoming, Peer, Patience, OwnedSemaphorePermit);

async fn accept(listener: &Listener, slots: &mut Slots) -> io::Result<Accepted> {
    let (slot, patience) = (slots.take().await, Patience::new());
    match listener {
        Listener::Tcp(listener, _, tls) => {
            let (io, address) = listener.accept().await?;
            let io = Connection::new(io, patience.clone());
            let io = match tls {
                Some(tls) => Incoming::Tls(io, tls.config()),
                None => Incoming::Tcp(io),
            };
            Ok((io, Peer::Tcp(address), patience, slot))
        }
        Listener::Unix(listener) => {
            let (io, _) = listener.accept().await?;
            let peer = io.peer_cred()?;
            Ok((Incoming::Unix(io), Peer::Unix { uid: peer.uid(), pid: peer.pid() }, patience, slot))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_went_away_takes_no_descriptor() {
        for (errno, is_out) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOBUFS, true),
            (Errno::NOMEM, true),
            (Errno::CONNABORTED, false),
            (Errno::PROTO, false),
            (Errno::NETUNREACH, false),
            (Errno::INVAL, false),
        ] {
            assert_eq!(is_out_of_descriptors(&errno.into()), is_out, "{errno}");
        }
        assert!(!is_out_of_descriptors(&io::Error::other("of no system call")));
    }

    #[tokio::test]
    async fn the_log_says_once_that_all_connections_are_in_use() {
        let mut slots = Slots::new(2);
        let (first, second) = (slots.take().await, slots.take().await);
        assert!(!slots.is_told, "nobody waits");
        assert!(tokio::time::timeout(Duration::ZERO, slots.take()).await.is_err(), "there is no third");
        assert!(slots.is_told);
        drop(first);
        let _first = slots.take().await;
        assert!(!slots.is_told, "there was room");
        drop(second);
    }
}
