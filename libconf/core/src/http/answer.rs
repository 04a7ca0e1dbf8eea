//! Answers: JSON, text, refusals, streams.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde::Serialize;
use warp::{Reply as _, filters::BoxedFilter};

use crate::api::ErrorBody;

/// An answer.
pub type Response = warp::reply::Response;

/// A group of routes: filters joined by `.or(…).unify().boxed()`.
pub type Routes = BoxedFilter<(Response,)>;

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

/// Answers that there is too much to do now: asked again after so many seconds, it may be
/// different. A client of this project asks another server meanwhile.
pub fn busy(words: impl fmt::Display, seconds: u32) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, words);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Answers with bytes of a content type.
pub fn bytes_of(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Response {
    let mut response = http::Response::new(bytes).into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Answers with a body that is made while it is sent. An `Err` in it tears the connection down, so
/// that the reader sees that the body is not whole. A connection that breaks drops the stream.
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

/// Makes a stream `Sync`, as warp demands. The stream is only polled through `&mut`, so the lock is
/// never taken.
struct Shared<T>(Mutex<BoxStream<'static, T>>);

impl<T> Stream for Shared<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let stream = self.0.get_mut();
        stream.as_mut().poll_next(context)
    }
}
