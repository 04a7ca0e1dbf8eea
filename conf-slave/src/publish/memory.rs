//! The state of Consul as the publisher remembers it from one pass to the next.

use std::sync::Arc;

use conf_core::{
    api::Pointer,
    consul::{Entry, Keys},
};

use crate::{
    mirror::Pins,
    publish::decide::{Authority, Batch, Guard, Observed, StoredValue, Write},
};

/// The last reading of Consul together with all later writes; empty after an error or a conflict.
#[derive(Debug, Default)]
pub(crate) struct Memory(pub(crate) Option<Observed>);

impl Memory {
    /// Tells whether `entry`, read from the authoritative key, is remembered already.
    pub(crate) fn knows(&self, entry: Option<&Entry>) -> bool {
        match (&self.0, entry) {
            (Some(Observed { authority: Authority::Names { pointer, index }, .. }), Some(entry)) => {
                entry.index == *index && entry.value == pointer.to_string().as_bytes()
            }
            _ => false,
        }
    }

    /// Remembers with which pins all component keys agree, if they do.
    pub(crate) fn agree(&mut self, pins: Option<Arc<Pins>>) {
        if let Some(observed) = &mut self.0 {
            observed.agreed = pins;
        }
    }

    /// Returns the index that guards a transaction which leaves the authoritative key unchanged.
    pub(crate) fn authority_index(&self) -> Option<u64> {
        match self.0.as_ref()?.authority {
            Authority::Names { index, .. } => Some(index),
            Authority::Absent { .. } | Authority::Unknown { .. } => None,
        }
    }

    /// Remembers a committed transaction. `entries` is Consul's answer to it, and `authoritative`
    /// the key of `pointer`.
    pub(crate) fn remember(
        &mut self,
        batch: Batch,
        entries: &[Entry],
        keys: &Keys,
        authoritative: &str,
        pointer: Pointer,
    ) {
        let Some(observed) = &mut self.0 else { return };
        let index_of = |key: &str| entries.iter().find(|entry| entry.key == key).map_or(0, |entry| entry.index);
        if let Guard::Move { .. } = batch.guard {
            observed.authority = Authority::Names { pointer, index: index_of(authoritative) };
        }
        for write in batch.writes {
            match write {
                Write::Put { key, value, .. } => {
                    let stored = StoredValue { index: index_of(&key), value: value.into_bytes() };
                    if key == keys.projection() {
                        observed.projection = Some(stored);
                    } else {
                        observed.components.insert(key, stored);
                    }
                }
                Write::Delete { key, .. } => {
                    observed.components.remove(&key);
                }
            }
        }
    }
}
