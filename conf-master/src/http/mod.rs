//! What conf-master answers over HTTP: Git at `/conf.git`, the API at `/api/v1`, health.

mod at;
mod conf;
mod datacenters;
mod delivery;
mod events;
mod explain;
mod git;
mod openapi;
mod plan;
mod refused;
mod secrets;
mod sections;
mod update;

use std::{path::PathBuf, sync::Arc};

use conf_core::{
    git_http::{ReceivePack, UploadPack, git_routes},
    http::{Health, Request, Response, Routes, error, health_routes},
};
use git2::Repository;
use http::StatusCode;
use libconf::name::DatacenterName;
use tokio::sync::Semaphore;
use warp::Filter as _;

use crate::{
    delivery::{chains::Chains, hosts::Hosts, inventory::Inventories, watermarks::Watermarks},
    hooks::{PUSH_VARIABLE, Pushers},
    landing::Lander,
};

/// Pushes that Git works on at once; more get 503 and are told to try again.
const PUSHES_AT_ONCE: usize = 16;

/// Components that are rendered for readers at once; more get 503. Landings have a process of their own for that.
const RENDERINGS_AT_ONCE: usize = 2;

/// Everything that answers need.
#[derive(Clone, Debug)]
pub struct Server {
    repo: PathBuf,
    lander: Lander,
    watermarks: Arc<Watermarks>,
    hosts: Arc<Hosts>,
    inventories: Arc<Inventories>,
    chains: Arc<Chains>,
    waits: Arc<Semaphore>,
    upload: Arc<UploadPack>,
    receive: Arc<ReceivePack>,
    renderings: Arc<Semaphore>,
}

impl Server {
    /// Serves `repo`, whose landings are `lander`'s.
    pub fn new(
        repo: PathBuf,
        lander: Lander,
        watermarks: Watermarks,
        pushers: Pushers,
        upload: Arc<UploadPack>,
        hosts: Hosts,
    ) -> Self {
        let environment = move |request: &Request| match request.method {
            http::Method::POST => vec![(PUSH_VARIABLE.to_owned(), pushers.begin(git::pusher(request)))],
            _ => Vec::new(),
        };
        let receive = ReceivePack::new(repo.clone(), PUSHES_AT_ONCE, environment);
        let waits = Arc::new(Semaphore::new(delivery::WAITS_AT_ONCE));
        let renderings = Arc::new(Semaphore::new(RENDERINGS_AT_ONCE));
        let (watermarks, hosts) = (Arc::new(watermarks), Arc::new(hosts));
        let (inventories, chains) = (Arc::default(), Arc::default());
        Server { repo, lander, watermarks, hosts, inventories, chains, waits, upload, receive, renderings }
    }

    /// All routes.
    pub fn routes(self, health: Health) -> Routes {
        let git = git_routes(self.upload.clone(), Some(self.receive.clone()));
        let api = openapi::routes()
            .or(events::routes(self.clone()))
            .unify()
            .or(refused::routes(self.clone()))
            .unify()
            .boxed();
        let api = api.or(update::routes(self.clone())).unify().or(sections::routes(self.clone())).unify().boxed();
        let api = api.or(plan::routes(self.clone())).unify().or(explain::routes(self.clone())).unify().boxed();
        let api = api.or(secrets::routes(self.clone())).unify().or(conf::routes(self.clone())).unify().boxed();
        let api = api.or(delivery::routes(self.clone())).unify().or(at::routes(self.clone())).unify().boxed();
        let api = api.or(datacenters::routes(self)).unify().boxed();
        git.or(api).unify().or(health_routes(health)).unify().boxed()
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

/// Reads the name of a datacenter from its two segments; a bad one is 400.
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
