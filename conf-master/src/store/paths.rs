//! The files beside the repository.

use std::path::{Path, PathBuf};

/// Returns the path of the signing key: `<repo>.key`.
pub(crate) fn key_path(repo: &Path) -> PathBuf {
    beside(repo, ".key")
}

/// Returns the path of conf-master's own key for secrets: `<repo>.identity`.
pub(crate) fn identity_path(repo: &Path) -> PathBuf {
    beside(repo, ".identity")
}

/// Returns the path of the first administrator's token: `<repo>.token`.
pub(crate) fn token_path(repo: &Path) -> PathBuf {
    beside(repo, ".token")
}

/// Returns the path beside `path` that has this ending besides.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
