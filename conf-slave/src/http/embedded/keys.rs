//! The keys and values, and the operations on them.

use std::{collections::BTreeMap, ops::Bound};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of all keys and values together.
const MOST_BYTES: usize = 64 << 20;

/// All keys, with the index of the last change. A clone shares the values.
#[derive(Clone, Debug)]
pub(crate) struct KeyTable {
    pub(crate) index: u64,
    last_deletion: u64,
    bytes: usize,
    keys: BTreeMap<String, StoredKey>,
}

/// One value.
#[derive(Clone, Debug)]
pub(crate) struct StoredKey {
    pub(crate) value: Bytes,
    flags: u64,
    created: u64,
    modified: u64,
}

/// Consul's JSON puts an operation or a key under `KV`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Wrapped<T> {
    #[serde(rename = "KV")]
    pub(crate) kv: T,
}

/// An operation of a transaction.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Operation {
    verb: Verb,
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) value: Option<String>,
    #[serde(default)]
    flags: u64,
    #[serde(default)]
    index: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verb {
    Set,
    Cas,
    Get,
    Delete,
    DeleteCas,
    CheckIndex,
    CheckNotExists,
}

/// A key in an answer.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ShownKey {
    lock_index: u64,
    key: String,
    flags: u64,
    value: Option<String>,
    create_index: u64,
    modify_index: u64,
}

/// A failed operation of a transaction.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Fault {
    op_index: usize,
    what: String,
}

/// The table has no room left.
#[derive(Debug, thiserror::Error)]
#[error("the embedded server holds no more than {MOST_BYTES} bytes; use a Consul for this")]
pub(crate) struct Full;

impl KeyTable {
    /// Makes an empty table, whose indexes begin at `index`.
    pub(crate) fn new(index: u64) -> Self {
        KeyTable { index, last_deletion: index, bytes: 0, keys: BTreeMap::new() }
    }

    /// Returns the index of a key's last change, 0 if there is no such key.
    pub(crate) fn index_of(&self, key: &str) -> u64 {
        self.keys.get(key).map_or(0, |stored| stored.modified)
    }

    /// Returns the key, or all keys that begin with it, with the index for the answer.
    pub(crate) fn find(&self, key: &str, many: bool) -> (u64, Vec<(String, StoredKey)>) {
        let range = self.keys.range::<str, _>((Bound::Included(key), Bound::Unbounded));
        let under = range.take_while(|(name, _)| if many { name.starts_with(key) } else { *name == key });
        let found: Vec<_> = under.map(|(name, stored)| (name.clone(), stored.clone())).collect();
        let newest = found.iter().map(|(_, stored)| stored.modified).max();
        let deletion = if many { self.last_deletion } else { 0 };
        (newest.map_or(self.index, |newest| newest.max(deletion)), found)
    }

    /// Writes a key.
    pub(crate) fn set(&mut self, key: &str, value: Bytes, flags: u64, index: u64) -> Result<(), Full> {
        let before = self.keys.get(key);
        let freed = before.map_or(0, |stored| key.len() + stored.value.len());
        let bytes = self.bytes - freed + key.len() + value.len();
        if bytes > MOST_BYTES {
            return Err(Full);
        }
        let created = before.map_or(index, |stored| stored.created);
        self.bytes = bytes;
        self.keys.insert(key.to_owned(), StoredKey { value, flags, created, modified: index });
        Ok(())
    }

    /// Removes the key, or all keys that begin with it; tells whether there were any.
    pub(crate) fn remove_all(&mut self, key: &str, many: bool, index: u64) -> bool {
        let gone = self.find(key, many).1;
        for (name, _) in &gone {
            self.remove(name, index);
        }
        !gone.is_empty()
    }

    fn remove(&mut self, key: &str, index: u64) {
        if let Some(stored) = self.keys.remove(key) {
            self.bytes -= key.len() + stored.value.len();
            self.last_deletion = index;
        }
    }

    /// Runs all operations on a copy, which replaces the table only if none of them failed. Tells
    /// whether one of them was a write.
    pub(crate) fn transaction(
        &mut self,
        steps: &[(Operation, Bytes)],
        next: u64,
    ) -> (bool, Result<Vec<Wrapped<ShownKey>>, Vec<Fault>>) {
        let mut draft = self.clone();
        let (mut results, mut faults, mut writes) = (Vec::new(), Vec::new(), false);
        for (op_index, (operation, value)) in steps.iter().enumerate() {
            match draft.run(operation, value, next) {
                Ok(shown) => results.extend(shown.map(|kv| Wrapped { kv })),
                Err(what) => faults.push(Fault { op_index, what }),
            }
            writes |= matches!(operation.verb, Verb::Set | Verb::Cas | Verb::Delete | Verb::DeleteCas);
        }
        if faults.is_empty() {
            *self = draft;
            (writes, Ok(results))
        } else {
            (false, Err(faults))
        }
    }

    fn run(&mut self, operation: &Operation, value: &Bytes, next: u64) -> Result<Option<ShownKey>, String> {
        let Operation { verb, key, flags, index, .. } = operation;
        let present = self.keys.get(key);
        let is_expected = match verb {
            Verb::Cas => *index == self.index_of(key),
            Verb::DeleteCas | Verb::CheckIndex => present.is_some_and(|stored| stored.modified == *index),
            Verb::Get => present.is_some(),
            Verb::CheckNotExists => present.is_none(),
            Verb::Set | Verb::Delete => true,
        };
        if !is_expected {
            let verb = serde_json::to_value(verb).unwrap_or_default();
            return Err(format!("{}: key {key:?} is not as expected", verb.as_str().unwrap_or_default()));
        }
        match verb {
            Verb::Set | Verb::Cas => {
                self.set(key, value.clone(), *flags, next).map_err(|full| full.to_string())?;
                Ok(Some(ShownKey::of(key, &self.keys[key], false)))
            }
            Verb::Delete | Verb::DeleteCas => {
                self.remove(key, next);
                Ok(None)
            }
            Verb::Get | Verb::CheckIndex | Verb::CheckNotExists => {
                Ok(present.map(|stored| ShownKey::of(key, stored, *verb == Verb::Get)))
            }
        }
    }
}

impl ShownKey {
    pub(crate) fn of(key: &str, stored: &StoredKey, with_value: bool) -> Self {
        ShownKey {
            lock_index: 0,
            key: key.to_owned(),
            flags: stored.flags,
            value: (with_value && !stored.value.is_empty()).then(|| BASE64.encode(&stored.value)),
            create_index: stored.created,
            modify_index: stored.modified,
        }
    }
}
