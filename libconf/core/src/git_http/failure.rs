//! Why a request to Git has no answer.

use http::{HeaderValue, StatusCode, header};

use crate::http::{Crowded, NotTaken, Response, error};

/// Why an answer has no proper end.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The request's body is broken.
    #[error("the request's body ended early or is damaged: {0}")]
    Input(String),
    /// The body has an encoding that Git's own clients do not use.
    #[error("a request to Git is sent as it is, or as gzip")]
    Encoding,
    /// The body has more bytes than are allowed here.
    #[error("the request is larger than the {0} bytes allowed here")]
    TooLarge(u64),
    /// In this version of the protocol, refs would be listed that the reader may not see.
    #[error(
        "whoever reads a part of the repository needs version 2 of Git's protocol: `git config protocol.version 2`, and \
         a Git of version 2.18 or newer"
    )]
    Partial,
    /// All processes are taken.
    #[error("too many fetches or pushes at once; try again")]
    Busy,
    /// The body cannot be kept.
    #[error("the request could not be kept: {0}")]
    Disk(String),
    /// Git died, or ended with an error.
    #[error("git failed: {0}")]
    Git(String),
    /// Nobody reads the answer any more.
    #[error("the reader has gone")]
    Abandoned,
}

impl Failure {
    /// The failure as an answer, when none has begun.
    pub(crate) fn response(&self) -> Response {
        let status = match self {
            Failure::Input(_) => StatusCode::BAD_REQUEST,
            Failure::Partial => StatusCode::FORBIDDEN,
            Failure::Encoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Failure::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Disk(_) => StatusCode::INSUFFICIENT_STORAGE,
            Failure::Git(_) | Failure::Abandoned => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = error(status, self);
        if matches!(self, Failure::Busy) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

impl From<NotTaken> for Failure {
    fn from(cause: NotTaken) -> Self {
        match cause {
            NotTaken::Ended(cause) => Failure::Input(cause.to_string()),
            NotTaken::TooLarge(limit) => Failure::TooLarge(limit),
            NotTaken::Crowded => Failure::Busy,
            NotTaken::Disk(cause) => Failure::Disk(cause.to_string()),
        }
    }
}

impl From<Crowded> for Failure {
    fn from(_: Crowded) -> Self {
        Failure::Busy
    }
}
