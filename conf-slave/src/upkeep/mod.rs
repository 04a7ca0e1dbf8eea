//! Work on the mirror that no change waits for.

/// The refs as they were put.
mod put_refs;
/// The branches and tags that a step moves.
mod moves;
/// Git's own programs that fetch, within bounds.
pub(crate) mod programs;
/// The branches and tags behind a snapshot.
pub(crate) mod branches;
/// The keys of the hosts.
pub(crate) mod keyring;
/// A look for damage every few seconds.
pub(crate) mod look;
/// The written sequence, packing, and the search for damage.
pub(crate) mod maintenance;
