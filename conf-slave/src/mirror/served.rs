//! The snapshot that hosts get.

use std::{collections::BTreeMap, sync::Arc};

use conf_core::{
    api::{Pin, Pointer},
    snapshot::{self, Snapshot, SnapshotError},
};
use git2::Repository;
use libconf::name::ComponentVersion;

/// The pins of a snapshot. Those that two snapshots have in common are one value in memory: a
/// datacenter has thousands, and a change is of few.
pub(crate) type Pins = BTreeMap<Arc<ComponentVersion>, Arc<Pin>>;

/// A verified snapshot with its pins.
#[derive(Clone, Debug)]
pub(crate) struct ServedSnapshot {
    /// The snapshot.
    pub(crate) snapshot: Snapshot,
    /// Its pins.
    pub(crate) pins: Arc<Pins>,
}

impl ServedSnapshot {
    /// Returns its pointer.
    pub(crate) fn pointer(&self) -> Pointer {
        Pointer { sequence: self.snapshot.sequence, commit: self.snapshot.commit }
    }

    /// Reads the pins of `snapshot`. With the snapshot `before`, the cost grows with the difference
    /// between the two.
    pub(crate) fn read(repo: &Repository, snapshot: Snapshot, before: Option<&Self>) -> Result<Self, SnapshotError> {
        let difference = snapshot::compare(repo, before.map(|served| &served.snapshot), &snapshot)?;
        let mut pins = before.map_or_else(Pins::new, |served| (*served.pins).clone());
        for (name, change) in difference.components {
            match change.after {
                Some(component) => pins.insert(Arc::new(name), Arc::new(component.pin)),
                None => pins.remove(&name),
            };
        }
        Ok(ServedSnapshot { snapshot, pins: Arc::new(pins) })
    }
}

/// The pins of `one` that `other` lacks, or has otherwise.
pub(crate) fn differing<'p>(
    one: &'p Pins,
    other: &'p Pins,
) -> impl Iterator<Item = (&'p Arc<ComponentVersion>, &'p Arc<Pin>)> {
    let mut others = other.iter().peekable();
    one.iter().filter(move |(name, pin)| {
        // Both are in order.
        while others.next_if(|(other, _)| !Arc::ptr_eq(other, name) && other < name).is_some() {}
        let same = others.next_if(|(other, _)| other == name);
        !same.is_some_and(|(_, other)| other == *pin)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_that_differ() {
        let pins = |text: &str| -> Pins {
            let pin = |word: &str| {
                let (name, of) = word.split_once('=').unwrap();
                let component: ComponentVersion = format!("services/{name}/v1").parse().unwrap();
                let commit = [of.parse::<u8>().unwrap(); 20].into();
                let pin = Pin { component: component.clone(), branch: "master".parse().unwrap(), commit };
                (Arc::new(component), Arc::new(pin))
            };
            text.split_whitespace().map(pin).collect()
        };
        let check = |one: &str, other: &str, expected: &str| {
            let (one, other) = (pins(one), pins(other));
            let found: Vec<&str> = differing(&one, &other).map(|(name, _)| name.component.name.as_str()).collect();
            assert_eq!(found.join(" "), expected);
            // The same values in memory.
            assert_eq!(differing(&one, &one.clone()).count(), 0);
        };
        check("", "a=1", "");
        check("a=1 c=1", "", "a c");
        check("a=1 b=2 c=3", "a=1 b=2 c=3", "");
        check("a=1 b=2 c=3", "b=2", "a c");
        check("b=2", "a=1 b=1 c=3", "b");
        check("a=1 d=4 e=5", "b=1 c=1 d=4 f=1", "a e");
    }
}
