//! The snapshot that readers see.

use std::{collections::BTreeMap, path::PathBuf};

use conf_core::{
    api::{Pin, SnapshotAt},
    render::StoreHash,
};
use libconf::name::{CommitId, ComponentSelector, ComponentVersion, Sequence};

use crate::process::command::Visibility;

/// A snapshot on this host's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The change that made it.
    pub sequence: Sequence,
    /// The snapshot.
    pub commit: CommitId,
    /// Its own folder, `export/snapshots/<sequence>`, absolute: the value of `CONF_EXPORT`.
    pub directory: PathBuf,
    /// The components that this host runs.
    pub components: BTreeMap<ComponentVersion, ExportedComponent>,
}

/// One component on this host's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedComponent {
    /// The name of its entry in `export/store/`: the SHA-256 of the rendering.
    pub store: StoreHash,
    /// `None` if the repository that had it was lost.
    pub pin: Option<Pin>,
    /// False if it is known to hold no secret.
    pub reads_secrets: bool,
}

impl Exported {
    pub(crate) fn snapshot(&self) -> SnapshotAt {
        SnapshotAt { sequence: self.sequence, commit: self.commit }
    }

    /// Lists every version that `selector` names, in order.
    pub(crate) fn matching(
        &self,
        selector: &ComponentSelector,
    ) -> impl Iterator<Item = (&ComponentVersion, &ExportedComponent)> {
        self.components.iter().filter(move |(component, _)| selector.matches(component))
    }

    /// Returns who may see the output of a command that reads these components. One that is not exported
    /// any more may have held secrets.
    pub(crate) fn visibility(&self, components: &[ComponentVersion]) -> Visibility {
        let is_plain = |one: &ComponentVersion| self.components.get(one).is_some_and(|one| !one.reads_secrets);
        if components.iter().all(is_plain) { Visibility::Everybody } else { Visibility::Nobody }
    }
}
