//! Composes a snapshot.

use std::{collections::BTreeMap, fmt::Write as _, str};

use git2::{Repository, Tree};

use crate::{
    consul::PinValue,
    sign::SigningKey,
    snapshot::{
        commit::{CLASS, DATACENTER, SECRETS},
        error::{FORMAT, SnapshotError},
        tree::{Component, fan_out},
    },
};
use libconf::name::{CommitId, ComponentName, ComponentVersion, DatacenterName, ObjectId, RefName, Sequence};

const TREE_MODE: i32 = 0o040_000;

pub(crate) const BLOB_MODE: i32 = 0o100_644;

/// The parts of a snapshot: an earlier tree, and the changes to it.
#[derive(Clone, Debug)]
pub struct Composition {
    /// The datacenter.
    pub datacenter: DatacenterName,
    /// The number of the change.
    pub sequence: Sequence,
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
pub fn compose(repo: &Repository, composition: &Composition, key: &SigningKey) -> Result<CommitId, SnapshotError> {
    let tree = compose_tree(repo, composition).map_err(SnapshotError::Write)?;
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
    let signature = key.sign(&text).map_err(|cause| SnapshotError::Untrusted { commit: CommitId::ZERO, cause })?;
    let commit = repo.commit_signed(&text, &signature, None).map_err(SnapshotError::Write)?;
    Ok(commit.into())
}

fn compose_tree(repo: &Repository, composition: &Composition) -> Result<ObjectId, git2::Error> {
    let mut edits = Edits::default();
    for (name, component) in &composition.components {
        let ComponentName { kind, name: segment } = &name.component;
        let folder = [kind.as_str(), &fan_out(segment.as_str()), segment.as_str()];
        let pin = match component {
            Some(Component { pin, .. }) => {
                let value = PinValue { branch: pin.branch.clone(), commit: pin.commit };
                Some((BLOB_MODE, repo.blob(value.to_string().as_bytes())?.into()))
            }
            None => None,
        };
        let content = component.as_ref().map(|component| (TREE_MODE, component.tree));
        edits.set(&folder, &format!("@{}", name.version), pin);
        edits.set(&folder, name.version.as_str(), content);
    }
    edits.set(&[], DATACENTER, Some((TREE_MODE, composition.datacenter_tree)));
    edits.set(&[], CLASS, Some((TREE_MODE, composition.class_tree)));
    edits.set(&[], SECRETS, composition.secrets_tree.map(|tree| (TREE_MODE, tree)));
    let base = composition.base.map(|base| repo.find_tree(base.into())).transpose()?;
    let tree = edits.apply(repo, base.as_ref())?;
    tree.ok_or_else(|| git2::Error::from_str("a snapshot cannot be empty"))
}

/// Entries to set or to remove in a tree of folders.
#[derive(Default)]
struct Edits {
    entries: BTreeMap<String, Option<(i32, ObjectId)>>,
    folders: BTreeMap<String, Edits>,
}

impl Edits {
    fn set(&mut self, folder: &[&str], name: &str, entry: Option<(i32, ObjectId)>) {
        let folder = folder.iter().fold(self, |edits, part| edits.folders.entry((*part).to_owned()).or_default());
        folder.entries.insert(name.to_owned(), entry);
    }

    /// Writes the resulting tree; `None` when it is empty.
    fn apply(&self, repo: &Repository, base: Option<&Tree<'_>>) -> Result<Option<ObjectId>, git2::Error> {
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
            put(name, edits.apply(repo, below.as_ref())?.map(|id| (TREE_MODE, id)))?;
        }
        for (name, entry) in &self.entries {
            put(name, *entry)?;
        }
        if builder.is_empty() { Ok(None) } else { Ok(Some(builder.write()?.into())) }
    }
}
