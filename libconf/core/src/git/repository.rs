//! A bare repository that one daemon holds.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use git2::{Repository, RepositoryInitOptions};
use rustix::{
    fs::{FlockOperation, flock},
    io::{FdFlags, fcntl_setfd},
};

use crate::git::{executable::GitError, loose::LooseObjects};

/// The lock file of a folder.
const LOCK: &str = "conf.lock";
/// How long a daemon that was restarted waits for the Git children of the killed one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes a bare repository, or opens the existing one, and sets `settings` (`section.name`, value)
/// in it.
///
/// Refuses formats that this program cannot read: SHA-256 objects, a reftable, a worktree.
pub fn init(repo: &Path, settings: &[(&str, &str)]) -> Result<Repository, GitError> {
    let failed = |cause| GitError::Open { path: repo.to_owned(), cause };
    let opened = if repo.join("HEAD").exists() {
        Repository::open_bare(repo).map_err(failed)?
    } else {
        let mut options = RepositoryInitOptions::new();
        // No template: no sample hooks, no description, and nothing of this machine.
        options.bare(true).mkpath(true).external_template(false).initial_head("main");
        Repository::init_opts(repo, &options).map_err(failed)?
    };
    if !opened.is_bare() {
        return Err(GitError::NotBare { path: repo.to_owned() });
    }
    let mut config = opened.config().and_then(|config| config.open_level(git2::ConfigLevel::Local)).map_err(failed)?;
    for (name, value) in settings {
        let same = config.get_string(name).is_ok_and(|present| present == *value);
        if !same {
            config.set_str(name, value).map_err(failed)?;
        }
    }
    Ok(opened)
}

/// An exclusive hold on a repository, until dropped.
#[derive(Debug)]
pub struct RepositoryLock {
    /// Locked until it is closed.
    _file: File,
    /// Its device and inode.
    identity: (u64, u64),
}

impl RepositoryLock {
    /// False when the lock file in `dir` is not the locked one: somebody has removed or replaced
    /// it, and another process can lock the new one.
    pub fn is_of(&self, dir: &Path) -> bool {
        fs::symlink_metadata(dir.join(LOCK)).is_ok_and(|found| identity(&found) == self.identity)
    }
}

/// Locks `<dir>/conf.lock` for this process and every child that it starts, and removes what killed
/// programs left. Only the owner can open the file: another user who did could lock it first.
///
/// Children hold the lock too. A daemon started after a `kill -9` therefore waits (at most 5 s)
/// until the Git programs of the killed one are gone, and does not remove the lock files of a
/// running program. Blocks; call it at start.
pub fn lock(dir: &Path) -> Result<RepositoryLock, LockError> {
    lock_with(dir, FdFlags::empty())
}

/// Like [`lock`], but children do not hold the lock: for a program whose children are not Git's.
pub fn lock_alone(dir: &Path) -> Result<RepositoryLock, LockError> {
    lock_with(dir, FdFlags::CLOEXEC)
}

fn lock_with(dir: &Path, flags: FdFlags) -> Result<RepositoryLock, LockError> {
    let path = dir.join(LOCK);
    let failed = |cause| LockError::Open { path: path.clone(), cause };
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    // A build of before has made it readable. A file of another user keeps its mode.
    let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
    let since = Instant::now();
    while let Err(cause) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if cause != rustix::io::Errno::WOULDBLOCK {
            return Err(failed(cause.into()));
        }
        if since.elapsed() > PATIENCE {
            let holder = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            return Err(LockError::Held { path, holder });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    fcntl_setfd(&file, flags).map_err(|cause| failed(cause.into()))?;
    // The holder's pid, for people only.
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    sweep(dir).map_err(|cause| LockError::Sweep { path: dir.to_owned(), cause })?;
    let identity = identity(&file.metadata().map_err(failed)?);
    Ok(RepositoryLock { _file: file, identity })
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Removes what killed programs left in a repository without other users: lock files and unfinished
/// objects. Moves objects aside whose file was cut short.
fn sweep(repo: &Path) -> io::Result<()> {
    // Only Git's own folders: other files beside them may end in `.lock`, too.
    sweep_folder(repo, false)?;
    ["refs", "logs", "info", "objects"].iter().try_for_each(|folder| sweep_folder(&repo.join(folder), true))?;
    LooseObjects::default().set_cut_aside(repo).map(drop)
}

fn sweep_folder(folder: &Path, inner: bool) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(other) => return Err(other),
    };
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        // `tmp_…` are unfinished objects and quarantines, of Git and of this program; `pack_git2_…`
        // are libgit2's unfinished packs.
        let unfinished = name.starts_with("tmp_") || name.starts_with("pack_git2_");
        if entry.file_type()?.is_dir() {
            if unfinished {
                fs::remove_dir_all(&path)?;
            } else if inner {
                sweep_folder(&path, inner)?;
            }
        } else if unfinished || name.ends_with(".lock") && name != LOCK {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Why a repository could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The lock file cannot be opened.
    #[error("cannot open {path}; see that the folder exists and this user may write it")]
    Open {
        /// The lock file.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: io::Error,
    },
    /// Another program holds the lock.
    #[error("{path} is held by another process ({holder}); only one daemon may use a repository")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The content of the lock file: the pid of the holder, or of the killed one whose Git
        /// children still run.
        holder: String,
    },
    /// Leftovers cannot be removed.
    #[error("cannot remove the leftovers of killed programs in {path}")]
    Sweep {
        /// The repository.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: io::Error,
    },
}
