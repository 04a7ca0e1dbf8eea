//! Which layers set each key of a component's settings on a host, and the commit that wrote each
//! line.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use conf_core::layers::{self, Explained, LayerError, Origin};
use conf_core::settings::JsonPointer;
use conf_core::snapshot::{Component, Snapshot};
use git2::Repository;
use libconf::name::{CommitId, ComponentSelector, ComponentVersion, DatacenterName, HostName, RefName, Sequence};
use serde::{Deserialize, Serialize};

use crate::inspect::blame::{self, Change};
use crate::inspect::error::InspectError;
use crate::inspect::running::Running;

/// How long the history is searched. What is not found by then is not told.
const PATIENCE: Duration = Duration::from_secs(5);

/// The commits that changed a file.
struct Changes {
    /// The one that changed a line last, for each line.
    of_lines: HashMap<usize, Change>,
    /// The last one, where it is asked for.
    of_file: Option<Change>,
}

impl Changes {
    /// Returns the commit that wrote a line; for what has no line, the last one of the file. `None`
    /// when it was not found in time: the last change of a file need not be the line's.
    fn of(&self, line: Option<usize>) -> Option<&Change> {
        line.map_or(self.of_file.as_ref(), |line| self.of_lines.get(&line))
    }
}

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
    let deadline = Instant::now() + PATIENCE;
    let mut wanted: BTreeMap<(CommitId, String), BTreeSet<Option<usize>>> = BTreeMap::new();
    for by in keys.iter().flat_map(|key| &key.set_by) {
        let Some((_, commit)) = place(snapshot, component, &by.origin) else { continue };
        wanted.entry((commit, by.file.clone())).or_default().insert(by.line);
    }
    let mut known: HashMap<(CommitId, String), Changes> = HashMap::new();
    for ((commit, file), lines) in wanted {
        let of_file = if lines.contains(&None) { blame::file(repo, commit, &file, deadline)? } else { None };
        let lines = lines.into_iter().flatten().collect();
        let of_lines = blame::lines(repo, commit, &file, &lines, deadline)?.unwrap_or_default();
        known.insert((commit, file), Changes { of_lines, of_file });
    }
    for by in keys.iter_mut().flat_map(|key| &mut key.set_by) {
        let Some((reference, commit)) = place(snapshot, component, &by.origin) else { continue };
        by.reference = Some(reference);
        let change = known.get(&(commit, by.file.clone())).and_then(|changes| changes.of(by.line)).cloned();
        by.commit = change.as_ref().map(|change| change.commit);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_file_is_not_taken_for_a_lines() {
        let change = |id: &str, author: &str| {
            let (author, date) = (author.to_owned(), String::new());
            Change { commit: id.repeat(40).parse().unwrap(), author, date }
        };
        let changes = Changes { of_lines: [(3, change("a", "Ann"))].into(), of_file: Some(change("b", "Bob")) };
        let author = |line: Option<usize>| changes.of(line).map(|change| change.author.as_str());
        assert_eq!((author(Some(3)), author(Some(4)), author(None)), (Some("Ann"), None, Some("Bob")));
    }
}
