//! Errors of the export.

use std::{io, path::PathBuf};

use rustix::io::Errno;

/// Why readers' files could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} in {path}{}{}", file.as_ref().map(|file| format!(" ({file})")).unwrap_or_default(), advice(cause))]
pub(crate) struct ExportError {
    pub(crate) act: &'static str,
    pub(crate) path: PathBuf,
    /// The component's own file that could not be written, if it was one.
    pub(crate) file: Option<String>,
    #[source]
    pub(crate) cause: io::Error,
}

impl ExportError {
    /// True if the machine is at fault, so that other components would fail too: its disk is full,
    /// broken or busy, or somebody has removed a folder of the export. Only what is about the names
    /// and the content that were to be written is the component's fault, such as a path that the
    /// file system finds too long.
    pub(crate) fn is_of_machine(&self) -> bool {
        let Some(errno) = Errno::from_io_error(&self.cause) else {
            // The agent's own refusal of a name is about that name.
            return self.cause.kind() != io::ErrorKind::InvalidInput;
        };
        !matches!(
            errno,
            Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ | Errno::EXIST | Errno::LOOP | Errno::FBIG | Errno::NOTDIR
        )
    }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space, the earlier files stay in use",
        io::ErrorKind::PermissionDenied => "; give the user of conf-local write access to it",
        io::ErrorKind::ReadOnlyFilesystem => "; make the file system writable, the earlier files stay in use",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_the_machine_s_or_the_component_s() {
        let of = |cause| ExportError { act: "write", path: PathBuf::new(), file: None, cause }.is_of_machine();
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS, Errno::MFILE, Errno::ACCESS] {
            assert!(of(errno.into()), "{errno}");
        }
        // The folder was removed; the disk is busy, silent or damaged.
        for errno in [Errno::NOENT, Errno::BUSY, Errno::TIMEDOUT, Errno::UCLEAN] {
            assert!(of(errno.into()), "{errno}");
        }
        for errno in
            [Errno::NAMETOOLONG, Errno::INVAL, Errno::ILSEQ, Errno::EXIST, Errno::FBIG, Errno::LOOP, Errno::NOTDIR]
        {
            assert!(!of(errno.into()), "{errno}");
        }
        assert!(!of(io::Error::new(io::ErrorKind::InvalidInput, "no plain name")));
        assert!(of(io::Error::other("the process is dead")));
        assert!(of(io::ErrorKind::StorageFull.into()));
    }
}
