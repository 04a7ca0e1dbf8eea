//! All routes of the local service.

use std::sync::Arc;

use conf_core::{
    git::RepositoryPool,
    http::{self as answer, Health, Request, Response, Routes},
};
use tokio_util::sync::CancellationToken;
use warp::{Filter, filters::BoxedFilter};

use crate::{
    notify::Registry,
    on_demand::Demand,
    service::{
        process_reports::ProcessReports,
        refusal::{Answer, ok},
        remembered::Remembered,
    },
    state::Agent,
};

/// What the routes answer from.
#[derive(Clone)]
pub struct Service {
    /// What the agent knows.
    pub agent: Agent,
    /// The watchers of this host.
    pub watchers: Arc<Registry>,
    /// Finds and brings snapshots that callers ask for.
    pub demand: Arc<Demand>,
    /// What processes report.
    pub processes: Arc<ProcessReports>,
    /// Holds past snapshots.
    pub repository: RepositoryPool,
    /// Settings that processes asked for.
    pub remembered: Arc<Remembered>,
    /// Ends requests that wait.
    pub stop: CancellationToken,
}

/// Extracts the service and the request.
type Context = BoxedFilter<(Service, Request)>;

/// All routes of the local service.
pub fn routes(service: Service, health: Health) -> Routes {
    let context = warp::any().map(move || service.clone()).and(answer::request()).boxed();
    let status = warp::path!("v1" / "status")
        .and(warp::get())
        .and(warp::query())
        .and(context.clone())
        .then(async |query, service: Service, request| settle(service.status_after(query, request).await));
    let at = warp::path!("v1" / "at" / String)
        .and(warp::get())
        .and(warp::query())
        .and(context.clone())
        .then(async |change, query, service: Service, request| settle(service.at(change, query, request).await));
    let events = warp::path!("v1" / "events")
        .and(warp::get())
        .and(context.clone())
        .map(|service: Service, request: Request| settle(service.events(&request)));
    let history = warp::path!("v1" / "history")
        .and(warp::get())
        .and(context.clone())
        .map(|service: Service, _: Request| settle(service.history()));
    let processes = warp::path!("v1" / "processes")
        .and(warp::get())
        .and(context.clone())
        .map(|service: Service, request: Request| settle(service.list_processes(&request)));
    let report = warp::path!("v1" / "processes")
        .and(warp::post())
        .and(context.clone())
        .then(async |service: Service, request| settle(service.record_process(request).await));
    let watchers = warp::path!("v1" / "watchers")
        .and(warp::post())
        .and(context.clone())
        .then(async |service: Service, request| settle(service.register(request).await));
    let verify = warp::path!("v1" / "verify")
        .and(warp::post())
        .and(warp::query())
        .and(context.clone())
        .then(async |query, service: Service, request| settle(service.verify(query, request).await));

    let others = [
        status.boxed(),
        at.boxed(),
        events.boxed(),
        history.boxed(),
        processes.boxed(),
        report.boxed(),
        watchers.boxed(),
        verify.boxed(),
    ];
    let routes = others.into_iter().fold(component_routes(&context), |routes, route| routes.or(route).unify().boxed());
    answer::described(include_str!("openapi.json"), routes.or(answer::health_routes(health)).unify().boxed())
}

/// The routes `GET /v1/<word>/<component>?…`.
fn component_routes(context: &Context) -> Routes {
    let selector = warp::path::param::<String>().and(warp::path::param::<String>());
    let unversioned = selector.and(warp::path::end()).map(|kind, name| format!("{kind}/{name}"));
    let versioned = selector.and(warp::path::param::<String>()).and(warp::path::end());
    let versioned = versioned.map(|kind, name, version| format!("{kind}/{name}/{version}"));
    let component = unversioned.or(versioned).unify().boxed();

    /// A route that is answered by a method of the service.
    macro_rules! route {
        ($word:literal, $answer:ident) => {
            warp::path("v1")
                .and(warp::path($word))
                .and(component.clone())
                .and(warp::get())
                .and(warp::query())
                .and(context.clone())
                .then(async |component: String, query, service: Service, request: Request| {
                    settle(service.$answer(component, query, request).await)
                })
        };
    }
    let settings = route!("config", settings).or(route!("explain", explain)).unify();
    settings.or(route!("schema", schema)).unify().or(route!("wait", wait)).unify().boxed()
}

impl Service {
    fn history(&self) -> Answer {
        ok(&self.agent.history())
    }
}

fn settle(answer: Answer) -> Response {
    answer.unwrap_or_else(|refusal| *refusal.0)
}
