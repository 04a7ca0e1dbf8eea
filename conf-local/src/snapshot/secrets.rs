//! The secrets of this host. Values that conf-master sealed to it are opened here, in memory.
//! Values that this host has itself come from [`HostSecrets`].
//!
//! Values go to the process that renders, and into files that only their owner may read. Logs,
//! errors and reports hold names alone.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use conf_core::{
    git::{Durability, replace_file},
    layers::Sources,
    render::Secrets,
    secret::{self, Identity, IdentityError, MAX_SEALED_BYTES, SecretValue},
};
use git2::Repository as Git;
use libconf::name::{ComponentName, ObjectId, SecretName};
use rand::RngCore as _;

use crate::snapshot::{
    host_secrets::{HostSecrets, SourceUses},
    source::HostSource,
};

/// A file in the state folder.
const SALT: &str = "salt";
const SALT_BYTES: usize = 32;

/// Returns the path of the identity: the given one, or the usual one in the state folder.
pub(crate) fn identity_path(state: &Path, given: Option<&Path>) -> PathBuf {
    given.map_or_else(|| state.join("identity"), Path::to_owned)
}

/// Reads or creates the salt, on which the names of secret renderings depend. A damaged one is
/// replaced: everything that was rendered with it is rendered again.
pub(crate) fn salt(state: &Path) -> io::Result<Vec<u8>> {
    let path = state.join(SALT);
    match std::fs::read(&path) {
        Ok(salt) if salt.len() == SALT_BYTES => return Ok(salt),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut salt = vec![0; SALT_BYTES];
    rand::rng().fill_bytes(&mut salt);
    replace_file(&path, &salt, 0o600, Durability::Full)?;
    Ok(salt)
}

/// Writes the salt again if somebody has removed it.
pub(crate) fn keep_salt(state: &Path, salt: &[u8]) -> io::Result<()> {
    let path = state.join(SALT);
    if path.exists() { Ok(()) } else { replace_file(&path, salt, 0o600, Durability::Full) }
}

/// Loads this host's private key from a file, or creates both.
pub(crate) fn load_identity(path: &Path) -> Result<Arc<Identity>, IdentityError> {
    let (identity, made) = Identity::load_or_create(path)?;
    if made {
        tracing::info!(
            path = %path.display(), key = %identity.recipient(),
            "created this host's identity; write the key into `inventories` for its secrets and its reports"
        );
    }
    if !identity.recipient().signs() {
        tracing::info!(path = %path.display(), "this is an age identity: it opens secrets, but cannot sign reports");
    }
    Ok(Arc::new(identity))
}

/// Reads the secrets of one snapshot, each at most once. Values are kept until this is dropped.
pub(crate) struct SecretReader<'a> {
    identity: &'a Identity,
    git: &'a Git,
    host: &'a HostSecrets,
    /// Only a source of this host that was never read is read.
    recalls: bool,
    known: HashMap<SecretName, Result<SecretValue, String>>,
    /// The value of each source, and its generation.
    read: HashMap<HostSource, (Result<SecretValue, String>, u64)>,
}

impl<'a> SecretReader<'a> {
    /// With `recalls`, takes the values of this host's own secrets as they were last read: what is
    /// exported is only compared or made again.
    pub(crate) fn new(identity: &'a Identity, git: &'a Git, host: &'a HostSecrets, recalls: bool) -> Self {
        SecretReader { identity, git, host, recalls, known: HashMap::new(), read: HashMap::new() }
    }

    /// Returns the secrets that a component may read.
    pub(crate) fn of(&mut self, sources: &Sources<'_>, component: &ComponentName) -> Secrets {
        let mut secrets = Secrets::default();
        if sources.raw {
            return secrets;
        }
        for (name, declared) in sources.secrets_of(component) {
            if !self.known.contains_key(name) {
                let value = match self.host.offers.source(&declared.source) {
                    None => self.sealed(sources, name),
                    Some(Ok(source)) => self.of_host(source.clone()),
                    Some(Err(why)) => Err(why),
                };
                self.known.insert(name.clone(), value);
            }
            if let Some(value) = self.known.get(name) {
                secrets.insert(name, value.clone());
            }
        }
        secrets
    }

    /// Notes in `uses` which values a rendering got.
    pub(crate) fn date(&self, uses: &mut SourceUses) {
        for (source, one) in uses {
            one.generation = self.read.get(source).map_or(one.generation, |(_, generation)| *generation);
        }
    }

    fn of_host(&mut self, source: HostSource) -> Result<SecretValue, String> {
        let read = |source: &HostSource| {
            if self.recalls { self.host.recall_value(source) } else { self.host.read(source) }
        };
        match self.read.entry(source) {
            Entry::Occupied(known) => known.get().0.clone(),
            Entry::Vacant(new) => {
                let value = read(new.key());
                new.insert(value).0.clone()
            }
        }
    }

    fn sealed(&self, sources: &Sources<'_>, name: &SecretName) -> Result<SecretValue, String> {
        let Some(id) = sources.sealed.get(name) else {
            return Err("the snapshot holds no value of it".to_owned());
        };
        let sealed = self.blob(*id)?;
        secret::open(self.identity, &sealed, &sources.datacenter.id, name).map_err(|error| error.to_string())
    }

    fn blob(&self, id: ObjectId) -> Result<Vec<u8>, String> {
        let blob = self.git.find_blob(id.into()).map_err(|error| format!("it cannot be read: {}", error.message()))?;
        if blob.size() > MAX_SEALED_BYTES {
            return Err("it is too large".to_owned());
        }
        Ok(blob.content().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_salt_is_created_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = salt(folder.path()).unwrap();
        assert_eq!(salt(folder.path()).unwrap(), first);
        let mode = std::fs::metadata(folder.path().join(SALT)).unwrap().mode() & 0o777;
        assert_eq!((first.len(), mode), (SALT_BYTES, 0o600));
        std::fs::write(folder.path().join(SALT), "short").unwrap();
        assert_ne!(salt(folder.path()).unwrap(), first);
    }
}
