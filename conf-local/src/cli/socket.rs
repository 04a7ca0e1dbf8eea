//! Requests to the agent over its socket.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use conf_core::{api::ErrorBody, retry::Backoff};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use crate::agent::AgentSocket;

/// 10 s, in addition to the time that a request lets the agent wait: it answers from memory and
/// disk.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One hour: a check reads a whole repository.
pub(crate) const VERIFY_WITHIN: Duration = Duration::from_secs(3600);

/// 256 MiB: settings and lists are far smaller.
const MOST_BYTES: usize = 256 << 20;

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(
        "no agent answers on the socket {}; start it with `conf-local run …`, or name its socket with --socket or \
         CONF_LOCAL_SOCKET", .path.display()
    )]
    Away { path: PathBuf, source: io::Error },
    #[error("the agent on {} did not answer in time; its log shows what it does", .path.display())]
    Late { path: PathBuf },
    #[error("the agent's answer broke off")]
    Broken(#[source] hyper::Error),
    #[error("{words}")]
    Refused { status: StatusCode, words: String },
    #[error("the agent's answer cannot be read; does it have another version?")]
    Strange(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl AskError {
    /// True if the same request may succeed later: the agent is starting or stopping.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            AskError::Away { source, .. } => source.kind() != io::ErrorKind::PermissionDenied,
            AskError::Late { .. } | AskError::Broken(_) => true,
            AskError::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            AskError::Strange(_) => false,
        }
    }
}

impl AgentSocket {
    /// Sends a `GET`, and reads the answer as JSON. `patience` is the time that the request lets
    /// the agent wait.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, patience: Duration) -> Result<T, AskError> {
        self.ask(Method::GET, path, Bytes::new(), patience).await
    }

    /// Sends a `POST` with a JSON body, and reads the answer as JSON.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<T, AskError> {
        let body = serde_json::to_vec(body).map_err(|error| AskError::Strange(error.into()))?;
        self.ask(Method::POST, path, body.into(), patience).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, AskError> {
        let asked = timeout(patience + ANSWER_WITHIN, self.exchange(method, path, body));
        let body = asked.await.unwrap_or_else(|_| Err(AskError::Late { path: self.socket.clone() }))?;
        serde_json::from_slice(&body).map_err(|error| AskError::Strange(error.into()))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, AskError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|source| AskError::Away { path: self.socket.clone(), source })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(AskError::Broken)?;
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| AskError::Strange(error.into()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(AskError::Broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST_BYTES).collect().await.map_err(AskError::Strange)?;
            let body = body.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            Err(AskError::Refused { status, words: words_of(status, &body) })
        };
        tokio::pin!(exchange);
        // The connection moves the bytes. It may end before the last of them is read.
        tokio::select! {
            answered = &mut exchange => answered,
            _ = connection => exchange.await,
        }
    }
}

fn words_of(status: StatusCode, body: &[u8]) -> String {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => body.error,
        Err(_) => format!("the agent answered {status}"),
    }
}

/// Returns the pauses between two attempts: at most 20 ms at first, at most one second later.
pub(crate) fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(20), Duration::from_secs(1))
}
