//! The overrides in the trees of classes and datacenters, read once for each tree.

use std::{collections::HashMap, sync::Arc};

use conf_core::layers::Overrides;
use git2::Repository;
use libconf::name::ObjectId;
use parking_lot::Mutex;

/// How many trees are remembered; then all are forgotten, which is simple.
const MOST_TREES: usize = 1000;

/// The overrides of the trees that were read.
#[derive(Debug, Default)]
pub(crate) struct OverridesCache(Mutex<HashMap<ObjectId, Arc<Overrides>>>);

impl OverridesCache {
    /// Returns the content of `overrides/` in a tree.
    pub(crate) fn of(&self, repo: &Repository, tree: ObjectId) -> Result<Arc<Overrides>, git2::Error> {
        if let Some(overrides) = self.0.lock().get(&tree) {
            return Ok(overrides.clone());
        }
        // Without the lock, so that others go on meanwhile.
        let overrides = Arc::new(Overrides::read(repo, tree)?);
        let mut known = self.0.lock();
        if known.len() >= MOST_TREES {
            known.clear();
        }
        known.insert(tree, overrides.clone());
        Ok(overrides)
    }
}
