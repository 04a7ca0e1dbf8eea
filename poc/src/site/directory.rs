//! The temporary directory of one run, which another run never takes for an abandoned one.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// The directory of this run. Its lock ends with this process; the next run removes an unlocked
/// directory.
pub(crate) struct RunDirectory {
    _lock: File,
    pub(crate) temporary: TempDir,
}

impl RunDirectory {
    /// Removes abandoned directories, and makes a new one.
    pub(crate) fn new() -> Result<Self> {
        let parent = short_temporary_directory();
        sweep(&parent);
        let temporary = tempfile::Builder::new()
            .prefix("conf-poc-")
            .tempdir_in(&parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let dir = temporary.path();
        // The file gets its name once it is locked: a run that starts now must not take this
        // directory for an abandoned one.
        let lock = File::create(dir.join("unlocked"))?;
        lock.lock().context("cannot lock the directory")?;
        fs::rename(dir.join("unlocked"), dir.join("lock"))?;
        fs::create_dir(dir.join("logs"))?;
        fs::create_dir(dir.join("jobs"))?;
        for (name, text) in [("web.sh", include_str!("../../jobs/web.sh")), ("db.sh", include_str!("../../jobs/db.sh"))]
        {
            fs::write(dir.join("jobs").join(name), text)?;
        }
        Ok(RunDirectory { _lock: lock, temporary })
    }
}

/// Returns the usual temporary directory, or `/tmp` if the path of a socket in it would be too long
/// for the system.
fn short_temporary_directory() -> PathBuf {
    let usual = env::temp_dir();
    if usual.as_os_str().len() <= 70 { usual } else { PathBuf::from("/tmp") }
}

/// Removes the directories of earlier runs that were killed: no process holds their locks.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("conf-poc-"));
        // Without the file, another run is just beginning.
        let unlocked = || File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        if is_ours && path.is_dir() && unlocked() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}
