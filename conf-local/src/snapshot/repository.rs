//! The repository with the objects of the datacenter's snapshots. A damaged one is set aside, and its
//! objects are fetched anew.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use conf_core::{
    api::SnapshotAt,
    git::{
        self, GitError, LockError, RepositoryLock,
        pool::{Lent, Opened},
    },
    sign::TrustedKeys,
    snapshot::Snapshot,
    upstream::fetch as pack,
};
use git2::ObjectType;
use libconf::name::{CommitId, DatacenterName, RefName};

/// The repository of this host, locked by this agent.
pub(crate) struct Repository {
    pub(crate) pool: Opened,
    /// `<state>/repo.git`, even where `--git-dir` names another repository.
    own: PathBuf,
    datacenter: DatacenterName,
    /// Held until the agent ends.
    lock: RepositoryLock,
}

/// No other program uses the repository, so Git needs no background work.
const SETTINGS: &[(&str, &str)] = &[
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("core.logAllRefUpdates", "false"),
    ("transfer.fsckObjects", "true"),
];

impl Repository {
    /// Opens and locks `<state>/repo.git`, or `existing` in its place. If `<state>/repo.git` cannot be
    /// opened, it is set aside and a new one is created. If `existing` cannot, that is an error.
    pub(crate) fn open(
        state: &Path,
        existing: Option<&Path>,
        datacenter: &DatacenterName,
    ) -> Result<Self, RepositoryError> {
        let own = state.join("repo.git");
        let path = match existing {
            Some(path) => {
                if path.join("HEAD").exists() {
                    git2::Repository::open_bare(path)
                        .map_err(|source| RepositoryError::Given { path: path.to_owned(), source })?;
                } else if path.join(".git/HEAD").exists() {
                    return Err(RepositoryError::Worktree { path: path.to_owned() });
                } else {
                    git::init(path, SETTINGS)?;
                }
                path
            }
            None => {
                if let Err(error) = git::init(&own, SETTINGS) {
                    tracing::warn!(error = %conf_core::daemon::chain(&error), "the repository cannot be opened; creating a new one");
                    set_aside(&own)?;
                    git::init(&own, SETTINGS)?;
                }
                // Git's own commands need a valid HEAD, libgit2 does not.
                let head = own.join("HEAD");
                if fs::read_to_string(&head).is_ok_and(|text| !text.starts_with("ref: refs/")) {
                    git::replace_file(&head, b"ref: refs/heads/main\n")
                        .map_err(|source| RepositoryError::Aside { path: head, source })?;
                }
                &own
            }
        };
        let lock = git::lock_alone(path)?;
        let pool = Opened::at(path.to_owned());
        Ok(Repository { pool, own, datacenter: datacenter.clone(), lock })
    }

    /// Returns the open repository, for reading and writing objects.
    pub(crate) fn git(&self) -> Result<Lent, git2::Error> {
        self.pool.lend()
    }

    /// Returns the newest good snapshot of this datacenter: the one that its ref names, or `HEAD` of a clone.
    pub(crate) fn newest(&self, keys: &TrustedKeys) -> Option<Snapshot> {
        let repo = self.git().ok()?;
        let candidates = [RefName::Snapshot(self.datacenter.clone()).to_string(), "HEAD".to_owned()];
        let commits = candidates.iter().filter_map(|name| repo.find_reference(name).ok()?.peel_to_commit().ok());
        commits
            .filter_map(|commit| Snapshot::verify(&repo, commit.id().into(), keys, &self.datacenter).ok())
            .max_by_key(|snapshot| snapshot.sequence)
    }

    /// Records an accepted snapshot: its ref names it from now on, so that it is known after a restart.
    pub(crate) fn record(&self, repo: &git2::Repository, snapshot: &Snapshot) -> Result<(), git2::Error> {
        let name = RefName::Snapshot(self.datacenter.clone()).to_string();
        let words = format!("accepted #{}", snapshot.sequence);
        repo.reference(&name, snapshot.commit.into(), true, &words).map(drop)
    }

    /// True if every object of a snapshot is present. Reads none of them.
    pub(crate) fn is_complete(&self, commit: CommitId) -> bool {
        self.git().is_ok_and(|repo| pack::complete(&repo, None, commit).is_ok())
    }

    /// Reads every object of a snapshot. Returns their number, and what is missing or damaged.
    pub(crate) fn check(&self, commit: CommitId) -> (usize, Vec<String>) {
        match self.git() {
            Ok(repo) => check(&repo, commit),
            Err(error) => (0, vec![format!("the repository cannot be opened: {error}")]),
        }
    }

    /// Sets the damaged repository aside, where it replaces the last such one, and creates an empty one. One
    /// that `--git-dir` names stays untouched; `<state>/repo.git` is used in its place.
    pub(crate) fn begin_anew(&mut self) -> Result<(), RepositoryError> {
        self.pool.forget();
        if self.pool.path() == self.own {
            set_aside(&self.own)?;
        }
        git::init(&self.own, SETTINGS)?;
        self.lock = git::lock_alone(&self.own)?;
        self.pool.move_to(&self.own);
        Ok(())
    }

    /// Replaces many packs by one that holds the kept snapshots alone, if there are enough of them. Never
    /// changes a repository that `--git-dir` names.
    pub(crate) fn consolidate(&self, keep: &[CommitId]) -> Result<bool, pack::FetchError> {
        if self.pool.path() != self.own {
            return Ok(false);
        }
        let done = pack::consolidate(&self.pool.path(), keep);
        if !matches!(done, Ok(false)) {
            self.pool.forget();
        }
        done
    }
}

/// True if the parents of `snapshot` lead to `known`, or if the commits between are not here.
pub(crate) fn descends(repo: &git2::Repository, snapshot: &Snapshot, known: SnapshotAt) -> bool {
    let mut parent = snapshot.parent;
    while let Some(commit) = parent {
        if commit == known.commit {
            return true;
        }
        // The parent of a signed snapshot needs no signature of its own.
        let Ok(before) = Snapshot::read(repo, commit) else { return true };
        if before.sequence <= known.sequence {
            return false;
        }
        parent = before.parent;
    }
    false
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
        // 20: every damage has the same repair, so that a few are enough to report.
        if !seen.insert(id) || problems.len() >= 20 {
            continue;
        }
        // Reading an object compares its content with its name.
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
    let failed = |source| RepositoryError::Aside { path: path.to_owned(), source };
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fs::rename(path, &aside).map_err(failed)
}

/// Why the repository of this host cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepositoryError {
    /// It cannot be created or opened.
    #[error(transparent)]
    Open(#[from] GitError),
    /// Another agent holds it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// `--git-dir` names no repository.
    #[error("--git-dir {path} is not a repository that can be used; name another, or an empty folder")]
    Given { path: PathBuf, source: git2::Error },
    /// `--git-dir` names a working tree.
    #[error("--git-dir {path} is a working tree; name the .git folder in it")]
    Worktree { path: PathBuf },
    /// The damaged repository cannot be moved away.
    #[error("cannot set the damaged repository {path} aside")]
    Aside { path: PathBuf, source: io::Error },
}
