//! Errors of the mirror.

use std::{io, path::PathBuf};

use conf_core::{
    api::Pointer,
    git::{GitError, LockError},
    snapshot::SnapshotError,
    upstream::{FetchError, UpstreamError},
};

/// The reason why the mirror does not serve the wanted snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MirrorError {
    /// No central server delivered the objects.
    #[error("cannot fetch the snapshot")]
    Fetch(#[source] FetchError),
    /// No central server named the newest snapshot.
    #[error("cannot ask which snapshot is newest")]
    Ask(#[source] UpstreamError),
    /// The fetched commit is no snapshot for this datacenter.
    #[error("a snapshot from the central server is refused")]
    Refused(#[source] SnapshotError),
    /// The fetched snapshot does not descend from the newest one here.
    #[error(
        "snapshot {offered} from the central server does not follow {here}, which is kept; was the central \
             repository put back to an older state?"
    )]
    NotForward {
        /// The fetched snapshot.
        offered: Pointer,
        /// The newest snapshot here, or in the repository that was lost.
        here: Pointer,
    },
    /// libgit2 cannot use the repository.
    #[error("cannot use the repository in {path}")]
    Repository {
        /// The repository.
        path: PathBuf,
        /// libgit2's error.
        #[source]
        cause: git2::Error,
    },
    /// The system cannot use a file or folder.
    #[error("cannot use {path}; see that this user may write there and that there is room")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
    /// Git cannot create a repository.
    #[error("cannot make a repository")]
    Create(#[source] GitError),
    /// Another process holds the repository.
    #[error("cannot hold the repository")]
    Lock(#[source] LockError),
}

impl MirrorError {
    /// Tells whether the snapshot came, and this slave does not serve it.
    pub(crate) fn is_refusal(&self) -> bool {
        let is_here = matches!(self, MirrorError::Refused(_) | MirrorError::NotForward { .. }) && !self.may_be_damage();
        is_here || matches!(self, MirrorError::Fetch(FetchError::Unwanted(_)))
    }

    /// Tells whether a damaged local repository may be the reason.
    pub(crate) fn may_be_damage(&self) -> bool {
        matches!(
            self,
            MirrorError::Fetch(FetchError::Corrupt { .. } | FetchError::Repository { .. })
                | MirrorError::Repository { .. }
                | MirrorError::Refused(SnapshotError::Read { .. })
        )
    }
}
