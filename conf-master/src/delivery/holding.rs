//! Which conf-slaves and hosts hold something that landed, by their reports.

use libconf::name::{DatacenterName, HostName, Sequence};
use serde::{Deserialize, Serialize};

use crate::delivery::hosts::Hosts;
use crate::delivery::hosts::shown::SlaveSeen;
use crate::inspect::Whereabouts;

/// The most hosts in an answer.
const MOST_HOSTS: usize = 10_000;

/// Where an object is, and who got it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WhereAnswer {
    /// In the central repository.
    #[serde(flatten)]
    pub(crate) found: Whereabouts,
    /// The conf-slaves that have reported: each has a clone of what landed.
    pub(crate) slaves: Vec<SlaveSeen>,
    /// The hosts that have a snapshot with it or after it, by their last reports.
    pub(crate) hosts: Vec<HoldingHost>,
    /// How many more hosts there are.
    pub(crate) more_hosts: usize,
}

/// A host that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HoldingHost {
    /// Its datacenter.
    pub(crate) datacenter: DatacenterName,
    /// The host.
    pub(crate) host: HostName,
    /// Its snapshot.
    pub(crate) sequence: Sequence,
    /// Its snapshot is one of those with it; otherwise it may keep an earlier one.
    pub(crate) now: bool,
}

impl WhereAnswer {
    /// Adds who got what was found.
    pub(crate) fn new(found: Whereabouts, reports: &Hosts) -> Self {
        let is_found = !found.refs.is_empty() || !found.datacenters.is_empty();
        let slaves = if is_found { reports.slaves() } else { Vec::new() };
        let mut hosts = Vec::new();
        for holding in &found.datacenters {
            let reached =
                reports.of(&holding.datacenter).into_iter().filter(|one| one.report.sequence >= holding.first);
            hosts.extend(reached.map(|one| HoldingHost {
                datacenter: holding.datacenter.clone(),
                host: one.report.host.clone(),
                sequence: one.report.sequence,
                now: one.report.sequence <= holding.last,
            }));
        }
        let more_hosts = hosts.len().saturating_sub(MOST_HOSTS);
        hosts.truncate(MOST_HOSTS);
        WhereAnswer { found, slaves, hosts, more_hosts }
    }
}
