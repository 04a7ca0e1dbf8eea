//! conf-master's statements about its keys and the epochs of its history, as they are exchanged.

use libconf::name::Sequence;
use serde::{Deserialize, Serialize};

/// conf-master's word that another key signs from a change on, that keys count for nothing new, or
/// that its history goes on in another epoch (a *succession*). See
/// [`sign_statement`](crate::sign::sign_statement) and
/// [`sign_succession`](crate::sign::sign_succession).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatement {
    /// Its place among the statements; the first is 1.
    pub number: u32,
    /// The change that made it. The new key signs that one and those after it.
    pub from: Sequence,
    /// When it was signed, in seconds since 1970.
    pub time: i64,
    /// The SHA-256 of the statement before it, in hexadecimal digits; `-` in the first one.
    pub previous: String,
    /// The fingerprint of the key that signed before, `SHA256:…`.
    pub old: String,
    /// The key that signs from now on, `ssh-ed25519 AAAA…`. In a statement that only revokes, it is
    /// the old one.
    pub new: String,
    /// The fingerprints of keys that count for nothing new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revokes: Vec<String>,
    /// In a succession the last change of the epoch before that counts: the new epoch begins with
    /// `from`, and what landed between the two is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<Sequence>,
    /// The SSH signature by the old key, in the namespace `conf-key-old`.
    pub by_old: String,
    /// The SSH signature by the new key, in the namespace `conf-key-new`.
    pub by_new: String,
}

/// Answer to `GET /api/v1/keys` of conf-master and of conf-slave, and event `keys` on both
/// `GET /api/v1/events`: all statements about conf-master's keys. Tiers of earlier versions ignore
/// the event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysEvent {
    /// The statements, in order.
    pub statements: Vec<KeyStatement>,
}
