//! `datacenter.yaml`: what a class of datacenters runs, and what one datacenter makes of it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub use super::yaml::Fault;
use crate::name::{BranchName, ClassName, ComponentName, ComponentVersion, HostName, RefName, RoleName, TagName};

/// The name of the file, at the root of a class's branch and of a datacenter's.
pub const FILE: &str = "datacenter.yaml";

/// How much a reader insists on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// At landing: every key must be known, nothing may stand twice.
    Strict,
    /// On hosts: keys that a later version added are passed over.
    Lenient,
}

/// What a class says: `datacenter.yaml` on `datacenter-configuration/<class>`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassManifest {
    /// What its datacenters run.
    pub components: BTreeMap<ComponentVersion, PinEntry>,
    /// Facts about the platform, for templates.
    pub platform: Map<String, Value>,
}

/// What a datacenter says: `datacenter.yaml` on `datacenters/<id>/<version>`.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceManifest {
    /// The class that it is of.
    pub conf: ClassRef,
    /// What it runs besides, or instead of, the class's.
    pub components: BTreeMap<ComponentVersion, PinEntry>,
    /// Facts about the platform, over the class's.
    pub platform: Map<String, Value>,
    /// Named sets that hosts take on.
    pub roles: BTreeMap<RoleName, Role>,
    /// The hosts that it says something about.
    pub hosts: BTreeMap<HostName, Host>,
}

/// Where a datacenter's class is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRef {
    /// Which class.
    pub class: ClassName,
    /// Which tag of it; `None` follows its branch (`latest`).
    pub tag: Option<TagName>,
    /// The line that says so.
    pub line: usize,
}

/// One entry of `services`, `applications` or `devices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinEntry {
    /// The branch whose content it is.
    pub branch: BranchName,
    /// The tag; `None` follows the branch (`latest`).
    pub tag: Option<TagName>,
    /// Every file byte for byte, no settings, no templates.
    pub raw: bool,
    /// The line of the entry.
    pub line: usize,
}

/// What hosts of a role run and know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Role {
    /// What they run.
    pub components: Vec<Pattern>,
    /// Values for templates.
    pub variables: Map<String, Value>,
    /// Layers over a component's settings.
    pub settings: BTreeMap<ComponentName, Map<String, Value>>,
}

/// What one host runs and knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// The roles that it takes on, in order; later ones win. Each with its line.
    pub roles: Vec<(RoleName, usize)>,
    /// What it runs besides.
    pub components: Vec<Pattern>,
    /// Words to choose hosts by.
    pub labels: Map<String, Value>,
    /// Values for templates, over its roles'.
    pub variables: Map<String, Value>,
    /// Layers over its roles'.
    pub settings: BTreeMap<ComponentName, Map<String, Value>>,
}

/// Names components: `<kind>/<name>[/<version>]`, where `*` and `?` may stand for parts of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    line: usize,
}

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

/// What one host runs of its datacenter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The datacenter's inventory lists the host.
    pub listed: bool,
    /// `None`: everything.
    patterns: Option<Vec<Pattern>>,
}

impl ClassManifest {
    /// Reads a class's `datacenter.yaml`; all faults that can be found at once come at once.
    pub fn parse(text: &str, strictness: Strictness) -> Result<Self, Vec<Fault>> {
        let _ = (text, strictness);
        unimplemented!()
    }
}

impl InstanceManifest {
    /// Reads a datacenter's `datacenter.yaml`; all faults that can be found at once come at once.
    pub fn parse(text: &str, strictness: Strictness) -> Result<Self, Vec<Fault>> {
        let _ = (text, strictness);
        unimplemented!()
    }

    /// The ref that its class is read from.
    pub fn class_ref(&self) -> RefName {
        match &self.conf.tag {
            Some(tag) => RefName::ClassTag(self.conf.class.clone(), tag.clone()),
            None => RefName::Class(self.conf.class.clone()),
        }
    }

    /// What `host` runs. A host that is not listed, or listed with neither roles nor components, runs everything.
    pub fn selection(&self, host: &HostName) -> Selection {
        let _ = host;
        unimplemented!()
    }

    /// What hosts and roles name, but neither the class nor the datacenter runs. Lines are the datacenter's file's.
    pub fn dangling(&self, class: &ClassManifest) -> Vec<Fault> {
        let _ = class;
        unimplemented!()
    }
}

impl Selection {
    /// True when the host runs everything of its datacenter.
    pub fn is_everything(&self) -> bool {
        self.patterns.is_none()
    }

    /// True when the host runs `component`.
    pub fn contains(&self, component: &ComponentVersion) -> bool {
        let _ = component;
        unimplemented!()
    }
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

/// What a datacenter runs, sorted: its own entries, and the class's that it does not replace (same name and version).
pub fn pins(class: &ClassManifest, instance: &InstanceManifest) -> Vec<PinRequest> {
    let _ = (class, instance);
    unimplemented!()
}
