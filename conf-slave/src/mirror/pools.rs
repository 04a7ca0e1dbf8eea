//! The repository, open between changes.

use conf_core::git::{PooledRepository, RepositoryPool};

use crate::mirror::folder::StateFolder;

/// The repository as it stays open between changes. Whoever removes packs, or meets an error, has
/// it opened anew.
#[derive(Clone, Debug)]
pub(crate) struct Pools {
    /// For fetches of snapshots: only those for this datacenter that a trusted key signed are
    /// stored.
    pub(crate) snapshots: RepositoryPool,
    /// For fetches of branches.
    pub(crate) branches: RepositoryPool,
}

impl Pools {
    /// Opens nothing yet.
    pub(crate) fn of(folder: &StateFolder) -> Self {
        Pools { snapshots: folder.pool(folder.repo()), branches: folder.bounded(folder.repo()) }
    }

    /// Lends the open repository, or opens one now. Blocks.
    pub(crate) fn lend(&self) -> Result<PooledRepository, git2::Error> {
        self.snapshots.lend()
    }

    /// Has it opened anew.
    pub(crate) fn forget(&self) {
        self.snapshots.forget();
        self.branches.forget();
    }
}
