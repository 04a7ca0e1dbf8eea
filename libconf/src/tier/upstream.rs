//! The servers above: several base URLs, tried in order and by health, with one client and one credential.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::StatusCode;
pub use reqwest::Url;
use serde::{Serialize, de::DeserializeOwned};

/// The token of `--token-file`, read again whenever the file changes; or none.
#[derive(Clone, Debug, Default)]
pub struct Credentials(Option<Arc<PathBuf>>);

impl Credentials {
    /// Sends no credential.
    pub fn none() -> Self {
        Credentials(None)
    }

    /// Sends the first line of this file; without a file, nothing.
    pub fn from_file(path: Option<PathBuf>) -> Self {
        Credentials(path.map(Arc::new))
    }
}

/// Servers of one sort, in the order in which they were given.
///
/// A server that failed is tried last for a while (1 s, doubled up to 30 s while it keeps failing), then in its place
/// again.
#[derive(Debug)]
pub struct Upstreams {
    list: Vec<Arc<Upstream>>,
}

/// One server.
#[derive(Debug)]
pub struct Upstream {
    url: Url,
}

impl Upstreams {
    /// Takes base URLs, without `/conf.git`.
    pub fn new(urls: Vec<Url>, credentials: &Credentials) -> Result<Self, UpstreamError> {
        let _ = credentials;
        Ok(Upstreams { list: urls.into_iter().map(|url| Arc::new(Upstream { url })).collect() })
    }

    /// All servers, the one to try first at the front.
    pub fn in_order(&self) -> Vec<Arc<Upstream>> {
        self.list.clone()
    }

    /// [`Upstream::get_json`] from the first server that answers.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, UpstreamError> {
        let _ = path;
        unimplemented!()
    }

    /// [`Upstream::post_json`] to the first server that answers.
    pub async fn post_json<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, UpstreamError> {
        let _ = (path, body);
        unimplemented!()
    }

    /// [`Upstream::events`] of the first server that answers.
    pub async fn events(&self, path: &str, last_id: Option<&str>) -> Result<Events, UpstreamError> {
        let _ = (path, last_id);
        unimplemented!()
    }
}

impl Upstream {
    /// Its base URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// `GET <base>/<path>`; at most 30 s and 64 MiB.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, UpstreamError> {
        let _ = path;
        unimplemented!()
    }

    /// `POST <base>/<path>`; at most 30 s and 64 MiB. An empty answer reads as JSON `null`.
    pub async fn post_json<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, UpstreamError> {
        let _ = (path, body);
        unimplemented!()
    }

    /// Opens a stream of server-sent events; `last_id` is sent as `Last-Event-ID`.
    pub async fn events(&self, path: &str, last_id: Option<&str>) -> Result<Events, UpstreamError> {
        let _ = (path, last_id);
        unimplemented!()
    }

    /// Puts the server last for a while, or back in its place: what callers of [`super::pack::fetch`] say of it.
    pub fn report(&self, worked: bool) {
        let _ = worked;
    }
}

/// One server-sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The newest `id:` seen, this event's own included.
    pub id: Option<String>,
    /// `event:`, or `message` where there is none.
    pub name: String,
    /// The lines of `data:`.
    pub data: String,
}

/// An open stream of server-sent events.
#[derive(Debug)]
pub struct Events {
    upstream: Arc<Upstream>,
}

impl Events {
    /// The server that it comes from.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Waits for the next event.
    ///
    /// - Errors: the stream ended, broke, or was silent for 45 s (comments count as a sign of life): connect again.
    /// - Cancel: dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Event, UpstreamError> {
        unimplemented!()
    }
}

/// Waiting times between attempts: full jitter below a bound that doubles with every failure.
#[derive(Debug)]
pub struct Backoff {
    attempt: u32,
    first: Duration,
    most: Duration,
}

impl Default for Backoff {
    /// From 100 ms up to 15 s.
    fn default() -> Self {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(15))
    }
}

impl Backoff {
    /// The first bound and the last.
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff { attempt: 0, first, most }
    }

    /// How long to wait now: anything between nothing and the bound.
    #[must_use]
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1 << self.attempt.min(20)).min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        bound.mul_f64(rand::random::<f64>())
    }

    /// Like [`Backoff::next_wait`], but no shorter than a server asked for.
    #[must_use]
    pub fn after(&mut self, error: &UpstreamError) -> Duration {
        let wait = self.next_wait();
        match error.retry_after() {
            // Jitter again, so that all who got the same answer do not come back together.
            Some(asked) => asked.min(Duration::from_secs(300)) + wait,
            None => wait,
        }
    }

    /// An attempt worked: start from the first bound next time.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// Why a server gave no answer of use.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection, or it broke; try again, or another one.
    #[error("cannot reach {url}; see that the URL is right and the server runs")]
    Unreachable {
        /// What was asked.
        url: String,
        /// The client's words.
        #[source]
        cause: reqwest::Error,
    },
    /// Nothing was heard for too long.
    #[error("{url} was silent for {} s", after.as_secs())]
    Silent {
        /// What was asked.
        url: String,
        /// For how long.
        after: Duration,
    },
    /// The stream was closed by the server.
    #[error("{url} closed the stream")]
    Closed {
        /// What was asked.
        url: String,
    },
    /// The server understood and says no.
    #[error("{url} answered {status}: {words}")]
    Refused {
        /// What was asked.
        url: String,
        /// The status.
        status: StatusCode,
        /// Its words, and the next step.
        words: String,
        /// `Retry-After`, where it was sent.
        retry_after: Option<Duration>,
    },
    /// An answer of another shape than expected: hardly a server of this project.
    #[error("{url} gave an answer that is not of this project ({reason}); is the URL right?")]
    Unexpected {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token cannot be read.
    #[error("cannot read the token file {path}")]
    Token {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: std::io::Error,
    },
    /// No client could be made.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// There is no server in the list.
    #[error("no server was given")]
    NoServer,
}

impl UpstreamError {
    /// How long the server asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            UpstreamError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The status of a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            UpstreamError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
