//! Switches of the export: the one that happens, and those of the past.

use std::{collections::BTreeMap, path::PathBuf};

use libconf::name::{CommitId, ComponentVersion, Sequence};
use serde::{Deserialize, Serialize};

use crate::export::ChangeKind;

/// A switch of `current`. Every task of the agent gets it after readers can see the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    /// The change that is exported now.
    pub sequence: Sequence,
    /// Its snapshot.
    pub commit: CommitId,
    /// Components whose rendered output differs from the export before.
    pub changed: BTreeMap<ComponentVersion, ChangeKind>,
    /// Its own folder, `export/snapshots/<sequence>`, absolute.
    pub export: PathBuf,
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
