//! A datacenter's whole configuration as one commit: compose it, read it, compare two.

mod error;
mod commit;
mod tree;
mod compose;
mod chain;
mod manifests;
mod inventory;
#[cfg(test)]
mod tests;

pub use crate::snapshot::{
    chain::{AroundChange, around_change},
    commit::Snapshot,
    compose::{Composition, SharedTrees, compose},
    error::{FORMAT, SnapshotError},
    inventory::{Inventories, Inventory},
    manifests::{Manifests, instance_manifest, manifests},
    tree::{Change, Component, Difference, compare, fan_out},
};
