//! Folders held open, and files that are replaced in one step. Relies on the system alone.

pub(crate) mod fault;
pub(crate) mod file;
mod folder;
mod lease;
#[cfg(test)]
mod tests;
mod unsynced;

pub(crate) use crate::fs::{
    folder::{Entry, Folder, Mount, Owner},
    unsynced::Unsynced,
};
