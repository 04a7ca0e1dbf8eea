//! What class and datacenter say together.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    manifest::model::{ClassManifest, InstanceManifest, PinEntry},
    secret::Declaration,
    settings::merge,
};
use libconf::name::{BranchName, ComponentVersion, RefName, SecretName, TagName};

/// A pin before its branch and tag are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinRequest {
    /// What is pinned, under which version.
    pub component: ComponentVersion,
    /// The branch whose content it is.
    pub branch: BranchName,
    /// The tag; `None` follows the branch (`latest`).
    pub tag: Option<TagName>,
    /// Every file byte for byte, no settings, no templates.
    pub raw: bool,
    /// The line that says so, in the file of `declared_in`.
    pub line: usize,
    /// Whose `datacenter.yaml` says so.
    pub declared_in: DeclaredIn,
}

/// Whose `datacenter.yaml` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclaredIn {
    /// The class's.
    Class,
    /// The datacenter's own.
    Instance,
}

impl PinRequest {
    /// The ref that its content is read from.
    pub fn reference(&self) -> RefName {
        let component = self.component.component.clone();
        match &self.tag {
            Some(tag) => RefName::Tag(component, tag.clone()),
            None => RefName::Branch(component, self.branch.clone()),
        }
    }
}

/// The secrets of a datacenter: its own, and the class's that it does not replace. Each with whose file says so.
pub fn secrets<'a>(
    class: &'a ClassManifest,
    instance: &'a InstanceManifest,
) -> BTreeMap<&'a SecretName, (&'a Declaration, DeclaredIn)> {
    let of_class = class.secrets.iter().map(|(name, one)| (name, (one, DeclaredIn::Class)));
    of_class.chain(instance.secrets.iter().map(|(name, one)| (name, (one, DeclaredIn::Instance)))).collect()
}

/// Facts about the platform: the class's, and over them, as JSON Merge Patch, the datacenter's own.
pub fn platform(class: &ClassManifest, instance: &InstanceManifest) -> Map<String, Value> {
    let mut platform = Map::new();
    merge(&mut platform, &class.platform);
    merge(&mut platform, &instance.platform);
    platform
}

/// What a datacenter runs, sorted: its own entries, and the class's that it does not replace (same name and version).
pub fn pins(class: &ClassManifest, instance: &InstanceManifest) -> Vec<PinRequest> {
    let of_class = class.components.iter().map(|(name, entry)| (name, (entry, DeclaredIn::Class)));
    let own = instance.components.iter().map(|(name, entry)| (name, (entry, DeclaredIn::Instance)));
    let merged: BTreeMap<_, _> = of_class.chain(own).collect();
    let request = |(component, (entry, declared_in)): (&ComponentVersion, (&PinEntry, DeclaredIn))| PinRequest {
        component: component.clone(),
        branch: entry.branch.clone(),
        tag: entry.tag.clone(),
        raw: entry.raw,
        line: entry.line,
        declared_in,
    };
    merged.into_iter().map(request).collect()
}
