//! `datacenter.yaml`: what a class of datacenters runs, and what one datacenter makes of it.

mod reader;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

pub use crate::settings::yaml::Fault;
use crate::{
    layers,
    secret::{Declaration, HostKey},
    settings::{lines::Lines, schema::Compatibility},
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

/// Names components: `<kind>/<name>[/<version>]`. The kind may be `*`; in the name and the version `*` stands for any
/// number of characters and `?` for one. Without a version it means all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    kind: Option<Kind>,
    name: String,
    version: Option<String>,
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
    /// Reads a class's `datacenter.yaml`; all faults that can be found at once come at once, in order of line.
    pub fn parse(text: &str, strictness: Strictness) -> Result<Self, Vec<Fault>> {
        reader::class(text, strictness)
    }
}

impl InstanceManifest {
    /// Reads a datacenter's `datacenter.yaml`; all faults that can be found at once come at once, in order of line.
    pub fn parse(text: &str, strictness: Strictness) -> Result<Self, Vec<Fault>> {
        reader::instance(text, strictness)
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

impl Pattern {
    /// True when it names `one`.
    pub fn matches(&self, one: &ComponentVersion) -> bool {
        self.kind.is_none_or(|kind| kind == one.component.kind)
            && matches(self.name.as_bytes(), one.component.name.as_str().as_bytes())
            && self.version.as_ref().is_none_or(|glob| matches(glob.as_bytes(), one.version.as_str().as_bytes()))
    }

    /// True when it stands for one name, not for whatever is like it.
    fn is_one(&self) -> bool {
        let wild = |text: &String| text.contains(['*', '?']);
        self.kind.is_some() && !wild(&self.name) && !self.version.as_ref().is_some_and(wild)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.map_or("*", Kind::as_str), self.name)?;
        self.version.iter().try_for_each(|version| write!(f, "/{version}"))
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

/// `*` is any number of characters, `?` one. Going back to the last `*` alone keeps it from growing with their number.
fn matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < name.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((back, from)) = star else { return false };
                star = Some((back, from + 1));
                at = back + 1;
                seen = from + 1;
            }
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
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

/// Facts about the platform: the class's, and over them, as JSON Merge Patch, the datacenter's own.
pub fn platform(class: &ClassManifest, instance: &InstanceManifest) -> Map<String, Value> {
    let mut platform = Map::new();
    layers::merge(&mut platform, &class.platform);
    layers::merge(&mut platform, &instance.platform);
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
