//! A datacenter's deployments, newest first: the chain of its snapshots, each compared with the one
//! before.

use std::collections::BTreeSet;

use conf_core::snapshot::{Component, Difference, Snapshot, compare};
use git2::Repository;
use libconf::name::{CommitId, ComponentVersion, RefName, SecretName, Sequence};
use serde::{Deserialize, Serialize};

use crate::judge::compatibility::trailer;
use crate::secrets::branch;
use crate::text::when;

/// One deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deployment {
    /// Its number.
    pub(crate) sequence: Sequence,
    /// The time, RFC 3339, UTC.
    pub(crate) when: String,
    /// Who made the change.
    pub(crate) by: String,
    /// The snapshot.
    pub(crate) commit: CommitId,
    /// Components that were added, changed or removed.
    pub(crate) components: Vec<ComponentChange>,
    /// The datacenter's own branch changed.
    pub(crate) datacenter: bool,
    /// The class changed.
    pub(crate) class: bool,
    /// Secrets that were made, sealed anew, or removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) secrets: Vec<SecretChange>,
    /// The declared breaks of compatibility.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) breaking: Vec<Breaking>,
}

/// A commit of this deployment declares that it breaks compatibility.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Breaking {
    /// The place of the commit: a component, or the branch or tag of the datacenter or its class.
    pub(crate) name: String,
    /// The reason, in its author's words.
    pub(crate) reason: String,
}

/// What happened to one secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SecretChange {
    /// The secret.
    pub(crate) name: SecretName,
    /// The event.
    pub(crate) change: SecretEvent,
}

/// An event of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SecretEvent {
    /// It has a new value.
    NewValue,
    /// Its value is sealed to other hosts than before.
    OtherHosts,
    /// It is gone.
    Removed,
}

/// One component before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ComponentChange {
    /// The component.
    pub(crate) component: ComponentVersion,
    /// Its commit before; absent when it was added.
    pub(crate) before: Option<CommitId>,
    /// Its commit now; absent when it was removed.
    pub(crate) after: Option<CommitId>,
}

/// Walks back from `snapshot`, at most `limit` deployments.
pub(crate) fn newest(repo: &Repository, snapshot: Snapshot, limit: usize) -> anyhow::Result<Vec<Deployment>> {
    let mut deployments = Vec::new();
    let mut next = Some(snapshot);
    while let Some(snapshot) = next.take().filter(|_| deployments.len() < limit) {
        let parent = snapshot.parent.map(|parent| Snapshot::read(repo, parent)).transpose()?;
        let difference = compare(repo, parent.as_ref(), &snapshot)?;
        let commit = |component: Component| component.pin.commit;
        let breaking = breaking(repo, parent.as_ref(), &snapshot, &difference)?;
        let components = difference.components.into_iter().map(|(component, change)| ComponentChange {
            component,
            before: change.before.map(commit),
            after: change.after.map(commit),
        });
        deployments.push(Deployment {
            sequence: snapshot.sequence,
            when: when(snapshot.time),
            by: snapshot.by.clone(),
            commit: snapshot.commit,
            components: components.collect(),
            datacenter: difference.datacenter,
            class: difference.class,
            secrets: secrets(repo, &snapshot, difference.secrets)?,
            breaking,
        });
        next = parent;
    }
    Ok(deployments)
}

/// Finds the newest snapshot that is not above a change, from `newest` back; `None` when even the
/// first one is above it.
pub(crate) fn newest_at(repo: &Repository, newest: Snapshot, sequence: Sequence) -> anyhow::Result<Option<Snapshot>> {
    let mut snapshot = newest;
    while snapshot.sequence > sequence {
        let Some(parent) = snapshot.parent else { return Ok(None) };
        snapshot = Snapshot::read(repo, parent)?;
    }
    Ok(Some(snapshot))
}

/// Collects the breaks of compatibility that the new commits declare. A component that was added or
/// removed breaks nothing.
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
        let reasons = trailer::between(repo, old, new)?.into_iter();
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
