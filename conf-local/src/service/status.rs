//! `GET /v1/status`: the host's state; and `POST /v1/verify`, which checks it.

use conf_core::{
    api::HostState,
    freshness::{FreshnessState, Moment},
    http::Request,
};
use http::StatusCode;
use libconf::name::Sequence;
use serde::{Deserialize, Serialize};

use crate::{
    notify::{WatcherState, WatcherStatus},
    service::{
        process_reports::{ProcessStatus, Reader},
        refusal::{Answer, is_privileged, ok, patience, reader, refusal, stopping, unnamed, user},
        routes::Service,
    },
    state::{Status, WriterRequest, failing},
};

/// The body of the answer. Readers ignore unknown members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAnswer {
    #[serde(flatten)]
    pub(crate) status: Status,
    #[serde(default)]
    pub(crate) watchers: Vec<WatcherStatus>,
    /// The snapshots that processes run on, as they report.
    #[serde(default)]
    pub(crate) processes: Vec<ProcessStatus>,
    /// Problems that a person should look at, each in one sentence.
    #[serde(default)]
    pub problems: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StatusQuery {
    after: Option<Sequence>,
    timeout: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct VerifyQuery {
    #[serde(default)]
    repair: bool,
}

impl Service {
    /// Returns the state as it is now, with the errors of processes that `reader` may read.
    pub fn status(&self, reader: Reader) -> StatusAnswer {
        let view = self.agent.view();
        let freshness = FreshnessState::of(&view.freshness, Moment::now());
        let status = Status { freshness, ..view.status.clone() };
        let watchers = self.watchers.status();
        let processes = self.processes.status(reader);
        let mut problems = problems(&status, &watchers);
        problems.extend(processes.iter().flat_map(ProcessStatus::problems));
        StatusAnswer { status, watchers, processes, problems }
    }

    /// Answers once a change newer than `after` is exported, or when the time is up.
    pub(crate) async fn status_after(&self, query: StatusQuery, request: Request) -> Answer {
        let reader = reader(&request);
        if let Some(after) = query.after {
            let mut views = self.agent.follow();
            tokio::select! {
                _ = views.wait_for(|view| view.status.sequence > after) => {}
                () = tokio::time::sleep(patience(query.timeout)?) => {}
                () = self.stop.cancelled() => return Err(stopping()),
            }
        }
        ok(&self.status(reader))
    }

    pub(crate) async fn verify(&self, query: VerifyQuery, request: Request) -> Answer {
        user(&request).ok_or_else(unnamed)?;
        request.check_query(&["repair"])?;
        if !is_privileged(&request) {
            let words = "a check reads the whole repository: only root and the agent's own user may start one";
            return Err(refusal(StatusCode::FORBIDDEN, words));
        }
        let verify = |reply| WriterRequest::Verify { repair: query.repair, reply };
        ok(&self.agent.request(verify).await.ok_or_else(stopping)?)
    }
}

/// Describes what a person should look at.
fn problems(status: &Status, watchers: &[WatcherStatus]) -> Vec<String> {
    let mut problems = Vec::new();
    let arrived = status.pointer.is_some_and(|pointer| pointer.sequence == status.sequence);
    let probes_failed = status.probes.iter().any(|probe| !probe.passed);
    let shown_below = arrived && (status.shut_out.is_some() || !status.faults.is_empty() || probes_failed);
    if let Some(error) = status.error.as_ref().filter(|_| !shown_below) {
        problems.push(match status.state {
            HostState::Failed => format!("the newest change is not exported: {error}"),
            HostState::Current | HostState::Updating => error.clone(),
        });
    }
    problems.extend(status.shut_out.iter().map(|why| format!("this host keeps the files that it has: {why}")));
    problems.extend(status.damage.iter().cloned());
    problems.extend(status.missing.iter().cloned());
    problems
        .extend(status.faults.iter().map(|(component, fault)| format!("{component} keeps its earlier files: {fault}")));
    problems.extend(status.placements.iter().filter_map(|one| {
        let error = one.error.as_ref()?;
        Some(format!("{} at {} is not what is exported: {error}", one.component, one.path.display()))
    }));
    problems.extend(failing(&status.probes));
    problems.extend(status.deleted_words());
    problems.extend(status.freshness.problem().map(str::to_owned));
    problems.extend(status.away.iter().map(|(what, why)| {
        let is_server = what.contains("://") || what.starts_with("consul") || what == "reports";
        if is_server && !what.contains(" of ") {
            format!("{what} cannot be reached: {why}")
        } else {
            format!("{what}: {why}")
        }
    }));
    problems.extend(status.secrets.iter().cloned());
    let untold = watchers.iter().filter_map(|one| {
        let words = match one.state {
            WatcherState::Waiting => one.error.as_deref().unwrap_or("it takes longer than usual").to_owned(),
            // It may be tried again at this moment.
            WatcherState::Failed | WatcherState::Telling => format!("{}; trying again", one.error.as_ref()?),
            WatcherState::Idle | WatcherState::Told => return None,
        };
        Some(format!("{} is not told: {words}", one.target))
    });
    problems.extend(untold);
    problems
}
