//! What every ref should be: the table that the ledger keeps.

use std::{collections::BTreeMap, fmt::Write as _, str::FromStr};

use git2::{ObjectType, Repository};
use libconf::name::{CommitId, ObjectId, RefName};

/// Where a ref points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// What the ref holds: a commit, or an annotated tag.
    pub value: ObjectId,
    /// The commit that it comes to.
    pub commit: CommitId,
}

impl Target {
    /// Reads what `value` is; `Err` says why no ref may hold it.
    pub fn read(repo: &Repository, value: ObjectId, may_be_tag: bool) -> Result<Self, String> {
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
        Ok(Target { value, commit })
    }
}

/// One ref's place in the table. A deleted ref keeps its place, so that its changes go on counting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Where it points; `None` once deleted.
    pub target: Option<Target>,
    /// How many accepted changes it had.
    pub changes: u64,
}

/// Every ref that ever was, and where it points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(BTreeMap<RefName, Place>);

impl Table {
    /// Where a ref points; `None` when it is not there.
    pub fn target(&self, name: &RefName) -> Option<Target> {
        self.0.get(name)?.target
    }

    /// Where a ref points, and how many changes it had.
    pub fn place(&self, name: &RefName) -> Place {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// How many accepted changes a ref had, deletions included.
    pub fn changes(&self, name: &RefName) -> u64 {
        self.0.get(name).map_or(0, |place| place.changes)
    }

    /// Records one accepted change.
    pub fn set(&mut self, name: RefName, target: Option<Target>) {
        let place = self.0.entry(name).or_default();
        place.target = target;
        place.changes += 1;
    }

    /// All refs that are there.
    pub fn iter(&self) -> impl Iterator<Item = (&RefName, Target)> {
        self.0.iter().filter_map(|(name, place)| Some((name, place.target?)))
    }
}

/// Text form, one line a ref: name, value, commit, number of changes; `-` where it is deleted.
impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut line = String::new();
        for (name, place) in &self.0 {
            line.clear();
            match place.target {
                Some(target) => write!(line, "{name} {} {} {}", target.value, target.commit, place.changes)?,
                None => write!(line, "{name} - - {}", place.changes)?,
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl FromStr for Table {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = |line: &str| -> Option<(RefName, Place)> {
            let [name, value, commit, changes] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let target = match (value, commit) {
                ("-", "-") => None,
                _ => Some(Target { value: value.parse().ok()?, commit: commit.parse().ok()? }),
            };
            Some((name.parse().ok()?, Place { target, changes: changes.parse().ok()? }))
        };
        let places =
            text.lines().map(|line| place(line).ok_or_else(|| format!("bad line in the table of refs: {line}")));
        Ok(Table(places.collect::<Result<_, _>>()?))
    }
}

/// The table as it would be after some changes.
#[derive(Clone, Copy, Debug)]
pub struct Proposed<'a> {
    /// What is.
    pub table: &'a Table,
    /// What would be different; `None` deletes.
    pub changes: &'a BTreeMap<RefName, Option<Target>>,
}

impl Proposed<'_> {
    /// Where a ref would point.
    pub fn target(&self, name: &RefName) -> Option<Target> {
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
    fn a_table_prints_as_it_parses_and_counts_on_after_a_deletion() {
        let mut table = Table::default();
        let name: RefName = "refs/heads/services/web/master".parse().unwrap();
        let target = Target { value: ObjectId::from([1; 20]), commit: ObjectId::from([2; 20]) };
        table.set(name.clone(), Some(target));
        table.set("refs/heads/main".parse().unwrap(), Some(target));
        table.set(name.clone(), None);
        assert_eq!(table.target(&name), None);
        assert_eq!(table.to_string().parse(), Ok(table.clone()));
        table.set(name.clone(), Some(target));
        assert_eq!(table.changes(&name), 3);
        assert!("refs/heads/main 1 2 3".parse::<Table>().is_err());
    }
}
