//! The host transaction: from a snapshot in the repository to files that readers see, and notices
//! to watchers.
//!
//! It decides first (`model`): the components that this host runs, and which of them must be
//! rendered. Then it acts: it renders into the store, builds the snapshot's folder, writes the
//! notices down, switches, and tells. If a step before the switch fails, the last good export stays
//! in use.

mod check;
mod error;
mod model;
mod accepted;
mod host;
mod render;
mod older;
mod secrets;
mod publish;
mod settle;
mod look;
mod verify;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use crate::transaction::{
    check::{CheckEntry, Checks, Unchecked},
    error::TransactionError,
    host::{Audience, Host, HostOptions},
    look::Damage,
};
