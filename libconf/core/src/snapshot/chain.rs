//! The chain of a datacenter's snapshots, each the parent of the next: finds the newest one at a
//! change.

use git2::{ErrorCode, Repository};

use crate::{
    api::Pointer,
    snapshot::{commit::Snapshot, error::SnapshotError},
};
use libconf::name::{CommitId, Sequence};

/// The most snapshots that are followed back; each takes about 10 µs.
const MOST_SNAPSHOTS: usize = 200_000;

/// The snapshots around a change, as far as a repository knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AroundChange {
    /// `at` is `None` when the first snapshot is above the change; `next` is `None` when `at` is
    /// the snapshot where the search began.
    Known {
        /// The newest snapshot not above the change.
        at: Option<Pointer>,
        /// The snapshot after it.
        next: Option<Pointer>,
    },
    /// Every snapshot here is above the change, and the chain goes on to one that is not here.
    CutOff,
}

/// Searches from the snapshot `newest` back for the newest one not above `change`. Reads no
/// signatures: a commit names its parents by their content, so trust in `newest` covers them all.
///
/// - Errors: a commit of the chain is no snapshot, or `newest` is missing.
pub fn around_change(repo: &Repository, newest: CommitId, change: Sequence) -> Result<AroundChange, SnapshotError> {
    let mut next = None;
    let mut commit = newest;
    for _ in 0..MOST_SNAPSHOTS {
        let snapshot = match Snapshot::read(repo, commit) {
            Err(SnapshotError::Read { cause, .. }) if next.is_some() && cause.code() == ErrorCode::NotFound => {
                return Ok(AroundChange::CutOff);
            }
            other => other?,
        };
        let here = Pointer { sequence: snapshot.sequence, commit };
        if here.sequence <= change {
            return Ok(AroundChange::Known { at: Some(here), next });
        }
        next = Some(here);
        match snapshot.parent {
            Some(parent) => commit = parent,
            None => return Ok(AroundChange::Known { at: None, next }),
        }
    }
    Ok(AroundChange::CutOff)
}
