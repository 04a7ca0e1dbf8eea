//! Which layers set each key of a component's settings on a host, and the commit that changed each
//! file last.

use std::collections::HashMap;

use anyhow::Context as _;
use conf_core::git;
use conf_core::layers::{self, Explained, LayerError, Origin};
use conf_core::settings::JsonPointer;
use conf_core::snapshot::{Component, Snapshot};
use git2::Repository;
use libconf::name::{CommitId, ComponentSelector, ComponentVersion, DatacenterName, HostName, RefName, Sequence};
use serde::{Deserialize, Serialize};

use crate::inspect::error::InspectError;
use crate::inspect::running::Running;

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// The datacenter.
    pub(crate) datacenter: DatacenterName,
    /// The component.
    pub(crate) component: ComponentVersion,
    /// The host; absent for a host that is not listed.
    pub(crate) host: Option<HostName>,
    /// The change.
    pub(crate) sequence: Sequence,
    /// The snapshot of that change.
    pub(crate) commit: CommitId,
    /// Every key, in order; empty when the component has no settings.
    pub(crate) keys: Vec<Explained>,
}

/// Explains the keys at or below `key`, as they are in a snapshot.
pub(crate) fn explain(
    repo: &Repository,
    snapshot: &Snapshot,
    selector: &ComponentSelector,
    key: &str,
    host: Option<&HostName>,
) -> Result<Explanation, InspectError> {
    let running = Running::find(repo, snapshot, selector)?;
    host.map_or(Ok(()), |host| running.on(host))?;
    let (name, component, sources) = (&running.name, &running.component, running.sources());
    let Ok(pointer) = key.parse::<JsonPointer>();
    let stack = match layers::stack(repo, &sources, &name.component, host) {
        Ok(stack) => stack,
        Err(LayerError::Repository(cause)) => return Err(cause.into()),
        Err(faults @ LayerError::Faults(_)) => {
            return Err(InspectError::NotThere(format!("hosts cannot read {name}: {faults}")));
        }
    };
    let mut keys = stack.explain(Some(&pointer));
    if keys.is_empty() && !pointer.parts().is_empty() {
        return Err(InspectError::NotThere(format!("no layer of {name} sets {pointer}")));
    }
    let mut known: HashMap<(CommitId, String), Option<Change>> = HashMap::new();
    for by in keys.iter_mut().flat_map(|key| &mut key.set_by) {
        let Some((reference, commit)) = place(snapshot, component, &by.origin) else { continue };
        by.reference = Some(reference);
        let file = (commit, by.file.clone());
        if !known.contains_key(&file) {
            known.insert(file.clone(), last_change(repo, commit, &by.file)?);
        }
        let change = known.get(&file).cloned().flatten();
        by.commit = Some(change.as_ref().map_or(commit, |change| change.commit));
        (by.author, by.date) = change.map(|change| (change.author, change.date)).unzip();
    }
    let (datacenter, host) = (snapshot.datacenter.clone(), host.cloned());
    let (sequence, commit) = (snapshot.sequence, snapshot.commit);
    Ok(Explanation { datacenter, component: name.clone(), host, sequence, commit, keys })
}

/// Returns the branch or tag of a layer, and its commit in the snapshot.
fn place(snapshot: &Snapshot, component: &Component, origin: &Origin) -> Option<(String, CommitId)> {
    match origin {
        Origin::Component => {
            let (name, pin) = (&component.pin.component, &component.pin);
            let at = if name.version.is_latest() { pin.branch.to_string() } else { name.version.to_string() };
            Some((format!("{}/{at}", name.component), pin.commit))
        }
        Origin::Class => snapshot.class.as_ref().map(|(name, commit)| (name.short(), *commit)),
        Origin::Datacenter | Origin::Role(_) | Origin::Host(_) => {
            let branch = RefName::Datacenter(snapshot.datacenter.clone()).short();
            Some((branch, snapshot.datacenter_commit?))
        }
    }
}

/// The commit that changed a file last.
#[derive(Clone, Debug)]
struct Change {
    commit: CommitId,
    author: String,
    date: String,
}

/// Finds the last change of a file at or before a commit. Git walks the history itself, because it
/// uses the index of the history.
fn last_change(repo: &Repository, commit: CommitId, file: &str) -> anyhow::Result<Option<Change>> {
    let mut log = git::command(repo.path());
    log.args(["--literal-pathspecs", "log", "-1", "--format=%H%x00%an%x00%aI", "--end-of-options"]);
    let output = log.arg(commit.to_string()).arg("--").arg(file).output().context("cannot run git log")?;
    anyhow::ensure!(output.status.success(), "git log: {}", String::from_utf8_lossy(&output.stderr).trim());
    let line = String::from_utf8_lossy(&output.stdout);
    let mut parts = line.trim_end_matches('\n').split('\0');
    let (Some(id), Some(author), Some(date)) = (parts.next(), parts.next(), parts.next()) else { return Ok(None) };
    Ok(Some(Change { commit: id.parse()?, author: author.to_owned(), date: date.to_owned() }))
}
