//! The two `datacenter.yaml` of a snapshot.

use git2::Repository;

use crate::{
    manifest::{ClassManifest, FILE, InstanceManifest, Strictness},
    settings::Fault,
    snapshot::{
        commit::{CLASS, DATACENTER, Snapshot},
        error::SnapshotError,
    },
};
use libconf::name::ObjectId;

/// Both `datacenter.yaml` of a snapshot, and the trees that they were read in.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifests {
    /// The class's.
    pub class: ClassManifest,
    /// The datacenter's own.
    pub instance: InstanceManifest,
    /// The tree of the class.
    pub class_tree: ObjectId,
    /// The tree of the datacenter's branch.
    pub datacenter_tree: ObjectId,
}

/// Reads both `datacenter.yaml` of a snapshot; keys that a later version added are ignored.
///
/// - Errors: `Malformed` when a file is missing or has faults; the reason names the file, and all
///   its faults.
pub fn manifests(repo: &Repository, snapshot: &Snapshot) -> Result<Manifests, SnapshotError> {
    let (class_tree, datacenter_tree) = (snapshot.class_tree(repo)?, snapshot.datacenter_tree(repo)?);
    let class = read(repo, snapshot, CLASS, class_tree, ClassManifest::parse)?;
    Ok(Manifests { class, instance: instance_manifest(repo, snapshot)?, class_tree, datacenter_tree })
}

/// Reads the datacenter's own `datacenter.yaml` of a snapshot, as [`manifests`] does.
pub fn instance_manifest(repo: &Repository, snapshot: &Snapshot) -> Result<InstanceManifest, SnapshotError> {
    read(repo, snapshot, DATACENTER, snapshot.datacenter_tree(repo)?, InstanceManifest::parse)
}

fn read<T>(
    repo: &Repository,
    snapshot: &Snapshot,
    folder: &str,
    tree: ObjectId,
    parse: impl FnOnce(&str, Strictness) -> Result<T, Vec<Fault>>,
) -> Result<T, SnapshotError> {
    let commit = snapshot.commit;
    let unread = |cause| SnapshotError::Read { commit, cause };
    let malformed = |reason: String| SnapshotError::Malformed { commit, reason };
    let tree = repo.find_tree(tree.into()).map_err(unread)?;
    let entry = tree.get_name(FILE).ok_or_else(|| malformed(format!("it has no {folder}/{FILE}")))?;
    let blob = repo.find_blob(entry.id()).map_err(unread)?;
    parse(&String::from_utf8_lossy(blob.content()), Strictness::Lenient).map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
        malformed(format!("{folder}/{FILE}: {}", faults.join("; ")))
    })
}
