//! The snapshot that readers see, and the switches to it and to earlier ones.

use std::{collections::BTreeMap, path::PathBuf};

use conf_core::{
    api::{Pin, Pointer},
    manifest::nearest_component,
};
use libconf::name::{CommitId, ComponentSelector, ComponentVersion, Sequence};
use serde::{Deserialize, Serialize};

use crate::{export::ChangeKind, process::Visibility};

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
    /// `None` if the repository that had it was lost.
    pub pin: Option<Pin>,
    /// False if it is known to hold no secret.
    pub reads_secrets: bool,
}

impl Exported {
    pub(crate) fn snapshot(&self) -> Pointer {
        Pointer { sequence: self.sequence, commit: self.commit }
    }

    /// Lists every version that `selector` names, in order.
    pub(crate) fn matching(
        &self,
        selector: &ComponentSelector,
    ) -> impl Iterator<Item = (&ComponentVersion, &ExportedComponent)> {
        self.components.iter().filter(move |(component, _)| selector.matches(component))
    }

    /// Returns ` (did you mean …?)` when a component with a similar name is exported.
    pub(crate) fn near(&self, selector: &ComponentSelector) -> String {
        nearest_component(&selector.to_string(), self.components.keys())
    }

    /// Returns who may see the output of a command that reads these components. One that is not
    /// exported any more may have held secrets.
    pub(crate) fn visibility(&self, components: &[ComponentVersion]) -> Visibility {
        let is_plain = |one: &ComponentVersion| self.components.get(one).is_some_and(|one| !one.reads_secrets);
        if components.iter().all(is_plain) { Visibility::Everybody } else { Visibility::Nobody }
    }
}

/// A switch of `current`. Every task of the agent gets it after readers can see the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    /// The change that is exported now.
    pub sequence: Sequence,
    /// Its snapshot.
    pub commit: CommitId,
    /// The change that was exported before; 0 if there was none.
    pub before: Sequence,
    /// Components whose rendered output differs from the export before.
    pub changed: BTreeMap<ComponentVersion, ChangeKind>,
}

/// One switch of the past: an element of `GET /v1/history`, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The change that was exported.
    pub sequence: Sequence,
    /// Its snapshot.
    pub commit: CommitId,
    /// The time of the switch, RFC 3339, UTC.
    pub when: String,
    /// Milliseconds from reading the pointer to the switch.
    pub took_ms: u64,
    /// Components whose rendered output changed; of very many, only the first.
    pub changed: BTreeMap<ComponentVersion, HistoryChange>,
    /// The number of all of them.
    pub changed_count: usize,
}

/// A component's part in one switch of the past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryChange {
    /// How it changed.
    pub kind: ChangeKind,
    /// `<branch>/<commit>` that it runs since then; `None` for a removed component.
    pub pin: Option<String>,
}
