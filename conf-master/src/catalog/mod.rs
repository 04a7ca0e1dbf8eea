//! The index held in memory: what each datacenter runs, and which datacenters read which ref.

pub mod resolve;
pub(crate) mod side;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use conf_core::{
    manifest::{InstanceManifest, PinRequest},
    settings::Compatibility,
    snapshot::{Component, Snapshot},
};
use git2::Repository;
use libconf::name::{CommitId, ComponentVersion, DatacenterName, ObjectId, RefName, SecretName, Segment};
use serde_json::{Map, Value};

use crate::{
    fault::refusal::Fault,
    secrets::Declared,
    store::refs::{Proposed, Table, Target},
};

/// What is, after the last landing.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Every ref.
    pub table: Table,
    /// Every datacenter that has a branch.
    pub datacenters: BTreeMap<DatacenterName, Datacenter>,
    /// The tree of each id's sealed secrets.
    pub secrets: BTreeMap<Segment, ObjectId>,
    /// Who reads a datacenter branch or a class.
    manifests: HashMap<RefName, BTreeSet<DatacenterName>>,
    /// Who reads a component's branch or tag, and for what.
    components: HashMap<RefName, BTreeMap<DatacenterName, BTreeSet<ComponentVersion>>>,
}

/// One datacenter, resolved.
#[derive(Clone, Debug)]
pub struct Datacenter {
    /// Its own `datacenter.yaml`.
    pub instance: InstanceManifest,
    /// Facts about its platform, for templates.
    pub platform: Map<String, Value>,
    /// What it asks for.
    pub requests: BTreeMap<ComponentVersion, PinRequest>,
    /// What that is.
    pub components: BTreeMap<ComponentVersion, Component>,
    /// The secrets that it declares, its class's included.
    pub secrets: BTreeMap<SecretName, Declared>,
    /// What its class promises of settings that have no schema.
    pub settings_compatibility: Compatibility,
    /// The tree of its branch.
    pub datacenter_tree: ObjectId,
    /// The commit of its branch.
    pub datacenter_commit: CommitId,
    /// The tree of its class.
    pub class_tree: ObjectId,
    /// The commit of its class.
    pub class_commit: CommitId,
    /// Its newest snapshot; `None` until it is composed.
    pub snapshot: Option<Snapshot>,
}

/// What would be different in a datacenter.
#[derive(Debug, Default)]
pub struct Delta {
    /// What it asks for, when a `datacenter.yaml` changed.
    pub manifest: Option<Manifest>,
    /// Components that come, change, or go (`None`).
    pub components: BTreeMap<ComponentVersion, Option<Component>>,
}

/// A datacenter's own part and its class's, read.
#[derive(Debug)]
pub struct Manifest {
    /// Its own `datacenter.yaml`.
    pub instance: InstanceManifest,
    /// What both say of the platform, for templates.
    pub platform: Map<String, Value>,
    /// What both ask for together.
    pub requests: BTreeMap<ComponentVersion, PinRequest>,
    /// The secrets that both declare together.
    pub secrets: BTreeMap<SecretName, Declared>,
    /// What the class promises of settings that have no schema.
    pub settings_compatibility: Compatibility,
    /// The tree of its branch.
    pub datacenter_tree: ObjectId,
    /// The commit of its branch.
    pub datacenter_commit: CommitId,
    /// The tree of its class.
    pub class_tree: ObjectId,
    /// The commit of its class.
    pub class_commit: CommitId,
}

/// What of a datacenter some changed refs concern.
#[derive(Debug, Default)]
pub struct Touched {
    /// Its own branch, or its class.
    pub manifest: bool,
    /// Components whose branch or tag changed.
    pub components: BTreeSet<ComponentVersion>,
}

impl Catalog {
    /// Resolves every datacenter of a table; what cannot be resolved is a fault, and left out.
    pub fn load(repo: &Repository, table: Table) -> (Self, Vec<Fault>) {
        let names: Vec<DatacenterName> = table
            .iter()
            .filter_map(|(name, _)| match name {
                RefName::Datacenter(datacenter) => Some(datacenter.clone()),
                _ => None,
            })
            .collect();
        let (mut catalog, mut faults) = Catalog::unresolved(repo, table);
        for name in names {
            let touched = Touched { manifest: true, ..Touched::default() };
            let none = BTreeMap::new();
            let resolved = resolve::datacenter(repo, catalog.proposed(&none), &name, None, &touched);
            if !resolved.faults.is_empty() {
                faults.extend(resolved.faults.into_iter().map(|caused| caused.fault));
                continue;
            }
            let tip = catalog.table.target(&RefName::Snapshot(name.clone()));
            catalog.apply_delta(&name, resolved.delta);
            let snapshot = tip.and_then(|tip| Snapshot::read(repo, tip.commit).ok());
            catalog.datacenters.entry(name).and_modify(|datacenter| datacenter.snapshot = snapshot);
        }
        (catalog, faults)
    }

    /// A table of which no datacenter is resolved; what of its secrets cannot be read is a fault.
    pub fn unresolved(repo: &Repository, table: Table) -> (Self, Vec<Fault>) {
        let (mut secrets, mut faults) = (BTreeMap::new(), Vec::new());
        for (name, target) in table.iter() {
            let RefName::Secrets(id) = name else { continue };
            match repo.find_commit(target.commit.into()) {
                Ok(tip) => drop(secrets.insert(id.clone(), tip.tree_id().into())),
                Err(error) => faults.push(Fault::new(format!("{}: {}", name.short(), error.message()))),
            }
        }
        (Catalog { table, secrets, ..Catalog::default() }, faults)
    }

    /// The table with some changes over it.
    pub fn proposed<'a>(&'a self, changes: &'a BTreeMap<RefName, Option<Target>>) -> Proposed<'a> {
        Proposed { table: &self.table, changes }
    }

    /// Which datacenters some changed refs concern, and in what.
    pub fn touched<'a>(&self, refs: impl IntoIterator<Item = &'a RefName>) -> BTreeMap<DatacenterName, Touched> {
        let mut touched: BTreeMap<DatacenterName, Touched> = BTreeMap::new();
        for name in refs {
            if let RefName::Datacenter(datacenter) = name {
                touched.entry(datacenter.clone()).or_default().manifest = true;
            }
            for datacenter in self.manifests.get(name).into_iter().flatten() {
                touched.entry(datacenter.clone()).or_default().manifest = true;
            }
            for (datacenter, components) in self.components.get(name).into_iter().flatten() {
                let components = components.iter().cloned();
                touched.entry(datacenter.clone()).or_default().components.extend(components);
            }
        }
        touched
    }

    /// Takes over what was resolved for a datacenter.
    pub fn apply_delta(&mut self, name: &DatacenterName, delta: Delta) {
        if let Some(manifest) = delta.manifest {
            self.forget(name);
            let readers = &mut self.manifests;
            for read in [RefName::Datacenter(name.clone()), manifest.instance.class_ref()] {
                readers.entry(read).or_default().insert(name.clone());
            }
            for request in manifest.requests.values() {
                for read in resolve::reads(request) {
                    let readers = self.components.entry(read).or_default();
                    readers.entry(name.clone()).or_default().insert(request.component.clone());
                }
            }
            let old = self.datacenters.remove(name);
            let (components, snapshot) = old.map(|old| (old.components, old.snapshot)).unwrap_or_default();
            let Manifest {
                instance,
                platform,
                requests,
                secrets,
                settings_compatibility,
                datacenter_tree,
                datacenter_commit,
                class_tree,
                class_commit,
            } = manifest;
            let datacenter = Datacenter {
                instance,
                platform,
                requests,
                components,
                secrets,
                settings_compatibility,
                datacenter_tree,
                datacenter_commit,
                class_tree,
                class_commit,
                snapshot,
            };
            self.datacenters.insert(name.clone(), datacenter);
        }
        let Some(datacenter) = self.datacenters.get_mut(name) else { return };
        for (component, content) in delta.components {
            match content {
                Some(content) => drop(datacenter.components.insert(component, content)),
                None => drop(datacenter.components.remove(&component)),
            }
        }
    }

    /// Drops a datacenter whose branch was deleted.
    pub fn remove(&mut self, name: &DatacenterName) {
        self.forget(name);
        self.datacenters.remove(name);
    }

    /// Takes a datacenter out of the lists of readers.
    fn forget(&mut self, name: &DatacenterName) {
        let Some(datacenter) = self.datacenters.get(name) else { return };
        for read in [RefName::Datacenter(name.clone()), datacenter.instance.class_ref()] {
            if let Some(readers) = self.manifests.get_mut(&read) {
                readers.remove(name);
            }
        }
        for request in datacenter.requests.values() {
            for read in resolve::reads(request) {
                if let Some(readers) = self.components.get_mut(&read) {
                    readers.remove(name);
                    if readers.is_empty() {
                        self.components.remove(&read);
                    }
                }
            }
        }
    }
}
