//! The hosts that a datacenter's inventory lists, with their keys.

use std::{collections::BTreeMap, sync::Arc};

use git2::Repository;
use libconf::name::{DatacenterName, ObjectId};
use parking_lot::Mutex;

use crate::{
    session::HostKeys,
    snapshot::{commit::Snapshot, error::SnapshotError, manifests::instance_manifest},
};

/// A datacenter's hosts, as its newest snapshot lists them.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Every listed host, with its key where it has one.
    pub hosts: Arc<HostKeys>,
}

/// The inventories that were asked for, each read once for each tree.
#[derive(Debug, Default)]
pub struct Inventories(Mutex<BTreeMap<DatacenterName, (ObjectId, Arc<Inventory>)>>);

impl Inventories {
    /// Returns the inventory in a snapshot. An inventory that cannot be read is an error, never "no
    /// hosts". Blocks.
    pub fn of(&self, repo: &Repository, snapshot: &Snapshot) -> Result<Arc<Inventory>, SnapshotError> {
        let tree = snapshot.datacenter_tree(repo)?;
        if let Some((of, inventory)) = self.0.lock().get(&snapshot.datacenter)
            && *of == tree
        {
            return Ok(inventory.clone());
        }
        let instance = instance_manifest(repo, snapshot)?;
        let hosts: HostKeys = instance.hosts.into_iter().map(|(name, host)| (name, host.key)).collect();
        let inventory = Arc::new(Inventory { hosts: Arc::new(hosts) });
        self.0.lock().insert(snapshot.datacenter.clone(), (tree, inventory.clone()));
        Ok(inventory)
    }
}
