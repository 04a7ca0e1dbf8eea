//! Answers to fetches and pushes.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, StatusCode, header};
use libconf::name::ObjectId;

use crate::{
    git::{Packet, PacketReader, error_words, push_line},
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
    answered(kind, service_line(service).into(), output).await
}

/// The line that names the service, before a list of refs over HTTP.
pub(crate) fn service_line(service: &str) -> String {
    let mut line = String::new();
    push_line(&mut line, &format!("# service={service}"));
    line.push_str("0000");
    line
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

/// Git's own answer when it does not have the wanted object.
pub(crate) fn not_our_ref(id: ObjectId) -> Bytes {
    error_packet(&format!("upload-pack: not our ref {id}"))
}

/// What clients of Git show as the words of the remote side.
pub(crate) fn error_packet(words: &str) -> Bytes {
    let mut packet = String::new();
    push_line(&mut packet, &format!("ERR {words}"));
    packet.into()
}

/// True when an answer is, or begins with, Git's own words of refusal.
pub(crate) fn refuses(answer: &[u8]) -> bool {
    let mut packets = PacketReader::default();
    packets.feed(&answer[..answer.len().min(4 << 10)]);
    std::iter::from_fn(|| packets.next().ok().flatten())
        .take(4)
        .any(|packet| matches!(packet, Packet::Data(data) if error_words(&data).is_some()))
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
