//! Pidfiles: files in which a job keeps its process number.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::process::handle::{Process, ProcessError};

/// Opens the process whose number is in a pidfile.
///
/// Errors: there is no file, or no process with that number; the file is older than the process, so
/// that another process has the number now; or the owner of the file may not name the process.
pub(crate) fn of_pidfile(path: &Path) -> Result<Process, PidfileError> {
    let unreadable = |source| PidfileError::Read { path: path.to_owned(), source };
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => PidfileError::Absent { path: path.to_owned() },
        _ => unreadable(error),
    })?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() || found.mode() & 0o002 != 0 {
        return Err(PidfileError::Unsafe { path: path.to_owned() });
    }
    let mut text = String::new();
    // 64 bytes: the longest number has seven digits.
    file.take(64).read_to_string(&mut text).map_err(unreadable)?;
    let pid = text.lines().next().unwrap_or_default().trim().parse();
    let pid = pid.map_err(|_| PidfileError::NoNumber { path: path.to_owned() })?;
    // The owner of the file chooses the process that root signals: another user may only choose an own one.
    let trusted = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
    let process = Process::open(pid, None, (!trusted).then_some(found.uid()));
    let process = process.map_err(|source| PidfileError::Process { path: path.to_owned(), source })?;
    let written = found.modified().map_err(unreadable)?;
    // 5 s: a job writes the file after it started, but the clocks differ by a tick, and the machine's clock
    // may have been adjusted a little.
    let slack = Duration::from_secs(5);
    match process.started_at() {
        Some(started) if started > written + slack => Err(PidfileError::Stale { path: path.to_owned(), pid }),
        _ => Ok(process),
    }
}

/// Why a pidfile names no process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PidfileError {
    #[error("{} does not exist: the job does not run, or writes its number elsewhere", .path.display())]
    Absent { path: PathBuf },
    #[error("{} names a process that the job left behind: {pid} started after the file was written", .path.display())]
    Stale { path: PathBuf, pid: i32 },
    #[error("{} holds no number", .path.display())]
    NoNumber { path: PathBuf },
    #[error("{} is not a regular file, or every user may write to it; only its job may", .path.display())]
    Unsafe { path: PathBuf },
    #[error("{} names a process that cannot be signalled", .path.display())]
    Process { path: PathBuf, source: ProcessError },
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
}

impl PidfileError {
    /// True if the job does not run, which may change without any repair.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(
            self,
            PidfileError::Absent { .. }
                | PidfileError::Stale { .. }
                | PidfileError::NoNumber { .. }
                | PidfileError::Process { source: ProcessError::Gone(_), .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::process::handle::tests::Running;

    #[test]
    fn a_pidfile_names_only_whom_its_owner_may() {
        let running = Running::new(&["bash", "-c", "trap : HUP; echo ready; read line"]);
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("job.pid");
        assert!(of_pidfile(&path).unwrap_err().is_absence());
        fs::write(&path, format!("{}\n", running.pid())).unwrap();
        assert_eq!(of_pidfile(&path).unwrap().identity.pid, running.pid());

        let link = place.path().join("link.pid");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(of_pidfile(&link), Err(PidfileError::Read { .. })));
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(86_400 * 365)).unwrap();
        assert!(matches!(of_pidfile(&path), Err(PidfileError::Stale { .. })));
        file.set_modified(SystemTime::now()).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        assert!(matches!(of_pidfile(&path), Err(PidfileError::Unsafe { .. })));
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        if rustix::process::geteuid().is_root() {
            // A file of another user names a process of root.
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let refused = of_pidfile(&path);
            assert!(
                matches!(refused, Err(PidfileError::Process { source: ProcessError::Foreign { .. }, .. })),
                "{refused:?}"
            );
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
        for (text, absent) in [("", true), ("nobody\n", true), ("1\n", false), ("999999999\n", true)] {
            fs::write(&path, text).unwrap();
            assert_eq!(of_pidfile(&path).unwrap_err().is_absence(), absent, "{text:?}");
        }
        assert!(matches!(of_pidfile(place.path()), Err(PidfileError::Unsafe { .. })));
    }
}
