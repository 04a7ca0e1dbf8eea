//! `POST /v1/watchers`: a process asks to be signalled.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use conf_core::http::{self as answer, Peer, Request, Response};
use http::StatusCode;
use libconf::name::ComponentSelector;
use serde::{Deserialize, Serialize};

use crate::service::{Refusal, Service, caller, refusal};
use crate::{
    cli::config::parse_signal,
    notify::{RegisterError, WatcherStatus, Wish},
};

/// Far above what the most components need.
const MOST_BYTES: usize = 512 << 10;

/// The longest random delay before telling.
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// The body of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// The components whose changes matter.
    pub components: BTreeSet<ComponentSelector>,
    /// The process; without one, the process that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// When it started (`/proc/<pid>/stat`, field 22): another process of the same number is then refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// `HUP` unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// A random delay of at most so many seconds before telling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<u32>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The watcher as it is now; `sequence` is what was exported when it came: everything after that is told.
    pub watcher: WatcherStatus,
    /// The folder of what is exported now; none for nothing yet.
    pub current: Option<PathBuf>,
    /// Those of its components that this host does not run now. They are told of when they come.
    pub absent: BTreeSet<ComponentSelector>,
}

impl Service {
    pub(crate) async fn register(&self, request: Request) -> Result<Response, Refusal> {
        let user = caller(&request)?;
        let asking = match request.peer {
            Peer::Unix { pid, .. } => pid,
            Peer::Tcp(_) => None,
        };
        let wanted: RegisterRequest =
            request.body.json(MOST_BYTES).await.map_err(|refused| Refusal(Box::new(refused)))?;
        let bad = |words: String| refusal(StatusCode::BAD_REQUEST, words);
        let signal = parse_signal(wanted.signal.as_deref().unwrap_or("HUP")).map_err(bad)?;
        let pid = wanted.pid.or(asking).ok_or_else(|| bad("name the process, as in \"pid\": 4711".to_owned()))?;
        let delay = Duration::from_secs(wanted.delay_seconds.unwrap_or(0).into());
        if delay > LONGEST_DELAY {
            return Err(bad(format!("delay_seconds is at most {}", LONGEST_DELAY.as_secs())));
        }
        let wish = Wish { components: wanted.components, pid, start: wanted.start, signal, delay };
        let absent = self.absent(&wish.components);
        let watcher = self.watchers.register(wish, user).map_err(|error| refuse(&error))?;
        let current = self.agent.view().status.current.clone();
        Ok(answer::json(StatusCode::OK, &Registered { watcher, current, absent }))
    }

    fn absent(&self, components: &BTreeSet<ComponentSelector>) -> BTreeSet<ComponentSelector> {
        let view = self.agent.view();
        let runs = |one: &ComponentSelector| {
            view.exported.as_ref().is_some_and(|exported| exported.matching(one).next().is_some())
        };
        components.iter().filter(|one| !runs(one)).cloned().collect()
    }
}

fn refuse(error: &RegisterError) -> Refusal {
    let status = match error {
        RegisterError::Process(error) if error.is_foreign() => StatusCode::FORBIDDEN,
        RegisterError::Process(_) | RegisterError::Components => StatusCode::BAD_REQUEST,
        RegisterError::Observing => StatusCode::CONFLICT,
        RegisterError::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        RegisterError::Keep { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(status, conf_core::daemon::chain(error))
}
