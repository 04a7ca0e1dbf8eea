//! `GET /v1/wait/…`: whether this host's export is at or past a commit of a component, or a
//! sequence.
//!
//! A host may skip snapshots: a pointer that moved twice is followed once. So "past" means the
//! chain of snapshots below the exported one, not the earlier exports. A fetch brings the whole
//! chain between its two ends.

use std::path::Path;

use conf_core::{api::Pin, consul::PinValue, daemon::chain, git::RepositoryPool, http::Request, snapshot::fan_out};
use git2::Repository;
use http::StatusCode;
use libconf::name::{CommitId, ComponentSelector, ObjectId, Sequence};
use serde::{Deserialize, Serialize};

use crate::{
    service::{
        refusal::{Answer, blocking, component_of, ok, patience, refusal, stopping, user},
        routes::Service,
    },
    state::View,
};

/// 10,000 snapshots are searched for an old commit: each costs some microseconds.
const MOST_SNAPSHOTS: usize = 10_000;

#[derive(Debug, Deserialize)]
pub(crate) struct WaitQuery {
    at: Option<String>,
    sequence: Option<Sequence>,
    timeout: Option<f64>,
}

/// The answer: whether the export is there, or why not (yet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitAnswer {
    /// The export is at or past the goal.
    pub(crate) reached: bool,
    /// The change that is exported now.
    pub(crate) sequence: Sequence,
    /// Why the goal is not reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// The goal of a request.
struct Goal {
    component: ComponentSelector,
    at: Option<PinValue>,
    sequence: Option<Sequence>,
    /// The snapshot from which the chain was searched in vain.
    searched: Option<CommitId>,
}

impl Service {
    pub(crate) async fn wait(&self, component: String, query: WaitQuery, request: Request) -> Answer {
        let (component, user) = (component_of(&component)?, user(&request));
        let at = query.at.as_deref().map(str::parse::<PinValue>).transpose();
        let at = at.map_err(|error| refusal(StatusCode::BAD_REQUEST, error))?;
        let mut goal = Goal { component, at, sequence: query.sequence, searched: None };
        let mut views = self.agent.follow();
        let patience = patience(query.timeout)?;
        let until = tokio::time::sleep(patience);
        // A change that does not touch this datacenter never arrives here. Only servers know that
        // it has passed.
        let (wanted, mut asked) = (goal.sequence.unwrap_or_default(), false);
        let asking = self.demand.at(wanted, patience, user);
        tokio::pin!(until, asking);
        loop {
            let view = views.borrow_and_update().clone();
            let sequence = view.status.sequence;
            let repository = self.repository.clone();
            let missing;
            (missing, goal) = blocking(move || Ok((goal.missing(&view, &repository), goal))).await?;
            let Some(reason) = missing else {
                return ok(&WaitAnswer { reached: true, sequence, reason: None });
            };
            tokio::select! {
                // The view shows the result.
                _ = &mut asking, if !asked && wanted > sequence => asked = true,
                changed = views.changed() => changed.map_err(|_| stopping())?,
                () = &mut until => {
                    return ok(&WaitAnswer { reached: false, sequence, reason: Some(reason) });
                }
                () = self.stop.cancelled() => return Err(stopping()),
            }
        }
    }
}

impl Goal {
    /// Describes what is missing; `None` if the goal is reached.
    fn missing(&mut self, view: &View, repository: &RepositoryPool) -> Option<String> {
        let because = |words: String| match (&view.status.error, view.status.away.first_key_value()) {
            (Some(error), _) => Some(format!("{words}: {error}")),
            (None, Some((what, why))) => Some(format!("{words}: {what} cannot be reached: {why}")),
            (None, None) => Some(words),
        };
        let Some(exported) = &view.exported else { return because("nothing is exported on this host yet".to_owned()) };
        if let Some(wanted) = self.sequence.filter(|wanted| *wanted > exported.sequence.max(view.status.central)) {
            return because(format!("change {} is exported, {wanted} is not yet", exported.sequence));
        }
        let fault = view.status.faults.iter().find(|(component, _)| self.component.matches(component));
        let fault = fault.map(|(component, fault)| format!("{component} keeps its earlier files: {fault}"));
        let Some(at) = &self.at else {
            if exported.matching(&self.component).next().is_some() {
                return fault;
            }
            let near = exported.near(&self.component);
            return because(format!("change {} has no {} for this host{near}", exported.sequence, self.component));
        };
        let is_at = |pin: &Pin| pin.branch == at.branch && pin.commit == at.commit;
        if exported.matching(&self.component).filter_map(|(_, found)| found.pin.as_ref()).any(is_at) {
            return fault;
        }
        if exported.matching(&self.component).next().is_some() {
            match passed(repository, exported.commit, self.searched, &self.component, at) {
                Ok(true) => return fault,
                Ok(false) => self.searched = Some(exported.commit),
                Err(error) => return because(format!("cannot read the chain of snapshots: {}", chain(&error))),
            }
        }
        because(format!("{} is not at {at} yet; change {} is exported", self.component, exported.sequence))
    }
}

/// True if a snapshot from `newest` back to `searched` pins the component at `at`. The chain ends
/// where this host began to follow it.
fn passed(
    repository: &RepositoryPool,
    newest: CommitId,
    searched: Option<CommitId>,
    component: &ComponentSelector,
    at: &PinValue,
) -> Result<bool, git2::Error> {
    let repository = repository.lend()?;
    let wanted = at.to_string();
    let folder = format!(
        "{}/{}/{}",
        component.component.kind,
        fan_out(component.component.name.as_str()),
        component.component.name
    );
    let mut kind_before = None;
    let mut next = Some(newest).filter(|_| searched != Some(newest));
    for _ in 0..MOST_SNAPSHOTS {
        let Some(commit) = next.take() else { break };
        let commit = match repository.find_commit(commit.into()) {
            Ok(commit) => commit,
            Err(error) if error.code() == git2::ErrorCode::NotFound => break,
            Err(error) => return Err(error),
        };
        let tree = commit.tree()?;
        // Most changes leave the folder of a whole kind as it was.
        let kind = tree.get_name(component.component.kind.as_str()).map(|entry| entry.id());
        if kind != kind_before {
            kind_before = kind;
            if pins(&repository, &tree, &folder, component, &wanted)? {
                return Ok(true);
            }
        }
        next = commit.parent_id(0).ok().map(ObjectId::from).filter(|parent| Some(*parent) != searched);
    }
    Ok(false)
}

fn pins(
    repository: &Repository,
    tree: &git2::Tree<'_>,
    folder: &str,
    component: &ComponentSelector,
    wanted: &str,
) -> Result<bool, git2::Error> {
    let folder = match tree.get_path(Path::new(folder)) {
        Ok(entry) => entry.to_object(repository)?.peel_to_tree()?,
        Err(error) if error.code() == git2::ErrorCode::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in &folder {
        let Some(version) = entry.name().ok().and_then(|name| name.strip_prefix('@')) else { continue };
        if component.version.as_ref().is_some_and(|named| named.as_str() != version) {
            continue;
        }
        let pin = entry.to_object(repository)?.peel_to_blob()?;
        if pin.content().trim_ascii_end() == wanted.as_bytes() {
            return Ok(true);
        }
    }
    Ok(false)
}
