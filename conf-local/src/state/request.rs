//! Requests to the one task that writes repository and export.

use conf_core::api::SnapshotAt;
use libconf::name::Sequence;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, oneshot};

/// Gets the reason if a request was not done.
pub(crate) type Reply = oneshot::Sender<Result<(), RequestError>>;

/// A request to the one task that writes repository and export.
#[derive(Debug)]
pub enum Request {
    /// Checks repository and export, and with `repair` mends them.
    Verify { repair: bool, reply: oneshot::Sender<VerifyReport> },
    /// Takes a newer snapshot than the exported one, as if the pointer had named it.
    Take { snapshot: SnapshotAt, reply: Reply },
    /// Renders an older snapshot beside the exported one.
    Render { older: OlderSnapshot, reply: Reply },
    /// Tidies the packs, which was put off because of endless fetches. The guard keeps fetches away.
    Tidy { guard: OwnedRwLockWriteGuard<()>, reply: oneshot::Sender<()> },
    /// Verifies that a snapshot is this datacenter's first. The guard keeps its objects here.
    First { snapshot: SnapshotAt, guard: OwnedRwLockReadGuard<()>, reply: Reply },
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The snapshot is not what the server said, so that the server is not trusted.
    #[error("{0}")]
    Wrong(String),
    /// This host, its disk or the way to the servers failed. That says nothing about the server.
    #[error("{0}")]
    Failed(String),
}

/// A snapshot older than the exported one, whose objects are here.
#[derive(Debug)]
pub struct OlderSnapshot {
    pub(crate) snapshot: SnapshotAt,
    /// The last change for which it is the newest.
    pub(crate) through: Sequence,
    /// The snapshot after it, whose signature proves that there is none between. `None` where the chain of
    /// verified snapshots proves it.
    pub(crate) next: Option<SnapshotAt>,
    /// Keeps the objects here until they were used.
    pub(crate) guard: OwnedRwLockReadGuard<()>,
}

/// The findings of `verify`: the answer to `POST /v1/verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The checked change; 0 if nothing is exported.
    pub(crate) sequence: Sequence,
    /// The number of objects that were read from the repository.
    pub(crate) objects: usize,
    /// The number of exported components that were compared with their rendering.
    pub(crate) components: usize,
    /// Each problem in one sentence.
    pub(crate) problems: Vec<String>,
    /// The problems that were mended.
    pub(crate) repaired: Vec<String>,
}

impl VerifyReport {
    /// True if there are no problems, or all were mended.
    pub(crate) fn is_whole(&self) -> bool {
        self.problems.len() == self.repaired.len()
    }
}
