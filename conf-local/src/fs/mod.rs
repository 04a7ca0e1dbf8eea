//! Folders held open, and files that are replaced in one step. Relies on the system alone.

#[cfg(test)]
pub(crate) mod injected;
#[cfg(not(test))]
mod injected;
mod file;
mod fingerprint;
mod folder;
mod lease;
mod mounts;
mod state_lock;
#[cfg(test)]
mod tests;
mod unsynced;

pub(crate) use crate::fs::{
    file::{overwrite_state, read_proc, read_state, replace_state},
    fingerprint::Fingerprint,
    folder::{Entry, Folder, Mount, Owner},
    mounts::mount_of,
    state_lock::{StateLock, make_state_folder},
    unsynced::Unsynced,
};
