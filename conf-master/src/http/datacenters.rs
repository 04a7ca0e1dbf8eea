//! `/api/v1/datacenters`: the components, hosts and deployments of each.

use conf_core::access::Scope;
use conf_core::api::{DatacenterStatus, JoinRequest, SecretText, SlaveReport};
use conf_core::http::{Joining, Request, Response, Routes, Who, asker, error, json, request};
use conf_core::snapshot::Snapshot;
use http::StatusCode;
use libconf::name::{DatacenterName, HostName};
use serde::Deserialize;
use warp::Filter as _;

use crate::delivery::{HostsAnswer, HostsPage};
use crate::http::server::{Answered, NamedDatacenter, Server, answer, datacenter};
use crate::inspect::deployments;
use crate::text::when;

/// The most bytes of one summary. A conf-slave sends parts of 4 MiB; earlier versions send all
/// hosts at once.
const REPORT_BYTES: usize = 32 << 20;
/// The most bytes of a request to join, which has a few hundred.
const JOIN_BYTES: usize = 4 << 10;
/// The most hosts in one answer, and how many there are unless the request says.
const MOST_HOSTS: u64 = 10_000;
const SHOWN_HOSTS: u64 = 1000;
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

/// The page of `GET …/hosts`.
#[derive(Deserialize)]
struct HostsQuery {
    limit: Option<String>,
    after: Option<HostName>,
}

impl HostsQuery {
    fn page(self) -> Result<HostsPage, Response> {
        let limit = self.limit.map_or(Ok(SHOWN_HOSTS), |text| text.parse::<u64>().map_err(|_| text));
        let limit =
            limit.and_then(|limit| if (1..=MOST_HOSTS).contains(&limit) { Ok(limit) } else { Err(limit.to_string()) });
        let bad = |text: String| {
            let text: String = text.chars().take(100).collect();
            error(StatusCode::BAD_REQUEST, format!("limit={text}: write a whole number from 1 to {MOST_HOSTS}"))
        };
        let limit = limit.map_err(bad)?;
        Ok(HostsPage { limit: usize::try_from(limit).unwrap_or(usize::MAX), after: self.after })
    }
}

/// All routes that begin with `/api/v1/datacenters` and have no file of their own.
pub(crate) fn routes(server: Server) -> Routes {
    let for_keys = server.clone();
    let with = warp::any().map(move || server.clone());
    let list = warp::path!("api" / "v1" / "datacenters")
        .and(warp::get())
        .and(with.clone())
        .map(|server: Server| server.list());
    let show =
        datacenter().and(warp::path::end()).and(warp::get()).and(asker()).and(with.clone()).then(
            |name: NamedDatacenter, who: Who, server: Server| answer(async move { server.show(&name?, who).await }),
        );
    let log =
        datacenter().and(warp::path!("log")).and(warp::get()).and(warp::query()).and(asker()).and(with.clone()).then(
            |name: NamedDatacenter, query: LogQuery, who: Who, server: Server| {
                answer(async move { server.log(&name?, query.limit, who).await })
            },
        );
    let hosts = datacenter()
        .and(warp::path!("hosts"))
        .and(warp::get())
        .and(warp::query::<HostsQuery>())
        .and(asker())
        .and(with.clone())
        .then(|name: NamedDatacenter, query: HostsQuery, who: Who, server: Server| {
            answer(async move { server.hosts(&name?, query.page()?, who).await })
        });
    let report = datacenter().and(warp::path!("hosts")).and(warp::post()).and(request()).and(with).then(
        |name: NamedDatacenter, request: Request, server: Server| {
            answer(async move { server.report(name?, request).await })
        },
    );
    let with = warp::any().map(move || for_keys.clone());
    let key = datacenter().and(warp::path!("hosts" / String / "key")).and(warp::post()).and(request()).and(with).then(
        |name: NamedDatacenter, host: String, request: Request, server: Server| {
            answer(async move { server.join(name?, &host, request).await })
        },
    );
    let report = report.boxed().or(key.boxed()).unify();
    let one = show.boxed().or(log.boxed()).unify().or(hosts.boxed()).unify().or(report.boxed()).unify();
    list.boxed().or(one.boxed()).unify().boxed()
}

impl Server {
    fn list(&self) -> Response {
        let now = self.lander.published.borrow().clone();
        let list: Vec<DatacenterStatus> = now.datacenters.values().map(status).collect();
        json(StatusCode::OK, &list)
    }

    async fn show(&self, name: &DatacenterName, who: Who) -> Answered {
        let snapshot = self.snapshot(name)?;
        self.read(who, move |repo| {
            let components = snapshot.components(repo)?;
            let pins = components.into_values().map(|component| component.pin).collect();
            Ok(json(StatusCode::OK, &DatacenterStatus { pins, ..status(&snapshot) }))
        })
        .await
    }

    async fn log(&self, name: &DatacenterName, limit: usize, who: Who) -> Answered {
        let (snapshot, limit) = (self.snapshot(name)?, limit.min(MOST_DEPLOYMENTS));
        let ledger = self.lander.durable().ledger;
        self.read(who, move |repo| {
            let mut found = deployments::newest(repo, snapshot, limit)?;
            deployments::prove(repo, ledger, &mut found)?;
            Ok(json(StatusCode::OK, &found))
        })
        .await
    }

    async fn hosts(&self, name: &DatacenterName, page: HostsPage, who: Who) -> Answered {
        // The reports are read first, so that none of them is newer than the newest known snapshot.
        let (reports, inventories) = (self.hosts.of(name), self.inventories.clone());
        let snapshot = self.snapshot(name)?;
        self.read(who, move |repo| {
            let inventory = inventories.of(repo, &snapshot)?;
            Ok(json(StatusCode::OK, &HostsAnswer::new(&snapshot, &inventory, &reports, &page)))
        })
        .await
    }

    /// Has a host known by its key, which it has proven to the conf-slave that asks.
    async fn join(&self, datacenter: DatacenterName, host: &str, request: Request) -> Answered {
        request.check_query(&[])?;
        let host: HostName = host.parse().map_err(|bad| error(StatusCode::BAD_REQUEST, bad))?;
        self.snapshot(&datacenter)?;
        if own_host(&request).is_some_and(|own| own != host) {
            return Err(error(StatusCode::FORBIDDEN, "a host joins as itself alone"));
        }
        let JoinRequest { key, join: SecretText(token) } = request.body.json(JOIN_BYTES).await?;
        let token = token.parse().map_err(|bad| error(StatusCode::CONFLICT, bad))?;
        let joined = self.joiner.join(Joining { datacenter, host, key, token }).await;
        joined.map(|()| json(StatusCode::OK, &serde_json::json!({}))).map_err(|why| why.answer(StatusCode::CONFLICT))
    }

    async fn report(&self, name: DatacenterName, request: Request) -> Answered {
        let snapshot = self.snapshot(&name)?;
        let who = request.who();
        let own = own_host(&request);
        let report: SlaveReport = request.body.json(REPORT_BYTES).await?;
        if own.is_some_and(|own| report.hosts.iter().any(|one| one.host != own)) {
            return Err(error(StatusCode::FORBIDDEN, "a host reports as itself alone"));
        }
        let (hosts, inventories) = (self.hosts.clone(), self.inventories.clone());
        self.read(who, move |repo| {
            hosts.take(&name, &*inventories.of(repo, &snapshot)?, report, &who.to_string());
            Ok(json(StatusCode::OK, &serde_json::json!({})))
        })
        .await
    }
}

/// The host that asks, if it is one.
fn own_host(request: &Request) -> Option<HostName> {
    request.principal.named().and_then(|named| match &named.scope {
        Scope::Host { host, .. } => Some(host.clone()),
        Scope::Policy | Scope::Slave(_) | Scope::Join(_) => None,
    })
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
