//! What hosts report through their conf-slaves: their snapshot, whether they are late, whether and
//! why they failed.

pub(crate) mod report;
pub(crate) mod shown;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conf_core::{api::SlaveReport, http::crowded_out};
use libconf::name::{DatacenterName, HostName, Sequence, SourceName};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tracing::warn;

use crate::delivery::hosts::report::{GONE, ReceivedReport};
use crate::delivery::hosts::shown::SlaveSeen;
use conf_core::snapshot::Inventory;

/// The most hosts that are kept of one datacenter besides those that the inventory lists.
const MOST_UNLISTED: usize = 50_000;
/// The most of these that one peer brings; a conf-slave keeps 20,000 hosts.
const MOST_OF_PEER: usize = 25_000;

/// The most conf-slaves that are remembered.
const MOST_SLAVES: usize = 10_000;

/// The hosts of one datacenter.
#[derive(Debug, Default)]
struct DatacenterHosts {
    reports: BTreeMap<HostName, Arc<ReceivedReport>>,
    /// The log has a line about too many hosts.
    is_full: bool,
}

impl DatacenterHosts {
    /// Drops hosts beyond the bounds. Those of the inventory stay. Of the others, the peer loses
    /// one that brings the most: whoever invents hosts crowds out no host of another peer.
    fn bound(&mut self, name: &DatacenterName, inventory: &Inventory, from: &str) {
        let unlisted = || self.reports.iter().filter(|(host, _)| !inventory.hosts.contains_key(host));
        let of_peer = unlisted().filter(|(_, one)| &*one.from == from).count();
        let too_many = unlisted().count().saturating_sub(MOST_UNLISTED);
        let mut gone = BTreeSet::new();
        if let more @ 1.. = of_peer.saturating_sub(MOST_OF_PEER) {
            let own = unlisted().filter(|(_, one)| &*one.from == from);
            gone.extend(crowded_out(own.map(|(host, one)| (from.to_owned(), one.changed, host.clone())), more));
        }
        if let more @ 1.. = too_many.saturating_sub(gone.len()) {
            let rest = unlisted().filter(|(host, _)| !gone.contains(*host));
            let rest = rest.map(|(host, one)| (one.from.to_string(), one.changed, host.clone()));
            let others = crowded_out(rest, more);
            gone.extend(others);
        }
        if gone.is_empty() {
            return;
        }
        for host in &gone {
            self.reports.remove(host);
        }
        if !std::mem::replace(&mut self.is_full, true) {
            warn!(datacenter = %name, from, "more hosts report than are kept; those of the inventory stay");
        }
    }
}

/// The newest report of every host. Not durable: hosts report again every minute.
#[derive(Debug)]
pub(crate) struct Hosts {
    reports: Mutex<BTreeMap<DatacenterName, DatacenterHosts>>,
    /// The newest snapshot that each conf-slave serves, by datacenter and peer.
    slaves: Mutex<BTreeMap<(DatacenterName, Arc<str>), Sequence>>,
    changed: watch::Sender<()>,
    within: Duration,
    /// After this moment a host that has not reported does not exist.
    settled: Mutex<Instant>,
}

impl Hosts {
    /// Knows no host yet. Existing hosts report `within` this time.
    pub(crate) fn new(within: Duration) -> Self {
        Hosts {
            reports: Mutex::default(),
            slaves: Mutex::default(),
            changed: watch::Sender::default(),
            within,
            settled: Mutex::new(Instant::now() + within),
        }
    }

    /// Lets existing hosts report anew, since this server leads from now on: they reported to the
    /// one before it.
    pub(crate) fn settle_anew(&self) {
        *self.settled.lock() = Instant::now() + self.within;
    }

    /// Returns how long existing hosts may still report for the first time.
    pub(crate) fn settles_in(&self) -> Duration {
        self.settled.lock().saturating_duration_since(Instant::now())
    }

    /// Takes the reports that a peer sent, which is a conf-slave or says so; an older report never
    /// replaces a newer one, whichever slave sent it, and what a host has not signed never replaces
    /// what it has.
    pub(crate) fn take(&self, datacenter: &DatacenterName, inventory: &Inventory, report: SlaveReport, from: &str) {
        let from: Arc<str> = from.into();
        self.see_slave(datacenter, &from, report.sequence);
        for mut one in report.hosts.into_iter().filter(|one| one.datacenter == *datacenter) {
            one.cut();
            let listed = inventory.hosts.get(&one.host).and_then(Option::as_ref);
            let host = one.host.clone();
            let next = ReceivedReport::new(one, from.clone());
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
        // Once for all reports: those of one summary are never too many.
        if let Some(hosts) = self.lock().get_mut(datacenter) {
            hosts.bound(datacenter, inventory, &from);
        }
        self.changed.send_replace(());
    }

    /// Notes a conf-slave. One that is not known is not, once there are too many: any address can
    /// claim to be one.
    fn see_slave(&self, datacenter: &DatacenterName, from: &Arc<str>, sequence: Sequence) {
        let (mut slaves, slave) = (self.slaves.lock(), (datacenter.clone(), from.clone()));
        if slaves.len() < MOST_SLAVES || slaves.contains_key(&slave) {
            slaves.insert(slave, sequence);
        }
    }

    /// Lists the conf-slaves that have reported.
    pub(crate) fn slaves(&self) -> Vec<SlaveSeen> {
        let slaves = self.slaves.lock();
        let seen = slaves.iter().map(|((datacenter, address), sequence)| SlaveSeen {
            datacenter: datacenter.clone(),
            address: address.to_string(),
            sequence: *sequence,
        });
        seen.collect()
    }

    /// Subscribes to every summary from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns the newest report of each of a datacenter's hosts, in the order of their names.
    pub(crate) fn of(&self, datacenter: &DatacenterName) -> Vec<Arc<ReceivedReport>> {
        self.lock().get(datacenter).map(|hosts| hosts.reports.values().cloned().collect()).unwrap_or_default()
    }

    /// Lists a datacenter's hosts that have reported within [`GONE`], with the secret sources that
    /// they offer.
    pub(crate) fn reporting(&self, datacenter: &DatacenterName) -> Vec<(HostName, Vec<SourceName>)> {
        let reports = self.of(datacenter).into_iter().filter(|one| one.changed.elapsed() < GONE);
        reports.map(|one| (one.report.host.clone(), one.report.sources.clone())).collect()
    }

    fn of_host(&self, datacenter: &DatacenterName, host: &HostName) -> Option<Arc<ReceivedReport>> {
        self.lock().get(datacenter)?.reports.get(host).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DatacenterName, DatacenterHosts>> {
        self.reports.lock()
    }
}
