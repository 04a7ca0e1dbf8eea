//! The private key of a host, or of conf-master: it opens what is sealed to it, and signs what a host reports.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use age::{DecryptError, Decryptor, ssh, x25519};
use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};
use zeroize::Zeroizing;

use crate::secret::{error::OpenError, host_key::HostKey, value::MAX_VALUE_BYTES};

/// More than any key file has.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// A value with every byte escaped, and what stands around it.
const MAX_PLAIN_BYTES: usize = 6 * MAX_VALUE_BYTES + 4096;

/// A private key: an OpenSSH Ed25519 key without a passphrase, or one of age (`AGE-SECRET-KEY-1…`), which signs nothing.
pub struct Identity {
    key: Key,
    recipient: HostKey,
}

enum Key {
    Age(x25519::Identity),
    // The same key twice: each library has a form of its own.
    Ssh { opens: ssh::Identity, signs: Box<PrivateKey> },
}

/// Why an identity cannot be used, with its file.
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
    /// Reads an identity file of age, or an OpenSSH private key. Others than its owner may not write it, nor everyone read it.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let io = |error: io::Error| IdentityError::io(path, &error);
        let mut file = fs::File::open(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        if !about.is_file() || about.len() > MAX_FILE_BYTES {
            return Err(IdentityError::new(path, "it is no key file"));
        }
        // A group that may read is how some systems keep SSH's host keys.
        if about.mode() & 0o027 != 0 {
            let reason =
                format!("others may read or write it (mode {:04o}); run chmod 600 on it", about.mode() & 0o7777);
            return Err(IdentityError::new(path, reason));
        }
        let room = usize::try_from(about.len()).unwrap_or(0) + 1;
        let mut text = Zeroizing::new(String::with_capacity(room));
        (&mut file).take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(io)?;
        Self::parse(&text).map_err(|reason| IdentityError::new(path, reason))
    }

    /// Makes a new OpenSSH key in a new file of mode 0600, durable; never replaces a file.
    pub fn create(path: &Path) -> Result<Self, IdentityError> {
        let failed = |error: ssh_key::Error| IdentityError::new(path, error.to_string());
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(failed)?;
        let text = key.to_openssh(LineEnding::LF).map_err(failed)?;
        let identity = Self::parse(&text).map_err(|reason| IdentityError::new(path, reason))?;
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::File::open(folder)?.sync_all()
        };
        write().map_err(|error| IdentityError::io(path, &error))?;
        Ok(identity)
    }

    /// Reads the identity, or makes one where there is none; true when it was made.
    pub fn load_or_create(path: &Path) -> Result<(Self, bool), IdentityError> {
        match Self::load(path) {
            Err(error) if error.is_missing => Self::create(path).map(|identity| (identity, true)),
            found => found.map(|identity| (identity, false)),
        }
    }

    /// The public half: what is sealed to.
    pub fn recipient(&self) -> &HostKey {
        &self.recipient
    }

    /// What signs; an identity of age does not.
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

    /// What is sealed in `sealed`, at most as much as a value may be.
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
