//! `/api/v1/datacenters`: the components, hosts and deployments of each.

use conf_core::api::{DatacenterStatus, SlaveReport};
use conf_core::http::{Request, Response, Routes, json, request};
use conf_core::snapshot::Snapshot;
use http::StatusCode;
use libconf::name::DatacenterName;
use serde::Deserialize;
use warp::Filter as _;

use crate::delivery::HostsAnswer;
use crate::http::server::{Answered, NamedDatacenter, Server, answer, datacenter};
use crate::inspect::deployments;
use crate::text::when;

/// The most bytes of one summary. A conf-slave sends parts of 4 MiB; earlier versions send all
/// hosts at once.
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

/// All routes that begin with `/api/v1/datacenters` and have no file of their own.
pub(crate) fn routes(server: Server) -> Routes {
    let with = warp::any().map(move || server.clone());
    let list = warp::path!("api" / "v1" / "datacenters")
        .and(warp::get())
        .and(with.clone())
        .map(|server: Server| server.list());
    let show = datacenter()
        .and(warp::path::end())
        .and(warp::get())
        .and(with.clone())
        .then(|name: NamedDatacenter, server: Server| answer(async move { server.show(&name?).await }));
    let log = datacenter().and(warp::path!("log")).and(warp::get()).and(warp::query()).and(with.clone()).then(
        |name: NamedDatacenter, query: LogQuery, server: Server| {
            answer(async move { server.log(&name?, query.limit).await })
        },
    );
    let hosts = datacenter()
        .and(warp::path!("hosts"))
        .and(warp::get())
        .and(with.clone())
        .then(|name: NamedDatacenter, server: Server| answer(async move { server.hosts(&name?).await }));
    let report = datacenter().and(warp::path!("hosts")).and(warp::post()).and(request()).and(with).then(
        |name: NamedDatacenter, request: Request, server: Server| {
            answer(async move { server.report(name?, request).await })
        },
    );
    let one = show.boxed().or(log.boxed()).unify().or(hosts.boxed()).unify().or(report.boxed()).unify();
    list.boxed().or(one.boxed()).unify().boxed()
}

impl Server {
    fn list(&self) -> Response {
        let now = self.lander.published.borrow().clone();
        let list: Vec<DatacenterStatus> = now.datacenters.values().map(status).collect();
        json(StatusCode::OK, &list)
    }

    async fn show(&self, name: &DatacenterName) -> Answered {
        let snapshot = self.snapshot(name)?;
        self.read(move |repo| {
            let components = snapshot.components(repo)?;
            let pins = components.into_values().map(|component| component.pin).collect();
            Ok(json(StatusCode::OK, &DatacenterStatus { pins, ..status(&snapshot) }))
        })
        .await
    }

    async fn log(&self, name: &DatacenterName, limit: usize) -> Answered {
        let (snapshot, limit) = (self.snapshot(name)?, limit.min(MOST_DEPLOYMENTS));
        self.read(move |repo| Ok(json(StatusCode::OK, &deployments::newest(repo, snapshot, limit)?))).await
    }

    async fn hosts(&self, name: &DatacenterName) -> Answered {
        // The reports are read first, so that none of them is newer than the newest known snapshot.
        let (reports, inventories) = (self.hosts.of(name), self.inventories.clone());
        let snapshot = self.snapshot(name)?;
        self.read(move |repo| {
            let inventory = inventories.of(repo, &snapshot)?;
            Ok(json(StatusCode::OK, &HostsAnswer::new(&snapshot, &inventory, &reports)))
        })
        .await
    }

    async fn report(&self, name: DatacenterName, request: Request) -> Answered {
        let snapshot = self.snapshot(&name)?;
        let report: SlaveReport = request.body.json(REPORT_BYTES).await?;
        let (hosts, inventories) = (self.hosts.clone(), self.inventories.clone());
        self.read(move |repo| {
            hosts.take(&name, &*inventories.of(repo, &snapshot)?, report);
            Ok(json(StatusCode::OK, &serde_json::json!({})))
        })
        .await
    }
}

fn status(snapshot: &Snapshot) -> DatacenterStatus {
    DatacenterStatus {
        datacenter: snapshot.datacenter.clone(),
        sequence: snapshot.sequence,
        commit: snapshot.commit,
        when: when(snapshot.time),
        by: snapshot.by.clone(),
        pins: Vec::new(),
    }
}
