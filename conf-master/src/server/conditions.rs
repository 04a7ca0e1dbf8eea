//! What keeps conf-master from serving, looked at again and again: file descriptors, the disk, the
//! repository, its key. Each is a condition of `/readyz`. What can be mended is mended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conf_core::http::{Health, no_files_left};
use conf_core::sign::{SigningKey, TrustedKeys};
use git2::Repository;
use libconf::name::{CommitId, RefName};
use parking_lot::Mutex;
use rustix::fs::{StatVfsMountFlags, statvfs};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::landing::{LANDING, Lander, Published};
use crate::store::tip::{self, Standing};
use crate::store::{self, signer};

/// The pause between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// How long a look may take: it reads a few small files.
const PATIENCE: Duration = Duration::from_secs(5);
/// The bytes that must be free on the disk: a push and its landing take less.
const FREE_BYTES: u64 = 4 << 20;

const FILES: &str = "file descriptors";
const DISK: &str = "disk";
const REPOSITORY: &str = "repository";
const LEDGER: &str = "ledger";
const KEY: &str = "key";

/// The conditions of one look, and the problem of each that stands.
type Looked = Vec<(&'static str, Option<String>)>;

/// Looks until `stop`.
pub(crate) async fn run(path: PathBuf, lander: Lander, health: Health, key: TrustedKeys, stop: CancellationToken) {
    let _ = stop.run_until_cancelled(look_on(path, lander, health, key)).await;
}

/// Looks for ever. Something that is wrong twice in a row is mended, where that can be done.
async fn look_on(path: PathBuf, lander: Lander, health: Health, key: TrustedKeys) {
    let failed = Failed::default();
    let mut running: Option<JoinHandle<Looked>> = None;
    let mut moved: Option<String> = None;
    loop {
        let (at, trusted, ledger) = (path.clone(), key.clone(), lander.durable().ledger);
        let published = lander.published.borrow().clone();
        let work = move || look(&at, &trusted, ledger, &published);
        let look = running.get_or_insert_with(|| tokio::task::spawn_blocking(work));
        match tokio::time::timeout(PATIENCE, look).await {
            // The look goes on, and no other one begins.
            Err(_) => health.report(DISK, Some(format!("the disk has not answered for {} s", PATIENCE.as_secs()))),
            Ok(looked) => {
                running = None;
                for (condition, mut problem) in looked.unwrap_or_default() {
                    if condition == LEDGER {
                        // A landing may just move it: what stands says the same twice.
                        let before = std::mem::replace(&mut moved, problem.clone());
                        problem = problem.filter(|problem| before.as_ref() == Some(problem));
                    }
                    if problem.is_some() && health.has(condition) {
                        mend(condition, &path, &lander, &failed).await;
                    }
                    health.report(condition, problem);
                }
            }
        }
        if health.has(LANDING) {
            let _ = tokio::time::timeout(PATIENCE, lander.recover()).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Looks at everything once. Blocks.
fn look(path: &Path, key: &TrustedKeys, ledger: CommitId, published: &Published) -> Looked {
    let files = no_files_left();
    if files.is_some() {
        // Nothing else can be read now.
        return vec![(FILES, files)];
    }
    vec![
        (FILES, None),
        (DISK, disk(path)),
        (REPOSITORY, store::unprepared(path).map(|problem| format!("{problem}; conf-master writes it anew"))),
        (LEDGER, not_there(path, ledger)),
        (KEY, other_key(path, key, published)),
    ]
}

fn disk(path: &Path) -> Option<String> {
    let shown = path.display();
    match statvfs(path) {
        Err(error) => Some(format!("the disk of {shown} cannot be asked for its room: {error}")),
        Ok(disk) if disk.f_flag.contains(StatVfsMountFlags::RDONLY) => Some(format!("{shown} is on a read-only disk")),
        Ok(disk) if disk.f_bavail.saturating_mul(disk.f_frsize) < FREE_BYTES => {
            Some(format!("the disk of {shown} is full: less than {} MiB are free", FREE_BYTES >> 20))
        }
        Ok(disk) if disk.f_files > 0 && disk.f_favail == 0 => {
            Some(format!("the disk of {shown} can hold no more files: all inodes are in use"))
        }
        Ok(_) => None,
    }
}

/// Says that the ledger's ref is not where this server has put it.
fn not_there(path: &Path, ledger: CommitId) -> Option<String> {
    let name = RefName::Ledger;
    let standing = match Repository::open_bare(path) {
        Ok(repo) => tip::standing(&repo, ledger),
        Err(error) => Standing::Lost(error.message().to_owned()),
    };
    match standing {
        Standing::Here => None,
        Standing::Lost(why) => Some(format!("{name} cannot be read: {why}; conf-master writes it anew")),
        Standing::Earlier(found) => {
            Some(format!("{name} fell back to {found}, a change before {ledger}; conf-master writes it anew"))
        }
        Standing::Later(found) => Some(format!(
            "{name} was moved to {found} behind this server's back, and it is at {ledger}; start conf-master again"
        )),
        Standing::Elsewhere(found) => Some(format!(
            "{name} was moved to {found} behind this server's back, and does not contain {ledger}, the last change; put it \
             back: `git --git-dir '{}' update-ref {name} {ledger}`",
            path.display()
        )),
    }
}

/// Says that a key is on the disk with which the next start would be refused. A new one may be
/// there while keys are changed.
fn other_key(path: &Path, key: &TrustedKeys, published: &Published) -> Option<String> {
    let file = store::key_path(path);
    let refused = |found: &SigningKey| {
        let newest = published.datacenters.values().max_by_key(|snapshot| snapshot.sequence);
        signer::check_with(&Repository::open_bare(path)?, newest, found, &file)
    };
    match SigningKey::load(&file) {
        Ok(found) if key.trusts(&found) => None,
        Ok(found) => refused(&found).err().map(|error| {
            let shown = file.display();
            format!(
                "{shown} holds another key than this server signs with, and the next start would be refused: {error:#}"
            )
        }),
        Err(error) => Some(format!("{error}; put the key back: the next start needs it")),
    }
}

/// Why a condition could not be mended last; the log has each reason once.
type Failed = Arc<Mutex<BTreeMap<&'static str, String>>>;

/// Writes anew what is known to be good.
async fn mend(condition: &'static str, path: &Path, lander: &Lander, failed: &Failed) {
    let (path, ledger, failed) = (path.to_owned(), lander.durable().ledger, failed.clone());
    let work = move || {
        let done = match condition {
            REPOSITORY => store::prepare(&path),
            LEDGER => match tip::put_back(&path, ledger) {
                Ok(false) => return,
                done => done.map(drop),
            },
            _ => return,
        };
        match done {
            Ok(()) => {
                failed.lock().remove(condition);
                warn!(condition, "written anew");
            }
            Err(error) => {
                let error = format!("{error:#}");
                if failed.lock().insert(condition, error.clone()).as_ref() != Some(&error) {
                    error!(condition, error, "cannot be written anew");
                }
            }
        }
    };
    // Without a landing meanwhile: it would move the ledger.
    let _ = tokio::time::timeout(PATIENCE, lander.exclusively(work)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{ChangeLimits, Judge, MaxShrink, ReportingHosts};
    use crate::landing;
    use crate::secrets::SecretStore;
    use conf_core::daemon::Metrics;
    use conf_core::git::TreeLimits;
    use conf_core::git_http::{UploadLimits, UploadPack};

    #[tokio::test]
    async fn a_stop_does_not_wait_for_a_busy_landing_thread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("central.git");
        store::init(&path).unwrap();
        let (metrics, limits) = (Metrics::new("test", "0"), TreeLimits::landing());
        let health = Health::new(metrics.clone());
        let limits = ChangeLimits { tree: limits, levels: 32, shrink: MaxShrink(50) };
        let judge = Arc::new(Judge::new(limits, SecretStore::default(), ReportingHosts::default()));
        let upload = UploadPack::new(path.clone(), UploadLimits::default());
        let (lander, thread) = landing::start(&path, judge, upload, &metrics, health.clone()).unwrap();
        let trusted = TrustedKeys::of(&SigningKey::load(&store::key_path(&path)).unwrap());
        // It is asked to recover, and cannot answer.
        health.report(LANDING, Some("the last one failed".to_owned()));
        let (go_on, told) = std::sync::mpsc::channel::<()>();
        let busy = lander.clone();
        let busy = tokio::spawn(async move { busy.exclusively(move || assert!(told.recv().is_err())).await });
        let stop = CancellationToken::new();
        let looking = tokio::spawn(run(path, lander, health, trusted, stop.clone()));
        stop.cancel();
        tokio::time::timeout(PATIENCE / 2, looking).await.expect("it ends at once").unwrap();
        drop(go_on);
        busy.await.unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }
}
