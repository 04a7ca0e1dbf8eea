//! Refused requests, and the checks that every route shares.

use std::{fmt::Display, time::Duration};

use conf_core::http::{self as answer, Peer, Request, Response};
use http::StatusCode;
use libconf::name::ComponentSelector;
use serde::Serialize;

use crate::service::process_reports::Reader;

/// 60 s: the longest time that one request waits. A caller that wants to wait longer asks again.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The answer to a refused request.
pub(crate) struct Refusal(pub(crate) Box<Response>);

impl From<Response> for Refusal {
    fn from(response: Response) -> Self {
        Refusal(Box::new(response))
    }
}

pub(crate) type Answer = Result<Response, Refusal>;

#[expect(clippy::unnecessary_wraps, reason = "every route returns an answer")]
pub(crate) fn ok(value: &impl Serialize) -> Answer {
    Ok(answer::json(StatusCode::OK, value))
}

pub(crate) fn refusal(status: StatusCode, words: impl Display) -> Refusal {
    answer::error(status, words).into()
}

pub(crate) fn stopping() -> Refusal {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping; ask again when it runs")
}

pub(crate) fn nothing_yet() -> Refusal {
    let words = "nothing is exported on this host yet; `conf-local status` shows what the agent waits for";
    refusal(StatusCode::SERVICE_UNAVAILABLE, words)
}

/// For errors of this host's disk.
pub(crate) fn broken(error: impl Display) -> Refusal {
    refusal(StatusCode::INTERNAL_SERVER_ERROR, format_args!("{error}; run `conf-local verify --repair`"))
}

/// Runs a step that blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(step).await.map_err(broken)?
}

/// Reads the component of a request.
pub(crate) fn component_of(component: &str) -> Result<ComponentSelector, Refusal> {
    component.parse().map_err(|error| refusal(StatusCode::BAD_REQUEST, error))
}

/// Returns the caller's user, if the kernel names it.
pub(crate) fn user(request: &Request) -> Option<u32> {
    match request.peer {
        Peer::Unix { uid, .. } => Some(uid),
        Peer::Tcp(_) => None,
    }
}

/// Refuses a caller whose user the kernel does not name.
pub(crate) fn unnamed() -> Refusal {
    refusal(StatusCode::FORBIDDEN, "use the agent's Unix socket, where it knows the caller; see --socket")
}

/// True for root and the agent's own user, who could read the files as well.
pub(crate) fn is_privileged(request: &Request) -> bool {
    user(request).is_some_and(|user| user == 0 || user == rustix::process::geteuid().as_raw())
}

/// Returns whose errors the caller may read.
pub(crate) fn reader(request: &Request) -> Reader {
    match user(request) {
        _ if is_privileged(request) => Reader::All,
        Some(user) => Reader::User(user),
        None => Reader::Nobody,
    }
}

/// Returns how long a request waits.
pub(crate) fn patience(timeout: Option<f64>) -> Result<Duration, Refusal> {
    let timeout = Duration::try_from_secs_f64(timeout.unwrap_or(LONGEST_WAIT.as_secs_f64()));
    let bad = |_| refusal(StatusCode::BAD_REQUEST, "timeout is a number of seconds, as in timeout=10");
    Ok(timeout.map_err(bad)?.min(LONGEST_WAIT))
}
