//! `GET /api/v1/delivery`, and waiting until enough hosts run a change.

use std::{sync::Arc, time::Duration};

use conf_core::daemon::chain;
use conf_core::http::{Response, Routes, Who, asker, error, json};
use conf_core::snapshot::Snapshot;
use git2::Repository;
use http::StatusCode;
use libconf::name::{DatacenterName, RefName, Sequence};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, warn};
use warp::Filter as _;

use crate::delivery::{Barrier, DatacenterDelivery, Delivery, DeliveryFacts, DeliveryTarget, Percent};
use crate::http::server::{Answered, Server, answer, unavailable};
use crate::inspect::{InspectError, deployments};
use crate::store::LandedRef;

/// Requests that wait at once, updates included, half of them of one peer; more get 503.
pub(crate) const WAITS_AT_ONCE: u64 = 256;
/// The longest that one request waits.
pub(crate) const MOST_WAIT: Duration = Duration::from_secs(300);
/// The length of each list in an answer, unless the request says.
const SHOWN: usize = 1000;
/// The pause after the first report: hosts report a change within milliseconds of each other.
const GATHER: Duration = Duration::from_millis(50);
/// The most datacenters of one request.
const MOST_DATACENTERS: usize = 1000;

const UNREADABLE: &str = "conf-master cannot read which hosts it concerns; its log says why";

/// The route.
pub(crate) fn routes(server: Server) -> Routes {
    warp::path!("api" / "v1" / "delivery")
        .and(warp::get())
        .and(warp::query::<Vec<(String, String)>>())
        .and(asker())
        .then(move |query: Vec<(String, String)>, who: Who| {
            let server = server.clone();
            answer(async move { server.delivery(&query, who).await })
        })
        .boxed()
}

/// The query of `GET /api/v1/delivery`.
struct Query {
    datacenters: Vec<DatacenterName>,
    sequence: Option<Sequence>,
    percent: Percent,
    proven: bool,
    wait: Wait,
}

/// How long to wait, and for what.
#[derive(Clone, Copy)]
struct Wait {
    timeout: Duration,
    /// The answer is sent as soon as the number of hosts that run it is another one than this.
    unless: Option<usize>,
    /// The length of each list in the answer.
    shown: usize,
}

fn read(query: &[(String, String)]) -> Result<Query, String> {
    let (mut datacenters, mut sequence, mut percent, mut proven) = (Vec::new(), None, Percent::ALL, false);
    let mut wait = Wait { timeout: Duration::ZERO, unless: None, shown: SHOWN };
    let number = |name: &str, text: &str| {
        text.parse::<u64>().map_err(|_| format!("{name}={text} is not a number; write a whole one, such as {name}=30"))
    };
    let entries = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    for (name, text) in query {
        match name.as_str() {
            "datacenter" => {
                let datacenter = text.parse().map_err(|bad| format!("{bad}"))?;
                if !datacenters.contains(&datacenter) {
                    datacenters.push(datacenter);
                }
            }
            "sequence" => sequence = Some(Sequence(number(name, text)?)),
            "proven" => {
                proven = text.parse().map_err(|_| format!("proven={text}: write proven=true or proven=false"))?;
            }
            "percent" => percent = text.parse()?,
            "timeout" => wait.timeout = Duration::from_secs(number(name, text)?).min(MOST_WAIT),
            "delivered" => wait.unless = Some(entries(number(name, text)?)),
            "limit" => wait.shown = entries(number(name, text)?),
            // A parameter of a later version.
            _ => {}
        }
    }
    if !(1..=MOST_DATACENTERS).contains(&datacenters.len()) {
        return Err(format!(
            "say which datacenters, 1 to {MOST_DATACENTERS}: datacenter=<id>/<version>, once for each"
        ));
    }
    Ok(Query { datacenters, sequence, percent, proven, wait })
}

impl Server {
    async fn delivery(&self, query: &[(String, String)], who: Who) -> Answered {
        let query = read(query).map_err(|words| error(StatusCode::BAD_REQUEST, words))?;
        let Some(_place) = self.waits.try_take(who, 1) else {
            return Err(unavailable("too many requests wait already; ask again in a moment"));
        };
        let published = self.lander.published.borrow().clone();
        let sequence = query.sequence.unwrap_or(published.sequence);
        let not_found = |words: String| error(StatusCode::NOT_FOUND, words);
        if sequence > published.sequence {
            return Err(not_found(format!("there is no change #{sequence}; the newest is #{}", published.sequence)));
        }
        let mut newest = Vec::new();
        for name in &query.datacenters {
            newest.push(self.snapshot(name)?);
        }
        let repo = self.repo.clone();
        let targets = move || -> Result<Vec<DeliveryTarget>, InspectError> {
            let repo = Repository::open_bare(repo)?;
            newest.into_iter().map(|newest| target(&repo, newest, sequence)).collect()
        };
        let targets = tokio::task::spawn_blocking(targets).await.map_err(InspectError::from).flatten();
        let targets = targets.map_err(|why| match why {
            InspectError::NotThere(words) => not_found(words),
            InspectError::Failed(cause) => failed(&cause),
        })?;
        let barrier = Barrier { sequence, percent: query.percent, proven: query.proven };
        let delivery = self.wait(barrier, targets, query.wait).await.map_err(|cause| failed(&cause))?;
        Ok(json(StatusCode::OK, &delivery))
    }

    /// Waits until every host of the datacenters that a change touches runs it, at most this long;
    /// lists the hosts that do not.
    pub(crate) async fn deliver(
        &self,
        refs: &[LandedRef],
        sequence: Sequence,
        timeout: Duration,
        who: Who,
    ) -> Delivery {
        let touched = refs.iter().filter_map(|one| match &one.name {
            RefName::Snapshot(datacenter) => {
                Some(DeliveryTarget { datacenter: datacenter.clone(), sequence, commit: one.commit })
            }
            _ => None,
        });
        let barrier = Barrier { sequence, percent: Percent::ALL, proven: false };
        let nobody_knows = |words: &str| {
            let (percent, error) = (barrier.percent, Some(words.to_owned()));
            Delivery { complete: false, sequence, percent, datacenters: Vec::new(), error }
        };
        let Some(_place) = self.waits.try_take(who, 1) else {
            return nobody_knows("too many wait already; ask with `conf-master wait`");
        };
        let wait = Wait { timeout: timeout.min(MOST_WAIT), unless: None, shown: SHOWN };
        self.wait(barrier, touched.collect(), wait).await.unwrap_or_else(|cause| {
            warn!(error = chain(&*cause), "cannot read which hosts a change concerns");
            nobody_knows(UNREADABLE)
        })
    }

    /// Finds out which hosts run a change now.
    fn look(
        &self,
        targets: &[DeliveryTarget],
        barrier: Barrier,
        shown: usize,
    ) -> anyhow::Result<Vec<DatacenterDelivery>> {
        let repo = Repository::open_bare(&self.repo)?;
        let one = |target: &DeliveryTarget| {
            // The reports are read first, so that none of them is newer than the newest known
            // snapshot.
            let reports = self.hosts.of(&target.datacenter);
            let published = self.lander.published.borrow().clone();
            let newest = match published.datacenters.get(&target.datacenter) {
                Some(newest) => newest,
                // The datacenter was removed since.
                None => &Snapshot::read(&repo, target.commit)?,
            };
            let inventory = self.inventories.of(&repo, newest)?;
            let chain = self.chains.of(&repo, newest, &target.asks(&reports))?;
            let settles_in = self.hosts.settles_in();
            let facts = DeliveryFacts { inventory: &inventory, chain: &chain, reports: &reports, settles_in };
            Ok(DatacenterDelivery::judge(target, barrier, facts, shown))
        };
        targets.iter().map(one).collect()
    }

    /// Waits until enough hosts run it, or time is up. Cancel: nothing is lost.
    async fn wait(&self, barrier: Barrier, targets: Vec<DeliveryTarget>, wait: Wait) -> anyhow::Result<Delivery> {
        let mut landed = self.lander.published.clone();
        let mut reported = self.hosts.changes();
        let deadline = Instant::now() + wait.timeout;
        let targets = Arc::new(targets);
        loop {
            landed.mark_unchanged();
            reported.mark_unchanged();
            let (server, targets) = (self.clone(), targets.clone());
            let look = move || server.look(&targets, barrier, wait.shown);
            let datacenters = tokio::task::spawn_blocking(look).await??;
            let complete = datacenters.iter().all(DatacenterDelivery::is_complete);
            let delivered: usize = datacenters.iter().map(|one| one.delivered).sum();
            let settles = datacenters.iter().any(|one| one.settles_in.is_some());
            let moved = wait.unless.is_some_and(|seen| seen != delivered);
            let changed = async {
                tokio::select! {
                    changed = reported.changed() => changed.is_ok(),
                    // Inventories may have changed.
                    changed = landed.changed() => changed.is_ok(),
                    () = sleep(self.hosts.settles_in()), if settles => true,
                }
            };
            if complete || moved || !timeout_at(deadline, changed).await.unwrap_or(false) {
                let (sequence, percent) = (barrier.sequence, barrier.percent);
                return Ok(Delivery { complete, sequence, percent, datacenters, error: None });
            }
            sleep(GATHER).await;
        }
    }
}

/// Finds the snapshot that a datacenter's hosts must run at a change.
fn target(repo: &Repository, newest: Snapshot, sequence: Sequence) -> Result<DeliveryTarget, InspectError> {
    let datacenter = newest.datacenter.clone();
    let Some(snapshot) = deployments::newest_at(repo, newest, sequence)? else {
        return Err(InspectError::NotThere(format!("{datacenter} had no configuration yet at change #{sequence}")));
    };
    Ok(DeliveryTarget { datacenter, sequence: snapshot.sequence, commit: snapshot.commit })
}

fn failed(cause: &anyhow::Error) -> Response {
    error!(error = chain(&**cause), "cannot read which hosts a change concerns");
    error(StatusCode::INTERNAL_SERVER_ERROR, UNREADABLE)
}
