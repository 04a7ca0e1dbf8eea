//! The index in memory: what each datacenter runs, and which datacenters read which ref.

pub(crate) mod contents;
pub(crate) mod model;
pub(crate) mod overrides;
pub(crate) mod readers;
pub(crate) mod resolve;
pub(crate) mod view;

pub(crate) use crate::catalog::contents::Contents;
pub(crate) use crate::catalog::model::{Datacenter, DeclaredSecret, Delta, Deltas, Manifest, Requests, Touched};
pub(crate) use crate::catalog::overrides::OverridesCache;
pub(crate) use crate::catalog::view::{DatacenterChange, DatacenterView};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use conf_core::snapshot::Snapshot;
use git2::Repository;
use libconf::name::{DatacenterName, ObjectId, RefName, Segment};

use crate::catalog::readers::Readers;
use crate::fault::Fault;
use crate::store::{NONE_REFUSED, Proposed, RefChanges, Table};

/// The state after the last landing. A copy of it is one version, against which a change can be
/// judged while others land. Copies share what is large.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    /// Every ref.
    pub(crate) table: Table,
    /// Every datacenter that has a branch.
    pub(crate) datacenters: BTreeMap<DatacenterName, Arc<Datacenter>>,
    /// The datacenters that had a snapshot and whose branch was deleted.
    pub(crate) deleted: BTreeSet<DatacenterName>,
    /// The tree of each id's sealed secrets.
    pub(crate) secrets: BTreeMap<Segment, ObjectId>,
    /// The datacenters that read a datacenter's branch or a class.
    manifests: HashMap<RefName, BTreeSet<DatacenterName>>,
    /// The datacenters that read a component's branch or tag, and for which components.
    components: Readers,
}

impl Catalog {
    /// Resolves every datacenter of a table. A datacenter that cannot be resolved is a fault and
    /// left out.
    pub(crate) fn load(repo: &Repository, contents: &Contents, table: Table) -> (Self, Vec<Fault>) {
        let (mut catalog, mut faults) = Catalog::unresolved(repo, table);
        for name in catalog.table.datacenters() {
            let unchanged = BTreeMap::new();
            let refs = catalog.proposed(&unchanged);
            let resolved = resolve::datacenter((repo, contents), refs, &name, None, &Touched::whole());
            if !resolved.faults.is_empty() {
                faults.extend(resolved.faults.into_iter().map(|caused| caused.fault));
                continue;
            }
            let tip = catalog.table.target(&RefName::Snapshot(name.clone()));
            catalog.apply_delta(&name, resolved.delta);
            if let Some(snapshot) = tip.and_then(|tip| Snapshot::read(repo, tip.commit).ok()) {
                catalog.set_snapshot(&name, snapshot);
            }
        }
        (catalog, faults)
    }

    /// Takes a table and resolves no datacenter. A branch of secrets that cannot be read is a
    /// fault.
    pub(crate) fn unresolved(repo: &Repository, table: Table) -> (Self, Vec<Fault>) {
        let (mut secrets, mut faults, mut deleted) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for (name, target) in table.iter() {
            if let RefName::Snapshot(datacenter) = name
                && table.target(&RefName::Datacenter(datacenter.clone())).is_none()
            {
                deleted.insert(datacenter.clone());
            }
            let RefName::Secrets(id) = name else { continue };
            match repo.find_commit(target.commit.into()) {
                Ok(tip) => drop(secrets.insert(id.clone(), tip.tree_id().into())),
                Err(error) => faults.push(Fault::new(format!("{}: {}", name.short(), error.message()))),
            }
        }
        (Catalog { table, deleted, secrets, ..Catalog::default() }, faults)
    }

    /// Returns a datacenter that has a branch.
    pub(crate) fn datacenter(&self, name: &DatacenterName) -> Option<&Datacenter> {
        self.datacenters.get(name).map(|datacenter| &**datacenter)
    }

    /// Records a datacenter's newest snapshot.
    pub(crate) fn set_snapshot(&mut self, name: &DatacenterName, snapshot: Snapshot) {
        if let Some(datacenter) = self.datacenters.get_mut(name) {
            Arc::make_mut(datacenter).snapshot = Some(snapshot);
        }
    }

    /// Returns the table with some changes over it.
    pub(crate) fn proposed<'a>(&'a self, changes: &'a RefChanges) -> Proposed<'a> {
        Proposed { table: &self.table, changes, refused: &NONE_REFUSED }
    }

    /// Finds the datacenters that read some changed refs, and which of their parts do.
    pub(crate) fn touched<'a>(&self, refs: impl IntoIterator<Item = &'a RefName>) -> BTreeMap<DatacenterName, Touched> {
        let mut touched: BTreeMap<DatacenterName, Touched> = BTreeMap::new();
        for name in refs {
            if let RefName::Datacenter(datacenter) = name {
                touched.entry(datacenter.clone()).or_default().manifest = true;
            }
            for datacenter in self.manifests.get(name).into_iter().flatten() {
                touched.entry(datacenter.clone()).or_default().manifest = true;
            }
            for (datacenter, components) in self.components.of(name) {
                let components = components.iter().cloned();
                touched.entry(datacenter.clone()).or_default().components.extend(components);
            }
        }
        touched
    }

    /// Records the resolved differences of a datacenter.
    pub(crate) fn apply_delta(&mut self, name: &DatacenterName, delta: Delta) {
        if let Some(manifest) = delta.manifest {
            self.forget(name);
            self.remember(name, &manifest);
            self.deleted.remove(name);
            let old = self.datacenters.remove(name);
            let old = old.map(Arc::unwrap_or_clone);
            let (components, snapshot) = old.map(|old| (old.components, old.snapshot)).unwrap_or_default();
            self.datacenters.insert(name.clone(), Arc::new(Datacenter { manifest, components, snapshot }));
        }
        let Some(datacenter) = self.datacenters.get_mut(name) else { return };
        let datacenter = Arc::make_mut(datacenter);
        for (component, content) in delta.components {
            match content {
                Some(content) => drop(datacenter.components.insert(component, content)),
                None => drop(datacenter.components.remove(&component)),
            }
        }
    }

    /// Drops a datacenter whose branch was deleted.
    pub(crate) fn remove(&mut self, name: &DatacenterName) {
        self.forget(name);
        self.datacenters.remove(name);
        if self.table.target(&RefName::Snapshot(name.clone())).is_some() {
            self.deleted.insert(name.clone());
        }
    }

    /// Lists the datacenters that read a ref.
    pub(crate) fn readers<'a>(&'a self, name: &'a RefName) -> BTreeSet<&'a DatacenterName> {
        let manifests = self.manifests.get(name).into_iter().flatten();
        manifests.chain(self.components.of(name).map(|(datacenter, _)| datacenter)).collect()
    }

    /// Adds a datacenter to the lists of readers.
    fn remember(&mut self, name: &DatacenterName, manifest: &Manifest) {
        for read in resolve::manifests(name, &manifest.instance) {
            self.manifests.entry(read).or_default().insert(name.clone());
        }
        self.components.add(name, &manifest.requests);
    }

    /// Takes a datacenter out of the lists of readers.
    fn forget(&mut self, name: &DatacenterName) {
        let Some(datacenter) = self.datacenters.get(name) else { return };
        let manifest = &datacenter.manifest;
        for read in resolve::manifests(name, &manifest.instance) {
            if let Some(readers) = self.manifests.get_mut(&read) {
                readers.remove(name);
            }
        }
        self.components.remove(name);
    }
}
