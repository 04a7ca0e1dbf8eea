//! Whether the repository is a standby's, whose server takes what another one lands, and lands
//! nothing itself; and whether another server has taken its history over.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use conf_core::git::{self, Durability};

/// The file in a standby's repository.
const STANDBY: &str = "standby";
/// The file in the repository of a server whose history another one goes on with.
const SUPERSEDED: &str = "superseded";

/// Tells whether this is a standby's repository.
pub(crate) fn is_standby(repo: &Path) -> bool {
    // Where nobody can tell it leads nothing.
    repo.join(STANDBY).try_exists().unwrap_or(true)
}

/// Makes it one.
pub(crate) fn begin_standby(repo: &Path) -> anyhow::Result<()> {
    write(repo, STANDBY, "")
}

/// Makes it a leader's. A file that is gone already is no error.
pub(crate) fn end_standby(repo: &Path) -> anyhow::Result<()> {
    match fs::remove_file(repo.join(STANDBY)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", repo.join(STANDBY).display()))
        }
        _ => Ok(git::sync_folder(repo)?),
    }
}

/// Notes for good that another server leads, in words.
pub(crate) fn note_superseded(repo: &Path, words: &str) -> anyhow::Result<()> {
    write(repo, SUPERSEDED, &format!("{words}\n"))
}

/// The words of [`note_superseded`], and the file.
pub(crate) fn superseded(repo: &Path) -> Option<(String, PathBuf)> {
    let file = repo.join(SUPERSEDED);
    match fs::read_to_string(&file) {
        Ok(words) => Some((words.trim().to_owned(), file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some((format!("{} cannot be read: {error}", file.display()), file)),
    }
}

fn write(repo: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let file = repo.join(name);
    git::replace_file(&file, text.as_bytes(), 0o644, Durability::Full)
        .with_context(|| format!("cannot write {}", file.display()))
}
