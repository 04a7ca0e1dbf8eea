//! Earlier versions of a branch, found by walking the ledger back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use git2::Repository;
use libconf::name::{CommitId, RefName, Sequence};

use crate::store::layers::LayerChanges;
use crate::store::ledger::{LedgerEntry, LedgerError, previous};
use crate::store::refs::{Place, RefTarget, Table, version_after};

/// The most changes that a search walks back. Git still finds older versions.
const MOST_CHANGES: usize = 100_000;

/// The durable state, which is what answers may show.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    /// Every ref.
    pub(crate) table: Table,
    /// The newest entry of the ledger.
    pub(crate) ledger: CommitId,
    /// Its number.
    pub(crate) sequence: Sequence,
    /// The last change of each layer.
    pub(crate) layers: LayerChanges,
}

/// A moment of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The moment when it had this version.
    Version(i64),
    /// The moment after this change, of whichever branch.
    Sequence(Sequence),
}

/// A branch at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PastBranch {
    /// Its commit.
    pub(crate) commit: CommitId,
    /// Its version.
    pub(crate) version: i64,
    /// The change that made it.
    pub(crate) sequence: Sequence,
}

/// Finds the entries of some changes, from the newest back; those that are too long ago, or after
/// the deadline, are left out.
pub(crate) fn entries(
    repo: &Repository,
    ledger: CommitId,
    wanted: &BTreeSet<Sequence>,
    deadline: Instant,
) -> Result<BTreeMap<Sequence, LedgerEntry>, LedgerError> {
    let (mut found, mut next) = (BTreeMap::new(), Some(ledger));
    for _ in 0..MOST_CHANGES {
        let Some(commit) = next.filter(|_| found.len() < wanted.len() && Instant::now() < deadline) else { break };
        let entry = LedgerEntry::read(repo, commit)?;
        if wanted.contains(&entry.sequence) {
            found.insert(entry.sequence, entry);
        }
        next = previous(repo, commit)?;
    }
    Ok(found)
}

/// Finds a branch, which is now at `place`, as it was at a moment.
///
/// Returns `None` when the branch did not exist then, or when that is too long ago.
pub(crate) fn find(
    repo: &Repository,
    ledger: CommitId,
    reference: &RefName,
    place: Place,
    at: Moment,
) -> Result<Option<PastBranch>, LedgerError> {
    let (mut commit, mut changes) = (ledger, place.changes);
    for _ in 0..MOST_CHANGES {
        if changes == 0 {
            return Ok(None);
        }
        let entry = LedgerEntry::read(repo, commit)?;
        if let Some(found) = entry.moves.iter().find(|one| one.name == *reference) {
            let version = version_after(changes);
            let is_it = match at {
                Moment::Version(wanted) if wanted > version => return Ok(None),
                Moment::Version(wanted) => wanted == version,
                Moment::Sequence(wanted) => entry.sequence <= wanted,
            };
            if is_it {
                let past = |new: RefTarget| PastBranch { commit: new.commit, version, sequence: entry.sequence };
                return Ok(found.new.map(past));
            }
            changes -= 1;
        }
        match previous(repo, commit)? {
            Some(parent) => commit = parent,
            None => return Ok(None),
        }
    }
    Ok(None)
}
