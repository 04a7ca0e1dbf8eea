//! What landed, and so may be shown to everybody who reads: the refs, and every commit in their
//! history. All else that is in the repository was refused, or came along in a pack.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use conf_core::{daemon::chain, git_http::WantCheck};
use git2::{ObjectType, Odb, Oid, Repository};
use libconf::name::{CommitId, ObjectId, RefName};
use parking_lot::{Mutex, RwLock};
use tracing::warn;

use crate::store::history::Durable;
use crate::store::unreachable;

/// Knows what landed. The parents of the ledger's entries are every tip and every snapshot that
/// ever landed, so the ledger's history is the history of all.
#[derive(Debug)]
pub(crate) struct Landed {
    path: PathBuf,
    /// The refs; until it is given, nothing has landed.
    durable: OnceLock<Arc<RwLock<Durable>>>,
    known: Mutex<Known>,
    /// Objects that are in the repository and did not land, as far as that is known: what came with
    /// a refused ref, and what a look for unreachable objects found. Each takes some 30 bytes.
    apart: Mutex<Arc<HashSet<Oid>>>,
    /// Objects of `apart` that a push has brought since they were [taken](Landed::take_again): they
    /// may be about to land.
    again: Mutex<HashSet<Oid>>,
    /// Whether a look has ended since the start: before it, `apart` tells nothing.
    has_looked: AtomicBool,
    /// One looks at a time.
    looking: Mutex<()>,
}

/// The commits that were found so far: some 30 bytes for each that landed. With a commit all that
/// are before it are known.
#[derive(Debug, Default)]
struct Known {
    tip: Option<CommitId>,
    commits: HashSet<Oid>,
}

impl Landed {
    /// Knows nothing yet of the repository at `path`.
    pub(crate) fn new(path: &Path) -> Arc<Self> {
        Arc::new(Landed {
            path: path.to_owned(),
            durable: OnceLock::new(),
            known: Mutex::default(),
            apart: Mutex::default(),
            again: Mutex::default(),
            has_looked: AtomicBool::default(),
            looking: Mutex::default(),
        })
    }

    /// Takes the refs from `durable` from now on.
    pub(crate) fn follow(&self, durable: Arc<RwLock<Durable>>) {
        // Only the first one counts, and there is no other.
        let _ = self.durable.set(durable);
    }

    /// Returns the check of what fetches ask for: commits and tags that landed, by their ids.
    pub(crate) fn wants(self: &Arc<Self>) -> WantCheck {
        let landed = self.clone();
        WantCheck::new(move |wanted| landed.missing(wanted.clone()).map_err(|cause| cause.message().to_owned()))
    }

    /// Finds one of these objects that never landed as a commit or a tag. Blocks: the first time,
    /// for some seconds for each million commits.
    pub(crate) fn missing(&self, mut ids: BTreeSet<ObjectId>) -> Result<Option<ObjectId>, git2::Error> {
        let Some(durable) = self.durable.get() else { return Ok(ids.pop_first()) };
        let ledger = {
            let durable = durable.read();
            for (_, place) in durable.table.places() {
                for target in place.target.iter().chain(&place.last) {
                    ids.remove(&target.value);
                    ids.remove(&target.commit);
                }
                if ids.is_empty() {
                    return Ok(None);
                }
            }
            durable.ledger
        };
        let repo = Repository::open_bare(&self.path)?;
        // Its ref moves first.
        let moved = repo.refname_to_id(&RefName::Ledger.to_string()).ok();
        let mut known = self.known.lock();
        known.learn(&repo, ledger);
        ids.retain(|id| !known.commits.contains(&(*id).into()));
        if !ids.is_empty()
            && let Some(moved) = moved
        {
            known.learn(&repo, moved.into());
            ids.retain(|id| !known.commits.contains(&(*id).into()));
        }
        Ok(ids.pop_first())
    }

    /// Notes what came with refs that were refused after their objects had left the quarantine.
    /// Blocks for as long as Git lists them.
    pub(crate) fn set_apart(&self, tips: &BTreeSet<ObjectId>) {
        match unreachable::behind(&self.path, tips) {
            Ok(found) => Arc::make_mut(&mut self.apart.lock()).extend(found),
            Err(error) => warn!(error = chain(&*error), "what came with refused refs cannot be listed"),
        }
    }

    /// Returns what is known not to have landed.
    pub(crate) fn apart(&self) -> Arc<HashSet<Oid>> {
        self.apart.lock().clone()
    }

    /// Tells whether an object that is here did not land. Blocks, at the first call and before each
    /// `true`, for some seconds for each million objects.
    fn is_apart(&self, id: Oid) -> anyhow::Result<bool> {
        if self.has_looked.load(Ordering::Acquire) && !self.apart.lock().contains(&id) {
            return Ok(false);
        }
        let _looking = self.looking.lock();
        // What a look finds may land while it goes on, so that the last one's word is not enough.
        if !self.has_looked.load(Ordering::Acquire) || self.apart.lock().contains(&id) {
            let known = self.apart();
            self.note_look(&known, &unreachable::objects(&self.path, &self.roots())?);
        }
        Ok(self.apart.lock().contains(&id))
    }

    /// Notes what a look has found that began when `before` was known.
    pub(crate) fn note_look(&self, before: &HashSet<Oid>, found: &HashSet<Oid>) {
        let mut apart = self.apart.lock();
        let apart = Arc::make_mut(&mut apart);
        apart.retain(|id| found.contains(id) || !before.contains(id));
        apart.extend(found);
        self.has_looked.store(true, Ordering::Release);
    }

    /// Returns what pushes brought again since the last call.
    pub(crate) fn take_again(&self) -> HashSet<Oid> {
        std::mem::take(&mut self.again.lock())
    }

    /// Removes from `ids` what a push has brought again; returns whether there was any.
    pub(crate) fn spare(&self, ids: &mut HashSet<Oid>) -> bool {
        let (again, before) = (self.again.lock(), ids.len());
        ids.retain(|id| !again.contains(id));
        ids.len() < before
    }

    /// Forgets objects that are about to land, or are removed.
    pub(crate) fn forget<'a>(&self, ids: impl IntoIterator<Item = &'a Oid>) {
        let mut apart = self.apart.lock();
        if !apart.is_empty() {
            let apart = Arc::make_mut(&mut apart);
            ids.into_iter().for_each(|id| _ = apart.remove(id));
        }
    }

    /// Returns where a walk begins that finds all that landed, besides the refs.
    pub(crate) fn roots(&self) -> BTreeSet<ObjectId> {
        let Some(durable) = self.durable.get() else { return BTreeSet::new() };
        let durable = durable.read();
        let values = durable.table.places().flat_map(|(_, place)| place.target.iter().chain(&place.last));
        values.map(|target| target.value).chain([durable.ledger]).collect()
    }

    /// Finds an object that a push takes for its own and that neither came with it nor landed: the
    /// tips themselves, what the new commits follow, and what is in their folders; or one that came
    /// with it and that no tip leads to. `quarantine` is where the new objects are.
    pub(crate) fn foreign(
        &self,
        quarantine: Option<&Path>,
        tips: impl Iterator<Item = ObjectId>,
    ) -> anyhow::Result<Option<Foreign>> {
        let odb = Odb::new()?;
        if let Some(folder) = quarantine {
            odb.add_disk_alternate(&folder.to_string_lossy())?;
        }
        let new = Repository::from_odb(odb)?;
        let (mut open, mut trees): (Vec<Oid>, Vec<Oid>) = (tips.map(Oid::from).collect(), Vec::new());
        let (mut seen, mut old) = (HashSet::new(), BTreeSet::new());
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            let Ok(object) = new.find_object(id, None) else {
                old.insert(ObjectId::from(id));
                continue;
            };
            match object.kind() {
                Some(ObjectType::Commit) => {
                    let commit = object.into_commit().map_err(|_| git2::Error::from_str("a commit is none"))?;
                    open.extend(commit.parent_ids());
                    trees.push(commit.tree_id());
                }
                Some(ObjectType::Tag) => {
                    let tag = object.into_tag().map_err(|_| git2::Error::from_str("a tag is none"))?;
                    open.push(tag.target_id());
                }
                // No ref may hold it, which is said elsewhere.
                _ => {}
            }
        }
        if let Some(lent) = self.lent(&new, trees, &mut seen, &old)? {
            return Ok(Some(Foreign::NotBrought(lent)));
        }
        if let Some(stray) = self.stray(&new, &seen)? {
            return Ok(Some(Foreign::Stray(stray)));
        }
        let missing = if old.is_empty() { None } else { self.missing(old)? };
        Ok(missing.map(Foreign::NotBrought))
    }

    /// Finds a new object that is not among those that were seen. Whoever sends a thin pack has its
    /// bases added to it, which are here already.
    fn stray(&self, new: &Repository, seen: &HashSet<Oid>) -> Result<Option<ObjectId>, git2::Error> {
        let mut unseen = Vec::new();
        new.odb()?.foreach(|id| {
            if !seen.contains(id) {
                unseen.push(*id);
            }
            true
        })?;
        if unseen.is_empty() {
            return Ok(None);
        }
        let repo = Repository::open_bare(&self.path)?;
        let here = repo.odb()?;
        Ok(unseen.into_iter().find(|id| !here.exists(*id)).map(ObjectId::from))
    }

    /// Finds a file or folder below new folders that did not land and is not new. Adds what it has
    /// seen. While the history cannot be read, only what the commits of `before` hold has landed.
    fn lent(
        &self,
        new: &Repository,
        mut open: Vec<Oid>,
        seen: &mut HashSet<Oid>,
        before: &BTreeSet<ObjectId>,
    ) -> anyhow::Result<Option<ObjectId>> {
        let odb = new.odb()?;
        let mut held = None;
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            if !odb.exists(id) {
                let is_apart = match &held {
                    None => self.is_apart(id).or_else(|error| {
                        warn!(error = chain(&*error), "what landed cannot be listed");
                        anyhow::Ok(!held.insert(self.held_by(before)?).contains(&id))
                    })?,
                    Some(held) => !HashSet::contains(held, &id),
                };
                if is_apart {
                    return Ok(Some(id.into()));
                }
                continue;
            }
            let (_, kind) = odb.read_header(id)?;
            if kind == ObjectType::Tree {
                open.extend(new.find_tree(id)?.iter().map(|entry| entry.id()));
            }
        }
        Ok(None)
    }

    /// Lists the files and folders of commits, as far as they can be read.
    fn held_by(&self, commits: &BTreeSet<ObjectId>) -> Result<HashSet<Oid>, git2::Error> {
        let repo = Repository::open_bare(&self.path)?;
        let commits = commits.iter().filter_map(|id| repo.find_commit((*id).into()).ok());
        let (mut open, mut held): (Vec<Oid>, _) = (commits.map(|commit| commit.tree_id()).collect(), HashSet::new());
        while let Some(id) = open.pop() {
            if held.insert(id)
                && let Ok(tree) = repo.find_tree(id)
            {
                open.extend(tree.iter().map(|entry| entry.id()));
            }
        }
        Ok(held)
    }

    /// Forgets what a push brings again that may land now.
    pub(crate) fn forget_brought(&self, quarantine: &Path) -> Result<(), git2::Error> {
        let apart = self.apart();
        if apart.is_empty() {
            return Ok(());
        }
        let odb = Odb::new()?;
        odb.add_disk_alternate(&quarantine.to_string_lossy())?;
        let mut brought = Vec::new();
        odb.foreach(|id| {
            if apart.contains(id) {
                brought.push(*id);
            }
            true
        })?;
        self.again.lock().extend(&brought);
        self.forget(&brought);
        Ok(())
    }
}

/// An object that has nothing to do in a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// It is used, and neither came with the push nor landed.
    NotBrought(ObjectId),
    /// It came with the push, and no ref leads to it.
    Stray(ObjectId),
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Foreign::NotBrought(id) => write!(f, "the object {id} did not come with this push, and never landed"),
            Foreign::Stray(id) => write!(f, "the object {id} came with this push, and none of its refs leads to it"),
        }
    }
}

impl Known {
    /// Learns the history of the ledger.
    fn learn(&mut self, repo: &Repository, tip: CommitId) {
        if self.tip == Some(tip) {
            return;
        }
        let mut open = vec![Oid::from(tip)];
        while let Some(id) = open.pop() {
            if !self.commits.insert(id) {
                continue;
            }
            match repo.find_commit(id) {
                Ok(commit) => open.extend(commit.parent_ids()),
                // The search for damage says how to mend that.
                Err(error) => warn!(%id, error = error.message(), "a commit that landed cannot be read"),
            }
        }
        self.tip = Some(tip);
    }
}

#[cfg(test)]
mod tests {
    use git2::Signature;

    use super::*;
    use crate::store::{LayerChanges, RefTarget, Table};
    use libconf::name::Sequence;

    fn commit(repo: &Repository, words: &str, parents: &[Oid]) -> Oid {
        let who = Signature::now("a", "a@b").unwrap();
        let tree = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let parents: Vec<_> = parents.iter().map(|parent| repo.find_commit(*parent).unwrap()).collect();
        repo.commit(None, &who, &who, words, &tree, &parents.iter().collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_landed_is_the_refs_and_the_ledgers_history() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let [first, refused] = ["first", "refused"].map(|words| commit(&repo, words, &[]));
        let (tip, unborn) = (commit(&repo, "tip", &[first]), Oid::from_bytes(&[7; 20]).unwrap());
        let ledger = commit(&repo, "ledger", &[tip]);
        let blob = repo.blob(b"x").unwrap();
        let landed = Landed::new(folder.path());
        let missing = |ids: &[Oid]| landed.missing(ids.iter().map(|id| ObjectId::from(*id)).collect()).unwrap();
        assert_eq!(missing(&[tip]), Some(tip.into()), "nothing is known yet");
        let mut table = Table::default();
        let target = RefTarget { value: blob.into(), commit: unborn.into() };
        table.set("refs/tags/services/web/v1".parse().unwrap(), Some(target));
        let durable = Durable { table, ledger: tip.into(), sequence: Sequence(0), layers: LayerChanges::default() };
        let durable = Arc::new(RwLock::new(durable));
        landed.follow(durable.clone());
        assert_eq!(missing(&[blob, unborn, first, tip]), None);
        assert_eq!(missing(&[ledger]), Some(ledger.into()));
        durable.write().ledger = ledger.into();
        assert_eq!(missing(&[ledger, first]), None);
        assert_eq!(missing(&[first, refused]), Some(refused.into()));
        assert!(missing(&[repo.find_commit(tip).unwrap().tree_id()]).is_some());
    }
}
