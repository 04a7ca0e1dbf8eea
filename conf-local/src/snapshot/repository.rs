//! The repository with the objects of the datacenter's snapshots. A damaged one is set aside, and
//! its objects are fetched anew.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use conf_core::{
    daemon::{chain, make_folder},
    git::{self, ConsolidateError, Durability, LooseObjects, PooledRepository, RepositoryLock, RepositoryPool},
    http::no_files_left,
    sign::TrustedKeys,
    snapshot::Snapshot,
};
use git2::{ErrorClass, ErrorCode, ObjectType};
use libconf::name::{CommitId, DatacenterName, RefName};

use crate::fs::{Entry, Fingerprint, Folder, make_state_folder};

/// The repository of this host, locked by this agent.
pub(crate) struct Repository {
    pub(crate) pool: RepositoryPool,
    /// `<state>/repo.git`, even where `--git-dir` names another repository.
    own: PathBuf,
    datacenter: DatacenterName,
    /// Held until the agent ends.
    lock: RepositoryLock,
    /// The snapshot that the ref names.
    recorded: Option<CommitId>,
    /// The packs when everything in them was last right.
    packs: BTreeMap<PathBuf, u64>,
    loose: LooseObjects,
    /// The calls of `consolidate` since the packs were last counted.
    uncounted: u32,
}

/// 8 changes, each of which adds a pack: then the packs are counted.
const COUNT_AFTER: u32 = if cfg!(test) { 1 } else { 8 };

/// What a look at a repository shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    Whole,
    /// What is wrong, each in one sentence.
    Damaged(Vec<String>),
    /// The system refuses to let it be read now, which says nothing of it: why.
    Hidden(String),
}

/// The result of reading every object of a snapshot.
#[derive(Default)]
pub(crate) struct Checked {
    /// The number of good objects.
    pub(crate) read: usize,
    /// What is missing or damaged.
    pub(crate) problems: Vec<String>,
    /// The system refused to let some of it be read.
    is_hidden: bool,
}

/// No other program uses the repository, so Git needs no background work.
const SETTINGS: &[(&str, &str)] = &[
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("core.logAllRefUpdates", "false"),
    ("transfer.fsckObjects", "true"),
];

impl Repository {
    /// Opens and locks `<state>/repo.git`, or `existing` in its place. If `<state>/repo.git` cannot
    /// be opened, it is set aside and a new one is created. If `existing` cannot, that is an error.
    pub(crate) fn open(state: &Path, existing: Option<&Path>, datacenter: &DatacenterName) -> anyhow::Result<Self> {
        let own = state.join("repo.git");
        let path = if let Some(path) = existing {
            open_given(path)?;
            path
        } else {
            if let Err(error) = create(&own) {
                if is_passing_any(&error) {
                    return Err(error);
                }
                tracing::warn!(error = chain(&*error), "the repository cannot be opened; creating a new one");
                // Perhaps only a small file is damaged, and all objects are whole.
                if remove_all(&own, &["config", "HEAD"]).is_err() || create(&own).is_err() {
                    set_aside(&own, false)?;
                    create(&own)?;
                }
            }
            // Git's own commands need a valid HEAD, libgit2 does not.
            let head = own.join("HEAD");
            if fs::read_to_string(&head).is_ok_and(|text| !text.starts_with("ref: refs/")) {
                git::replace_file(&head, b"ref: refs/heads/main\n", 0o644, Durability::Full)
                    .with_context(|| format!("cannot replace {}", head.display()))?;
            }
            &own
        };
        let lock = git::lock_alone(path)?;
        let pool = RepositoryPool::at(path.to_owned());
        if path == own {
            git::remove_torn_packs(path).with_context(|| format!("cannot look at the packs of {}", path.display()))?;
            // The host transaction makes them durable, with all else that it writes.
            pool.syncing_later();
        }
        let mut opened = Repository {
            loose: LooseObjects::locked(path).unwrap_or_default(),
            pool,
            own,
            datacenter: datacenter.clone(),
            lock,
            recorded: None,
            packs: BTreeMap::new(),
            uncounted: COUNT_AFTER,
        };
        opened.recorded = opened.git().ok().and_then(|git| opened.named_by_ref(&git).ok());
        Ok(opened)
    }

    /// Returns the open repository, for reading and writing objects.
    pub(crate) fn git(&self) -> Result<PooledRepository, git2::Error> {
        self.pool.lend()
    }

    /// Returns the newest good snapshot of this datacenter: the one that its ref names, or `HEAD`
    /// of a clone.
    pub(crate) fn newest(&self, keys: &TrustedKeys) -> Option<Snapshot> {
        let repo = self.git().ok()?;
        let candidates = [RefName::Snapshot(self.datacenter.clone()).to_string(), "HEAD".to_owned()];
        let commits = candidates.iter().filter_map(|name| repo.find_reference(name).ok()?.peel_to_commit().ok());
        commits
            .filter_map(|commit| Snapshot::verify(&repo, commit.id().into(), keys, &self.datacenter).ok())
            .max_by_key(|snapshot| snapshot.sequence)
    }

    /// Records an accepted snapshot: its ref names it from now on, so that it is known after a
    /// restart.
    pub(crate) fn record(&mut self, repo: &git2::Repository, snapshot: &Snapshot) -> Result<(), git2::Error> {
        let name = RefName::Snapshot(self.datacenter.clone()).to_string();
        if self.pool.path() == self.own {
            // Nobody else writes refs here. For libgit2 it would be 30 system calls.
            let path = self.own.join(&name);
            let failed = |cause: io::Error| {
                let words = format!("cannot write {}: {cause}", path.display());
                git2::Error::new(ErrorCode::GenericError, ErrorClass::Os, words)
            };
            let line = format!("{}\n", snapshot.commit);
            let write = || git::overwrite_file(&path, line.as_bytes(), 0o644);
            let written = match write() {
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => {
                    path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| write())
                }
                written => written,
            };
            written.map_err(failed)?;
        } else {
            let words = format!("accepted #{}", snapshot.sequence);
            repo.reference(&name, snapshot.commit.into(), true, &words)?;
        }
        self.recorded = Some(snapshot.commit);
        Ok(())
    }

    fn named_by_ref(&self, repo: &git2::Repository) -> Result<CommitId, git2::Error> {
        let name = RefName::Snapshot(self.datacenter.clone()).to_string();
        Ok(repo.find_reference(&name)?.peel_to_commit()?.id().into())
    }

    /// Looks for damage that shows without reading all objects: folders, refs, the newest snapshot
    /// itself. All objects of it are read only when a pack is not what it was at the last look, or
    /// if the look is `thorough`.
    pub(crate) fn look(&mut self, newest: Option<CommitId>, thorough: bool) -> Looked {
        self.set_cut_aside();
        if let Err(error) = self.look_at_refs(newest) {
            let words = format!("the repository {} is damaged: {}", self.pool.path().display(), error.message());
            return self.looked(vec![words], is_passing(&error));
        }
        let now = packs(&self.pool.path());
        let is_same = self.packs.iter().all(|(pack, seen)| now.get(pack) == Some(seen));
        let is_suspect = thorough || !is_same;
        if is_suspect {
            // The open repository still has what it has read, and packs that are gone.
            self.pool.forget();
        }
        if let Some(newest) = newest.filter(|_| is_suspect) {
            let Checked { problems, is_hidden, .. } = self.check(newest);
            if !problems.is_empty() {
                return self.looked(problems, is_hidden);
            }
        }
        self.packs = now;
        Looked::Whole
    }

    /// Sets what was cut short aside: libgit2 would read it without end. It counts as a lost pack.
    pub(crate) fn set_cut_aside(&mut self) {
        let cut = self.loose.set_cut_aside(&self.pool.path()).unwrap_or_default();
        self.packs.extend(cut.into_iter().map(|object| (object.into(), 0)));
    }

    /// Without descriptors, Git's words may be that an object is missing.
    fn looked(&self, problems: Vec<String>, is_hidden: bool) -> Looked {
        let no_files = no_files_left();
        if !is_hidden && no_files.is_none() {
            return Looked::Damaged(problems);
        }
        let why = no_files.or_else(|| problems.into_iter().next()).unwrap_or_default();
        Looked::Hidden(format!("the repository {} cannot be looked at: {why}", self.pool.path().display()))
    }

    fn look_at_refs(&self, newest: Option<CommitId>) -> Result<(), git2::Error> {
        // An open repository would remember what it has read.
        let repo = git2::Repository::open_bare(self.pool.path())?;
        // The refs of one that `--git-dir` names are its owner's matter.
        if self.pool.path() == self.own {
            repo.find_reference("HEAD")?;
            // The first one reads the file of packed refs.
            repo.references()?.next().transpose()?;
            if let Some(recorded) = self.recorded
                && self.named_by_ref(&repo)? != recorded
            {
                return Err(git2::Error::from_str("its ref is not where it was put"));
            }
        }
        if let Some(newest) = newest {
            repo.find_commit(newest.into())?.tree()?;
        }
        Ok(())
    }

    /// Removes the repository that was set aside as damaged, if there is one.
    pub(crate) fn remove_aside(&self) -> io::Result<()> {
        absent_is_done(fs::remove_dir_all(aside_of(&self.own)))
    }

    /// True if every object of a snapshot is present. Reads none of them.
    pub(crate) fn is_complete(&self, commit: CommitId) -> bool {
        self.git().is_ok_and(|repo| git::complete(&repo, None, commit).is_ok())
    }

    /// Reads every object of a snapshot.
    pub(crate) fn check(&self, commit: CommitId) -> Checked {
        match self.git() {
            Ok(repo) => check(&repo, commit),
            Err(error) => Checked {
                problems: vec![format!("the repository cannot be opened: {}", chain(&error))],
                is_hidden: is_passing(&error),
                ..Checked::default()
            },
        }
    }

    /// Writes refs, `HEAD` and settings anew, and then reads every object of the newest snapshot.
    /// True if it is whole. A repository that `--git-dir` names stays untouched.
    pub(crate) fn write_names_again(&mut self, newest: &Snapshot) -> anyhow::Result<bool> {
        if self.pool.path() != self.own || !self.own.join("objects/pack").is_dir() {
            return Ok(false);
        }
        self.pool.forget();
        remove_all(&self.own, &["config", "packed-refs", "refs", "HEAD"])?;
        create(&self.own)?;
        let Checked { problems, is_hidden, .. } = self.check(newest.commit);
        if !problems.is_empty() {
            return match self.looked(problems, is_hidden) {
                Looked::Hidden(why) => bail!("{why}"),
                _ => Ok(false),
            };
        }
        self.record(&*self.git()?, newest)?;
        Ok(true)
    }

    /// Sets the repository aside, and begins an empty one. Where one was set aside before, the two
    /// are kept apart by `is_good`: only a repository with a good snapshot replaces it. One that
    /// `--git-dir` names stays untouched; `<state>/repo.git` is used in its place.
    pub(crate) fn begin_anew(&mut self, is_good: bool) -> anyhow::Result<()> {
        self.pool.forget();
        // If the system refuses something, it refuses this, before anything is lost.
        let new = self.own.with_extension("git.new");
        absent_is_done(fs::remove_dir_all(&new)).with_context(|| format!("cannot remove {}", new.display()))?;
        create(&new)?;
        let lock = git::lock_alone(&new)?;
        set_aside(&self.own, is_good && self.pool.path() == self.own)?;
        fs::rename(&new, &self.own).with_context(|| format!("cannot rename {}", new.display()))?;
        self.lock = lock;
        self.pool.move_to(&self.own);
        (self.recorded, self.packs, self.loose) = (None, BTreeMap::new(), LooseObjects::default());
        Ok(())
    }

    /// Removes all objects, on a disk that is full, from a repository that is not worth keeping.
    pub(crate) fn clear(&mut self) -> anyhow::Result<()> {
        self.pool.forget();
        if self.pool.path() == self.own {
            remove_all(&self.own, &["objects"])?;
        }
        Ok(())
    }

    /// Replaces many packs by one that holds the kept snapshots alone, if there are enough of them.
    /// Never changes a repository that `--git-dir` names.
    pub(crate) fn consolidate(&mut self, keep: &[CommitId]) -> Result<bool, ConsolidateError> {
        self.uncounted += 1;
        if self.pool.path() != self.own || self.uncounted < COUNT_AFTER {
            return Ok(false);
        }
        let done = git::consolidate(&self.pool.path(), keep);
        // One that failed is tried again with the next call.
        if done.is_ok() {
            self.uncounted = 0;
        }
        if !matches!(done, Ok(false)) {
            self.pool.forget();
            self.packs.clear();
        }
        done
    }
}

/// Opens the repository that `--git-dir` names, or creates it in an empty folder.
fn open_given(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    if path.join("HEAD").exists() {
        git2::Repository::open_bare(path).with_context(|| {
            format!("--git-dir {shown} is not a repository that can be used; name another, or an empty folder")
        })?;
    } else if path.join(".git/HEAD").exists() {
        bail!("--git-dir {shown} is a working tree; name the .git folder in it");
    } else {
        git::init(path, SETTINGS)?;
    }
    Ok(())
}

fn check(repo: &git2::Repository, commit: CommitId) -> Checked {
    let mut checked = Checked::default();
    let mut seen = HashSet::new();
    let mut pending = vec![(git2::Oid::from(commit), ObjectType::Commit)];
    while let Some((id, kind)) = pending.pop() {
        // 20: every damage has the same repair, so that a few are enough to report.
        if !seen.insert(id) || checked.problems.len() >= 20 {
            continue;
        }
        match children(repo, id, kind) {
            Ok(children) => {
                checked.read += 1;
                pending.extend(children);
            }
            Err(error) => {
                checked.is_hidden |= is_passing(&error);
                checked.problems.push(format!("object {id} ({kind}) cannot be read: {}", error.message()));
            }
        }
    }
    checked
}

/// Reads an object, which compares its content with its name, and lists the objects that it names.
fn children(
    repo: &git2::Repository,
    id: git2::Oid,
    kind: ObjectType,
) -> Result<Vec<(git2::Oid, ObjectType)>, git2::Error> {
    let found = repo.odb()?.read(id)?.kind();
    if found != kind {
        return Err(git2::Error::from_str(&format!("it is a {found}")));
    }
    Ok(match kind {
        ObjectType::Commit => vec![(repo.find_commit(id)?.tree_id(), ObjectType::Tree)],
        ObjectType::Tree => {
            let tree = repo.find_tree(id)?;
            tree.iter().filter_map(|entry| Some((entry.id(), entry.kind()?))).collect()
        }
        _ => Vec::new(),
    })
}

/// Creates the repository, or opens it. Nobody but the agent's user has a reason to enter it.
fn create(path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        path.parent().map_or(Ok(()), make_state_folder)?;
        make_folder(path, 0o700)?;
    }
    git::init(path, SETTINGS)?;
    Ok(())
}

/// Moves the damaged repository away. One that is gone needs no moving. One that holds no good
/// snapshot replaces none that was set aside before: it is removed.
fn set_aside(path: &Path, is_good: bool) -> anyhow::Result<()> {
    let aside = aside_of(path);
    let done = if aside.exists() && !is_good {
        absent_is_done(fs::remove_dir_all(path))
    } else {
        absent_is_done(fs::remove_dir_all(&aside)).and_then(|()| absent_is_done(fs::rename(path, &aside)))
    };
    done.with_context(|| format!("cannot set the damaged repository {} aside", path.display()))
}

/// Removes files and folders of a repository, whatever of both is there.
fn remove_all(repo: &Path, names: &[&str]) -> anyhow::Result<()> {
    let remove = |path: &Path| if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    names
        .iter()
        .map(|name| repo.join(name))
        .try_for_each(|path| absent_is_done(remove(&path)).with_context(|| format!("cannot remove {}", path.display())))
}

/// True for an error of the system that may pass, such as a lack of descriptors, of memory, or of a
/// permission: it says nothing of what is in the files.
fn is_passing(error: &git2::Error) -> bool {
    matches!(error.class(), ErrorClass::Os | ErrorClass::NoMemory) && error.code() != ErrorCode::NotFound
}

fn is_passing_any(error: &anyhow::Error) -> bool {
    no_files_left().is_some() || error.chain().filter_map(|one| one.downcast_ref()).any(is_passing)
}

fn aside_of(path: &Path) -> PathBuf {
    path.with_extension("git.damaged")
}

fn absent_is_done(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What the system says of each pack.
fn packs(repo: &Path) -> BTreeMap<PathBuf, u64> {
    let Ok(folder) = Folder::existing(&repo.join("objects/pack")) else { return BTreeMap::new() };
    let of = |(name, _): (String, Entry)| {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add("", folder.stat(&name).ok()?.as_ref());
        Some((PathBuf::from(name), fingerprint.number()))
    };
    let ending = |name: &str| name.rsplit_once('.').map(|(_, ending)| matches!(ending, "pack" | "idx"));
    let is_pack = |(name, _): &(String, Entry)| ending(name) == Some(true);
    folder.entries().unwrap_or_default().into_iter().filter(is_pack).filter_map(of).collect()
}
