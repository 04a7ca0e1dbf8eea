//! What a snapshot's datacenter and class declare for this host.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::{
    layers::{LinkPolicy, Overrides, Sources},
    manifest::{self, InstanceManifest, Selection},
    secret::{self, Declaration},
    snapshot::{self, Component, Snapshot, SnapshotError},
};
use git2::{ObjectType, Repository as Git};
use libconf::name::{ComponentSelector, ComponentVersion, DatacenterName, HostName, ObjectId, SecretName};
use serde_json::{Map, Value};

use crate::snapshot::{
    host_secrets::{SourceUse, SourceUses},
    source::Offers,
};

/// Both `datacenter.yaml` as they were read, and the overrides beside them.
pub(crate) struct Manifests {
    pub(crate) selection: Selection,
    pub(crate) raw: BTreeSet<ComponentVersion>,
    links: BTreeMap<ComponentVersion, LinkPolicy>,
    /// The class's and the datacenter's.
    pub(crate) overrides: [Overrides; 2],
    instance: InstanceManifest,
    platform: Map<String, Value>,
    secrets: BTreeMap<SecretName, Declaration>,
    sealed: BTreeMap<SecretName, ObjectId>,
    pub(crate) secrets_tree: Option<ObjectId>,
    datacenter: DatacenterName,
    class_tree: ObjectId,
    datacenter_tree: ObjectId,
}

impl Manifests {
    /// `links` are the components whose links may lead anywhere on this host.
    pub(crate) fn read(
        git: &Git,
        snapshot: &Snapshot,
        host: &HostName,
        links: &[ComponentSelector],
    ) -> Result<Self, SnapshotError> {
        let unreadable = |cause| SnapshotError::Read { commit: snapshot.commit, cause };
        let secrets_tree = snapshot.secrets_tree(git)?;
        let snapshot::Manifests { class, instance, class_tree, datacenter_tree } = snapshot::manifests(git, snapshot)?;
        let pins = manifest::pins(&class, &instance);
        let raw = pins.iter().filter(|pin| pin.raw).map(|pin| pin.component.clone());
        let any_links = pins.iter().filter(|pin| pin.any_links).map(|pin| {
            let is_listed = links.iter().any(|listed| listed.matches(&pin.component));
            (pin.component.clone(), if is_listed { LinkPolicy::Anywhere } else { LinkPolicy::NotListed })
        });
        let secrets = manifest::secrets(&class, &instance).into_iter();
        let overrides = |tree| Overrides::read(git, tree).map_err(unreadable);
        Ok(Manifests {
            selection: instance.selection(host),
            raw: raw.collect(),
            links: any_links.collect(),
            overrides: [overrides(class_tree)?, overrides(datacenter_tree)?],
            platform: manifest::platform(&class, &instance),
            secrets: secrets.map(|(name, (declared, _))| (name.clone(), declared.clone())).collect(),
            sealed: secrets_tree.map(|tree| sealed(git, tree)).transpose().map_err(unreadable)?.unwrap_or_default(),
            secrets_tree,
            datacenter: snapshot.datacenter.clone(),
            instance,
            class_tree,
            datacenter_tree,
        })
    }

    /// True if a component may read a secret.
    pub(crate) fn reads_secrets(&self, name: &ComponentVersion) -> bool {
        self.secrets.values().any(|declared| declared.readers.contains(&name.component))
    }

    /// Lists the sources of this host's `offers` of the secrets that a component may read.
    pub(crate) fn host_sources(&self, offers: &Offers, name: &ComponentVersion) -> SourceUses {
        // Most datacenters declare few such secrets, if any.
        let own = self.secrets.iter().filter(|(_, declared)| !declared.source.is_central());
        let own = own.filter(|(_, declared)| declared.readers.contains(&name.component) && !self.raw.contains(name));
        let uses = own.filter_map(|(secret, declared)| {
            let secret = secret.clone();
            Some((offers.source(&declared.source)?.ok()?.clone(), SourceUse { secret, generation: 0 }))
        });
        uses.collect()
    }

    /// Returns what a component's layers are read from.
    pub(crate) fn sources(&self, name: &ComponentVersion, component: &Component) -> Sources<'_> {
        Sources {
            component_tree: component.tree,
            raw: self.raw.contains(name),
            links: self.links.get(name).copied().unwrap_or(LinkPolicy::Inside),
            class_tree: self.class_tree,
            datacenter_tree: self.datacenter_tree,
            instance: &self.instance,
            datacenter: &self.datacenter,
            platform: &self.platform,
            secrets: &self.secrets,
            sealed: &self.sealed,
        }
    }
}

/// Lists the sealed value of each secret, without reading it.
fn sealed(git: &Git, tree: ObjectId) -> Result<BTreeMap<SecretName, ObjectId>, git2::Error> {
    let mut sealed = BTreeMap::new();
    for entry in &git.find_tree(tree.into())? {
        let name = std::str::from_utf8(entry.name_bytes()).ok().and_then(|name| name.parse().ok());
        let (Some(name), Some(ObjectType::Tree)) = (name, entry.kind()) else { continue };
        let folder = git.find_tree(entry.id())?;
        let value = folder.get_name(secret::VALUE_FILE).filter(|value| value.kind() == Some(ObjectType::Blob));
        sealed.extend(value.map(|value| (name, value.id().into())));
    }
    Ok(sealed)
}
