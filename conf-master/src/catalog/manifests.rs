//! Reads the two `datacenter.yaml` of a snapshot. They landed, so they are read leniently.

use anyhow::Context as _;
use conf_core::manifest::{self, ClassManifest, Fault, InstanceManifest, Strictness};
use conf_core::snapshot::Snapshot;
use git2::Repository;
use libconf::name::ObjectId;

/// Reads the `datacenter.yaml` of a snapshot's class and of its datacenter.
pub(crate) fn of_snapshot(repo: &Repository, snapshot: &Snapshot) -> anyhow::Result<(ClassManifest, InstanceManifest)> {
    let class = ClassManifest::parse(&text(repo, snapshot.class_tree(repo)?)?, Strictness::Lenient);
    Ok((class.map_err(|faults| unreadable(&faults))?, instance(repo, snapshot.datacenter_tree(repo)?)?))
}

/// Reads a datacenter's own `datacenter.yaml` from the tree of its branch.
pub(crate) fn instance(repo: &Repository, datacenter_tree: ObjectId) -> anyhow::Result<InstanceManifest> {
    let instance = InstanceManifest::parse(&text(repo, datacenter_tree)?, Strictness::Lenient);
    instance.map_err(|faults| unreadable(&faults))
}

fn text(repo: &Repository, tree: ObjectId) -> anyhow::Result<String> {
    let tree = repo.find_tree(tree.into())?;
    let entry = tree.get_name(manifest::FILE).with_context(|| format!("a snapshot without {}", manifest::FILE))?;
    Ok(String::from_utf8_lossy(repo.find_blob(entry.id())?.content()).into_owned())
}

fn unreadable(faults: &[Fault]) -> anyhow::Error {
    let reasons: Vec<String> = faults.iter().map(ToString::to_string).collect();
    anyhow::anyhow!("{} of a snapshot cannot be read: {}", manifest::FILE, reasons.join("; "))
}
