//! A datacenter's deployments, newest first: the chain of its snapshots, each compared with the one before.

use git2::Repository;
use libconf::{
    name::{CommitId, ComponentVersion, Sequence},
    tier::snapshot::{Snapshot, compare},
};
use serde::{Deserialize, Serialize};

/// One deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its number.
    pub sequence: Sequence,
    /// When, RFC 3339, UTC.
    pub when: String,
    /// Who made the change.
    pub by: String,
    /// The snapshot.
    pub commit: CommitId,
    /// Components that came, changed or went.
    pub components: Vec<ComponentChange>,
    /// The datacenter's own branch changed.
    pub datacenter: bool,
    /// The class changed.
    pub class: bool,
}

/// One component before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentChange {
    /// Which component.
    pub component: ComponentVersion,
    /// Its commit before; nothing where it came.
    pub before: Option<CommitId>,
    /// Its commit now; nothing where it went.
    pub after: Option<CommitId>,
}

/// Walks back from `snapshot`, at most `limit` deployments.
pub fn newest(repo: &Repository, snapshot: Snapshot, limit: usize) -> anyhow::Result<Vec<Deployment>> {
    let mut deployments = Vec::new();
    let mut next = Some(snapshot);
    while let Some(snapshot) = next.take().filter(|_| deployments.len() < limit) {
        let parent = snapshot.parent.map(|parent| Snapshot::read(repo, parent)).transpose()?;
        let difference = compare(repo, parent.as_ref(), &snapshot)?;
        let commit = |component: libconf::tier::snapshot::Component| component.pin.commit;
        deployments.push(Deployment {
            sequence: snapshot.sequence,
            when: when(snapshot.time),
            by: snapshot.by,
            commit: snapshot.commit,
            components: difference
                .components
                .into_iter()
                .map(|(component, change)| ComponentChange {
                    component,
                    before: change.before.map(commit),
                    after: change.after.map(commit),
                })
                .collect(),
            datacenter: difference.datacenter,
            class: difference.class,
        });
        next = parent;
    }
    Ok(deployments)
}

/// Seconds since 1970 as RFC 3339, UTC.
pub fn when(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}
