//! Git: the executable, repositories that stay open, packs, and one step of a fetch.

mod executable;
mod file;
mod loose;
mod repository;
mod meter;
mod pool;
pub(crate) mod pktline;
mod connectivity;
mod store;
mod consolidate;
mod torn;
mod pack;
mod delta;
mod small_pack;
mod store_error;
mod incoming;
mod new_objects;
mod thin;
mod file_name;
mod tree_safety;
mod step;

#[cfg(test)]
pub(crate) use crate::git::pack::PackBytes;
pub use crate::git::{
    connectivity::{Missing, complete, complete_history},
    consolidate::{ConsolidateError, consolidate, pack_paths, packs},
    executable::{GitError, check_version, command},
    file::{Durability, SECTOR, overwrite_file, replace_file, sync_folder},
    file_name::{fault_in_name, folded_name},
    loose::LooseObjects,
    meter::FetchBounds,
    new_objects::{NewObjects, ObjectStore, WriteError},
    pool::{PooledRepository, RepositoryPool},
    repository::{LockError, RepositoryLock, init, lock, lock_alone},
    step::{Depth, Step},
    thin::thin_answer,
    torn::remove_torn_packs,
    tree_safety::{Links, TreeFault, TreeLimits, fault_in_link, faults_in_commit, faults_in_tree, is_lfs_pointer},
};
pub(crate) use crate::git::{
    file::create_file,
    meter::{Amiss, Meter},
    pktline::{Malformed, Packet, PacketReader, error_words, push_line},
    store::{Part, store},
    store_error::StoreError,
};
