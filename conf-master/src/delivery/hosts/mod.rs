//! What hosts report through their conf-slaves: their snapshot, whether they are late, whether and
//! why they failed.

pub(crate) mod report;
pub(crate) mod shown;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conf_core::api::SlaveReport;
use libconf::name::{DatacenterName, HostName};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tracing::warn;

use crate::delivery::hosts::report::{GONE, ReceivedReport};
use crate::delivery::inventory::Inventory;

/// The most hosts that are kept of one datacenter. Hosts that the inventory does not list are
/// dropped first, and of these the ones that were silent longest.
const MOST_HOSTS: usize = 50_000;

/// The hosts of one datacenter.
#[derive(Debug, Default)]
struct DatacenterHosts {
    reports: BTreeMap<HostName, Arc<ReceivedReport>>,
    /// The log has a line about too many hosts.
    is_full: bool,
}

impl DatacenterHosts {
    /// Drops the hosts beyond the bound.
    fn bound(&mut self, name: &DatacenterName, inventory: &Inventory) {
        let Some(last) = self.reports.len().checked_sub(MOST_HOSTS + 1) else { return };
        let rank = |(host, report): (&HostName, &Arc<ReceivedReport>)| {
            (inventory.hosts.contains_key(host), report.changed, host.clone())
        };
        let mut ranked: Vec<_> = self.reports.iter().map(rank).collect();
        ranked.select_nth_unstable(last);
        for (_, _, host) in &ranked[..=last] {
            self.reports.remove(host);
        }
        if !std::mem::replace(&mut self.is_full, true) {
            warn!(datacenter = %name, kept = MOST_HOSTS, "more hosts report than are kept; those of the inventory go last");
        }
    }
}

/// The newest report of every host. Not durable: hosts report again every minute.
#[derive(Debug)]
pub(crate) struct Hosts {
    reports: Mutex<BTreeMap<DatacenterName, DatacenterHosts>>,
    changed: watch::Sender<()>,
    /// After this moment a host that has not reported does not exist.
    settled: Instant,
}

impl Hosts {
    /// Knows no host yet. Existing hosts report `within` this time.
    pub(crate) fn new(within: Duration) -> Self {
        Hosts { reports: Mutex::default(), changed: watch::Sender::default(), settled: Instant::now() + within }
    }

    /// Returns how long existing hosts may still report for the first time.
    pub(crate) fn settles_in(&self) -> Duration {
        self.settled.saturating_duration_since(Instant::now())
    }

    /// Takes the reports of a conf-slave; an older report never replaces a newer one, whichever
    /// slave sent it.
    pub(crate) fn take(&self, datacenter: &DatacenterName, inventory: &Inventory, report: SlaveReport) {
        for mut one in report.hosts.into_iter().filter(|one| one.datacenter == *datacenter) {
            one.cut();
            let listed = inventory.hosts.get(&one.host).and_then(Option::as_ref);
            let host = one.host.clone();
            let next = ReceivedReport::new(one);
            // The lock is not held here, because a signature may be verified. Of two reports that
            // arrive at once either may win; the next minute's report settles it.
            let known = self.of_host(datacenter, &host);
            let said_again = known.as_ref().is_some_and(|known| known.report == next.report);
            if said_again {
                continue;
            }
            if let Some(known) = &known {
                if !known.yields_to(&next, listed) {
                    if known.pass_over(&next) {
                        warn!(%datacenter, %host, "two agents report under this name; only the one with higher numbers counts");
                    }
                    continue;
                }
                next.replace(known);
            }
            self.lock().entry(datacenter.clone()).or_default().reports.insert(host, Arc::new(next));
        }
        // The bound is applied once for all reports; the reports of one summary are never too many.
        if let Some(hosts) = self.lock().get_mut(datacenter) {
            hosts.bound(datacenter, inventory);
        }
        self.changed.send_replace(());
    }

    /// Subscribes to every summary from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns the newest report of each of a datacenter's hosts, in the order of their names.
    pub(crate) fn of(&self, datacenter: &DatacenterName) -> Vec<Arc<ReceivedReport>> {
        self.lock().get(datacenter).map(|hosts| hosts.reports.values().cloned().collect()).unwrap_or_default()
    }

    /// Lists a datacenter's hosts that have reported within [`GONE`].
    pub(crate) fn reporting(&self, datacenter: &DatacenterName) -> Vec<HostName> {
        let reports = self.of(datacenter).into_iter().filter(|one| one.changed.elapsed() < GONE);
        reports.map(|one| one.report.host.clone()).collect()
    }

    fn of_host(&self, datacenter: &DatacenterName, host: &HostName) -> Option<Arc<ReceivedReport>> {
        self.lock().get(datacenter)?.reports.get(host).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DatacenterName, DatacenterHosts>> {
        self.reports.lock()
    }
}
