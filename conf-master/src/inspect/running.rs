//! One component in a snapshot, with all its ingredients.

use std::collections::BTreeMap;

use conf_core::layers::{LinkPolicy, Sources};
use conf_core::manifest::{self, Host, InstanceManifest, nearest, nearest_component};
use conf_core::secret::Declaration;
use conf_core::snapshot::{Component, Snapshot};
use git2::Repository;
use libconf::name::{ComponentSelector, ComponentVersion, HostName, ObjectId, RoleName, SecretName};
use serde_json::{Map, Value};

use crate::inspect::error::InspectError;
use crate::text::list_or_none;
use conf_core::snapshot::{Manifests, manifests};

/// One component that a datacenter runs.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    /// The snapshot.
    pub(crate) snapshot: &'a Snapshot,
    /// The component's name in it.
    pub(crate) name: ComponentVersion,
    /// Its content.
    pub(crate) component: Component,
    instance: InstanceManifest,
    platform: Map<String, Value>,
    secrets: BTreeMap<SecretName, Declaration>,
    sealed: BTreeMap<SecretName, ObjectId>,
    raw: bool,
    links: LinkPolicy,
    class_tree: ObjectId,
    datacenter_tree: ObjectId,
}

impl<'a> Running<'a> {
    /// Finds a component in a snapshot.
    pub(crate) fn find(
        repo: &Repository,
        snapshot: &'a Snapshot,
        selector: &ComponentSelector,
    ) -> Result<Self, InspectError> {
        let all = snapshot.components(repo)?;
        let near = nearest_component(&selector.to_string(), all.keys());
        let running = all.into_iter().filter(|(name, _)| selector.matches(name));
        let mut running: Vec<(ComponentVersion, Component)> = running.collect();
        let (Some((name, component)), true) = (running.pop(), running.is_empty()) else {
            let datacenter = &snapshot.datacenter;
            let found = if running.is_empty() {
                format!("no {selector}{near}")
            } else {
                format!("several versions of {selector}, name one")
            };
            let words = format!("{datacenter} runs {found}; `conf-master log {datacenter}` shows what changed");
            return Err(InspectError::NotThere(words));
        };
        let Manifests { class, instance, class_tree, datacenter_tree } = manifests(repo, snapshot)?;
        let secrets = manifest::secrets(&class, &instance).into_iter();
        let pin = manifest::pins(&class, &instance).into_iter().find(|pin| pin.component == name);
        Ok(Running {
            snapshot,
            raw: pin.as_ref().is_some_and(|pin| pin.raw),
            links: LinkPolicy::of_entry(pin.is_some_and(|pin| pin.any_links)),
            platform: manifest::platform(&class, &instance),
            secrets: secrets.map(|(name, (declared, _))| (name.clone(), declared.clone())).collect(),
            sealed: BTreeMap::new(),
            class_tree,
            datacenter_tree,
            name,
            component,
            instance,
        })
    }

    /// Returns the ingredients.
    pub(crate) fn sources(&self) -> Sources<'_> {
        Sources {
            component_tree: self.component.tree,
            raw: self.raw,
            links: self.links,
            class_tree: self.class_tree,
            datacenter_tree: self.datacenter_tree,
            instance: &self.instance,
            datacenter: &self.snapshot.datacenter,
            platform: &self.platform,
            secrets: &self.secrets,
            sealed: &self.sealed,
        }
    }

    /// Returns an error when `host` does not run the component.
    pub(crate) fn on(&self, host: &HostName) -> Result<(), InspectError> {
        if self.instance.runs(host, &self.name) {
            return Ok(());
        }
        let hosts = self.instance.hosts.keys();
        let is_known = self.instance.hosts.contains_key(host);
        let near = if is_known { String::new() } else { nearest(host.as_str(), hosts.map(HostName::as_str)) };
        let mut words = format!("{host}{near} does not run {}", self.name);
        if self.instance.shuts_out(host) {
            words = format!("{words}: {}", self.instance.why_shut_out(host));
        }
        Err(InspectError::NotThere(words))
    }

    /// Adds a host that has one role and nothing else, for a role without hosts, and returns its
    /// name.
    pub(crate) fn stand_in(&mut self, role: &RoleName) -> Result<HostName, InspectError> {
        if !self.instance.roles.contains_key(role) {
            let (datacenter, known) = (&self.snapshot.datacenter, list_or_none(self.instance.roles.keys()));
            let near = nearest(role.as_str(), self.instance.roles.keys().map(RoleName::as_str));
            return Err(InspectError::NotThere(format!("{datacenter} has no role {role}{near}; it has {known}")));
        }
        // One more than there are hosts: one of so many is free, if it can be a name.
        let free = (0..=self.instance.hosts.len())
            .map(|number| if number == 0 { role.to_string() } else { format!("{role}-{number}") });
        let mut free = free.filter_map(|name| name.parse::<HostName>().ok());
        let Some(name) = free.find(|name| !self.instance.hosts.contains_key(name)) else {
            return Err(InspectError::NotThere(format!("no host can be named after {role}")));
        };
        let host = Host { roles: vec![(role.clone(), 0)], ..Host::default() };
        self.instance.hosts.insert(name.clone(), host);
        self.on(&name)
            .map_err(|_| InspectError::NotThere(format!("hosts of the role {role} do not run {}", self.name)))?;
        Ok(name)
    }
}
