//! Requests to the daemons and to Consul, over TCP or a Unix socket, one connection each.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use crate::{authority::Authority, wait::DEADLINE};

/// The address of a server.
#[derive(Clone, Debug)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address, over TLS.
    Tls {
        /// Who is asked.
        server: SocketAddr,
        /// The certificate of the authority that signed for it.
        ca: PathBuf,
    },
    /// A TCP address, asked from another address of this machine.
    From {
        /// Who asks.
        source: IpAddr,
        /// Who is asked.
        server: SocketAddr,
    },
    /// Any of these, asked with a token.
    With {
        /// The address.
        address: Box<Address>,
        /// The token.
        token: String,
    },
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Parses the body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }
}

impl Address {
    /// Returns the address of a server that speaks TLS where it has an authority.
    pub fn of(server: SocketAddr, authority: Option<&Authority>) -> Self {
        match authority {
            Some(authority) => Address::Tls { server, ca: authority.certificate() },
            None => Address::Tcp(server),
        }
    }

    /// Returns the same address, asked with a token.
    #[must_use]
    pub fn with(self, token: &str) -> Self {
        Address::With { address: Box::new(self), token: token.to_owned() }
    }

    fn host(&self) -> String {
        match self {
            Address::Tcp(address) | Address::From { server: address, .. } | Address::Tls { server: address, .. } => {
                address.to_string()
            }
            Address::Unix(_) => "localhost".to_owned(),
            Address::With { address, .. } => address.host(),
        }
    }

    /// Requests a path.
    pub fn get(&self, path: &str) -> Result<Answer, String> {
        self.request(Method::GET, path, &[], Bytes::new())
    }

    /// Requests a path and expects success with JSON.
    pub fn get_json(&self, path: &str) -> Result<Value, String> {
        let answer = self.get(path)?;
        if answer.status.is_success() {
            Ok(answer.json())
        } else {
            Err(format!("{}: {}", answer.status, answer.text()))
        }
    }

    /// Sends any request. An error is text, for [`crate::wait::eventually`] and for people.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, String> {
        self.request_within(DEADLINE, method, path, headers, body)
    }

    /// Sends any request, whose answer may take so long.
    pub fn request_within(
        &self,
        deadline: Duration,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, String> {
        let request = self.build(method, path, headers, body.into());
        runtime().block_on(async {
            let answer = async {
                let (parts, body) = self.send(request).await?.into_parts();
                let body = body.collect().await.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes();
                Ok(Answer { status: parts.status, headers: parts.headers, body })
            };
            tokio::time::timeout(deadline, answer)
                .await
                .unwrap_or_else(|_| Err(format!("{path} was not answered within {deadline:?}")))
        })
    }

    /// Sends any request, and returns the status alone: the rest of the answer may never end.
    pub fn status(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<StatusCode, String> {
        let request = self.build(method, path, headers, body.into());
        runtime().block_on(async {
            let answer = tokio::time::timeout(DEADLINE, self.send(request)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("{path} was not answered within {DEADLINE:?}")));
            answer.map(|answer| answer.status())
        })
    }

    /// Follows a stream of server-sent events.
    pub fn events(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        let request = self.build(Method::GET, path, headers, Bytes::new());
        let (address, (sender, received)) = (self.clone(), channel());
        thread::spawn(move || {
            runtime().block_on(async {
                let Ok(mut body) = address.send(request).await.map(Response::into_body) else { return };
                let mut pending = String::new();
                while let Some(Ok(frame)) = body.frame().await {
                    let Ok(data) = frame.into_data() else { continue };
                    pending.push_str(&String::from_utf8_lossy(&data));
                    while let Some((event, rest)) = pending.split_once("\n\n") {
                        let field = |name: &str| {
                            let line = event.lines().find_map(|line| line.strip_prefix(name));
                            line.map(|value| value.trim_start().to_owned()).unwrap_or_default()
                        };
                        let event = Event { name: field("event:"), id: field("id:"), data: field("data:") };
                        if sender.send(event).is_err() {
                            return;
                        }
                        pending = rest.to_owned();
                    }
                }
            });
        });
        Events { received }
    }

    fn build(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", self.host());
        }
        if let Address::With { token, .. } = self {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::new(body)).expect("the test's request is well formed")
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        let words = |error: &dyn std::fmt::Display| format!("no answer from {self:?}: {error}");
        let stream = match self {
            Address::Tcp(address) => TcpStream::connect(address).await.map(|tcp| Either::Left(Either::Left(tcp))),
            Address::Unix(path) => UnixStream::connect(path).await.map(|unix| Either::Left(Either::Right(unix))),
            Address::From { source, server } => {
                connect_from(*source, *server).await.map(|tcp| Either::Left(Either::Left(tcp)))
            }
            Address::Tls { server, ca } => connect_over_tls(*server, ca).await.map(Either::Right),
            Address::With { address, .. } => return Box::pin(address.send(request)).await,
        };
        let stream = TokioIo::new(stream.map_err(|error| words(&error))?);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| words(&error))?;
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| words(&error))
    }
}

/// Connects, and shakes hands.
pub async fn connect_over_tls(server: SocketAddr, ca: &Path) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("the authority is there") {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("the provider has suites for them");
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(server).await?;
    TlsConnector::from(Arc::new(config)).connect(server.ip().into(), tcp).await
}

/// Connects from this address of this machine.
pub async fn connect_from(source: IpAddr, server: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source, 0))?;
    // A reader that takes little takes little at once.
    socket.set_recv_buffer_size(16 << 10)?;
    socket.connect(server).await
}

/// One server-sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `event:`
    pub name: String,
    /// `id:`; empty if absent.
    pub id: String,
    /// `data:`
    pub data: String,
}

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    received: Receiver<Event>,
}

impl Events {
    /// Waits for the next event that is no heartbeat, and says neither who may ask nor the time.
    pub fn next(&self) -> Event {
        self.next_within(DEADLINE).unwrap_or_else(|| panic!("no event came, or the stream ended"))
    }

    /// Waits for the same for some time.
    pub fn next_within(&self, wait: Duration) -> Option<Event> {
        loop {
            let event = self.received.recv_timeout(wait).ok()?;
            let is_comment = event.name.is_empty() && event.data.is_empty();
            if !is_comment && !matches!(event.name.as_str(), "heartbeat" | "access" | "freshness") {
                return Some(event);
            }
        }
    }

    /// Tells whether a heartbeat comes in some time.
    pub fn beat_within(&self, wait: Duration) -> bool {
        let start = Instant::now();
        while let Ok(event) = self.received.recv_timeout(wait.saturating_sub(start.elapsed())) {
            if event.name == "heartbeat" {
                return true;
            }
        }
        false
    }

    /// Waits until the stream ends, and tells whether it did within some time.
    pub fn end_within(&self, wait: Duration) -> bool {
        let start = Instant::now();
        loop {
            match self.received.recv_timeout(wait.saturating_sub(start.elapsed())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }

    /// Waits for the next event of a name, and ignores others.
    pub fn next_named(&self, name: &str) -> Event {
        loop {
            let event = self.received.recv_timeout(DEADLINE);
            let event = event.unwrap_or_else(|_| panic!("no event {name} came, or the stream ended"));
            if event.name == name {
                return event;
            }
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
}
