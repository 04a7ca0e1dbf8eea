//! Work on the mirror that no change waits for.

/// The branches and tags behind a snapshot.
pub(crate) mod branches;
/// The written sequence, packing, and the search for damage.
pub(crate) mod maintenance;
