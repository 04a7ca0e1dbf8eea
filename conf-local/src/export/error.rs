//! Why readers' files could not be written.

use std::{io, path::PathBuf};

/// Readers' files could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} in {path}{}", advice(cause))]
pub struct ExportError {
    pub(crate) act: &'static str,
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) cause: io::Error,
}

impl ExportError {
    /// True when there is no room.
    pub fn is_full(&self) -> bool {
        matches!(self.cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space, what was there stays in use",
        io::ErrorKind::PermissionDenied => "; give the user of conf-local write access to it",
        io::ErrorKind::ReadOnlyFilesystem => "; make the file system writable, what was there stays in use",
        _ => "",
    }
}
