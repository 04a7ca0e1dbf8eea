//! Requests and answers over HTTP: bodies with a limit, JSON, words of refusal, server-sent events, health.
//!
//! warp gives the routes; handlers see only [`Request`] and [`Response`], so that routing stays replaceable. In a route
//! the path comes before the method: a known path with another method is then 405, and an unknown one 404.

pub(crate) mod listener;

use std::{
    convert::Infallible,
    fmt::{self, Write as _},
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use warp::{Filter, Rejection, Reply, filters::BoxedFilter};

use crate::{api::ErrorBody, daemon::Metrics};

pub use crate::http::listener::{Limits, Listener, Peer, bind_tcp, bind_unix, serve, serve_with};

/// An answer.
pub type Response = warp::reply::Response;

/// A group of routes: filters joined by `.or(…).unify().boxed()`.
pub type Routes = BoxedFilter<(Response,)>;

/// A silence of this length in the middle of a request's body ends it. Generous: a pushing client may be silent while
/// it compresses.
const BODY_SILENCE: Duration = Duration::from_secs(300);

/// A stream of events says something this often, so that a broken connection is noticed by both sides.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A request as handlers see it; the path is still percent-encoded.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, with its leading slash.
    pub path: String,
    /// What follows `?`; empty when there is none.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// Who asks.
    pub peer: Peer,
    /// The body, not read yet.
    pub body: Body,
}

impl Request {
    /// A header's value, where it is there and plain text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Extracts the whole request, for handlers of the shape `async fn(Request) -> Response`.
pub fn request() -> BoxedFilter<(Request,)> {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(peer())
        .and(body())
        .map(|method, path: warp::path::FullPath, query, headers, peer, body| Request {
            method,
            path: path.as_str().to_owned(),
            query,
            headers,
            peer,
            body,
        })
        .boxed()
}

/// Extracts who asks.
pub fn peer() -> BoxedFilter<(Peer,)> {
    warp::ext::get::<Peer>().boxed()
}

/// Extracts the body, not read yet.
pub fn body() -> BoxedFilter<(Body,)> {
    warp::body::stream().map(|stream| Body::from_stream(read_whole_chunks(stream))).boxed()
}

fn read_whole_chunks(
    stream: impl Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream.map(|item| match item {
        Ok(mut chunk) => Ok(chunk.copy_to_bytes(chunk.remaining())),
        Err(cause) => Err(io::Error::other(cause)),
    })
}

/// A request's body: a stream of chunks that ends with an error when the sender is silent for five minutes.
pub struct Body(BoxStream<'static, io::Result<Bytes>>);

impl Body {
    /// A body of these chunks.
    pub fn from_stream(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        let bounded = async_stream::stream! {
            let mut stream = std::pin::pin!(stream);
            loop {
                match tokio::time::timeout(BODY_SILENCE, stream.next()).await {
                    Ok(Some(item)) => yield item,
                    Ok(None) => return,
                    Err(_) => {
                        yield Err(io::Error::new(io::ErrorKind::TimedOut, "the sender of the body fell silent"));
                        return;
                    }
                }
            }
        };
        Self(bounded.boxed())
    }

    /// Reads it whole into memory; a longer one than `limit` bytes is answered with 413, a broken one with 400.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, Response> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.0.next().await {
            let chunk = chunk.map_err(|cause| {
                error(StatusCode::BAD_REQUEST, format_args!("the request's body ended early: {cause}"))
            })?;
            if whole.len() + chunk.len() > limit {
                let words = format_args!("the request's body is larger than the {limit} bytes that are allowed here");
                return Err(error(StatusCode::PAYLOAD_TOO_LARGE, words));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Reads it whole as JSON; as [`Body::bytes`], and 400 when it is not of the shape.
    pub async fn json<T: DeserializeOwned>(self, limit: usize) -> Result<T, Response> {
        let bytes = self.bytes(limit).await?;
        serde_json::from_slice(&bytes).map_err(|cause| {
            error(StatusCode::BAD_REQUEST, format_args!("the request's body is not as expected: {cause}"))
        })
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(futures_util::stream::iter([Ok(bytes)]).boxed())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

impl Stream for Body {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

/// Answers with `value` as JSON.
pub fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            bytes_of(status, "application/json", bytes.into())
        }
        Err(cause) => error(StatusCode::INTERNAL_SERVER_ERROR, format_args!("cannot write the answer: {cause}")),
    }
}

/// Answers with plain text.
pub fn text(status: StatusCode, words: impl Into<String>) -> Response {
    bytes_of(status, "text/plain; charset=utf-8", words.into().into())
}

/// Answers with `{"error": words}`: what is wrong and what to do about it, for people.
pub fn error(status: StatusCode, words: impl fmt::Display) -> Response {
    json(status, &ErrorBody { error: words.to_string() })
}

/// Answers with bytes of a type.
pub fn bytes_of(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Response {
    let mut response = http::Response::new(bytes).into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Answers with a body that is made while it is sent. An `Err` in it tears the connection down, so that the reader sees
/// that the body is not whole; a dropped connection drops the stream.
pub fn stream<E>(
    status: StatusCode,
    content_type: &'static str,
    body: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response
where
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let mut response = warp::reply::stream(Shared(Mutex::new(body.boxed()))).into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Makes a stream `Sync`, as warp asks: it is only ever polled through `&mut`, so the lock is never taken.
struct Shared<T>(Mutex<BoxStream<'static, T>>);

impl<T> Stream for Shared<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let stream = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        stream.as_mut().poll_next(context)
    }
}

/// A server-sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is.
    pub event: String,
    /// What a reader that comes back sends as `Last-Event-ID`.
    pub id: Option<String>,
    /// Its content, JSON in one line.
    pub data: String,
}

impl Event {
    /// An event that carries `value` as JSON.
    pub fn json<T: Serialize + ?Sized>(event: &str, id: Option<String>, value: &T) -> Self {
        let data = serde_json::to_string(value).expect("a type of ours has text keys and cannot fail to be written");
        Self { event: event.to_owned(), id, data }
    }

    fn encode(&self) -> Bytes {
        let mut text = String::with_capacity(self.data.len() + 64);
        let _ = writeln!(text, "event: {}", self.event);
        if let Some(id) = &self.id {
            let _ = writeln!(text, "id: {id}");
        }
        for line in self.data.lines() {
            let _ = writeln!(text, "data: {line}");
        }
        text.push('\n');
        text.into()
    }
}

/// Answers with server-sent events, and with an event `heartbeat` after 15 s without one. The answer ends when `events`
/// ends, and when the server stops.
pub fn events(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let mut response = stream(StatusCode::OK, "text/event-stream", with_heartbeat(events, HEARTBEAT));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn with_heartbeat(
    events: impl Stream<Item = Event> + Send,
    silence: Duration,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    async_stream::stream! {
        let mut events = std::pin::pin!(events);
        loop {
            match tokio::time::timeout(silence, events.next()).await {
                Ok(Some(event)) => yield Ok(event.encode()),
                Ok(None) => return,
                Err(_) => yield Ok(Bytes::from_static(b"event: heartbeat\ndata: {}\n\n")),
            }
        }
    }
}

/// Whether this daemon can serve, and why not.
#[derive(Clone, Debug)]
pub struct Health {
    waiting_for: Arc<Mutex<Option<String>>>,
    metrics: Metrics,
}

impl Health {
    /// Not ready yet.
    pub fn new(metrics: Metrics) -> Self {
        Self { waiting_for: Arc::new(Mutex::new(Some("starting".to_owned()))), metrics }
    }

    /// It can serve.
    pub fn set_ready(&self) {
        *self.lock() = None;
    }

    /// It cannot serve, and this is why.
    pub fn set_unready(&self, reason: impl Into<String>) {
        *self.lock() = Some(reason.into());
    }

    /// Why it cannot serve; `None` when it can.
    pub fn reason(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `/healthz`: the process is alive; `/readyz`: 200, or 503 with the reason; `/metrics`: for Prometheus.
pub fn health_routes(health: Health) -> Routes {
    let ready = health.clone();
    let alive = warp::path!("healthz").and(warp::get()).map(|| text(StatusCode::OK, "ok\n"));
    let ready = warp::path!("readyz").and(warp::get()).map(move || match ready.reason() {
        None => text(StatusCode::OK, "ready\n"),
        Some(reason) => error(StatusCode::SERVICE_UNAVAILABLE, reason),
    });
    let metrics = warp::path!("metrics").and(warp::get()).map(move || {
        const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        bytes_of(StatusCode::OK, OPENMETRICS, health.metrics.encode().into())
    });
    alive.boxed().or(ready.boxed()).unify().or(metrics.boxed()).unify().boxed()
}

/// Turns what no route took into an answer in our words.
pub(crate) async fn refuse(rejection: Rejection) -> Result<Response, Infallible> {
    use warp::reject::{InvalidHeader, InvalidQuery, MethodNotAllowed, MissingHeader};
    // A route that looked at the query had taken path and method; what another route says of the method is no news then.
    let (status, words) = if let Some(cause) = rejection.find::<InvalidQuery>() {
        (StatusCode::BAD_REQUEST, format!("the query is not as expected: {cause}"))
    } else if rejection.find::<MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method".to_owned())
    } else if let Some(cause) = rejection.find::<MissingHeader>() {
        (StatusCode::BAD_REQUEST, cause.to_string())
    } else if let Some(cause) = rejection.find::<InvalidHeader>() {
        (StatusCode::BAD_REQUEST, cause.to_string())
    } else {
        (StatusCode::NOT_FOUND, "there is nothing at this path".to_owned())
    };
    Ok(error(status, words))
}

#[cfg(test)]
mod tests;
