//! What a change does on each host: the components that it adds, changes and removes there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use conf_core::manifest::InstanceManifest;
use git2::Repository;
use libconf::name::{ComponentName, ComponentVersion, HostName, RoleName};

use crate::catalog::{DatacenterChange, DatacenterView};
use crate::text::count;

/// The hosts on which a component differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DiffersOn {
    /// Every host that runs it.
    Every,
    /// Some of those that run it.
    Some {
        /// The hosts of the inventory.
        hosts: BTreeSet<HostName>,
        /// Hosts that are not listed.
        unlisted: bool,
    },
}

/// The components that a datacenter runs before and after a change, and that differ on some host.
pub(crate) type Differing = BTreeMap<ComponentVersion, DiffersOn>;

/// Finds the components of `names` that differ on some host.
pub(crate) fn differing<'a>(
    repo: &Repository,
    change: &DatacenterChange<'_>,
    names: impl IntoIterator<Item = &'a ComponentVersion>,
) -> Result<Differing, git2::Error> {
    let Some(before) = &change.before else { return Ok(Differing::new()) };
    let mut differing = Differing::new();
    for name in names {
        let (Some(old), Some(new)) = (before.component(name), change.after.component(name)) else { continue };
        if old.tree != new.tree {
            differing.insert(name.clone(), DiffersOn::Every);
            continue;
        }
        let by_host = before.differs_by_host(repo, name)? || change.after.differs_by_host(repo, name)?;
        let (mut hosts, mut unlisted) = (BTreeSet::new(), false);
        for group in change.groups(repo, name)? {
            if change.differs(repo, name, group.host())? {
                unlisted |= group.hosts.is_empty();
                hosts.extend(group.hosts);
            }
        }
        match by_host {
            false if unlisted => drop(differing.insert(name.clone(), DiffersOn::Every)),
            true if unlisted || !hosts.is_empty() => {
                drop(differing.insert(name.clone(), DiffersOn::Some { hosts, unlisted }));
            }
            _ => {}
        }
    }
    Ok(differing)
}

/// Hosts for which a change does the same.
#[derive(Debug)]
pub(crate) struct HostEffect<'a> {
    /// The hosts that the inventory lists, or listed before.
    pub(crate) hosts: Vec<&'a HostName>,
    /// Hosts that are not listed: every host, where none is.
    pub(crate) unlisted: bool,
    /// They get nothing new after the change, and keep the files that they have.
    pub(crate) shut_out: bool,
    /// The components that they run before.
    pub(crate) before: BTreeSet<&'a ComponentName>,
    /// Those of them that they lose. A component that changes its version is not lost.
    pub(crate) lost: BTreeSet<&'a ComponentName>,
    /// Components that they run only after the change.
    pub(crate) added: BTreeSet<&'a ComponentVersion>,
    /// Components whose files or settings differ.
    pub(crate) changed: BTreeSet<&'a ComponentVersion>,
    /// Components that they run only before.
    pub(crate) removed: BTreeSet<&'a ComponentVersion>,
}

/// Finds what a change does on each host, alike ones together: first those that lose most. Hosts
/// without a difference are left out.
pub(crate) fn effects<'a>(change: &'a DatacenterChange<'_>, differing: &'a Differing) -> Vec<HostEffect<'a>> {
    effects_among(change, differing, None)
}

/// Like [`effects`], of these components alone, if some are named: hosts may run thousands of
/// others.
fn effects_among<'a>(
    change: &'a DatacenterChange<'_>,
    differing: &'a Differing,
    among: Option<&'a Differing>,
) -> Vec<HostEffect<'a>> {
    let mut before = Side::new(change.before.as_ref(), among);
    let mut after = Side::new(Some(&change.after), among);
    let mut own: BTreeMap<Option<&HostName>, BTreeSet<&ComponentVersion>> = BTreeMap::new();
    for (component, on) in differing {
        let DiffersOn::Some { hosts, unlisted } = on else { continue };
        for host in hosts.iter().map(Some).chain(unlisted.then_some(None)) {
            own.entry(host).or_default().insert(component);
        }
    }
    let every: BTreeSet<&ComponentVersion> =
        differing.iter().filter(|(_, on)| **on == DiffersOn::Every).map(|(component, _)| component).collect();
    let mut alike: BTreeMap<_, Vec<Option<&HostName>>> = BTreeMap::new();
    let listed: BTreeSet<&HostName> = before.hosts().chain(after.hosts()).collect();
    for host in listed.into_iter().map(Some).chain([None]) {
        let key = (before.share(host), after.share(host), own.remove(&host).unwrap_or_default());
        alike.entry(key).or_default().push(host);
    }
    let mut effects = Vec::new();
    for ((old, new, mut changed), hosts) in alike {
        // A host that had nothing, and one that a new datacenter would shut out.
        let shut_out = old.is_some() && new.is_none() && change.before.is_some();
        let (old, new) =
            (before.components(old), if shut_out { before.components(old) } else { after.components(new) });
        changed.extend(every.iter().copied());
        changed.retain(|one| !shut_out && old.contains(one) && new.contains(one));
        let names = |side: &BTreeSet<&'a ComponentVersion>| side.iter().map(|one| &one.component).collect();
        let (had, has): (BTreeSet<&ComponentName>, BTreeSet<&ComponentName>) = (names(old), names(new));
        let effect = HostEffect {
            unlisted: hosts.contains(&None),
            hosts: hosts.into_iter().flatten().collect(),
            shut_out,
            lost: had.difference(&has).copied().collect(),
            before: had,
            added: new.difference(old).copied().collect(),
            changed,
            removed: old.difference(new).copied().collect(),
        };
        if shut_out || !(effect.added.is_empty() && effect.changed.is_empty() && effect.removed.is_empty()) {
            effects.push(effect);
        }
    }
    effects.sort_by_key(|one| (Reverse(one.lost.len()), !one.shut_out, one.hosts.first().copied()));
    effects
}

/// Counts the components and hosts for which a change does something: `1 component, 2 hosts`.
/// `readers` are components whose secrets are sealed anew.
pub(crate) fn summary(
    repo: &Repository,
    change: &DatacenterChange<'_>,
    readers: BTreeSet<ComponentVersion>,
) -> Result<String, git2::Error> {
    let mut names = change.affected(repo)?.clone();
    names.extend(change.delta.components.keys().cloned());
    let mut differing = differing(repo, change, &names)?;
    differing.extend(readers.into_iter().map(|reader| (reader, DiffersOn::Every)));
    // Without another `datacenter.yaml` hosts run the same components as before.
    let among = change.delta.manifest.is_none().then_some(&differing);
    let effects = effects_among(change, &differing, among);
    let mut components: BTreeSet<&ComponentVersion> = differing.keys().chain(change.delta.components.keys()).collect();
    components.extend(effects.iter().flat_map(|one| one.added.iter().chain(&one.removed)));
    let number = |shut_out: bool| {
        let of = effects.iter().filter(|one| one.shut_out == shut_out);
        of.map(|one| one.hosts.len()).sum::<usize>()
    };
    let unlisted = effects.iter().any(|one| one.unlisted && !one.shut_out);
    let hosts = number_of(number(false), unlisted, lists_hosts(&change.after));
    let shut_out = match number(true) {
        0 => String::new(),
        number => format!(", {} listed no more", count(number, "host")),
    };
    Ok(format!("{}, {hosts}{shut_out}", count(components.len(), "component")))
}

/// Tells whether a datacenter's inventory lists hosts.
pub(crate) fn lists_hosts(view: &DatacenterView<'_>) -> bool {
    !view.manifest.instance.hosts.is_empty()
}

/// Lists the hosts that the inventory lists before a change or after it.
pub(crate) fn listed<'a>(change: &'a DatacenterChange<'_>) -> BTreeSet<&'a HostName> {
    let views = change.before.iter().chain([&change.after]);
    views.flat_map(|view| view.manifest.instance.hosts.keys()).collect()
}

/// Lists those of them that get what the change brings: one that is shut out keeps its files.
pub(crate) fn followed<'a>(change: &'a DatacenterChange<'_>) -> BTreeSet<&'a HostName> {
    let after = &change.after.manifest.instance;
    listed(change).into_iter().filter(|host| !after.shuts_out(host)).collect()
}

/// Names some hosts; `listed` are names of listed ones, and perhaps `3 more`.
pub(crate) fn named(listed: Vec<String>, unlisted: bool, lists_hosts: bool) -> String {
    let mut named = listed;
    if unlisted {
        named.push(if lists_hosts { "unlisted hosts" } else { "every host" }.to_owned());
    }
    if named.is_empty() { "no host".to_owned() } else { named.join(", ") }
}

/// Counts some hosts: `3 hosts`, `3 hosts and unlisted ones`, or `all hosts`.
pub(crate) fn number_of(listed: usize, unlisted: bool, lists_hosts: bool) -> String {
    match (listed, unlisted) {
        (_, true) if !lists_hosts => "all hosts".to_owned(),
        (0, true) => "unlisted hosts".to_owned(),
        (listed, true) => format!("{} and unlisted ones", count(listed, "host")),
        (listed, false) => count(listed, "host"),
    }
}

/// The roles and patterns of a host, which decide what it runs.
type Choice<'a> = (Vec<&'a RoleName>, Vec<String>);

/// A datacenter before or after a change, with what was found of its hosts.
struct Side<'a> {
    instance: Option<&'a InstanceManifest>,
    /// Sets of components that hosts run; the first holds everything.
    shares: Vec<BTreeSet<&'a ComponentVersion>>,
    known: BTreeMap<Choice<'a>, usize>,
    nothing: BTreeSet<&'a ComponentVersion>,
}

impl<'a> Side<'a> {
    fn new(view: Option<&'a DatacenterView<'_>>, among: Option<&'a Differing>) -> Self {
        let requests = view.map(|view| &view.manifest.requests);
        let everything = match (requests, among) {
            (None, _) => BTreeSet::new(),
            (Some(requests), None) => requests.keys().collect(),
            (Some(requests), Some(among)) => among.keys().filter(|name| requests.contains_key(*name)).collect(),
        };
        let instance = view.map(|view| &view.manifest.instance);
        Side { instance, shares: vec![everything], known: BTreeMap::new(), nothing: BTreeSet::new() }
    }

    fn hosts(&self) -> impl Iterator<Item = &'a HostName> + use<'a> {
        self.instance.into_iter().flat_map(|instance| instance.hosts.keys())
    }

    /// Returns the number of the set that a host runs; without a host, of one that is not listed.
    /// `None` for a host that is shut out.
    fn share(&mut self, host: Option<&HostName>) -> Option<usize> {
        let instance = self.instance?;
        let Some((name, listed)) = host.and_then(|host| instance.hosts.get_key_value(host)) else {
            return instance.is_open().then_some(0);
        };
        let roles = listed.roles.iter().map(|(role, _)| role).collect();
        let patterns = listed.components.iter().map(ToString::to_string).collect();
        let shares = &mut self.shares;
        Some(*self.known.entry((roles, patterns)).or_insert_with(|| {
            shares.push(shares[0].iter().copied().filter(|one| instance.runs(name, one)).collect());
            shares.len() - 1
        }))
    }

    fn components(&self, share: Option<usize>) -> &BTreeSet<&'a ComponentVersion> {
        share.map_or(&self.nothing, |number| &self.shares[number])
    }
}
