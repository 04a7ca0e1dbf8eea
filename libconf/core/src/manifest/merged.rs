//! Pins, secrets and platform of a datacenter: the class's and its own together.

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
    /// The component and its version.
    pub component: ComponentVersion,
    /// The branch of its content.
    pub branch: BranchName,
    /// The tag; `None` follows the branch (`latest`).
    pub tag: Option<TagName>,
    /// True when every file is exported byte for byte: no settings, no templates.
    pub raw: bool,
    /// True when its links may lead anywhere (`links: any`), on hosts that allow it.
    pub any_links: bool,
    /// The line of the entry, in the file of `declared_in`.
    pub line: usize,
    /// The file of the entry.
    pub declared_in: DeclaredIn,
}

/// The `datacenter.yaml` that holds a declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclaredIn {
    /// The class's.
    Class,
    /// The datacenter's own.
    Instance,
}

impl PinRequest {
    /// The ref of its content.
    pub fn reference(&self) -> RefName {
        let component = self.component.component.clone();
        match &self.tag {
            Some(tag) => RefName::Tag(component, tag.clone()),
            None => RefName::Branch(component, self.branch.clone()),
        }
    }
}

/// The secrets of a datacenter: its own, and the class's that it does not replace. Each with the
/// file of its declaration.
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

/// The pins of a datacenter, sorted: its own entries, and the class's that it does not replace
/// (same name and version).
pub fn pins(class: &ClassManifest, instance: &InstanceManifest) -> Vec<PinRequest> {
    let of_class = class.components.iter().map(|(name, entry)| (name, (entry, DeclaredIn::Class)));
    let own = instance.components.iter().map(|(name, entry)| (name, (entry, DeclaredIn::Instance)));
    let merged: BTreeMap<_, _> = of_class.chain(own).collect();
    let request = |(component, (entry, declared_in)): (&ComponentVersion, (&PinEntry, DeclaredIn))| PinRequest {
        component: component.clone(),
        branch: entry.branch.clone(),
        tag: entry.tag.clone(),
        raw: entry.raw,
        any_links: entry.any_links,
        line: entry.line,
        declared_in,
    };
    merged.into_iter().map(request).collect()
}
