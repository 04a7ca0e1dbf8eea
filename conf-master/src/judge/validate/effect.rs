//! What has no effect, since no component runs that it is for: it would mislead.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conf_core::layers::Overrides;
use conf_core::manifest::{self, DeclaredIn, MOST_LOOKS, nearest_component};
use conf_core::settings::JsonPointer;
use git2::Repository;
use libconf::name::{ClassName, ComponentName, ComponentVersion, DatacenterName, RefName};

use crate::catalog::{Catalog, DatacenterView, DeclaredSecret, Deltas, Manifest, OverridesCache, Requests, resolve};
use crate::fault::{Caused, Fault, Findings};

/// What some datacenters run together.
struct Running<'a> {
    components: BTreeSet<&'a ComponentVersion>,
    /// Each component, and whether one of them has settings of it: is not `raw`.
    has_settings: BTreeMap<&'a ComponentName, bool>,
    /// Names the datacenters, after "neither by the class nor by".
    datacenters: String,
    /// How many more times a similar name is looked for: each time all names are compared.
    looks: Cell<usize>,
}

impl<'a> Running<'a> {
    fn new(datacenters: &[(&DatacenterName, &'a Manifest)]) -> Self {
        let names = match datacenters {
            [(one, _)] => one.to_string(),
            several => format!("any of its {} datacenters", several.len()),
        };
        let looks = Cell::new(MOST_LOOKS);
        let (components, has_settings) = (BTreeSet::new(), BTreeMap::new());
        let mut running = Running { components, has_settings, datacenters: names, looks };
        let mut seen: Vec<&Arc<Requests>> = Vec::new();
        for (_, manifest) in datacenters {
            // Datacenters of one class mostly share what they ask for.
            if seen.iter().any(|one| Arc::ptr_eq(one, &manifest.requests)) {
                continue;
            }
            seen.push(&manifest.requests);
            for (name, request) in manifest.requests.iter() {
                running.components.insert(name);
                *running.has_settings.entry(&name.component).or_default() |= !request.raw;
            }
        }
        running
    }

    /// Says why a layer over a component has no effect.
    fn why_not(&self, component: &ComponentName) -> Option<String> {
        match self.has_settings.get(component) {
            Some(true) => None,
            Some(false) => {
                Some(format!("{component} is pinned with `raw: true`, so it has no settings; take this out"))
            }
            None => Some(format!(
                "{component} is run neither by the class nor by {}{}; add it there, or take this out",
                self.datacenters,
                self.near(component)
            )),
        }
    }

    fn near(&self, component: &ComponentName) -> String {
        let Some(left) = self.looks.get().checked_sub(1) else { return String::new() };
        self.looks.set(left);
        nearest_component(&component.to_string(), self.components.iter().copied())
    }
}

/// Finds the layers of a datacenter that have no effect.
pub(crate) fn faults(view: &DatacenterView<'_>) -> Vec<Caused> {
    let running = Running::new(&[(view.name, view.manifest)]);
    let fault = |reference: &RefName, file: &str, line, reason: String| Caused {
        fault: Fault::of_file(reference, file, line, reason),
        causes: vec![reference.clone(), view.class_ref(), view.own_ref()],
    };
    let mut found = Vec::new();
    let own = view.own_ref();
    let files = view.overrides[1].files.keys();
    found.extend(files.filter_map(|one| Some(fault(&own, &Overrides::path(one), None, running.why_not(one)?))));
    let instance = &view.manifest.instance;
    let of_roles = instance.roles.values().flat_map(|role| &role.settings);
    let of_hosts = instance.hosts.values().flat_map(|host| &host.settings);
    found.extend(of_roles.chain(of_hosts).filter_map(|(component, overlay)| {
        let line = overlay.lines.at(&JsonPointer::default());
        Some(fault(&own, manifest::FILE, line, running.why_not(component)?))
    }));
    found
}

/// The `datacenter.yaml` files of some datacenters.
type Manifests<'a> = BTreeMap<&'a DatacenterName, &'a Manifest>;

/// Finds what the classes of changed datacenters say about components that none of their
/// datacenters runs: layers, and readers of secrets. What was so before is a note. An error is the
/// repository's.
pub(crate) fn of_classes(
    repo: &Repository,
    overrides: &OverridesCache,
    catalog: &Catalog,
    deltas: &Deltas,
) -> Result<Findings, git2::Error> {
    let before: Manifests<'_> = catalog.datacenters.iter().map(|(name, one)| (name, &one.manifest)).collect();
    let (mut after, mut changed) = (before.clone(), Manifests::new());
    for (name, delta) in deltas {
        match delta.as_ref().map(|delta| &delta.manifest) {
            None => drop(after.remove(name)),
            Some(None) => {}
            Some(Some(manifest)) => {
                after.insert(name, manifest);
                changed.insert(name, manifest);
            }
        }
    }
    let found = useless(repo, overrides, &after, &changed)?;
    if found.is_empty() {
        return Ok(Findings::default());
    }
    let unchanged = changed.keys().filter_map(|name| Some((*name, *before.get(name)?))).collect();
    let known = useless(repo, overrides, &before, &unchanged)?;
    Ok(Findings::since(&known.into_iter().map(|caused| caused.fault).collect::<Vec<_>>(), found))
}

/// Finds what the classes of some datacenters, of `all`, say about components that none of their
/// datacenters runs.
fn useless(
    repo: &Repository,
    overrides: &OverridesCache,
    all: &Manifests<'_>,
    some: &Manifests<'_>,
) -> Result<Vec<Caused>, git2::Error> {
    let mut classes: BTreeMap<&ClassName, Vec<(&DatacenterName, &Manifest)>> = BTreeMap::new();
    for (name, manifest) in some {
        classes.entry(&manifest.instance.conf.class).or_default().push((name, manifest));
    }
    let (mut found, mut told) = (Vec::new(), BTreeSet::new());
    for (class, datacenters) in classes {
        let of_class = all.iter().filter(|(_, manifest)| manifest.instance.conf.class == *class);
        let of_class: Vec<(&DatacenterName, &Manifest)> = of_class.map(|(name, manifest)| (*name, *manifest)).collect();
        let running = Running::new(&of_class);
        for (name, manifest) in datacenters {
            let reference = manifest.instance.class_ref();
            // What datacenters have in common is told once.
            let mut add = |file: &str, about: String, line, reason: &dyn Fn() -> Option<String>| {
                let key = (reference.clone(), about);
                if !told.contains(&key)
                    && let Some(reason) = reason()
                {
                    let causes =
                        vec![reference.clone(), RefName::Class(class.clone()), RefName::Datacenter(name.clone())];
                    let fault = Fault::of_file(&reference, file, line, reason);
                    found.push(Caused { fault: Fault { datacenter: Some(name.clone()), ..fault }, causes });
                    told.insert(key);
                }
            };
            for component in overrides.of(repo, manifest.class_tree)?.files.keys() {
                let path = Overrides::path(component);
                add(&path, path.clone(), None, &|| running.why_not(component));
            }
            let of_class = |one: &&DeclaredSecret| one.declared_in == DeclaredIn::Class;
            for (secret, declared) in manifest.secrets.iter().filter(|(_, one)| of_class(one)) {
                for reader in declared.declaration.readers.iter().filter(|one| !running.has_settings.contains_key(one))
                {
                    let near = || running.near(reader);
                    let reason = || Some(resolve::no_reader(reader, secret, &running.datacenters, &near()));
                    let line = Some(declared.declaration.line);
                    add(manifest::FILE, format!("{secret} {reader}"), line, &reason);
                }
            }
        }
    }
    Ok(found)
}
