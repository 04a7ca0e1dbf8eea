//! A datacenter before a change, or after it: where each component's layers are read, and what
//! differs between the two.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conf_core::layers::{self, Group, Ingredients, LinkPolicy, Origin, Overrides, Sources};
use conf_core::manifest::{Host, InstanceManifest, Overlay, PinRequest};
use conf_core::secret::Declaration;
use conf_core::snapshot::Component;
use git2::Repository;
use libconf::name::{ComponentName, ComponentVersion, DatacenterName, HostName, ObjectId, RefName, SecretName};

use crate::catalog::model::{Datacenter, Delta, Manifest};
use crate::catalog::overrides::OverridesCache;

/// A datacenter before a change, or after it.
#[derive(Debug)]
pub(crate) struct DatacenterView<'a> {
    /// Its name.
    pub(crate) name: &'a DatacenterName,
    /// Its own `datacenter.yaml` and its class's.
    pub(crate) manifest: &'a Manifest,
    /// The overrides of its class and of its own branch.
    pub(crate) overrides: [Arc<Overrides>; 2],
    secrets: BTreeMap<SecretName, Declaration>,
    components: &'a BTreeMap<ComponentVersion, Component>,
    changed: Option<&'a BTreeMap<ComponentVersion, Option<Component>>>,
    /// The components over which roles and hosts lay something.
    overlaid: OnceCell<BTreeSet<&'a ComponentName>>,
}

/// A datacenter before and after a change.
#[derive(Debug)]
pub(crate) struct DatacenterChange<'a> {
    /// The datacenter as it is; `None` for a new one.
    pub(crate) before: Option<DatacenterView<'a>>,
    /// The datacenter as it would be.
    pub(crate) after: DatacenterView<'a>,
    /// The differences.
    pub(crate) delta: &'a Delta,
    affected: OnceCell<BTreeSet<ComponentVersion>>,
}

/// No secret is sealed: the value of a secret makes no difference here.
static NONE_SEALED: BTreeMap<SecretName, ObjectId> = BTreeMap::new();
static NO_OVERLAYS: BTreeMap<ComponentName, Overlay> = BTreeMap::new();
static NO_COMPONENTS: BTreeMap<ComponentVersion, Component> = BTreeMap::new();

impl<'a> DatacenterChange<'a> {
    /// Sets both views; `None` when the datacenter would not exist.
    pub(crate) fn new(
        repo: &Repository,
        overrides: &OverridesCache,
        name: &'a DatacenterName,
        before: Option<&'a Datacenter>,
        delta: &'a Delta,
    ) -> Result<Option<Self>, git2::Error> {
        let Some(manifest) = delta.manifest.as_ref().or(before.map(|before| &before.manifest)) else { return Ok(None) };
        let view = |manifest: &'a Manifest, components, changed| -> Result<_, git2::Error> {
            let [class, own] = manifest.trees();
            Ok(DatacenterView {
                name,
                manifest,
                overrides: [overrides.of(repo, class)?, overrides.of(repo, own)?],
                secrets: declarations(manifest),
                components,
                changed,
                overlaid: OnceCell::new(),
            })
        };
        let components = before.map_or(&NO_COMPONENTS, |before| &before.components);
        let after = view(manifest, components, Some(&delta.components))?;
        let before = before.map(|before| view(&before.manifest, &before.components, None)).transpose()?;
        Ok(Some(DatacenterChange { before, after, delta, affected: OnceCell::new() }))
    }

    /// Finds the components whose settings or rendered files may differ on some host. For a new
    /// datacenter that is all of them.
    pub(crate) fn affected(&self, repo: &Repository) -> Result<&BTreeSet<ComponentVersion>, git2::Error> {
        if let Some(known) = self.affected.get() {
            return Ok(known);
        }
        let found = self.find_affected(repo)?;
        Ok(self.affected.get_or_init(|| found))
    }

    fn find_affected(&self, repo: &Repository) -> Result<BTreeSet<ComponentVersion>, git2::Error> {
        let (delta, after) = (self.delta, &self.after);
        let Some(before) = &self.before else { return Ok(after.manifest.requests.keys().cloned().collect()) };
        let changed = delta.components.iter().filter(|(_, content)| content.is_some()).map(|(name, _)| name.clone());
        let mut affected: BTreeSet<ComponentVersion> = changed.collect();
        if delta.manifest.is_none() {
            return Ok(affected);
        }
        let mut names: BTreeSet<&ComponentName> = BTreeSet::new();
        for (old, new) in before.overrides.iter().zip(&after.overrides) {
            names.extend(differing(&old.files, &new.files, |one, other| one == other));
        }
        if before.manifest.datacenter_tree != after.manifest.datacenter_tree {
            names.extend(inventory(&before.manifest.instance, &after.manifest.instance));
        }
        affected.extend(after.manifest.requests.iter().filter_map(|(name, request)| {
            let runs = |request: &PinRequest| (request.raw, request.any_links);
            let differs = before.manifest.requests.get(name).is_some_and(|before| runs(before) != runs(request));
            (differs || names.contains(&name.component)).then(|| name.clone())
        }));
        for name in after.manifest.requests.keys().filter(|name| !affected.contains(*name)).collect::<Vec<_>>() {
            let new_host = || newly_run(before, after, name);
            if after.differs_by_host(repo, name)? && new_host() || differs_around(repo, before, after, name)? {
                affected.insert(name.clone());
            }
        }
        Ok(affected)
    }

    /// Finds what ran before in the place of a component: itself, or the versions of it that go
    /// as it comes.
    pub(crate) fn replaced_by(&self, new: &ComponentVersion) -> Vec<ComponentVersion> {
        let Some(before) = &self.before else { return Vec::new() };
        if before.component(new).is_some() {
            return vec![new.clone()];
        }
        let gone = self.delta.components.iter().filter(|(old, now)| now.is_none() && old.component == new.component);
        gone.map(|(old, _)| old.clone()).collect()
    }

    /// Groups the hosts that share all ingredients of a component before and after.
    pub(crate) fn groups(&self, repo: &Repository, name: &ComponentVersion) -> Result<Vec<Group>, git2::Error> {
        let Some(before) = self.before.as_ref().filter(|before| before.component(name).is_some()) else {
            return self.after.groups(repo, name);
        };
        if self.after.component(name).is_none() {
            return before.groups(repo, name);
        }
        let (old, new) = (before.groups(repo, name)?, self.after.groups(repo, name)?);
        if !self.after.differs_by_host(repo, name)? {
            // Hosts that are alike now may not have been before.
            let unnamed = new.into_iter().filter(|_| old.iter().all(|group| !group.hosts.is_empty()));
            return Ok(old.iter().cloned().chain(unnamed).collect());
        }
        let numbered =
            old.iter().enumerate().flat_map(|(number, group)| group.hosts.iter().map(move |host| (host, number)));
        let number: BTreeMap<&HostName, usize> = numbered.collect();
        let mut groups = Vec::new();
        for group in new {
            let mut parts: BTreeMap<Option<&usize>, Vec<HostName>> = BTreeMap::new();
            if group.hosts.is_empty() {
                parts.insert(None, Vec::new());
            }
            for host in group.hosts {
                parts.entry(number.get(&host)).or_default().push(host);
            }
            groups.extend(parts.into_values().map(|hosts| Group { hosts }));
        }
        Ok(groups)
    }

    /// Tells whether a host would get a component from other ingredients than before.
    pub(crate) fn differs(
        &self,
        repo: &Repository,
        name: &ComponentVersion,
        host: Option<&HostName>,
    ) -> Result<bool, git2::Error> {
        let on = |view: &DatacenterView<'_>| view.ingredients(repo, name, host);
        Ok(self.before.as_ref().map(on).transpose()?.flatten() != on(&self.after)?)
    }
}

impl<'a> DatacenterView<'a> {
    /// Returns the component that runs under a name.
    pub(crate) fn component(&self, name: &ComponentVersion) -> Option<&'a Component> {
        match self.changed.and_then(|changed| changed.get(name)) {
            Some(changed) => changed.as_ref(),
            None => self.components.get(name),
        }
    }

    /// Returns where a component's layers are read; `None` when it does not run.
    pub(crate) fn sources(&self, name: &ComponentVersion) -> Option<Sources<'_>> {
        let (manifest, request) = (self.manifest, self.manifest.requests.get(name)?);
        Some(Sources {
            component_tree: self.component(name)?.tree,
            raw: request.raw,
            links: LinkPolicy::of_entry(request.any_links),
            class_tree: manifest.class_tree,
            datacenter_tree: manifest.datacenter_tree,
            instance: &manifest.instance,
            datacenter: self.name,
            platform: &manifest.platform,
            secrets: &self.secrets,
            sealed: &NONE_SEALED,
        })
    }

    /// Returns the ingredients of a component on one host; `None` when it does not run, or not
    /// there. A component that no role and no host changes has the same everywhere. Without a host:
    /// the ingredients of [`Group::host`].
    pub(crate) fn ingredients(
        &self,
        repo: &Repository,
        name: &ComponentVersion,
        host: Option<&HostName>,
    ) -> Result<Option<Ingredients>, git2::Error> {
        let overrides = [&*self.overrides[0], &*self.overrides[1]];
        let Some(sources) = self.sources(name) else { return Ok(None) };
        if self.differs_by_host(repo, name)? && !self.stands_for(name, host) {
            return Ok(None);
        }
        Ingredients::new(repo, &sources, overrides, name, host).map(Some)
    }

    /// Groups the hosts that share all ingredients of a component. When no role and no host makes a
    /// difference, that is one group without names, however many hosts there are.
    pub(crate) fn groups(&self, repo: &Repository, name: &ComponentVersion) -> Result<Vec<Group>, git2::Error> {
        match self.sources(name) {
            Some(sources) if self.differs_by_host(repo, name)? => layers::groups(repo, &sources, name),
            _ => Ok(vec![Group { hosts: Vec::new() }]),
        }
    }

    /// Tells whether a role, a host or a variable of hosts may make a difference to a component.
    pub(crate) fn differs_by_host(&self, repo: &Repository, name: &ComponentVersion) -> Result<bool, git2::Error> {
        let overlaid = self.overlaid.get_or_init(|| {
            let instance = &self.manifest.instance;
            let of_roles = instance.roles.values().flat_map(|role| role.settings.keys());
            of_roles.chain(instance.hosts.values().flat_map(|host| host.settings.keys())).collect()
        });
        let Some(sources) = self.sources(name) else { return Ok(false) };
        Ok(overlaid.contains(&name.component) || layers::differ_by_host(repo, &sources)?)
    }

    /// Tells whether a host runs a component; without a host, whether [`layers::groups`] has a
    /// group without one.
    fn stands_for(&self, name: &ComponentVersion, host: Option<&HostName>) -> bool {
        let instance = &self.manifest.instance;
        match host {
            Some(host) => instance.runs(host, name),
            None => instance.is_open() || !instance.hosts.keys().any(|host| instance.runs(host, name)),
        }
    }

    /// Returns the ref of its class.
    pub(crate) fn class_ref(&self) -> RefName {
        self.manifest.instance.class_ref()
    }

    /// Returns the ref of its own branch.
    pub(crate) fn own_ref(&self) -> RefName {
        RefName::Datacenter(self.name.clone())
    }

    /// Returns the ref that holds the file of a component's layer.
    pub(crate) fn reference(&self, name: &ComponentVersion, origin: &Origin) -> RefName {
        match (origin, self.manifest.requests.get(name)) {
            (Origin::Component, Some(request)) => request.reference(),
            (Origin::Class, _) => self.class_ref(),
            _ => self.own_ref(),
        }
    }

    /// Lists the refs that may have caused a fault in a component's settings, the likeliest first.
    pub(crate) fn causes(&self, name: &ComponentVersion, first: RefName) -> Vec<RefName> {
        let mut causes = vec![first, self.reference(name, &Origin::Component)];
        // The branch comes after the tag that is pinned.
        let request = self.manifest.requests.get(name);
        causes.extend(
            request.map(|request| RefName::Branch(request.component.component.clone(), request.branch.clone())),
        );
        causes.extend([self.class_ref(), self.own_ref()]);
        causes
    }
}

fn declarations(manifest: &Manifest) -> BTreeMap<SecretName, Declaration> {
    let secrets = manifest.secrets.iter();
    secrets.map(|(name, declared)| (name.clone(), declared.declaration.clone())).collect()
}

/// Tells whether a component comes to hosts that did not run it before.
fn newly_run(before: &DatacenterView<'_>, after: &DatacenterView<'_>, name: &ComponentVersion) -> bool {
    let (old, new) = (&before.manifest.instance, &after.manifest.instance);
    let comes_to = |host: &HostName| new.runs(host, name) && !old.runs(host, name);
    new.is_open() && !old.is_open() || new.hosts.keys().any(comes_to)
}

/// Tells whether anything besides the layers makes a difference to a component on some host: the
/// variables of its templates, or its secrets.
fn differs_around(
    repo: &Repository,
    before: &DatacenterView<'_>,
    after: &DatacenterView<'_>,
    name: &ComponentVersion,
) -> Result<bool, git2::Error> {
    let Some(sources) = after.sources(name) else { return Ok(false) };
    let secret =
        |view: &DatacenterView<'_>| view.secrets.values().any(|declared| declared.readers.contains(&name.component));
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

/// Finds the keys whose values differ between two maps.
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

/// Finds the components over which roles or hosts lay other settings than before, or over which
/// other hosts do.
fn inventory<'a>(before: &'a InstanceManifest, after: &'a InstanceManifest) -> BTreeSet<&'a ComponentName> {
    let same = |one: &Overlay, other: &Overlay| one.values == other.values;
    let mut names = BTreeSet::new();
    for role in before.roles.keys().chain(after.roles.keys()) {
        let settings = |side: &'a InstanceManifest| side.roles.get(role).map_or(&NO_OVERLAYS, |role| &role.settings);
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

/// Tells whether two hosts run the same components with the same settings, whatever lines of the
/// file say so.
fn takes_the_same(one: &Host, other: &Host) -> bool {
    let roles = |host: &'_ Host| host.roles.iter().map(|(role, _)| role.clone()).collect::<Vec<_>>();
    let runs = |host: &Host| host.components.iter().map(ToString::to_string).collect::<Vec<_>>();
    let settings = differing(&one.settings, &other.settings, |one, other| one.values == other.values);
    settings.is_empty() && roles(one) == roles(other) && runs(one) == runs(other)
}
