//! Errors of the export.

use std::{io, path::PathBuf};

/// Why readers' files could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} in {path}{}", advice(cause))]
pub(crate) struct ExportError {
    pub(crate) act: &'static str,
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) cause: io::Error,
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space, the earlier files stay in use",
        io::ErrorKind::PermissionDenied => "; give the user of conf-local write access to it",
        io::ErrorKind::ReadOnlyFilesystem => "; make the file system writable, the earlier files stay in use",
        _ => "",
    }
}
