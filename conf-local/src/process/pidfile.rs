//! Pidfiles: files in which a job keeps its process number.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use crate::process::handle::{Process, ProcessError};

/// Opens the process whose number is in a pidfile.
///
/// Errors: there is no file, or no process with that number; the file is older than the process, so
/// that another process has the number now; or the owner of the file may not name the process.
pub(crate) fn of_pidfile(path: &Path) -> Result<Process, PidfileError> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.mode() & 0o002 != 0 {
        return Err(PidfileError::Unsafe);
    }
    let mut text = String::new();
    // 64 bytes: the longest number has seven digits.
    file.take(64).read_to_string(&mut text)?;
    let pid = text.lines().next().unwrap_or_default().trim().parse().map_err(|_| PidfileError::NoNumber)?;
    // The owner of the file chooses the process that root signals: another user may only choose an
    // own one.
    let trusted = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
    let process = Process::open(pid, None, (!trusted).then_some(found.uid()))?;
    // 5 s: a job writes the file after it started, but the clocks differ by a tick, and the
    // machine's clock may have been adjusted a little.
    // Its owner may set any time, also one that cannot be reckoned with.
    let written = found.modified()?.checked_add(Duration::from_secs(5));
    match (process.started_at(), written) {
        (Some(started), Some(written)) if started > written => Err(PidfileError::Stale(pid)),
        _ => Ok(process),
    }
}

/// Why a pidfile names no process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PidfileError {
    #[error("it names a process that the job left behind: {0} started after the file was written")]
    Stale(i32),
    #[error("it holds no number")]
    NoNumber,
    #[error("it is not a regular file, or every user may write to it; only its job may")]
    Unsafe,
    #[error("it names a process that cannot be signalled")]
    Process(#[from] ProcessError),
    #[error("it cannot be read; if there is no file, the job does not run, or writes its number elsewhere")]
    Read(#[from] io::Error),
}

impl PidfileError {
    /// True if the job does not run, which may change without any repair.
    pub(crate) fn is_absence(&self) -> bool {
        match self {
            PidfileError::Read(error) => error.kind() == io::ErrorKind::NotFound,
            PidfileError::Stale(_) | PidfileError::NoNumber | PidfileError::Process(ProcessError::Gone(_)) => true,
            PidfileError::Unsafe | PidfileError::Process(_) => false,
        }
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
        assert!(matches!(of_pidfile(&link), Err(PidfileError::Read(_))));
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(86_400 * 365)).unwrap();
        assert!(matches!(of_pidfile(&path), Err(PidfileError::Stale(_))));
        file.set_modified(SystemTime::now()).unwrap();
        // A file system in memory keeps any time that its owner sets.
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let odd = memory.path().join("odd.pid");
        fs::write(&odd, format!("{}\n", running.pid())).unwrap();
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(i64::MAX.unsigned_abs());
        fs::File::options().write(true).open(&odd).unwrap().set_modified(last).unwrap();
        assert_eq!(of_pidfile(&odd).unwrap().identity.pid, running.pid());
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        assert!(matches!(of_pidfile(&path), Err(PidfileError::Unsafe)));
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        if rustix::process::geteuid().is_root() {
            // A file of another user names a process of root.
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let refused = of_pidfile(&path);
            assert!(matches!(refused, Err(PidfileError::Process(ProcessError::Foreign { .. }))), "{refused:?}");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
        for (text, absent) in [("", true), ("nobody\n", true), ("1\n", false), ("999999999\n", true)] {
            fs::write(&path, text).unwrap();
            assert_eq!(of_pidfile(&path).unwrap_err().is_absence(), absent, "{text:?}");
        }
        assert!(matches!(of_pidfile(place.path()), Err(PidfileError::Unsafe)));
    }
}
