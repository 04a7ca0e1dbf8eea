//! Signatures on snapshots: SSH signatures as `git verify-commit` knows them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig, rand_core::OsRng};

use libconf::name::Sequence;

use crate::git::create_file;

/// The namespace under which Git signs commits and tags; a signature made for another purpose does
/// not count. Source: `gpg-interface.c`, `ssh-keygen -Y sign -n git`.
pub(crate) const NAMESPACE: &str = "git";

/// The Ed25519 key of conf-master, in OpenSSH form.
#[derive(Debug)]
pub struct SigningKey(PrivateKey);

impl SigningKey {
    /// Makes a new key: writes `path` (0600) and `path.pub`, both durable, and never replaces an
    /// existing file.
    pub fn generate(path: &Path, comment: &str) -> Result<Self, KeyError> {
        let mut key =
            PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(|error| KeyError::file(path, &error))?;
        key.set_comment(comment);
        let text = key.to_openssh(LineEnding::LF).map_err(|error| KeyError::file(path, &error))?;
        let key = SigningKey(key);
        create_file(path, text.as_bytes(), 0o600).map_err(|error| KeyError::file(path, &error))?;
        let public = public_path(path);
        let line = format!("{}\n", key.public_line());
        create_file(&public, line.as_bytes(), 0o644).map_err(|error| KeyError::file(&public, &error))?;
        Ok(key)
    }

    /// Reads the key at `path`.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = fs::read(path).map_err(|error| KeyError::file(path, &error))?;
        if text.starts_with(b"ssh-") || text.starts_with(b"ecdsa-") {
            return Err(KeyError::file(path, &"it is a public key; the private one is the file without .pub"));
        }
        let key = PrivateKey::from_openssh(text).map_err(|error| KeyError::file(path, &error))?;
        if key.is_encrypted() {
            return Err(KeyError::file(path, &"it is encrypted; a server cannot ask for its passphrase"));
        }
        ed25519_only(key.algorithm()).map_err(|words| KeyError::file(path, &words))?;
        Ok(SigningKey(key))
    }

    /// The public key as one line: `ssh-ed25519 AAAA… comment`.
    pub fn public_line(&self) -> String {
        self.0.public_key().to_openssh().unwrap_or_default()
    }

    /// The public half.
    pub(crate) fn public(&self) -> &PublicKey {
        self.0.public_key()
    }

    /// How people name the key: `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.public())
    }

    /// Signs the text of a commit; the result is the value of its `gpgsig` header.
    pub fn sign(&self, commit: &str) -> Result<String, KeyError> {
        self.sign_for(NAMESPACE, commit.as_bytes())
    }

    pub(crate) fn sign_for(&self, namespace: &str, text: &[u8]) -> Result<String, KeyError> {
        let bad = |error: ssh_key::Error| KeyError::BadSignature(error.to_string());
        let signature = self.0.sign(namespace, HashAlg::Sha512, text).map_err(bad)?;
        signature.to_pem(LineEnding::LF).map_err(bad)
    }
}

/// How people name a key: `SHA256:…`.
pub(crate) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// The path of the public half beside a key: `<path>.pub`.
pub fn public_path(path: &Path) -> PathBuf {
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    PathBuf::from(public)
}

/// Reads the public keys in a `.pub` file or an `allowed_signers` file; a file without a usable key
/// is an error.
///
/// In `allowed_signers`, lines for other namespaces than `git`, and lines that name a certificate
/// authority, are ignored. Source: ssh-keygen(1), "ALLOWED SIGNERS".
pub(crate) fn public_keys(path: &Path) -> Result<Vec<PublicKey>, KeyError> {
    let text = fs::read_to_string(path).map_err(|error| KeyError::file(path, &error))?;
    if text.contains("PRIVATE KEY-----") || text.contains("AGE-SECRET-KEY-") {
        let public = public_path(path);
        let words = format!(
            "it is a private key, which belongs to conf-master alone; give the public one, usually {}",
            public.display()
        );
        return Err(KeyError::file(path, &words));
    }
    let lines = (1..).zip(text.lines().map(str::trim));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let mut keys = Vec::new();
    for (number, line) in lines {
        let bad = |reason| KeyError::file(path, &format!("line {number}: {reason}"));
        if let Some(key) = trusted_line(line).map_err(bad)? {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err(KeyError::file(path, &"no public key in it; give it the line that `conf-master init` printed"));
    }
    Ok(keys)
}

pub(crate) fn read(signature: &str) -> Result<SshSig, KeyError> {
    SshSig::from_pem(signature).map_err(|error| KeyError::BadSignature(format!("it is no SSH signature ({error})")))
}

/// Reads one line of either form; `None` for a well-formed line that does not concern us.
fn trusted_line(line: &str) -> Result<Option<PublicKey>, String> {
    let words = split_outside_quotes(line);
    let at = words.iter().position(|word| Algorithm::new(word).is_ok());
    // A line that is no public key may be a secret, so it is not quoted.
    let Some(at) = at else { return Err("no public key, as in ssh-ed25519 AAAA…".to_owned()) };
    // In allowed_signers, principals and options stand before the key.
    let options: String = words[..at].iter().skip(1).copied().collect::<Vec<_>>().join(",").to_ascii_lowercase();
    if options.split(',').any(|option| option == "cert-authority") {
        return Ok(None);
    }
    if let Some((_, rest)) = options.split_once("namespaces=\"") {
        let namespaces = rest.split('"').next().unwrap_or_default();
        if !namespaces.split(',').any(|one| one == NAMESPACE || one == "*") {
            return Ok(None);
        }
    }
    let key = words[at..].join(" ");
    let key = PublicKey::from_openssh(&key).map_err(|error| format!("the public key cannot be read: {error}"))?;
    ed25519_only(key.algorithm())?;
    Ok(Some(key))
}

/// Anybody can make a second signature of one by ECDSA, and so a second commit of one snapshot.
pub(crate) fn ed25519_only(algorithm: Algorithm) -> Result<(), String> {
    match algorithm {
        Algorithm::Ed25519 => Ok(()),
        other => Err(format!("it is a key of {other}; snapshots are signed with ssh-ed25519 alone")),
    }
}

fn split_outside_quotes(line: &str) -> Vec<&str> {
    let mut quoted = false;
    line.split(|letter: char| {
        quoted ^= letter == '"';
        !quoted && letter.is_whitespace()
    })
    .filter(|word| !word.is_empty())
    .collect()
}

/// Why a key or a signature cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file cannot be read or written.
    #[error("cannot use the key file {path}: {reason}")]
    File {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The text is not signed, not by a trusted key, or the signature belongs to another text.
    #[error("the signature is not good: {0}")]
    BadSignature(String),
    /// There is no key to sign with.
    #[error("there is no key to sign with yet")]
    NoKey,
    /// The key that signed is revoked.
    #[error(
        "the signature is not good: it is by the key {fingerprint}, which is revoked and counts only for changes below \
         #{until}"
    )]
    Revoked {
        /// The key.
        fingerprint: String,
        /// The first change for which it does not count.
        until: Sequence,
    },
    /// A statement about keys is not followed.
    #[error("statement {number} about keys is refused: {reason}")]
    Statement {
        /// Its number.
        number: u32,
        /// What is wrong with it.
        reason: String,
    },
}

impl KeyError {
    fn file(path: &Path, reason: &dyn ToString) -> Self {
        KeyError::File { path: path.to_owned(), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_whose_signatures_have_two_forms_signs_nothing_and_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let curve = Algorithm::Ecdsa { curve: ssh_key::EcdsaCurve::NistP256 };
        let key = PrivateKey::random(&mut OsRng, curve).unwrap();
        fs::write(&path, key.to_openssh(LineEnding::LF).unwrap()).unwrap();
        fs::write(public_path(&path), key.public_key().to_openssh().unwrap()).unwrap();
        for error in [SigningKey::load(&path).unwrap_err(), public_keys(&public_path(&path)).unwrap_err()] {
            assert!(error.to_string().contains("ssh-ed25519 alone"), "{error}");
        }
    }

    #[test]
    fn allowed_signers() {
        let folder = tempfile::tempdir().unwrap();
        let line = SigningKey::generate(&folder.path().join("key"), "c").unwrap().public_line();
        let file = folder.path().join("allowed");
        let count = |text: String| {
            fs::write(&file, text).unwrap();
            public_keys(&file).map_or(0, |keys| keys.len())
        };
        assert_eq!(count(format!("# master\nconf-master {line}\n\n* namespaces=\"git\" {line}\n")), 2);
        assert_eq!(count(format!("a namespaces=\"file\" {line}\nb cert-authority {line}\n")), 0);
        assert_eq!(count("nonsense\n".to_owned()), 0);
    }

    #[test]
    fn a_key_in_the_wrong_place_says_which_file_to_give_and_is_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        SigningKey::generate(&path, "c").unwrap();
        let words = public_keys(&path).unwrap_err().to_string();
        assert!(words.contains("it is a private key") && words.ends_with("key.pub"), "{words}");
        assert!(!words.contains("BEGIN"), "{words}");
        let words = SigningKey::load(&public_path(&path)).unwrap_err().to_string();
        assert!(words.contains("it is a public key; the private one is the file without .pub"), "{words}");
        fs::write(&path, "# a comment\n\ncanary of a token\n").unwrap();
        let words = public_keys(&path).unwrap_err().to_string();
        assert!(words.contains("line 3: no public key") && !words.contains("canary"), "{words}");
    }
}
