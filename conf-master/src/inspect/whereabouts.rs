//! Where an object is: the branches, tags and snapshots that hold it. For content that leaked.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use conf_core::snapshot::Snapshot;
use git2::{ErrorCode, ObjectType, Oid, Repository};
use libconf::name::{CommitId, DatacenterName, ObjectId, RefName, Sequence};
use serde::{Deserialize, Serialize};

use crate::inspect::error::InspectError;

/// How long is searched for one answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most folders that are remembered while it is searched.
const MOST_TREES: usize = 1_000_000;
/// The most files of a commit that are searched for.
const MOST_FILES: usize = 100_000;

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whereabouts {
    /// The object.
    pub(crate) object: ObjectId,
    /// `commit`, `tag`, `tree` or `blob`.
    pub(crate) kind: String,
    /// How many files are searched for: of a commit those that it brought.
    pub(crate) files: usize,
    /// The branches and tags whose tip or history holds it.
    pub(crate) refs: Vec<HoldingRef>,
    /// The datacenters of which a snapshot holds it.
    pub(crate) datacenters: Vec<HoldingDatacenter>,
    /// Nothing is left out: the search was not cut off.
    pub(crate) complete: bool,
}

/// A branch or tag that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HoldingRef {
    /// Its name in short.
    pub(crate) name: String,
    /// The newest commit of it that holds it.
    pub(crate) commit: CommitId,
    /// That is its tip.
    pub(crate) now: bool,
}

/// The snapshots of one datacenter that hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HoldingDatacenter {
    /// The datacenter.
    pub(crate) datacenter: DatacenterName,
    /// The first snapshot with it.
    pub(crate) first: Sequence,
    /// The last one.
    pub(crate) last: Sequence,
    /// How many there are.
    pub(crate) snapshots: usize,
    /// The newest snapshot holds it.
    pub(crate) now: bool,
}

/// Searches what landed. `tips` are the branches and tags, `newest` the newest snapshots. Blocks.
pub(crate) fn find(
    repo: &Repository,
    object: ObjectId,
    tips: &[(RefName, CommitId)],
    newest: &[Snapshot],
) -> Result<Whereabouts, InspectError> {
    let mut search = Search::new(repo, object)?;
    let mut found = Whereabouts {
        object,
        kind: search.kind.str().to_owned(),
        files: search.wanted.len(),
        refs: Vec::new(),
        datacenters: Vec::new(),
        complete: true,
    };
    for (name, tip) in tips {
        let holding = search.in_history(*tip)?;
        found.refs.extend(holding.map(|commit| HoldingRef { name: name.short(), commit, now: commit == *tip }));
    }
    for snapshot in newest {
        found.datacenters.extend(search.in_chain(snapshot.clone())?);
    }
    found.complete = !search.is_cut;
    Ok(found)
}

struct Search<'r> {
    repo: &'r Repository,
    kind: ObjectType,
    commit: Option<Oid>,
    /// The files, or the folder.
    wanted: HashSet<Oid>,
    /// Whether a folder holds any of it.
    known: HashMap<Oid, bool>,
    deadline: Instant,
    is_cut: bool,
}

impl<'r> Search<'r> {
    fn new(repo: &'r Repository, object: ObjectId) -> Result<Self, InspectError> {
        let (_, kind) = repo.odb()?.read_header(object.into()).map_err(|error| match error.code() {
            ErrorCode::NotFound => InspectError::NotThere(format!("{object} is not in the central repository")),
            _ => error.into(),
        })?;
        let mut search = Search {
            repo,
            kind,
            commit: None,
            wanted: HashSet::new(),
            known: HashMap::new(),
            deadline: Instant::now() + PATIENCE,
            is_cut: false,
        };
        // A file may be large, and is not read.
        let commit = match kind {
            ObjectType::Commit | ObjectType::Tag => repo.find_object(object.into(), None)?.peel_to_commit().ok(),
            _ => None,
        };
        match commit {
            Some(commit) => {
                search.commit = Some(commit.id());
                search.wanted = search.brought(&commit)?;
            }
            None => drop(search.wanted.insert(object.into())),
        }
        Ok(search)
    }

    /// Lists the files that a commit brought: those that no parent has at the same place.
    fn brought(&mut self, commit: &git2::Commit<'_>) -> Result<HashSet<Oid>, git2::Error> {
        let tree = commit.tree()?;
        let before = commit.parents().map(|parent| parent.tree()).collect::<Result<Vec<_>, _>>()?;
        let before = if before.is_empty() { vec![None] } else { before.iter().map(Some).collect() };
        let mut brought: Option<HashSet<Oid>> = None;
        for parent in before {
            let difference = self.repo.diff_tree_to_tree(parent, Some(&tree), None)?;
            let new = difference.deltas().map(|delta| delta.new_file().id()).filter(|id| !id.is_zero());
            let new: HashSet<Oid> = new.take(MOST_FILES).collect();
            brought = Some(match brought {
                None => new,
                Some(others) => others.intersection(&new).copied().collect(),
            });
        }
        let brought = brought.unwrap_or_default();
        self.is_cut |= brought.len() >= MOST_FILES;
        Ok(brought)
    }

    fn is_late(&mut self) -> bool {
        self.is_cut |= Instant::now() > self.deadline || self.known.len() > MOST_TREES;
        self.is_cut
    }

    /// Tells whether a folder holds any of it.
    fn holds(&mut self, tree: Oid) -> Result<bool, git2::Error> {
        if self.wanted.contains(&tree) {
            return Ok(true);
        }
        if let Some(known) = self.known.get(&tree) {
            return Ok(*known);
        }
        let mut folders = Vec::new();
        for entry in &self.repo.find_tree(tree)? {
            if self.wanted.contains(&entry.id()) {
                self.known.insert(tree, true);
                return Ok(true);
            }
            if entry.kind() == Some(ObjectType::Tree) {
                folders.push(entry.id());
            }
        }
        let mut found = false;
        for folder in folders {
            // What landed is not deep.
            if self.holds(folder)? {
                found = true;
                break;
            }
        }
        self.known.insert(tree, found);
        Ok(found)
    }

    /// Finds the newest commit of a history that holds it.
    fn in_history(&mut self, tip: CommitId) -> Result<Option<CommitId>, git2::Error> {
        if let Some(commit) = self.commit {
            let is_in = commit == tip.into() || self.repo.graph_descendant_of(tip.into(), commit)?;
            return if is_in { Ok(Some(commit.into())) } else { Ok(None) };
        }
        let mut walk = self.repo.revwalk()?;
        walk.push(tip.into())?;
        for commit in walk {
            if self.is_late() {
                break;
            }
            let commit = self.repo.find_commit(commit?)?;
            if self.holds(commit.tree_id())? {
                return Ok(Some(commit.id().into()));
            }
        }
        Ok(None)
    }

    /// Finds the snapshots of a datacenter that hold it.
    fn in_chain(&mut self, newest: Snapshot) -> anyhow::Result<Option<HoldingDatacenter>> {
        let (mut holding, mut numbers) = (None, BTreeSet::new());
        let (datacenter, top) = (newest.datacenter.clone(), newest.sequence);
        let mut next = Some(newest);
        while let Some(snapshot) = next {
            if self.is_late() {
                break;
            }
            if self.holds(self.repo.find_commit(snapshot.commit.into())?.tree_id())? {
                numbers.insert(snapshot.sequence);
            }
            next = snapshot.parent.map(|parent| Snapshot::read(self.repo, parent)).transpose()?;
        }
        if let (Some(first), Some(last)) = (numbers.first().copied(), numbers.last().copied()) {
            holding = Some(HoldingDatacenter { datacenter, first, last, snapshots: numbers.len(), now: last == top });
        }
        Ok(holding)
    }
}
