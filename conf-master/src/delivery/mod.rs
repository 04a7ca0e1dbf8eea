//! Which hosts run a change, and whether they are enough for a barrier: a wait until enough hosts
//! run a change. Decides by plain values, and asks nobody.

mod access;
pub(crate) mod chains;
mod freshness;
mod heard;
pub(crate) mod holding;
pub(crate) mod hosts;
#[cfg(test)]
mod tests;
mod watermarks;

pub(crate) use crate::delivery::access::{AccessFeed, AccessStatements};
pub(crate) use crate::delivery::chains::Chains;
pub(crate) use crate::delivery::freshness::{FreshnessFeed, FreshnessStatements};
pub(crate) use crate::delivery::heard::Heard;
pub(crate) use crate::delivery::holding::WhereAnswer;
pub(crate) use crate::delivery::hosts::Hosts;
pub(crate) use crate::delivery::hosts::shown::{HostsAnswer, HostsPage};
pub(crate) use crate::delivery::watermarks::Watermarks;

use std::{collections::BTreeSet, fmt, num::NonZeroU8, str::FromStr, sync::Arc, time::Duration};

use conf_core::api::{HostReport, HostState};
use conf_core::snapshot::Inventory;
use libconf::name::{CommitId, DatacenterName, HostName, Sequence};
use serde::{Deserialize, Serialize};

use crate::delivery::chains::Chain;
use crate::delivery::hosts::report::GONE;
use crate::delivery::hosts::report::{Proof, ReceivedReport};
use crate::delivery::hosts::shown::ShownReport;
use crate::text::count;

/// The share of a datacenter's hosts that is enough, 1 to 100 percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Percent(NonZeroU8);

impl Percent {
    /// Every host.
    pub(crate) const ALL: Percent = Percent(NonZeroU8::new(100).expect("100 is not 0"));

    /// Returns this share of `hosts`, rounded up.
    fn of(self, hosts: usize) -> usize {
        (hosts * usize::from(self.0.get())).div_ceil(100)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number: &NonZeroU8| number.get() <= 100);
        number.map(Percent).ok_or_else(|| format!("{text} is not a percentage; write a whole number from 1 to 100"))
    }
}

/// The condition of a wait: a change, on a share of the hosts of each datacenter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Barrier {
    /// The change.
    pub(crate) sequence: Sequence,
    /// The share that is enough, in each datacenter.
    pub(crate) percent: Percent,
    /// Only reports that a host has signed count.
    pub(crate) proven: bool,
}

/// The snapshot that a datacenter's hosts must run at least: its newest one that is not above the
/// change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeliveryTarget {
    /// The datacenter.
    pub(crate) datacenter: DatacenterName,
    /// The change that made the snapshot.
    pub(crate) sequence: Sequence,
    /// The snapshot.
    pub(crate) commit: CommitId,
}

/// The hosts that run a change, and those that do not: the answer of `GET /api/v1/delivery`, and
/// `delivery` in the answer to an update that waited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delivery {
    /// Enough hosts of every datacenter run it.
    pub(crate) complete: bool,
    /// The change.
    pub(crate) sequence: Sequence,
    /// The share that is enough, in each datacenter.
    pub(crate) percent: Percent,
    /// Each datacenter that was asked for.
    pub(crate) datacenters: Vec<DatacenterDelivery>,
    /// Why the state is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Writes a line for each datacenter, and below it the hosts that do not run the change.
impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            writeln!(f, "{error}")?;
        }
        for one in &self.datacenters {
            let (run, of) = (if one.delivered == 1 { "runs" } else { "run" }, count(one.hosts, "host"));
            write!(f, "{}: {} of {of} {run} #{}", one.datacenter, one.delivered, one.sequence)?;
            if one.sequence < self.sequence {
                write!(f, ", its newest at #{}", self.sequence)?;
            }
            if one.needed > 1 && one.needed != one.hosts {
                write!(f, "; {} are enough", one.needed)?;
            }
            if one.on_word > 0 {
                write!(f, "; {} on the word of their conf-slave alone", one.on_word)?;
            }
            if one.counted == Counted::Reports {
                write!(f, "; its inventory lists none, so these are the hosts that report")?;
            }
            if let Some(seconds) = one.settles_in {
                write!(f, ", and more hosts may report for {seconds} s, because conf-master has just started")?;
            }
            writeln!(f)?;
            for ShownReport { report: late, other_history, .. } in &one.late {
                let about = late.failures.iter().find(|failure| failure.is_about(one.sequence));
                let error = about.map(|failure| &failure.error).or(late.error.as_ref());
                let state = match (late.state, error) {
                    // A host's own words stay on its line.
                    (_, Some(error)) => format!(": {}", error.lines().collect::<Vec<_>>().join(" ")),
                    _ if *other_history => " of another history: conf-master knows no such snapshot".to_owned(),
                    (HostState::Updating, None) => " and works on a newer one".to_owned(),
                    _ => String::new(),
                };
                writeln!(f, "  {} is at #{}{state}", late.host, late.sequence)?;
            }
            for ShownReport { report, unproven, .. } in &one.unproven {
                let why =
                    unproven.as_deref().unwrap_or("its report is not signed: the inventory lists no key that signs");
                writeln!(f, "  {} is reported at #{}, which is not proven: {why}", report.host, report.sequence)?;
            }
            for silent in &one.silent {
                writeln!(f, "  {silent} has not reported")?;
            }
            for ShownReport { report: apart, .. } in &one.apart {
                let why = match one.counted {
                    Counted::Inventory => "it is not in the inventory",
                    Counted::Reports => "it has not reported for ten minutes",
                };
                writeln!(f, "  {} is at #{} and does not count: {why}", apart.host, apart.sequence)?;
            }
            if one.more > 0 {
                writeln!(f, "  and {} more; `GET /api/v1/datacenters/{}/hosts` has all", one.more, one.datacenter)?;
            }
        }
        Ok(())
    }
}

/// The hosts of one datacenter that run a change, and those that do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatacenterDelivery {
    /// The datacenter.
    pub(crate) datacenter: DatacenterName,
    /// The change of the snapshot that its hosts must run at least.
    pub(crate) sequence: Sequence,
    /// That snapshot.
    pub(crate) commit: CommitId,
    /// Which hosts are counted.
    pub(crate) counted: Counted,
    /// The number of hosts that are counted.
    pub(crate) hosts: usize,
    /// How many of them are enough.
    pub(crate) needed: usize,
    /// How many of them run it.
    pub(crate) delivered: usize,
    /// How many of these are reported by the word of a conf-slave alone.
    pub(crate) on_word: usize,
    /// The inventory lists no host, and conf-master has started so recently that more hosts may
    /// report within this many seconds: until then the delivery is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settles_in: Option<u64>,
    /// Hosts whose last report names an older snapshot or another history, or says that they could
    /// not take the snapshot whole, or that a watcher or probe failed or a watcher is not told yet.
    pub(crate) late: Vec<ShownReport>,
    /// Hosts that are reported to run it without a valid signature, so that they do not count.
    pub(crate) unproven: Vec<ShownReport>,
    /// Hosts that have not reported since conf-master started.
    pub(crate) silent: Vec<HostName>,
    /// Hosts that do not count: they are not listed where others are, or, where none is listed,
    /// have not reported for ten minutes.
    pub(crate) apart: Vec<ShownReport>,
    /// How many more entries the lists above have than are shown.
    pub(crate) more: usize,
}

/// The hosts that "all hosts" means for a datacenter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Counted {
    /// The hosts of its inventory.
    Inventory,
    /// The hosts that report, because the inventory lists none.
    Reports,
}

/// The state of a datacenter now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeliveryFacts<'k> {
    /// Its inventory.
    pub(crate) inventory: &'k Inventory,
    /// The snapshots that it has made; those of [`DeliveryTarget::asks`] are enough.
    pub(crate) chain: &'k Chain,
    /// The last reports of hosts, sorted by the hosts' names.
    pub(crate) reports: &'k [Arc<ReceivedReport>],
    /// How long existing hosts may still report for the first time.
    pub(crate) settles_in: Duration,
}

impl DatacenterDelivery {
    /// Compares the reports with the snapshot that the hosts must run. Lists are cut to `shown`
    /// entries.
    pub(crate) fn judge(target: &DeliveryTarget, barrier: Barrier, facts: DeliveryFacts<'_>, shown: usize) -> Self {
        let DeliveryFacts { inventory, chain, reports, settles_in } = facts;
        let counted = if inventory.hosts.is_empty() { Counted::Reports } else { Counted::Inventory };
        let counts = |one: &&Arc<ReceivedReport>| match counted {
            Counted::Inventory => inventory.hosts.contains_key(&one.report.host),
            Counted::Reports => one.changed.elapsed() < GONE,
        };
        let (own, apart): (Vec<_>, Vec<_>) = reports.iter().partition(counts);
        let is_silent = |host: &&HostName| own.binary_search_by(|one| one.report.host.cmp(host)).is_err();
        let silent: Vec<&HostName> = inventory.hosts.keys().filter(is_silent).collect();
        let hosts = own.len() + silent.len();
        let mut delivery = DatacenterDelivery {
            datacenter: target.datacenter.clone(),
            sequence: target.sequence,
            commit: target.commit,
            counted,
            hosts,
            // Without any known host, at least one must report that it runs the change.
            needed: barrier.percent.of(hosts).max(1),
            delivered: 0,
            on_word: 0,
            settles_in: None,
            late: Vec::new(),
            unproven: Vec::new(),
            silent: Vec::new(),
            apart: Vec::new(),
            more: 0,
        };
        if counted == Counted::Reports && !settles_in.is_zero() {
            delivery.settles_in = Some(settles_in.as_secs() + 1);
        }
        let (run_it, late): (Vec<_>, Vec<_>) = own.into_iter().partition(|one| target.is_run_by(&one.report, chain));
        let mut unproven = Vec::new();
        for one in run_it {
            let listed = inventory.hosts.get(&one.report.host).and_then(Option::as_ref);
            match one.proof(listed) {
                Proof::Signed => delivery.delivered += 1,
                Proof::Word if !barrier.proven => {
                    delivery.delivered += 1;
                    delivery.on_word += 1;
                }
                proof => unproven.push((one, proof)),
            }
        }
        let report = |one: &&Arc<ReceivedReport>| ShownReport::new(one, None);
        delivery.late = cut(&late, shown, &mut delivery.more, |one| ShownReport {
            other_history: target.is_of_other_history(&one.report, chain),
            ..report(one)
        });
        delivery.unproven =
            cut(&unproven, shown, &mut delivery.more, |(one, proof)| ShownReport::new(one, Some(*proof)));
        delivery.silent = cut(&silent, shown, &mut delivery.more, |host| (*host).clone());
        delivery.apart = cut(&apart, shown, &mut delivery.more, report);
        delivery
    }

    /// Tells whether enough hosts run it, and whether the number of hosts is settled.
    pub(crate) fn is_complete(&self) -> bool {
        self.delivered >= self.needed && self.settles_in.is_none()
    }
}

fn cut<T, U>(list: &[T], shown: usize, more: &mut usize, show: impl Fn(&T) -> U) -> Vec<U> {
    *more += list.len().saturating_sub(shown);
    list.iter().take(shown).map(show).collect()
}

/// How many changes below the one asked for a host may be to be told from one of another history.
/// Their snapshots are read once, 10 µs each.
const LOOKED_BACK: u64 = 10_000;

impl DeliveryTarget {
    /// Lists the changes whose snapshots decide which hosts run it, and which are of another
    /// history.
    pub(crate) fn asks(&self, reports: &[Arc<ReceivedReport>]) -> BTreeSet<Sequence> {
        reports.iter().map(|one| one.report.sequence).filter(|sequence| self.is_near(*sequence)).collect()
    }

    fn is_near(&self, sequence: Sequence) -> bool {
        sequence >= self.sequence || self.sequence.0 - sequence.0 <= LOOKED_BACK
    }

    /// Tells whether a host exports a snapshot that this history does not have, as after a backup
    /// was put in the place of a server.
    fn is_of_other_history(&self, report: &HostReport, chain: &Chain) -> bool {
        let ours = chain.get(&report.sequence);
        self.is_near(report.sequence) && report.commit.is_some_and(|commit| ours != Some(&commit))
    }

    /// Tells whether a host runs the snapshot: it exports this one or a later one of the same
    /// history. The number alone proves nothing, because a restored backup counts on from the time
    /// of the backup.
    ///
    /// A failure counts against the snapshots that it is about: a component that is held back
    /// against all from where it is, a probe or a watcher that failed, or that is not told yet,
    /// against those that brought the change. A host that failed and does not say about what, as
    /// earlier versions and hosts that are shut out do not, runs none.
    fn is_run_by(&self, report: &HostReport, chain: &Chain) -> bool {
        let is_ours = report.commit.is_some_and(|commit| chain.get(&report.sequence) == Some(&commit));
        let is_well = match report.state {
            HostState::Current => true,
            HostState::Failed => !report.failures.is_empty(),
            HostState::Updating => false,
        };
        let failed = report.failures.iter().any(|failure| failure.is_about(self.sequence));
        is_ours && report.sequence >= self.sequence && is_well && !failed
    }
}
