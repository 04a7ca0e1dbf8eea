//! What this host's disk knows of the moment of a change: by the headers of kept folders, and by the chain of snapshots in
//! the repository.

use std::path::Path;

use conf_core::{
    api::Pointer,
    git::RepositoryPool,
    snapshot::{self, AroundChange},
};
use libconf::name::{CommitId, HostName, Sequence};

use crate::export::{self, Header};

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Its folder is kept; it is the newest up to `through`.
    Kept { snapshot: Pointer, through: Sequence },
    /// Which one it is, and up to which change, but there is no folder.
    Objects { snapshot: Pointer, through: Sequence },
    /// The datacenter began later.
    TooOld,
    /// Nothing: its place in the chain is not here.
    Nothing,
}

/// Looks for the newest snapshot not above `change`, which is below `newest`, the exported one.
pub(crate) fn look(
    export: &Path,
    host: &HostName,
    repository: &RepositoryPool,
    newest: CommitId,
    change: Sequence,
) -> Known {
    let header = |sequence: Sequence| export::header(export, sequence).filter(|header| header.host == *host);
    let kept = export::sequences(export);
    let below = kept.range(..=change).next_back().and_then(|sequence| header(*sequence));
    let above = kept.range(change.next()..).next().and_then(|sequence| header(*sequence));
    if let Some((below, through)) = below.as_ref().and_then(|below| Some((below, below.through?)))
        && through >= change
    {
        return Known::Kept { snapshot: of(below), through };
    }
    if let (Some(below), Some(above)) = (&below, &above)
        && above.parent == Some(below.commit)
    {
        return Known::Kept { snapshot: of(below), through: before(above.sequence) };
    }
    match repository.lend().map(|repo| snapshot::around_change(&repo, newest, change)) {
        Ok(Ok(AroundChange::Known { at: Some(snapshot), next: Some(next) })) => {
            let through = before(next.sequence);
            match header(snapshot.sequence) {
                Some(header) if header.commit == snapshot.commit => Known::Kept { snapshot, through },
                _ => Known::Objects { snapshot, through },
            }
        }
        Ok(Ok(AroundChange::Known { at: None, .. })) => Known::TooOld,
        // What cannot be read here others can tell.
        Ok(Ok(AroundChange::Known { .. } | AroundChange::CutOff) | Err(_)) | Err(_) => Known::Nothing,
    }
}

fn of(header: &Header) -> Pointer {
    Pointer { sequence: header.sequence, commit: header.commit }
}

pub(crate) fn before(sequence: Sequence) -> Sequence {
    Sequence(sequence.0.saturating_sub(1))
}
