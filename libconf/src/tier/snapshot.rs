//! A datacenter's whole configuration as one commit: compose it, read it, compare two.

use std::collections::BTreeMap;

use git2::Repository;

use super::{
    api::Pin,
    sign::{KeyError, SigningKey, TrustedKeys},
};
use crate::name::{CommitId, ComponentVersion, DatacenterName, ObjectId, Sequence};

/// The format of snapshots that this program writes, and the highest that it reads (`Conf-Format`).
pub const FORMAT: u32 = 1;

/// A snapshot's commit, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit.
    pub commit: CommitId,
    /// Its tree.
    pub tree: ObjectId,
    /// The snapshot before it.
    pub parent: Option<CommitId>,
    /// Whose it is.
    pub datacenter: DatacenterName,
    /// The change that made it.
    pub sequence: Sequence,
    /// Seconds since 1970 when it was composed.
    pub time: i64,
}

/// One component in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// What is pinned.
    pub pin: Pin,
    /// The tree of its content.
    pub tree: ObjectId,
}

impl Snapshot {
    /// Reads a commit as a snapshot and accepts it only if a trusted key signed it for `datacenter`.
    pub fn verify(
        repo: &Repository,
        commit: CommitId,
        keys: &TrustedKeys,
        datacenter: &DatacenterName,
    ) -> Result<Self, SnapshotError> {
        let _ = (repo, commit, keys, datacenter);
        unimplemented!()
    }

    /// Reads a commit as a snapshot without looking at its signature: for a repository that only conf-master writes.
    pub fn read(repo: &Repository, commit: CommitId) -> Result<Self, SnapshotError> {
        let _ = (repo, commit);
        unimplemented!()
    }

    /// Everything that it pins, in order of name.
    pub fn components(&self, repo: &Repository) -> Result<BTreeMap<ComponentVersion, Component>, SnapshotError> {
        let _ = repo;
        unimplemented!()
    }
}

/// What differs between two snapshots: exactly what to publish, what to render again and whom to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Components that were added, removed (`after` is `None`) or changed (content or pin).
    pub components: BTreeMap<ComponentVersion, Change>,
    /// The datacenter's own branch differs.
    pub datacenter: bool,
    /// The class differs.
    pub class: bool,
}

/// A component before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What was there.
    pub before: Option<Component>,
    /// What is there now.
    pub after: Option<Component>,
}

/// Compares two snapshots' trees; with no `old`, everything in `new` was added. Cost grows with what differs.
pub fn compare(repo: &Repository, old: Option<&Snapshot>, new: &Snapshot) -> Result<Difference, SnapshotError> {
    let _ = (repo, old, new);
    unimplemented!()
}

/// What a snapshot is composed of.
#[derive(Clone, Debug)]
pub struct Composition {
    /// Whose snapshot.
    pub datacenter: DatacenterName,
    /// The number of the change.
    pub sequence: Sequence,
    /// Seconds since 1970.
    pub time: i64,
    /// The snapshot before it.
    pub parent: Option<CommitId>,
    /// What it runs.
    pub components: BTreeMap<ComponentVersion, Component>,
    /// The tree of the datacenter branch.
    pub datacenter_tree: ObjectId,
    /// The tree of the class at its tag.
    pub class_tree: ObjectId,
    /// The rest of the subject: what changed.
    pub summary: String,
}

/// Writes the objects of a snapshot, signed, and answers its commit; moves no ref and syncs nothing.
pub fn compose(repo: &Repository, composition: &Composition, key: &SigningKey) -> Result<CommitId, SnapshotError> {
    let _ = (repo, composition, key);
    unimplemented!()
}

/// Why a commit is no snapshot, or not one for us.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It, or something in it, is not in the repository or cannot be read.
    #[error("cannot read snapshot {commit}")]
    Read {
        /// Which snapshot.
        commit: CommitId,
        /// Git's words.
        #[source]
        cause: git2::Error,
    },
    /// Objects could not be written.
    #[error("cannot write a snapshot")]
    Write(#[source] git2::Error),
    /// It is not made as a snapshot is.
    #[error("{commit} is not a snapshot: {reason}")]
    Malformed {
        /// Which commit.
        commit: CommitId,
        /// What is wrong.
        reason: String,
    },
    /// It was made by a newer conf-master.
    #[error("snapshot {commit} has format {format}, this program reads up to {FORMAT}; upgrade it")]
    Newer {
        /// Which snapshot.
        commit: CommitId,
        /// Its format.
        format: u32,
    },
    /// It belongs to another datacenter.
    #[error("{commit} is a snapshot of {found}, not of {wanted}")]
    OtherDatacenter {
        /// Which snapshot.
        commit: CommitId,
        /// Whose it is.
        found: DatacenterName,
        /// Whose was wanted.
        wanted: DatacenterName,
    },
    /// It is not signed by a trusted key.
    #[error("snapshot {commit} is refused")]
    Untrusted {
        /// Which snapshot.
        commit: CommitId,
        /// Why.
        #[source]
        cause: KeyError,
    },
}
