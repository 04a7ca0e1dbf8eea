//! A connection that is kept open, as a program would keep it.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, runtime::Runtime};

/// A connection with a runtime of its own.
pub(crate) struct Client {
    runtime: Runtime,
    connection: Connection,
}

/// A connection within a runtime.
pub(crate) struct Connection {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Connection {
    /// Opens one.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket takes options");
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("the server speaks HTTP");
        tokio::spawn(connection);
        Connection { address, sender }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&mut self, method: Method, path: &str, body: String) -> Answer {
        self.try_send(method, path, body).await.expect("a whole answer")
    }

    async fn try_send(&mut self, method: Method, path: &str, body: String) -> hyper::Result<Answer> {
        let request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        let request = request.body(Full::new(body.into())).expect("the request is well formed");
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body: body.collect().await?.to_bytes() })
    }
}

impl Client {
    /// Opens one.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let connection = runtime.block_on(Connection::open(address));
        Client { runtime, connection }
    }

    /// Sends a request, reads the whole answer, and expects success.
    pub(crate) fn send(&mut self, method: Method, path: &str, body: String) -> Answer {
        let answer = self.runtime.block_on(self.connection.send(method, path, body));
        assert!(answer.status.is_success(), "{path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
        answer
    }

    /// Asks and reads the whole answer, or returns nothing once the server is gone.
    pub(crate) fn try_send(&mut self, method: Method, path: &str) -> Option<Answer> {
        self.runtime.block_on(self.connection.try_send(method, path, String::new())).ok()
    }
}
