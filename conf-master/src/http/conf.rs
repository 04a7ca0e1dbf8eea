//! `GET /conf/<kind>/<name>`: a component as a host would get it.

use std::time::Duration;

use conf_core::http::{Routes, Who, asker, error, json};
use http::StatusCode;
use libconf::name::{ComponentSelector, DatacenterName, HostName, RoleName};
use serde::Deserialize;
use warp::Filter as _;

use crate::http::server::{Answered, Server, answer, unavailable};
use crate::inspect::{Audience, conf};

/// How long a reader waits until others have been shown theirs.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct ConfQuery {
    datacenter: DatacenterName,
    host: Option<HostName>,
    role: Option<RoleName>,
}

/// `GET /conf/<kind>/<name>[/<version>]?datacenter=<id>/<version>&host=<host>`, or `&role=<role>`
pub(crate) fn routes(server: Server) -> Routes {
    let with = warp::any().map(move || server.clone());
    let unversioned = warp::path!("conf" / String / String).map(|kind, name| format!("{kind}/{name}"));
    let versioned = warp::path!("conf" / String / String / String);
    let versioned = versioned.map(|kind, name, version| format!("{kind}/{name}/{version}"));
    let component = unversioned.or(versioned).unify();
    component
        .and(warp::get())
        .and(warp::query::<ConfQuery>())
        .and(asker())
        .and(with)
        .then(|component: String, query: ConfQuery, who: Who, server: Server| {
            answer(async move {
                let component = component.parse().map_err(|bad| error(StatusCode::BAD_REQUEST, bad))?;
                server.conf(component, query, who).await
            })
        })
        .boxed()
}

impl Server {
    async fn conf(&self, component: ComponentSelector, query: ConfQuery, who: Who) -> Answered {
        let audience = match (query.host, query.role) {
            (Some(host), None) => Audience::Host(host),
            (None, Some(role)) => Audience::Role(role),
            _ => {
                let words = "name a host (&host=…) or, for a role that has no host yet, a role (&role=…)";
                return Err(error(StatusCode::UNPROCESSABLE_ENTITY, words));
            }
        };
        let snapshot = self.snapshot(&query.datacenter)?;
        let Ok(turn) = self.renderings.take(who, 1, PATIENCE).await else {
            return Err(unavailable("other readers are being shown their configuration; try again in a moment"));
        };
        self.read_now(who, move |repo| {
            // The place is held to the end, even when the reader has gone.
            let _turn = turn;
            Ok(json(StatusCode::OK, &conf::conf(repo, &snapshot, &component, &audience)?))
        })
        .await
    }
}
