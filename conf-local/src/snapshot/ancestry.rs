//! Which snapshot follows from which.

use conf_core::{api::Pointer, sign::TrustedKeys, snapshot::Snapshot};
use git2::Repository as Git;

/// True if `snapshot` may stand in the place of `known`, which this host has accepted: it descends
/// from it, or a succession says that `known` was replaced.
pub(crate) fn may_follow(repo: &Git, snapshot: &Snapshot, known: Pointer, keys: &TrustedKeys) -> bool {
    if known.commit.is_zero() || descends(repo, snapshot, known) {
        return true;
    }
    // Where it is not here any more, its number says of which epoch it is.
    let epoch = Snapshot::read(repo, known.commit).map_or_else(|_| keys.epoch_at(known.sequence), |known| known.epoch);
    snapshot.succeeds((epoch, known.sequence), keys)
}

/// True if the parents of `snapshot` lead to `known`, or if the commits between are not here.
fn descends(repo: &Git, snapshot: &Snapshot, known: Pointer) -> bool {
    let mut parent = snapshot.parent;
    while let Some(commit) = parent {
        if commit == known.commit {
            return true;
        }
        // The parent of a signed snapshot needs no signature of its own.
        let Ok(before) = Snapshot::read(repo, commit) else { return true };
        if before.sequence <= known.sequence {
            return false;
        }
        parent = before.parent;
    }
    false
}
