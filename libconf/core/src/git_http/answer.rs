//! What fetches and pushes are answered with.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, StatusCode, header};

use crate::{
    git::push_line,
    git_http::child::Output,
    http::{self as answers, Response},
};

/// All places are taken.
pub(crate) fn busy() -> Response {
    let mut response = answers::error(StatusCode::SERVICE_UNAVAILABLE, "too many fetches or pushes at once; try again");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    response
}

/// What no proxy between may keep.
pub(crate) fn uncached(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// A list of refs, under the line that says whose it is.
pub(crate) async fn announced(service: &'static str, output: Output) -> Response {
    let kind = match service {
        "git-receive-pack" => "application/x-git-receive-pack-advertisement",
        _ => "application/x-git-upload-pack-advertisement",
    };
    let mut line = String::new();
    push_line(&mut line, &format!("# service={service}"));
    line.push_str("0000");
    answered(kind, Bytes::from(line), output).await
}

/// Answers with `head`, if any, and what a program says, as it says it. Nothing is answered before the program has said
/// something or ended, so that one that fails at once is an error with words.
pub(crate) async fn answered(kind: &'static str, head: Bytes, mut output: Output) -> Response {
    match output.next().await {
        None => uncached(answers::bytes_of(StatusCode::OK, kind, head)),
        Some(Err(failure)) => failure.response(),
        Some(Ok(first)) => streamed(kind, [head, first], output),
    }
}

/// Answers with `heads` and the rest of the output.
pub(crate) fn streamed(kind: &'static str, heads: [Bytes; 2], output: Output) -> Response {
    let heads = stream::iter(heads.into_iter().filter(|head| !head.is_empty()).map(Ok));
    let rest = stream::unfold(output, |mut output| async move { Some((output.next().await?, output)) });
    uncached(answers::stream(StatusCode::OK, kind, heads.chain(rest)))
}
