//! Fetching: one POST by object id, streamed into the repository, checked to be complete.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use git2::Repository;

use super::upstream::{Upstream, UpstreamError};
use crate::name::{CommitId, ObjectId};

/// How much history a first fetch brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All of it.
    Full,
    /// The wanted commit alone; the repository becomes a shallow one.
    One,
}

/// One step from what a repository has to what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// A commit that is here, complete; `None` for a first fetch.
    pub have: Option<CommitId>,
    /// The commit to get.
    pub want: CommitId,
    /// How much history, when there is no `have`.
    pub depth: Depth,
}

impl Step {
    /// The body of its request: the same bytes from every program that makes this step.
    pub fn request(&self) -> Bytes {
        unimplemented!()
    }
}

/// What a fetch brought.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Request and response of the one POST, where it was a step (with a `have`) of at most 4 MiB: what a cache serves on.
    pub answer: Option<(Bytes, Bytes)>,
    /// Bytes of all responses' bodies.
    pub wire_bytes: u64,
    /// 0 when everything was here, 1, or 2 when the first answer was not complete.
    pub requests: u32,
    /// Packs added.
    pub packs: u32,
}

/// Makes a step: afterwards `want` and all that its tree needs is in the repository, durably. Moves no ref.
///
/// A step whose objects are all here asks nobody. An answer that leaves objects out is asked again without `have`.
/// - Errors: see [`FetchError`]; nothing but unreferenced objects is left behind.
/// - Cancel: dropping the future ends the request; unfinished files are removed.
pub async fn fetch(upstream: &Upstream, repo: PathBuf, step: Step) -> Result<Fetched, FetchError> {
    let _ = (upstream, repo, step);
    unimplemented!()
}

/// Fetches several commits with all their history: what a mirror does for branches, tags and the ledger. Annotated tag
/// objects may be wanted too. Moves no ref.
pub async fn fetch_tips(
    upstream: &Upstream,
    repo: PathBuf,
    wants: Vec<ObjectId>,
    haves: Vec<ObjectId>,
) -> Result<Fetched, FetchError> {
    let _ = (upstream, repo, wants, haves);
    unimplemented!()
}

/// Sees that commit `want` and every object of its tree is present. What equals the tree of commit `have` is taken for
/// present, so the cost grows with the difference.
pub fn complete(repo: &Repository, have: Option<CommitId>, want: CommitId) -> Result<(), Missing> {
    let _ = (repo, have, want);
    unimplemented!()
}

/// Replaces many packs by one that holds the kept snapshots alone, when there are more than 64 packs or they take more
/// than four times what is kept. Answers whether it did. Blocks. Nobody else may write to the repository meanwhile.
pub fn consolidate(repo: &Path, keep: &[CommitId]) -> Result<bool, FetchError> {
    let _ = (repo, keep);
    unimplemented!()
}

/// An object that should be here is not, or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("object {object} is missing or damaged")]
pub struct Missing {
    /// Which object.
    pub object: ObjectId,
    /// Git's words.
    #[source]
    pub cause: Option<git2::Error>,
}

/// Why a fetch failed, by what to do next.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer, or it broke off: try another server, or again later.
    #[error("fetching failed")]
    Unreachable(#[source] UpstreamError),
    /// The server says no: ask a person (a credential), or wait (`Retry-After`).
    #[error("fetching was refused")]
    Refused(#[source] UpstreamError),
    /// The server does not have it (yet): try another server, or again later.
    #[error("{url} does not have {want}: {words}")]
    NotFound {
        /// Who was asked.
        url: String,
        /// For what.
        want: ObjectId,
        /// Its words.
        words: String,
    },
    /// The answer is damaged, or leaves objects out even when asked for all: try another server and say so.
    #[error("{url} gave a damaged answer for {want}: {reason}")]
    Corrupt {
        /// Who was asked.
        url: String,
        /// For what.
        want: ObjectId,
        /// What is wrong.
        reason: String,
    },
    /// The repository cannot be read or written: a full disk, a wrong owner.
    #[error("cannot use the repository {path}: {reason}")]
    Repository {
        /// Where.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

impl FetchError {
    /// How long the server asked to wait.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            FetchError::Refused(error) | FetchError::Unreachable(error) => error.retry_after(),
            _ => None,
        }
    }
}
