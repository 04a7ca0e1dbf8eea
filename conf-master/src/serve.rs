//! `conf-master serve`: opens everything that can fail, says that it is ready, serves until told to stop.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use libconf::tier::{
    daemon::{Metrics, listen_guard, ready},
    git,
    http::{self, Health},
    safety::Limits,
    upload::{self, UploadPack},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::Serve,
    http::Server,
    land::{self, Lander},
    receive::{self, Pushers},
    repository,
};

/// How often Git's own upkeep runs.
const UPKEEP_EVERY: Duration = Duration::from_secs(3600);

/// Serves until `stop`.
pub async fn run(flags: Serve, stop: CancellationToken) -> anyhow::Result<()> {
    listen_guard(flags.listen, flags.common.insecure)?;
    git::check_version()?;
    repository::open(&flags.repo)?;
    let path = flags.repo.canonicalize()?;
    let lock_path = path.clone();
    let _lock = tokio::task::spawn_blocking(move || git::lock(&lock_path)).await??;
    repository::prepare(&path)?;
    let metrics = Metrics::new("conf-master", env!("CARGO_PKG_VERSION"));
    let health = Health::new(metrics.clone());
    let upload = UploadPack::new(path.clone(), upload::Limits::default());
    let (lander, landing) = land::start(&path, Limits::default(), upload.clone(), &metrics)?;
    let pushers = Pushers::default();
    let hooks = tokio::spawn(receive::serve(receive::bind(&path)?, lander.clone(), pushers.clone(), stop.clone()));
    let listener = http::bind_tcp(flags.listen).await.with_context(|| {
        format!("cannot listen on {}; is another program there? `--listen` takes another address", flags.listen)
    })?;
    let address = listener.address().context("a TCP listener has an address")?;
    let upkeep = tokio::spawn(keep_up(path.clone(), lander.clone(), stop.clone()));
    let server = Server::new(path.clone(), lander, pushers, upload);
    health.set_ready();
    info!(%address, repo = %path.display(), "serving");
    ready(address);
    http::serve(listener, server.routes(health), stop.clone()).await;
    stop.cancel();
    let _ = tokio::join!(hooks, upkeep);
    // All ways to the landing thread are closed now: it ends after the step at hand.
    tokio::task::spawn_blocking(move || landing.join()).await?.map_err(|_| anyhow::anyhow!("landing ended badly"))
}

/// Git's upkeep, hourly: nothing that it does drops an object; refs are packed while nothing lands.
async fn keep_up(path: PathBuf, lander: Lander, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(UPKEEP_EVERY) => {}
        }
        let mut upkeep = tokio::process::Command::from(git::command(&path));
        upkeep.args(["maintenance", "run", "--quiet"]);
        upkeep.args(["--task=loose-objects", "--task=incremental-repack", "--task=commit-graph"]);
        let upkeep = async { upkeep.kill_on_drop(true).status().await };
        let done = tokio::select! {
            () = stop.cancelled() => return,
            done = upkeep => done,
        };
        let packing = path.clone();
        let pack_refs = move || {
            if let Err(error) = git::command(&packing).args(["pack-refs", "--all"]).status() {
                warn!(%error, "cannot pack the refs");
            }
        };
        lander.exclusively(pack_refs).await;
        match done {
            Ok(status) if status.success() => info!("upkeep of the repository is done"),
            Ok(status) => warn!(%status, "upkeep of the repository failed; it is tried again in an hour"),
            Err(error) => warn!(%error, "cannot run git for the upkeep of the repository"),
        }
    }
}
