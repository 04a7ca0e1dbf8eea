//! What keeps the mirror healthy beside the way of a change: remembering the sequence, packing, looking for damage.

use std::{fs, path::Path, sync::Arc, time::Duration};

use conf_core::{daemon::chain, git, git_http::UploadPack};
use tokio::{process::Command, sync::Notify, task::spawn_blocking, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{mirror::Mirror, problems::Problems, publish::with_jitter};

/// Every step adds a pack; so many are rolled into larger ones.
const MOST_PACKS: usize = 64;
/// How often packs, and programs that died, are counted.
const COUNT: Duration = Duration::from_secs(4);
/// Looking for damage takes seconds when there is much: so long apart at least.
const RESPITE: Duration = Duration::from_secs(60);
/// How often everything is read once, to find what a disk did to it; the first time soon after the start.
const EXAMINE: Duration = Duration::from_secs(6 * 3600);
/// How often what nothing reaches any more is dropped.
const COLLECT: Duration = Duration::from_secs(24 * 3600);

/// Writes the highest sequence down after every change, until `stop`.
pub async fn remember(mirror: Arc<Mirror>, problems: Arc<Problems>, stop: CancellationToken) {
    const TOPIC: &str = "state";
    let mut serving = mirror.subscribe();
    serving.mark_changed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = serving.changed() => if changed.is_err() { return },
        }
        let mirror = Arc::clone(&mirror);
        match spawn_blocking(move || mirror.remember()).await.expect("writing does not panic") {
            Ok(()) => problems.clear(TOPIC, "the sequence is written down again"),
            Err(error) => problems.set(TOPIC, chain(&error)),
        }
    }
}

/// Starts Git's own maintenance when there is something to do, and looks for damage, until `stop`.
pub async fn maintain(mirror: Arc<Mirror>, upload: Arc<UploadPack>, doubt: Arc<Notify>, stop: CancellationToken) {
    let mut examine = Instant::now() + Duration::from_secs(20).mul_f64(rand::random_range(0.5..1.0));
    let mut collect = Instant::now() + with_jitter(COLLECT);
    let (mut failed, mut not_before) = (upload.counts().failed, Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(with_jitter(COUNT)) => {}
        }
        // A program that died while it served may have met damage.
        let (failed_now, now) = (upload.counts().failed, Instant::now());
        if failed_now != failed && now >= not_before || now >= examine {
            (failed, not_before) = (failed_now, now + RESPITE);
            examine = Instant::now() + with_jitter(EXAMINE);
            doubt.notify_one();
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
        git.args(arguments).kill_on_drop(true);
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = git.output() => ended,
        };
        match ended {
            Ok(output) if output.status.success() => tracing::info!(packs = packs(&repo), "packed the mirror"),
            Ok(output) => {
                tracing::warn!("git {} failed: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim());
                doubt.notify_one();
            }
            Err(cause) => tracing::warn!(%cause, "cannot run git"),
        }
    }
}

fn packs(repo: &Path) -> usize {
    let Ok(entries) = fs::read_dir(repo.join("objects/pack")) else { return 0 };
    entries.flatten().filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pack")).count()
}
