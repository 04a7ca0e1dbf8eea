//! A host's public key.

use std::{fmt, str::FromStr};

use age::{ssh, x25519};
use serde::{Deserialize, Serialize};

/// A host's public key: an age X25519 recipient (`age1…`), or an SSH Ed25519 key (`ssh-ed25519
/// AAAA…`).
///
/// The key's text is compared, printed and kept; a comment after an SSH key is left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostKey(pub(crate) String);

impl HostKey {
    /// True for an SSH key, which signs reports too.
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
