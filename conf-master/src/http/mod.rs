//! What conf-master answers over HTTP: Git at `/conf.git`, the API at `/api/v1`, health.

mod api;
mod git;

use std::{path::PathBuf, sync::Arc};

use libconf::tier::{
    http::{Health, Request, Routes, health_routes},
    upload::{ReceivePack, UploadPack, git_routes},
};
use warp::Filter as _;

use crate::{
    hosts::Hosts,
    land::Lander,
    receive::{PUSH_VARIABLE, Pushers},
};

/// Pushes that Git works on at once; more get 503 and are told to try again.
const PUSHES_AT_ONCE: usize = 16;

/// Everything that answers need.
#[derive(Clone, Debug)]
pub struct Server {
    repo: PathBuf,
    lander: Lander,
    hosts: Arc<Hosts>,
    upload: Arc<UploadPack>,
    receive: Arc<ReceivePack>,
}

impl Server {
    /// Serves `repo`, whose landings are `lander`'s.
    pub fn new(repo: PathBuf, lander: Lander, pushers: Pushers, upload: Arc<UploadPack>) -> Self {
        let environment = move |request: &Request| match request.method {
            http::Method::POST => vec![(PUSH_VARIABLE.to_owned(), pushers.begin(git::pusher(request)))],
            _ => Vec::new(),
        };
        let receive = ReceivePack::new(repo.clone(), PUSHES_AT_ONCE, environment);
        Server { repo, lander, hosts: Arc::default(), upload, receive }
    }

    /// All routes.
    pub fn routes(self, health: Health) -> Routes {
        let git = git_routes(self.upload.clone(), Some(self.receive.clone()));
        git.or(api::routes(self)).unify().or(health_routes(health)).unify().boxed()
    }
}
