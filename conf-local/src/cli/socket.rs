//! One request to the agent over its socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use conf_core::api::ErrorBody;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

/// The agent answers from memory and disk. Where it is asked to wait, that is added.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A check reads a whole repository.
pub(crate) const VERIFY_WITHIN: Duration = Duration::from_secs(3600);

/// Settings and lists are far smaller.
const MOST_BYTES: usize = 256 << 20;

/// Where the agent listens.
#[derive(Clone, Debug)]
pub(crate) struct Socket(pub(crate) PathBuf);

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(
        "no agent answers on the socket {}; start it with `conf-local run …`, or name its socket with --socket or \
         CONF_LOCAL_SOCKET", .path.display()
    )]
    Away { path: PathBuf, source: io::Error },
    #[error("the agent on {} did not answer in time; its log says what it does", .path.display())]
    Late { path: PathBuf },
    #[error("the agent's answer broke off")]
    Broken(#[source] hyper::Error),
    #[error("{words}")]
    Refused { status: StatusCode, words: String },
    #[error("the agent's answer is not understood; is it of another version?")]
    Strange(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl AskError {
    /// True when the same may succeed later: the agent is being started, or stops.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            AskError::Away { source, .. } => source.kind() != io::ErrorKind::PermissionDenied,
            AskError::Late { .. } | AskError::Broken(_) => true,
            AskError::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            AskError::Strange(_) => false,
        }
    }
}

impl Socket {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// `GET`, answered as JSON; `patience` is what the request itself asks the agent to wait.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, patience: Duration) -> Result<T, AskError> {
        let body = self.ask(Method::GET, path, Bytes::new(), patience).await?;
        serde_json::from_slice(&body).map_err(|error| AskError::Strange(error.into()))
    }

    /// `POST` of a JSON body, answered as JSON.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<T, AskError> {
        let body = serde_json::to_vec(body).map_err(|error| AskError::Strange(error.into()))?;
        let body = self.ask(Method::POST, path, body.into(), patience).await?;
        serde_json::from_slice(&body).map_err(|error| AskError::Strange(error.into()))
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes, patience: Duration) -> Result<Bytes, AskError> {
        let asked = timeout(patience + ANSWER_WITHIN, self.exchange(method, path, body));
        asked.await.unwrap_or_else(|_| Err(AskError::Late { path: self.0.clone() }))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, AskError> {
        let stream = UnixStream::connect(&self.0).await;
        let stream = stream.map_err(|source| AskError::Away { path: self.0.clone(), source })?;
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
        // The connection moves the bytes; it may end before the last of them is taken.
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

/// Waits between two tries of what may succeed later.
pub(crate) struct Pause(Duration);

impl Pause {
    pub(crate) fn new() -> Self {
        Pause(Duration::from_millis(20))
    }

    /// Longer each time, one second at most.
    pub(crate) async fn rest(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(1));
    }
}
