//! Signatures on snapshots: SSH signatures as `git verify-commit` knows them.

use std::path::Path;

/// The Ed25519 key of conf-master, in OpenSSH form.
#[derive(Debug)]
pub struct SigningKey(ssh_key::PrivateKey);

impl SigningKey {
    /// Makes a new key: writes `path` (0600) and `path.pub`, both durable, and never replaces an existing file.
    pub fn generate(path: &Path, comment: &str) -> Result<Self, KeyError> {
        let _ = (path, comment);
        unimplemented!()
    }

    /// Reads the key at `path`.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let _ = path;
        unimplemented!()
    }

    /// The public key as one line: `ssh-ed25519 AAAA… comment`.
    pub fn public_line(&self) -> String {
        unimplemented!()
    }

    /// Signs the text of a commit; the answer is what stands in its `gpgsig` header.
    pub fn sign(&self, commit: &str) -> Result<String, KeyError> {
        let _ = commit;
        unimplemented!()
    }
}

/// The public keys that a reader trusts.
#[derive(Clone, Debug)]
pub struct TrustedKeys(Vec<ssh_key::PublicKey>);

impl TrustedKeys {
    /// Reads a `.pub` file or an allowed_signers file; one without a usable key is an error.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let _ = path;
        unimplemented!()
    }

    /// Checks a commit's signature over its text.
    pub fn verify(&self, commit: &[u8], signature: &str) -> Result<(), KeyError> {
        let _ = (commit, signature);
        unimplemented!()
    }
}

/// Why a key or a signature is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file cannot be read or written.
    #[error("cannot use the key file {path}: {reason}")]
    File {
        /// Which file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Not signed, not by a trusted key, or not this text.
    #[error("the signature is not good: {0}")]
    BadSignature(String),
}
