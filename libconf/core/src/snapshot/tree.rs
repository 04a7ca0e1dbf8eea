//! The tree of a snapshot: its components, and what differs between two.

use std::collections::{BTreeMap, BTreeSet};

use git2::{ObjectType, Repository, TreeEntry};
use sha2::{Digest as _, Sha256};

use crate::{
    api::Pin,
    consul::PinValue,
    snapshot::{
        commit::{CLASS, DATACENTER, SECRETS, Snapshot},
        error::SnapshotError,
    },
};
use libconf::name::{ComponentName, ComponentVersion, Kind, ObjectId, SecretName, Segment};

/// One component in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// The resolved component.
    pub pin: Pin,
    /// The tree of its content.
    pub tree: ObjectId,
}

/// The difference of two snapshots: exactly the components to publish and to render again, and the
/// readers to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Components that were added, removed (`after` is `None`) or changed (content or pin).
    pub components: BTreeMap<ComponentVersion, Change>,
    /// True when the datacenter's own branch differs.
    pub datacenter: bool,
    /// True when the class differs.
    pub class: bool,
    /// Secrets that were added, removed, or sealed anew.
    pub secrets: BTreeSet<SecretName>,
}

/// A component before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The component before, if there was one.
    pub before: Option<Component>,
    /// The component now, if there is one.
    pub after: Option<Component>,
}

impl Snapshot {
    /// All pinned components, in order of name.
    pub fn components(&self, repo: &Repository) -> Result<BTreeMap<ComponentVersion, Component>, SnapshotError> {
        components_of_tree(repo, self.tree).map_err(|cause| SnapshotError::Read { commit: self.commit, cause })
    }

    /// The pinned components whose names are wanted, in order of name; reads no other component.
    pub fn components_of(
        &self,
        repo: &Repository,
        is_wanted: impl Fn(&ComponentName) -> bool,
    ) -> Result<BTreeMap<ComponentVersion, Component>, SnapshotError> {
        let read = || {
            let mut found = BTreeMap::new();
            let kinds = subtrees(repo, Some(self.tree))?;
            for kind in Kind::ALL {
                for folder in subtrees(repo, kinds.get(kind.as_str()).copied())?.into_values() {
                    for (name, tree) in subtrees(repo, Some(folder))? {
                        let Ok(name) = name.parse::<Segment>() else { continue };
                        let component = ComponentName { kind, name };
                        if is_wanted(&component) {
                            found.append(&mut versions(repo, &component, Some(tree))?);
                        }
                    }
                }
            }
            Ok(found)
        };
        read().map_err(|cause| SnapshotError::Read { commit: self.commit, cause })
    }

    /// The pinned versions of one component; reads no other component.
    pub fn versions_of(
        &self,
        repo: &Repository,
        component: &ComponentName,
    ) -> Result<BTreeMap<ComponentVersion, Component>, SnapshotError> {
        let read = || {
            let (kind, name) = (component.kind.as_str(), component.name.as_str());
            let mut folder = Some(self.tree);
            for part in [kind, &fan_out(name), name] {
                folder = subtrees(repo, folder)?.remove(part);
            }
            versions(repo, component, folder)
        };
        read().map_err(|cause| SnapshotError::Read { commit: self.commit, cause })
    }
}

/// The folder of a name among those of its kind: the first two hex digits of its SHA-256.
pub fn fan_out(name: &str) -> String {
    format!("{:02x}", Sha256::digest(name)[0])
}

/// Compares two snapshots' trees; with no `old`, everything in `new` was added. Cost grows with
/// what differs.
pub fn compare(repo: &Repository, old: Option<&Snapshot>, new: &Snapshot) -> Result<Difference, SnapshotError> {
    compare_trees(repo, old.map(|old| old.tree), new.tree)
        .map_err(|cause| SnapshotError::Read { commit: new.commit, cause })
}

fn compare_trees(repo: &Repository, old: Option<ObjectId>, new: ObjectId) -> Result<Difference, git2::Error> {
    let (before, after) = (subtrees(repo, old)?, subtrees(repo, Some(new))?);
    let mut difference = Difference {
        datacenter: before.get(DATACENTER) != after.get(DATACENTER),
        class: before.get(CLASS) != after.get(CLASS),
        ..Difference::default()
    };
    let secrets = differing(repo, before.get(SECRETS), after.get(SECRETS))?;
    difference.secrets = secrets.into_iter().filter_map(|(name, _, _)| name.parse().ok()).collect();
    for kind in Kind::ALL {
        for (_, old, new) in differing(repo, before.get(kind.as_str()), after.get(kind.as_str()))? {
            for (name, old, new) in differing(repo, old.as_ref(), new.as_ref())? {
                let Ok(name) = name.parse::<Segment>() else { continue };
                let component = ComponentName { kind, name };
                let mut old = versions(repo, &component, old)?;
                for (version, after) in versions(repo, &component, new)? {
                    let before = old.remove(&version);
                    if before.as_ref() != Some(&after) {
                        difference.components.insert(version, Change { before, after: Some(after) });
                    }
                }
                let removed =
                    old.into_iter().map(|(version, before)| (version, Change { before: Some(before), after: None }));
                difference.components.extend(removed);
            }
        }
    }
    Ok(difference)
}

type Differing = Vec<(String, Option<ObjectId>, Option<ObjectId>)>;

/// The folders that differ between two folders.
fn differing(repo: &Repository, old: Option<&ObjectId>, new: Option<&ObjectId>) -> Result<Differing, git2::Error> {
    if old == new {
        return Ok(Vec::new());
    }
    let mut before = subtrees(repo, old.copied())?;
    let after = subtrees(repo, new.copied())?;
    let mut differing: Differing = Vec::new();
    for (name, new) in after {
        let old = before.remove(&name);
        if old != Some(new) {
            differing.push((name, old, Some(new)));
        }
    }
    differing.extend(before.into_iter().map(|(name, old)| (name, Some(old), None)));
    Ok(differing)
}

/// The folders in a folder, by name.
fn subtrees(repo: &Repository, tree: Option<ObjectId>) -> Result<BTreeMap<String, ObjectId>, git2::Error> {
    let Some(tree) = tree else { return Ok(BTreeMap::new()) };
    let tree = repo.find_tree(tree.into())?;
    let folders = tree.iter().filter(|entry| entry.kind() == Some(ObjectType::Tree));
    Ok(folders.filter_map(|entry| Some((entry.name().ok()?.to_owned(), entry.id().into()))).collect())
}

/// All versions in a component's folder: `<version>/` and `@<version>` beside it.
fn versions(
    repo: &Repository,
    component: &ComponentName,
    tree: Option<ObjectId>,
) -> Result<BTreeMap<ComponentVersion, Component>, git2::Error> {
    let Some(tree) = tree else { return Ok(BTreeMap::new()) };
    let tree = repo.find_tree(tree.into())?;
    let version = |entry: TreeEntry<'_>| -> Result<Option<(ComponentVersion, Component)>, git2::Error> {
        let Some(version) = entry.name().ok().and_then(|name| name.strip_prefix('@')?.parse().ok()) else {
            return Ok(None);
        };
        let component = ComponentVersion { component: component.clone(), version };
        let bad = || git2::Error::from_str(&format!("the pin of {component} is malformed"));
        let blob = repo.find_blob(entry.id())?;
        let PinValue { branch, commit } = String::from_utf8_lossy(blob.content()).parse().map_err(|_| bad())?;
        let content = tree.get_name(component.version.as_str()).ok_or_else(bad)?;
        let pin = Pin { component: component.clone(), branch, commit };
        Ok(Some((component, Component { pin, tree: content.id().into() })))
    };
    tree.iter().filter_map(|entry| version(entry).transpose()).collect()
}

fn components_of_tree(repo: &Repository, tree: ObjectId) -> Result<BTreeMap<ComponentVersion, Component>, git2::Error> {
    let difference = compare_trees(repo, None, tree)?;
    Ok(difference.components.into_iter().filter_map(|(name, change)| Some((name, change.after?))).collect())
}
