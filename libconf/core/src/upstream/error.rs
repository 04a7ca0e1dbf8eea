//! Why a server above gave no answer.

use std::{path::PathBuf, time::Duration};

use reqwest::{StatusCode, Url};

use libconf::name::ObjectId;

use crate::tls::{self, TlsError};

/// Why a server gave no useful answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The connection failed, or broke; try again, or another server.
    #[error("{}", unreachable(url, cause))]
    Unreachable {
        /// The URL of the request.
        url: String,
        /// The HTTP client's error.
        #[source]
        cause: reqwest::Error,
    },
    /// The server was silent for too long.
    #[error("{url} was silent for {} s; does it hang, or does something on the way drop packets?", after.as_secs())]
    Silent {
        /// The URL of the request.
        url: String,
        /// How long it was silent.
        after: Duration,
    },
    /// The stream was closed by the server.
    #[error("{url} closed the stream")]
    Closed {
        /// The URL of the request.
        url: String,
    },
    /// The server refused the request.
    #[error("{url} answered {status}: {words}")]
    Refused {
        /// The URL of the request.
        url: String,
        /// The status.
        status: StatusCode,
        /// The server's words, and the next step.
        words: String,
        /// The `Retry-After` of the answer, if any.
        retry_after: Option<Duration>,
    },
    /// The answer has another shape than expected: this is hardly a server of this project.
    #[error("{url} gave an answer that is not of this project ({reason}); is the URL right?")]
    Unexpected {
        /// The URL of the request.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The token cannot be read.
    #[error("cannot read the token file {path}")]
    Token {
        /// The token file.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: std::io::Error,
    },
    /// The HTTP client could not be made.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// TLS cannot be set up for servers with `https://`.
    #[error("TLS for https:// cannot be set up")]
    Tls(#[source] TlsError),
    /// The list of servers is empty.
    #[error("no server was given")]
    NoServer,
}

/// Says what to do about a server that cannot be reached.
fn unreachable(url: &str, cause: &reqwest::Error) -> String {
    match tls::words(cause, "--ca") {
        Some(words) => format!("cannot reach {url} over TLS: {words}"),
        None => format!("cannot reach {url}; see that the URL is right and the server runs{}", port_of(url)),
    }
}

/// A URL of a server above that names no port hardly means the usual one.
fn port_of(url: &str) -> String {
    let port = Url::parse(url).ok().filter(|url| url.port().is_none()).and_then(|url| url.port_or_known_default());
    port.map(|port| format!(" (no port is named, so that this is port {port})")).unwrap_or_default()
}

impl UpstreamError {
    /// How long the server asked the client to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            UpstreamError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// True if the server works, and has too much to do now: another one may do it.
    pub fn is_busy(&self) -> bool {
        self.status() == Some(StatusCode::SERVICE_UNAVAILABLE) && self.retry_after().is_some()
    }

    /// The status of a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            UpstreamError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Why a fetch failed, by what to do next.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There was no answer, or it broke off: try another server, or again later.
    #[error("fetching failed")]
    Unreachable(#[source] UpstreamError),
    /// The server refused: ask a person (a credential), or wait (`Retry-After`).
    #[error("fetching was refused")]
    Refused(#[source] UpstreamError),
    /// The server does not have the commit (yet): try another server, or again later.
    #[error("{url} does not have {want}: {words}")]
    NotFound {
        /// The server.
        url: String,
        /// The wanted object.
        want: ObjectId,
        /// The server's words.
        words: String,
    },
    /// The answer is damaged, or leaves objects out even when asked for all: try another server and
    /// say so.
    #[error("{url} gave a damaged answer for {want}: {reason}")]
    Corrupt {
        /// The server.
        url: String,
        /// The wanted object.
        want: ObjectId,
        /// What is wrong.
        reason: String,
    },
    /// The answer passes a bound of this machine: try another server and say so.
    #[error("{url} gave too large an answer for {want}: {reason}")]
    TooLarge {
        /// The server.
        url: String,
        /// The wanted object.
        want: ObjectId,
        /// The bound.
        reason: String,
    },
    /// The wanted commit is not to be taken, whoever has it: see
    /// [`judging`](crate::git::RepositoryPool::judging).
    #[error("{0}")]
    Unwanted(String),
    /// The repository cannot be read or written: a full disk, a wrong owner.
    #[error("cannot use the repository {path}: {reason}")]
    Repository {
        /// The repository's path.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

impl From<UpstreamError> for FetchError {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Refused { .. } | UpstreamError::Token { .. } | UpstreamError::Unexpected { .. } => {
                FetchError::Refused(error)
            }
            _ => FetchError::Unreachable(error),
        }
    }
}

impl FetchError {
    /// True when this machine has no room for the answer: its disk or a quota is full, or the file
    /// would be too large.
    pub fn is_for_room(&self) -> bool {
        // Git and libgit2 pass on the system's words alone, which no language changes here.
        let words = ["No space left on device", "Disk quota exceeded", "File too large"];
        matches!(self, FetchError::Repository { reason, .. } if words.iter().any(|words| reason.contains(words)))
    }

    /// True if the server works, and has too much to do now: another one may do it.
    pub fn is_busy(&self) -> bool {
        matches!(self, FetchError::Refused(error) if error.is_busy())
    }

    /// How long the server asked the client to wait.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            FetchError::Refused(error) | FetchError::Unreachable(error) => error.retry_after(),
            _ => None,
        }
    }
}
