//! What a snapshot's datacenter and class say that matters on a host.

use std::collections::BTreeSet;

use git2::Repository as Git;
use libconf::{
    name::{ComponentVersion, DatacenterName, HostName, ObjectId},
    tier::{
        layers::{Overrides, Sources},
        manifest::{self, ClassManifest, InstanceManifest, Selection, Strictness},
        snapshot::{Component, Snapshot},
    },
};
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
            move |faults: Vec<manifest::Fault>| {
                let words: Vec<String> = faults.iter().map(ToString::to_string).collect();
                TransactionError::Refused(format!("{whose}/{}: {}", manifest::FILE, words.join("; ")))
            }
        };
        let (datacenter_tree, class_tree) = (snapshot.datacenter_tree(git)?, snapshot.class_tree(git)?);
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
            datacenter: snapshot.datacenter.clone(),
            instance,
            class_tree,
            datacenter_tree,
        })
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
        }
    }
}
