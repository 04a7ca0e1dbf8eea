//! `/api/v1/datacenters`: what each runs, its hosts, its deployments.

use conf_core::{
    api::{DatacenterStatus, SlaveReport},
    http::{Request, Response, Routes, error, json, request},
    snapshot::Snapshot,
};
use http::StatusCode;
use libconf::name::DatacenterName;
use serde::Deserialize;
use warp::Filter as _;

use crate::http::{Server, named};
use crate::{delivery::hosts::HostsAnswer, inspect::deployments, landing::Published};

/// The most bytes of one summary; conf-slaves send pieces of 4 MiB, those of earlier versions all of their hosts at once.
const REPORT_BYTES: usize = 32 << 20;
/// The most deployments in one answer.
const MOST_DEPLOYMENTS: usize = 1000;

#[derive(Deserialize)]
struct LogQuery {
    #[serde(default = "default_limit")]
    limit: usize,
}

fn default_limit() -> usize {
    50
}

/// All that begins with `/api/v1/datacenters`.
pub(crate) fn routes(server: Server) -> Routes {
    let with = warp::any().map(move || server.clone());
    let datacenter = || warp::path!("api" / "v1" / "datacenters" / String / String / ..);
    let end = warp::path::end;
    let list = warp::path!("api" / "v1" / "datacenters")
        .and(warp::get())
        .and(with.clone())
        .map(|server: Server| server.list());
    let show =
        datacenter().and(end()).and(warp::get()).and(with.clone()).then(
            |id: String, version: String, server: Server| async move {
                named(&id, &version, |name| server.show(name)).await
            },
        );
    let log =
        datacenter().and(warp::path!("log")).and(warp::get()).and(warp::query::<LogQuery>()).and(with.clone()).then(
            |id: String, version: String, query: LogQuery, server: Server| async move {
                named(&id, &version, |name| server.log(name, query.limit)).await
            },
        );
    let hosts =
        datacenter().and(warp::path!("hosts")).and(warp::get()).and(with.clone()).then(
            |id: String, version: String, server: Server| async move {
                named(&id, &version, |name| server.hosts(name)).await
            },
        );
    let report = datacenter().and(warp::path!("hosts")).and(warp::post()).and(request()).and(with).then(
        |id: String, version: String, request: Request, server: Server| async move {
            named(&id, &version, |name| server.report(name, request)).await
        },
    );
    let one = show.boxed().or(log.boxed()).unify().or(hosts.boxed()).unify().or(report.boxed()).unify();
    list.boxed().or(one.boxed()).unify().boxed()
}

/// A datacenter's newest snapshot in what has landed; 404 for one that is not there.
pub(crate) fn newest<'p>(published: &'p Published, name: &DatacenterName) -> Result<&'p Snapshot, Response> {
    published.datacenters.get(name).ok_or_else(|| {
        let known = published.datacenters.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        error(StatusCode::NOT_FOUND, format!("there is no datacenter {name}; there are: {known}"))
    })
}

impl Server {
    fn list(&self) -> Response {
        let published = self.lander.published();
        let now = published.borrow().clone();
        let list: Vec<DatacenterStatus> = now.datacenters.values().map(status).collect();
        json(StatusCode::OK, &list)
    }

    /// A datacenter's newest snapshot, or the answer that there is no such datacenter.
    pub(crate) fn snapshot(&self, name: &DatacenterName) -> Result<Snapshot, Response> {
        newest(&self.lander.published().borrow(), name).cloned()
    }

    async fn show(&self, name: DatacenterName) -> Response {
        let snapshot = match self.snapshot(&name) {
            Ok(snapshot) => snapshot,
            Err(answer) => return answer,
        };
        self.read(move |repo| {
            let components = snapshot.components(repo)?;
            let pins = components.into_values().map(|component| component.pin).collect();
            Ok(json(StatusCode::OK, &DatacenterStatus { pins, ..status(&snapshot) }))
        })
        .await
    }

    async fn log(&self, name: DatacenterName, limit: usize) -> Response {
        match self.snapshot(&name) {
            Ok(snapshot) => {
                let limit = limit.min(MOST_DEPLOYMENTS);
                self.read(move |repo| Ok(json(StatusCode::OK, &deployments::newest(repo, snapshot, limit)?))).await
            }
            Err(answer) => answer,
        }
    }

    async fn hosts(&self, name: DatacenterName) -> Response {
        // First, so that what hosts have said is not newer than the newest that is known.
        let (reports, inventories) = (self.hosts.of(&name), self.inventories.clone());
        let snapshot = match self.snapshot(&name) {
            Ok(snapshot) => snapshot,
            Err(answer) => return answer,
        };
        self.read(move |repo| {
            let inventory = inventories.of(repo, &snapshot)?;
            Ok(json(StatusCode::OK, &HostsAnswer::new(&snapshot, &inventory, &reports)))
        })
        .await
    }

    async fn report(&self, name: DatacenterName, request: Request) -> Response {
        let snapshot = match self.snapshot(&name) {
            Ok(snapshot) => snapshot,
            Err(answer) => return answer,
        };
        match request.body.json::<SlaveReport>(REPORT_BYTES).await {
            Ok(report) => {
                let (hosts, inventories) = (self.hosts.clone(), self.inventories.clone());
                self.read(move |repo| {
                    hosts.take(&name, &*inventories.of(repo, &snapshot)?, report);
                    Ok(json(StatusCode::OK, &serde_json::json!({})))
                })
                .await
            }
            Err(answer) => answer,
        }
    }
}

fn status(snapshot: &Snapshot) -> DatacenterStatus {
    DatacenterStatus {
        datacenter: snapshot.datacenter.clone(),
        sequence: snapshot.sequence,
        commit: snapshot.commit,
        when: deployments::when(snapshot.time),
        by: snapshot.by.clone(),
        pins: Vec::new(),
    }
}
