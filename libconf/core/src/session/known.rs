//! The keys by which hosts are known now: those of the inventories, and those with which hosts
//! joined.

use std::sync::Arc;

use libconf::name::{DatacenterName, HostName};
use tokio::sync::watch;

use crate::access::AccessTable;
use crate::secret::HostKey;
use crate::session::keyring::Keyring;
use crate::session::sessions::SessionHost;

/// The newest keys of hosts. Where an inventory has a key for a host, that one counts alone.
#[derive(Clone, Debug)]
pub(crate) struct KnownKeys {
    listed: watch::Receiver<Arc<Keyring>>,
    joined: watch::Receiver<Arc<AccessTable>>,
}

impl KnownKeys {
    pub(crate) fn new(listed: watch::Receiver<Arc<Keyring>>, joined: watch::Receiver<Arc<AccessTable>>) -> Self {
        KnownKeys { listed, joined }
    }

    /// The key of a host. One with which it joined is found by that key, which the host `shows`.
    pub(crate) fn of(&self, datacenter: &DatacenterName, host: &HostName, shows: Option<&HostKey>) -> Option<HostKey> {
        let listed = self.listed.borrow();
        if let Some(key) = listed.of(datacenter, host) {
            return Some(key.clone());
        }
        let key = shows.filter(|_| listed.leaves_open(datacenter, host))?;
        self.joined.borrow().bound(datacenter, host, key, jiff::Timestamp::now().as_second()).map(|_| key.clone())
    }

    /// Tells whether a host that shows this key may join by it.
    pub(crate) fn may_join(&self, datacenter: &DatacenterName, host: &HostName, key: &HostKey) -> bool {
        key.signs() && self.listed.borrow().leaves_open(datacenter, host)
    }

    /// Tells whether a host is still known by the key by which it proved itself.
    pub(crate) fn knows(&self, host: &SessionHost) -> bool {
        self.of(&host.datacenter, &host.host, Some(&host.key)).as_ref() == Some(&host.key)
    }

    /// Waits until a host is not known by its key any more.
    pub(crate) async fn forgotten(mut self, host: SessionHost) {
        loop {
            self.listed.mark_unchanged();
            self.joined.mark_unchanged();
            if !self.knows(&host) {
                return;
            }
            let changed = tokio::select! {
                changed = self.listed.changed() => changed,
                changed = self.joined.changed() => changed,
            };
            if changed.is_err() {
                // The server stops: its streams end with it.
                std::future::pending::<()>().await;
            }
        }
    }
}
