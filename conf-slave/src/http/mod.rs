//! What this slave answers its hosts.

pub mod at;
pub mod embedded;

use std::sync::Arc;

use conf_core::{
    api::{HostReport, Pointer, ReportAnswer, WatermarkEvent},
    git_http::{self, UploadPack},
    http::{self as web, Health, Request, Response, Routes},
};
use http::StatusCode;
use libconf::name::DatacenterName;
use serde::Serialize;
use tokio::sync::watch;
use warp::Filter;

use crate::{http::embedded::Store, mirror::Mirror, problems::Problems, publish::Publisher, reports::Hosts};

/// A report is a few hundred bytes.
const LONGEST_REPORT: usize = 64 << 10;

/// What the handlers look at.
#[derive(Debug)]
pub struct Shown {
    /// The mirror.
    pub mirror: Arc<Mirror>,
    /// The publisher.
    pub publisher: Arc<Publisher>,
    /// The hosts.
    pub hosts: Arc<Hosts>,
    /// The outages.
    pub problems: Arc<Problems>,
    /// The newest watermark heard.
    pub central: watch::Receiver<Option<WatermarkEvent>>,
    /// The addresses of Consul, or `embedded`.
    pub consul: Vec<String>,
    /// The central servers.
    pub centrals: Vec<String>,
    /// What bounds questions for a change.
    pub bounds: at::Bounds,
}

/// `GET /api/v1/status`
#[derive(Debug, Serialize)]
struct Status<'s> {
    datacenter: &'s DatacenterName,
    sequence: u64,
    commit: Option<String>,
    /// What Consul was last seen to say, as this slave put it there or found it.
    published: Option<Pointer>,
    /// The newest change of the central server that this slave has heard of.
    watermark: Option<u64>,
    hosts: usize,
    consul: Outside<'s>,
    central: Outside<'s>,
    problems: Vec<String>,
    agent: &'static str,
}

#[derive(Debug, Serialize)]
struct Outside<'s> {
    addresses: &'s [String],
    /// What is wrong with it, in words.
    problem: Option<String>,
}

/// All routes of conf-slave.
pub fn routes(shown: Arc<Shown>, upload: Arc<UploadPack>, health: Health, store: Option<Arc<Store>>) -> Routes {
    let git = git_http::git_routes(upload, None);
    let api = api_routes(shown);
    let routes = git.or(api).unify().boxed().or(web::health_routes(health)).unify().boxed();
    match store {
        Some(store) => routes.or(embedded::routes(store)).unify().boxed(),
        None => routes,
    }
}

fn api_routes(shown: Arc<Shown>) -> Routes {
    let (for_reports, for_hosts, for_at, for_status) =
        (Arc::clone(&shown), Arc::clone(&shown), Arc::clone(&shown), shown);
    let reports = warp::path!("api" / "v1" / "reports")
        .and(warp::post())
        .and(web::request())
        .then(move |request| take_report(Arc::clone(&for_reports), request));
    let hosts = warp::path!("api" / "v1" / "hosts")
        .and(warp::get())
        .map(move || web::json(StatusCode::OK, &for_hosts.hosts.list()));
    let status = warp::path!("api" / "v1" / "status")
        .and(warp::get())
        .map(move || web::json(StatusCode::OK, &for_status.status()));
    let at = warp::path!("api" / "v1" / "at")
        .and(warp::get())
        .and(warp::query())
        .then(move |query| at::answer(Arc::clone(&for_at), query));
    let asked = status.boxed().or(at.boxed()).unify();
    reports.boxed().or(hosts.boxed()).unify().or(asked).unify().boxed()
}

async fn take_report(shown: Arc<Shown>, request: Request) -> Response {
    let report: HostReport = match request.body.json(LONGEST_REPORT).await {
        Ok(report) => report,
        Err(refusal) => return refusal,
    };
    let own = shown.mirror.datacenter();
    if report.datacenter != *own {
        let words = format!("this conf-slave serves {own}, not {}", report.datacenter);
        return web::error(StatusCode::CONFLICT, words);
    }
    shown.hosts.take(report);
    // The watermark tells the host how new what it runs is; none is told before one was heard.
    let watermark = shown.central.borrow().clone();
    web::json(StatusCode::OK, &ReportAnswer { watermark })
}

impl Shown {
    fn status(&self) -> Status<'_> {
        let serving = self.mirror.serving();
        Status {
            datacenter: self.mirror.datacenter(),
            sequence: serving.as_ref().map_or(0, |serving| serving.snapshot.sequence.0),
            commit: serving.as_ref().map(|serving| serving.snapshot.commit.to_string()),
            published: self.publisher.published(),
            watermark: self.central.borrow().as_ref().map(|watermark| watermark.central.0),
            hosts: self.hosts.count(),
            consul: Outside { addresses: &self.consul, problem: self.problems.get("consul") },
            central: Outside { addresses: &self.centrals, problem: self.problems.get("central") },
            problems: self.problems.list(),
            agent: env!("CARGO_PKG_VERSION"),
        }
    }
}
