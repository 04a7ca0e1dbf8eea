//! Git's upkeep of the repository.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use conf_core::{
    daemon::{chain, millis},
    git::{self, LooseObjects},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::landing::Lander;
use crate::server::prune::Pruning;
use crate::store::damage;

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

/// Runs Git's upkeep until `stop`: when small packs have gathered, and hourly. What nothing leads
/// to at two looks, `prune_every` apart, is removed.
pub(crate) async fn run(path: PathBuf, lander: Lander, prune_every: Duration, stop: CancellationToken) {
    let mut pruning = Pruning::new(&path, prune_every);
    let mut last = Instant::now();
    let mut objects = LooseObjects::locked(&path).unwrap_or_default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY.min(prune_every)) => {}
        }
        let at = path.clone();
        let looking = tokio::task::spawn_blocking(move || set_cut_aside(&at, objects));
        objects = looking.await.unwrap_or_default();
        tokio::select! {
            () = stop.cancelled() => return,
            () = pruning.look(&lander) => {}
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
        // The landing thread opens the repository anew, without the packs that went.
        lander.exclusively(|| {}).await;
        match done {
            Ok(()) => info!(took_ms = millis(last.elapsed()), "upkeep of the repository is done"),
            Err(error) => warn!(error = chain(&*error), "upkeep of the repository failed; tried again later"),
        }
    }
}

/// Sets loose objects aside that were cut short since the last look, before libgit2 reads them
/// without end, and says how to mend that.
fn set_cut_aside(path: &Path, mut objects: LooseObjects) -> LooseObjects {
    match objects.set_cut_aside(path) {
        Ok(cut) if cut.is_empty() => {}
        Ok(cut) => {
            let advice = damage::advice(path);
            error!("the repository is damaged: {} cannot be read any more. {advice}", cut.join(", "));
        }
        Err(error) => warn!(%error, "the loose objects cannot be looked at"),
    }
    objects
}

/// Estimates the number of loose objects from one folder of 256, as Git's own upkeep does.
fn loose(path: &Path) -> usize {
    256 * std::fs::read_dir(path.join("objects/17")).into_iter().flatten().count()
}

/// Packs small packs and loose objects into larger packs, reachable or not, and indexes the
/// history.
async fn repack(path: &Path) -> anyhow::Result<()> {
    let private = PrivateGitDir::open(path).context("cannot make the private Git directory")?;
    let repack = &["repack", "-d", "-q", "--geometric=2"][..];
    for (folder, arguments) in [(private.path(), repack), (path, &["commit-graph", "write", "--reachable"])] {
        let mut git = tokio::process::Command::from(git::command(folder));
        let status = git.args(arguments).stdout(Stdio::null()).kill_on_drop(true).status().await?;
        anyhow::ensure!(status.success(), "git {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// A second Git directory over the same objects and refs, in which Git removes packs.
///
/// In the repository itself `extensions.preciousObjects` forbids that to everybody: a `git gc` or
/// `git prune` by hand would drop what a landing has written and not yet linked. This directory is
/// there only while upkeep runs, so that no other program finds it; the next start removes one that
/// a crash left, as it does every `tmp_…`.
struct PrivateGitDir(TempDir);

impl PrivateGitDir {
    fn open(repo: &Path) -> anyhow::Result<Self> {
        let repo = repo.canonicalize()?;
        let folder = tempfile::Builder::new().prefix("tmp_upkeep_").tempdir_in(&repo)?;
        for shared in ["objects", "refs", "packed-refs"] {
            symlink(repo.join(shared), folder.path().join(shared))?;
        }
        for copied in ["HEAD", "config"] {
            fs::copy(repo.join(copied), folder.path().join(copied))?;
        }
        git2::Config::open(&folder.path().join("config"))?.remove("extensions.preciousObjects")?;
        Ok(PrivateGitDir(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upkeep_packs_a_repository_in_which_nobody_else_may_and_keeps_what_nothing_reaches() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("central.git");
        crate::store::init(&path).unwrap();
        let repo = git2::Repository::open_bare(&path).unwrap();
        let who = git2::Signature::now("a", "a@b").unwrap();
        let tree = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
        for number in 0..5 {
            let reference = format!("refs/heads/services/s{number}/master");
            repo.commit(Some(&reference), &who, &who, &number.to_string(), &tree, &[]).unwrap();
            assert!(git::command(&path).args(["repack", "-q"]).status().unwrap().success());
        }
        let unreachable = repo.blob(b"written, and not linked yet").unwrap();
        let before = git::packs(&path).unwrap().len();
        let by_hand = git::command(&path).args(["repack", "-a", "-d"]).output().unwrap();
        assert!(String::from_utf8_lossy(&by_hand.stderr).contains("precious"), "{by_hand:?}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(repack(&path)).unwrap();
        assert!(before >= 5 && git::packs(&path).unwrap().len() < before);
        assert!(git2::Repository::open_bare(&path).unwrap().find_blob(unreachable).is_ok());
        let left = fs::read_dir(&path).unwrap().flatten().map(|entry| entry.file_name());
        assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with("tmp_")));
        // Even a repacking that drops objects works there, with every Git that is supported.
        let private = PrivateGitDir::open(&path).unwrap();
        for arguments in [&["repack", "-a", "-d", "-q"][..], &["prune", "--expire=now"], &["gc", "-q", "--prune=now"]] {
            assert!(git::command(private.path()).args(arguments).status().unwrap().success(), "{arguments:?}");
        }
        let all = git::command(&path).args(["for-each-ref", "--format=%(objecttype)"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&all.stdout).matches("commit").count(), 8, "{all:?}");
    }
}
