//! All routes of conf-slave.

use std::sync::Arc;

use conf_core::{
    api::{HostReport, KeysEvent, ReportAnswer},
    http::{self as web, Health, Request, Response, Routes, StreamPlaces},
};
use http::StatusCode;
use tokio_util::sync::CancellationToken;
use warp::Filter;

use crate::access::may_report;
use crate::http::{
    at::{self, Questions},
    datacenters::{self, not_of},
    embedded::EmbeddedConsul,
    events::{EventsQuery, Streams},
    view::View,
};

/// Bytes of a report, which has a few hundred.
const LONGEST_REPORT: usize = 64 << 10;

/// Makes the routes, beside those of Git and of sessions. Streams take `places`. Requests that wait
/// are answered at `stop`.
pub(crate) fn routes(
    view: Arc<View>,
    (others, places): (Routes, StreamPlaces),
    health: Health,
    consul: Option<Arc<EmbeddedConsul>>,
    stop: CancellationToken,
) -> Routes {
    let routes =
        others.or(api_routes(view, places, stop)).unify().boxed().or(web::health_routes(health)).unify().boxed();
    let routes = match consul {
        Some(consul) => routes.or(consul.routes()).unify().boxed(),
        None => routes,
    };
    web::described(include_str!("openapi.json"), routes)
}

fn api_routes(view: Arc<View>, places: StreamPlaces, stop: CancellationToken) -> Routes {
    let (for_reports, for_hosts, for_status) = (Arc::clone(&view), Arc::clone(&view), Arc::clone(&view));
    let (for_keys, for_access) = (Arc::clone(&view.keys), Arc::clone(&view));
    let streams = Arc::new(Streams::new(Arc::clone(&view), places));
    let datacenters = datacenters::routes(Arc::clone(&view));
    let questions = Arc::new(Questions::new(view, stop));
    let reports = warp::path!("api" / "v1" / "reports")
        .and(warp::post())
        .and(web::request())
        .then(move |request| take_report(Arc::clone(&for_reports), request));
    let hosts = warp::path!("api" / "v1" / "hosts")
        .and(warp::get())
        .map(move || web::json(StatusCode::OK, &for_hosts.reports.list()));
    let status = warp::path!("api" / "v1" / "status")
        .and(warp::get())
        .map(move || web::json(StatusCode::OK, &for_status.status()));
    let keys = warp::path!("api" / "v1" / "keys")
        .and(warp::get())
        .map(move || web::json(StatusCode::OK, &KeysEvent { statements: for_keys.followed().to_vec() }));
    let access = warp::path!("api" / "v1" / "access")
        .and(warp::get())
        .map(move || for_access.who_may_ask().unwrap_or_else(|none| none));
    let at = warp::path!("api" / "v1" / "at")
        .and(warp::get())
        .and(warp::query())
        .and(web::asker())
        .then(move |query, who| at::answer(Arc::clone(&questions), query, who));
    let events = warp::path!("api" / "v1" / "events")
        .and(warp::get())
        .and(warp::query())
        .and(web::request())
        .map(move |query: EventsQuery, request: Request| streams.follow(&query, &request));
    let asked = status.boxed().or(at.boxed()).unify().or(keys.boxed()).unify().or(events.boxed()).unify();
    let asked = asked.or(access.boxed()).unify().or(datacenters).unify();
    reports.boxed().or(hosts.boxed()).unify().or(asked).unify().boxed()
}

async fn take_report(view: Arc<View>, request: Request) -> Response {
    let (from, principal) = (request.who().to_string(), request.principal.clone());
    let report: HostReport = match request.body.json(LONGEST_REPORT).await {
        Ok(report) => report,
        Err(refusal) => return refusal,
    };
    let own = view.mirror.datacenter();
    if report.datacenter != *own {
        return not_of(own, &report.datacenter);
    }
    if !may_report(&principal, &report.host) {
        let words = format!("{principal} may not report for {}; a host reports as itself", report.host);
        return web::error(StatusCode::FORBIDDEN, words);
    }
    view.reports.take(report, &from);
    // The watermark tells the host whether its snapshot is the newest. The answer has none before
    // this slave heard one.
    let watermark = view.watermark.borrow().clone();
    let (freshness, deleted, keys) = (view.heard.newest(), view.above.is_deleted(), view.keys.keys().count());
    web::json(StatusCode::OK, &ReportAnswer { watermark, freshness, deleted, keys })
}
