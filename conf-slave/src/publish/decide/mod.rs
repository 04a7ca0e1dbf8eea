//! Decides what to write into Consul, from its present keys and the served snapshot. Touches
//! nothing.
//!
//! Several slaves of one datacenter follow the same rules at once without talking to each other.
//! Two rules keep them from harm: the authoritative key moves only by compare-and-swap and only up,
//! and a component key is written only if it is unchanged since it was read.

use std::{collections::BTreeMap, mem, sync::Arc};

use conf_core::{
    api::{Pin, Pointer},
    consul::{Keys, MOST_OPERATIONS, PinValue},
};
use libconf::name::DatacenterName;

use crate::mirror::{Pins, differing};

/// Writes in one transaction. One of its operations is about the authoritative key.
const MOST_WRITES: usize = MOST_OPERATIONS - 1;

/// Keys that one pass may always delete; of more, it deletes at most a fifth of all keys.
const DELETIONS_ALWAYS: usize = 64;

/// The present keys of Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The authoritative key, judged.
    pub(crate) authority: Authority,
    /// The key that names the owner of the component keys.
    pub(crate) projection: Option<StoredValue>,
    /// All keys below `configurations/<kind>/`.
    pub(crate) components: BTreeMap<String, StoredValue>,
    /// The pins with which all of these agree, where that is known: then only the keys of other
    /// pins are looked at.
    pub(crate) agreed: Option<Arc<Pins>>,
}

/// A value, and the index for a compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredValue {
    pub(crate) value: Vec<u8>,
    pub(crate) index: u64,
}

/// The value of the authoritative key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    /// No key, which has index 0, or a damaged value. `index` is for a compare-and-swap.
    Absent { index: u64 },
    /// A snapshot that was signed for this datacenter. `index` is for a compare-and-swap.
    Names { pointer: Pointer, index: u64 },
    /// A snapshot that is not here, while no central server could be asked: it may count or not.
    Unknown { pointer: Pointer },
}

/// The served snapshot, which Consul should name.
#[derive(Clone, Debug)]
pub(crate) struct Desired<'d> {
    pub(crate) datacenter: &'d DatacenterName,
    pub(crate) pointer: Pointer,
    pub(crate) pins: &'d Pins,
}

/// The action to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Commit these transactions one after the other, and decide again after a conflict. No
    /// transaction: Consul is up to date.
    Write {
        batches: Vec<Batch>,
        /// Another datacenter instance that owns the component keys, which are left to it.
        projection_of: Option<DatacenterName>,
        /// Keys that should go, but are too many for this pass.
        spared: usize,
    },
    /// This slave is behind: write nothing, and catch up with this snapshot.
    CatchUp(Pointer),
    /// There are two snapshots of one sequence, both signed: write nothing, and report it.
    Fork(Pointer),
    /// The snapshot in Consul may count or not: write nothing, and ask again.
    Wait(Pointer),
}

/// One transaction: an operation on the authoritative key, and at most 63 writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) guard: Guard,
    pub(crate) writes: Vec<Write>,
}

/// A transaction's operation on the authoritative key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Moves the key by compare-and-swap from this index, which is 0 when the key is absent.
    Move { from: u64 },
    /// Fails if the key has changed since it was read, or since this pass moved it.
    Hold,
}

/// A write by compare-and-swap. `index` is the one that the key was read with, 0 when it was
/// absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Put { key: String, value: String, index: u64 },
    Delete { key: String, index: u64 },
}

/// Lists the writes after which Consul names the served snapshot.
pub(crate) fn decide(keys: &Keys, desired: &Desired<'_>, observed: &Observed) -> Decision {
    let moves = match observed.authority {
        Authority::Unknown { pointer } => return Decision::Wait(pointer),
        Authority::Names { pointer, .. } if pointer.sequence > desired.pointer.sequence => {
            return Decision::CatchUp(pointer);
        }
        Authority::Names { pointer, .. } if pointer == desired.pointer => None,
        Authority::Names { pointer, .. } if pointer.sequence == desired.pointer.sequence => {
            return Decision::Fork(pointer);
        }
        Authority::Names { index, .. } | Authority::Absent { index } => Some(Guard::Move { from: index }),
    };

    let (claim, projection_of) = projection(keys, desired.datacenter, observed.projection.as_ref());
    let (writes, spared) = match projection_of {
        None => component_writes(keys, desired.pins, observed),
        Some(_) => (Vec::new(), 0),
    };
    let mut writes: Vec<Write> = claim.into_iter().chain(writes).collect();

    let mut batches = Vec::new();
    if let Some(guard) = moves {
        // If everything fits into one transaction, it is one. If not, the authoritative key comes
        // first: hosts read it alone.
        let with = if writes.len() <= MOST_WRITES { mem::take(&mut writes) } else { Vec::new() };
        batches.push(Batch { guard, writes: with });
    }
    batches.extend(writes.chunks(MOST_WRITES).map(|chunk| Batch { guard: Guard::Hold, writes: chunk.to_vec() }));
    Decision::Write { batches, projection_of, spared }
}

/// Finds the owner of the component keys: returns a write that claims them for this datacenter, or
/// their other owner.
fn projection(
    keys: &Keys,
    datacenter: &DatacenterName,
    held: Option<&StoredValue>,
) -> (Option<Write>, Option<DatacenterName>) {
    let owner = held.and_then(|held| str::from_utf8(&held.value).ok()?.parse::<DatacenterName>().ok());
    match owner {
        Some(other) if other != *datacenter => (None, Some(other)),
        Some(_) => (None, None),
        // A value that is no datacenter's name is damaged, and counts as absent.
        None => {
            let index = held.map_or(0, |held| held.index);
            (Some(Write::Put { key: keys.projection(), value: datacenter.to_string(), index }), None)
        }
    }
}

/// Compares the component keys with the pins. Returns the writes, and the number of deletions that
/// it left out.
fn component_writes(keys: &Keys, pins: &Pins, observed: &Observed) -> (Vec<Write>, usize) {
    let present = &observed.components;
    let put = |key: String, pin: &Pin| {
        let value = PinValue { branch: pin.branch.clone(), commit: pin.commit }.to_string();
        let held = present.get(&key);
        let index = held.map_or(0, |held| held.index);
        held.is_none_or(|held| held.value != value.as_bytes()).then_some(Write::Put { key, value, index })
    };
    let delete = |(key, held): (&String, &StoredValue)| Write::Delete { key: key.clone(), index: held.index };
    let (mut writes, mut deletions): (Vec<Write>, Vec<Write>) = if let Some(agreed) = &observed.agreed {
        let new = differing(pins, agreed).filter_map(|(name, pin)| put(keys.component(name), pin));
        let gone = differing(agreed, pins).filter(|(name, _)| !pins.contains_key(*name));
        let gone = gone.filter_map(|(name, _)| present.get_key_value(&keys.component(name)));
        (new.collect(), gone.map(delete).collect())
    } else {
        let desired: BTreeMap<String, &Pin> = pins.iter().map(|(name, pin)| (keys.component(name), &**pin)).collect();
        let stray = present.iter().filter(|(key, _)| !desired.contains_key(*key)).map(delete).collect();
        (desired.into_iter().filter_map(|(key, pin)| put(key, pin)).collect(), stray)
    };
    let most = DELETIONS_ALWAYS.max(present.len() / 5);
    let spared = deletions.len().saturating_sub(most);
    deletions.truncate(most);
    writes.append(&mut deletions);
    (writes, spared)
}

#[cfg(test)]
mod tests;
