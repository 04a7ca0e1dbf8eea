//! `GET /conf/<kind>/<name>`: what a host would get.

use conf_core::http::{Response, Routes, error, json};
use http::StatusCode;
use libconf::name::{ComponentSelector, DatacenterName, HostName, RoleName};
use serde::Deserialize;
use warp::Filter as _;

use crate::http::Server;
use crate::inspect::conf::{self, Audience};

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
        .and(with)
        .then(|component: String, query: ConfQuery, server: Server| async move {
            match component.parse() {
                Ok(component) => server.conf(component, query).await,
                Err(bad) => error(StatusCode::BAD_REQUEST, bad),
            }
        })
        .boxed()
}

impl Server {
    async fn conf(&self, component: ComponentSelector, query: ConfQuery) -> Response {
        let audience = match (query.host, query.role) {
            (Some(host), None) => Audience::Host(host),
            (None, Some(role)) => Audience::Role(role),
            _ => {
                return error(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "name a host (&host=…) or, where none stands yet, a role (&role=…)",
                );
            }
        };
        let snapshot = match self.snapshot(&query.datacenter) {
            Ok(snapshot) => snapshot,
            Err(answer) => return answer,
        };
        let Ok(turn) = self.renderings.clone().try_acquire_owned() else {
            return error(
                StatusCode::SERVICE_UNAVAILABLE,
                "others are being shown their configuration; try again in a moment",
            );
        };
        self.read(move |repo| {
            // Also when whoever asked has gone.
            let _turn = turn;
            Ok(match conf::conf(repo, &snapshot, &component, &audience)? {
                Ok(conf) => json(StatusCode::OK, &conf),
                Err(why) => error(StatusCode::NOT_FOUND, why),
            })
        })
        .await
    }
}
