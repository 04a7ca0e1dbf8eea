//! Repositories that stay open: opening one reads configuration files, and the index of every pack
//! that it looks into.

use std::{fs::File, io, ops::Deref, path::PathBuf, sync::Arc};

use git2::Repository;
use libconf::name::CommitId;
use parking_lot::Mutex;

use crate::git::meter::FetchBounds;

/// The most uses of an open repository. It remembers all that it has read, and every pack that it
/// has met, so it is opened anew now and then.
const MOST_USES: u32 = 512;

/// The most files that wait until their owner makes them durable. With more, the next pack is made
/// durable as it is added.
const MOST_UNSYNCED: usize = 48;

/// Lends an open repository to one caller after the other; a caller that comes meanwhile gets
/// another one, opened for it.
///
/// Objects that others add are found: libgit2 looks for new packs before it reports an object
/// missing. After removing packs, call [`RepositoryPool::forget`].
#[derive(Clone)]
pub struct RepositoryPool(Arc<Mutex<Idle>>);

/// Says why nothing may be written into the repository now.
type Guard = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// Says in words why a commit is not taken, by its bytes.
pub(crate) type Judge = Arc<dyn Fn(CommitId, &[u8]) -> Result<(), String> + Send + Sync>;

struct Idle {
    path: PathBuf,
    guard: Option<Guard>,
    judge: Option<Judge>,
    bounds: FetchBounds,
    repository: Option<(Repository, u32)>,
    /// Rises with each [`RepositoryPool::forget`]: a repository lent before it does not come back
    /// after it.
    age: u64,
    /// The files and folders of added packs that are not durable yet; `None` where every pack is
    /// made durable as it is added.
    unsynced: Option<Vec<File>>,
}

/// An open repository, until it is dropped.
pub struct PooledRepository {
    /// `None` only while it is dropped.
    repository: Option<Repository>,
    uses: u32,
    age: u64,
    home: Arc<Mutex<Idle>>,
}

impl RepositoryPool {
    /// A pool for the bare repository at `path`; opens nothing yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let (path, bounds) = (path.into(), FetchBounds::HISTORY);
        let idle = Idle { path, guard: None, judge: None, bounds, repository: None, age: 0, unsynced: None };
        RepositoryPool(Arc::new(Mutex::new(idle)))
    }

    /// Has fetches store nothing while `guard` returns an error: the folder may be another
    /// program's by then. `guard` blocks at most as a look at a file does.
    pub fn behind(&self, guard: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
        self.0.lock().guard = Some(Arc::new(guard));
    }

    /// Bounds what each fetch brings.
    pub fn bounded(&self, bounds: FetchBounds) {
        self.0.lock().bounds = bounds;
    }

    /// Has fetches store only what belongs to a commit that `judge` takes, by its bytes; its error
    /// is in words. It is asked about each wanted commit that arrives, before anything is stored.
    pub fn judging(&self, judge: impl Fn(CommitId, &[u8]) -> Result<(), String> + Send + Sync + 'static) {
        self.0.lock().judge = Some(Arc::new(judge));
    }

    /// The bounds of a fetch, and who judges what it brings.
    pub(crate) fn terms(&self) -> (FetchBounds, Option<Judge>) {
        let idle = self.0.lock();
        (idle.bounds, idle.judge.clone())
    }

    /// An error while nothing may be written.
    pub(crate) fn expect_ours(&self) -> io::Result<()> {
        let guard = self.0.lock().guard.clone();
        guard.map_or(Ok(()), |guard| guard())
    }

    /// Leaves it to the owner to make the packs of steps durable: [`RepositoryPool::take_unsynced`]
    /// has their files. [`remove_torn_packs`](crate::git::remove_torn_packs) removes one that a
    /// power cut has torn before that.
    pub fn syncing_later(&self) {
        self.0.lock().unsynced.get_or_insert_default();
    }

    /// Returns the files and folders that were added since the last call and are not durable yet.
    pub fn take_unsynced(&self) -> Vec<File> {
        self.0.lock().unsynced.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// True if the owner makes the next pack durable.
    pub(crate) fn is_synced_later(&self) -> bool {
        self.0.lock().unsynced.as_ref().is_some_and(|unsynced| unsynced.len() < MOST_UNSYNCED)
    }

    /// Leaves files and folders to the owner.
    pub fn leave_unsynced(&self, files: Vec<File>) {
        self.0.lock().unsynced.get_or_insert_default().extend(files);
    }

    /// The path of the repository now.
    pub fn path(&self) -> PathBuf {
        self.0.lock().path.clone()
    }

    /// Makes all clones of the pool use the bare repository at `path` from now on.
    pub fn move_to(&self, path: impl Into<PathBuf>) {
        self.0.lock().path = path.into();
        self.forget();
    }

    /// Lends the open repository, or opens one now. Blocks.
    pub fn lend(&self) -> Result<PooledRepository, git2::Error> {
        let (idle, age, path) = {
            let mut idle = self.0.lock();
            (idle.repository.take(), idle.age, idle.path.clone())
        };
        let (repository, uses) = match idle {
            Some(idle) => idle,
            None => (Repository::open_bare(path)?, 0),
        };
        Ok(PooledRepository { repository: Some(repository), uses: uses + 1, age, home: self.0.clone() })
    }

    /// Closes the open repository if it was used so many times: it keeps all packs that it has
    /// looked into.
    pub fn forget_after(&self, most: u32) {
        self.0.lock().repository.take_if(|(_, uses)| *uses >= most);
    }

    /// Closes the open repository, and every lent one as soon as it comes back.
    pub fn forget(&self) {
        let mut idle = self.0.lock();
        idle.age += 1;
        idle.repository = None;
    }
}

impl From<PathBuf> for RepositoryPool {
    fn from(path: PathBuf) -> Self {
        RepositoryPool::at(path)
    }
}

impl std::fmt::Debug for RepositoryPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RepositoryPool").field(&self.path()).finish()
    }
}

impl Deref for PooledRepository {
    type Target = Repository;

    fn deref(&self) -> &Repository {
        self.repository.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for PooledRepository {
    fn drop(&mut self) {
        let Some(repository) = self.repository.take() else { return };
        let mut idle = self.home.lock();
        if idle.age == self.age && self.uses < MOST_USES && idle.repository.is_none() {
            idle.repository = Some((repository, self.uses));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_stays_open_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        Repository::init_bare(folder.path()).unwrap();
        let opened = RepositoryPool::at(folder.path());
        let is_open = || opened.0.lock().repository.is_some();
        let (one, other) = (opened.lend().unwrap(), opened.lend().unwrap());
        assert!(!is_open());
        drop(one);
        assert!(is_open());
        drop(other);
        let lent = opened.lend().unwrap();
        opened.forget();
        drop(lent);
        assert!(!is_open(), "what was lent before is not kept");
        opened.lend().unwrap();
        opened.forget_after(2);
        assert!(is_open());
        opened.forget_after(1);
        assert!(!is_open(), "it was used once");
        for _ in 0..MOST_USES - 1 {
            opened.lend().unwrap();
            assert!(is_open());
        }
        opened.lend().unwrap();
        assert!(!is_open(), "it is opened anew now and then");
    }

    #[test]
    fn every_clone_follows_a_move() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        let blob = Repository::init_bare(&other).unwrap().blob(b"there").unwrap();
        Repository::init_bare(&one).unwrap();
        let opened = RepositoryPool::at(&one);
        let second = opened.clone();
        let lent = second.lend().unwrap();
        opened.move_to(&other);
        assert!(lent.find_blob(blob).is_err(), "what is lent stays what it is");
        drop(lent);
        assert!(second.lend().unwrap().find_blob(blob).is_ok());
        assert_eq!(second.path(), other);
    }

    #[test]
    fn objects_that_others_add_or_repack_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let other = Repository::init_bare(folder.path()).unwrap();
        let repack = || {
            let packed = crate::git::command(folder.path()).args(["repack", "-a", "-d", "-q", "-k"]).status();
            assert!(packed.unwrap().success());
        };
        let opened = RepositoryPool::at(folder.path());
        let mut blobs = Vec::new();
        for round in 0..3 {
            blobs.push(other.blob(format!("{round}").as_bytes()).unwrap());
            repack();
            let here = opened.lend().unwrap();
            for blob in &blobs {
                assert!(here.find_blob(*blob).is_ok(), "{round}");
            }
        }
    }
}
