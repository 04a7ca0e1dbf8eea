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

/// Keeps the keys of the hosts that the served snapshot lists. Cancel: nothing is left behind.
pub(crate) async fn follow(mirror: Arc<Mirror>, keys: watch::Sender<Arc<Keyring>>) {
    let (mut served, inventories) = (mirror.subscribe(), Arc::new(Inventories::default()));
    loop {
        let newest = served.borrow_and_update().clone();
        if let Some(newest) = newest {
            let (pools, inventories) = (mirror.opened.clone(), inventories.clone());
            let read =
                blocking(move || -> anyhow::Result<_> { Ok(inventories.of(&*pools.lend()?, &newest.snapshot)?) });
            match read.await {
                Ok(inventory) => {
                    keys.send_if_modified(|keys| {
                        let mut changed = Keyring::clone(keys);
                        let is_new = changed.put(mirror.datacenter(), &inventory.hosts);
                        if is_new {
                            *keys = Arc::new(changed);
                        }
                        is_new
                    });
                }
                // The last ones count on until it is read.
                Err(error) => {
                    tracing::error!(error = chain(&*error), "the hosts of the inventory cannot be read");
                    mirror.opened.forget();
                    served.mark_changed();
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        if served.changed().await.is_err() {
            return;
        }
    }
}
