//! What a snapshot's datacenter and class say that matters on a host.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::{
    layers::{Overrides, Sources},
    manifest::{self, ClassManifest, InstanceManifest, Selection, Strictness},
    secret::{self, Declaration},
    settings,
    snapshot::{Component, Snapshot},
};
use git2::{ObjectType, Repository as Git};
use libconf::name::{ComponentVersion, DatacenterName, HostName, ObjectId, SecretName};
use serde_json::{Map, Value};

use crate::transaction::TransactionError;

/// Both `datacenter.yaml`, read, and the overrides beside them.
pub(crate) struct Declared {
    pub(crate) selection: Selection,
    pub(crate) raw: BTreeSet<ComponentVersion>,
    /// The class's and the datacenter's.
    pub(crate) overrides: [Overrides; 2],
    instance: InstanceManifest,
    platform: Map<String, Value>,
    secrets: BTreeMap<SecretName, Declaration>,
    sealed: BTreeMap<SecretName, ObjectId>,
    /// The tree that the sealed values stand in.
    pub(crate) sealed_tree: Option<ObjectId>,
    datacenter: DatacenterName,
    class_tree: ObjectId,
    datacenter_tree: ObjectId,
}

/// Where the two stand in a snapshot.
const INSTANCE: &str = "datacenter";
const CLASS: &str = "datacenter-configuration";

impl Declared {
    pub(crate) fn read(git: &Git, snapshot: &Snapshot, host: &HostName) -> Result<Self, TransactionError> {
        let read = |tree: ObjectId, whose: &'static str| -> Result<String, TransactionError> {
            let tree = git.find_tree(tree.into()).map_err(TransactionError::Damaged)?;
            let entry = tree.get_name(manifest::FILE).ok_or_else(|| {
                TransactionError::Refused(format!("snapshot #{} has no {whose}/{}", snapshot.sequence, manifest::FILE))
            })?;
            let blob = git.find_blob(entry.id()).map_err(TransactionError::Damaged)?;
            Ok(String::from_utf8_lossy(blob.content()).into_owned())
        };
        let refused = |whose: &'static str| {
            move |faults: Vec<settings::Fault>| {
                let words: Vec<String> = faults.iter().map(ToString::to_string).collect();
                TransactionError::Refused(format!("{whose}/{}: {}", manifest::FILE, words.join("; ")))
            }
        };
        let (datacenter_tree, class_tree) = (snapshot.datacenter_tree(git)?, snapshot.class_tree(git)?);
        let sealed_tree = sealed_tree(git, snapshot)?;
        let instance = read(datacenter_tree, INSTANCE)?;
        let instance = InstanceManifest::parse(&instance, Strictness::Lenient).map_err(refused(INSTANCE))?;
        let class = read(class_tree, CLASS)?;
        let class = ClassManifest::parse(&class, Strictness::Lenient).map_err(refused(CLASS))?;
        let raw = manifest::pins(&class, &instance).into_iter().filter(|pin| pin.raw).map(|pin| pin.component);
        let overrides = |tree| Overrides::read(git, tree).map_err(TransactionError::Damaged);
        Ok(Declared {
            selection: instance.selection(host),
            raw: raw.collect(),
            overrides: [overrides(class_tree)?, overrides(datacenter_tree)?],
            platform: manifest::platform(&class, &instance),
            secrets: manifest::secrets(&class, &instance)
                .into_iter()
                .map(|(name, (declared, _))| (name.clone(), declared.clone()))
                .collect(),
            sealed: sealed_tree.map(|tree| sealed(git, tree)).transpose()?.unwrap_or_default(),
            sealed_tree,
            datacenter: snapshot.datacenter.clone(),
            instance,
            class_tree,
            datacenter_tree,
        })
    }

    /// True when a component may read a secret.
    pub(crate) fn reads_secrets(&self, name: &ComponentVersion) -> bool {
        self.secrets.values().any(|declared| declared.readers.contains(&name.component))
    }

    /// Where a component's layers are read.
    pub(crate) fn sources(&self, name: &ComponentVersion, component: &Component) -> Sources<'_> {
        Sources {
            component_tree: component.tree,
            raw: self.raw.contains(name),
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

/// The tree of a snapshot's sealed secrets.
pub(crate) fn sealed_tree(git: &Git, snapshot: &Snapshot) -> Result<Option<ObjectId>, TransactionError> {
    let tree = git.find_tree(snapshot.tree.into()).map_err(TransactionError::Damaged)?;
    let entry = tree.get_name("secrets").filter(|entry| entry.kind() == Some(ObjectType::Tree));
    Ok(entry.map(|entry| entry.id().into()))
}

/// The sealed value of each secret; none is read.
fn sealed(git: &Git, tree: ObjectId) -> Result<BTreeMap<SecretName, ObjectId>, TransactionError> {
    let mut sealed = BTreeMap::new();
    for entry in &git.find_tree(tree.into()).map_err(TransactionError::Damaged)? {
        let name = std::str::from_utf8(entry.name_bytes()).ok().and_then(|name| name.parse().ok());
        let (Some(name), Some(ObjectType::Tree)) = (name, entry.kind()) else { continue };
        let folder = git.find_tree(entry.id()).map_err(TransactionError::Damaged)?;
        let value = folder.get_name(secret::VALUE_FILE).filter(|value| value.kind() == Some(ObjectType::Blob));
        sealed.extend(value.map(|value| (name, value.id().into())));
    }
    Ok(sealed)
}
