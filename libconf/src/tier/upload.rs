//! Serving Git over smart HTTP: `git upload-pack` behind a cache of answers, and `git receive-pack`.

use std::{path::PathBuf, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use warp::{Filter, filters::BoxedFilter};

use super::upstream::Upstreams;

/// What handlers answer.
pub type Response = warp::reply::Response;

/// A request's body, as it comes from the connection.
pub type Body = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// What a request to a Git service says in its headers.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// `Git-Protocol`
    pub protocol: Option<String>,
    /// `Content-Encoding`
    pub encoding: Option<String>,
}

/// Bounds of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of remembered answers.
    pub cache_bytes: u64,
    /// `upload-pack` processes at once, for steps and listings and, counted apart, for full clones.
    pub processes: usize,
    /// Bytes of a decoded request to `upload-pack`.
    pub request_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { cache_bytes: 64 << 20, processes: 16, request_bytes: 4 << 20 }
    }
}

/// `git upload-pack` of one repository.
#[derive(Debug)]
pub struct UploadPack {
    repo: PathBuf,
}

impl UploadPack {
    /// Serves `repo`.
    pub fn new(repo: PathBuf, limits: Limits) -> Arc<Self> {
        let _ = limits;
        Arc::new(UploadPack { repo })
    }

    /// Like [`UploadPack::new`], but a step whose `have` is not here is relayed to these servers, and computed here only
    /// when none of them answers.
    pub fn relaying(repo: PathBuf, limits: Limits, upstreams: Arc<Upstreams>) -> Arc<Self> {
        let _ = upstreams;
        UploadPack::new(repo, limits)
    }

    /// Answers `GET info/refs?service=git-upload-pack`.
    pub async fn advertise(&self, headers: &Headers) -> Response {
        let _ = (headers, &self.repo);
        unimplemented!()
    }

    /// Answers `POST git-upload-pack`.
    pub async fn serve(&self, headers: &Headers, request: Body) -> Response {
        let _ = (headers, request);
        unimplemented!()
    }

    /// Remembers the answer to a step, byte for byte: see [`super::pack::Fetched::answer`].
    pub async fn prime(&self, request: Bytes, response: Bytes) {
        let _ = (request, response);
        unimplemented!()
    }

    /// Answers served without a process, and processes run, since the start.
    pub fn counts(&self) -> Counts {
        Counts::default()
    }
}

/// What a server has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests answered from memory, by waiting for another's process included.
    pub cached: u64,
    /// Processes started.
    pub processes: u64,
    /// Requests turned away with 503.
    pub refused: u64,
    /// Requests relayed upstream.
    pub relayed: u64,
}

/// `/conf.git/info/refs?service=git-upload-pack` and `/conf.git/git-upload-pack`. Put receive-pack's routes before it.
pub fn git_routes(upload: Arc<UploadPack>) -> BoxedFilter<(Response,)> {
    let _ = upload;
    warp::any().map(|| unimplemented!()).boxed()
}

/// `/conf.git/info/refs?service=git-receive-pack` and `/conf.git/git-receive-pack`.
///
/// `env` is called for every push and gives the variables that the hooks see, on top of the clean environment.
pub fn receive_routes(
    receive: Arc<ReceivePack>,
    env: impl Fn() -> Vec<(String, String)> + Clone + Send + Sync + 'static,
) -> BoxedFilter<(Response,)> {
    let _ = (receive, env);
    warp::any().map(|| unimplemented!()).boxed()
}

/// `git receive-pack` of one repository.
#[derive(Debug)]
pub struct ReceivePack {
    repo: PathBuf,
}

impl ReceivePack {
    /// Serves `repo`, at most `processes` pushes at once.
    pub fn new(repo: PathBuf, processes: usize) -> Arc<Self> {
        let _ = processes;
        Arc::new(ReceivePack { repo })
    }

    /// Answers `GET info/refs?service=git-receive-pack`.
    pub async fn advertise(&self, headers: &Headers) -> Response {
        let _ = (headers, &self.repo);
        unimplemented!()
    }

    /// Answers `POST git-receive-pack`: streams both ways in constant memory; ends the connection without a proper end
    /// when git dies, so that the pusher does not wait.
    pub async fn serve(&self, headers: &Headers, request: Body, env: Vec<(String, String)>) -> Response {
        let _ = (headers, request, env);
        unimplemented!()
    }
}
