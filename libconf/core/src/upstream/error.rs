//! Why a server above gave nothing.

use std::{path::PathBuf, time::Duration};

use reqwest::StatusCode;

use libconf::name::ObjectId;

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

/// Why a fetch failed, by what to do next.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer, or it broke off: try another server, or again later.
    #[error("fetching failed")]
    Unreachable(#[source] UpstreamError),
    /// The server says no: ask a person (a credential), or wait (`Retry-After`).
    #[error("fetching was refused")]
    Refused(#[source] UpstreamError),
    /// The server does not have it (yet): try another server, or again later.
    #[error("{url} does not have {want}: {words}")]
    NotFound {
        /// Who was asked.
        url: String,
        /// For what.
        want: ObjectId,
        /// Its words.
        words: String,
    },
    /// The answer is damaged, or leaves objects out even when asked for all: try another server and say so.
    #[error("{url} gave a damaged answer for {want}: {reason}")]
    Corrupt {
        /// Who was asked.
        url: String,
        /// For what.
        want: ObjectId,
        /// What is wrong.
        reason: String,
    },
    /// The repository cannot be read or written: a full disk, a wrong owner.
    #[error("cannot use the repository {path}: {reason}")]
    Repository {
        /// Where.
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
    /// How long the server asked to wait.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            FetchError::Refused(error) | FetchError::Unreachable(error) => error.retry_after(),
            _ => None,
        }
    }
}
