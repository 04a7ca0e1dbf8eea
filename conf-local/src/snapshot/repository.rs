//! The objects of the datacenter's snapshots on this host: kept whole, or set aside and fetched anew.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use conf_core::{
    git::{self, GitError, LockError, PooledRepository, RepositoryLock, RepositoryPool},
    sign::TrustedKeys,
    snapshot::Snapshot,
};
use git2::ObjectType;
use libconf::name::{CommitId, DatacenterName, RefName, Sequence};

/// The repository of this host, held by this agent alone.
#[derive(Debug)]
pub struct Repository {
    opened: RepositoryPool,
    own: PathBuf,
    datacenter: DatacenterName,
    /// Held until the agent ends.
    lock: RepositoryLock,
}

/// Nobody else reads these, so nothing is to be done in the background.
const SETTINGS: &[(&str, &str)] = &[
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("core.logAllRefUpdates", "false"),
    ("transfer.fsckObjects", "true"),
];

impl Repository {
    /// Opens `<state>/repo.git`, or `existing` in its place, and holds it. One of our own that cannot be opened is set
    /// aside and begun anew; one that was given is left as it is, with an error.
    pub fn open(state: &Path, existing: Option<&Path>, datacenter: &DatacenterName) -> Result<Self, RepositoryError> {
        let own = state.join("repo.git");
        let path = match existing {
            Some(path) if path.join("HEAD").exists() => {
                git2::Repository::open_bare(path)
                    .map_err(|cause| RepositoryError::Given { path: path.to_owned(), cause })?;
                path.to_owned()
            }
            Some(path) if path.join(".git/HEAD").exists() => {
                return Err(RepositoryError::Worktree { path: path.to_owned() });
            }
            Some(path) => {
                git::init(path, SETTINGS)?;
                path.to_owned()
            }
            None => {
                if let Err(error) = git::init(&own, SETTINGS) {
                    tracing::warn!(error = %conf_core::daemon::chain(&error), "the repository cannot be opened; begun anew");
                    set_aside(&own)?;
                    git::init(&own, SETTINGS)?;
                }
                // libgit2 does without it, Git's own commands do not.
                let head = own.join("HEAD");
                if fs::read_to_string(&head).is_ok_and(|text| !text.starts_with("ref: refs/")) {
                    git::replace_file(&head, b"ref: refs/heads/main\n", git::Durability::Durable)
                        .map_err(|cause| RepositoryError::Aside { path: head, cause })?;
                }
                own.clone()
            }
        };
        let lock = git::lock_alone(&path)?;
        Ok(Repository { opened: RepositoryPool::at(path), own, datacenter: datacenter.clone(), lock })
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.opened.path()
    }

    /// What keeps it open, for whoever fetches into it.
    pub fn opened(&self) -> RepositoryPool {
        self.opened.clone()
    }

    /// The open repository, for reading and writing objects.
    pub fn git(&self) -> Result<PooledRepository, git2::Error> {
        self.opened.lend()
    }

    /// The newest good snapshot of this datacenter that is here: what its ref names, or `HEAD` of a clone.
    pub fn newest(&self, keys: &TrustedKeys) -> Option<Snapshot> {
        let repo = self.git().ok()?;
        let candidates = [RefName::Snapshot(self.datacenter.clone()).to_string(), "HEAD".to_owned()];
        let commits = candidates.iter().filter_map(|name| repo.find_reference(name).ok()?.peel_to_commit().ok());
        commits
            .filter_map(|commit| Snapshot::verify(&repo, commit.id().into(), keys, &self.datacenter).ok())
            .max_by_key(|snapshot| snapshot.sequence)
    }

    /// A snapshot is accepted: its ref names it from now on, so that a restart knows it.
    pub fn record(&self, repo: &git2::Repository, snapshot: &Snapshot) -> Result<(), git2::Error> {
        let name = RefName::Snapshot(self.datacenter.clone()).to_string();
        let words = format!("accepted #{}", snapshot.sequence);
        repo.reference(&name, snapshot.commit.into(), true, &words).map(drop)
    }

    /// True when the snapshot before `snapshot` leads to `known`, or when the commits between are not here.
    pub fn descends(
        &self,
        repo: &git2::Repository,
        snapshot: &Snapshot,
        known: (Sequence, CommitId),
    ) -> Result<bool, git2::Error> {
        let mut parent = snapshot.parent;
        while let Some(commit) = parent {
            if commit == known.1 {
                return Ok(true);
            }
            // What a signed snapshot names as its parent needs no signature of its own.
            let Ok(before) = Snapshot::read(repo, commit) else { return Ok(true) };
            if before.sequence <= known.0 {
                return Ok(false);
            }
            parent = before.parent;
        }
        Ok(false)
    }

    /// True when every object of a snapshot is present; reads none of them.
    pub fn is_complete(&self, commit: CommitId) -> bool {
        self.git().is_ok_and(|repo| git::complete(&repo, None, commit).is_ok())
    }

    /// Reads every object of a snapshot; answers how many, and which are missing or damaged.
    pub fn check(&self, commit: CommitId) -> (usize, Vec<String>) {
        match self.git() {
            Ok(repo) => check(&repo, commit),
            Err(error) => (0, vec![format!("the repository cannot be opened: {error}")]),
        }
    }

    /// Puts the damaged repository aside (the last such one goes) and begins an empty one. One that was given with
    /// `--git-dir` stays untouched; `<state>/repo.git` is used in its place.
    pub fn begin_anew(&mut self) -> Result<(), RepositoryError> {
        self.opened.forget();
        if self.path() == self.own {
            set_aside(&self.own)?;
        }
        git::init(&self.own, SETTINGS)?;
        self.lock = git::lock_alone(&self.own)?;
        self.opened.move_to(&self.own);
        Ok(())
    }

    /// Closes what stays open otherwise.
    pub fn close(&self) {
        self.opened.forget();
    }

    /// Many packs become one that holds the kept snapshots alone, when it is time. Never in a repository that was given.
    pub fn consolidate(&self, keep: &[CommitId]) -> Result<bool, git::ConsolidateError> {
        if self.path() != self.own {
            return Ok(false);
        }
        let done = git::consolidate(&self.path(), keep);
        if !matches!(done, Ok(false)) {
            self.opened.forget();
        }
        done
    }
}

fn check(repo: &git2::Repository, commit: CommitId) -> (usize, Vec<String>) {
    let (mut read, mut problems) = (0, Vec::new());
    let odb = match repo.odb() {
        Ok(odb) => odb,
        Err(error) => return (0, vec![format!("the objects cannot be opened: {error}")]),
    };
    let mut seen = HashSet::new();
    let mut pending = vec![(git2::Oid::from(commit), ObjectType::Commit)];
    while let Some((id, kind)) = pending.pop() {
        // Every damage has the same cure, so a few are enough to tell of.
        if !seen.insert(id) || problems.len() >= 20 {
            continue;
        }
        // Reading compares the content with its name.
        match odb.read(id) {
            Ok(object) if object.kind() == kind => read += 1,
            Ok(object) => {
                problems.push(format!("object {id} is a {}, not a {kind}", object.kind()));
                continue;
            }
            Err(error) => {
                problems.push(format!("object {id} ({kind}) cannot be read: {}", error.message()));
                continue;
            }
        }
        match kind {
            ObjectType::Commit => match repo.find_commit(id) {
                Ok(commit) => pending.push((commit.tree_id(), ObjectType::Tree)),
                Err(error) => problems.push(format!("commit {id} cannot be read: {}", error.message())),
            },
            ObjectType::Tree => match repo.find_tree(id) {
                Ok(tree) => {
                    pending.extend(tree.iter().filter_map(|entry| Some((entry.id(), entry.kind()?))));
                }
                Err(error) => problems.push(format!("tree {id} cannot be read: {}", error.message())),
            },
            _ => {}
        }
    }
    (read, problems)
}

fn set_aside(path: &Path) -> Result<(), RepositoryError> {
    let aside = path.with_extension("git.damaged");
    let failed = |cause| RepositoryError::Aside { path: path.to_owned(), cause };
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fs::rename(path, &aside).map_err(failed)
}

/// Why the repository of this host cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// It cannot be made or opened.
    #[error(transparent)]
    Open(#[from] GitError),
    /// Another agent holds it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// What `--git-dir` names is no repository.
    #[error("--git-dir {path} is not a repository that can be used; name another, or an empty folder")]
    Given {
        /// What was named.
        path: PathBuf,
        /// Git's words.
        #[source]
        cause: git2::Error,
    },
    /// What `--git-dir` names is a working tree.
    #[error("--git-dir {path} is a working tree; name the .git folder in it")]
    Worktree {
        /// What was named.
        path: PathBuf,
    },
    /// The damaged one cannot be moved away.
    #[error("cannot set the damaged repository {path} aside")]
    Aside {
        /// Which one.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: io::Error,
    },
}
