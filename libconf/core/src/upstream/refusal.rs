//! The error of a server that refuses a request.

use std::time::Duration;

use reqwest::{Response, StatusCode, header::RETRY_AFTER};

use crate::{api::ErrorBody, upstream::error::UpstreamError};

/// 5 s for the words of a refusal.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes an error of a refusal: the server's words, and the next step.
pub(crate) async fn refusal(url: &str, mut response: Response, credential: &str) -> UpstreamError {
    let status = response.status();
    let retry_after = retry_after(&response);
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(part)) = response.chunk().await {
            body.extend_from_slice(&part);
            if body.len() > 16 << 10 {
                break;
            }
        }
    };
    // The status alone is an answer, if the body does not come in time.
    let _ = tokio::time::timeout(PATIENCE, reading).await;
    let said = match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(error) => error.error,
        Err(_) => String::from_utf8_lossy(&body).trim().chars().take(300).collect(),
    };
    let step = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => credential,
        StatusCode::NOT_FOUND if said.is_empty() => "is the URL right? give the base URL, without /conf.git",
        StatusCode::SERVICE_UNAVAILABLE => "it is busy or not ready; tried again later",
        status if status.is_redirection() => "it redirects; give the URL that it redirects to",
        _ => "",
    };
    let words = [said.as_str(), step].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    UpstreamError::Refused { url: url.to_owned(), status, words, retry_after }
}

/// The seconds of `Retry-After`.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
