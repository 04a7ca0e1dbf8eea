//! What a `datacenter.yaml` says, as types.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    manifest::pattern::Pattern,
    secret::{Declaration, HostKey},
    settings::{Compatibility, Fault, Lines},
};
use libconf::name::{
    BranchName, ClassName, ComponentName, ComponentVersion, HostName, Kind, RefName, RoleName, SecretName, TagName,
};

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
    /// The secrets of its datacenters.
    pub secrets: BTreeMap<SecretName, Declaration>,
    /// What changes of settings promise where a component has no schema; nothing where it does not say so.
    pub settings_compatibility: Compatibility,
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
    /// Its secrets besides the class's; one of the same name replaces the class's.
    pub secrets: BTreeMap<SecretName, Declaration>,
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
    /// Layers over components' settings.
    pub settings: BTreeMap<ComponentName, Overlay>,
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
    /// The line of its name.
    pub line: usize,
    /// What its secrets are sealed to.
    pub key: Option<HostKey>,
    /// Values for templates, over its roles'.
    pub variables: Map<String, Value>,
    /// Layers over its roles'.
    pub settings: BTreeMap<ComponentName, Overlay>,
}

/// What a role or a host lays over a component's settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    /// The values, as a JSON Merge Patch.
    pub values: Map<String, Value>,
    /// Their lines in the file; that of the component's name at the root.
    pub lines: Lines,
}

/// What one host runs of its datacenter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The datacenter's inventory lists the host.
    pub listed: bool,
    /// `None`: everything.
    patterns: Option<Vec<Pattern>>,
}

impl InstanceManifest {
    /// The ref that its class is read from.
    pub fn class_ref(&self) -> RefName {
        match &self.conf.tag {
            Some(tag) => RefName::ClassTag(self.conf.class.clone(), tag.clone()),
            None => RefName::Class(self.conf.class.clone()),
        }
    }

    /// What `host` runs. A host that is not listed, or listed with neither roles nor components, runs everything.
    pub fn selection(&self, host: &HostName) -> Selection {
        let Some(host) = self.hosts.get(host) else { return Selection { listed: false, patterns: None } };
        if host.roles.is_empty() && host.components.is_empty() {
            return Selection { listed: true, patterns: None };
        }
        let of_roles = host.roles.iter().filter_map(|(role, _)| self.roles.get(role)).flat_map(|role| &role.components);
        Selection { listed: true, patterns: Some(of_roles.chain(&host.components).cloned().collect()) }
    }

    /// True when `host` runs `component`; see [`Self::selection`].
    pub fn runs(&self, host: &HostName, component: &ComponentVersion) -> bool {
        let Some(host) = self.hosts.get(host) else { return true };
        let of_roles = host.roles.iter().filter_map(|(role, _)| self.roles.get(role)).flat_map(|role| &role.components);
        (host.roles.is_empty() && host.components.is_empty())
            || of_roles.chain(&host.components).any(|pattern| pattern.matches(component))
    }

    /// What hosts and roles name by its full name, but neither the class nor the datacenter runs, in order of line. A
    /// pattern that matches nothing yet is none of these.
    pub fn dangling(&self, class: &ClassManifest) -> Vec<Fault> {
        let runs =
            |named: &Pattern| class.components.keys().chain(self.components.keys()).any(|one| named.matches(one));
        let of_roles = self.roles.values().flat_map(|role| &role.components);
        let of_hosts = self.hosts.values().flat_map(|host| &host.components);
        let mut faults: Vec<Fault> = of_roles
            .chain(of_hosts)
            .filter(|named| named.is_one() && !runs(named))
            .map(|named| {
                let reason = format!(
                    "`{named}` is run neither by the class nor by this datacenter; add it to `{}`, or take it out here",
                    named.kind.map_or("services", Kind::as_str)
                );
                Fault::new(named.line, reason)
            })
            .collect();
        faults.sort();
        faults
    }
}

impl Selection {
    /// True when the host runs everything of its datacenter.
    pub fn is_everything(&self) -> bool {
        self.patterns.is_none()
    }

    /// True when the host runs `component`.
    pub fn contains(&self, component: &ComponentVersion) -> bool {
        self.patterns.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(component)))
    }
}
