//! Why a commit is no snapshot.

use crate::sign::KeyError;
use libconf::name::{CommitId, DatacenterName};

/// The format of snapshots that this program writes, and the highest that it reads (`Conf-Format`).
pub const FORMAT: u32 = 1;

/// Why a commit is no snapshot, or not one for us.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It, or something in it, is not in the repository or cannot be read.
    #[error("cannot read snapshot {commit}")]
    Read {
        /// Which snapshot.
        commit: CommitId,
        /// Git's words.
        #[source]
        cause: git2::Error,
    },
    /// Objects could not be written.
    #[error("cannot write a snapshot")]
    Write(#[source] git2::Error),
    /// It is not made as a snapshot is.
    #[error("{commit} is not a snapshot: {reason}")]
    Malformed {
        /// Which commit.
        commit: CommitId,
        /// What is wrong.
        reason: String,
    },
    /// It was made by a newer conf-master.
    #[error("snapshot {commit} has format {format}, this program reads up to {FORMAT}; upgrade it")]
    Newer {
        /// Which snapshot.
        commit: CommitId,
        /// Its format.
        format: u32,
    },
    /// It belongs to another datacenter.
    #[error("{commit} is a snapshot of {found}, not of {wanted}")]
    OtherDatacenter {
        /// Which snapshot.
        commit: CommitId,
        /// Whose it is.
        found: DatacenterName,
        /// Whose was wanted.
        wanted: DatacenterName,
    },
    /// It is not signed by a trusted key.
    #[error("snapshot {commit} is refused")]
    Untrusted {
        /// Which snapshot.
        commit: CommitId,
        /// Why.
        #[source]
        cause: KeyError,
    },
}
