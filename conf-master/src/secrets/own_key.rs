//! Whether conf-master's own key for secrets is the one that values are sealed to.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use conf_core::daemon::chain;
use conf_core::secret::{About, HostKey, Identity};
use conf_core::sign::public_path;
use git2::Repository;

use crate::secrets::branch;
use crate::store::identity_path;

/// Reads the key beside `repo`, or makes one where nothing is sealed yet. A key that opens nothing
/// is refused, unless somebody has said that it is meant.
pub(crate) fn load(repo: &Path) -> anyhow::Result<Arc<Identity>> {
    let path = identity_path(repo);
    let opened = Repository::open_bare(repo)?;
    let identity = match Identity::load(&path) {
        Err(error) if error.is_missing => {
            if newest(&opened).is_some() {
                bail!("{} is gone, and values are sealed to it. {}", path.display(), put_back(&path));
            }
            let identity = Identity::create(&path)?;
            tracing::info!(path = %path.display(), "a new key for secrets was made; back it up with the repository");
            identity
        }
        found => found?,
    };
    check(&opened, identity.recipient(), &path)?;
    Ok(Arc::new(identity))
}

/// Says what is wrong with the file of a key that a running server has read, if anything is: what
/// the next start would find.
pub(crate) fn fault(repo: &Path, own: &Identity) -> Option<String> {
    let path = identity_path(repo);
    match Identity::load(&path) {
        Ok(found) if found.recipient() == own.recipient() => None,
        Ok(found) => {
            let checked = Repository::open_bare(repo)
                .map_err(anyhow::Error::from)
                .and_then(|opened| check(&opened, found.recipient(), &path));
            checked.err().map(|error| format!("{}; the next start would be refused", chain(&*error)))
        }
        Err(error) if error.is_missing => Some(format!("{} is gone; conf-master writes it anew", path.display())),
        Err(error) => Some(format!("{error}; put the key for secrets back: the next start needs it")),
    }
}

/// Writes the key again whose file is gone.
pub(crate) fn mend(repo: &Path, own: &Identity) -> anyhow::Result<()> {
    Ok(own.write_again(&identity_path(repo))?)
}

/// Holds a key against the value that was sealed last, and against the public keys beside it: those
/// that somebody has put there after the earlier key was lost.
fn check(repo: &Repository, key: &HostKey, path: &Path) -> anyhow::Result<()> {
    let is_meant = |newest: &About| newest.recipients.contains(key) || public_keys(path).contains(key);
    match newest(repo) {
        Some((name, newest)) if !is_meant(&newest) => bail!(
            "{} is another key than the one that the secret {name} is sealed to, and opens none of what is kept. {}",
            path.display(),
            put_back(path)
        ),
        _ => Ok(()),
    }
}

fn put_back(path: &Path) -> String {
    let shown = path.display();
    format!(
        "Put the right file back, from where the repository is backed up. If it is lost, make a new one by `ssh-keygen -t ed25519 \
         -N '' -f '{shown}'`, which writes {shown}.pub beside it: with that conf-master starts, and each secret needs a new \
         value (`conf-master secret rotate`, `secret set`)"
    )
}

fn public_keys(path: &Path) -> Vec<HostKey> {
    let public: PathBuf = public_path(path);
    let text = fs::read_to_string(public).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Returns the secret that was sealed last, of all datacenters.
fn newest(repo: &Repository) -> Option<(String, About)> {
    let of_branch = |reference: git2::Reference<'_>| -> anyhow::Result<Vec<(String, About)>> {
        let id = reference.shorthand().unwrap_or_default().trim_start_matches("secrets/").to_owned();
        let abouts = branch::abouts(repo, Some(reference.peel_to_tree()?.id().into()))?;
        Ok(abouts.into_iter().map(|(name, about)| (format!("{name} of {id}"), about)).collect())
    };
    let references = repo.references_glob("refs/heads/secrets/*").into_iter().flatten();
    let found = references.filter_map(|reference| {
        let found = reference.context("a ref cannot be read").and_then(of_branch);
        // Another datacenter's secrets tell as much.
        found.inspect_err(|error| tracing::warn!(error = chain(&**error), "secrets cannot be read")).ok()
    });
    found.flatten().max_by_key(|(_, about)| about.sequence)
}
