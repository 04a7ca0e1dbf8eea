//! What was read of content that never changes, so that all datacenters of a class share it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use conf_core::manifest::{self, ClassManifest, InstanceManifest};
use libconf::name::ObjectId;
use parking_lot::Mutex;

use crate::catalog::model::Requests;

/// How many trees are remembered; then all are forgotten, which is simple.
const MOST_TREES: usize = 200_000;
/// How many classes are remembered; then all are forgotten.
const MOST_CLASSES: usize = 100;

/// The manifests of classes that were read, and the components' trees whose files can be exported.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    classes: Mutex<HashMap<ObjectId, Arc<Class>>>,
    /// Each tree, with whether it is raw.
    good: Mutex<HashSet<(ObjectId, bool)>>,
}

/// A class that was read.
#[derive(Debug)]
pub(crate) struct Class {
    /// Its `datacenter.yaml`.
    pub(crate) manifest: ClassManifest,
    /// What datacenters ask for that add nothing of their own.
    requests: OnceLock<Arc<Requests>>,
}

impl Class {
    /// Returns what a datacenter of this class asks for.
    pub(crate) fn requests(&self, instance: &InstanceManifest) -> Arc<Requests> {
        let both = || {
            let pins = manifest::pins(&self.manifest, instance).into_iter();
            Arc::new(pins.map(|request| (request.component.clone(), request)).collect())
        };
        if instance.components.is_empty() { self.requests.get_or_init(both).clone() } else { both() }
    }
}

impl Contents {
    /// Returns the class in the tree of a commit, or reads it. What has faults is not remembered.
    pub(crate) fn class<E>(
        &self,
        commit: ObjectId,
        read: impl FnOnce() -> Result<ClassManifest, E>,
    ) -> Result<Arc<Class>, E> {
        if let Some(class) = self.classes.lock().get(&commit) {
            return Ok(class.clone());
        }
        // Without the lock, so that others go on meanwhile.
        let class = Arc::new(Class { manifest: read()?, requests: OnceLock::new() });
        let mut classes = self.classes.lock();
        if classes.len() >= MOST_CLASSES {
            classes.clear();
        }
        classes.insert(commit, class.clone());
        Ok(class)
    }

    /// Tells whether the files of a tree can be exported, as far as that is known.
    pub(crate) fn is_good(&self, tree: ObjectId, raw: bool) -> bool {
        self.good.lock().contains(&(tree, raw))
    }

    /// Remembers that the files of a tree can be exported.
    pub(crate) fn remember_good(&self, tree: ObjectId, raw: bool) {
        let mut good = self.good.lock();
        if good.len() >= MOST_TREES {
            good.clear();
        }
        good.insert((tree, raw));
    }
}
