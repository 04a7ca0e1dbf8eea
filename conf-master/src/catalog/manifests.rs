//! Reads the two `datacenter.yaml` of a snapshot. They landed, so they are read leniently.

use anyhow::Context as _;
use conf_core::snapshot::Snapshot;
use conf_core::{
    manifest::{self, ClassManifest, InstanceManifest, Strictness},
    settings::Fault,
};
use git2::Repository;
use libconf::name::ObjectId;

/// Both `datacenter.yaml` of a snapshot, and the trees that hold them.
pub(crate) struct Manifests {
    /// The class's.
    pub(crate) class: ClassManifest,
    /// The datacenter's own.
    pub(crate) instance: InstanceManifest,
    /// The tree of the class.
    pub(crate) class_tree: ObjectId,
    /// The tree of the datacenter's branch.
    pub(crate) datacenter_tree: ObjectId,
}

/// Reads the `datacenter.yaml` of a snapshot's class and of its datacenter.
pub(crate) fn manifests(repo: &Repository, snapshot: &Snapshot) -> anyhow::Result<Manifests> {
    let (class_tree, datacenter_tree) = (snapshot.class_tree(repo)?, snapshot.datacenter_tree(repo)?);
    let class = read(repo, class_tree, ClassManifest::parse)?;
    Ok(Manifests { class, instance: instance_manifest(repo, snapshot)?, class_tree, datacenter_tree })
}

/// Reads a datacenter's own `datacenter.yaml` of a snapshot.
pub(crate) fn instance_manifest(repo: &Repository, snapshot: &Snapshot) -> anyhow::Result<InstanceManifest> {
    read(repo, snapshot.datacenter_tree(repo)?, InstanceManifest::parse)
}

fn read<T>(
    repo: &Repository,
    tree: ObjectId,
    parse: impl FnOnce(&str, Strictness) -> Result<T, Vec<Fault>>,
) -> anyhow::Result<T> {
    let tree = repo.find_tree(tree.into())?;
    let entry = tree.get_name(manifest::FILE).with_context(|| format!("a snapshot without {}", manifest::FILE))?;
    let blob = repo.find_blob(entry.id())?;
    parse(&String::from_utf8_lossy(blob.content()), Strictness::Lenient).map_err(|faults| {
        let reasons: Vec<String> = faults.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{} of a snapshot cannot be read: {}", manifest::FILE, reasons.join("; "))
    })
}
