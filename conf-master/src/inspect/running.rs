//! One component in a snapshot, with all that it is made from.

use std::collections::BTreeMap;

use anyhow::Context as _;
use conf_core::{
    layers::Sources,
    manifest::{self, ClassManifest, Host, InstanceManifest, Strictness},
    secret::Declaration,
    settings,
    snapshot::{Component, Snapshot},
};
use git2::Repository;
use libconf::name::{ComponentSelector, ComponentVersion, HostName, ObjectId, RoleName, SecretName};
use serde_json::{Map, Value};

/// Why there is no answer: what was asked for is not there, or not to be told apart.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotThere(pub String);

/// One component that a datacenter runs.
#[derive(Debug)]
pub struct Running<'a> {
    /// In which snapshot.
    pub snapshot: &'a Snapshot,
    /// Its name there.
    pub name: ComponentVersion,
    /// Its content.
    pub component: Component,
    instance: InstanceManifest,
    platform: Map<String, Value>,
    secrets: BTreeMap<SecretName, Declaration>,
    sealed: BTreeMap<SecretName, ObjectId>,
    raw: bool,
    class_tree: ObjectId,
    datacenter_tree: ObjectId,
}

impl<'a> Running<'a> {
    /// Finds it in a snapshot.
    pub fn find(
        repo: &Repository,
        snapshot: &'a Snapshot,
        selector: &ComponentSelector,
    ) -> anyhow::Result<Result<Self, NotThere>> {
        let running = snapshot.components(repo)?.into_iter().filter(|(name, _)| selector.matches(name));
        let mut running: Vec<(ComponentVersion, Component)> = running.collect();
        let (Some((name, component)), true) = (running.pop(), running.is_empty()) else {
            return Ok(Err(NotThere(format!(
                "{} runs {}; `conf-master log {}` shows what changed",
                snapshot.datacenter,
                if running.is_empty() {
                    format!("no {selector}")
                } else {
                    format!("several versions of {selector}, name one")
                },
                snapshot.datacenter
            ))));
        };
        let (class_tree, datacenter_tree) = (snapshot.class_tree(repo)?, snapshot.datacenter_tree(repo)?);
        let class =
            ClassManifest::parse(&text(repo, class_tree)?, Strictness::Lenient).map_err(|faults| faulty(&faults))?;
        let instance = InstanceManifest::parse(&text(repo, datacenter_tree)?, Strictness::Lenient)
            .map_err(|faults| faulty(&faults))?;
        let raw = manifest::pins(&class, &instance).iter().any(|pin| pin.component == name && pin.raw);
        let platform = manifest::platform(&class, &instance);
        let secrets = manifest::secrets(&class, &instance).into_iter();
        let secrets = secrets.map(|(name, (declared, _))| (name.clone(), declared.clone())).collect();
        let sealed = BTreeMap::new();
        Ok(Ok(Running {
            snapshot,
            name,
            component,
            instance,
            platform,
            secrets,
            sealed,
            raw,
            class_tree,
            datacenter_tree,
        }))
    }

    /// What it is made from.
    pub fn sources(&self) -> Sources<'_> {
        Sources {
            component_tree: self.component.tree,
            raw: self.raw,
            class_tree: self.class_tree,
            datacenter_tree: self.datacenter_tree,
            instance: &self.instance,
            datacenter: &self.snapshot.datacenter,
            platform: &self.platform,
            secrets: &self.secrets,
            sealed: &self.sealed,
        }
    }

    /// An error when `host` does not run it; one that the inventory does not list runs everything.
    pub fn on(&self, host: &HostName) -> Result<(), NotThere> {
        if self.instance.runs(host, &self.name) {
            return Ok(());
        }
        Err(NotThere(format!("{host} does not run {}", self.name)))
    }

    /// Adds a host that has one role and nothing else, where none stands yet, and names it.
    pub fn stand_in(&mut self, role: &RoleName) -> Result<HostName, NotThere> {
        if !self.instance.roles.contains_key(role) {
            let known: Vec<&str> = self.instance.roles.keys().map(RoleName::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(NotThere(format!("{} has no role {role}; it has {known}", self.snapshot.datacenter)));
        }
        let free = (0..).map(|number| if number == 0 { role.to_string() } else { format!("{role}-{number}") });
        let mut free = free.filter_map(|name| name.parse::<HostName>().ok());
        let Some(name) = free.find(|name| !self.instance.hosts.contains_key(name)) else {
            return Err(NotThere(format!("no host can be named after {role}")));
        };
        let host = Host { roles: vec![(role.clone(), 0)], ..Host::default() };
        self.instance.hosts.insert(name.clone(), host);
        self.on(&name).map_err(|_| NotThere(format!("hosts of the role {role} do not run {}", self.name)))?;
        Ok(name)
    }
}

fn text(repo: &Repository, tree: ObjectId) -> anyhow::Result<String> {
    let tree = repo.find_tree(tree.into())?;
    let entry = tree.get_name(manifest::FILE).with_context(|| format!("a tree without {}", manifest::FILE))?;
    Ok(String::from_utf8_lossy(repo.find_blob(entry.id())?.content()).into_owned())
}

fn faulty(faults: &[settings::Fault]) -> anyhow::Error {
    let words: Vec<String> = faults.iter().map(ToString::to_string).collect();
    anyhow::anyhow!("{} of a snapshot: {}", manifest::FILE, words.join("; "))
}
