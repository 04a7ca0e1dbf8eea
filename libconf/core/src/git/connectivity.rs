//! Checks that every object is present: after each fetch, at the cost of what differs.

use std::collections::HashSet;

use git2::{ObjectType, Odb, Oid, Repository};

use libconf::name::{CommitId, ObjectId};

/// An object is missing, or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("object {object} is missing or damaged")]
pub struct Missing {
    /// The object.
    pub object: ObjectId,
    /// Git's words.
    #[source]
    pub cause: Option<git2::Error>,
}

impl Missing {
    fn because(object: Oid) -> impl FnOnce(git2::Error) -> Self {
        move |cause| Missing { object: object.into(), cause: Some(cause) }
    }
}

/// Checks that commit `want` and every object of its tree is present. Objects that the tree of
/// commit `have` holds count as present, so the cost grows with the difference; without `have`
/// every object is checked.
pub fn complete(repo: &Repository, have: Option<CommitId>, want: CommitId) -> Result<(), Missing> {
    let base = have.and_then(|have| repo.find_commit(have.into()).ok()).map(|commit| commit.tree_id());
    let commit = repo.find_commit(want.into()).map_err(Missing::because(want.into()))?;
    Walk::new(repo)?.tree(base, commit.tree_id())
}

/// The parents of a commit as its bytes name them: libgit2 hides the parents of a shallow commit.
pub(crate) fn parents(repo: &Repository, commit: CommitId) -> Result<Vec<CommitId>, git2::Error> {
    let commit = repo.find_commit(commit.into())?;
    let header = String::from_utf8_lossy(commit.raw_header_bytes()).into_owned();
    Ok(header.lines().filter_map(|line| line.strip_prefix("parent ")?.parse().ok()).collect())
}

/// Checks that all `wants` (commits, or tags of commits), their history down to the `haves`, and
/// every object of their trees are present. Objects that the `haves` reach count as present.
pub fn complete_history(repo: &Repository, haves: &[ObjectId], wants: &[ObjectId]) -> Result<(), Missing> {
    let mut walk = Walk::new(repo)?;
    let mut commits = repo.revwalk().map_err(Missing::because(Oid::ZERO_SHA1))?;
    for want in wants {
        let object = repo.find_object((*want).into(), None).map_err(Missing::because((*want).into()))?;
        let commit = object.peel_to_commit().map_err(Missing::because((*want).into()))?;
        commits.push(commit.id()).map_err(Missing::because(commit.id()))?;
    }
    for have in haves {
        if let Ok(commit) = repo.find_object((*have).into(), None).and_then(|object| object.peel_to_commit()) {
            commits.hide(commit.id()).map_err(Missing::because(commit.id()))?;
        }
    }
    let somewhere = wants.first().map_or(Oid::ZERO_SHA1, |want| (*want).into());
    for id in commits {
        let id = id.map_err(Missing::because(somewhere))?;
        let commit = repo.find_commit(id).map_err(Missing::because(id))?;
        // Each parent is present, and is either checked in its turn or held by `haves`.
        for parent in commit.parent_ids() {
            repo.find_commit(parent).map_err(Missing::because(parent))?;
        }
        let base = commit.parent(0).ok().map(|parent| parent.tree_id());
        walk.tree(base, commit.tree_id())?;
    }
    Ok(())
}

/// Like [`complete`], for a commit and the one before it, if it has one.
pub(crate) fn complete_two(repo: &Repository, want: CommitId) -> Result<(), Missing> {
    complete(repo, None, want)?;
    let parents = parents(repo, want).map_err(Missing::because(want.into()))?;
    parents.first().map_or(Ok(()), |parent| complete(repo, Some(want), *parent))
}

struct Walk<'r> {
    repo: &'r Repository,
    odb: Odb<'r>,
    /// Trees that are complete, or will be if the walk ends well.
    seen: HashSet<Oid>,
}

impl<'r> Walk<'r> {
    fn new(repo: &'r Repository) -> Result<Self, Missing> {
        let odb = repo.odb().map_err(Missing::because(Oid::ZERO_SHA1))?;
        Ok(Walk { repo, odb, seen: HashSet::new() })
    }

    /// Checks the objects that tree `want` holds and tree `have` does not.
    fn tree(&mut self, have: Option<Oid>, want: Oid) -> Result<(), Missing> {
        let mut open = vec![(have, want)];
        while let Some((have, want)) = open.pop() {
            if have == Some(want) || !self.seen.insert(want) {
                continue;
            }
            let tree = self.repo.find_tree(want).map_err(Missing::because(want))?;
            let base = have.and_then(|have| self.repo.find_tree(have).ok());
            for entry in &tree {
                let before = base.as_ref().and_then(|base| base.get_name_bytes(entry.name_bytes()));
                let before = before.map(|before| before.id());
                match entry.kind() {
                    _ if before == Some(entry.id()) => {}
                    Some(ObjectType::Tree) => open.push((before, entry.id())),
                    Some(ObjectType::Commit) => {} // A submodule's commit is not in this repository.
                    _ if self.odb.exists(entry.id()) => {}
                    _ => return Err(Missing { object: entry.id().into(), cause: None }),
                }
            }
        }
        Ok(())
    }
}
