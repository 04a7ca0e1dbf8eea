//! Secrets: how they are declared, to whom they are sealed, and what stands beside a sealed value.
//!
//! On the branch `refs/heads/secrets/<id>`, and under `secrets/` in a snapshot, each has a folder: `<NAME>/value.age` is
//! sealed to its readers' hosts and to conf-master ([`seal`]), `<NAME>/about.json` is an [`About`], without any value.

mod identity;
mod sealed;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf, str::FromStr};

use age::{ssh, x25519};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use crate::secret::{
    identity::{Identity, IdentityError},
    sealed::{MAX_SEALED_BYTES, OpenError, SealError, open, seal},
};
pub use libconf::name::SecretName;
use libconf::name::{ComponentName, Sequence};

/// The sealed value, in a secret's folder.
pub const VALUE_FILE: &str = "value.age";
/// What may be known of it, in a secret's folder.
pub const ABOUT_FILE: &str = "about.json";
/// The most that one value may hold.
pub const MAX_VALUE_BYTES: usize = 64 << 10;

/// What a `datacenter.yaml` says of one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Where its value comes from.
    pub source: Source,
    /// The components that may read it, in the order of the file.
    pub readers: Vec<ComponentName>,
    /// The line that says so.
    pub line: usize,
}

/// Where a secret's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// conf-master makes it.
    Generate(Generate),
    /// Somebody gives it to conf-master.
    Given,
    /// A file on the host; an absolute path.
    File(PathBuf),
    /// What a command prints on the host: a program and its words.
    Command(Vec<String>),
}

/// What conf-master makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Generate {
    /// Random text.
    Text {
        /// How many random bytes are encoded, or how many characters of an alphabet are drawn.
        length: usize,
        /// How it is written.
        encoding: Encoding,
    },
    /// A self-signed certificate with its key.
    X509 {
        /// DNS names and IP addresses.
        names: Vec<String>,
        /// How long it is good for.
        days: u32,
    },
}

/// How random text is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 4648, with padding.
    Base64,
    /// RFC 4648, URL-safe, without padding.
    Base64Url,
    /// Lower-case hex digits.
    Hex,
    /// Characters of this list, each as likely as the others.
    Alphabet(String),
}

impl Source {
    /// True when conf-master keeps a sealed value for it; false for what is read on the host.
    pub fn is_central(&self) -> bool {
        matches!(self, Source::Generate(_) | Source::Given)
    }
}

/// In few words, the same for the same source: what [`About`] records.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Generate(Generate::Text { length, encoding }) => match encoding {
                Encoding::Alphabet(alphabet) => write!(f, "generated: {length} of {alphabet}"),
                Encoding::Base64 => write!(f, "generated: {length} bytes, base64"),
                Encoding::Base64Url => write!(f, "generated: {length} bytes, base64url"),
                Encoding::Hex => write!(f, "generated: {length} bytes, hex"),
            },
            Source::Generate(Generate::X509 { names, days }) => {
                write!(f, "generated: x509 for {}, {days} days", names.join(", "))
            }
            Source::Given => write!(f, "given"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Command(words) => write!(f, "command {}", words.join(" ")),
        }
    }
}

/// A host's public key: an age X25519 recipient (`age1…`), or an SSH Ed25519 key (`ssh-ed25519 AAAA…`).
///
/// Its text is what is compared, printed and kept; a comment after an SSH key is left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostKey(String);

impl HostKey {
    /// True for a key that signs reports too: one of SSH.
    pub fn signs(&self) -> bool {
        self.0.starts_with("ssh-ed25519 ")
    }
}

/// Why a text is no host's key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write what `conf-local identity` prints on the host, or an ssh-ed25519 key")]
pub struct BadHostKey(&'static str);

impl FromStr for HostKey {
    type Err = BadHostKey;

    fn from_str(text: &str) -> Result<Self, BadHostKey> {
        let mut words = text.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next());
        if first.starts_with("AGE-SECRET-KEY-") || first.starts_with("-----BEGIN") {
            return Err(BadHostKey("this is a private key: it is known to others now, so make a new one"));
        }
        if first.starts_with("age1") {
            let key: x25519::Recipient = first.parse().map_err(|_| BadHostKey("this age key is damaged"))?;
            return if second.is_none() {
                Ok(HostKey(key.to_string()))
            } else {
                Err(BadHostKey("this is more than a key"))
            };
        }
        let Some(data) = second else { return Err(BadHostKey("this is no public key")) };
        if first != "ssh-ed25519" {
            return Err(BadHostKey("only Ed25519 keys of SSH can be sealed to"));
        }
        match format!("{first} {data}").parse() {
            Ok(key @ ssh::Recipient::SshEd25519(..)) => Ok(HostKey(key.to_string())),
            _ => Err(BadHostKey("this SSH key is damaged")),
        }
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for HostKey {
    type Error = BadHostKey;

    fn try_from(text: String) -> Result<Self, BadHostKey> {
        text.parse()
    }
}

impl From<HostKey> for String {
    fn from(key: HostKey) -> String {
        key.0
    }
}

/// A secret's value; overwritten in memory when it is dropped, and never shown by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretValue {
    /// One text.
    Text(Zeroizing<String>),
    /// A certificate and its private key, both PEM.
    Certificate {
        /// The certificate, which is no secret.
        certificate: String,
        /// Its private key.
        key: Zeroizing<String>,
    },
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SecretValue::Text(_) => "SecretValue::Text(…)",
            SecretValue::Certificate { .. } => "SecretValue::Certificate(…)",
        })
    }
}

/// What may be known of a sealed value; readers pass over members that they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The change that made the value.
    pub sequence: Sequence,
    /// When that was, in seconds since 1970.
    pub made: i64,
    /// By which source, in the words of [`Source`]'s `Display`.
    pub source: String,
    /// The keys that it is sealed to, sorted; conf-master's own among them.
    pub recipients: Vec<HostKey>,
    /// When a certificate ends, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<i64>,
}
