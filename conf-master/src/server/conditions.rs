//! What keeps conf-master from serving, looked at again and again: file descriptors, the disk, the
//! repository, its keys. Each is a condition of `/readyz`. What can be mended is mended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conf_core::daemon::chain;
use conf_core::http::{Health, no_files_left, watch_disks};
use conf_core::secret::Identity;
use conf_core::sign::SigningKey;
use git2::Repository;
use libconf::name::{CommitId, RefName};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::landing::{LANDING, Lander, Published};
use crate::secrets::own_key;
use crate::store::tip::{self, Standing};
use crate::store::{self, signer};

/// The pause between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// How long a look may take: it reads a few small files.
const PATIENCE: Duration = Duration::from_secs(5);

const FILES: &str = "file descriptors";
const REPOSITORY: &str = "repository";
const LEDGER: &str = "ledger";
const REFS: &str = "refs";
const KEY: &str = "key";
const IDENTITY: &str = "key for secrets";

/// What opens secrets.
type Opener = Option<Arc<Identity>>;

/// The conditions of one look, and the problem of each that stands.
type Looked = Vec<(&'static str, Option<String>)>;

/// Looks until `stop`.
pub(crate) async fn run(path: PathBuf, lander: Lander, health: Health, opener: Opener, stop: CancellationToken) {
    let disk = watch_disks(vec![path.clone()], health.clone());
    let looking = async { tokio::join!(disk, look_on(path, lander, health, opener)) };
    let _ = stop.run_until_cancelled(looking).await;
}

/// Looks for ever. Something that is wrong twice in a row is mended, where that can be done.
async fn look_on(path: PathBuf, lander: Lander, health: Health, opener: Opener) {
    let failed = Failed::default();
    let mut running: Option<JoinHandle<Looked>> = None;
    let mut moved: Option<String> = None;
    loop {
        let (at, known, ledger) = (path.clone(), opener.clone(), lander.durable().ledger);
        let published = lander.published.borrow().clone();
        let work = move || look(&at, known.as_deref(), ledger, &published);
        let look = running.get_or_insert_with(|| tokio::task::spawn_blocking(work));
        match tokio::time::timeout(PATIENCE, look).await {
            // The look goes on, and no other one begins.
            Err(_) => {
                let words = format!("the repository has not answered for {} s", PATIENCE.as_secs());
                health.report(REPOSITORY, Some(words));
            }
            Ok(looked) => {
                running = None;
                for (condition, mut problem) in looked.unwrap_or_default() {
                    if condition == LEDGER {
                        // A landing may just move it: what stands says the same twice.
                        let before = std::mem::replace(&mut moved, problem.clone());
                        problem = problem.filter(|problem| before.as_ref() == Some(problem));
                    }
                    if problem.is_some() && health.has(condition) {
                        if condition == REFS {
                            let _ = tokio::time::timeout(PATIENCE, lander.repair()).await;
                        }
                        mend(condition, &path, &lander, opener.clone(), &failed).await;
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
fn look(path: &Path, opener: Option<&Identity>, ledger: CommitId, published: &Published) -> Looked {
    let files = no_files_left();
    if files.is_some() {
        // Nothing else can be read now.
        return vec![(FILES, files)];
    }
    vec![
        (FILES, None),
        (REPOSITORY, store::unprepared(path).map(|problem| format!("{problem}; conf-master writes it anew"))),
        (LEDGER, not_there(path, ledger)),
        (REFS, unlisted(path)),
        (KEY, other_key(path, published)),
        (IDENTITY, opener.and_then(|identity| own_key::fault(path, identity))),
    ]
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

/// Says that the refs cannot be read. `main` is one that never moves, so it is in the file of
/// packed refs with most others.
fn unlisted(path: &Path) -> Option<String> {
    let found = Repository::open_bare(path).and_then(|repo| repo.refname_to_id(&RefName::Main.to_string()));
    found
        .err()
        .map(|error| format!("{} cannot be read: {}; conf-master writes the refs anew", RefName::Main, error.message()))
}

/// Says that a key is on the disk with which the next start would be refused. A new one may be
/// there while keys are changed.
fn other_key(path: &Path, published: &Published) -> Option<String> {
    // One that takes another one's place just now is put there by the landing or the next start.
    if signer::next_path(path).exists() {
        return None;
    }
    let (file, key) = (store::key_path(path), published.signer.as_ref()?);
    let refused = |found: &SigningKey| {
        let newest = published.datacenters.values().max_by_key(|snapshot| snapshot.sequence);
        signer::check_with(&Repository::open_bare(path)?, newest, &published.keys, (found, &file))
    };
    match SigningKey::load(&file) {
        Ok(found) if key.fingerprint() == found.fingerprint() => None,
        Ok(found) => refused(&found).err().map(|error| {
            let (shown, why) = (file.display(), chain(&*error));
            format!("{shown} holds another key than this server signs with, and the next start would be refused: {why}")
        }),
        Err(error) => Some(format!("{error}; put the key back: the next start needs it")),
    }
}

/// Why a condition could not be mended last; the log has each reason once.
type Failed = Arc<Mutex<BTreeMap<&'static str, String>>>;

/// Writes anew what is known to be good.
async fn mend(condition: &'static str, path: &Path, lander: &Lander, identity: Opener, failed: &Failed) {
    let (path, ledger, failed) = (path.to_owned(), lander.durable().ledger, failed.clone());
    let work = move || {
        let done = match condition {
            REPOSITORY => store::prepare(&path),
            LEDGER => match tip::put_back(&path, ledger) {
                Ok(false) => return,
                done => done.map(drop),
            },
            IDENTITY => match identity.filter(|_| !store::identity_path(&path).exists()) {
                Some(identity) => own_key::mend(&path, &identity),
                None => return,
            },
            _ => return,
        };
        match done {
            Ok(()) => {
                failed.lock().remove(condition);
                warn!(condition, "written anew");
            }
            Err(error) => {
                let error = chain(&*error);
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
    use crate::judge::{ChangeLimits, Judge, MaxShrink, ReportingHosts, Rights};
    use crate::landing;
    use crate::secrets::SecretStore;
    use conf_core::audit::AuditLog;
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
        let told = landing::Told::new(&metrics, AuditLog::default());
        let (lander, thread) = landing::start(
            &path,
            &judge,
            &store::Landed::new(&path),
            upload,
            told,
            health.clone(),
            landing::Role { rights: Rights::open(), ..landing::Role::default() },
        )
        .unwrap();
        // It is asked to recover, and cannot answer.
        health.report(LANDING, Some("the last one failed".to_owned()));
        let (go_on, told) = std::sync::mpsc::channel::<()>();
        let busy = lander.clone();
        let busy = tokio::spawn(async move { busy.exclusively(move || assert!(told.recv().is_err())).await });
        let stop = CancellationToken::new();
        let looking = tokio::spawn(run(path, lander, health, None, stop.clone()));
        stop.cancel();
        tokio::time::timeout(PATIENCE / 2, looking).await.expect("it ends at once").unwrap();
        drop(go_on);
        busy.await.unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }
}
