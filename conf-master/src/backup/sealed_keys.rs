//! The keys of a copy: the signing key and the key for secrets, sealed by age, and in the clear the
//! public half of the signing key.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use conf_core::secret::{HostKey, Identity, open_file, seal_file};
use conf_core::sign::public_path;
use git2::{Repository, Tree};
use libconf::name::CommitId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::store::{self, commit};

/// The files of the commit: what they hold, and how they are called when they are sealed.
const SIGNING: &str = "signing-key.age";
const SECRETS: &str = "secrets-key.age";
const PUBLIC: &str = "signing-key.pub";
const ABOUT: &str = "about.json";
/// No key has as much.
const MOST_BYTES: usize = 64 << 10;
const BLOB: i32 = 0o100_644;

/// To whom which keys are sealed: without a change of it they are not sealed anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AboutKeys {
    /// The public keys that they are sealed to; none in a copy without keys.
    pub(crate) recipients: Vec<String>,
    /// A hash of the public half of both keys.
    keys: String,
}

/// The keys of a server, opened.
pub(crate) struct OpenedKeys {
    /// The text of the signing key's file.
    pub(crate) signing: Zeroizing<Vec<u8>>,
    /// The text of the file of the key for secrets.
    pub(crate) secrets: Zeroizing<Vec<u8>>,
}

/// Writes the commit with the keys of the server at `path` into `scratch`, unless `known` is such a
/// commit already.
pub(crate) fn write(
    scratch: &Repository,
    path: &Path,
    recipients: &[HostKey],
    known: Option<CommitId>,
    time: i64,
) -> anyhow::Result<CommitId> {
    let (signing, secrets) = (store::key_path(path), store::identity_path(path));
    let public = fs::read(public_path(&signing)).context("cannot read the public key")?;
    let own = Identity::load(&secrets)?;
    let keys = format!("{:x}", Sha256::digest([public.as_slice(), own.recipient().to_string().as_bytes()].concat()));
    let mut recipients: Vec<&HostKey> = recipients.iter().collect();
    recipients.sort_by_key(ToString::to_string);
    let about = AboutKeys { recipients: recipients.iter().map(ToString::to_string).collect(), keys };
    if let Some(known) = known
        && read_about(scratch, known).is_ok_and(|before| before == about)
    {
        return Ok(known);
    }
    let mut tree = scratch.treebuilder(None)?;
    tree.insert(PUBLIC, scratch.blob(&public)?, BLOB)?;
    tree.insert(ABOUT, scratch.blob(&serde_json::to_vec_pretty(&about)?)?, BLOB)?;
    if !recipients.is_empty() {
        let recipients: Vec<HostKey> = recipients.into_iter().cloned().collect();
        for (name, file) in [(SIGNING, &signing), (SECRETS, &secrets)] {
            let text = read_key(file)?;
            tree.insert(name, scratch.blob(&seal_file(&text, &recipients)?)?, BLOB)?;
        }
    }
    Ok(commit::write(scratch, tree.write()?, known, time, "Keys of the server\n")?)
}

/// Reads the file of a key.
pub(crate) fn read_key(file: &PathBuf) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let text = fs::read(file).map(Zeroizing::new).with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(text.len() <= MOST_BYTES, "{} is no key: it is too large", file.display());
    Ok(text)
}

/// To whom the keys of a commit are sealed.
pub(crate) fn read_about(repo: &Repository, commit: CommitId) -> anyhow::Result<AboutKeys> {
    let tree = repo.find_commit(commit.into())?.tree()?;
    Ok(serde_json::from_slice(&file(repo, &tree, ABOUT)?)?)
}

/// The public half of the signing key, as a line.
pub(crate) fn public(repo: &Repository, commit: CommitId) -> anyhow::Result<Vec<u8>> {
    let tree = repo.find_commit(commit.into())?.tree()?;
    file(repo, &tree, PUBLIC)
}

/// Opens the keys.
pub(crate) fn open(repo: &Repository, commit: CommitId, identity: &Identity) -> anyhow::Result<OpenedKeys> {
    let tree = repo.find_commit(commit.into())?.tree()?;
    ensure!(tree.get_name(SIGNING).is_some(), "the copy was made with --without-keys; give the signing key with --key");
    let opened = |name: &str| -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let sealed = file(repo, &tree, name)?;
        open_file(identity, &sealed)
            .with_context(|| format!("the {name} of the copy cannot be opened with this identity"))
    };
    Ok(OpenedKeys { signing: opened(SIGNING)?, secrets: opened(SECRETS)? })
}

fn file(repo: &Repository, tree: &Tree<'_>, name: &str) -> anyhow::Result<Vec<u8>> {
    let entry = tree.get_name(name).with_context(|| format!("the keys of the copy have no {name}"))?;
    let blob = repo.find_blob(entry.id())?;
    ensure!(blob.size() <= MOST_BYTES, "the {name} of the copy is too large");
    Ok(blob.content().to_vec())
}
