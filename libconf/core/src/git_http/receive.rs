//! `git receive-pack` over smart HTTP.

use std::{fmt, path::PathBuf, process::Command, sync::Arc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    git,
    git_http::{
        answer::{announced, answered},
        child::{Failure, decoded, input_of, start},
    },
    http::{Request, Response},
};

/// The most bytes of a push; `receive.maxInputSize` may set less.
const MOST_BYTES: u64 = 4 << 30;

type Environment = Box<dyn Fn(&Request) -> Vec<(String, String)> + Send + Sync>;

/// `git receive-pack` of one repository.
pub struct ReceivePack {
    repo: PathBuf,
    processes: Arc<Semaphore>,
    environment: Environment,
}

impl fmt::Debug for ReceivePack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivePack").field("repo", &self.repo).finish_non_exhaustive()
    }
}

impl ReceivePack {
    /// Serves `repo`, at most `processes` pushes at once. `environment` gives the variables that
    /// the hooks of a push see, on top of the clean environment.
    pub fn new(
        repo: PathBuf,
        processes: usize,
        environment: impl Fn(&Request) -> Vec<(String, String)> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let processes = Arc::new(Semaphore::new(processes));
        Arc::new(ReceivePack { repo, processes, environment: Box::new(environment) })
    }

    /// Answers `GET info/refs?service=git-receive-pack`.
    pub async fn advertise(&self, request: Request) -> Response {
        let kind = "application/x-git-receive-pack-advertisement";
        let advertise = async move {
            let permit = self.permit()?;
            let mut git = self.command(&request);
            git.arg("--http-backend-info-refs").arg(&self.repo);
            announced("git-receive-pack", kind, start(git, input_of(Bytes::new()), 0, permit, || {})?).await
        };
        advertise.await.unwrap_or_else(|failure| failure.response())
    }

    /// Answers `POST git-receive-pack`: streams both ways in constant memory. When git dies the
    /// connection is torn down, since a pusher would wait for ever after a proper end.
    pub async fn serve(&self, request: Request) -> Response {
        let serve = async {
            let permit = self.permit()?;
            let mut git = self.command(&request);
            git.arg(&self.repo);
            let output = start(git, decoded(request)?, MOST_BYTES, permit, || {})?;
            answered("application/x-git-receive-pack-result", Bytes::new(), output).await
        };
        serve.await.unwrap_or_else(|failure| failure.response())
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        self.processes.clone().try_acquire_owned().map_err(|_| Failure::Busy)
    }

    fn command(&self, request: &Request) -> Command {
        let mut git = git::command(&self.repo);
        git.envs((self.environment)(request)).args(["receive-pack", "--stateless-rpc"]);
        if let Some(protocol) = request.header("git-protocol") {
            git.env("GIT_PROTOCOL", protocol);
        }
        git
    }
}
