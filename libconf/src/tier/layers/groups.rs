//! Hosts that share all their layers over a component: what is checked once for all of them.

use std::collections::BTreeMap;

use super::overlays;
use crate::{
    name::{ComponentVersion, HostName},
    tier::{manifest::InstanceManifest, settings},
};

/// Hosts whose settings of a component are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Those that the inventory lists, in order of name; any one stands for all. Empty when it lists none that runs the
    /// component: then the hosts that it does not list are meant.
    pub hosts: Vec<HostName>,
}

impl Group {
    /// The host that stands for all; none for a host that the inventory does not list.
    pub fn host(&self) -> Option<&HostName> {
        self.hosts.first()
    }
}

/// Groups the listed hosts that run `component` by the layers that roles and hosts put over it; never empty. Those with
/// no such layer come first.
pub fn groups(instance: &InstanceManifest, component: &ComponentVersion) -> Vec<Group> {
    let mut groups: BTreeMap<Vec<Vec<u8>>, Vec<HostName>> = BTreeMap::new();
    for host in instance.hosts.keys().filter(|host| instance.runs(host, component)) {
        let layers = overlays(instance, &component.component, Some(host))
            .map(|(_, overlay)| settings::to_canonical(&overlay.values.clone().into()));
        groups.entry(layers.collect()).or_default().push(host.clone());
    }
    if groups.is_empty() {
        groups.insert(Vec::new(), Vec::new());
    }
    groups.into_values().map(|hosts| Group { hosts }).collect()
}
