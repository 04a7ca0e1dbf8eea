//! From an accepted connection to one that requests come over: with TLS, after its handshake.

use std::{io, sync::Arc, time::Duration};

use http::StatusCode;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::http::{
    answer::{Response, error},
    connection::Connection,
};

/// 10 s: the longest time from the first byte to the end of a handshake, over any network that
/// somebody works over. Until then the peer holds a slot.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
/// 1 s, and 64 KiB: what is read after a failed handshake. A connection that is closed with bytes
/// unread takes the reason along that the client has not read yet.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 << 10;

/// What requests come over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection of which nothing was read yet.
pub(crate) enum Incoming {
    /// HTTP comes over it.
    Tcp(Connection),
    /// TLS comes over it.
    Tls(Connection, Arc<ServerConfig>),
    /// HTTP comes over it, from a process of this machine.
    Unix(UnixStream),
}

/// A connection that requests come over.
pub(crate) struct Opened {
    pub(crate) stream: Box<dyn Stream>,
    /// The client speaks plain HTTP where TLS is spoken, and learns that.
    pub(crate) lacks_tls: bool,
}

impl Incoming {
    /// Shakes hands where there is TLS, for at most `limit`.
    pub(crate) async fn open(self, limit: Duration) -> io::Result<Opened> {
        let plain = |stream| Ok(Opened { stream, lacks_tls: false });
        match self {
            Incoming::Tcp(connection) => plain(Box::new(connection)),
            Incoming::Unix(connection) => plain(Box::new(connection)),
            Incoming::Tls(connection, config) => match timeout(limit, secured(connection, config)).await {
                Ok(opened) => opened,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")),
            },
        }
    }
}

async fn secured(connection: Connection, config: Arc<ServerConfig>) -> io::Result<Opened> {
    // Every method of HTTP is in letters.
    if connection.first_byte().await?.is_ascii_alphabetic() {
        return Ok(Opened { stream: Box::new(connection), lacks_tls: true });
    }
    match TlsAcceptor::from(config).accept(connection).into_fallible().await {
        Ok(stream) => Ok(Opened { stream: Box::new(stream), lacks_tls: false }),
        Err((cause, connection)) => {
            let _ = timeout(LINGER, linger(connection)).await;
            Err(cause)
        }
    }
}

/// Ends this side, and reads what still comes.
async fn linger(mut connection: Connection) -> io::Result<()> {
    connection.shutdown().await?;
    let (mut buffer, mut read) = ([0; 4096], 0);
    while read < LINGER_BYTES {
        match connection.read(&mut buffer).await? {
            0 => break,
            bytes => read += bytes,
        }
    }
    Ok(())
}

/// Refuses a request that came without TLS.
pub(crate) fn lacks_tls() -> Response {
    let mut response =
        error(StatusCode::BAD_REQUEST, "this port speaks TLS: write https:// in place of http:// into the URL");
    response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    response
}
