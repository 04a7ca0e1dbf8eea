//! Keys and transactions in the form that Consul's HTTP API gives them.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The most operations that Consul takes in one transaction.
pub const MOST_OPERATIONS: usize = 64;

/// A key as Consul holds it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    /// The key's name.
    pub key: String,
    /// The key's value, any bytes. The answer to a transaction leaves out the values that it wrote.
    #[serde(default, deserialize_with = "from_base64")]
    pub value: Vec<u8>,
    /// A number beside the value.
    #[serde(default)]
    pub flags: u64,
    /// The index that a later write by compare-and-swap must name.
    #[serde(rename = "ModifyIndex")]
    pub index: u64,
    /// The session that holds the key as a lock.
    #[serde(default)]
    pub session: Option<String>,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "Verb", rename_all = "kebab-case", rename_all_fields = "PascalCase")]
pub enum Operation {
    /// Writes the key, whatever its value is.
    Set {
        /// The key.
        key: String,
        /// Its new value.
        #[serde(serialize_with = "to_base64")]
        value: Vec<u8>,
        /// Its new flags.
        flags: u64,
    },
    /// Writes the key if it still has this index; 0 means that it is absent.
    Cas {
        /// The key.
        key: String,
        /// Its new value.
        #[serde(serialize_with = "to_base64")]
        value: Vec<u8>,
        /// Its new flags.
        flags: u64,
        /// The index that it was read with.
        index: u64,
    },
    /// Deletes the key if it still has this index.
    DeleteCas {
        /// The key.
        key: String,
        /// The index that it was read with.
        index: u64,
    },
    /// Fails the transaction unless the key still has this index.
    CheckIndex {
        /// The key.
        key: String,
        /// The index that it was read with.
        index: u64,
    },
    /// Fails the transaction if the key is there.
    CheckNotExists {
        /// The key.
        key: String,
    },
    /// Takes the key as a lock for a session, and writes it; fails the transaction where another
    /// session holds it, or held it a moment ago.
    Lock {
        /// The key.
        key: String,
        /// Its new value.
        #[serde(serialize_with = "to_base64")]
        value: Vec<u8>,
        /// The session.
        session: String,
    },
    /// Fails the transaction unless this session holds the key.
    CheckSession {
        /// The key.
        key: String,
        /// The session.
        session: String,
    },
    /// Reads the key; fails the transaction when the key is absent.
    Get {
        /// The key.
        key: String,
    },
}

/// How Consul judged a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Consul did all of it: one entry for each operation that leaves a key, in order.
    Committed(Vec<Entry>),
    /// Consul did nothing of it, since a key was not as the transaction expected: Consul's words.
    Conflict(String),
}

/// An operation, or its result, in a list of a transaction.
#[derive(Serialize, Deserialize)]
pub(crate) struct Wrapped<T> {
    #[serde(rename = "KV")]
    pub(crate) kv: T,
}

impl Operation {
    pub(crate) fn key(&self) -> &str {
        match self {
            Operation::Set { key, .. }
            | Operation::Cas { key, .. }
            | Operation::DeleteCas { key, .. }
            | Operation::CheckIndex { key, .. }
            | Operation::CheckSession { key, .. }
            | Operation::CheckNotExists { key }
            | Operation::Lock { key, .. }
            | Operation::Get { key } => key,
        }
    }
}

fn to_base64<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(value))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    BASE64.decode(text).map_err(D::Error::custom)
}
