//! Why a snapshot is not put in place, and why the agent cannot start.

use std::path::PathBuf;

use conf_core::{secret::IdentityError, snapshot::SnapshotError};
use libconf::name::DatacenterName;

use crate::{
    export::ExportError, place::BadPlace, snapshot::repository::RepositoryError, transaction::check::Unchecked,
};

/// Why a snapshot was not put in place; what readers see is as it was.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The snapshot will not do, today or tomorrow.
    #[error("{0}")]
    Refused(String),
    /// The snapshot will not do: not signed, another datacenter's, of a newer format.
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
    /// The journal cannot be written.
    #[error("cannot write the journal of whom to tell; free some space, what was there stays in use")]
    Journal(#[source] std::io::Error),
}

impl From<SnapshotError> for TransactionError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Read { cause, .. } | SnapshotError::Write(cause) => TransactionError::Damaged(cause),
            other => TransactionError::Untrusted(other),
        }
    }
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state folder cannot be made.
    #[error("cannot use the state folder {path}; give the user of conf-local write access to it, or name another")]
    State {
        /// Which folder.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: std::io::Error,
    },
    /// The repository cannot be used.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The export cannot be used.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Components cannot be placed as the configuration says.
    #[error(transparent)]
    Place(#[from] BadPlace),
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The state belongs to another datacenter.
    #[error("{path} holds the export of {found}; name that datacenter, or another --state")]
    OtherDatacenter {
        /// Which folder.
        path: PathBuf,
        /// Whose export it has.
        found: DatacenterName,
    },
}
