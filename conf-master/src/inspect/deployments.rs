//! A datacenter's deployments, newest first: the chain of its snapshots, each compared with the one
//! before.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use conf_core::access::TokenId;
use conf_core::snapshot::{Component, Difference, Snapshot, compare};
use git2::{Oid, Repository, Sort};
use libconf::name::{CommitId, ComponentVersion, RefName, SecretName, Sequence};
use serde::{Deserialize, Serialize};

use crate::judge::compatibility::trailer;
use crate::secrets::branch;
use crate::store::{self, Proven};
use crate::text::{one_line, when};

/// One deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deployment {
    /// Its number.
    pub(crate) sequence: Sequence,
    /// The time, RFC 3339, UTC.
    pub(crate) when: String,
    /// Who made the change.
    pub(crate) by: String,
    /// Whether that was proven; absent where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proven: Option<bool>,
    /// The token that proved that, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<TokenId>,
    /// The way in: `http <address>`, `path`, `ssh`; absent for what is too long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) through: Option<String>,
    /// The commit of the policy that allowed it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<CommitId>,
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
    /// The commits that it brought, newest first for each branch: of each at most some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pushed: Vec<PushedCommit>,
    /// How many more it brought, at least.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) more_pushed: usize,
    /// The declared breaks of compatibility.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) breaking: Vec<Breaking>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A commit that a deployment brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PushedCommit {
    /// The place of the commit: a component, or the branch or tag of the datacenter or its class.
    pub(crate) name: String,
    /// The commit.
    pub(crate) commit: CommitId,
    /// The first line of its message.
    pub(crate) subject: String,
    /// Its author.
    pub(crate) author: String,
}

/// The most commits of one branch that a deployment lists.
const MOST_COMMITS: usize = 5;
/// The most commits that a deployment lists.
const MOST_PUSHED: usize = 20;
/// The most commits of one deployment that are counted.
const MOST_COUNTED: usize = 200;
/// How long histories are walked for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

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
    let (mut deployments, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    let mut next = Some(snapshot);
    while let Some(snapshot) = next.take().filter(|_| deployments.len() < limit) {
        let parent = snapshot.parent.map(|parent| Snapshot::read(repo, parent)).transpose()?;
        let difference = compare(repo, parent.as_ref(), &snapshot)?;
        let commit = |component: Component| component.pin.commit;
        let moved = moved(parent.as_ref(), &snapshot, &difference);
        let breaking = breaking(repo, &moved, deadline)?;
        let (pushed, more_pushed) = pushed(repo, &moved, deadline)?;
        let components = difference.components.into_iter().map(|(component, change)| ComponentChange {
            component,
            before: change.before.map(commit),
            after: change.after.map(commit),
        });
        deployments.push(Deployment {
            sequence: snapshot.sequence,
            when: when(snapshot.time),
            by: snapshot.by.clone(),
            proven: None,
            token: None,
            through: None,
            policy: None,
            commit: snapshot.commit,
            components: components.collect(),
            datacenter: difference.datacenter,
            class: difference.class,
            secrets: secrets(repo, &snapshot, difference.secrets)?,
            pushed,
            more_pushed,
            breaking,
        });
        next = parent;
    }
    Ok(deployments)
}

/// Adds what the ledger knows of deployments: the token, the way in, the policy.
pub(crate) fn prove(repo: &Repository, ledger: CommitId, deployments: &mut [Deployment]) -> anyhow::Result<()> {
    let wanted = deployments.iter().map(|one| one.sequence).collect();
    let mut entries = store::entries(repo, ledger, &wanted, Instant::now() + PATIENCE)?;
    for one in deployments {
        let Some(entry) = entries.remove(&one.sequence) else { continue };
        (one.proven, one.token) = (entry.proven.map(|proven| proven != Proven::No), entry.token);
        (one.through, one.policy) = (Some(entry.through), entry.policy);
    }
    Ok(())
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

/// The place of what a deployment moved, its commit before, where there was one, and after.
type Moved = (String, Option<CommitId>, CommitId);

/// Lists what a deployment moved: the datacenter's branch, its class, its components.
fn moved(before: Option<&Snapshot>, after: &Snapshot, difference: &Difference) -> Vec<Moved> {
    let components = difference.components.iter().filter_map(|(name, change)| {
        let commit = |component: &Component| component.pin.commit;
        Some((name.to_string(), change.before.as_ref().map(commit), commit(change.after.as_ref()?)))
    });
    let own = after.datacenter_commit.map(|commit| {
        let name = RefName::Datacenter(after.datacenter.clone()).short();
        (name, before.and_then(|before| before.datacenter_commit), commit)
    });
    let class = after.class.as_ref().map(|(name, commit)| {
        (name.short(), before.and_then(|before| before.class.as_ref()).map(|(_, commit)| *commit), *commit)
    });
    own.into_iter().chain(class).chain(components).filter(|(_, old, new)| *old != Some(*new)).collect()
}

/// Lists the commits that a deployment brought, and counts those that are not listed. Of what is
/// new, only the newest is told: its history may be older than the datacenter. After the deadline
/// no history is walked.
fn pushed(repo: &Repository, moved: &[Moved], deadline: Instant) -> Result<(Vec<PushedCommit>, usize), git2::Error> {
    let (mut pushed, mut more) = (Vec::new(), 0);
    for (name, old, new) in moved {
        let left = MOST_COUNTED.saturating_sub(pushed.len() + more);
        let commits = match old {
            _ if left == 0 => break,
            None => vec![Oid::from(*new)],
            Some(_) if Instant::now() > deadline => continue,
            Some(old) => {
                let mut walk = repo.revwalk()?;
                walk.set_sorting(Sort::TOPOLOGICAL)?;
                walk.push((*new).into())?;
                walk.hide((*old).into())?;
                walk.take(left).collect::<Result<_, _>>()?
            }
        };
        let listed = MOST_COMMITS.min(MOST_PUSHED - pushed.len()).min(commits.len());
        more += commits.len() - listed;
        for commit in &commits[..listed] {
            let commit = repo.find_commit(*commit)?;
            pushed.push(PushedCommit {
                name: name.clone(),
                commit: commit.id().into(),
                subject: one_line(&String::from_utf8_lossy(commit.summary_bytes().unwrap_or_default())),
                author: one_line(&String::from_utf8_lossy(commit.author().name_bytes())),
            });
        }
    }
    Ok((pushed, more))
}

/// Collects the breaks of compatibility that the new commits declare. What was added breaks
/// nothing. After the deadline no history is walked.
fn breaking(repo: &Repository, moved: &[Moved], deadline: Instant) -> Result<Vec<Breaking>, git2::Error> {
    let mut breaking = Vec::new();
    for (name, old, new) in moved {
        let Some(old) = old.filter(|_| Instant::now() <= deadline) else { continue };
        let reasons = trailer::between(repo, old, *new)?.into_iter();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_new_no_history_is_read_and_none_after_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let tree = repo.treebuilder(None).unwrap().write().unwrap();
        let commit = |parents: &[CommitId], subject: &str| -> CommitId {
            let parents = parents.iter().map(|parent| format!("parent {parent}\n")).collect::<Vec<_>>().concat();
            let text = format!("tree {tree}\n{parents}author a <a> 1 +0000\ncommitter a <a> 1 +0000\n\n{subject}\n");
            repo.odb().unwrap().write(git2::ObjectType::Commit, text.as_bytes()).unwrap().into()
        };
        // Whoever reads its history meets a commit that is not there.
        let new = commit(&["1".repeat(40).parse().unwrap()], "new");
        let first = commit(&[], "first");
        let moved: Vec<Moved> =
            vec![("a".to_owned(), None, new), ("b".to_owned(), Some(first), commit(&[first], "second"))];
        let subjects = |moved: &[Moved], deadline: Instant| {
            let (pushed, more) = pushed(&repo, moved, deadline).unwrap();
            (pushed.into_iter().map(|one| one.subject).collect::<Vec<_>>().join(" "), more)
        };
        let now = Instant::now();
        assert_eq!(subjects(&moved, now + PATIENCE), ("new second".to_owned(), 0));
        assert_eq!(subjects(&moved, now.checked_sub(PATIENCE).unwrap()), ("new".to_owned(), 0));
        let many: Vec<Moved> = (0..MOST_COUNTED + 7).map(|number| (number.to_string(), None, new)).collect();
        let (listed, more) = pushed(&repo, &many, now + PATIENCE).unwrap();
        assert_eq!((listed.len(), more), (MOST_PUSHED, MOST_COUNTED - MOST_PUSHED), "the rest is not looked at");
    }
}
