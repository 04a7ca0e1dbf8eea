//! `POST /v1/watchers`: registers a process that gets a signal on a change.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use conf_core::{
    daemon::chain,
    http::{Peer, Request},
};
use http::StatusCode;
use libconf::name::ComponentSelector;
use serde::{Deserialize, Serialize};

use crate::{
    notify::{RegisterError, Relay, WatchRequest, WatcherStatus},
    process::parse_signal,
    service::{
        refusal::{Answer, Refusal, ok, refusal, unnamed},
        routes::Service,
    },
};

/// 512 KiB: far above the size of a request with the most components.
const MOST_BYTES: usize = 512 << 10;

/// One hour: after a longer delay a signal is hardly a reaction to the change.
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// The body of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegisterRequest {
    /// The components to watch.
    pub(crate) components: BTreeSet<ComponentSelector>,
    /// The process; without it, the calling process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    /// The time of its start (`/proc/<pid>/stat`, field 22): then another process with its number
    /// is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<u64>,
    /// `HUP` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<String>,
    /// The longest random delay in seconds before the signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delay_seconds: Option<u32>,
    /// What the process says of another one that it tells, as `conf-local exec` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) relay: Option<Relay>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registered {
    /// The watcher as it is now. It gets a signal for every change after its `sequence`.
    pub(crate) watcher: WatcherStatus,
    /// The folder of the exported snapshot, if there is one.
    pub(crate) current: Option<PathBuf>,
    /// Its components that this host does not run now. The process gets a signal when they come.
    pub(crate) absent: BTreeSet<ComponentSelector>,
}

impl Service {
    pub(crate) async fn register(&self, request: Request) -> Answer {
        let Peer::Unix { uid: user, pid: caller } = request.peer else { return Err(unnamed()) };
        let wanted: RegisterRequest = request.body.json(MOST_BYTES).await?;
        let bad = |words: String| refusal(StatusCode::BAD_REQUEST, words);
        let signal = parse_signal(wanted.signal.as_deref().unwrap_or("HUP")).map_err(bad)?;
        let pid = wanted.pid.or(caller).ok_or_else(|| bad("name the process, as in \"pid\": 4711".to_owned()))?;
        let delay = Duration::from_secs(wanted.delay_seconds.unwrap_or(0).into());
        if delay > LONGEST_DELAY {
            return Err(bad(format!("delay_seconds is at most {}", LONGEST_DELAY.as_secs())));
        }
        let request = WatchRequest { components: wanted.components, pid, start: wanted.start, signal, delay };
        let absent = self.absent(&request.components);
        let watcher = self.watchers.register(request, user).await.map_err(|error| refuse(&error))?;
        let relayed = wanted.relay.and_then(|relay| self.watchers.relay(&watcher.id, relay));
        let watcher = relayed.unwrap_or(watcher);
        let current = self.agent.view().status.current.clone();
        ok(&Registered { watcher, current, absent })
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
        RegisterError::TooMany(..) => StatusCode::TOO_MANY_REQUESTS,
        RegisterError::Keep(..) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(status, chain(error))
}
