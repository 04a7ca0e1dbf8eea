//! The content of a `datacenter.yaml`, as types.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    manifest::pattern::Pattern,
    nearest::{MOST_LOOKS, nearest, nearest_component},
    secret::{Declaration, HostKey},
    settings::{Compatibility, Fault, Lines},
};
use libconf::name::{
    BranchName, ClassName, ComponentName, ComponentVersion, HostName, Kind, RefName, RoleName, SecretName, TagName,
};

/// The name of the file, at the root of a class's branch and of a datacenter's.
pub const FILE: &str = "datacenter.yaml";

/// How a reader treats unknown keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// At landing: every key must be known, nothing may stand twice.
    Strict,
    /// On hosts: keys that a later version added are ignored.
    Lenient,
}

/// The `datacenter.yaml` of a class, on `datacenter-configuration/<class>`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassManifest {
    /// The components that its datacenters run.
    pub components: BTreeMap<ComponentVersion, PinEntry>,
    /// Facts about the platform, for templates.
    pub platform: Map<String, Value>,
    /// The secrets of its datacenters.
    pub secrets: BTreeMap<SecretName, Declaration>,
    /// The promise about changes of settings when a component has no schema; `None` when the class
    /// makes no promise.
    pub settings_compatibility: Compatibility,
}

/// The `datacenter.yaml` of a datacenter, on `datacenters/<id>/<version>`.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceManifest {
    /// The datacenter's class.
    pub conf: ClassRef,
    /// Components that it runs besides, or instead of, the class's.
    pub components: BTreeMap<ComponentVersion, PinEntry>,
    /// Facts about the platform, over the class's.
    pub platform: Map<String, Value>,
    /// Its secrets besides the class's; one of the same name replaces the class's.
    pub secrets: BTreeMap<SecretName, Declaration>,
    /// Named sets that hosts take on.
    pub roles: BTreeMap<RoleName, Role>,
    /// The hosts that the inventory lists.
    pub hosts: BTreeMap<HostName, Host>,
    /// False lets hosts that the inventory does not list run everything, beside those that it
    /// lists.
    pub closed: bool,
}

/// Where a datacenter's class is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRef {
    /// The class.
    pub class: ClassName,
    /// The tag of the class; `None` follows its branch (`latest`).
    pub tag: Option<TagName>,
    /// The line of the reference.
    pub line: usize,
}

/// One entry of `services`, `applications` or `devices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinEntry {
    /// The branch of its content.
    pub branch: BranchName,
    /// The tag; `None` follows the branch (`latest`).
    pub tag: Option<TagName>,
    /// True when every file is exported byte for byte: no settings, no templates.
    pub raw: bool,
    /// True when its links may lead anywhere (`links: any`), on hosts that allow it.
    pub any_links: bool,
    /// The line of the entry.
    pub line: usize,
}

/// A role: what its hosts run and know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Role {
    /// The components that they run.
    pub components: Vec<Pattern>,
    /// Values for templates.
    pub variables: Map<String, Value>,
    /// Layers over components' settings.
    pub settings: BTreeMap<ComponentName, Overlay>,
}

/// A host: what it runs and knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// The host's roles in order, each with its line; later ones win.
    pub roles: Vec<(RoleName, usize)>,
    /// The components that it runs besides its roles'.
    pub components: Vec<Pattern>,
    /// Labels to choose hosts by.
    pub labels: Map<String, Value>,
    /// The line of its name.
    pub line: usize,
    /// The key that its secrets are sealed to.
    pub key: Option<HostKey>,
    /// Values for templates, over its roles'.
    pub variables: Map<String, Value>,
    /// Layers over its roles'.
    pub settings: BTreeMap<ComponentName, Overlay>,
}

/// A layer of a role or a host over a component's settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    /// The values, as a JSON Merge Patch.
    pub values: Map<String, Value>,
    /// The lines of the values in the file; at the root, the line of the component's name.
    pub lines: Lines,
}

/// The components that one host runs of its datacenter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// True when the datacenter's inventory lists the host.
    pub listed: bool,
    /// Why the host is shut out, when it is: see [`InstanceManifest::shuts_out`].
    pub shut_out: Option<String>,
    /// `None` selects everything.
    patterns: Option<Vec<Pattern>>,
}

impl InstanceManifest {
    /// The ref of its class.
    pub fn class_ref(&self) -> RefName {
        match &self.conf.tag {
            Some(tag) => RefName::ClassTag(self.conf.class.clone(), tag.clone()),
            None => RefName::Class(self.conf.class.clone()),
        }
    }

    /// True when hosts that are not listed run everything: where none is listed, and with
    /// `closed: false`.
    pub fn is_open(&self) -> bool {
        self.hosts.is_empty() || !self.closed
    }

    /// True for a host that is not listed where others are. It exports nothing new, and keeps the
    /// files that it has.
    pub fn shuts_out(&self, host: &HostName) -> bool {
        !self.is_open() && !self.hosts.contains_key(host)
    }

    /// Says that `host` is shut out, and what to do; see [`Self::shuts_out`].
    pub fn why_shut_out(&self, host: &HostName) -> String {
        let near = nearest(host.as_str(), self.hosts.keys().map(HostName::as_str));
        format!(
            "the inventory lists hosts, and `{host}` is none of them{near}; list it under `inventories: hosts:`, or let \
             unlisted hosts run everything with inventories: {{closed: false}}"
        )
    }

    /// The components that `host` runs. A host that is listed with neither roles nor components
    /// runs everything. One that is not listed runs everything where [`Self::is_open`], else
    /// nothing.
    pub fn selection(&self, host: &HostName) -> Selection {
        let patterns = self.patterns(host).map(|patterns| patterns.cloned().collect());
        let shut_out = self.shuts_out(host).then(|| self.why_shut_out(host));
        Selection { listed: self.hosts.contains_key(host), shut_out, patterns }
    }

    /// True when `host` runs `component`; see [`Self::selection`].
    pub fn runs(&self, host: &HostName, component: &ComponentVersion) -> bool {
        self.patterns(host).is_none_or(|mut patterns| patterns.any(|pattern| pattern.matches(component)))
    }

    /// The patterns of a host and its roles; `None` when it runs everything.
    fn patterns(&self, host: &HostName) -> Option<impl Iterator<Item = &Pattern>> {
        let listed = self.hosts.get(host);
        let everything =
            listed.map_or_else(|| self.is_open(), |host| host.roles.is_empty() && host.components.is_empty());
        if everything {
            return None;
        }
        let roles = listed.into_iter().flat_map(|host| &host.roles).filter_map(|(role, _)| self.roles.get(role));
        Some(roles.flat_map(|role| &role.components).chain(listed.into_iter().flat_map(|host| &host.components)))
    }

    /// Faults for components that hosts and roles name in full, but neither the class nor the
    /// datacenter runs; in order of line. A pattern with a wildcard is no fault.
    pub fn dangling(&self, class: &ClassManifest) -> Vec<Fault> {
        let known = || class.components.keys().chain(self.components.keys());
        let runs = |named: &Pattern| known().any(|one| named.matches(one));
        let of_roles = self.roles.values().flat_map(|role| &role.components);
        let of_hosts = self.hosts.values().flat_map(|host| &host.components);
        let mut faults: Vec<Fault> = of_roles
            .chain(of_hosts)
            .filter(|named| named.is_one() && !runs(named))
            .enumerate()
            .map(|(number, named)| {
                // To find a similar name, all are compared.
                let near = (number < MOST_LOOKS).then(|| nearest_component(&named.to_string(), known()));
                let reason = format!(
                    "`{named}` is run neither by the class nor by this datacenter{}; add it to `{}`, or take it out here",
                    near.unwrap_or_default(),
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

    /// False when the host runs no version of `component`, whatever versions there are.
    pub fn may_contain(&self, component: &ComponentName) -> bool {
        let matches = |pattern: &Pattern| pattern.matches_a_version_of(component);
        self.patterns.as_ref().is_none_or(|patterns| patterns.iter().any(matches))
    }
}
