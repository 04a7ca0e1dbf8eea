//! Somebody else's request, on its way to the servers above.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use reqwest::{Method, header::HeaderMap};
use tokio::time::timeout;

use crate::upstream::{error::UpstreamError, server::Upstream, servers::Upstreams};

/// 64 KiB: the most bytes of an answer, which has a few words.
const MOST_OF_ANSWER: usize = 64 << 10;

impl Upstreams {
    /// `POST <base>/<path>` with this body and these headers, and with no credential of this
    /// program's own, to the first server that answers; any status is an answer. Each server takes
    /// `wait` at most, and 64 KiB of its answer are read. After an error it may have been done.
    pub async fn pass_on(
        &self,
        path: &str,
        headers: &HeaderMap,
        body: &Bytes,
        wait: Duration,
    ) -> Result<Response<Bytes>, UpstreamError> {
        let mut failed = None;
        for one in self.in_order() {
            match timeout(wait, one.post(path, headers.clone(), body.clone(), wait)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => {
                    one.report(false);
                    failed = failed.or(Some(error));
                }
                Err(_) => {
                    one.report_silent();
                    failed = failed.or(Some(UpstreamError::Silent { url: one.at(path), after: wait }));
                }
            }
        }
        Err(failed.unwrap_or(UpstreamError::NoServer))
    }
}

impl Upstream {
    async fn post(
        &self,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
        wait: Duration,
    ) -> Result<Response<Bytes>, UpstreamError> {
        let mut answer = self.pass_on(Method::POST, path, headers, stream::iter([Ok(body)]), wait).await?;
        let url = || self.at(path);
        let mut read = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|cause| UpstreamError::Unreachable { url: url(), cause })? {
            if read.len() + part.len() > MOST_OF_ANSWER {
                return Err(UpstreamError::Unexpected { url: url(), reason: "more than 64 KiB".to_owned() });
            }
            read.extend_from_slice(&part);
        }
        let mut passed = Response::new(read.into());
        (*passed.status_mut(), *passed.headers_mut()) = (answer.status(), answer.headers().clone());
        Ok(passed)
    }
}
