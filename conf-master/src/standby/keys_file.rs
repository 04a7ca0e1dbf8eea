//! The keys of a server as one file, sealed by age: a standby needs them to go on in its place.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use conf_core::git::{self, Durability};
use conf_core::secret::{HostKey, Identity, open_file, seal_file};
use conf_core::sign::{SigningKey, public_path};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use crate::backup::sealed_keys::read_key;
use crate::store;

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Keys {
    /// The text of the signing key's file.
    signing: Zeroizing<String>,
    /// The text of the file of the key for secrets.
    secrets: Zeroizing<String>,
}

/// Seals the keys of the server with this repository to public keys.
pub(crate) fn seal(repo: &Path, recipients: &[HostKey]) -> anyhow::Result<Vec<u8>> {
    let text = |file| -> anyhow::Result<Zeroizing<String>> {
        Ok(Zeroizing::new(String::from_utf8(read_key(&file)?.to_vec()).context("a key is no text")?))
    };
    let keys = Keys { signing: text(store::key_path(repo))?, secrets: text(store::identity_path(repo))? };
    let plain = Zeroizing::new(serde_json::to_vec(&keys)?);
    Ok(seal_file(&plain, recipients)?)
}

/// Opens a file of [`seal`], and puts the keys beside a repository. An error leaves the keys there
/// as they were.
pub(crate) fn put(file: &Path, identity: &Path, repo: &Path) -> anyhow::Result<SigningKey> {
    let sealed = read_key(&file.to_owned())?;
    let opened = open_file(&Identity::load(identity)?, &sealed)
        .with_context(|| format!("{} cannot be opened with this identity", file.display()))?;
    let keys: Keys = serde_json::from_slice(&opened)
        .ok()
        .with_context(|| format!("{} holds no keys; `conf-master key export` makes such a file", file.display()))?;
    let (key, secrets) = (store::key_path(repo), store::identity_path(repo));
    // Both are read before either takes the place of another one.
    let folder = key.parent().context("a key has a folder")?;
    let written = |text: &str| -> anyhow::Result<NamedTempFile> {
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        Ok(file)
    };
    let signing = SigningKey::load(written(&keys.signing)?.path()).context("the signing key in it is of no use")?;
    Identity::load(written(&keys.secrets)?.path()).context("the key for secrets in it is of no use")?;
    git::replace_file(&secrets, keys.secrets.as_bytes(), 0o600, Durability::Full)?;
    git::replace_file(&key, keys.signing.as_bytes(), 0o600, Durability::Full)?;
    let line = format!("{}\n", signing.public_line());
    git::replace_file(&public_path(&key), line.as_bytes(), 0o644, Durability::Full)?;
    Ok(signing)
}
