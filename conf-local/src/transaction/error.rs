//! Errors of the host transaction.

use conf_core::{
    daemon::chain,
    sign::TrustedKeys,
    snapshot::{Snapshot, SnapshotError},
};
use libconf::name::{CommitId, DatacenterName};

use crate::{export::ExportError, state::RequestError, transaction::check::Unchecked};

/// Why a snapshot was not put in place. The exported files are as they were.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransactionError {
    /// The snapshot can never be used.
    #[error("{0}")]
    Refused(String),
    /// The snapshot can never be used: it has no valid signature, is another datacenter's, or has a
    /// newer format.
    #[error("the snapshot is refused")]
    Untrusted(#[source] SnapshotError),
    /// Somebody has removed or replaced the state folder: another agent may have it.
    #[error("the state folder was removed or replaced, and this agent cannot lock it again")]
    NotHeld,
    /// The repository cannot be read.
    #[error("the repository on this host cannot be read")]
    Damaged(#[source] git2::Error),
    /// The files cannot be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The checks were not run to their end.
    #[error(transparent)]
    Unchecked(#[from] Unchecked),
    /// The notices to watchers cannot be written.
    #[error("cannot write the outbox; free some space, the exported files stay in use")]
    Outbox(#[source] std::io::Error),
}

impl From<SnapshotError> for TransactionError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Read { cause, .. } | SnapshotError::Write(cause) => TransactionError::Damaged(cause),
            other => TransactionError::Untrusted(other),
        }
    }
}

impl From<TransactionError> for RequestError {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Refused(_) | TransactionError::Untrusted(_) => RequestError::Wrong(chain(&error)),
            _ => RequestError::Failed(chain(&error)),
        }
    }
}

/// Returns what judges the snapshots that arrive: nothing is stored of one that no trusted key has
/// signed for this datacenter.
pub(crate) fn only_signed(
    keys: TrustedKeys,
    datacenter: DatacenterName,
) -> impl Fn(CommitId, &[u8]) -> Result<(), String> + Send + Sync + 'static {
    move |commit, bytes| {
        let verified = Snapshot::verify_bytes(commit, bytes, &keys, &datacenter);
        verified.map(drop).map_err(|error| chain(&TransactionError::from(error)))
    }
}
