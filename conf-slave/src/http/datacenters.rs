//! `/api/v1/datacenters/<id>/<version>`: what another conf-slave that follows this one asks of
//! conf-master.
//!
//! What conf-master has said is answered from what is here. What goes to conf-master, reports of
//! hosts and hosts that join, is passed on as it came, with the credential of its sender: whoever
//! may not do it there may not do it by this way either.

use std::{sync::Arc, time::Duration};

use conf_core::{
    api::{DatacenterStatus, Pin},
    daemon::chain,
    http::{self as web, Request, Response, Routes, Shares},
    upstream::Hops,
};
use http::{HeaderMap, HeaderName, StatusCode, header};
use libconf::name::{BadName, DatacenterName, HostName};
use warp::Filter as _;

use crate::http::view::View;

/// Bytes of a summary of reports. A conf-slave sends parts of 4 MiB.
const LONGEST_SUMMARY: usize = 8 << 20;
/// Bytes of a request to join, which has a few hundred.
const LONGEST_JOIN: usize = 4 << 10;
/// Requests that are passed on at once, half of them of one conf-slave.
const AT_ONCE: u64 = 64;
/// 30 s for the head of an answer: conf-master lets hosts that join wait for 20.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is passed on of a request, besides its body.
const ASKED: [HeaderName; 2] = [header::AUTHORIZATION, header::CONTENT_TYPE];
/// What is passed on of an answer, besides its body.
const ANSWERED: [HeaderName; 2] = [header::RETRY_AFTER, header::WWW_AUTHENTICATE];

/// The datacenter of this conf-slave, or the answer to whoever means another one.
type Own = Result<DatacenterName, Response>;
type Answered = Result<Response, Response>;

/// All routes that begin with `/api/v1/datacenters`.
pub(crate) fn routes(view: Arc<View>) -> Routes {
    let (own, with) = (view.mirror.datacenter().clone(), Arc::clone(&view));
    let own = move |id: String, version: String| own_of(&own, &id, &version);
    let datacenter = warp::path!("api" / "v1" / "datacenters" / String / String / ..).map(own);
    let with = warp::any().map(move || Arc::clone(&with));
    let status = datacenter.clone().and(warp::path::end()).and(warp::get()).and(with.clone());
    let status = status.map(|own: Own, view: Arc<View>| answered(own.and_then(|_| view.newest())));
    let access = datacenter.clone().and(warp::path!("access")).and(warp::get()).and(with.clone());
    let access = access.map(|own: Own, view: Arc<View>| answered(own.and_then(|_| view.who_may_ask())));
    let freshness = datacenter.clone().and(warp::path!("freshness")).and(warp::get()).and(with);
    let freshness = freshness
        .map(|own: Own, view: Arc<View>| answered(own.map(|_| web::json(StatusCode::OK, &view.heard.newest()))));
    let up = Arc::new(WayUp { view, places: Shares::halves(AT_ONCE, 0) });
    let up = warp::any().map(move || Arc::clone(&up));
    let reports = datacenter.clone().and(warp::path!("hosts")).and(warp::post()).and(up.clone()).and(web::request());
    let reports = reports.then(|own: Own, up: Arc<WayUp>, request: Request| async move {
        answered(async { up.pass_on(&format!("{}/hosts", path_of(&own?)), request, LONGEST_SUMMARY).await }.await)
    });
    let key = datacenter.and(warp::path!("hosts" / String / "key")).and(warp::post()).and(up).and(web::request());
    let key = key.then(|own: Own, host: String, up: Arc<WayUp>, request: Request| async move {
        let joined = async {
            let (own, host) = (own?, host.parse::<HostName>().map_err(bad)?);
            up.pass_on(&format!("{}/hosts/{host}/key", path_of(&own)), request, LONGEST_JOIN).await
        };
        answered(joined.await)
    });
    let asked = status.boxed().or(access.boxed()).unify().or(freshness.boxed()).unify();
    asked.or(reports.boxed()).unify().or(key.boxed()).unify().boxed()
}

/// Says that this conf-slave is of no use to whoever means another datacenter.
pub(crate) fn not_of(own: &DatacenterName, wanted: &DatacenterName) -> Response {
    web::error(StatusCode::CONFLICT, format!("this conf-slave serves {own}, not {wanted}"))
}

fn own_of(own: &DatacenterName, id: &str, version: &str) -> Own {
    let named: DatacenterName = format!("{id}/{version}").parse().map_err(bad)?;
    if named == *own { Ok(named) } else { Err(not_of(own, &named)) }
}

fn path_of(own: &DatacenterName) -> String {
    format!("api/v1/datacenters/{own}")
}

fn bad(name: BadName) -> Response {
    web::error(StatusCode::BAD_REQUEST, name)
}

fn answered(answer: Answered) -> Response {
    answer.unwrap_or_else(|refused| refused)
}

impl View {
    fn newest(&self) -> Answered {
        let own = self.mirror.datacenter();
        let Some(served) = self.mirror.served() else {
            return Err(web::error(StatusCode::NOT_FOUND, format!("no snapshot of {own} is here yet")));
        };
        let snapshot = &served.snapshot;
        let when = jiff::Timestamp::from_second(snapshot.time).map(|time| time.to_string()).unwrap_or_default();
        let status = DatacenterStatus {
            datacenter: own.clone(),
            sequence: snapshot.sequence,
            commit: snapshot.commit,
            when,
            by: snapshot.by.clone(),
            pins: served.pins.values().map(|pin| Pin::clone(pin)).collect(),
        };
        Ok(web::json(StatusCode::OK, &status))
    }

    /// The list of those who may ask, as conf-master signed it.
    pub(crate) fn who_may_ask(&self) -> Answered {
        let none = || web::error(StatusCode::NOT_FOUND, "conf-master has not said yet who may ask here");
        self.access.newest().map(|list| web::json(StatusCode::OK, &list)).ok_or_else(none)
    }
}

/// The way of requests to conf-master.
#[derive(Debug)]
struct WayUp {
    view: Arc<View>,
    places: Shares,
}

impl WayUp {
    /// Passes a request on to the first central server that answers. After an error it may have
    /// been done or not; done twice, it is the same.
    async fn pass_on(&self, path: &str, request: Request, most: usize) -> Answered {
        request.check_query(&[])?;
        let hops = Hops::of(&request.headers).one_more().ok_or_else(|| {
            let words = "too many conf-slaves have passed this on; do they follow each other? One of them must name \
                         conf-master with --central";
            web::error(StatusCode::LOOP_DETECTED, words)
        })?;
        let crowded = || web::busy("too much is passed on already; ask again in a moment", 1);
        let _place = self.places.try_take(request.who(), 1).ok_or_else(crowded)?;
        let known = |name: &HeaderName| Some((name.clone(), request.headers.get(name)?.clone()));
        let headers: HeaderMap = ASKED.iter().filter_map(known).chain([hops.header()]).collect();
        let body = request.body.bytes(most).await?;
        let answer = self.view.mirror.upstreams.pass_on(path, &headers, &body, PATIENCE).await.map_err(|error| {
            web::busy(format!("this conf-slave cannot pass it on to conf-master: {}", chain(&error)), 1)
        })?;
        let (head, body) = answer.into_parts();
        let mut passed = web::bytes_of(head.status, "application/json", body);
        for (name, value) in ANSWERED.iter().filter_map(|name| Some((name, head.headers.get(name)?))) {
            passed.headers_mut().insert(name.clone(), value.clone());
        }
        Ok(passed)
    }
}
