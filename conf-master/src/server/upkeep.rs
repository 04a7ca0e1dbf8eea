//! Git's upkeep of the repository.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use conf_core::git;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::landing::Lander;

/// The longest time between two runs of Git's upkeep.
const UPKEEP_EVERY: Duration = Duration::from_secs(3600);
/// The number of packs that starts the upkeep: each push and landing leaves a pack or loose
/// objects, and with more packs each Git program starts slower.
const MOST_PACKS: usize = 40;
/// The number of loose objects that starts the upkeep: an update through the API leaves a dozen,
/// reading many of them is slow, and each takes a block of disk.
const MOST_LOOSE: usize = 20_000;
/// The shortest time between two runs for loose objects: a run takes the disk from landings.
const LOOSE_EVERY: Duration = Duration::from_secs(300);
/// How often the packs are counted.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Runs Git's upkeep until `stop`: when small packs have gathered, and hourly. It drops no object.
pub(crate) async fn run(path: PathBuf, lander: Lander, stop: CancellationToken) {
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let is_crowded = last.elapsed() > LOOSE_EVERY && loose(&path) > MOST_LOOSE;
        if last.elapsed() < UPKEEP_EVERY && git::packs(&path).map_or(0, |packs| packs.len()) < MOST_PACKS && !is_crowded
        {
            continue;
        }
        last = Instant::now();
        let done = tokio::select! {
            () = stop.cancelled() => return,
            done = repack(&path) => done,
        };
        // Refs are packed while nothing lands, because both would lock them.
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

/// Estimates the number of loose objects from one folder of 256, as Git's own upkeep does.
fn loose(path: &Path) -> usize {
    256 * std::fs::read_dir(path.join("objects/17")).into_iter().flatten().count()
}

/// Packs small packs and loose objects into larger packs, reachable or not, and indexes the
/// history.
async fn repack(path: &Path) -> anyhow::Result<()> {
    for arguments in [&["repack", "-d", "-q", "--geometric=2"][..], &["commit-graph", "write", "--reachable"]] {
        let mut git = tokio::process::Command::from(git::command(path));
        let status = git.args(arguments).stdout(Stdio::null()).kill_on_drop(true).status().await?;
        anyhow::ensure!(status.success(), "git {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}
