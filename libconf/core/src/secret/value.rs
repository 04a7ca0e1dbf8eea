//! A secret's value, and the files of its folder.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::host_key::HostKey;
use libconf::name::{HostName, Sequence};

/// The sealed value, in a secret's folder.
pub const VALUE_FILE: &str = "value.age";
/// The [`About`] of the value, in a secret's folder.
pub const ABOUT_FILE: &str = "about.json";
/// The most bytes of one value.
pub const MAX_VALUE_BYTES: usize = 64 << 10;

/// A secret's value; overwritten in memory when it is dropped, and never shown by `{:?}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
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

/// The public facts about a sealed value. Readers ignore members that they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The change that made the value.
    pub sequence: Sequence,
    /// When the value was made, in seconds since 1970.
    pub made: i64,
    /// The value's source, in the words of [`Source`](crate::secret::Source)'s `Display`.
    pub source: String,
    /// The keys that the value is sealed to, sorted; conf-master's own is among them.
    pub recipients: Vec<HostKey>,
    /// When a certificate ends, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<i64>,
    /// Those who could open the value and cannot open its present sealing, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<LeftReader>,
}

/// A host that could open a value, and is no reader of it any more: it may know the value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftReader {
    /// Its name at that time.
    pub host: HostName,
    /// The key that the value was sealed to.
    pub key: HostKey,
    /// The change since which the value is not sealed to it.
    pub since: Sequence,
}
