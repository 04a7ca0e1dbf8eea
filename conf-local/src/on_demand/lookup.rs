//! What this host's disk knows about a change: from the headers of kept folders, and from the chain
//! of snapshots in the repository.

use std::path::Path;

use conf_core::{
    api::Pointer,
    git::RepositoryPool,
    snapshot::{self, AroundChange},
};
use libconf::name::{CommitId, HostName, Sequence};

use crate::export::{self, Header};

/// What the disk knows about a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The folder of its snapshot is kept. It is the newest up to `through`.
    Kept { snapshot: Pointer, through: Sequence },
    /// Its snapshot is known, but has no folder.
    Objects { snapshot: Pointer, through: Sequence },
    /// The datacenter began later.
    TooOld,
    /// Its place in the chain is not here.
    Unknown,
}

/// Looks for the newest snapshot not above `change`. `newest` is the exported one, which is above
/// it.
pub(crate) fn look(
    export: &Path,
    host: &HostName,
    repository: &RepositoryPool,
    newest: CommitId,
    change: Sequence,
) -> Lookup {
    let header = |sequence: Sequence| export::header(export, sequence).filter(|header| header.host == *host);
    let kept = export::sequences(export);
    let below = kept.range(..=change).next_back().and_then(|sequence| header(*sequence));
    let above = kept.range(change.next()..).next().and_then(|sequence| header(*sequence));
    if let Some((below, through)) = below.as_ref().and_then(|below| Some((below, below.through?)))
        && through >= change
    {
        return Lookup::Kept { snapshot: of(below), through };
    }
    if let (Some(below), Some(above)) = (&below, &above)
        && above.parent == Some(below.commit)
    {
        return Lookup::Kept { snapshot: of(below), through: before(above.sequence) };
    }
    match repository.lend().map(|repo| snapshot::around_change(&repo, newest, change)) {
        Ok(Ok(AroundChange::Known { at: Some(snapshot), next: Some(next) })) => {
            let through = before(next.sequence);
            match header(snapshot.sequence) {
                Some(header) if header.commit == snapshot.commit => Lookup::Kept { snapshot, through },
                _ => Lookup::Objects { snapshot, through },
            }
        }
        Ok(Ok(AroundChange::Known { at: None, .. })) => Lookup::TooOld,
        // If it cannot be read here, servers can be asked.
        Ok(Ok(AroundChange::Known { .. } | AroundChange::CutOff) | Err(_)) | Err(_) => Lookup::Unknown,
    }
}

fn of(header: &Header) -> Pointer {
    Pointer { sequence: header.sequence, commit: header.commit }
}

/// The last change before this one.
pub(crate) fn before(sequence: Sequence) -> Sequence {
    Sequence(sequence.0.saturating_sub(1))
}
