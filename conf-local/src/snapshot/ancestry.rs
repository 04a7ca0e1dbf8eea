//! Which snapshot follows from which.

use conf_core::{api::Pointer, snapshot::Snapshot};
use git2::Repository as Git;

/// True if the parents of `snapshot` lead to `known`, or if the commits between are not here.
pub(crate) fn descends(repo: &Git, snapshot: &Snapshot, known: Pointer) -> bool {
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
