//! The routes of conf-master over HTTP: Git at `/conf.git`, the API at `/api/v1`, health.

mod at;
mod conf;
mod datacenters;
mod delivery;
mod events;
mod explain;
mod keys;
pub(crate) mod leader;
pub(crate) mod parts;
mod plan;
mod policy;
mod refused;
mod relay;
pub(crate) mod rights;
mod secrets;
mod sections;
pub(crate) mod server;
mod standby;
mod tokens;
mod update;
mod whereabouts;

use std::{path::PathBuf, sync::Arc};

use conf_core::git_http::{HookEnvironment, ReceivePack, UploadPack, git_routes};
use conf_core::http::{
    Authenticator, Health, Request, Routes, Shares, StreamPlaces, described, health_routes, session_routes,
};
use tokio_util::sync::CancellationToken;
use warp::Filter as _;

use crate::delivery::{AccessStatements, FreshnessStatements, Hosts, Watermarks};
use crate::hooks::{PUSH_VARIABLE, Pushers};
use crate::http::leader::LeaderClient;
use crate::http::parts::shown_to_pushers;
use crate::http::policy::{TRIALS_AT_ONCE, TRIALS_WAITING};
use crate::http::server::{READING_AT_ONCE, READINGS_WAITING, Server, pusher};
use crate::http::whereabouts::{SEARCHES_AT_ONCE, SEARCHES_WAITING};
use crate::landing::Lander;
use crate::tokens::Joiner;

/// Pushes that Git works on at once; more wait.
const PUSHES_AT_ONCE: usize = 16;

/// Components that are rendered for readers at once; half of them for one peer, and more wait.
/// Landings render in a process of their own.
const RENDERINGS_AT_ONCE: u64 = 2;
/// Readers that wait for that.
const RENDERINGS_WAITING: usize = 64;

/// Makes the server of `repo`, whose changes `lander` lands.
pub(crate) fn server(
    repo: PathBuf,
    (authenticator, joiner): (Authenticator, Joiner),
    lander: Lander,
    (watermarks, access, freshness): (Watermarks, AccessStatements, FreshnessStatements),
    pushers: Pushers,
    upload: Arc<UploadPack>,
    (hosts, leader, stop): (Arc<Hosts>, LeaderClient, CancellationToken),
) -> Server {
    let environment = move |request: &Request| match request.method {
        http::Method::POST => {
            let push = pushers.begin(pusher(request));
            let variables = vec![(PUSH_VARIABLE.to_owned(), push.id.clone())];
            HookEnvironment { variables, held: Some(Box::new(push)) }
        }
        _ => HookEnvironment::default(),
    };
    let refs = shown_to_pushers(lander.clone());
    Server {
        receive: ReceivePack::listing(repo.clone(), upload.spools().clone(), PUSHES_AT_ONCE, environment, refs),
        repo,
        authenticator,
        joiner,
        lander,
        streams: StreamPlaces::default(),
        watermarks: Arc::new(watermarks),
        access: Arc::new(access),
        freshness: Arc::new(freshness),
        hosts,
        inventories: Arc::default(),
        chains: Arc::default(),
        waits: Shares::halves(delivery::WAITS_AT_ONCE, 0),
        renderings: Shares::halves(RENDERINGS_AT_ONCE, RENDERINGS_WAITING),
        reading: Shares::halves(READING_AT_ONCE, READINGS_WAITING),
        searching: Shares::halves(SEARCHES_AT_ONCE, SEARCHES_WAITING),
        trials: Shares::halves(TRIALS_AT_ONCE, TRIALS_WAITING),
        upload,
        leader: Arc::new(leader),
        stop,
    }
}

/// Returns all routes.
pub(crate) fn routes(server: &Server, health: Health) -> Routes {
    let of_server = [
        events::routes,
        refused::routes,
        update::routes,
        sections::routes,
        plan::routes,
        policy::routes,
        explain::routes,
        secrets::routes,
        tokens::routes,
        keys::routes,
        conf::routes,
        delivery::routes,
        at::routes,
        datacenters::routes,
        whereabouts::routes,
        standby::routes,
    ];
    let git = git_routes(server.upload.clone(), Some(server.receive.clone()));
    let others = git.or(health_routes(health)).unify().boxed();
    let others = others.or(session_routes(server.authenticator.clone())).unify().boxed();
    let routes = of_server
        .into_iter()
        .fold(others, |routes: Routes, more: fn(Server) -> Routes| routes.or(more(server.clone())).unify().boxed());
    described(include_str!("openapi.json"), relay::routes(server).or(routes).unify().boxed())
}
