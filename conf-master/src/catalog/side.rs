//! A datacenter as it is, or as it would be: where each component's layers are read, and what differs between two.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use conf_core::{
    layers::{self, Group, Ingredients, Origin, Overrides, Sources},
    manifest::{Host, InstanceManifest, Overlay, PinRequest},
    secret::Declaration,
    snapshot::Component,
};
use git2::Repository;
use libconf::name::{ComponentName, ComponentVersion, DatacenterName, HostName, ObjectId, RefName, SecretName};
use serde_json::{Map, Value};

use crate::{
    catalog::{Datacenter, Delta},
    secrets::Declared,
};

/// One of the two.
#[derive(Debug)]
pub(crate) struct Side<'a> {
    /// Whose it is.
    pub(crate) name: &'a DatacenterName,
    /// Its own `datacenter.yaml`.
    pub(crate) instance: &'a InstanceManifest,
    platform: &'a Map<String, Value>,
    secrets: BTreeMap<SecretName, Declaration>,
    /// What it asks for.
    pub(crate) requests: &'a BTreeMap<ComponentVersion, PinRequest>,
    components: &'a BTreeMap<ComponentVersion, Component>,
    changed: Option<&'a BTreeMap<ComponentVersion, Option<Component>>>,
    /// The trees of its class and of its own branch.
    pub(crate) trees: [ObjectId; 2],
    /// What each of the two lays over settings.
    pub(crate) overrides: [Arc<Overrides>; 2],
    /// What roles and hosts lay something over.
    overlaid: OnceCell<BTreeSet<&'a ComponentName>>,
}

/// Which value a secret has makes no difference here.
static NONE_SEALED: BTreeMap<SecretName, ObjectId> = BTreeMap::new();
static NO_COMPONENTS: BTreeMap<ComponentVersion, Component> = BTreeMap::new();

type ReadOverrides<'a> = dyn Fn(ObjectId) -> Result<Arc<Overrides>, git2::Error> + 'a;

impl<'a> Side<'a> {
    /// A datacenter as it is.
    pub(crate) fn before(
        name: &'a DatacenterName,
        datacenter: &'a Datacenter,
        overrides: &ReadOverrides<'_>,
    ) -> Result<Self, git2::Error> {
        let trees = [datacenter.class_tree, datacenter.datacenter_tree];
        Ok(Side {
            name,
            instance: &datacenter.instance,
            platform: &datacenter.platform,
            secrets: declarations(&datacenter.secrets),
            requests: &datacenter.requests,
            components: &datacenter.components,
            changed: None,
            trees,
            overrides: [overrides(trees[0])?, overrides(trees[1])?],
            overlaid: OnceCell::new(),
        })
    }

    /// A datacenter as it would be; `None` where there would be none.
    pub(crate) fn after(
        name: &'a DatacenterName,
        before: Option<&'a Datacenter>,
        delta: &'a Delta,
        overrides: &ReadOverrides<'_>,
    ) -> Result<Option<Self>, git2::Error> {
        let (instance, platform, secrets, requests, trees) = match (&delta.manifest, before) {
            (Some(new), _) => {
                (&new.instance, &new.platform, &new.secrets, &new.requests, [new.class_tree, new.datacenter_tree])
            }
            (None, Some(old)) => {
                (&old.instance, &old.platform, &old.secrets, &old.requests, [old.class_tree, old.datacenter_tree])
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(Side {
            name,
            instance,
            platform,
            secrets: declarations(secrets),
            requests,
            components: before.map_or(&NO_COMPONENTS, |before| &before.components),
            changed: Some(&delta.components),
            trees,
            overrides: [overrides(trees[0])?, overrides(trees[1])?],
            overlaid: OnceCell::new(),
        }))
    }

    /// What runs under a name.
    pub(crate) fn component(&self, name: &ComponentVersion) -> Option<&'a Component> {
        match self.changed.and_then(|changed| changed.get(name)) {
            Some(changed) => changed.as_ref(),
            None => self.components.get(name),
        }
    }

    /// Where a component's layers are read; `None` where it does not run.
    pub(crate) fn sources(&self, name: &ComponentVersion) -> Option<Sources<'_>> {
        let [class_tree, datacenter_tree] = self.trees;
        Some(Sources {
            component_tree: self.component(name)?.tree,
            raw: self.requests.get(name)?.raw,
            class_tree,
            datacenter_tree,
            instance: self.instance,
            datacenter: self.name,
            platform: self.platform,
            secrets: &self.secrets,
            sealed: &NONE_SEALED,
        })
    }

    /// What a component is made from on one host; `None` where it does not run.
    pub(crate) fn ingredients(
        &self,
        repo: &Repository,
        name: &ComponentVersion,
        host: Option<&HostName>,
    ) -> Result<Option<Ingredients>, git2::Error> {
        let overrides = [&*self.overrides[0], &*self.overrides[1]];
        let Some(sources) = self.sources(name) else { return Ok(None) };
        Ingredients::new(repo, &sources, overrides, name, host).map(Some)
    }

    /// Hosts that share all that a component is made from. Where no role and no host makes a difference to it, that is one
    /// group without names, however many there are.
    pub(crate) fn groups(&self, repo: &Repository, name: &ComponentVersion) -> Result<Vec<Group>, git2::Error> {
        let overlaid = self.overlaid.get_or_init(|| {
            let of_roles = self.instance.roles.values().flat_map(|role| role.settings.keys());
            of_roles.chain(self.instance.hosts.values().flat_map(|host| host.settings.keys())).collect()
        });
        match self.sources(name) {
            Some(sources) if overlaid.contains(&name.component) || layers::differ_by_host(repo, &sources)? => {
                layers::groups(repo, &sources, name)
            }
            _ => Ok(vec![Group { hosts: Vec::new() }]),
        }
    }

    /// The ref of its class.
    pub(crate) fn class_ref(&self) -> RefName {
        self.instance.class_ref()
    }

    /// The ref of its own branch.
    pub(crate) fn own_ref(&self) -> RefName {
        RefName::Datacenter(self.name.clone())
    }

    /// The ref whose file a layer of a component stands in.
    pub(crate) fn reference(&self, name: &ComponentVersion, origin: &Origin) -> RefName {
        match (origin, self.requests.get(name)) {
            (Origin::Component, Some(request)) => request.reference(),
            (Origin::Class, _) => self.class_ref(),
            _ => self.own_ref(),
        }
    }

    /// The refs that may have caused a fault in a component's settings, the likeliest first.
    pub(crate) fn causes(&self, name: &ComponentVersion, first: RefName) -> Vec<RefName> {
        let mut causes = vec![first, self.reference(name, &Origin::Component)];
        // A tag is followed by what names it.
        causes.extend(
            self.requests
                .get(name)
                .map(|request| RefName::Branch(request.component.component.clone(), request.branch.clone())),
        );
        causes.extend([self.class_ref(), self.own_ref()]);
        causes
    }
}

/// Components of `after` whose settings or rendered files may differ from `before` on some host. With no `before` all of them.
pub(crate) fn affected(
    repo: &Repository,
    before: Option<&Side<'_>>,
    after: &Side<'_>,
    delta: &Delta,
) -> Result<BTreeSet<ComponentVersion>, git2::Error> {
    let Some(before) = before else { return Ok(after.requests.keys().cloned().collect()) };
    let changed = delta.components.iter().filter(|(_, content)| content.is_some()).map(|(name, _)| name.clone());
    let mut affected: BTreeSet<ComponentVersion> = changed.collect();
    if delta.manifest.is_none() {
        return Ok(affected);
    }
    let mut names: BTreeSet<&ComponentName> = BTreeSet::new();
    for (old, new) in before.overrides.iter().zip(&after.overrides) {
        names.extend(differing(&old.files, &new.files, |one, other| one == other));
    }
    if before.trees[1] != after.trees[1] {
        names.extend(inventory(before.instance, after.instance));
    }
    affected.extend(after.requests.iter().filter_map(|(name, request)| {
        let raw = before.requests.get(name).is_some_and(|before| before.raw != request.raw);
        (raw || names.contains(&name.component)).then(|| name.clone())
    }));
    for name in after.requests.keys() {
        if !affected.contains(name) && differs_around(repo, before, after, name)? {
            affected.insert(name.clone());
        }
    }
    Ok(affected)
}

/// What is declared, whoever's file says so.
fn declarations(secrets: &BTreeMap<SecretName, Declared>) -> BTreeMap<SecretName, Declaration> {
    secrets.iter().map(|(name, declared)| (name.clone(), declared.declaration.clone())).collect()
}

/// True when something that is no layer makes a difference to a component on some host: what its templates read, or its secrets.
fn differs_around(
    repo: &Repository,
    before: &Side<'_>,
    after: &Side<'_>,
    name: &ComponentVersion,
) -> Result<bool, git2::Error> {
    let Some(sources) = after.sources(name) else { return Ok(false) };
    let secret = |side: &Side<'_>| side.secrets.values().any(|declared| declared.readers.contains(&name.component));
    if !layers::has_templates(repo, &sources)? && !secret(before) && !secret(after) {
        return Ok(false);
    }
    for group in after.groups(repo, name)? {
        if before.ingredients(repo, name, group.host())? != after.ingredients(repo, name, group.host())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The keys whose values differ between two maps.
fn differing<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> BTreeSet<&'a K> {
    let keys = old.keys().chain(new.keys());
    keys.filter(|key| match (old.get(key), new.get(key)) {
        (Some(old), Some(new)) => !same(old, new),
        _ => true,
    })
    .collect()
}

/// Components over which roles or hosts lay something else than before, or other hosts do.
fn inventory<'a>(before: &'a InstanceManifest, after: &'a InstanceManifest) -> BTreeSet<&'a ComponentName> {
    let same = |one: &Overlay, other: &Overlay| one.values == other.values;
    let mut names = BTreeSet::new();
    let nothing: &'static BTreeMap<ComponentName, Overlay> = {
        static NOTHING: BTreeMap<ComponentName, Overlay> = BTreeMap::new();
        &NOTHING
    };
    for role in before.roles.keys().chain(after.roles.keys()) {
        let settings = |side: &'a InstanceManifest| side.roles.get(role).map_or(nothing, |role| &role.settings);
        names.extend(differing(settings(before), settings(after), same));
    }
    for host in before.hosts.keys().chain(after.hosts.keys()) {
        let (old, new) = (before.hosts.get(host), after.hosts.get(host));
        if old.is_some_and(|old| new.is_some_and(|new| takes_the_same(old, new))) {
            continue;
        }
        for (side, host) in [(before, old), (after, new)].into_iter().filter_map(|(side, host)| Some((side, host?))) {
            let of_roles = host.roles.iter().filter_map(|(role, _)| side.roles.get(role));
            names.extend(of_roles.flat_map(|role| role.settings.keys()).chain(host.settings.keys()));
        }
    }
    names
}

/// True when two hosts run the same and lay the same over it, whatever the lines that say so.
fn takes_the_same(one: &Host, other: &Host) -> bool {
    let roles = |host: &'_ Host| host.roles.iter().map(|(role, _)| role.clone()).collect::<Vec<_>>();
    let runs = |host: &Host| host.components.iter().map(ToString::to_string).collect::<Vec<_>>();
    let settings = differing(&one.settings, &other.settings, |one, other| one.values == other.values);
    settings.is_empty() && roles(one) == roles(other) && runs(one) == runs(other)
}
