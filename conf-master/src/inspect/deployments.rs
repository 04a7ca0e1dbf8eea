//! A datacenter's deployments, newest first: the chain of its snapshots, each compared with the one before.

use std::collections::BTreeSet;

use conf_core::snapshot::{Difference, Snapshot, compare};
use git2::Repository;
use libconf::name::{CommitId, ComponentVersion, RefName, SecretName, Sequence};
use serde::{Deserialize, Serialize};

use crate::{judge::compatibility::declared_between, secrets::branch};

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
    /// Secrets that were made, sealed anew, or removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretChange>,
    /// Where it breaks compatibility knowingly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breaking: Vec<Breaking>,
}

/// A commit among those that came says that it breaks compatibility.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Breaking {
    /// Whose commit: a component, or the branch or tag of the datacenter or its class.
    pub name: String,
    /// Why, in its author's words.
    pub reason: String,
}

/// What happened to one secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretChange {
    /// Which.
    pub name: SecretName,
    /// What.
    pub change: SecretEvent,
}

/// What can happen to a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretEvent {
    /// It has a new value.
    NewValue,
    /// Its value is sealed to other hosts than before.
    OtherHosts,
    /// It is gone.
    Removed,
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
        let commit = |component: conf_core::snapshot::Component| component.pin.commit;
        let breaking = breaking(repo, parent.as_ref(), &snapshot, &difference)?;
        deployments.push(Deployment {
            sequence: snapshot.sequence,
            when: when(snapshot.time),
            by: snapshot.by.clone(),
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
            secrets: secrets(repo, &snapshot, difference.secrets)?,
            breaking,
        });
        next = parent;
    }
    Ok(deployments)
}

/// The newest snapshot that is not above a change, of those from `newest` back; `None` where the first one is above it.
pub fn newest_at(repo: &Repository, newest: Snapshot, sequence: Sequence) -> anyhow::Result<Option<Snapshot>> {
    let mut snapshot = newest;
    while snapshot.sequence > sequence {
        let Some(parent) = snapshot.parent else { return Ok(None) };
        snapshot = Snapshot::read(repo, parent)?;
    }
    Ok(Some(snapshot))
}

/// What the commits that came say of compatibility. What came or went whole broke nothing.
fn breaking(
    repo: &Repository,
    before: Option<&Snapshot>,
    after: &Snapshot,
    difference: &Difference,
) -> Result<Vec<Breaking>, git2::Error> {
    let Some(before) = before else { return Ok(Vec::new()) };
    let components = difference.components.iter().filter_map(|(name, change)| {
        Some((name.to_string(), change.before.as_ref()?.pin.commit, change.after.as_ref()?.pin.commit))
    });
    let own = before.datacenter_commit.zip(after.datacenter_commit);
    let own = own.map(|(old, new)| (RefName::Datacenter(after.datacenter.clone()).short(), old, new));
    let class = before.class.as_ref().zip(after.class.as_ref());
    let class = class.map(|((_, old), (name, new))| (name.short(), *old, *new));
    let mut breaking = Vec::new();
    for (name, old, new) in components.chain(own).chain(class).filter(|(_, old, new)| old != new) {
        let reasons = declared_between(repo, old, new)?.into_iter();
        breaking.extend(reasons.map(|reason| Breaking { name: name.clone(), reason }));
    }
    Ok(breaking)
}

fn secrets(repo: &Repository, after: &Snapshot, changed: BTreeSet<SecretName>) -> anyhow::Result<Vec<SecretChange>> {
    if changed.is_empty() {
        return Ok(Vec::new());
    }
    let sealed = branch::abouts(repo, after.secrets_tree(repo)?)?;
    let change = |name: SecretName| {
        let change = match sealed.get(&name) {
            None => SecretEvent::Removed,
            Some(about) if about.sequence == after.sequence => SecretEvent::NewValue,
            Some(_) => SecretEvent::OtherHosts,
        };
        SecretChange { name, change }
    };
    Ok(changed.into_iter().map(change).collect())
}

/// Seconds since 1970 as RFC 3339, UTC.
pub fn when(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}
