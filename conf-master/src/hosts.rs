//! What hosts report through their conf-slaves: who runs what, who is late, who failed and why.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use libconf::{
    name::{DatacenterName, HostName, Sequence},
    tier::{
        api::{HostReport, SlaveReport},
        snapshot::Snapshot,
    },
};
use serde::Serialize;
use tokio::sync::watch;

use crate::inventory::Inventory;

/// The most hosts that are kept of one datacenter; what comes beyond is passed over.
const MOST_HOSTS: usize = 50_000;

/// A host that was not heard of for so long is gone, where no inventory says that it should be there. Hosts report each
/// minute.
pub const GONE: Duration = Duration::from_secs(600);

/// What a host said last.
#[derive(Debug)]
pub struct Heard {
    /// Its words.
    pub report: HostReport,
    /// When it said something else, or said it again, for the first time here.
    pub changed: Instant,
}

impl Heard {
    /// Heard just now.
    pub fn new(report: HostReport) -> Self {
        Heard { report, changed: Instant::now() }
    }
}

type Datacenter = BTreeMap<HostName, Arc<Heard>>;

/// The newest report of every host. Not durable: hosts report again every minute.
#[derive(Debug, Default)]
pub struct Hosts {
    reports: Mutex<BTreeMap<DatacenterName, Datacenter>>,
    changed: watch::Sender<()>,
}

impl Hosts {
    /// Takes over a conf-slave's summary; an older report never replaces a newer one, whichever slave it came through.
    pub fn take(&self, datacenter: &DatacenterName, report: SlaveReport) {
        let mut all = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let hosts = all.entry(datacenter.clone()).or_default();
        for one in report.hosts.into_iter().filter(|one| one.datacenter == *datacenter) {
            let newer = hosts.get(&one.host).is_none_or(|known| known.report.received < one.received);
            if newer && (hosts.len() < MOST_HOSTS || hosts.contains_key(&one.host)) {
                hosts.insert(one.host.clone(), Arc::new(Heard::new(one)));
            }
        }
        drop(all);
        self.changed.send_replace(());
    }

    /// Hears of every summary that is taken over from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The newest report of each of a datacenter's hosts, in the order of their names.
    pub fn of(&self, datacenter: &DatacenterName) -> Vec<Arc<Heard>> {
        let all = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(datacenter).map(|hosts| hosts.values().cloned().collect()).unwrap_or_default()
    }
}

/// `GET /api/v1/datacenters/<id>/<version>/hosts`
#[derive(Debug, Serialize)]
pub struct HostsAnswer {
    datacenter: DatacenterName,
    sequence: Sequence,
    hosts: Vec<HostLine>,
    /// Hosts of the inventory that have not reported since this conf-master started.
    silent: Vec<HostName>,
}

#[derive(Debug, Serialize)]
struct HostLine {
    #[serde(flatten)]
    report: HostReport,
    /// It runs an older snapshot than the datacenter's newest.
    late: bool,
    /// The datacenter's inventory names it.
    listed: bool,
}

impl HostsAnswer {
    /// Sets reports, in the order of their hosts' names, against the newest snapshot and the inventory.
    pub fn new(snapshot: &Snapshot, inventory: &Inventory, reports: &[Arc<Heard>]) -> Self {
        let is_silent = |host: &&HostName| reports.binary_search_by(|one| one.report.host.cmp(host)).is_err();
        let line = |one: &Arc<Heard>| HostLine {
            late: one.report.sequence < snapshot.sequence,
            listed: inventory.hosts.contains_key(&one.report.host),
            report: one.report.clone(),
        };
        HostsAnswer {
            datacenter: snapshot.datacenter.clone(),
            sequence: snapshot.sequence,
            hosts: reports.iter().map(line).collect(),
            silent: inventory.hosts.keys().filter(is_silent).cloned().collect(),
        }
    }
}
