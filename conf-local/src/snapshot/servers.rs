//! The servers that snapshots are fetched from.

use std::sync::Arc;

use conf_core::upstream::{Upstream, Upstreams};

/// The conf-slaves of this datacenter, and conf-masters, which are asked after them.
#[derive(Debug)]
pub struct SnapshotServers {
    pub(crate) surrogates: Upstreams,
    pub(crate) masters: Upstreams,
}

impl SnapshotServers {
    /// Pairs the two.
    pub fn new(surrogates: Upstreams, masters: Upstreams) -> Self {
        SnapshotServers { surrogates, masters }
    }

    /// Lists all servers in the order in which to ask them.
    pub(crate) fn in_order(&self) -> Vec<Arc<Upstream>> {
        self.surrogates.in_order().into_iter().chain(self.masters.in_order()).collect()
    }
}
