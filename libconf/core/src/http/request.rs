//! Requests, and their bodies with a limit.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use http::{HeaderMap, Method, StatusCode};
use serde::de::DeserializeOwned;
use warp::{Filter as _, filters::BoxedFilter};

use crate::http::{
    answer::{Response, error},
    peer::Peer,
};

/// The longest silence in the middle of a request's body. Generous: a pushing client may be silent
/// while it compresses.
const BODY_SILENCE: Duration = Duration::from_secs(300);

/// A request as handlers see it; the path is still percent-encoded.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, with its leading slash.
    pub path: String,
    /// The text after `?`; empty when there is none.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The sender.
    pub peer: Peer,
    /// The body, not read yet.
    pub body: Body,
}

impl Request {
    /// A header's value, if it is there and plain text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Refuses a query with a parameter that is not in `known`. A route that changes something
    /// ignores nothing: the parameter may be a dry run that somebody misspelt.
    pub fn check_query(&self, known: &[&str]) -> Result<(), Response> {
        let mut names = self.query.split('&').filter_map(|pair| pair.split('=').next());
        let Some(name) = names.find(|name| !name.is_empty() && !known.contains(name)) else { return Ok(()) };
        let takes = if known.is_empty() { "none".to_owned() } else { format!("`{}`", known.join("`, `")) };
        let name: String = name.chars().take(100).collect();
        let words =
            format!("the query parameter `{name}` is not known here, and nothing was done; this path takes {takes}");
        Err(error(StatusCode::BAD_REQUEST, words))
    }
}

/// Extracts the whole request, for handlers of the shape `async fn(Request) -> Response`.
pub fn request() -> BoxedFilter<(Request,)> {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Peer>())
        .and(warp::body::stream().map(|stream| Body::from_stream(read_whole_chunks(stream))))
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

fn read_whole_chunks(
    stream: impl Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream.map(|item| match item {
        Ok(mut chunk) => Ok(chunk.copy_to_bytes(chunk.remaining())),
        Err(cause) => Err(io::Error::other(cause)),
    })
}

/// A request's body: a stream of chunks that ends with an error when the sender is silent for five
/// minutes.
pub struct Body(BoxStream<'static, io::Result<Bytes>>);

impl Body {
    /// Makes a body of these chunks.
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

    /// Reads the whole body into memory; the error is an answer: 413 for a body of more than
    /// `limit` bytes, 400 for a broken one.
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

    /// Reads the whole body as JSON; like [`Body::bytes`], and 400 when it has another shape.
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
