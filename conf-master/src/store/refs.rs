//! The table of refs that the ledger keeps: where every ref should point.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use git2::{ObjectType, Repository};
use libconf::name::{CommitId, DatacenterName, ObjectId, RefName};

/// Where a ref points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RefTarget {
    /// The object that the ref holds: a commit, or an annotated tag.
    pub(crate) value: ObjectId,
    /// The commit that the object leads to.
    pub(crate) commit: CommitId,
}

impl RefTarget {
    /// Reads the object `value`; an error says why no ref may hold it.
    pub(crate) fn read(repo: &Repository, value: ObjectId, may_be_tag: bool) -> Result<Self, String> {
        let object =
            repo.find_object(value.into(), None).map_err(|_| format!("{value} did not arrive with the push"))?;
        let commit = match object.kind() {
            Some(ObjectType::Commit) => value,
            Some(ObjectType::Tag) if may_be_tag => {
                let tag = object.into_tag().map_err(|_| "the tag cannot be read".to_owned())?;
                if tag.target_type() != Some(ObjectType::Commit) {
                    return Err("the tag must name a commit, not another tag or a file".to_owned());
                }
                tag.target_id().into()
            }
            Some(ObjectType::Tag) => return Err("a branch must name a commit, not a tag".to_owned()),
            _ => return Err("it must name a commit".to_owned()),
        };
        Ok(RefTarget { value, commit })
    }
}

/// The new target of each ref that a change moves; `None` deletes it.
pub(crate) type RefChanges = BTreeMap<RefName, Option<RefTarget>>;

/// One ref's place in the table. A deleted ref keeps its place, so that its changes are counted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where it points; `None` when it is deleted.
    pub(crate) target: Option<RefTarget>,
    /// Where it pointed before it was deleted; `None` while it exists.
    pub(crate) last: Option<RefTarget>,
    /// The number of its accepted changes.
    pub(crate) changes: u64,
}

/// Every ref that ever existed, and where it points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table(BTreeMap<RefName, Place>);

impl Table {
    /// Returns where a ref points; `None` when it does not exist.
    pub(crate) fn target(&self, name: &RefName) -> Option<RefTarget> {
        self.place(name).target
    }

    /// Returns where a ref points, and how many changes it had, deletions included.
    pub(crate) fn place(&self, name: &RefName) -> Place {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Returns the version of a branch: the number of its accepted changes, less one; -1 when it
    /// does not exist. After a deletion the count goes on, so that no number is used twice.
    pub(crate) fn version(&self, name: &RefName) -> i64 {
        let place = self.place(name);
        if place.target.is_some() { version_after(place.changes) } else { -1 }
    }

    /// Tells whether a ref ever existed.
    pub(crate) fn knows(&self, name: &RefName) -> bool {
        self.0.contains_key(name)
    }

    /// Lists every ref that ever existed.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&RefName, &Place)> {
        self.0.iter()
    }

    /// Records one accepted change.
    pub(crate) fn set(&mut self, name: RefName, target: Option<RefTarget>) {
        let place = self.0.entry(name).or_default();
        place.last = if target.is_none() { place.target.or(place.last) } else { None };
        place.target = target;
        place.changes += 1;
    }

    /// Lists the deleted refs of which nobody knows where they pointed.
    pub(crate) fn forgotten(&self) -> BTreeSet<RefName> {
        let forgotten = self.0.iter().filter(|(_, place)| place.target.is_none() && place.last.is_none());
        forgotten.map(|(name, _)| name.clone()).collect()
    }

    /// Records where a deleted ref pointed.
    pub(crate) fn recall(&mut self, name: &RefName, last: RefTarget) {
        if let Some(place) = self.0.get_mut(name).filter(|place| place.target.is_none()) {
            place.last = Some(last);
        }
    }

    /// Writes one line for each deleted ref: its name, value and commit before it was deleted.
    pub(crate) fn deleted(&self) -> String {
        let line = |(name, place): (&RefName, &Place)| {
            place.last.map(|last| format!("{name} {} {}\n", last.value, last.commit))
        };
        self.0.iter().filter_map(line).collect()
    }

    /// Reads what [`Table::deleted`] wrote.
    pub(crate) fn recall_deleted(&mut self, text: &str) -> Result<(), String> {
        let last = |line: &str| -> Option<(RefName, RefTarget)> {
            let [name, value, commit] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            Some((name.parse().ok()?, RefTarget { value: value.parse().ok()?, commit: commit.parse().ok()? }))
        };
        for line in text.lines() {
            let (name, last) = last(line).ok_or_else(|| format!("bad line in the table of deleted refs: {line}"))?;
            self.recall(&name, last);
        }
        Ok(())
    }

    /// Lists the datacenters that have a branch.
    pub(crate) fn datacenters(&self) -> Vec<DatacenterName> {
        let names = self.iter().filter_map(|(name, _)| match name {
            RefName::Datacenter(datacenter) => Some(datacenter.clone()),
            _ => None,
        });
        names.collect()
    }

    /// Lists all refs that exist.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&RefName, RefTarget)> {
        self.0.iter().filter_map(|(name, place)| Some((name, place.target?)))
    }
}

/// Returns the version of a branch after this many accepted changes.
pub(crate) fn version_after(changes: u64) -> i64 {
    i64::try_from(changes).unwrap_or(i64::MAX) - 1
}

/// Writes one line for each ref: name, value, commit, number of changes; `-` for a deleted ref.
impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|(name, place)| match place.target {
            Some(target) => writeln!(f, "{name} {} {} {}", target.value, target.commit, place.changes),
            None => writeln!(f, "{name} - - {}", place.changes),
        })
    }
}

impl FromStr for Table {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = |line: &str| -> Option<(RefName, Place)> {
            let [name, value, commit, changes] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let target = match (value, commit) {
                ("-", "-") => None,
                _ => Some(RefTarget { value: value.parse().ok()?, commit: commit.parse().ok()? }),
            };
            Some((name.parse().ok()?, Place { target, last: None, changes: changes.parse().ok()? }))
        };
        let places =
            text.lines().map(|line| place(line).ok_or_else(|| format!("bad line in the table of refs: {line}")));
        Ok(Table(places.collect::<Result<_, _>>()?))
    }
}

/// The table as it would be after a change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposed<'a> {
    /// The table now.
    pub(crate) table: &'a Table,
    /// The refs that would differ; `None` deletes.
    pub(crate) changes: &'a RefChanges,
    /// The refs whose change was asked for together with these, and is refused.
    pub(crate) refused: &'a BTreeSet<RefName>,
}

/// No ref is refused.
pub(crate) static NONE_REFUSED: BTreeSet<RefName> = BTreeSet::new();

impl Proposed<'_> {
    /// Returns where a ref would point.
    pub(crate) fn target(&self, name: &RefName) -> Option<RefTarget> {
        match self.changes.get(name) {
            Some(target) => *target,
            None => self.table.target(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_round_trips_and_counts_on_after_a_deletion() {
        let mut table = Table::default();
        let name: RefName = "refs/heads/services/web/master".parse().unwrap();
        let target = RefTarget { value: ObjectId::from([1; 20]), commit: ObjectId::from([2; 20]) };
        table.set(name.clone(), Some(target));
        table.set("refs/heads/main".parse().unwrap(), Some(target));
        table.set(name.clone(), None);
        assert_eq!((table.target(&name), table.place(&name).last), (None, Some(target)));
        let mut read: Table = table.to_string().parse().unwrap();
        assert_eq!(read.forgotten(), [name.clone()].into(), "an older table does not say where it pointed");
        read.recall_deleted(&table.deleted()).unwrap();
        assert_eq!(read, table);
        assert!(read.recall_deleted("refs/heads/main 1 2").is_err());
        table.set(name.clone(), Some(target));
        assert_eq!((table.place(&name).changes, table.place(&name).last), (3, None));
        assert!("refs/heads/main 1 2 3".parse::<Table>().is_err());
    }
}
