//! Answers to fetches and pushes.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, StatusCode, header};

use crate::{
    git::push_line,
    git_http::{child::Output, failure::Failure},
    http::{self as answers, Response},
};

/// Forbids proxies to keep an answer, and to hold it back until it is whole: a reader takes one
/// that does not go on for silence.
pub(crate) fn uncached(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Answers with a list of refs, under the line that names the service.
pub(crate) async fn announced(service: &str, kind: &'static str, output: Output) -> Result<Response, Failure> {
    let mut line = String::new();
    push_line(&mut line, &format!("# service={service}"));
    line.push_str("0000");
    answered(kind, line.into(), output).await
}

/// Answers with `head`, if any, and the output of a program as it comes. The answer begins when the
/// program has written something or ended, so that a program that fails at once is an error with
/// words.
pub(crate) async fn answered(kind: &'static str, head: Bytes, mut output: Output) -> Result<Response, Failure> {
    Ok(match output.next().await.transpose()? {
        None => whole(kind, head),
        Some(first) => streamed(kind, [head, first], output),
    })
}

/// Answers with bytes that are all here.
pub(crate) fn whole(kind: &'static str, bytes: Bytes) -> Response {
    uncached(answers::bytes_of(StatusCode::OK, kind, bytes))
}

/// Answers with `heads` and the rest of the output.
pub(crate) fn streamed(kind: &'static str, heads: [Bytes; 2], output: Output) -> Response {
    let heads = stream::iter(heads.into_iter().filter(|head| !head.is_empty()).map(Ok));
    let rest = stream::unfold(output, |mut output| async move { Some((output.next().await?, output)) });
    uncached(answers::stream(StatusCode::OK, kind, heads.chain(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_keeps_an_answer_or_holds_it_back() {
        let headers = whole("text/plain", Bytes::new()).headers().clone();
        assert_eq!(
            (&headers["cache-control"], &headers["x-accel-buffering"]),
            (&HeaderValue::from_static("no-cache"), &HeaderValue::from_static("no"))
        );
    }
}
