//! Composes a snapshot.

use std::{collections::BTreeMap, fmt::Write as _, str};

use git2::Tree;

use crate::{
    consul::PinValue,
    git::ObjectStore,
    sign::SigningKey,
    snapshot::{
        commit::{CLASS, DATACENTER, SECRETS},
        error::{FORMAT, SnapshotError},
        tree::{Component, fan_out},
    },
};
use libconf::name::{CommitId, ComponentName, ComponentVersion, DatacenterName, Kind, ObjectId, RefName, Sequence};

const TREE_MODE: i32 = 0o040_000;

pub(crate) const BLOB_MODE: i32 = 0o100_644;

/// The parts of a snapshot: an earlier tree, and the changes to it.
#[derive(Clone, Debug)]
pub struct Composition {
    /// The datacenter.
    pub datacenter: DatacenterName,
    /// The number of the change.
    pub sequence: Sequence,
    /// The epoch of conf-master's history; the first is 1.
    pub epoch: u32,
    /// The time, in seconds since 1970.
    pub time: i64,
    /// The snapshot before it.
    pub parent: Option<CommitId>,
    /// An earlier tree to start from, if any.
    pub base: Option<ObjectId>,
    /// Components to set, or to remove (`None`), in `base`.
    pub components: BTreeMap<ComponentVersion, Option<Component>>,
    /// The tree of the datacenter branch.
    pub datacenter_tree: ObjectId,
    /// The commit of that tree.
    pub datacenter_commit: CommitId,
    /// The tree of the class at its tag.
    pub class_tree: ObjectId,
    /// The ref and the commit of that tree.
    pub class: (RefName, CommitId),
    /// The tree of its sealed secrets, if there are any.
    pub secrets_tree: Option<ObjectId>,
    /// The rest of the subject: a summary of the change, on one line.
    pub summary: String,
    /// The author of the change, on one line.
    pub by: String,
}

/// Writes the objects of a snapshot, signed, and returns its commit. Moves no ref and makes nothing
/// durable.
///
/// The cost grows with the changes to `base`: content goes in by object id, and nothing is copied.
pub fn compose(
    store: &impl ObjectStore,
    composition: &Composition,
    key: &SigningKey,
) -> Result<CommitId, SnapshotError> {
    SharedTrees::default().compose(store, composition, key)
}

/// The trees of the last composition's components. Datacenters of one class have many in common: a
/// change for all of them writes these once.
#[derive(Debug, Default)]
pub struct SharedTrees(Option<Written>);

/// The folder of each kind of components; `None` where there is none.
type Kinds = [Option<ObjectId>; Kind::ALL.len()];

/// Equal components over equal folders give equal folders.
#[derive(Debug)]
struct Written {
    before: Kinds,
    components: BTreeMap<ComponentVersion, Option<Component>>,
    after: Kinds,
}

impl SharedTrees {
    /// Like [`compose`], for one of several snapshots in one repository.
    pub fn compose(
        &mut self,
        store: &impl ObjectStore,
        composition: &Composition,
        key: &SigningKey,
    ) -> Result<CommitId, SnapshotError> {
        let tree = self.tree(store, composition).map_err(SnapshotError::Write)?;
        let mut text = format!("tree {tree}\n");
        if let Some(parent) = composition.parent {
            let _ = writeln!(text, "parent {parent}");
        }
        let who = format!("conf-master <conf-master> {} +0000", composition.time);
        let _ = write!(
            text,
            "author {who}\ncommitter {who}\n\n{}: {}\n\nConf-Sequence: {}\nConf-Format: {FORMAT}\nConf-By: {}\n\
             Conf-Datacenter: {}\nConf-Class: {} {}\n",
            composition.datacenter,
            composition.summary,
            composition.sequence,
            composition.by,
            composition.datacenter_commit,
            composition.class.0,
            composition.class.1,
        );
        if composition.epoch > 1 {
            let _ = writeln!(text, "Conf-Epoch: {}", composition.epoch);
        }
        let signature = key.sign(&text).map_err(|cause| SnapshotError::Untrusted { commit: CommitId::ZERO, cause })?;
        let commit = store.repo().commit_signed(&text, &signature, None).map_err(SnapshotError::Write)?;
        store.keep(commit);
        Ok(commit.into())
    }

    fn tree(&mut self, store: &impl ObjectStore, composition: &Composition) -> Result<ObjectId, git2::Error> {
        let repo = store.repo();
        let base = composition.base.map(|base| repo.find_tree(base.into())).transpose()?;
        let before = kinds(base.as_ref());
        let components = &composition.components;
        let known = self.0.as_ref().filter(|known| known.before == before && known.components == *components);
        let mut edits = Edits::default();
        match known {
            Some(Written { after, .. }) => {
                for (kind, folder) in Kind::ALL.into_iter().zip(after) {
                    edits.set(&[], kind.as_str(), folder.map(|tree| (TREE_MODE, tree)));
                }
            }
            None => {
                for (name, component) in components {
                    edits.component(store, name, component.as_ref())?;
                }
            }
        }
        edits.set(&[], DATACENTER, Some((TREE_MODE, composition.datacenter_tree)));
        edits.set(&[], CLASS, Some((TREE_MODE, composition.class_tree)));
        edits.set(&[], SECRETS, composition.secrets_tree.map(|tree| (TREE_MODE, tree)));
        let empty = || git2::Error::from_str("a snapshot cannot be empty");
        let tree = edits.apply(store, base.as_ref())?.ok_or_else(empty)?;
        if known.is_none() {
            let after = kinds(Some(&repo.find_tree(tree.into())?));
            self.0 = Some(Written { before, components: components.clone(), after });
        }
        Ok(tree)
    }
}

fn kinds(tree: Option<&Tree<'_>>) -> Kinds {
    Kind::ALL.map(|kind| Some(tree?.get_name(kind.as_str())?.id().into()))
}

/// Entries to set or to remove in a tree of folders.
#[derive(Default)]
struct Edits {
    entries: BTreeMap<String, Option<(i32, ObjectId)>>,
    folders: BTreeMap<String, Edits>,
}

impl Edits {
    /// Sets a component, or removes it.
    fn component(
        &mut self,
        store: &impl ObjectStore,
        name: &ComponentVersion,
        component: Option<&Component>,
    ) -> Result<(), git2::Error> {
        let ComponentName { kind, name: segment } = &name.component;
        let folder = [kind.as_str(), &fan_out(segment.as_str()), segment.as_str()];
        let pin = match component {
            Some(Component { pin, .. }) => {
                let value = PinValue { branch: pin.branch.clone(), commit: pin.commit };
                let blob = store.repo().blob(value.to_string().as_bytes())?;
                store.keep(blob);
                Some((BLOB_MODE, blob.into()))
            }
            None => None,
        };
        let content = component.map(|component| (TREE_MODE, component.tree));
        self.set(&folder, &format!("@{}", name.version), pin);
        self.set(&folder, name.version.as_str(), content);
        Ok(())
    }

    fn set(&mut self, folder: &[&str], name: &str, entry: Option<(i32, ObjectId)>) {
        let folder = folder.iter().fold(self, |edits, part| edits.folders.entry((*part).to_owned()).or_default());
        folder.entries.insert(name.to_owned(), entry);
    }

    /// Writes the resulting tree; `None` when it is empty.
    fn apply(&self, store: &impl ObjectStore, base: Option<&Tree<'_>>) -> Result<Option<ObjectId>, git2::Error> {
        let repo = store.repo();
        let mut builder = repo.treebuilder(base)?;
        let mut put = |name: &str, entry: Option<(i32, ObjectId)>| match entry {
            Some((mode, id)) => builder.insert(name, id.into(), mode).map(drop),
            None if builder.get(name)?.is_some() => builder.remove(name),
            None => Ok(()),
        };
        for (name, edits) in &self.folders {
            let below = match base.and_then(|base| base.get_name(name)) {
                Some(entry) => Some(repo.find_tree(entry.id())?),
                None => None,
            };
            put(name, edits.apply(store, below.as_ref())?.map(|id| (TREE_MODE, id)))?;
        }
        for (name, entry) in &self.entries {
            put(name, *entry)?;
        }
        if builder.is_empty() {
            return Ok(None);
        }
        let tree = builder.write()?;
        store.keep(tree);
        Ok(Some(tree.into()))
    }
}
