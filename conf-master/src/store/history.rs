//! What a branch was: earlier versions of it, found by walking the ledger back.

use git2::Repository;
use libconf::name::{CommitId, RefName, Sequence};

use crate::{
    landing::update::version_after,
    store::{
        ledger::{Entry, LedgerError},
        refs::{Place, Table},
    },
};

/// How many changes are walked back at most; who asks for what is older still finds it with git.
const MOST_CHANGES: usize = 100_000;

/// What is durable: what answers may say.
#[derive(Clone, Debug)]
pub struct Durable {
    /// Every ref.
    pub table: Table,
    /// The newest entry of the ledger.
    pub ledger: CommitId,
    /// Its number.
    pub sequence: Sequence,
}

/// A moment of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// When it had this version.
    Version(i64),
    /// After this change, of whichever branch.
    Sequence(Sequence),
}

/// What a branch was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// Its commit.
    pub commit: CommitId,
    /// Its version.
    pub version: i64,
    /// The change that made it so.
    pub sequence: Sequence,
}

/// Finds what a branch, now at `place`, was at a moment; `None` where it was not there, or where that is too long ago.
pub fn find(
    repo: &Repository,
    ledger: CommitId,
    reference: &RefName,
    place: Place,
    at: At,
) -> Result<Option<Past>, LedgerError> {
    let (mut commit, mut changes) = (ledger, place.changes);
    for _ in 0..MOST_CHANGES {
        if changes == 0 {
            return Ok(None);
        }
        let entry = Entry::read(repo, commit)?;
        if let Some(found) = entry.moves.iter().find(|one| one.name == *reference) {
            let version = version_after(changes);
            let is_it = match at {
                At::Version(wanted) if wanted > version => return Ok(None),
                At::Version(wanted) => wanted == version,
                At::Sequence(wanted) => entry.sequence <= wanted,
            };
            if is_it {
                let past =
                    |new: crate::store::refs::Target| Past { commit: new.commit, version, sequence: entry.sequence };
                return Ok(found.new.map(past));
            }
            changes -= 1;
        }
        match repo.find_commit(commit.into())?.parent_id(0) {
            Ok(parent) => commit = parent.into(),
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}
