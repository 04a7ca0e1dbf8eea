//! Keys and transactions, as Consul writes them.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

/// The most operations that Consul takes in one transaction.
pub const MOST_OPERATIONS: usize = 64;

/// A key as Consul holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: String,
    /// Its value, any bytes; the answers of a transaction leave those out that it wrote.
    pub value: Vec<u8>,
    /// A number beside the value.
    pub flags: u64,
    /// What a later write by compare-and-swap must name.
    pub index: u64,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes whatever is there.
    Set {
        /// Which key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
        /// Its new flags.
        flags: u64,
    },
    /// Writes if the key still has this index; 0 means that it is absent.
    Cas {
        /// Which key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
        /// Its new flags.
        flags: u64,
        /// The index that it was read with.
        index: u64,
    },
    /// Deletes the key if it still has this index.
    DeleteCas {
        /// Which key.
        key: String,
        /// The index that it was read with.
        index: u64,
    },
    /// Fails the transaction unless the key still has this index.
    CheckIndex {
        /// Which key.
        key: String,
        /// The index that it was read with.
        index: u64,
    },
    /// Reads; fails the transaction when the key is absent.
    Get {
        /// Which key.
        key: String,
    },
}

impl Operation {
    pub(crate) fn key(&self) -> &str {
        match self {
            Operation::Set { key, .. }
            | Operation::Cas { key, .. }
            | Operation::DeleteCas { key, .. }
            | Operation::CheckIndex { key, .. }
            | Operation::Get { key } => key,
        }
    }
}

/// How a transaction ended that Consul has judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it happened. One entry for each operation that leaves a key, in order.
    Committed(Vec<Entry>),
    /// Nothing of it happened: a key was not as the transaction expected. Consul's words.
    Conflict(String),
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Wrapped<T> {
    #[serde(rename = "KV")]
    pub(crate) kv: T,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WireOperation<'o> {
    verb: &'static str,
    key: &'o str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
}

impl<'o> WireOperation<'o> {
    pub(crate) fn of(operation: &'o Operation) -> Self {
        let key = operation.key();
        match operation {
            Operation::Set { value, flags, .. } => {
                WireOperation { verb: "set", key, value: Some(BASE64.encode(value)), flags: Some(*flags), index: None }
            }
            Operation::Cas { value, flags, index, .. } => WireOperation {
                verb: "cas",
                key,
                value: Some(BASE64.encode(value)),
                flags: Some(*flags),
                index: Some(*index),
            },
            Operation::DeleteCas { index, .. } => {
                WireOperation { verb: "delete-cas", key, index: Some(*index), ..WireOperation::default() }
            }
            Operation::CheckIndex { index, .. } => {
                WireOperation { verb: "check-index", key, index: Some(*index), ..WireOperation::default() }
            }
            Operation::Get { .. } => WireOperation { verb: "get", key, ..WireOperation::default() },
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WireEntry {
    key: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    flags: u64,
    modify_index: u64,
}

impl WireEntry {
    pub(crate) fn read(self) -> Result<Entry, String> {
        let value = BASE64.decode(self.value.unwrap_or_default());
        let value = value.map_err(|error| format!("the value of {}: {error}", self.key))?;
        Ok(Entry { key: self.key, value, flags: self.flags, index: self.modify_index })
    }
}
