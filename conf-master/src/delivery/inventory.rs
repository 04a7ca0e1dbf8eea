//! Which hosts a datacenter's inventory lists, and by which keys they are known.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use conf_core::{
    manifest::{self, InstanceManifest, Strictness},
    secret::HostKey,
    snapshot::Snapshot,
};
use git2::Repository;
use libconf::name::{DatacenterName, HostName, ObjectId};

/// A datacenter's hosts, as its newest snapshot lists them.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Every host that is listed, with its key where it has one.
    pub hosts: BTreeMap<HostName, Option<HostKey>>,
}

/// The inventories of all datacenters that were asked for, each read once for each tree that it is in.
#[derive(Debug, Default)]
pub struct Inventories(Mutex<BTreeMap<DatacenterName, (ObjectId, Arc<Inventory>)>>);

impl Inventories {
    /// The inventory in a snapshot. That it cannot be read is an error, never "no hosts".
    pub fn of(&self, repo: &Repository, snapshot: &Snapshot) -> anyhow::Result<Arc<Inventory>> {
        let tree = snapshot.datacenter_tree(repo)?;
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, inventory)) = known().get(&snapshot.datacenter)
            && *of == tree
        {
            return Ok(inventory.clone());
        }
        let inventory = Arc::new(read(repo, tree).with_context(|| snapshot.datacenter.to_string())?);
        known().insert(snapshot.datacenter.clone(), (tree, inventory.clone()));
        Ok(inventory)
    }
}

fn read(repo: &Repository, tree: ObjectId) -> anyhow::Result<Inventory> {
    let tree = repo.find_tree(tree.into())?;
    let entry = tree.get_name(manifest::FILE).context("a snapshot without a datacenter.yaml")?;
    let text = String::from_utf8_lossy(repo.find_blob(entry.id())?.content()).into_owned();
    let instance = InstanceManifest::parse(&text, Strictness::Lenient)
        .map_err(|faults| anyhow::anyhow!("the datacenter.yaml cannot be read: {faults:?}"))?;
    Ok(Inventory { hosts: instance.hosts.into_iter().map(|(name, host)| (name, host.key)).collect() })
}
