//! Errors of the host transaction, and of its start.

use std::path::PathBuf;

use conf_core::{daemon::chain, secret::IdentityError, snapshot::SnapshotError};
use libconf::name::DatacenterName;

use crate::{
    export::ExportError, place::BadPlace, snapshot::repository::RepositoryError, state::RequestError,
    transaction::check::Unchecked,
};

/// Why a snapshot was not put in place. The exported files are as they were.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransactionError {
    /// The snapshot can never be used.
    #[error("{0}")]
    Refused(String),
    /// The snapshot can never be used: it has no valid signature, is another datacenter's, or has a newer format.
    #[error("the snapshot is refused")]
    Untrusted(#[source] SnapshotError),
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

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The state folder cannot be created.
    #[error("cannot use the state folder {path}; give the user of conf-local write access to it, or name another")]
    State { path: PathBuf, source: std::io::Error },
    /// The repository cannot be used.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The export cannot be used.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The configuration places components where it cannot.
    #[error(transparent)]
    Place(#[from] BadPlace),
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The state is another datacenter's.
    #[error("{path} holds the export of {found}; name that datacenter, or another --state")]
    OtherDatacenter { path: PathBuf, found: DatacenterName },
}
