//! The git executable in a clean environment, and a bare repository that one daemon holds.

pub(crate) mod connectivity;
pub(crate) mod consolidate;
pub(crate) mod pktline;
pub mod pool;
pub mod safety;
pub(crate) mod store;
pub mod thin;

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use git2::{Repository, RepositoryInitOptions};
use rustix::{
    fs::{FlockOperation, flock},
    io::{FdFlags, fcntl_setfd},
};

/// The oldest git that the tests run with.
const OLDEST: (u32, u32) = (2, 39);

/// How long a daemon that was just restarted waits for the Git children of the killed one.
const PATIENCE: Duration = Duration::from_secs(5);

/// `git --git-dir=<repo>` that sees nobody's configuration, hooks' variables, replace refs or terminal.
///
/// Add the subcommand and its arguments. For tokio: `tokio::process::Command::from(command(repo))`, with
/// `kill_on_drop(true)`.
pub fn command(repo: &Path) -> Command {
    let mut git = bare_command();
    let mut git_dir = std::ffi::OsString::from("--git-dir=");
    git_dir.push(repo);
    git.arg(git_dir);
    git
}

/// git without a repository.
fn bare_command() -> Command {
    let mut git = Command::new("git");
    git.env_clear()
        // A daemon that systemd starts without PATH still finds git and its helpers.
        .env("PATH", std::env::var_os("PATH").as_deref().unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin")))
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        // Only conf-master prunes, and the daemons start maintenance themselves.
        .args(["-c", "safe.directory=*", "-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
    if let Some(folder) = std::env::var_os("TMPDIR") {
        git.env("TMPDIR", folder);
    }
    git
}

/// Asks the git executable for its version; an error when there is none, or one older than 2.39.
pub fn check_version() -> Result<(), GitError> {
    let output = bare_command().arg("version").output().map_err(GitError::NoExecutable)?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let mut numbers = text.trim_start_matches("git version ").split('.').map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Ok(()),
        _ => Err(GitError::TooOld { found: text }),
    }
}

/// Makes a bare repository, or takes the one that is there, and sets `settings` (`section.name`, value) in it.
///
/// Refuses what Git's object format here cannot be read from: SHA-256 objects, a reftable, a worktree.
pub fn init(repo: &Path, settings: &[(&str, &str)]) -> Result<Repository, GitError> {
    let failed = |cause| GitError::Open { path: repo.to_owned(), cause };
    let opened = if repo.join("HEAD").exists() {
        Repository::open_bare(repo).map_err(failed)?
    } else {
        let mut options = RepositoryInitOptions::new();
        // Without a template: no sample hooks, no description, and nothing of the machine's.
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
    _file: File,
}

/// Holds `<dir>/conf.lock`, in this process and in every child that it starts, and sweeps what killed programs left.
///
/// Children hold it too, so that a daemon started after a `kill -9` waits (at most 5 s) until the Git programs of
/// the killed one are gone, and sweeps nobody's lock files under their hands. Blocks; call it at start.
pub fn lock(dir: &Path) -> Result<RepositoryLock, LockError> {
    lock_with(dir, FdFlags::empty())
}

/// Like [`lock`], for a program whose children are not Git's: none of them may hold the repository after it.
pub fn lock_alone(dir: &Path) -> Result<RepositoryLock, LockError> {
    lock_with(dir, FdFlags::CLOEXEC)
}

fn lock_with(dir: &Path, flags: FdFlags) -> Result<RepositoryLock, LockError> {
    let path = dir.join("conf.lock");
    let failed = |cause| LockError::Open { path: path.clone(), cause };
    let mut file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
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
    // For people only: who holds it.
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    sweep(dir).map_err(|cause| LockError::Sweep { path: dir.to_owned(), cause })?;
    Ok(RepositoryLock { _file: file })
}

/// Removes what killed programs left in a repository that nobody else uses: lock files and unfinished objects.
fn sweep(repo: &Path) -> io::Result<()> {
    // Only Git's own folders: what else stands beside them may well have files that end in `.lock`.
    sweep_folder(repo, false)?;
    ["refs", "logs", "info", "objects"].iter().try_for_each(|folder| sweep_folder(&repo.join(folder), true))
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
        // `tmp_…` are Git's unfinished objects and quarantines, and ours; `pack_git2_…` libgit2's unfinished packs.
        let unfinished = name.starts_with("tmp_") || name.starts_with("pack_git2_");
        if entry.file_type()?.is_dir() {
            if unfinished {
                fs::remove_dir_all(&path)?;
            } else if inner {
                sweep_folder(&path, inner)?;
            }
        } else if unfinished || name.ends_with(".lock") && name != "conf.lock" {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Makes a folder's entries durable: what was created, renamed or removed in it.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces a file in one step: whoever reads it, after a power cut too, sees the old content or the new.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut name = std::ffi::OsString::from("tmp_");
    name.push(path.file_name().unwrap_or_default());
    let staged = folder.join(name);
    let mut file = File::create(&staged)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    sync_folder(folder)
}

/// Why git or a repository cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git in PATH.
    #[error("cannot run git; install it (2.39 or newer) and see that PATH leads to it")]
    NoExecutable(#[source] io::Error),
    /// It is too old.
    #[error("{found:?} is too old; install git 2.39 or newer")]
    TooOld {
        /// What `git version` said.
        found: String,
    },
    /// The repository cannot be opened or made.
    #[error("cannot open or make the repository {path}")]
    Open {
        /// Where.
        path: PathBuf,
        /// Git's words.
        #[source]
        cause: git2::Error,
    },
    /// There is a worktree around it.
    #[error("{path} is not a bare repository; name another folder")]
    NotBare {
        /// Where.
        path: PathBuf,
    },
}

/// Why a repository could not be held.
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
    /// Another program holds it.
    #[error("{path} is held by another process ({holder}); only one daemon may use a repository")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What stands in it: the pid of the holder, or of the killed one whose Git children still run.
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
