//! Requests, and their bodies with a limit.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use warp::{Filter as _, filters::BoxedFilter};

use crate::access::Principal;
use crate::http::{
    answer::{Response, error},
    pace::{LONGEST, Pace},
    peer::Peer,
    spool::{IN_MEMORY, NotTaken, Spooled, Spools},
    who::Who,
};
use crate::settings::without_value;

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
    /// Who that is, as far as it is proven.
    pub principal: Principal,
    /// The body, not read yet.
    pub body: Body,
}

impl NotTaken {
    /// The answer to its sender.
    pub(crate) fn response(&self) -> Response {
        let status = match self {
            NotTaken::Ended(_) => StatusCode::BAD_REQUEST,
            NotTaken::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            NotTaken::Crowded => StatusCode::SERVICE_UNAVAILABLE,
            NotTaken::Disk(_) => StatusCode::INSUFFICIENT_STORAGE,
        };
        let mut response = error(status, self);
        if matches!(self, NotTaken::Crowded) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl Request {
    /// The same request without its body, for whoever needs to know it later.
    pub(crate) fn without_body(&self) -> Request {
        Request {
            method: self.method.clone(),
            path: self.path.clone(),
            query: self.query.clone(),
            headers: self.headers.clone(),
            peer: self.peer,
            principal: self.principal.clone(),
            body: Body::from(Bytes::new()),
        }
    }

    /// Who is counted as its sender.
    pub fn who(&self) -> Who {
        self.peer.into()
    }

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
        .and(warp::ext::optional::<Principal>())
        .and(warp::ext::optional::<Spools>())
        .and(warp::body::stream().map(|stream| Body::from_stream(read_whole_chunks(stream))))
        .map(
            |method,
             path: warp::path::FullPath,
             query,
             headers,
             peer: Peer,
             principal: Option<Principal>,
             spools,
             body: Body| {
                let spools: Option<Spools> = spools;
                Request {
                    method,
                    path: path.as_str().to_owned(),
                    query,
                    headers,
                    peer,
                    principal: principal.unwrap_or(Principal::Anybody),
                    body: Body { room: spools.map(|spools| (spools, peer.into())), ..body },
                }
            },
        )
        .boxed()
}

/// Extracts who asks, for handlers that need nothing else of the request.
pub fn asker() -> BoxedFilter<(Who,)> {
    warp::ext::get::<Peer>().map(Who::from).boxed()
}

fn read_whole_chunks(
    stream: impl Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream.map(|item| match item {
        Ok(mut chunk) => Ok(chunk.copy_to_bytes(chunk.remaining())),
        Err(cause) => Err(io::Error::other(cause)),
    })
}

/// A request's body: a stream of chunks that ends with an error when the sender is slower than
/// anybody who means it.
pub struct Body {
    chunks: BoxStream<'static, io::Result<Bytes>>,
    /// Where it is kept until it is whole, and for whom.
    room: Option<(Spools, Who)>,
}

impl Body {
    /// Makes a body of these chunks.
    pub fn from_stream(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Body::paced(stream, Pace::default())
    }

    fn paced(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static, mut pace: Pace) -> Self {
        let chunks = async_stream::stream! {
            let mut stream = std::pin::pin!(stream);
            let began = Instant::now();
            loop {
                let asked = Instant::now();
                let patience = pace.left().min(LONGEST.saturating_sub(began.elapsed()));
                match tokio::time::timeout(patience, stream.next()).await {
                    Ok(Some(item)) => {
                        pace.spend(asked.elapsed());
                        pace.earn(item.as_ref().map_or(0, Bytes::len) as u64);
                        yield item;
                    }
                    Ok(None) => return,
                    Err(_) => {
                        yield Err(io::Error::new(io::ErrorKind::TimedOut, "the sender of the body is too slow"));
                        return;
                    }
                }
            }
        };
        Body { chunks: chunks.boxed(), room: None }
    }

    /// The body as it comes.
    pub fn into_stream(self) -> BoxStream<'static, io::Result<Bytes>> {
        self.chunks
    }

    /// Counts the body for a peer, in this room.
    pub(crate) fn kept_in(self, spools: &Spools, who: Who) -> Self {
        Body { room: Some((spools.clone(), who)), ..self }
    }

    /// Takes the whole body in, of at most `limit` bytes: a little in memory, more in a file.
    pub(crate) async fn spooled(self, limit: u64) -> Result<Spooled, NotTaken> {
        let (spools, who) = self.room.unwrap_or_else(own_room);
        spools.take_in(self.chunks, who, limit).await
    }

    /// Like [`Body::spooled`]. One for which there is no room is read to its end all the same,
    /// since its sender reads no answer before that; its first bytes are returned with the reason.
    pub(crate) async fn spooled_or_read(self, limit: u64) -> Result<Spooled, (NotTaken, Bytes)> {
        let (spools, who) = self.room.unwrap_or_else(own_room);
        let mut first = BytesMut::new();
        let mut chunks = self.chunks.inspect_ok(|part| {
            first.extend_from_slice(&part[..part.len().min(IN_MEMORY - first.len())]);
        });
        let taken = spools.take_in(&mut chunks, who, limit).await;
        if let Err(NotTaken::Crowded | NotTaken::Disk(_)) = taken {
            let mut rest = 0;
            while let Some(Ok(part)) = chunks.next().await
                && rest <= limit
            {
                rest += part.len() as u64;
            }
        }
        drop(chunks);
        taken.map_err(|cause| (cause, first.freeze()))
    }

    /// Reads the whole body into memory; the error is an answer: 413 for a body of more than
    /// `limit` bytes, 400 for a broken one, 503 when there is no room for it. The bytes count for
    /// their sender until the last copy of them is dropped.
    pub async fn bytes(self, limit: usize) -> Result<Bytes, Response> {
        let spooled = self.spooled(limit as u64).await.map_err(|cause| cause.response())?;
        spooled.whole().await.map_err(|cause| cause.response())
    }

    /// Reads the whole body as JSON; like [`Body::bytes`], and 400 when it has another shape.
    pub async fn json<T: DeserializeOwned>(self, limit: usize) -> Result<T, Response> {
        let bytes = self.bytes(limit).await?;
        serde_json::from_slice(&bytes).map_err(|cause| {
            error(
                StatusCode::BAD_REQUEST,
                format_args!("the request's body is not as expected: {}", without_value(&cause.to_string())),
            )
        })
    }
}

/// The room for a body of this program's own, which has no peer.
fn own_room() -> (Spools, Who) {
    (Spools::new(&std::env::temp_dir()), Who::User(rustix::process::getuid().as_raw()))
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body { chunks: futures_util::stream::iter([Ok(bytes)]).boxed(), room: None }
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
        self.chunks.as_mut().poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_sender_of_one_byte_now_and_then_is_let_go() {
        let dripping = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((Ok(Bytes::from_static(b"x")), ()))
        });
        // Ten bytes earn less than what it took to send them.
        let body = Body::paced(dripping, Pace::with_grace(Duration::from_millis(200)));
        let refused = body.spooled(u64::MAX).await.unwrap_err();
        assert!(refused.to_string().contains("too slow"), "{refused}");
    }
}
