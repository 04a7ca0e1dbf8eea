//! A copy: where it is, and which refs it has.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use conf_core::git;
use conf_core::sign::TrustedKeys;
use conf_core::snapshot::Snapshot;
use git2::Repository;
use libconf::name::{CommitId, RefName};

use crate::store::Table;

/// The ref of the keys in a copy.
pub(crate) const KEYS: &str = "refs/conf/copy/keys";
/// The refs of what the first change made, which the ledger does not reach until it changes.
pub(crate) const FIRST: [(RefName, &str); 2] =
    [(RefName::Main, "refs/conf/copy/main"), (RefName::Access, "refs/conf/copy/access")];

/// The variables of the operator's environment with which Git reaches another machine.
const VARIABLES: [&str; 14] = [
    "HOME",
    "USER",
    "XDG_CONFIG_HOME",
    "SSH_AUTH_SOCK",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_ASKPASS",
    "GIT_CONFIG_GLOBAL",
    "GIT_SSL_CAINFO",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// Where a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopyPlace {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A repository that Git reaches by this URL.
    Url(String),
}

impl FromStr for CopyPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.starts_with('-') || text.chars().any(char::is_control) {
            return Err("name a folder or a URL".to_owned());
        }
        let login = text.split_once("://").and_then(|(_, rest)| rest.split('/').next()?.rsplit_once('@'));
        if login.is_some_and(|(login, _)| login.contains(':')) {
            return Err(
                "leave the password out of the URL, where others can see it; a credential helper of Git gives it"
                    .to_owned(),
            );
        }
        // `host:path`, as SSH has it.
        let is_remote = text.split_once(':').is_some_and(|(host, _)| !host.contains('/'));
        Ok(if text.contains("://") || is_remote {
            CopyPlace::Url(text.to_owned())
        } else {
            CopyPlace::Folder(text.into())
        })
    }
}

impl fmt::Display for CopyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyPlace::Folder(path) => write!(f, "{}", path.display()),
            CopyPlace::Url(url) => f.write_str(url),
        }
    }
}

impl CopyPlace {
    /// How Git names it.
    pub(crate) fn name(&self) -> anyhow::Result<String> {
        match self {
            CopyPlace::Url(url) => Ok(url.clone()),
            CopyPlace::Folder(path) => {
                let full = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
                full.into_os_string().into_string().map_err(|_| anyhow::anyhow!("{} is not UTF-8", path.display()))
            }
        }
    }

    /// Makes the repository of a folder that is not there yet, or is empty.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        let CopyPlace::Folder(path) = self else { return Ok(()) };
        let is_empty = fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
        if is_empty {
            conf_core::daemon::make_folder(path, 0o700).with_context(|| format!("cannot make {}", path.display()))?;
            // Git packs it by itself.
            git::init(path, &[("core.fsync", "all"), ("receive.fsckObjects", "true")])?;
        }
        Ok(())
    }

    /// Makes durable what Git has written.
    pub(crate) fn sync(&self) -> anyhow::Result<()> {
        let CopyPlace::Folder(path) = self else { return Ok(()) };
        let synced = fs::File::open(path).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
        synced.with_context(|| format!("{} cannot be made durable", path.display()))
    }
}

/// A program of Git that reaches other machines as the operator would.
pub(crate) fn remote_git(repo: &Path, arguments: &[&str]) -> Command {
    let mut git = git::command(repo);
    git.env_remove("GIT_CONFIG_GLOBAL").args(arguments);
    for name in VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            git.env(name, value);
        }
    }
    git
}

/// Runs a program of Git, and returns what it prints; an error holds its own words.
pub(crate) fn output(mut git: Command) -> anyhow::Result<String> {
    let done = git.stdin(Stdio::null()).output().context("git cannot be started")?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&done.stderr);
    let words: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    bail!("{}", words[words.len().saturating_sub(4)..].join("; "))
}

/// Fetches a copy into an empty repository, which then has its refs, and returns the newest entry
/// of its ledger. Objects that are not as they should be are refused.
pub(crate) fn fetch(repo: &Repository, from: &CopyPlace) -> anyhow::Result<CommitId> {
    let name = from.name()?;
    let arguments = ["-c", "fetch.fsckObjects=true", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head"];
    let mut git = remote_git(repo.path(), &arguments);
    git.args(["--end-of-options", &name, "+refs/conf/*:refs/copied/*"]);
    output(git).with_context(|| format!("cannot fetch the copy {from}"))?;
    let ledger = repo.refname_to_id(&copied(&RefName::Ledger.to_string()));
    ledger.map(CommitId::from).with_context(|| format!("{from} is no copy of a central repository: it has no ledger"))
}

/// Checks the signature of the newest snapshot of each datacenter, which vouches for those before
/// it, and counts them: whoever holds a copy could have changed it.
pub(crate) fn signed(repo: &Repository, table: &Table, trusted: &TrustedKeys) -> anyhow::Result<usize> {
    let mut signed = 0;
    for (name, place) in table.places() {
        let (RefName::Snapshot(datacenter), Some(target)) = (name, place.target) else { continue };
        Snapshot::verify(repo, target.commit, trusted, datacenter)
            .with_context(|| format!("the snapshot of {datacenter} is not good"))?;
        signed += 1;
    }
    Ok(signed)
}

/// The name in a fetched repository of a ref of the copy.
pub(crate) fn copied(name: &str) -> String {
    name.replacen("refs/conf/", "refs/copied/", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_what_git_reaches() {
        for url in ["https://a/b.git", "ssh://git@a/b", "file:///x", "git@example.com:conf.git", "host:x"] {
            assert_eq!(url.parse(), Ok(CopyPlace::Url(url.to_owned())));
        }
        for path in ["/mnt/copy.git", "copy", "./a:b", "a b"] {
            assert_eq!(path.parse(), Ok(CopyPlace::Folder(path.into())));
        }
        for bad in ["", "--upload-pack=x", "a\nb", "https://ann:secret@a/b.git"] {
            bad.parse::<CopyPlace>().unwrap_err();
        }
    }
}
