//! The keys by which hosts prove themselves here.

use std::{sync::Arc, time::Duration};

use conf_core::{
    daemon::{blocking, chain},
    session::Keyring,
    snapshot::Inventories,
};
use tokio::sync::watch;

use crate::mirror::Mirror;

/// 1 s before an inventory that could not be read is read again.
const AGAIN: Duration = Duration::from_secs(1);

/// Takes the keys of the hosts that a snapshot lists.
pub(crate) struct KeyReader {
    mirror: Arc<Mirror>,
    keys: watch::Sender<Arc<Keyring>>,
    inventories: Arc<Inventories>,
}

impl KeyReader {
    /// Has read nothing yet.
    pub(crate) fn new(mirror: Arc<Mirror>, keys: watch::Sender<Arc<Keyring>>) -> Self {
        KeyReader { mirror, keys, inventories: Arc::default() }
    }

    /// Takes the keys of the snapshot that is served now, if there is one. The last ones count on
    /// where that cannot be read.
    pub(crate) async fn read(&self) -> anyhow::Result<()> {
        let Some(served) = self.mirror.served() else { return Ok(()) };
        let (pools, inventories) = (self.mirror.opened.clone(), self.inventories.clone());
        let read = blocking(move || -> anyhow::Result<_> { Ok(inventories.of(&*pools.lend()?, &served.snapshot)?) });
        let inventory = read.await?;
        self.keys.send_if_modified(|keys| {
            let mut changed = Keyring::clone(keys);
            let is_new = changed.put(self.mirror.datacenter(), &inventory.hosts);
            if is_new {
                *keys = Arc::new(changed);
            }
            is_new
        });
        Ok(())
    }

    /// Takes those of each snapshot. Cancel: nothing is left behind.
    pub(crate) async fn follow(self) {
        let mut served = self.mirror.subscribe();
        loop {
            served.mark_unchanged();
            if let Err(error) = self.read().await {
                tracing::error!(error = chain(&*error), "the hosts of the inventory cannot be read");
                self.mirror.opened.forget();
                served.mark_changed();
                tokio::time::sleep(AGAIN).await;
            }
            if served.changed().await.is_err() {
                return;
            }
        }
    }
}
