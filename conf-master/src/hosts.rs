//! What hosts report through their conf-slaves: who runs what, who is late, who failed and why.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
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

/// The most hosts that are kept of one datacenter; what comes beyond is passed over.
const MOST_HOSTS: usize = 50_000;

/// The newest report of every host. Not durable: hosts report again every minute.
#[derive(Debug, Default)]
pub struct Hosts {
    reports: Mutex<BTreeMap<DatacenterName, BTreeMap<HostName, HostReport>>>,
    changed: watch::Sender<()>,
}

impl Hosts {
    /// Takes over a conf-slave's summary; an older report never replaces a newer one, whichever slave it came through.
    pub fn take(&self, datacenter: &DatacenterName, report: SlaveReport) {
        let mut all = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let hosts = all.entry(datacenter.clone()).or_default();
        for one in report.hosts.into_iter().filter(|one| one.datacenter == *datacenter) {
            let newer = hosts.get(&one.host).is_none_or(|known| known.received <= one.received);
            if newer && (hosts.len() < MOST_HOSTS || hosts.contains_key(&one.host)) {
                hosts.insert(one.host.clone(), one);
            }
        }
        drop(all);
        self.changed.send_replace(());
    }

    /// Hears of every summary that is taken over from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// All reports of a datacenter's hosts.
    pub fn of(&self, datacenter: &DatacenterName) -> Vec<HostReport> {
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
    /// Sets reports against the newest snapshot and the inventory.
    pub fn new(snapshot: &Snapshot, listed: &[HostName], reports: &[HostReport]) -> Self {
        let reported: BTreeSet<&HostName> = reports.iter().map(|report| &report.host).collect();
        let silent = listed.iter().filter(|host| !reported.contains(host)).cloned().collect();
        let line = |report: HostReport| HostLine {
            late: report.sequence < snapshot.sequence,
            listed: listed.contains(&report.host),
            report,
        };
        let hosts = reports.iter().cloned().map(line).collect();
        HostsAnswer { datacenter: snapshot.datacenter.clone(), sequence: snapshot.sequence, hosts, silent }
    }
}
