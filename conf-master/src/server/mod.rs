//! `conf-master serve`: opens everything that can fail, says that it is ready, serves until told to stop.

pub mod renew;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use conf_core::{
    daemon::{Metrics, listen_guard, ready},
    git,
    git_http::{self, UploadPack},
    http::{self, Health},
    sign::SigningKey,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    cli::config::Serve,
    delivery::{hosts::Hosts, watermarks::Watermarks},
    hooks as receive,
    hooks::Pushers,
    http::Server,
    judge::validate::Validator,
    landing as land,
    landing::Lander,
    secrets::Keeper,
    store as repository,
};

/// How often Git's own upkeep runs, at the latest.
const UPKEEP_EVERY: Duration = Duration::from_secs(3600);
/// Every push and every landing leaves a pack or loose objects; with more packs each Git program starts slower.
const MOST_PACKS: usize = 40;
/// An update through the API leaves a dozen loose objects; reading many of them is slow, and each takes a block of disk.
const MOST_LOOSE: usize = 20_000;
/// Rolling them up takes the disk from landings, so not over and over in a burst.
const LOOSE_EVERY: Duration = Duration::from_secs(300);
/// How often the packs are counted.
const LOOK_EVERY: Duration = Duration::from_secs(10);

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
    let upload = UploadPack::new(path.clone(), git_http::UploadLimits::default());
    let keeper = Keeper::open(&path, &flags.secrets_for).context("conf-master's key for secrets cannot be used")?;
    let validator = Arc::new(Validator::new(flags.limits.limits()).with_secrets(keeper));
    let (lander, landing) = land::start(&path, validator, upload.clone(), &metrics)?;
    let pushers = Pushers::default();
    let hooks = tokio::spawn(receive::serve(receive::bind(&path)?, lander.clone(), pushers.clone(), stop.clone()));
    let listener = http::bind_tcp(flags.listen).await.with_context(|| {
        format!("cannot listen on {}; is another program there? `--listen` takes another address", flags.listen)
    })?;
    let address = listener.address().context("a TCP listener has an address")?;
    let upkeep = tokio::spawn(keep_up(path.clone(), lander.clone(), stop.clone()));
    let renewal = tokio::spawn(renew::run(lander.clone(), flags.renew_ahead, stop.clone()));
    let watermarks = Watermarks::new(SigningKey::load(&repository::key_path(&path))?);
    let hosts = Hosts::new(Duration::from_secs(flags.hosts_within));
    let server = Server::new(path.clone(), lander, watermarks, pushers, upload, hosts);
    health.set_ready();
    info!(%address, repo = %path.display(), "serving");
    ready(address);
    http::serve(listener, server.routes(health), stop.clone()).await;
    stop.cancel();
    let _ = tokio::join!(hooks, upkeep, renewal);
    // All ways to the landing thread are closed now: it ends after the step at hand.
    tokio::task::spawn_blocking(move || landing.join()).await?.map_err(|_| anyhow::anyhow!("landing ended badly"))
}

/// Git's upkeep: when small packs have gathered, and hourly. Nothing that it does drops an object.
async fn keep_up(path: PathBuf, lander: Lander, stop: CancellationToken) {
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let is_crowded = last.elapsed() > LOOSE_EVERY && loose(&path) > MOST_LOOSE;
        if last.elapsed() < UPKEEP_EVERY && packs(&path) < MOST_PACKS && !is_crowded {
            continue;
        }
        last = Instant::now();
        let done = tokio::select! {
            () = stop.cancelled() => return,
            done = repack(&path) => done,
        };
        // Refs are packed while nothing lands: both would lock them.
        let packing = path.clone();
        lander
            .exclusively(move || {
                if let Err(error) = git::command(&packing).args(["pack-refs", "--all"]).status() {
                    warn!(%error, "cannot pack the refs");
                }
            })
            .await;
        match done {
            Ok(()) => info!(took_ms = last.elapsed().as_millis(), "upkeep of the repository is done"),
            Err(error) => warn!(error = format!("{error:#}"), "upkeep of the repository failed; tried again later"),
        }
    }
}

fn packs(path: &Path) -> usize {
    let entries = std::fs::read_dir(path.join("objects/pack")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pack")).count()
}

/// About how many loose objects there are: one folder of 256, as Git's own upkeep estimates it.
fn loose(path: &Path) -> usize {
    256 * std::fs::read_dir(path.join("objects/17")).into_iter().flatten().count()
}

/// Rolls small packs and loose objects up into larger packs, reachable or not, and indexes the history.
async fn repack(path: &Path) -> anyhow::Result<()> {
    for arguments in [&["repack", "-d", "-q", "--geometric=2"][..], &["commit-graph", "write", "--reachable"]] {
        let mut git = tokio::process::Command::from(git::command(path));
        let status = git.args(arguments).stdout(Stdio::null()).kill_on_drop(true).status().await?;
        anyhow::ensure!(status.success(), "git {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}
