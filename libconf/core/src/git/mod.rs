//! Git: the executable, repositories that stay open, packs, and one step of a fetch.

mod executable;
mod file;
mod loose;
mod repository;
mod pool;
pub(crate) mod pktline;
mod connectivity;
mod store;
mod consolidate;
mod thin;
mod tree_safety;
mod step;

pub use crate::git::{
    connectivity::{Missing, complete, complete_history},
    consolidate::{ConsolidateError, consolidate, packs},
    executable::{GitError, check_version, command},
    file::{Durability, replace_file, sync_folder},
    pool::{PooledRepository, RepositoryPool},
    repository::{LockError, RepositoryLock, init, lock, lock_alone},
    step::{Depth, Step},
    thin::thin_answer,
    tree_safety::{
        Links, TreeFault, TreeLimits, fault_in_link, fault_in_name, faults_in_commit, faults_in_tree, is_lfs_pointer,
    },
};
pub(crate) use crate::git::{
    file::create_file,
    pktline::{Malformed, Packet, PacketReader, error_words, push_line},
    store::{Part, StoreError, store},
};
