//! `/api/v1`: datacenters, their hosts and deployments, and the stream of events.

use async_stream::stream;
use git2::Repository;
use http::StatusCode;
use libconf::{
    name::{DatacenterName, HostName, Sequence},
    tier::{
        api::{DatacenterStatus, SlaveReport, SnapshotEvent, WatermarkEvent},
        http::{Event, Request, Response, Routes, error, events, json, request},
        manifest::{self, InstanceManifest, Strictness},
        snapshot::Snapshot,
    },
};
use serde::Deserialize;
use warp::Filter as _;

use super::Server;
use crate::{deployments, hosts::HostsAnswer};

/// The most bytes of one report: 50,000 hosts of 300 bytes, and some.
const REPORT_BYTES: usize = 32 << 20;
/// The most deployments in one answer.
const MOST_DEPLOYMENTS: usize = 1000;

#[derive(Deserialize)]
struct EventsQuery {
    datacenter: DatacenterName,
}

#[derive(Deserialize)]
struct LogQuery {
    #[serde(default = "default_limit")]
    limit: usize,
}

fn default_limit() -> usize {
    50
}

/// The routes of the API.
pub(super) fn routes(server: Server) -> Routes {
    let with = warp::any().map(move || server.clone());
    let datacenter = || warp::path!("api" / "v1" / "datacenters" / String / String / ..);
    let end = warp::path::end;
    let follow = warp::path!("api" / "v1" / "events")
        .and(warp::get())
        .and(warp::query::<EventsQuery>())
        .and(request())
        .and(with.clone())
        .map(|query: EventsQuery, request: Request, server: Server| server.follow(query.datacenter, &request));
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
    let datacenters = show.boxed().or(log.boxed()).unify().or(hosts.boxed()).unify().or(report.boxed()).unify();
    follow.boxed().or(list.boxed()).unify().or(datacenters.boxed()).unify().boxed()
}

async fn named<F: Future<Output = Response>>(
    id: &str,
    version: &str,
    answer: impl FnOnce(DatacenterName) -> F,
) -> Response {
    match format!("{id}/{version}").parse() {
        Ok(name) => answer(name).await,
        Err(bad) => error(StatusCode::BAD_REQUEST, bad),
    }
}

impl Server {
    /// A datacenter's newest snapshot now and each time it changes, and watermarks. A reader too slow for every snapshot
    /// gets the newest: each is whole.
    fn follow(&self, datacenter: DatacenterName, request: &Request) -> Response {
        let last: Option<Sequence> = request.header("last-event-id").and_then(|id| id.parse().ok());
        let mut published = self.lander.published();
        published.mark_changed();
        events(stream! {
            let mut sent = last;
            while published.changed().await.is_ok() {
                let now = published.borrow_and_update().clone();
                let Some(snapshot) = now.datacenters.get(&datacenter) else {
                    continue;
                };
                // Unequal, not greater: a reader that is ahead must learn of it too.
                if sent != Some(snapshot.sequence) {
                    sent = Some(snapshot.sequence);
                    let event = SnapshotEvent {
                        central: now.central,
                        datacenter: datacenter.clone(),
                        sequence: snapshot.sequence,
                        commit: snapshot.commit,
                        previous: snapshot.parent,
                    };
                    yield Event::json("snapshot", Some(snapshot.sequence.to_string()), &event);
                }
                let watermark = WatermarkEvent {
                    central: now.central,
                    datacenter: datacenter.clone(),
                    snapshot: snapshot.sequence,
                };
                yield Event::json("watermark", None, &watermark);
            }
        })
    }

    fn list(&self) -> Response {
        let published = self.lander.published();
        let now = published.borrow().clone();
        let list: Vec<DatacenterStatus> = now.datacenters.values().map(status).collect();
        json(StatusCode::OK, &list)
    }

    fn snapshot(&self, name: &DatacenterName) -> Result<Snapshot, Response> {
        let published = self.lander.published();
        let snapshot = published.borrow().datacenters.get(name).cloned();
        let known = || published.borrow().datacenters.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        snapshot.ok_or_else(|| {
            error(StatusCode::NOT_FOUND, format!("there is no datacenter {name}; there are: {}", known()))
        })
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
        let snapshot = match self.snapshot(&name) {
            Ok(snapshot) => snapshot,
            Err(answer) => return answer,
        };
        let reports = self.hosts.of(&name);
        self.read(move |repo| {
            let tree = repo.find_tree(snapshot.datacenter_tree(repo)?.into())?;
            let file = tree.get_name(manifest::FILE).map(|entry| repo.find_blob(entry.id())).transpose()?;
            let text = file.map(|blob| String::from_utf8_lossy(blob.content()).into_owned()).unwrap_or_default();
            let instance = InstanceManifest::parse(&text, Strictness::Lenient).ok();
            let listed: Vec<HostName> = instance.into_iter().flat_map(|instance| instance.hosts.into_keys()).collect();
            Ok(json(StatusCode::OK, &HostsAnswer::new(&snapshot, &listed, &reports)))
        })
        .await
    }

    async fn report(&self, name: DatacenterName, request: Request) -> Response {
        if let Err(answer) = self.snapshot(&name) {
            return answer;
        }
        match request.body.json::<SlaveReport>(REPORT_BYTES).await {
            Ok(report) => {
                self.hosts.take(&name, report);
                json(StatusCode::OK, &serde_json::json!({}))
            }
            Err(answer) => answer,
        }
    }

    /// Reads the repository off the runtime's threads.
    async fn read(&self, work: impl FnOnce(&Repository) -> anyhow::Result<Response> + Send + 'static) -> Response {
        let path = self.repo.clone();
        let read = move || Repository::open_bare(path).map_err(Into::into).and_then(|repo| work(&repo));
        let answer = tokio::task::spawn_blocking(read).await.map_err(anyhow::Error::from);
        answer.and_then(|answer| answer).unwrap_or_else(|cause| {
            tracing::error!(error = format!("{cause:#}"), "cannot read the repository");
            error(StatusCode::INTERNAL_SERVER_ERROR, "conf-master cannot read its repository; its log says why")
        })
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
