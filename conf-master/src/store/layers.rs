//! The versions of the layers of classes and datacenters: `overrides/<kind>/<name>.yaml` has the
//! version that its branch had with the file's last change.
//!
//! So nothing is counted for a layer, no number comes twice, and a layer that is gone needs no
//! memory. Wherever the history of a layer is not known, a later version of the branch, in which
//! the file is the same, is as good.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use conf_core::layers::Overrides;
use git2::{ObjectType, Repository, Tree};
use libconf::name::{ComponentName, RefName};
use tracing::warn;

use crate::store::refs::{RefTarget, Table, version_after};

/// Every layer that is there, and its last change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LayerChanges(BTreeMap<RefName, OfBranch>);

/// The layers of one branch: for each, the number of changes that the branch had with the layer's
/// last one.
type OfBranch = BTreeMap<ComponentName, u64>;

/// Tells whether a branch has layers.
fn has_layers(name: &RefName) -> bool {
    matches!(name, RefName::Class(_) | RefName::Datacenter(_))
}

impl LayerChanges {
    /// Begins where the last changes are not known: each may have come with the newest change of
    /// its branch.
    pub(crate) fn begin(repo: &Repository, table: &Table) -> Self {
        let mut all = LayerChanges::default();
        for (branch, place) in table.places() {
            all.note(repo, branch, (None, place.target), place.changes);
        }
        all
    }

    /// Returns the version of a layer; -1 when it does not exist.
    pub(crate) fn version(&self, table: &Table, branch: &RefName, component: &ComponentName) -> i64 {
        match self.0.get(branch) {
            Some(layers) => layers.get(component).map_or(-1, |changes| version_after(*changes)),
            // The branch does not exist, or its layers cannot be read.
            None => table.version(branch),
        }
    }

    /// Notes which layers a change of a branch makes, changes and removes: the branch has `changes`
    /// changes with it. Where the state before cannot be read, each layer may have changed.
    pub(crate) fn note(
        &mut self,
        repo: &Repository,
        branch: &RefName,
        (old, new): (Option<RefTarget>, Option<RefTarget>),
        changes: u64,
    ) {
        if !has_layers(branch) {
            return;
        }
        let known = self.0.remove(branch);
        let Some(new) = new else { return };
        let noted = match known.zip(old) {
            Some((known, old)) => follow(repo, known, (old, new), changes).or_else(|error| {
                warn!(%branch, error = error.message(), "layers of before cannot be read: all count as changed");
                all(repo, new, changes)
            }),
            None => all(repo, new, changes),
        };
        match noted {
            Ok(layers) => drop(self.0.insert(branch.clone(), layers)),
            Err(error) => {
                warn!(%branch, error = error.message(), "layers cannot be read: they have the version of the branch");
            }
        }
    }

    /// Takes the layers of one branch from a later state.
    pub(crate) fn take_from(&mut self, later: &LayerChanges, branch: &RefName) {
        match later.0.get(branch) {
            Some(of) => drop(self.0.insert(branch.clone(), of.clone())),
            None => drop(self.0.remove(branch)),
        }
    }
}

/// Lists the layers of a commit, as if its change had changed all.
fn all(repo: &Repository, target: RefTarget, changes: u64) -> Result<OfBranch, git2::Error> {
    let tree = repo.find_commit(target.commit.into())?.tree_id();
    let files = Overrides::read(repo, tree.into())?.files;
    Ok(files.into_keys().map(|component| (component, changes)).collect())
}

/// Follows one change of the layers. Git reads only the folders that differ.
fn follow(
    repo: &Repository,
    mut layers: OfBranch,
    (old, new): (RefTarget, RefTarget),
    changes: u64,
) -> Result<OfBranch, git2::Error> {
    let (old, new) = (folder(repo, old)?, folder(repo, new)?);
    if old.as_ref().map(Tree::id) == new.as_ref().map(Tree::id) {
        return Ok(layers);
    }
    for delta in repo.diff_tree_to_tree(old.as_ref(), new.as_ref(), None)?.deltas() {
        let Some(path) = delta.new_file().path().and_then(Path::to_str) else { continue };
        let Some(Ok(component)) = path.strip_suffix(".yaml").map(str::parse::<ComponentName>) else { continue };
        let found = new.as_ref().and_then(|new| new.get_path(path.as_ref()).ok());
        if found.is_some_and(|entry| entry.kind() == Some(ObjectType::Blob)) {
            layers.insert(component, changes);
        } else {
            layers.remove(&component);
        }
    }
    Ok(layers)
}

/// Returns the folder of a commit's layers.
fn folder(repo: &Repository, target: RefTarget) -> Result<Option<Tree<'_>>, git2::Error> {
    let root = repo.find_commit(target.commit.into())?.tree()?;
    let entry = root.get_name(Overrides::FOLDER).filter(|entry| entry.kind() == Some(ObjectType::Tree));
    entry.map(|entry| repo.find_tree(entry.id())).transpose()
}

/// Writes a line for each branch: its name, then each layer and the number of changes that the
/// branch had with its last one.
impl fmt::Display for LayerChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (branch, layers) in &self.0 {
            write!(f, "{branch}")?;
            layers.iter().try_for_each(|(component, changes)| write!(f, " {component} {changes}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl FromStr for LayerChanges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let of_branch = |line: &str| -> Option<(RefName, OfBranch)> {
            let words: Vec<&str> = line.split(' ').collect();
            let (branch, layers) = words.split_first()?;
            let layer = |two: &[&str]| match two {
                [component, changes] => Some((component.parse().ok()?, changes.parse().ok()?)),
                _ => None,
            };
            Some((branch.parse().ok()?, layers.chunks(2).map(layer).collect::<Option<_>>()?))
        };
        let lines = text.lines().map(|line| of_branch(line).ok_or(format!("bad line in the table of layers: {line}")));
        Ok(LayerChanges(lines.collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use libconf::name::{CommitId, ObjectId, Sequence};

    use super::*;
    use crate::store::ledger::{self, LedgerEntry, LedgerState, Move, Tables};

    const BRANCH: &str = "refs/heads/datacenters/dc/v1";

    /// Commits a branch with these layers, as name and content.
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

    /// A ledger of one branch.
    struct Room {
        folder: tempfile::TempDir,
        repo: Repository,
        state: LedgerState,
        tip: Option<CommitId>,
    }

    impl Room {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let repo = Repository::init_bare(folder.path()).unwrap();
            Room { folder, repo, state: LedgerState::default(), tip: None }
        }

        fn land(&mut self, new: Option<RefTarget>) {
            let name: RefName = BRANCH.parse().unwrap();
            let sequence = if self.tip.is_some() { self.state.sequence.next() } else { Sequence(0) };
            let old = self.state.table.target(&name).map_or(ObjectId::ZERO, |old| old.value);
            let text = str::to_owned;
            let moves = vec![Move { name, old, new }];
            let (by, through, request) = (text("ann"), text("path"), text("r"));
            let (proven, token, policy, key, continues) = (None, None, None, None, None);
            let time = 1_700_000_000;
            let entry =
                LedgerEntry { sequence, moves, by, through, request, proven, token, policy, key, continues, time };
            let LedgerState { table, requests, layers, sequence: newest } = &mut self.state;
            entry.note_layers(&self.repo, table, layers);
            entry.apply(table, requests);
            *newest = sequence;
            let tables = Tables { table, requests, layers };
            self.tip = Some(ledger::write(&self.repo, self.tip, &entry, tables).unwrap());
        }

        fn replayed(&self) -> LedgerState {
            let repo = Repository::open_bare(self.folder.path()).unwrap();
            ledger::replay(&repo, self.tip.unwrap()).unwrap()
        }

        /// Removes an object.
        fn lose(&self, object: git2::Oid) {
            let name = object.to_string();
            std::fs::remove_file(self.folder.path().join("objects").join(&name[..2]).join(&name[2..])).unwrap();
        }

        /// Makes the ledger one of an earlier build: its whole table, entry 0, has no layers.
        fn without_layers(&mut self) {
            let mut chain = Vec::new();
            let mut next = self.tip;
            while let Some(commit) = next {
                chain.push(commit);
                next = ledger::previous(&self.repo, commit).unwrap();
            }
            self.tip = None;
            for commit in chain.into_iter().rev() {
                let commit = self.repo.find_commit(commit.into()).unwrap();
                let mut tree = self.repo.treebuilder(Some(&commit.tree().unwrap())).unwrap();
                let _ = tree.remove("layers");
                let tree = self.repo.find_tree(tree.write().unwrap()).unwrap();
                let before = self.tip.map(|tip| self.repo.find_commit(tip.into()).unwrap());
                let parents: Vec<_> = before.iter().collect();
                let (who, words) = (commit.author(), commit.message().unwrap());
                self.tip = Some(self.repo.commit(None, &who, &who, words, &tree, &parents).unwrap().into());
            }
        }
    }

    fn version(state: &LedgerState, component: &str) -> i64 {
        state.layers.version(&state.table, &BRANCH.parse().unwrap(), &component.parse().unwrap())
    }

    #[test]
    fn a_layer_has_the_version_of_its_branch_at_its_last_change() {
        let mut room = Room::new();
        let steps: [&[(&str, &str)]; 6] = [
            &[],
            &[("web", "a: 1")],
            &[("web", "a: 1"), ("api", "b: 1")],
            &[("api", "b: 2")],
            &[("web", "a: 1"), ("api", "b: 2")],
            &[("web", "a: 1"), ("api", "b: 2")],
        ];
        let mut versions = Vec::new();
        for layers in steps {
            room.land(Some(branch(&room.repo, layers)));
            versions.push((version(&room.state, "services/web"), version(&room.state, "services/api")));
            assert_eq!(room.replayed(), room.state, "a restart changes nothing");
        }
        assert_eq!(versions, [(-1, -1), (1, -1), (1, 2), (-1, 3), (4, 3), (4, 3)]);
        assert_eq!(room.state.layers.to_string().parse(), Ok(room.state.layers.clone()));
        room.land(None);
        assert_eq!(version(&room.state, "services/web"), -1, "the branch was deleted");
        assert_eq!(room.state.layers, LayerChanges::default(), "and nothing is remembered of it");
        room.land(Some(branch(&room.repo, &[("web", "a: 1")])));
        assert_eq!(version(&room.state, "services/web"), 7, "made again, it goes on");
        assert_eq!(room.replayed(), room.state);
        // A branch without layers is not listed.
        let (before, target) = (room.state.layers.clone(), Some(branch(&room.repo, &[("web", "a: 1")])));
        room.state.layers.note(&room.repo, &"refs/heads/services/web/master".parse().unwrap(), (None, target), 1);
        assert_eq!(room.state.layers, before);
        assert!(format!("{BRANCH} services/web").parse::<LayerChanges>().is_err());
        assert!(format!("{BRANCH} services/web x").parse::<LayerChanges>().is_err());
    }

    #[test]
    fn no_version_of_a_ledger_of_an_earlier_build_comes_twice() {
        let mut room = Room::new();
        for api in 0..5 {
            room.land(Some(branch(&room.repo, &[("web", "a: 1"), ("api", &format!("b: {api}"))])));
        }
        room.without_layers();
        let state = room.replayed();
        // The earlier build showed 4 for both. Nothing else had been in `web` since its version 0.
        assert_eq!((version(&state, "services/web"), version(&state, "services/api")), (0, 4));
        assert_eq!(room.replayed(), state, "a restart says the same");
        room.state = state;
        let shown = room.state.table.version(&BRANCH.parse().unwrap());
        for web in 2..5 {
            room.land(Some(branch(&room.repo, &[("web", &format!("a: {web}")), ("api", "b: 4")])));
            assert!(version(&room.state, "services/web") > shown, "what the earlier build showed never comes again");
            assert_eq!(room.replayed(), room.state);
        }
        assert_eq!(version(&room.state, "services/api"), 4);
    }

    #[test]
    fn what_cannot_be_read_counts_as_changed_and_keeps_nothing_from_landing() {
        let mut room = Room::new();
        let layers = [("web", "a: 1"), ("api", "b: 1")];
        for change in ["b: 1", "b: 2", "b: 3"] {
            room.land(Some(branch(&room.repo, &[("web", "a: 1"), ("api", change)])));
        }
        assert_eq!((version(&room.state, "services/web"), version(&room.state, "services/api")), (0, 2));
        let newest = room.state.table.target(&BRANCH.parse().unwrap()).unwrap();
        room.lose(folder(&room.repo, newest).unwrap().unwrap().id());
        room.repo = Repository::open_bare(room.folder.path()).unwrap();
        let state = room.replayed();
        assert_eq!(version(&state, "services/web"), 2, "the version of the branch");
        assert_eq!(version(&state, "services/new"), 2, "nobody knows that it is absent");
        // The next change brings a state that can be read.
        room.land(Some(branch(&room.repo, &layers)));
        assert_eq!((version(&room.state, "services/web"), version(&room.state, "services/api")), (3, 3));
        assert_eq!(version(&room.state, "services/new"), -1);
        assert_eq!(room.replayed(), room.state);
    }
}
