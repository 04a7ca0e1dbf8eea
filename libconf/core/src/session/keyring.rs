//! The keys by which hosts prove themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use libconf::name::{DatacenterName, HostName};

use crate::secret::HostKey;

/// The hosts of an inventory, each with its key where it has one.
pub type HostKeys = BTreeMap<HostName, Option<HostKey>>;

/// The hosts of each datacenter's newest inventory. Copies share them.
#[derive(Clone, Debug, Default)]
pub struct Keyring(BTreeMap<DatacenterName, Arc<HostKeys>>);

impl Keyring {
    /// Takes the hosts of a datacenter in place of older ones. True when it says something
    /// else.
    pub fn put(&mut self, datacenter: &DatacenterName, hosts: &Arc<HostKeys>) -> bool {
        let before = self.0.insert(datacenter.clone(), Arc::clone(hosts));
        before.is_none_or(|before| !Arc::ptr_eq(&before, hosts))
    }

    /// Forgets the datacenters that are not there any more. True when there were some.
    pub fn keep(&mut self, is_there: impl Fn(&DatacenterName) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|datacenter, _| is_there(datacenter));
        self.0.len() != before
    }

    /// Tells whether a host may prove itself by a key with which it joined: where the inventory
    /// lists it with no key that signs, or lists no host at all.
    pub fn leaves_open(&self, datacenter: &DatacenterName, host: &HostName) -> bool {
        let signs = |key: &Option<HostKey>| key.as_ref().is_some_and(HostKey::signs);
        let in_inventory = |hosts: &Arc<HostKeys>| hosts.is_empty() || hosts.get(host).is_some_and(|key| !signs(key));
        self.0.get(datacenter).is_some_and(in_inventory)
    }

    /// The key of a host, if its inventory lists one that signs.
    pub(crate) fn of(&self, datacenter: &DatacenterName, host: &HostName) -> Option<&HostKey> {
        self.0.get(datacenter)?.get(host)?.as_ref().filter(|key| key.signs())
    }
}
