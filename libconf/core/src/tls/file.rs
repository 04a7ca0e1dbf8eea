//! One file of certificates or with a key, and what may be wrong with it.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
};

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};

/// 4 MiB: ten times the authorities of a usual system.
const MOST_BYTES: u64 = 4 << 20;
/// The bits of a mode with which others than the owner and its group read a file.
const OTHERS_READ: u32 = 0o004;

/// A file, and the flag or the variable that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// As in `--tls-cert`.
    pub what: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// It holds a key.
    is_secret: bool,
}

/// A file that TLS cannot use, or a set of flags.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{what}: cannot read {path}")]
    Unreadable {
        /// The flag or the variable.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
    /// The file holds something else than it should.
    #[error("{what}: {path} {reason}")]
    Unusable {
        /// The flag or the variable.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Flags that do not go together, or are not enough.
    #[error("{0}")]
    Usage(String),
}

/// What changes when a file is written or replaced: device, inode, size, and both times.
pub(crate) type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl NamedFile {
    /// Names a file by its flag or variable.
    pub fn new(what: &'static str, path: PathBuf) -> Self {
        NamedFile { what, path, is_secret: false }
    }

    /// The same, of a file with a private key.
    pub fn of_key(what: &'static str, path: PathBuf) -> Self {
        NamedFile { what, path, is_secret: true }
    }

    pub(crate) fn stamp(&self) -> Option<Stamp> {
        let about = std::fs::metadata(&self.path).ok()?;
        let (written, changed) = ((about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec()));
        Some((about.dev(), about.ino(), about.size(), written, changed))
    }

    /// Reads the certificates, at least one.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let text = self.read()?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        match certificates {
            Err(error) => {
                Err(self.unusable(format!("is damaged: {}; write the certificate into it again", damage(&error))))
            }
            Ok(none) if none.is_empty() && PrivateKeyDer::from_pem_slice(&text).is_ok() => {
                Err(self.unusable("holds a private key and no certificate; were the two files swapped?"))
            }
            Ok(none) if none.is_empty() => Err(self.unusable(NO_CERTIFICATE)),
            Ok(certificates) => Ok(certificates),
        }
    }

    /// Reads the certificates as authorities.
    pub(crate) fn authorities(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| {
                self.unusable(format!("holds a certificate that cannot be read: {error}; write it into the file again"))
            })?;
        }
        Ok(roots)
    }

    /// Reads the private key.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let text = self.read()?;
        PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
            let holds = |words: &str| text.windows(words.len()).any(|part| part == words.as_bytes());
            let reason = if holds("BEGIN ENCRYPTED PRIVATE KEY") || holds("Proc-Type: 4,ENCRYPTED") {
                "has a passphrase, which no daemon can type: write the key without it, by `openssl pkey -in FILE -out …`"
            } else if holds("BEGIN CERTIFICATE") {
                "holds a certificate and no private key; were the two files swapped?"
            } else {
                "holds no private key as PEM, which begins with -----BEGIN PRIVATE KEY-----; `openssl pkey -in FILE -out …` \
                 writes that"
            };
            self.unusable(reason)
        })
    }

    pub(crate) fn unusable(&self, reason: impl Into<String>) -> TlsError {
        TlsError::Unusable { what: self.what, path: self.path.clone(), reason: reason.into() }
    }

    fn read(&self) -> Result<Vec<u8>, TlsError> {
        let failed = |cause| TlsError::Unreadable { what: self.what, path: self.path.clone(), cause };
        let mut text = Vec::new();
        let file = File::open(&self.path).map_err(failed)?;
        file.take(MOST_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
        match text.as_slice() {
            [] => Err(self.unusable("is empty; write the PEM text into it")),
            [0xef, 0xbb, 0xbf, ..] | [0xfe, 0xff, ..] | [0xff, 0xfe, ..] => {
                Err(self.unusable("begins with a byte order mark; save it as plain ASCII, without one"))
            }
            long if long.len() as u64 > MOST_BYTES => Err(self.unusable("has over 4 MiB; is it the right file?")),
            _ => Ok(text),
        }
    }

    /// Warns of a private key that everybody can read.
    pub(crate) fn warn_if_open(&self) {
        let mode = std::fs::metadata(&self.path).map_or(0, |about| about.permissions().mode());
        if self.is_secret && mode & OTHERS_READ != 0 {
            let (what, path) = (self.what, self.path.display());
            tracing::warn!("{what}: every user of this machine can read the private key {path}; chmod o-rwx {path}");
        }
    }
}

fn damage(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "the end of a part is missing",
        pem::Error::IllegalSectionStart { .. } => "the line that begins a part is cut",
        pem::Error::Base64Decode(_) => "what stands in a part is not base64",
        _ => "it is not PEM",
    }
}

const NO_CERTIFICATE: &str = "holds no certificate as PEM, which begins with -----BEGIN CERTIFICATE-----; of DER, `openssl \
                              x509 -inform der -in FILE -out …` makes that";
