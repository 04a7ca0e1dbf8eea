//! How often the layers of classes and datacenters changed: each `overrides/<kind>/<name>.yaml` has
//! versions of its own, however many layers its branch has.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use conf_core::layers::Overrides;
use git2::Repository;
use libconf::name::{CommitId, ComponentName, RefName};

use crate::store::refs::{RefTarget, Table, version_after};

/// The changes of all layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LayerChanges(BTreeMap<RefName, OfBranch>);

/// The changes of the layers of one branch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfBranch {
    /// The changes that a layer counts as its own which nobody counted: what its branch had when
    /// layers began to have versions of their own. Until then they had the version of the branch,
    /// so no number comes twice.
    before: u64,
    layers: BTreeMap<ComponentName, LayerPlace>,
}

/// The changes of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LayerPlace {
    /// The number of accepted changes that changed its file.
    pub(crate) changes: u64,
    /// Its file is there.
    pub(crate) exists: bool,
}

impl LayerPlace {
    /// Returns its version: the number of its changes, less one; -1 while it does not exist.
    pub(crate) fn version(self) -> i64 {
        if self.exists { version_after(self.changes) } else { -1 }
    }
}

/// Tells whether a branch has layers.
fn has_layers(name: &RefName) -> bool {
    matches!(name, RefName::Class(_) | RefName::Datacenter(_))
}

impl LayerChanges {
    /// Returns how often a layer changed, and whether it is there.
    pub(crate) fn place(&self, branch: &RefName, component: &ComponentName) -> LayerPlace {
        let Some(of) = self.0.get(branch) else { return LayerPlace::default() };
        of.layers.get(component).copied().unwrap_or(LayerPlace { changes: of.before, exists: false })
    }

    /// Counts a change of a branch.
    pub(crate) fn count(
        &mut self,
        repo: &Repository,
        branch: &RefName,
        old: Option<RefTarget>,
        new: Option<RefTarget>,
    ) -> Result<(), git2::Error> {
        if !has_layers(branch) {
            return Ok(());
        }
        let (old, new) = (overrides(repo, old)?, overrides(repo, new)?);
        let of = self.0.entry(branch.clone()).or_default();
        let mut counted = BTreeSet::new();
        for component in old.files.keys().chain(new.files.keys()) {
            let now = new.files.get(component);
            let place = of.layers.entry(component.clone());
            let place = place.or_insert(LayerPlace { changes: of.before, exists: false });
            // The files of both are listed, so one that stays comes twice.
            if old.files.get(component) != now && counted.insert(component) {
                place.changes += 1;
            }
            place.exists = now.is_some();
        }
        Ok(())
    }

    /// Begins to count, where an older conf-master did not: every layer has the version of its
    /// branch.
    pub(crate) fn begin(repo: &Repository, table: &Table) -> Result<Self, git2::Error> {
        let mut all = LayerChanges::default();
        for (branch, place) in table.places().filter(|(name, _)| has_layers(name)) {
            let there = LayerPlace { changes: place.changes, exists: true };
            let layers = overrides(repo, place.target)?.files.into_keys().map(|component| (component, there));
            all.0.insert(branch.clone(), OfBranch { before: place.changes, layers: layers.collect() });
        }
        Ok(all)
    }

    /// Takes the changes of one branch from a later state.
    pub(crate) fn take_from(&mut self, later: &LayerChanges, branch: &RefName) {
        if let Some(of) = later.0.get(branch) {
            self.0.insert(branch.clone(), of.clone());
        }
    }
}

/// Reads the layers of a branch.
pub(crate) fn overrides(repo: &Repository, target: Option<RefTarget>) -> Result<Overrides, git2::Error> {
    match target {
        Some(target) => of_commit(repo, target.commit),
        None => Ok(Overrides::default()),
    }
}

fn of_commit(repo: &Repository, commit: CommitId) -> Result<Overrides, git2::Error> {
    Overrides::read(repo, repo.find_commit(commit.into())?.tree_id().into())
}

/// Writes a line for each branch: its name, `*` and what was not counted; and one for each layer:
/// branch, component, changes, `+` if it is there and `-` if not.
impl fmt::Display for LayerChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (branch, of) in &self.0 {
            writeln!(f, "{branch} * {}", of.before)?;
            for (component, place) in &of.layers {
                writeln!(f, "{branch} {component} {} {}", place.changes, if place.exists { '+' } else { '-' })?;
            }
        }
        Ok(())
    }
}

impl FromStr for LayerChanges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = LayerChanges::default();
        for line in text.lines() {
            let bad = || format!("bad line in the table of layers: {line}");
            let words: Vec<&str> = line.split(' ').collect();
            let [branch, what, changes, rest @ ..] = words.as_slice() else { return Err(bad()) };
            let of = all.0.entry(branch.parse().map_err(|_| bad())?).or_default();
            let changes = changes.parse().map_err(|_| bad())?;
            match (*what, rest) {
                ("*", []) => of.before = changes,
                (component, ["+" | "-"]) => {
                    let place = LayerPlace { changes, exists: rest == ["+"] };
                    of.layers.insert(component.parse().map_err(|_| bad())?, place);
                }
                _ => return Err(bad()),
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commits a branch with these layers, as kind, name and content.
    fn branch(repo: &Repository, layers: &[(&str, &str)]) -> RefTarget {
        let mut names = repo.treebuilder(None).unwrap();
        for (name, content) in layers {
            names.insert(format!("{name}.yaml"), repo.blob(content.as_bytes()).unwrap(), 0o100_644).unwrap();
        }
        let mut tree = names.write().unwrap();
        for folder in ["services", "overrides"] {
            let mut above = repo.treebuilder(None).unwrap();
            above.insert(folder, tree, 0o040_000).unwrap();
            tree = above.write().unwrap();
        }
        let who = git2::Signature::new("n", "e", &git2::Time::new(0, 0)).unwrap();
        let tree = repo.find_tree(tree).unwrap();
        let commit = repo.commit(None, &who, &who, "x", &tree, &[]).unwrap().into();
        RefTarget { value: commit, commit }
    }

    #[test]
    fn each_layer_counts_its_own_changes_and_goes_on_after_it_was_gone() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let name: RefName = "refs/heads/datacenters/dc/v1".parse().unwrap();
        let steps: [&[(&str, &str)]; 5] = [
            &[],
            &[("web", "a: 1")],
            &[("web", "a: 1"), ("api", "b: 1")],
            &[("api", "b: 2")],
            &[("web", "a: 1"), ("api", "b: 2")],
        ];
        let (mut changes, mut old) = (LayerChanges::default(), None);
        let mut versions = Vec::new();
        for layers in steps {
            let new = Some(branch(&repo, layers));
            changes.count(&repo, &name, old, new).unwrap();
            old = new;
            let version = |component: &str| changes.place(&name, &component.parse().unwrap()).version();
            versions.push((version("services/web"), version("services/api")));
        }
        assert_eq!(versions, [(-1, -1), (0, -1), (0, 0), (-1, 1), (2, 1)]);
        assert_eq!(changes.to_string().parse(), Ok(changes.clone()));
        changes.count(&repo, &name, old, None).unwrap();
        assert_eq!(changes.place(&name, &"services/web".parse().unwrap()).version(), -1, "the branch was deleted");
        assert_eq!(changes.place(&name, &"services/web".parse().unwrap()).changes, 4);
        // A branch without layers is not counted.
        let other: RefName = "refs/heads/services/web/master".parse().unwrap();
        let before = changes.clone();
        changes.count(&repo, &other, None, old).unwrap();
        assert_eq!(changes, before);
        assert!("refs/heads/datacenters/dc/v1 services/web 1 ?".parse::<LayerChanges>().is_err());
    }

    #[test]
    fn layers_of_an_older_ledger_begin_at_the_version_of_their_branch() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let name: RefName = "refs/heads/datacenters/dc/v1".parse().unwrap();
        let mut table = Table::default();
        for layers in [&[][..], &[("web", "a: 1")], &[("web", "a: 1"), ("api", "b: 1")]] {
            table.set(name.clone(), Some(branch(&repo, layers)));
        }
        let mut changes = LayerChanges::begin(&repo, &table).unwrap();
        let version =
            |changes: &LayerChanges, component: &str| changes.place(&name, &component.parse().unwrap()).version();
        assert_eq!(table.version(&name), 2);
        assert_eq!((version(&changes, "services/web"), version(&changes, "services/api")), (2, 2));
        assert_eq!(version(&changes, "services/new"), -1);
        assert_eq!(changes.to_string().parse(), Ok(changes.clone()));
        let new = branch(&repo, &[("web", "a: 2"), ("api", "b: 1"), ("new", "c: 1")]);
        changes.count(&repo, &name, table.target(&name), Some(new)).unwrap();
        assert_eq!((version(&changes, "services/web"), version(&changes, "services/api")), (3, 2));
        assert_eq!(version(&changes, "services/new"), 3, "no number comes twice");
    }
}
