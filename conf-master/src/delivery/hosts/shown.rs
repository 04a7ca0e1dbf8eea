//! Reports as people and programs see them.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use conf_core::{api::HostReport, snapshot::Snapshot};
use libconf::name::{DatacenterName, HostName, Sequence};
use serde::{Deserialize, Serialize};

use crate::delivery::hosts::report::{Proof, ReceivedReport};
use conf_core::snapshot::Inventory;

/// A report as it is shown: without the signature, with what it proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShownReport {
    /// The report.
    #[serde(flatten)]
    pub(crate) report: HostReport,
    /// Who vouches for it; absent when the report was not verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proof: Option<ShownProof>,
    /// Why it does not count, when it is not proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unproven: Option<String>,
    /// It names a snapshot that conf-master's history does not have at that change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) other_history: bool,
}

/// [`Proof`] in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ShownProof {
    /// Signed by the host.
    Signed,
    /// Taken on the conf-slave's word.
    Word,
    /// Not proven.
    None,
}

impl ShownReport {
    /// Prepares a report for people and programs.
    pub(crate) fn new(received: &ReceivedReport, proof: Option<Proof>) -> Self {
        let (proof, unproven) = match proof {
            None => (None, None),
            Some(Proof::Signed) => (Some(ShownProof::Signed), None),
            Some(Proof::Word) => (Some(ShownProof::Word), None),
            Some(Proof::None(why)) => (Some(ShownProof::None), Some(why.to_string())),
        };
        let report = HostReport { signature: None, ..received.report.clone() };
        ShownReport { report, proof, unproven, other_history: false }
    }
}

/// A page of hosts, in the order of their names.
#[derive(Clone, Debug)]
pub(crate) struct HostsPage {
    /// The most hosts on it, silent ones included.
    pub(crate) limit: usize,
    /// It begins after this name.
    pub(crate) after: Option<HostName>,
}

/// The answer of `GET /api/v1/datacenters/<id>/<version>/hosts`.
#[derive(Debug, Serialize)]
pub(crate) struct HostsAnswer {
    datacenter: DatacenterName,
    sequence: Sequence,
    hosts: Vec<HostLine>,
    /// Hosts of the inventory that have not reported since this conf-master started.
    silent: Vec<HostName>,
    /// The last name of this page, when there are more hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<HostName>,
}

#[derive(Debug, Serialize)]
struct HostLine {
    #[serde(flatten)]
    report: ShownReport,
    /// It runs another snapshot than the datacenter's newest.
    late: bool,
    /// The datacenter's inventory lists it.
    listed: bool,
    /// Later reports in its name that do not count, because their numbers are earlier: another
    /// agent reports under this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    passed_over: Option<u32>,
}

impl HostsAnswer {
    /// Compares reports, in the order of their hosts' names, with the newest snapshot and the
    /// inventory. Only the signatures of the page are verified.
    pub(crate) fn new(
        snapshot: &Snapshot,
        inventory: &Inventory,
        reports: &[Arc<ReceivedReport>],
        page: &HostsPage,
    ) -> Self {
        let line = |one: &Arc<ReceivedReport>| {
            let listed = inventory.hosts.get(&one.report.host);
            HostLine {
                late: one.report.commit != Some(snapshot.commit),
                listed: listed.is_some(),
                passed_over: one.passed_over(),
                report: ShownReport::new(one, Some(one.proof(listed.and_then(Option::as_ref)))),
            }
        };
        let names: BTreeSet<&HostName> =
            reports.iter().map(|one| &one.report.host).chain(inventory.hosts.keys()).collect();
        let first = page.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut names = names.range::<HostName, _>((first, Bound::Unbounded)).copied();
        let (mut hosts, mut silent, mut last) = (Vec::new(), Vec::new(), None);
        for name in names.by_ref().take(page.limit) {
            last = Some(name);
            match reports.binary_search_by(|one| one.report.host.cmp(name)) {
                Ok(place) => hosts.push(line(&reports[place])),
                Err(_) => silent.push(name.clone()),
            }
        }
        let next = names.next().and(last).cloned();
        HostsAnswer { datacenter: snapshot.datacenter.clone(), sequence: snapshot.sequence, hosts, silent, next }
    }
}

/// A conf-slave that has reported since this conf-master started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlaveSeen {
    /// Its datacenter.
    pub(crate) datacenter: DatacenterName,
    /// Where it reports from.
    pub(crate) address: String,
    /// The newest snapshot that it serves.
    pub(crate) sequence: Sequence,
}
