//! A datacenter as its `datacenter.yaml` files describe it, and how a change would alter it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conf_core::manifest::{DeclaredIn, InstanceManifest, PinRequest};
use conf_core::secret::Declaration;
use conf_core::settings::Compatibility;
use conf_core::snapshot::{Component, Snapshot};
use libconf::name::{CommitId, ComponentVersion, DatacenterName, ObjectId, SecretName};
use serde_json::{Map, Value};

/// One datacenter, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Datacenter {
    /// Its own `datacenter.yaml` and its class's.
    pub(crate) manifest: Manifest,
    /// The content of each component that it runs.
    pub(crate) components: BTreeMap<ComponentVersion, Component>,
    /// Its newest snapshot; `None` until one is composed.
    pub(crate) snapshot: Option<Snapshot>,
}

/// The components that a datacenter asks for, each with the entry that does.
pub(crate) type Requests = BTreeMap<ComponentVersion, PinRequest>;

/// The `datacenter.yaml` of a datacenter and of its class, read together.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    /// The datacenter's own `datacenter.yaml`.
    pub(crate) instance: InstanceManifest,
    /// The facts about the platform, for templates.
    pub(crate) platform: Map<String, Value>,
    /// The components that both ask for.
    pub(crate) requests: Arc<Requests>,
    /// The secrets that both declare.
    pub(crate) secrets: BTreeMap<SecretName, DeclaredSecret>,
    /// The promise of the class about settings that have no schema.
    pub(crate) settings_compatibility: Compatibility,
    /// The tree of the datacenter's branch.
    pub(crate) datacenter_tree: ObjectId,
    /// The commit of the datacenter's branch.
    pub(crate) datacenter_commit: CommitId,
    /// The tree of the class.
    pub(crate) class_tree: ObjectId,
    /// The commit of the class.
    pub(crate) class_commit: CommitId,
}

impl Manifest {
    /// Returns the trees of the class and of the datacenter's branch.
    pub(crate) fn trees(&self) -> [ObjectId; 2] {
        [self.class_tree, self.datacenter_tree]
    }
}

/// A secret that a datacenter declares, and the file that declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeclaredSecret {
    /// The declaration.
    pub(crate) declaration: Declaration,
    /// Which of the two `datacenter.yaml` holds the declaration.
    pub(crate) declared_in: DeclaredIn,
}

/// The differences that a change makes to a datacenter.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    /// The new manifest, when a `datacenter.yaml` changed.
    pub(crate) manifest: Option<Manifest>,
    /// Components that are added or changed, or removed (`None`).
    pub(crate) components: BTreeMap<ComponentVersion, Option<Component>>,
}

/// What a change does to each datacenter that it touches; `None` where the datacenter's branch is
/// deleted.
pub(crate) type Deltas = BTreeMap<DatacenterName, Option<Delta>>;

/// The parts of a datacenter that read some changed refs.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Its own branch or its class changed.
    pub(crate) manifest: bool,
    /// Components whose branch or tag changed.
    pub(crate) components: BTreeSet<ComponentVersion>,
}

impl Touched {
    /// Everything: the datacenter is resolved anew.
    pub(crate) fn whole() -> Self {
        Touched { manifest: true, ..Touched::default() }
    }
}
