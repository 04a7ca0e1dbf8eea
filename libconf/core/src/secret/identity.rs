//! The private key of a host, or of conf-master: it opens values that are sealed to it, and signs a
//! host's reports.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use age::{DecryptError, Decryptor, secrecy::ExposeSecret as _, ssh, x25519};
use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};
use zeroize::Zeroizing;

use crate::{
    git::create_file,
    host_key::HostKey,
    secret::value::MAX_VALUE_BYTES,
};

/// The most bytes of a key file; any real one is far smaller.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// The most bytes of an opened value: every byte of the value escaped, and the JSON around it.
const MAX_PLAIN_BYTES: usize = 6 * MAX_VALUE_BYTES + 4096;

/// A private key: an OpenSSH Ed25519 key without a passphrase, or an age key (`AGE-SECRET-KEY-1…`),
/// which signs nothing.
pub struct Identity {
    key: Key,
    recipient: HostKey,
}

enum Key {
    Age(x25519::Identity),
    // The same key twice: each library has a form of its own.
    Ssh { opens: ssh::Identity, signs: Box<PrivateKey> },
}

/// Why an identity file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the identity {}: {reason}", path.display())]
pub struct IdentityError {
    /// The file.
    pub path: PathBuf,
    /// True when there is no such file.
    pub is_missing: bool,
    /// What is wrong and what to do.
    pub reason: String,
}

/// Why a sealed value cannot be opened; never holds a part of the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The value is sealed to other keys.
    #[error("it is not sealed to this key; the host's `key` in `inventories` must be the one that this identity has")]
    NotForThisKey,
    /// The value belongs to another secret, and was put in this one's place.
    #[error("it is sealed as the secret {name} of the datacenter {datacenter}, and was put in this one's place")]
    Swapped {
        /// The datacenter that it was sealed for.
        datacenter: String,
        /// The secret that it was sealed as.
        name: String,
    },
    /// The value is damaged, or of a form that this version does not know.
    #[error("it is damaged, or of a later version: {0}")]
    Damaged(&'static str),
}

impl IdentityError {
    fn new(path: &Path, reason: impl Into<String>) -> Self {
        IdentityError { path: path.to_owned(), is_missing: false, reason: reason.into() }
    }

    fn io(path: &Path, error: &io::Error) -> Self {
        let is_missing = error.kind() == io::ErrorKind::NotFound;
        IdentityError { is_missing, ..IdentityError::new(path, error.to_string()) }
    }
}

impl Identity {
    /// Reads an age identity file, or an OpenSSH private key. Only its owner may write it, and not
    /// everyone may read it.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let io = |error: io::Error| IdentityError::io(path, &error);
        let mut file = fs::File::open(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        if !about.is_file() || about.len() > MAX_FILE_BYTES {
            return Err(IdentityError::new(path, "it is no key file"));
        }
        // Some systems let a group read SSH's host keys.
        if about.mode() & 0o027 != 0 {
            let mode = about.mode() & 0o7777;
            let reason = format!("others may read or write it (mode {mode:04o}); run chmod 600 on it");
            return Err(IdentityError::new(path, reason));
        }
        // Room for all of it, since a buffer that grows leaves copies behind.
        let room = usize::try_from(about.len()).unwrap_or(0) + 1;
        let mut text = Zeroizing::new(String::with_capacity(room));
        (&mut file).take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(io)?;
        Self::parse(&text).map_err(|reason| IdentityError::new(path, reason))
    }

    /// Makes a new OpenSSH key in a new file of mode 0600, durably; never replaces a file.
    pub fn create(path: &Path) -> Result<Self, IdentityError> {
        let failed = |error: ssh_key::Error| IdentityError::new(path, error.to_string());
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(failed)?;
        let text = key.to_openssh(LineEnding::LF).map_err(failed)?;
        let identity = Self::parse(&text).map_err(|reason| IdentityError::new(path, reason))?;
        create_file(path, text.as_bytes(), 0o600).map_err(|error| IdentityError::io(path, &error))?;
        Ok(identity)
    }

    /// Reads the identity, or makes one when there is no file; the answer is true when it made one.
    pub fn load_or_create(path: &Path) -> Result<(Self, bool), IdentityError> {
        match Self::load(path) {
            Err(error) if error.is_missing => Self::create(path).map(|identity| (identity, true)),
            found => found.map(|identity| (identity, false)),
        }
    }

    /// Writes this identity to a file that does not exist, as [`Identity::create`] does: somebody
    /// has removed the one that it was read from.
    pub fn write_again(&self, path: &Path) -> Result<(), IdentityError> {
        let text = match &self.key {
            Key::Age(key) => Zeroizing::new(format!("{}\n", key.to_string().expose_secret())),
            Key::Ssh { signs, .. } => {
                signs.to_openssh(LineEnding::LF).map_err(|error| IdentityError::new(path, error.to_string()))?
            }
        };
        create_file(path, text.as_bytes(), 0o600).map_err(|error| IdentityError::io(path, &error))
    }

    /// The public half, which values are sealed to.
    pub fn recipient(&self) -> &HostKey {
        &self.recipient
    }

    /// The key that signs; an age identity has none.
    pub(crate) fn signer(&self) -> Option<&PrivateKey> {
        match &self.key {
            Key::Age(_) => None,
            Key::Ssh { signs, .. } => Some(signs),
        }
    }

    pub(crate) fn of_age(key: x25519::Identity) -> Self {
        Identity { recipient: HostKey(key.to_public().to_string()), key: Key::Age(key) }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.trim_start().starts_with("-----BEGIN") {
            let key = ssh::Identity::from_buffer(text.as_bytes(), None).map_err(|_| "it is no OpenSSH private key")?;
            if matches!(key, ssh::Identity::Encrypted(_)) {
                return Err("it has a passphrase, which nobody is there to type; use a key without one");
            }
            return match (ssh::Recipient::try_from(key.clone()), PrivateKey::from_openssh(text)) {
                (Ok(recipient @ ssh::Recipient::SshEd25519(..)), Ok(signs)) => Ok(Identity {
                    recipient: HostKey(recipient.to_string()),
                    key: Key::Ssh { opens: key, signs: Box::new(signs) },
                }),
                _ => Err("only Ed25519 keys of SSH can be used, such as /etc/ssh/ssh_host_ed25519_key"),
            };
        }
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        match (lines.next(), lines.next()) {
            (Some(line), None) => {
                line.parse().map(Self::of_age).map_err(|_| "it holds no key of age, nor one of OpenSSH")
            }
            (None, _) => Err("it is empty; remove it, and a new one is made"),
            (Some(_), Some(_)) => Err("it holds more than one key; keep one"),
        }
    }

    /// Opens one age file; the result has at most as many bytes as a value may have.
    pub(crate) fn unseal(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let refused = |error: DecryptError| match error {
            DecryptError::NoMatchingKeys => OpenError::NotForThisKey,
            _ => OpenError::Damaged("age cannot read it"),
        };
        let key: &dyn age::Identity = match &self.key {
            Key::Age(key) => key,
            Key::Ssh { opens, .. } => opens,
        };
        let decryptor = Decryptor::new_buffered(sealed).map_err(refused)?;
        let mut reader = decryptor.decrypt(std::iter::once(key)).map_err(refused)?.take(MAX_PLAIN_BYTES as u64 + 1);
        // A buffer that grows leaves copies behind.
        let mut plain = Zeroizing::new(Vec::with_capacity(sealed.len().min(MAX_PLAIN_BYTES + 1)));
        reader.read_to_end(&mut plain).map_err(|_| OpenError::Damaged("it was changed after it was sealed"))?;
        if plain.len() > MAX_PLAIN_BYTES {
            return Err(OpenError::Damaged("it is too large"));
        }
        Ok(plain)
    }
}

/// Shows the public half alone.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.recipient)
    }
}
