//! What keeps conf-master from serving, looked at again and again: file descriptors, the disk, the
//! repository, its key. Each is a condition of `/readyz`. What can be mended is mended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use conf_core::http::{Health, no_files_left};
use conf_core::sign::{SigningKey, TrustedKeys};
use git2::Repository;
use libconf::name::{CommitId, RefName};
use rustix::fs::{StatVfsMountFlags, statvfs};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::landing::{LANDING, Lander};
use crate::store;
use crate::store::tip::{self, Standing};

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

/// Looks until `stop`. Something that is wrong twice in a row is mended, where that can be done.
pub(crate) async fn run(path: PathBuf, lander: Lander, health: Health, key: TrustedKeys, stop: CancellationToken) {
    let mut running: Option<JoinHandle<Looked>> = None;
    let mut moved: Option<String> = None;
    loop {
        let (at, trusted, ledger) = (path.clone(), key.clone(), lander.durable().ledger);
        let look = running.get_or_insert_with(|| tokio::task::spawn_blocking(move || look(&at, &trusted, ledger)));
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
                        mend(condition, &path, &lander).await;
                    }
                    health.report(condition, problem);
                }
            }
        }
        if health.has(LANDING) {
            let _ = tokio::time::timeout(PATIENCE, lander.recover()).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Looks at everything once. Blocks.
fn look(path: &Path, key: &TrustedKeys, ledger: CommitId) -> Looked {
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
        (KEY, other_key(path, key)),
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

/// Says that another key is on the disk than the one that this server signs with.
fn other_key(path: &Path, key: &TrustedKeys) -> Option<String> {
    let file = store::key_path(path);
    match SigningKey::load(&file) {
        Ok(found) if key.trusts(&found) => None,
        Ok(_) => Some(format!(
            "{} holds another key than this server signs with, and the next start would be refused; put the right key back",
            file.display()
        )),
        Err(error) => Some(format!("{error}; put the key back: the next start needs it")),
    }
}

/// Writes anew what is known to be good.
async fn mend(condition: &'static str, path: &Path, lander: &Lander) {
    let (path, ledger) = (path.to_owned(), lander.durable().ledger);
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
            Ok(()) => warn!(condition, "written anew"),
            Err(error) => error!(condition, error = format!("{error:#}"), "cannot be written anew"),
        }
    };
    // Without a landing meanwhile: it would move the ledger.
    let _ = tokio::time::timeout(PATIENCE, lander.exclusively(work)).await;
}
