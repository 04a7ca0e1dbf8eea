//! The chain of a datacenter's snapshots, each the parent of the next: which of them was the newest at a change.

use git2::{ErrorCode, Repository};

use crate::{
    api::Pointer,
    snapshot::{commit::Snapshot, error::SnapshotError},
};
use libconf::name::{CommitId, Sequence};

/// How far the chain is followed back: some 10 µs each.
const MOST_SNAPSHOTS: usize = 200_000;

/// What a repository knows of the moment of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AroundChange {
    /// The newest snapshot not above the change, none when the first one is above it; and the one after that, none when it
    /// is the one where the look began.
    Known {
        /// The newest not above the change.
        at: Option<Pointer>,
        /// The one after it.
        next: Option<Pointer>,
    },
    /// All that is here is above the change, and the chain goes on to what is not here.
    CutOff,
}

/// Looks from the snapshot `newest` back for the newest one not above `change`. Reads no signatures: a commit names its
/// parents by their content, so whoever trusts `newest` may trust them all.
///
/// - Errors: what is in the repository is no chain of snapshots, or `newest` is not there.
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
