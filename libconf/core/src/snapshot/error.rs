//! Why a commit is no snapshot.

use crate::sign::KeyError;
use libconf::name::{CommitId, DatacenterName};

/// The format of snapshots that this program writes, and the highest that it reads (`Conf-Format`).
pub const FORMAT: u32 = 1;

/// Why a commit is no snapshot, or is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The commit, or an object of it, is missing or cannot be read.
    #[error("cannot read snapshot {commit}")]
    Read {
        /// The snapshot.
        commit: CommitId,
        /// Git's words.
        #[source]
        cause: git2::Error,
    },
    /// Objects could not be written.
    #[error("cannot write a snapshot")]
    Write(#[source] git2::Error),
    /// The commit does not have a snapshot's form.
    #[error("{commit} is not a snapshot: {reason}")]
    Malformed {
        /// The commit.
        commit: CommitId,
        /// What is wrong.
        reason: String,
    },
    /// A newer conf-master made it.
    #[error("snapshot {commit} has format {format}, this program reads up to {FORMAT}; upgrade it")]
    Newer {
        /// The snapshot.
        commit: CommitId,
        /// Its format.
        format: u32,
    },
    /// It belongs to another datacenter.
    #[error("{commit} is a snapshot of {found}, not of {wanted}")]
    OtherDatacenter {
        /// The snapshot.
        commit: CommitId,
        /// The datacenter of the snapshot.
        found: DatacenterName,
        /// The datacenter that was wanted.
        wanted: DatacenterName,
    },
    /// It is of an epoch that another one has replaced, or of one that nothing is known of here.
    #[error(
        "{commit} is of epoch {epoch} of conf-master's history, and epoch {known} is the newest that a statement of \
         conf-master makes known here; is there a second conf-master with this key?"
    )]
    OtherEpoch {
        /// The snapshot.
        commit: CommitId,
        /// Its epoch.
        epoch: u32,
        /// The newest epoch that is known.
        known: u32,
    },
    /// No trusted key signed it.
    #[error("snapshot {commit} is refused")]
    Untrusted {
        /// The snapshot.
        commit: CommitId,
        /// What is wrong with the signature.
        #[source]
        cause: KeyError,
    },
}
