//! The git executable in a clean environment.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest git that the tests run with.
const OLDEST: (u32, u32) = (2, 39);

/// `git --git-dir=<repo>` in a clean environment: no configuration of a user or the machine, no
/// variables of a hook, no replace refs, no terminal.
///
/// Add the subcommand and its arguments. For tokio: `tokio::process::Command::from(command(repo))`,
/// with `kill_on_drop(true)`.
pub fn command(repo: &Path) -> Command {
    let mut git = bare_command();
    let mut git_dir = std::ffi::OsString::from("--git-dir=");
    git_dir.push(repo);
    git.arg(git_dir);
    git
}

/// `git` without a repository.
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

/// Checks the version of the git executable; an error when there is none, or one older than 2.39.
pub fn check_version() -> Result<(), GitError> {
    let output = bare_command().arg("version").output().map_err(GitError::NoExecutable)?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let mut numbers = text.trim_start_matches("git version ").split('.').map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Ok(()),
        _ => Err(GitError::TooOld { found: text }),
    }
}

/// Why git or a repository cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git in PATH.
    #[error("cannot run git; install it (2.39 or newer) and see that PATH leads to it")]
    NoExecutable(#[source] io::Error),
    /// The installed git is too old.
    #[error("{found:?} is too old; install git 2.39 or newer")]
    TooOld {
        /// The output of `git version`.
        found: String,
    },
    /// The repository cannot be opened or made.
    #[error("cannot open or make the repository {path}")]
    Open {
        /// The repository's path.
        path: PathBuf,
        /// Git's words.
        #[source]
        cause: git2::Error,
    },
    /// The repository has a worktree.
    #[error("{path} is not a bare repository; name another folder")]
    NotBare {
        /// The repository's path.
        path: PathBuf,
    },
}
