//! Over real sockets, byte by byte where it matters.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
    time::Instant,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use warp::Filter;

use crate::{
    daemon::Metrics,
    http::{
        events::with_heartbeat,
        listener::{ListenerLimits, serve_with, way_out},
        *,
    },
    tls::{Certificates, ListenFlags, ServerTls},
};

/// A server that runs for one test.
struct Server {
    address: Option<SocketAddr>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(routes: Routes) -> Self {
        let listener = bind_tcp(([127, 0, 0, 1], 0).into(), Gate::new(&[])).await.unwrap();
        Self::on(listener, routes, ListenerLimits::default())
    }

    fn on(listener: Listener, routes: Routes, limits: ListenerLimits) -> Self {
        let address = listener.address();
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve_with(listener, routes, Spools::new(&std::env::temp_dir()), stop.clone(), limits));
        Self { address, stop, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address.unwrap()).await.unwrap()
    }

    /// Sends `request` on a connection of its own and reads until the server closes it.
    async fn exchange(&self, request: &str) -> String {
        let mut connection = self.connect().await;
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        parse(&self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await)
    }
}

fn parse(answer: &str) -> (u16, Value) {
    let status = answer.split(' ').nth(1).unwrap_or_default().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
}

/// Echoes a body of at most ten bytes, and the sender.
fn echo() -> Routes {
    warp::path!("echo")
        .and(warp::post())
        .and(request())
        .then(|request: Request| async move {
            let peer = format!("{:?}", request.peer);
            match request.body.bytes(10).await {
                Ok(bytes) => json(StatusCode::OK, &json!({"body": String::from_utf8_lossy(&bytes), "peer": peer})),
                Err(refusal) => refusal,
            }
        })
        .boxed()
}

async fn read_until(connection: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(end) {
        let mut chunk = [0; 1024];
        let length = connection.read(&mut chunk).await.unwrap();
        assert_ne!(length, 0, "closed after {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn requests_that_no_route_takes_are_refused_in_words() {
    let server = Server::start(echo()).await;
    assert_eq!(server.get("/nothing").await, (404, json!({"error": "there is nothing at this path"})));
    assert_eq!(server.get("/echo").await, (405, json!({"error": "this path does not take this method"})));
}

#[tokio::test]
async fn a_route_that_nobody_has_described_answers_nobody() {
    let forgotten = warp::path!("forgotten").and(warp::get()).map(|| text(StatusCode::OK, "here")).boxed();
    let routes = echo().or(forgotten).unify().boxed();
    let document = r#"{"paths": {
        "/api/v1/openapi.json": {"get": {"x-conf-verb": "read"}},
        "/echo": {"post": {"x-conf-verb": "push"}}
    }}"#;
    let server = Server::start(described(document, routes)).await;
    assert_eq!(server.get("/forgotten").await, (404, json!({"error": "there is nothing at this path"})));
    assert_eq!(server.get("/api/v1/openapi.json").await, (200, serde_json::from_str(document).unwrap()));
    let answer = server.exchange("GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("\r\nallow: POST\r\n"), "{answer}");
    let request = "POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab";
    assert_eq!(parse(&server.exchange(request).await).0, 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_with_and_without_a_length() {
    let server = Server::start(echo()).await;
    let post = |headers: &str, body: &str| {
        format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n\r\n{body}")
    };
    let (status, answer) = parse(&server.exchange(&post("Content-Length: 10", "0123456789")).await);
    assert_eq!((status, &answer["body"]), (200, &json!("0123456789")));
    let refused = json!({"error": "the request's body is larger than the 10 bytes that are allowed here"});
    assert_eq!(parse(&server.exchange(&post("Content-Length: 11", "01234567890")).await), (413, refused.clone()));
    let chunked = "6\r\n012345\r\n6\r\n678901\r\n0\r\n\r\n";
    assert_eq!(parse(&server.exchange(&post("Transfer-Encoding: chunked", chunked)).await), (413, refused));
}

#[tokio::test]
async fn an_address_that_cannot_be_taken_says_what_to_do() {
    let taken = bind_tcp(([127, 0, 0, 1], 0).into(), Gate::new(&[])).await.unwrap();
    let words = bind_tcp(taken.address().unwrap(), Gate::new(&[])).await.unwrap_err().to_string();
    assert!(words.contains("another program listens there: stop it, or take another address"), "{words}");
    // TEST-NET-3 of RFC 5737 is no machine's.
    let words = bind_tcp(([203, 0, 113, 1], 0).into(), Gate::new(&[])).await.unwrap_err().to_string();
    assert!(words.contains("this machine does not have the address"), "{words}");
    let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let words = way_out(&denied, ([127, 0, 0, 1], 80).into());
    assert!(words.contains("from 1024 on") && words.contains("CAP_NET_BIND_SERVICE"), "{words}");
    assert_eq!(way_out(&denied, ([127, 0, 0, 1], 8080).into()), "");
}

#[tokio::test]
async fn a_slow_or_idle_client_is_let_go() {
    let listener = bind_tcp(([127, 0, 0, 1], 0).into(), Gate::new(&[])).await.unwrap();
    let limits = ListenerLimits { header_timeout: Duration::from_millis(100), ..ListenerLimits::default() };
    let server = Server::on(listener, echo(), limits);
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    slow.write_all(b"GET /echo HTT").await.unwrap();
    for connection in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), connection.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection is still open");
    }
}

/// A listener that speaks TLS, and what its clients trust.
fn over_tls(limits: ListenerLimits) -> (impl Future<Output = Server>, ClientConfig) {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("crt"), certificate.pem()).unwrap();
    std::fs::write(path("key"), key.serialize_pem()).unwrap();
    let flags = ListenFlags { tls_cert: Some(path("crt")), tls_key: Some(path("key")), ..ListenFlags::default() };
    let tls = ServerTls::load(&flags, &Certificates::default()).unwrap();
    let server = async move {
        let listener = bind_tcp(([127, 0, 0, 1], 0).into(), Gate::new(&[])).await.unwrap().over(tls);
        assert_eq!(listener.scheme(), "https");
        Server::on(listener, echo(), limits)
    };
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    (server, builder.with_root_certificates(roots).with_no_client_auth())
}

async fn get_over_tls(server: &Server, trusted: &ClientConfig) -> String {
    let connector = TlsConnector::from(Arc::new(trusted.clone()));
    let name = server.address.unwrap().ip().into();
    let mut connection = connector.connect(name, server.connect().await).await.unwrap();
    let request = "GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_handshake_that_never_ends_holds_no_slot() {
    let handshake_timeout = Duration::from_millis(200);
    // Half of them is one peer's.
    let (server, trusted) = over_tls(ListenerLimits { connections: 4, handshake_timeout, ..ListenerLimits::default() });
    let server = server.await;
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    // A record of a handshake, of which the rest never comes.
    slow.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    let mut third = server.connect().await;
    for connection in [&mut third, &mut silent, &mut slow] {
        let ended = tokio::time::timeout(Duration::from_secs(60), connection.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the connection is still open");
    }
    assert!(get_over_tls(&server, &trusted).await.contains("at this path"));

    // At the stop nobody waits for one.
    let (server, _) = over_tls(ListenerLimits { stop_timeout: Duration::from_secs(60), ..ListenerLimits::default() });
    let server = server.await;
    let _silent = server.connect().await;
    let _slow = server.connect().await;
    server.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn plain_http_on_a_port_with_tls_is_told_what_to_write() {
    let (server, trusted) = over_tls(ListenerLimits::default());
    let server = server.await;
    let (status, body) = server.get("/nothing").await;
    assert_eq!(status, 400);
    assert_eq!(body["error"], "this port speaks TLS: write https:// in place of http:// into the URL");
    // The other way round the client is told nothing that it understands, and is let go.
    let plain = Server::start(echo()).await;
    let connector = TlsConnector::from(Arc::new(trusted.clone()));
    let name = plain.address.unwrap().ip().into();
    let refused = connector.connect(name, plain.connect().await).await.unwrap_err();
    let words = crate::tls::words(&refused, "--ca").unwrap();
    assert!(words.starts_with("there is no TLS on this port: write http:// in place of https://"), "{words}");
    assert!(get_over_tls(&server, &trusted).await.contains("at this path"));
}

#[tokio::test]
async fn more_connections_than_allowed_wait_their_turn() {
    let listener = bind_tcp(([127, 0, 0, 1], 0).into(), Gate::new(&[])).await.unwrap();
    let server = Server::on(listener, echo(), ListenerLimits { connections: 1, ..ListenerLimits::default() });
    let mut first = server.connect().await;
    first.write_all(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut first, "at this path").await;
    let mut second = server.connect().await;
    second.write_all(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(200), second.readable()).await;
    assert!(waited.is_err(), "the second connection was served beside the first");
    drop(first);
    read_until(&mut second, "at this path").await;
}

#[tokio::test]
async fn a_stop_lets_a_request_finish_and_ends_events_at_once() {
    let ongoing = warp::path!("events")
        .and(warp::get())
        .map(|| {
            let first = futures_util::stream::iter([Event::json("first", Some("7".into()), &json!({"a": 1}))]);
            events(first.chain(futures_util::stream::pending()))
        })
        .boxed();
    let listener = bind_tcp(([127, 0, 0, 1], 0).into(), Gate::new(&[])).await.unwrap();
    let stop_timeout = Duration::from_secs(60);
    let limits = ListenerLimits { stop_timeout, ..ListenerLimits::default() };
    let server = Server::on(listener, ongoing.or(echo()).unify().boxed(), limits);
    let mut reader = server.connect().await;
    reader.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let begin = read_until(&mut reader, "\n\n\r\n").await;
    assert!(begin.contains("event: first\nid: 7\ndata: {\"a\":1}\n\n"), "{begin:?}");
    let mut sender = server.connect().await;
    sender
        .write_all(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut sender, "100 Continue").await;

    let stopped_at = Instant::now();
    server.stop.cancel();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the events did not end cleanly: {rest:?}");
    sender.write_all(b"done").await.unwrap();
    let mut answer = String::new();
    sender.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("\"body\":\"done\""), "{answer:?}");
    server.task.await.unwrap();
    assert!(stopped_at.elapsed() < stop_timeout, "took {:?}", stopped_at.elapsed());
    assert!(TcpStream::connect(server.address.unwrap()).await.is_err(), "still listening");
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_at_the_bound() {
    let hangs = warp::path!("hangs").and(warp::get()).then(std::future::pending::<Response>).boxed();
    let asked = std::sync::Arc::new(tokio::sync::Notify::new());
    let tell = asked.clone();
    let hangs = warp::any().map(move || tell.notify_one()).untuple_one().and(hangs).boxed();
    let listener = bind_tcp(([127, 0, 0, 1], 0).into(), Gate::new(&[])).await.unwrap();
    let limits = ListenerLimits { stop_timeout: Duration::from_millis(100), ..ListenerLimits::default() };
    let server = Server::on(listener, hangs, limits);
    let mut connection = server.connect().await;
    connection.write_all(b"GET /hangs HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    asked.notified().await;
    server.stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), server.task).await.expect("the server did not stop").unwrap();
    let mut rest = Vec::new();
    let _ = connection.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn an_error_in_a_body_tears_the_connection_down() {
    let breaks = |last: Option<io::Error>| {
        let chunks = [Ok(Bytes::from_static(b"half"))].into_iter().chain(last.map(Err));
        stream(StatusCode::OK, "text/plain", futures_util::stream::iter(chunks.collect::<Vec<_>>()))
    };
    let whole = warp::path!("whole").and(warp::get()).map(move || breaks(None)).boxed();
    let broken = warp::path!("broken").and(warp::get()).map(move || breaks(Some(io::Error::other("died")))).boxed();
    let server = Server::start(whole.or(broken).unify().boxed()).await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let whole = server.exchange(&ask("/whole")).await;
    assert!(whole.ends_with("4\r\nhalf\r\n0\r\n\r\n"), "{whole:?}");
    let broken = server.exchange(&ask("/broken")).await;
    assert!(!broken.ends_with("0\r\n\r\n"), "the end of the body was sent: {broken:?}");
}

#[tokio::test]
async fn a_silent_stream_of_events_has_heartbeats() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Event>(1);
    let events = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|event| (event, receiver))
    });
    let silence = Duration::from_millis(30);
    let mut encoded = std::pin::pin!(with_heartbeat(events, silence));
    let beat = "event: heartbeat\ndata: {\"period\":0.03}\n\n";
    assert_eq!(encoded.next().await.unwrap().unwrap(), beat, "a reader learns the period at once");
    let before = Instant::now();
    assert_eq!(encoded.next().await.unwrap().unwrap(), beat);
    assert!(before.elapsed() >= silence);
    sender.send(Event { event: "x".into(), id: None, data: "1\n2".into() }).await.unwrap();
    assert_eq!(encoded.next().await.unwrap().unwrap(), "event: x\ndata: 1\ndata: 2\n\n");
    drop(sender);
    assert!(encoded.next().await.is_none());
}

#[tokio::test]
async fn over_a_unix_socket_the_kernel_names_the_peer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/conf.sock");
    let server = Server::on(bind_unix(&path, 0o600).await.unwrap(), echo(), ListenerLimits::default());
    let answer = ask_unix(&path).await;
    let me = format!("Unix {{ uid: {}, pid: Some({}) }}", rustix::process::getuid().as_raw(), std::process::id());
    assert_eq!(answer["peer"], me);

    let refused = bind_unix(&path, 0o600).await.unwrap_err().to_string();
    assert!(refused.contains("another process answers on it"), "{refused}");
    server.stop.cancel();
    server.task.await.unwrap();
    let again = Server::on(bind_unix(&path, 0o600).await.unwrap(), echo(), ListenerLimits::default());
    assert_eq!(ask_unix(&path).await["peer"], me);
    again.stop.cancel();
}

async fn ask_unix(path: &Path) -> Value {
    let mut connection = UnixStream::connect(path).await.unwrap();
    let request = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    connection.write_all(request).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    parse(&answer).1
}

#[tokio::test]
async fn health_says_alive_ready_and_the_metrics() {
    let metrics = Metrics::new("conf-test", "1.2.3");
    let landings = metrics.counter("conf_landings", "Changes landed");
    let health = Health::new(metrics);
    let server = Server::start(health_routes(health.clone())).await;
    assert_eq!(server.get("/healthz").await.0, 200);
    assert_eq!(server.get("/readyz").await, (503, json!({"error": "starting"})));
    health.set_ready();
    assert_eq!(server.get("/readyz").await.0, 200);
    health.set_unready("the central repository is away");
    assert_eq!(server.get("/readyz").await, (503, json!({"error": "the central repository is away"})));
    landings.inc();
    let (status, text) = server.get("/metrics").await;
    let text = text.as_str().unwrap();
    assert_eq!(status, 200);
    assert!(text.contains("conf_landings_total 1"), "{text}");
    assert!(text.contains("program=\"conf-test\",version=\"1.2.3\""), "{text}");
}
