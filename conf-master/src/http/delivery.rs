//! Waiting until the hosts of the datacenters that a change touches run it.

use std::{collections::BTreeMap, time::Duration};

use git2::Repository;
use libconf::{
    name::{DatacenterName, HostName, RefName, Sequence},
    tier::{
        api::{HostReport, HostState},
        snapshot::Snapshot,
    },
};
use serde::Serialize;
use tracing::warn;

use super::{Server, datacenters::listed_hosts};
use crate::idempotency::LandedRef;

/// Who has a change, and who does not.
#[derive(Debug, Serialize)]
pub(super) struct Delivery {
    /// Everyone has it.
    complete: bool,
    /// Each datacenter that it touches.
    datacenters: Vec<DatacenterDelivery>,
    /// Why nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct DatacenterDelivery {
    datacenter: DatacenterName,
    /// How many hosts run it.
    delivered: usize,
    /// Hosts that run something older, as they last said.
    late: Vec<HostReport>,
    /// Hosts of the inventory that have said nothing.
    silent: Vec<HostName>,
}

impl Server {
    /// Waits until every host that is listed or has reported runs change `sequence`, at most so long; says who does not.
    pub(super) async fn deliver(&self, refs: &[LandedRef], sequence: Sequence, wait: Duration) -> Delivery {
        let touched = refs.iter().filter_map(|one| match &one.name {
            RefName::Snapshot(datacenter) => Some((datacenter.clone(), one.commit)),
            _ => None,
        });
        let touched: Vec<_> = touched.collect();
        let path = self.repo.clone();
        let listed = move || -> anyhow::Result<BTreeMap<DatacenterName, Vec<HostName>>> {
            let repo = Repository::open_bare(path)?;
            let listed = touched
                .into_iter()
                .map(|(datacenter, commit)| Ok((datacenter, listed_hosts(&repo, &Snapshot::read(&repo, commit)?)?)));
            listed.collect()
        };
        let listed = tokio::task::spawn_blocking(listed).await.map_err(anyhow::Error::from).flatten();
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                warn!(error = format!("{error:#}"), "cannot read which hosts a change concerns");
                let error = Some("conf-master cannot read which hosts it concerns; its log says why");
                return Delivery { complete: false, datacenters: Vec::new(), error };
            }
        };
        let mut changes = self.hosts.changes();
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let datacenters: Vec<_> = listed.iter().map(|(name, hosts)| self.state_of(name, hosts, sequence)).collect();
            let complete = datacenters.iter().all(|one| one.late.is_empty() && one.silent.is_empty());
            let changed = tokio::time::timeout_at(deadline, changes.changed());
            if complete || changed.await.is_err() {
                return Delivery { complete, datacenters, error: None };
            }
        }
    }

    fn state_of(&self, datacenter: &DatacenterName, listed: &[HostName], sequence: Sequence) -> DatacenterDelivery {
        let reports = self.hosts.of(datacenter);
        let silent = listed.iter().filter(|host| !reports.iter().any(|report| report.host == **host));
        let silent = silent.cloned().collect();
        let runs_it = |report: &HostReport| report.sequence >= sequence && report.state == HostState::Current;
        let (current, late): (Vec<_>, Vec<_>) = reports.into_iter().partition(runs_it);
        DatacenterDelivery { datacenter: datacenter.clone(), delivered: current.len(), late, silent }
    }
}
