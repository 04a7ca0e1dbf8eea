//! Writes the highest sequence, packs the repository and looks for damage.

use std::{path::Path, sync::Arc, time::Duration};

use conf_core::retry::with_jitter;
use conf_core::{
    daemon::{self, chain},
    git,
    git_http::UploadPack,
};
use tokio::{process::Command, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{mirror::Mirror, problems::Problems, upkeep::programs::Programs};

/// Packs above which they are rolled into larger ones; every step adds one.
const MOST_PACKS: usize = 64;
/// The time between two counts of packs and of failed programs.
const COUNT: Duration = Duration::from_secs(4);
/// The shortest time between two searches for damage, which take seconds in a large repository.
const RESPITE: Duration = Duration::from_secs(60);
/// The time between two readings of everything, which find what a disk lost. The first comes soon
/// after the start.
const EXAMINE: Duration = Duration::from_secs(6 * 3600);
/// The time between two removals of unreachable objects.
const COLLECT: Duration = Duration::from_secs(24 * 3600);

/// Writes the highest sequence after every change, until `stop`. A write that has begun still ends.
pub(crate) async fn remember(mirror: Arc<Mirror>, problems: Arc<Problems>, stop: CancellationToken) {
    let mut served = mirror.subscribe();
    served.mark_changed();
    while let Some(Ok(())) = stop.run_until_cancelled(served.changed()).await {
        let mirror = Arc::clone(&mirror);
        let written = daemon::blocking(move || mirror.remember()).await;
        let problem = written.err().map(|error| chain(&error));
        problems.report("state", problem, "the sequence is written down again");
    }
}

/// Runs Git's maintenance when it is due, and asks for a search for damage.
///
/// Cancel: kills a running git.
pub(crate) async fn maintain(mirror: Arc<Mirror>, upload: Arc<UploadPack>, programs: Arc<Programs>) {
    let mut examine = Instant::now() + Duration::from_secs(20).mul_f64(rand::random_range(0.5..1.0));
    let mut collect = Instant::now() + with_jitter(COLLECT);
    let (mut failed, mut not_before) = (upload.counts().failed, Instant::now());
    loop {
        tokio::time::sleep(with_jitter(COUNT)).await;
        // A program that failed while it served may have met damage.
        let (failed_now, now) = (upload.counts().failed, Instant::now());
        if failed_now != failed && now >= not_before || now >= examine {
            (failed, not_before) = (failed_now, now + RESPITE);
            examine = Instant::now() + with_jitter(EXAMINE);
            mirror.suspicion.notify_one();
        }
        let repo = mirror.repo();
        let arguments: &[&str] = if Instant::now() >= collect {
            collect = Instant::now() + with_jitter(COLLECT);
            &["maintenance", "run", "--quiet", "--task=gc"]
        } else if packs(&repo) > MOST_PACKS {
            &["repack", "-d", "--quiet", "--geometric=2"]
        } else {
            continue;
        };
        let mut git = Command::from(git::command(&repo));
        let alone = programs.alone().await;
        mirror.packing();
        let done = git.args(arguments).kill_on_drop(true).output().await;
        mirror.packed();
        drop(alone);
        match done {
            Ok(output) if output.status.success() => {
                tracing::info!(packs = packs(&repo), "packed the mirror");
            }
            Ok(output) => {
                tracing::warn!("git {} failed: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim());
                mirror.suspicion.notify_one();
            }
            Err(cause) => tracing::warn!(%cause, "cannot run git"),
        }
    }
}

fn packs(repo: &Path) -> usize {
    git::pack_paths(repo).map_or(0, |packs| packs.len())
}
