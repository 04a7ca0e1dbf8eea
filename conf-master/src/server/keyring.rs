//! The keys by which hosts prove themselves here, as the newest snapshots list them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conf_core::daemon::{blocking, chain};
use conf_core::session::{HostKeys, Keyring};
use conf_core::snapshot::{Inventories, Snapshot};
use git2::Repository;
use libconf::name::{CommitId, DatacenterName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::landing::Published;

/// 1 s before what could not be read is read again: a key that was taken out counts until then.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps them until `stop`. An inventory that cannot be read leaves the last one.
pub(crate) async fn follow(
    path: PathBuf,
    mut published: watch::Receiver<Arc<Published>>,
    keys: watch::Sender<Arc<Keyring>>,
    stop: CancellationToken,
) {
    let (inventories, mut seen) = (Arc::new(Inventories::default()), BTreeMap::new());
    loop {
        let newest = published.borrow_and_update().clone();
        let moved = moved(&newest, &mut seen);
        let (path, inventories) = (path.clone(), inventories.clone());
        let read = (!moved.is_empty()).then(|| blocking(move || read(&path, &inventories, moved)));
        let (read, failed) = match read {
            Some(read) => read.await,
            None => (Vec::new(), Vec::new()),
        };
        for datacenter in &failed {
            seen.remove(datacenter);
        }
        keys.send_if_modified(|keys| {
            let mut changed = Keyring::clone(keys);
            let is_shorter = changed.keep(|one| newest.datacenters.contains_key(one));
            let is_new = read
                .into_iter()
                .fold(is_shorter, |is_new, (datacenter, inventory)| changed.put(&datacenter, &inventory) || is_new);
            if is_new {
                *keys = Arc::new(changed);
            }
            is_new
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN), if !failed.is_empty() => {}
            changed = published.changed() => if changed.is_err() { return },
        }
    }
}

/// The snapshots that are not those that were seen.
fn moved(newest: &Published, seen: &mut BTreeMap<DatacenterName, CommitId>) -> Vec<Snapshot> {
    seen.retain(|datacenter, _| newest.datacenters.contains_key(datacenter));
    let is_new = |one: &&Snapshot| seen.insert(one.datacenter.clone(), one.commit) != Some(one.commit);
    newest.datacenters.values().filter(is_new).cloned().collect()
}

/// The inventories, and the datacenters whose inventory could not be read.
type Read = (Vec<(DatacenterName, Arc<HostKeys>)>, Vec<DatacenterName>);

fn read(path: &Path, inventories: &Inventories, snapshots: Vec<Snapshot>) -> Read {
    let repo = match Repository::open_bare(path) {
        Ok(repo) => repo,
        Err(error) => {
            error!(%error, "the hosts of the inventories cannot be read");
            return (Vec::new(), snapshots.into_iter().map(|one| one.datacenter).collect());
        }
    };
    let (mut read, mut failed) = (Vec::new(), Vec::new());
    for snapshot in snapshots {
        match inventories.of(&repo, &snapshot) {
            Ok(inventory) => read.push((snapshot.datacenter, inventory.hosts.clone())),
            Err(error) => {
                error!(error = chain(&error), datacenter = %snapshot.datacenter, "its hosts cannot be read");
                failed.push(snapshot.datacenter);
            }
        }
    }
    (read, failed)
}
