//! A repository that stays open: opening one reads configuration files, and the index of every pack that is looked into.

use std::{
    ops::Deref,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use git2::Repository;

/// An open one remembers what it has read, and every pack that it has met: it is opened anew after so many uses.
const MOST_USES: u32 = 512;

/// Lends an open repository to one after the other; whoever comes meanwhile gets another one, opened for that.
///
/// What others add to it is found: libgit2 looks for new packs before it says that an object is not there. Whoever removes
/// packs calls [`RepositoryPool::forget`] afterwards.
#[derive(Clone)]
pub struct RepositoryPool(Arc<Shared>);

struct Shared(Mutex<Idle>);

struct Idle {
    path: PathBuf,
    repository: Option<(Repository, u32)>,
    /// Rises with each [`RepositoryPool::forget`], so that what was lent before is not taken back after it.
    age: u64,
}

/// An open repository, until it is dropped.
pub struct PooledRepository {
    /// Away only while it is dropped.
    repository: Option<Repository>,
    uses: u32,
    age: u64,
    home: Arc<Shared>,
}

impl RepositoryPool {
    /// Of the bare repository at `path`; opens nothing yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        RepositoryPool(Arc::new(Shared(Mutex::new(Idle { path: path.into(), repository: None, age: 0 }))))
    }

    /// Where it is now.
    pub fn path(&self) -> PathBuf {
        self.0.lock().path.clone()
    }

    /// From now on, for all who have it, the bare repository at `path` is meant.
    pub fn move_to(&self, path: impl Into<PathBuf>) {
        self.0.lock().path = path.into();
        self.forget();
    }

    /// The open one, or else one that is opened now. Blocks.
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

    /// Closes it, and whatever is lent as soon as it is given back.
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn one_stays_open_until_it_is_forgotten() {
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
        for _ in 0..MOST_USES - 1 {
            opened.lend().unwrap();
            assert!(is_open());
        }
        opened.lend().unwrap();
        assert!(!is_open(), "it is opened anew now and then");
    }

    #[test]
    fn all_who_have_it_follow_where_it_goes() {
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
    fn what_others_add_is_found_and_what_they_pack_anew() {
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
