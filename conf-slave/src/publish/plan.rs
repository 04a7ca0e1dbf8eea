//! Decides what to write into Consul, from what stands there and what this slave serves. Touches nothing.
//!
//! Several slaves of one datacenter follow the same rules at once without talking to each other. What keeps them from
//! harm: the authoritative key only moves by compare-and-swap and only up, and no component key is written unless that
//! key still stands as it was read.

use std::collections::BTreeMap;

use conf_core::{
    api::{Pin, Pointer},
    consul::{Keys, MOST_OPERATIONS, PinValue},
};
use libconf::name::{ComponentVersion, DatacenterName};

/// One operation of each transaction is about the authoritative key.
const MOST_WRITES: usize = MOST_OPERATIONS - 1;

/// So many keys may go in one pass however few there are; above, at most a fifth of them.
const DELETIONS_ALWAYS: usize = 64;

/// What stands in Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The authoritative key, judged.
    pub authority: Authority,
    /// The key that says whose the component keys are.
    pub projection: Option<Held>,
    /// All keys below `configurations/<kind>/`.
    pub components: BTreeMap<String, Held>,
}

/// A value and the index that a compare-and-swap must name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The value.
    pub value: Vec<u8>,
    /// Its index.
    pub index: u64,
}

/// What the authoritative key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Nothing, or nothing that counts: `index` is 0 when there is no such key.
    Absent {
        /// What a compare-and-swap must name.
        index: u64,
    },
    /// A snapshot that was signed for this datacenter.
    Names {
        /// Which.
        pointer: Pointer,
        /// What a compare-and-swap must name.
        index: u64,
    },
    /// A snapshot that is not here and could not be asked for: nobody knows whether it counts.
    Unknown {
        /// Which.
        pointer: Pointer,
    },
}

/// What this slave serves, and so what should stand there.
#[derive(Clone, Debug)]
pub struct Wanted<'w> {
    /// Of which datacenter.
    pub datacenter: &'w DatacenterName,
    /// Its snapshot.
    pub pointer: Pointer,
    /// What the snapshot pins.
    pub pins: &'w BTreeMap<ComponentVersion, Pin>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Commit these one after the other; from the beginning again when one meets a conflict. None: all is as it should.
    Write {
        /// The transactions.
        batches: Vec<Batch>,
        /// The other datacenter instance whose component keys these are: they are left to it.
        projection_of: Option<DatacenterName>,
        /// Keys that should go and that this pass leaves, for their number.
        spared: usize,
    },
    /// This slave is behind: write nothing, catch up with this.
    CatchUp(Pointer),
    /// Two snapshots of one sequence, both signed: write nothing, tell people.
    Fork(Pointer),
    /// It is not known whether this counts: write nothing, ask again.
    Wait(Pointer),
}

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What it does with the authoritative key.
    pub guard: Guard,
    /// What it writes besides; at most 63.
    pub writes: Vec<Write>,
}

/// What a transaction does with the authoritative key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Moves it by compare-and-swap from this index.
    Move {
        /// The index that it was read with, 0 when it is absent.
        from: u64,
    },
    /// Fails unless it stands as it did, or as this pass moved it.
    Hold,
}

/// A write by compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put {
        /// Which.
        key: String,
        /// To what.
        value: String,
        /// The index that it was read with, 0 when it is absent.
        index: u64,
    },
    /// Deletes a key.
    Delete {
        /// Which.
        key: String,
        /// The index that it was read with.
        index: u64,
    },
}

/// Lists what must be written so that Consul says what this slave serves.
pub fn plan(keys: &Keys, wanted: &Wanted<'_>, observed: &Observed) -> Plan {
    let moves = match observed.authority {
        Authority::Unknown { pointer } => return Plan::Wait(pointer),
        Authority::Names { pointer, .. } if pointer.sequence > wanted.pointer.sequence => {
            return Plan::CatchUp(pointer);
        }
        Authority::Names { pointer, .. } if pointer == wanted.pointer => None,
        Authority::Names { pointer, .. } if pointer.sequence == wanted.pointer.sequence => return Plan::Fork(pointer),
        Authority::Names { index, .. } | Authority::Absent { index } => Some(Guard::Move { from: index }),
    };

    let (claim, projection_of) = projection(keys, wanted.datacenter, observed.projection.as_ref());
    let (writes, spared) = match projection_of {
        None => component_writes(keys, wanted.pins, &observed.components),
        Some(_) => (Vec::new(), 0),
    };
    let mut writes: Vec<Write> = claim.into_iter().chain(writes).collect();

    let mut batches = Vec::new();
    if let Some(guard) = moves {
        // All in one step when it fits; otherwise hosts first, who read the authoritative key alone.
        let with = if writes.len() <= MOST_WRITES { std::mem::take(&mut writes) } else { Vec::new() };
        batches.push(Batch { guard, writes: with });
    }
    batches.extend(writes.chunks(MOST_WRITES).map(|chunk| Batch { guard: Guard::Hold, writes: chunk.to_vec() }));
    Plan::Write { batches, projection_of, spared }
}

/// Whose the component keys are: a write that claims them for us, or the other instance that has them.
fn projection(
    keys: &Keys,
    datacenter: &DatacenterName,
    held: Option<&Held>,
) -> (Option<Write>, Option<DatacenterName>) {
    let said = held.and_then(|held| str::from_utf8(&held.value).ok()?.parse::<DatacenterName>().ok());
    match said {
        Some(other) if other != *datacenter => (None, Some(other)),
        Some(_) => (None, None),
        // What names no datacenter at all is damage, and counts as absent.
        None => {
            let index = held.map_or(0, |held| held.index);
            (Some(Write::Put { key: keys.projection(), value: datacenter.to_string(), index }), None)
        }
    }
}

/// Compares all component keys with the pins; answers how many deletions it left out, too.
fn component_writes(
    keys: &Keys,
    pins: &BTreeMap<ComponentVersion, Pin>,
    there: &BTreeMap<String, Held>,
) -> (Vec<Write>, usize) {
    let should: BTreeMap<String, String> = pins
        .iter()
        .map(|(name, pin)| {
            let value = PinValue { branch: pin.branch.clone(), commit: pin.commit };
            (keys.component(name), value.to_string())
        })
        .collect();
    let stray = there.iter().filter(|(key, _)| !should.contains_key(*key));
    let mut deletions: Vec<_> =
        stray.map(|(key, held)| Write::Delete { key: key.clone(), index: held.index }).collect();
    let most = DELETIONS_ALWAYS.max(there.len() / 5);
    let spared = deletions.len().saturating_sub(most);
    deletions.truncate(most);
    let mut writes = Vec::new();
    for (key, value) in should {
        match there.get(&key) {
            Some(held) if held.value == value.as_bytes() => {}
            held => writes.push(Write::Put { key, value, index: held.map_or(0, |held| held.index) }),
        }
    }
    writes.extend(deletions);
    (writes, spared)
}

#[cfg(test)]
mod tests {
    use libconf::name::{CommitId, Sequence};

    use super::*;

    fn commit(of: u8) -> CommitId {
        CommitId::from([of; 20])
    }

    fn pointer(sequence: u64) -> Pointer {
        Pointer { sequence: Sequence(sequence), commit: commit(u8::try_from(sequence).unwrap()) }
    }

    fn pins(names: impl IntoIterator<Item = (String, u8)>) -> BTreeMap<ComponentVersion, Pin> {
        names
            .into_iter()
            .map(|(name, of)| {
                let component: ComponentVersion = format!("services/{name}/latest").parse().unwrap();
                let pin = Pin { component: component.clone(), branch: "master".parse().unwrap(), commit: commit(of) };
                (component, pin)
            })
            .collect()
    }

    fn held(value: impl Into<Vec<u8>>, index: u64) -> Held {
        Held { value: value.into(), index }
    }

    fn key(name: &str) -> String {
        format!("configurations/services/{name}/latest")
    }

    fn value(of: u8) -> String {
        format!("master/{}", commit(of))
    }

    fn put(name: &str, of: u8, index: u64) -> Write {
        Write::Put { key: key(name), value: value(of), index }
    }

    fn observed(authority: Authority, components: &[(&str, u8, u64)]) -> Observed {
        Observed {
            authority,
            projection: Some(held("dc/v1", 5)),
            components: components.iter().map(|(name, of, index)| (key(name), held(value(*of), *index))).collect(),
        }
    }

    fn decide(sequence: u64, wanted: &BTreeMap<ComponentVersion, Pin>, observed: &Observed) -> Plan {
        let datacenter = "dc/v1".parse().unwrap();
        let wanted = Wanted { datacenter: &datacenter, pointer: pointer(sequence), pins: wanted };
        plan(&Keys::new(None).unwrap(), &wanted, observed)
    }

    fn write(batches: Vec<Batch>) -> Plan {
        Plan::Write { batches, projection_of: None, spared: 0 }
    }

    fn many(count: u8, of: u8) -> BTreeMap<ComponentVersion, Pin> {
        pins((0..count).map(|number| (format!("s{number:03}"), of)))
    }

    fn names_1() -> Authority {
        Authority::Names { pointer: pointer(1), index: 9 }
    }

    #[test]
    fn a_small_change_is_one_transaction() {
        let there = observed(names_1(), &[("a", 1, 11), ("b", 1, 12), ("gone", 1, 13)]);
        let plan = decide(2, &pins([("a".into(), 1), ("b".into(), 2), ("new".into(), 2)]), &there);
        let delete = Write::Delete { key: key("gone"), index: 13 };
        let writes = vec![put("b", 2, 12), put("new", 2, 0), delete];
        assert_eq!(plan, write(vec![Batch { guard: Guard::Move { from: 9 }, writes }]));
    }

    #[test]
    fn nothing_to_do_is_no_transaction() {
        let there = observed(names_1(), &[("a", 1, 11)]);
        assert_eq!(decide(1, &pins([("a".into(), 1)]), &there), write(vec![]));
    }

    #[test]
    fn an_edit_by_hand_comes_back_under_guard() {
        let there = observed(names_1(), &[("a", 7, 11)]);
        let batch = Batch { guard: Guard::Hold, writes: vec![put("a", 1, 11)] };
        assert_eq!(decide(1, &pins([("a".into(), 1)]), &there), write(vec![batch]));
    }

    #[test]
    fn sixty_three_fit_and_sixty_four_go_after_the_authoritative_key() {
        let Plan::Write { batches, .. } = decide(2, &many(63, 2), &observed(names_1(), &[])) else { panic!() };
        assert_eq!(batches.iter().map(|batch| batch.writes.len()).collect::<Vec<_>>(), [63]);
        let Plan::Write { batches, .. } = decide(2, &many(64, 2), &observed(names_1(), &[])) else { panic!() };
        assert_eq!(batches.iter().map(|batch| batch.writes.len()).collect::<Vec<_>>(), [0, 63, 1]);
        assert_eq!(batches[0].guard, Guard::Move { from: 9 });
        assert!(batches[1..].iter().all(|batch| batch.guard == Guard::Hold));
    }

    #[test]
    fn never_back() {
        let none = pins([]);
        let ahead = Authority::Names { pointer: pointer(5), index: 9 };
        assert_eq!(decide(4, &none, &observed(ahead, &[("a", 1, 2)])), Plan::CatchUp(pointer(5)));
        let unknown = Authority::Unknown { pointer: pointer(1) };
        assert_eq!(decide(4, &none, &observed(unknown, &[("a", 1, 2)])), Plan::Wait(pointer(1)));
        let fork = Pointer { sequence: Sequence(4), commit: commit(77) };
        let there = Authority::Names { pointer: fork, index: 9 };
        assert_eq!(decide(4, &none, &observed(there, &[("a", 1, 2)])), Plan::Fork(fork));
    }

    #[test]
    fn damage_is_overwritten_at_its_index() {
        let there = observed(Authority::Absent { index: 42 }, &[]);
        let batch = Batch { guard: Guard::Move { from: 42 }, writes: vec![] };
        assert_eq!(decide(1, &pins([]), &there), write(vec![batch]));
    }

    #[test]
    fn component_keys_belong_to_one_instance() {
        let wanted = pins([("a".into(), 1)]);
        let mut there = observed(Authority::Absent { index: 0 }, &[("b", 1, 2)]);
        there.projection = Some(held("dc/v2", 5));
        let alone = Batch { guard: Guard::Move { from: 0 }, writes: vec![] };
        let other = Some("dc/v2".parse().unwrap());
        assert_eq!(decide(1, &wanted, &there), Plan::Write { batches: vec![alone], projection_of: other, spared: 0 });
        for (absent, index) in [(None, 0), (Some(held("?", 6)), 6)] {
            there.projection = absent;
            let Plan::Write { batches, .. } = decide(1, &wanted, &there) else { panic!() };
            let claim = Write::Put { key: "configurations/projection".into(), value: "dc/v1".into(), index };
            assert_eq!(batches[0].writes[0], claim);
        }
    }

    #[test]
    fn few_keys_go_at_once() {
        let stray: Vec<String> = (0..200).map(|number| format!("s{number}")).collect();
        let stray: Vec<(&str, u8, u64)> = stray.iter().map(|name| (name.as_str(), 1, 3)).collect();
        let Plan::Write { batches, spared, .. } = decide(1, &pins([]), &observed(names_1(), &stray)) else { panic!() };
        assert_eq!(batches.iter().map(|batch| batch.writes.len()).sum::<usize>(), 64);
        assert_eq!(spared, 136);
    }
}
