//! The snapshot that hosts get.

use std::{collections::BTreeMap, sync::Arc};

use conf_core::{
    api::{Pin, Pointer},
    snapshot::{self, Snapshot, SnapshotError},
};
use git2::Repository;
use libconf::name::ComponentVersion;

/// A verified snapshot with its pins.
#[derive(Clone, Debug)]
pub(crate) struct ServedSnapshot {
    /// The snapshot.
    pub(crate) snapshot: Snapshot,
    /// Its pins.
    pub(crate) pins: Arc<BTreeMap<ComponentVersion, Pin>>,
}

impl ServedSnapshot {
    /// Returns its pointer.
    pub(crate) fn pointer(&self) -> Pointer {
        Pointer { sequence: self.snapshot.sequence, commit: self.snapshot.commit }
    }

    /// Reads the pins of `snapshot`. With the snapshot `before`, the cost grows with the difference
    /// between the two.
    pub(crate) fn read(repo: &Repository, snapshot: Snapshot, before: Option<&Self>) -> Result<Self, SnapshotError> {
        let difference = snapshot::compare(repo, before.map(|served| &served.snapshot), &snapshot)?;
        let mut pins = before.map_or_else(BTreeMap::new, |served| (*served.pins).clone());
        for (name, change) in difference.components {
            match change.after {
                Some(component) => pins.insert(name, component.pin),
                None => pins.remove(&name),
            };
        }
        Ok(ServedSnapshot { snapshot, pins: Arc::new(pins) })
    }
}
