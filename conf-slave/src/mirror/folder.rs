//! The state folder on disk: the repository, its refs, and the highest sequence beside it.
//! Everything here blocks.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use conf_core::{
    api::Pointer,
    daemon::{chain, make_folder},
    git::{self, Durability, FetchBounds, RepositoryLock, RepositoryPool, complete},
    sign::TrustedKeys,
    snapshot::{Snapshot, SnapshotError},
};
use git2::{ErrorCode, Repository};
use libconf::name::{CommitId, DatacenterName, RefName};

use crate::mirror::{error::MirrorError, packs::SeenPacks, served::ServedSnapshot};

/// The settings of the repository. This daemon starts maintenance itself, so Git must not.
pub(crate) const SETTINGS: [(&str, &str); 3] =
    [("gc.auto", "0"), ("maintenance.auto", "false"), ("repack.writeBitmaps", "false")];

/// The state folder of one datacenter's mirror.
#[derive(Debug)]
pub(crate) struct StateFolder {
    pub(crate) path: PathBuf,
    pub(crate) datacenter: DatacenterName,
    pub(crate) keys: TrustedKeys,
    /// Bounds what a fetch brings.
    pub(crate) bounds: FetchBounds,
}

/// The state of a repository on disk.
pub(crate) enum Examined {
    Empty,
    Whole(Box<ServedSnapshot>),
    Damaged(String),
}

impl StateFolder {
    /// Returns the path of the bare repository.
    pub(crate) fn repo(&self) -> PathBuf {
        repository_in(&self.path)
    }

    /// Returns a repository that stores no more than a fetch may bring.
    pub(crate) fn bounded(&self, path: PathBuf) -> RepositoryPool {
        let pool = RepositoryPool::at(path);
        pool.bounded(self.bounds);
        pool
    }

    /// Returns a repository that stores no more than a fetch may bring, and only snapshots for this
    /// datacenter that a trusted key signed.
    pub(crate) fn pool(&self, path: PathBuf) -> RepositoryPool {
        let (pool, keys, datacenter) = (self.bounded(path), self.keys.clone(), self.datacenter.clone());
        pool.judging(move |commit, bytes| match Snapshot::verify_bytes(commit, bytes, &keys, &datacenter) {
            // A newer conf-master's is signed, too.
            Ok(_) | Err(SnapshotError::Newer { .. }) => Ok(()),
            Err(error) => Err(chain(&MirrorError::Refused(error))),
        });
        pool
    }

    fn highest_file(&self) -> PathBuf {
        self.path.join("highest")
    }

    fn damaged_repo(&self) -> PathBuf {
        self.path.join("repo.damaged")
    }

    fn reference(&self) -> String {
        RefName::Snapshot(self.datacenter.clone()).to_string()
    }

    /// Returns the full name of the branch that a plain clone checks out.
    pub(crate) fn head_branch(&self) -> String {
        format!("refs/heads/snapshots/{}", self.datacenter)
    }

    /// Opens the repository.
    pub(crate) fn open_repo(&self) -> Result<Repository, MirrorError> {
        Repository::open_bare(self.repo()).map_err(|cause| self.unusable(cause))
    }

    /// Says that libgit2 cannot use the repository.
    pub(crate) fn unusable(&self, cause: git2::Error) -> MirrorError {
        MirrorError::Repository { path: self.repo(), cause }
    }

    /// Reads the snapshot that the ref names, and checks that all of its objects are there.
    pub(crate) fn examine(&self, repo: &Repository) -> Examined {
        // libgit2 opens a repository with an empty HEAD; git does not.
        if let Err(error) = repo.find_reference("HEAD") {
            return Examined::Damaged(chain(&error));
        }
        let commit: CommitId = match repo.find_reference(&self.reference()).and_then(|found| found.peel_to_commit()) {
            Ok(commit) => commit.id().into(),
            // If the ref names an object that is gone, libgit2 says "not found", too.
            Err(error) if error.code() == ErrorCode::NotFound && !self.repo().join(self.reference()).exists() => {
                return Examined::Empty;
            }
            Err(error) => return Examined::Damaged(chain(&error)),
        };
        let whole = Snapshot::verify(repo, commit, &self.keys, &self.datacenter)
            .map_err(|error| chain(&error))
            .and_then(|snapshot| complete(repo, None, commit).map(|()| snapshot).map_err(|error| chain(&error)))
            .and_then(|snapshot| ServedSnapshot::read(repo, snapshot, None).map_err(|error| chain(&error)));
        whole.map_or_else(Examined::Damaged, |served| Examined::Whole(Box::new(served)))
    }

    /// Looks for damage that shows without reading objects. An error describes it.
    pub(crate) fn look(&self, served: CommitId, seen: &mut SeenPacks) -> Result<(), String> {
        let mut look = || -> Result<bool, git2::Error> {
            // An open repository would remember what it has read.
            let repo = Repository::open_bare(self.repo())?;
            repo.find_reference("HEAD")?;
            // The first one reads the file of packed refs, and every folder of the others.
            seen.look_at_refs(repo.path(), || repo.references()?.next().transpose().map(drop))?;
            let found = repo.find_reference(&self.reference())?.peel_to_commit()?;
            found.tree()?;
            Ok(CommitId::from(found.id()) == served)
        };
        match look() {
            Ok(true) => Ok(()),
            Ok(false) => Err("its ref is not where it was put".to_owned()),
            Err(error) => Err(error.message().to_owned()),
        }
    }

    /// Accepts a fetched snapshot, and moves the ref to it. The snapshot must be signed for this
    /// datacenter, and newer than the served snapshot `before` and than the `highest` one ever
    /// served.
    pub(crate) fn accept(
        &self,
        repo: &Repository,
        commit: CommitId,
        before: Option<&ServedSnapshot>,
        highest: Option<Pointer>,
    ) -> Result<ServedSnapshot, MirrorError> {
        let snapshot =
            Snapshot::verify_new(repo, commit, &self.keys, &self.datacenter).map_err(MirrorError::Refused)?;
        let offered = Pointer { sequence: snapshot.sequence, commit };
        let follows = match (before, highest) {
            // A commit names its parents by their content, so one good signature vouches for the
            // whole chain.
            (Some(before), _) => {
                let Snapshot { epoch, sequence, commit: here, .. } = before.snapshot;
                let descends = repo.graph_descendant_of(commit.into(), here.into());
                snapshot.sequence > sequence && descends.map_err(|cause| self.unusable(cause))?
                    || snapshot.succeeds((epoch, sequence), &self.keys)
            }
            (None, Some(highest)) => offered == highest || offered.sequence > highest.sequence,
            (None, None) => true,
        };
        if !follows {
            let here = before.map(ServedSnapshot::pointer).or(highest).unwrap_or(offered);
            return Err(MirrorError::NotForward { offered, here });
        }
        let served = ServedSnapshot::read(repo, snapshot, before).map_err(MirrorError::Refused)?;
        repo.reference(&self.reference(), commit.into(), true, "served").map_err(|cause| self.unusable(cause))?;
        // The first move of HEAD makes clones possible; later ones can wait.
        if repo.head().is_err() {
            self.move_head(repo, commit)?;
        }
        Ok(served)
    }

    /// Moves the branch that a plain clone checks out. HEAD cannot name `refs/snapshots/…` itself:
    /// `git fsck` takes a HEAD that names no branch for damage.
    pub(crate) fn move_head(&self, repo: &Repository, commit: CommitId) -> Result<(), MirrorError> {
        let branch = self.head_branch();
        repo.reference(&branch, commit.into(), true, "served")
            .and_then(|_| repo.set_head(&branch))
            .map_err(|cause| self.unusable(cause))
    }

    /// Reads the highest pointer ever served.
    pub(crate) fn read_highest(&self) -> Option<Pointer> {
        let path = self.highest_file();
        let text = fs::read_to_string(&path).ok()?;
        let highest = text.trim().parse::<Pointer>();
        highest.inspect_err(|error| tracing::warn!(%error, "{} is damaged and counts as absent", path.display())).ok()
    }

    /// Writes the highest pointer ever served, durably.
    pub(crate) fn write_highest(&self, highest: Pointer) -> Result<(), MirrorError> {
        let path = self.highest_file();
        git::replace_file(&path, format!("{highest}\n").as_bytes(), 0o644, Durability::Full)
            .map_err(|cause| MirrorError::File { path, cause })
    }

    /// Moves the damaged repository aside, in place of the one that was moved there before.
    pub(crate) fn set_aside(&self) -> Result<(), MirrorError> {
        self.remove_damaged()?;
        absent_is_done(&self.repo(), fs::rename(self.repo(), self.damaged_repo()))
    }

    /// Removes the repository that was moved aside.
    pub(crate) fn remove_damaged(&self) -> Result<(), MirrorError> {
        remove(&self.damaged_repo())
    }

    /// Puts the repository `fresh` into the place of the present one.
    pub(crate) fn replace_repo(&self, fresh: &Path) -> Result<(), MirrorError> {
        // A rename replaces only an empty folder, so the old repository leaves by a rename of its
        // own. A crash between the two leaves no repository, and the next start clones one.
        self.set_aside()?;
        fs::rename(fresh, self.repo())
            .and_then(|()| git::sync_folder(&self.path))
            .map_err(|cause| MirrorError::File { path: fresh.to_owned(), cause })?;
        self.remove_damaged()
    }
}

/// Returns the path of the bare repository in the folder `state`.
pub(crate) fn repository_in(state: &Path) -> PathBuf {
    state.join("repo.git")
}

/// Makes and locks a folder for a repository.
pub(crate) fn lock_folder(path: &Path) -> Result<RepositoryLock, MirrorError> {
    // Nobody else reads what is in the state folder, which somebody may have removed.
    let made = path.parent().map_or(Ok(()), |state| make_folder(state, 0o700));
    made.and_then(|()| make_folder(path, 0o700)).map_err(|cause| MirrorError::File { path: path.to_owned(), cause })?;
    git::lock(path).map_err(MirrorError::Lock)
}

/// Makes an empty repository, and locks it.
pub(crate) fn create(path: &Path) -> Result<RepositoryLock, MirrorError> {
    let lock = lock_folder(path)?;
    git::init(path, &SETTINGS).map_err(MirrorError::Create)?;
    Ok(lock)
}

/// Removes a folder with all that is in it.
pub(crate) fn remove(path: &Path) -> Result<(), MirrorError> {
    absent_is_done(path, fs::remove_dir_all(path))
}

fn absent_is_done(path: &Path, done: io::Result<()>) -> Result<(), MirrorError> {
    match done {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(MirrorError::File { path: path.to_owned(), cause })
        }
        _ => Ok(()),
    }
}
