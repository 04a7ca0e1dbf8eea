//! The local service: what processes of this host ask the agent, over a Unix socket or a loopback port.
//!
//! | route | answers |
//! |---|---|
//! | `GET /v1/config/<kind>/<name>[/<version>][?sequence=N]` | a component's settings, of any snapshot that is kept |
//! | `GET /v1/at/<w>[?timeout=SECONDS]` | the folder that was the datacenter's newest at change `w`, brought where needed |
//! | `GET /v1/explain/<kind>/<name>[/<version>][?key=KEY]` | who set each key, lowest layer first, as it is exported now |
//! | `GET /v1/schema/<kind>/<name>[/<version>][?sequence=N]` | the component's `config.schema.json`, or `null` |
//! | `GET /v1/status[?after=N&timeout=SECONDS]` | how the host fares; with `after`, once something newer is exported |
//! | `GET /v1/wait/<kind>/<name>[/<version>][?at=BRANCH/COMMIT][&sequence=N][&timeout=SECONDS]` | whether the export is there |
//! | `GET /v1/events` | a server-sent event `change` for every switch |
//! | `GET /v1/history` | the switches of the past, newest first |
//! | `POST /v1/processes`, `GET /v1/processes` | a process says what it runs on; who has said so |
//! | `POST /v1/watchers` | has a process signalled from now on |
//! | `POST /v1/verify[?repair=true]` | checks repository and export |
//!
//! In settings, `{"$secret": "NAME"}` stands in the place of secrets, but for root and the agent's own user over the Unix
//! socket.
//!
//! It answers from memory and this host's disk, and never waits for the network, except for a sequence that it does not
//! have yet, and then only as long as the caller allows. Everybody on this host may read; only
//! over the Unix socket, where the kernel says who asks, may a process be registered or a check be started.

pub mod processes_seen;

mod at;
mod config;
mod events;
mod explain;
mod processes;
mod wait;
mod watchers;

use std::{sync::Arc, time::Duration};

use conf_core::{
    api::HostState,
    git::RepositoryPool,
    http::{self as answer, Peer, Request, Response, Routes},
};
use http::{StatusCode, header};
use libconf::name::{ComponentSelector, Sequence};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use warp::Filter;

pub use crate::service::{
    events::Change,
    explain::Explanation,
    wait::Reached,
    watchers::{RegisterRequest, Registered},
};
use crate::{
    notify::{Registry, WatcherState, WatcherStatus},
    on_demand::Demand,
    service::processes_seen::{ProcessStatus, Processes, Reader},
    state::{Agent, HistoryEntry, Status},
};

/// The longest that one request waits; who wants to wait longer asks again.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What the routes answer from.
#[derive(Clone, Debug)]
pub struct Service {
    /// What the agent knows.
    pub agent: Agent,
    /// Who is told of changes.
    pub watchers: Arc<Registry>,
    /// Finds and brings what is asked for by its sequence.
    pub demand: Arc<Demand>,
    /// Who has said what it runs on.
    pub processes: Arc<Processes>,
    /// The repository, read for what the export has passed.
    pub repository: RepositoryPool,
    /// Ends requests that wait.
    pub stop: CancellationToken,
}

/// The body of `GET /v1/status`. Readers ignore members that they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// What the agent says of itself.
    #[serde(flatten)]
    pub status: Status,
    /// Who is told of changes.
    #[serde(default)]
    pub watchers: Vec<WatcherStatus>,
    /// What processes run on, as they say.
    #[serde(default)]
    pub processes: Vec<ProcessStatus>,
    /// What somebody should look at, each in one sentence; nothing when all is well.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Why a request is refused: the answer to it.
struct Refusal(Box<Response>);

fn refusal(status: StatusCode, words: impl std::fmt::Display) -> Refusal {
    Refusal(Box::new(answer::error(status, words)))
}

/// `GET /v1/<word>/<component>?…`, answered by a method of the service.
macro_rules! of_component {
    ($word:literal, $component:ident, $service:ident, $answer:ident $(, $who:ident)?) => {
        warp::path("v1")
            .and(warp::path($word))
            .and($component)
            .and(warp::get())
            .and(warp::query())
            .and($service.clone())
            .and(answer::request())
            .then(async |component: String, query, service: Service, request: Request| {
                match from_here(&request).and_then(|()| selected(&component)) {
                    Ok(component) => settle(service.$answer(component, query $(, $who(&request))?).await),
                    Err(refusal) => *refusal.0,
                }
            })
    };
}

/// Who asks, where the kernel says so.
fn user(request: &Request) -> Option<u32> {
    match request.peer {
        Peer::Unix { uid, .. } => Some(uid),
        Peer::Tcp(_) => None,
    }
}

/// All routes of the local service.
pub fn routes(service: Service) -> Routes {
    let service = warp::any().map(move || service.clone());
    let v1 = warp::path("v1");
    let selector = warp::path::param::<String>().and(warp::path::param::<String>());
    let unversioned = selector.and(warp::path::end()).map(|kind, name| format!("{kind}/{name}"));
    let versioned = selector.and(warp::path::param::<String>()).and(warp::path::end());
    let versioned = versioned.map(|kind, name, version| format!("{kind}/{name}/{version}"));
    let component = unversioned.or(versioned).unify();

    let config = v1
        .and(warp::path("config"))
        .and(component)
        .and(warp::get())
        .and(warp::query())
        .and(service.clone())
        .and(answer::request())
        .then(async |component: String, query, service: Service, request: Request| {
            let known = request.header(header::IF_NONE_MATCH.as_str()).map(str::to_owned);
            let may_see = sees_secrets(&request);
            match from_here(&request).and_then(|()| selected(&component)) {
                Ok(component) => settle(service.config(component, query, known, may_see).await),
                Err(refusal) => *refusal.0,
            }
        });
    let explain = of_component!("explain", component, service, explain);
    let schema = of_component!("schema", component, service, schema);
    let wait = of_component!("wait", component, service, wait, user);
    let status = warp::path!("v1" / "status")
        .and(warp::get())
        .and(warp::query())
        .and(service.clone())
        .and(answer::request())
        .then(async |query, service: Service, request: Request| match from_here(&request) {
            Ok(()) => settle(service.status_after(query, processes::sees(&request)).await),
            Err(refusal) => *refusal.0,
        });
    let at = warp::path!("v1" / "at" / String)
        .and(warp::get())
        .and(warp::query())
        .and(service.clone())
        .and(answer::request())
        .then(async |change: String, query, service: Service, request: Request| match from_here(&request) {
            Ok(()) => settle(service.at(&change, query, user(&request)).await),
            Err(refusal) => *refusal.0,
        });
    let events =
        warp::path!("v1" / "events").and(warp::get()).and(service.clone()).and(answer::request()).map(
            |service: Service, request: Request| settle(from_here(&request).and_then(|()| service.events(&request))),
        );
    let history = warp::path!("v1" / "history").and(warp::get()).and(service.clone()).and(answer::request()).map(
        |service: Service, request: Request| {
            settle(from_here(&request).map(|()| answer::json(StatusCode::OK, &service.history())))
        },
    );
    let processes = processes::routes(service.clone());
    let watchers = warp::path!("v1" / "watchers")
        .and(warp::post())
        .and(service.clone())
        .and(answer::request())
        .then(async |service: Service, request: Request| settle(service.register(request).await));
    let verify =
        warp::path!("v1" / "verify").and(warp::post()).and(warp::query()).and(service).and(answer::request()).then(
            async |query, service: Service, request: Request| match caller(&request) {
                Ok(user) => settle(service.verify(query, user).await),
                Err(refusal) => *refusal.0,
            },
        );

    let asked = config.boxed().or(wait.boxed()).unify().or(status.boxed()).unify().or(at.boxed()).unify().boxed();
    let shown = explain.boxed().or(schema.boxed()).unify().boxed();
    let told = events.boxed().or(history.boxed()).unify().or(processes).unify().boxed();
    let done = watchers.boxed().or(verify.boxed()).unify().boxed();
    asked.or(shown).unify().or(told).unify().or(done).unify().boxed()
}

#[derive(Debug, Deserialize)]
struct StatusQuery {
    after: Option<Sequence>,
    timeout: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct VerifyQuery {
    #[serde(default)]
    repair: bool,
}

impl Service {
    /// The status as it is now; `reader` sees the words of processes.
    pub fn status(&self, reader: Reader) -> StatusAnswer {
        let status = self.agent.view().status.clone();
        let watchers = self.watchers.status();
        let processes = self.processes.status(reader);
        let mut problems = problems(&status, &watchers);
        problems.extend(processes.iter().flat_map(ProcessStatus::problems));
        StatusAnswer { status, watchers, processes, problems }
    }

    fn history(&self) -> Vec<HistoryEntry> {
        self.agent.history()
    }

    /// The status once something newer than `after` is exported, or when the time is up.
    async fn status_after(&self, query: StatusQuery, reader: Reader) -> Result<Response, Refusal> {
        if let Some(after) = query.after {
            let mut views = self.agent.follow();
            tokio::select! {
                _ = views.wait_for(|view| view.status.sequence > after) => {}
                () = tokio::time::sleep(patience(query.timeout)?) => {}
                () = self.stop.cancelled() => return Err(stopping()),
            }
        }
        Ok(answer::json(StatusCode::OK, &self.status(reader)))
    }

    async fn verify(&self, query: VerifyQuery, user: u32) -> Result<Response, Refusal> {
        if user != 0 && user != rustix::process::geteuid().as_raw() {
            let words = "a check reads the whole repository: only root and the agent's own user may start one";
            return Err(refusal(StatusCode::FORBIDDEN, words));
        }
        let report = self.agent.verify(query.repair).await.ok_or_else(stopping)?;
        Ok(answer::json(StatusCode::OK, &report))
    }
}

/// What somebody should look at.
fn problems(status: &Status, watchers: &[WatcherStatus]) -> Vec<String> {
    let mut problems = Vec::new();
    let arrived = status.pointer.is_some_and(|pointer| pointer.sequence == status.sequence);
    let shown_below = arrived && (!status.faults.is_empty() || status.probes.iter().any(|probe| !probe.passed));
    if let Some(error) = status.error.as_ref().filter(|_| !shown_below) {
        problems.push(match status.state {
            HostState::Failed => format!("the newest change is not exported: {error}"),
            HostState::Current | HostState::Updating => error.clone(),
        });
    }
    problems
        .extend(status.faults.iter().map(|(component, fault)| format!("{component} keeps its older files: {fault}")));
    problems.extend(status.placements.iter().filter_map(|one| {
        let error = one.error.as_ref()?;
        Some(format!("{} at {} is not what is exported: {error}", one.component, one.path.display()))
    }));
    problems.extend(crate::probe::failing(&status.probes));
    problems.extend(status.away.iter().map(|(what, why)| format!("{what} cannot be reached: {why}")));
    let troubled = |one: &&WatcherStatus| matches!(one.state, WatcherState::Waiting | WatcherState::Failed);
    problems.extend(watchers.iter().filter(troubled).map(|one| {
        format!("{} is not told: {}", one.target, one.error.as_deref().unwrap_or("it takes longer than usual"))
    }));
    problems
}

fn settle(answered: Result<Response, Refusal>) -> Response {
    answered.unwrap_or_else(|refusal| *refusal.0)
}

fn selected(component: &str) -> Result<ComponentSelector, Refusal> {
    component.parse().map_err(|error| refusal(StatusCode::BAD_REQUEST, error))
}

/// Refuses what a web page in a browser on this host may send to the loopback port under a name of its own.
fn from_here(request: &Request) -> Result<(), Refusal> {
    if matches!(request.peer, Peer::Unix { .. }) {
        return Ok(());
    }
    let host = request.header(header::HOST.as_str()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let is_loopback = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_loopback || name == "localhost" {
        return Ok(());
    }
    Err(refusal(StatusCode::FORBIDDEN, "ask for localhost or 127.0.0.1: this service is for this host alone"))
}

/// Root and the agent's own user could read the files as well.
fn sees_secrets(request: &Request) -> bool {
    caller(request).is_ok_and(|user| user == 0 || user == rustix::process::geteuid().as_raw())
}

/// The user who asks, as the kernel says.
fn caller(request: &Request) -> Result<u32, Refusal> {
    match request.peer {
        Peer::Unix { uid, .. } => Ok(uid),
        Peer::Tcp(_) => {
            let words = "only over the agent's Unix socket, where it can tell who asks; see --socket";
            Err(refusal(StatusCode::FORBIDDEN, words))
        }
    }
}

fn patience(timeout: Option<f64>) -> Result<Duration, Refusal> {
    let timeout = Duration::try_from_secs_f64(timeout.unwrap_or(LONGEST_WAIT.as_secs_f64()));
    let bad = |_| refusal(StatusCode::BAD_REQUEST, "timeout is a number of seconds, as in timeout=10");
    Ok(timeout.map_err(bad)?.min(LONGEST_WAIT))
}

fn stopping() -> Refusal {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping; ask again when it runs")
}

fn nothing_yet() -> Refusal {
    let words = "nothing is exported on this host yet; `conf-local status` says what the agent waits for";
    refusal(StatusCode::SERVICE_UNAVAILABLE, words)
}

/// For errors of this host's disk.
fn broken(error: impl std::fmt::Display) -> Refusal {
    refusal(StatusCode::INTERNAL_SERVER_ERROR, format_args!("{error}; run `conf-local verify --repair`"))
}
