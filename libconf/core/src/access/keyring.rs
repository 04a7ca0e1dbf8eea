//! The keys by which hosts prove themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use libconf::name::{DatacenterName, HostName};

use crate::secret::HostKey;
use crate::snapshot::Inventory;

/// The inventories of the newest snapshots. Copies share them.
#[derive(Clone, Debug, Default)]
pub struct Keyring(BTreeMap<DatacenterName, Arc<Inventory>>);

impl Keyring {
    /// Takes the inventory of a datacenter in place of an older one. True when it says something
    /// else.
    pub fn put(&mut self, datacenter: &DatacenterName, inventory: Arc<Inventory>) -> bool {
        let before = self.0.insert(datacenter.clone(), inventory.clone());
        before.is_none_or(|before| !Arc::ptr_eq(&before, &inventory))
    }

    /// Forgets the datacenters that are not there any more. True when there were some.
    pub fn keep(&mut self, is_there: impl Fn(&DatacenterName) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|datacenter, _| is_there(datacenter));
        self.0.len() != before
    }

    /// The key of a host, if its inventory lists one that signs.
    pub(crate) fn of(&self, datacenter: &DatacenterName, host: &HostName) -> Option<&HostKey> {
        self.0.get(datacenter)?.hosts.get(host)?.as_ref().filter(|key| key.signs())
    }
}
