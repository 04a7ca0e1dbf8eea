//! What has no effect, since no component runs that it is for: it would mislead.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::layers::Overrides;
use conf_core::manifest::{self, DeclaredIn, nearest_component};
use conf_core::settings::JsonPointer;
use git2::Repository;
use libconf::name::{ClassName, ComponentName, ComponentVersion, DatacenterName, RefName};

use crate::catalog::{Catalog, DatacenterView, DeclaredSecret, Deltas, Manifest, OverridesCache, resolve};
use crate::fault::{Caused, Fault};

/// What some datacenters run together.
struct Running<'a> {
    components: BTreeSet<&'a ComponentVersion>,
    /// Each component, and whether one of them has settings of it: is not `raw`.
    has_settings: BTreeMap<&'a ComponentName, bool>,
    /// Names the datacenters, after "neither by the class nor by".
    datacenters: String,
}

impl<'a> Running<'a> {
    fn new(datacenters: &[(&DatacenterName, &'a Manifest)]) -> Self {
        let names = match datacenters {
            [(one, _)] => one.to_string(),
            several => format!("any of its {} datacenters", several.len()),
        };
        let mut running = Running { components: BTreeSet::new(), has_settings: BTreeMap::new(), datacenters: names };
        for (name, request) in datacenters.iter().flat_map(|(_, manifest)| &manifest.requests) {
            running.components.insert(name);
            *running.has_settings.entry(&name.component).or_default() |= !request.raw;
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

/// Finds what the classes of changed datacenters say about components that none of their
/// datacenters runs: layers, and readers of secrets. An error is the repository's.
pub(crate) fn of_classes(
    repo: &Repository,
    overrides: &OverridesCache,
    catalog: &Catalog,
    deltas: &Deltas,
) -> Result<Vec<Caused>, git2::Error> {
    let mut after: BTreeMap<&DatacenterName, &Manifest> =
        catalog.datacenters.iter().map(|(name, one)| (name, &one.manifest)).collect();
    let mut changed: BTreeMap<&ClassName, Vec<(&DatacenterName, &Manifest)>> = BTreeMap::new();
    for (name, delta) in deltas {
        match delta.as_ref().map(|delta| &delta.manifest) {
            None => drop(after.remove(name)),
            Some(None) => {}
            Some(Some(manifest)) => {
                after.insert(name, manifest);
                changed.entry(&manifest.instance.conf.class).or_default().push((name, manifest));
            }
        }
    }
    let mut found: Vec<Caused> = Vec::new();
    for (class, changed) in changed {
        let of_class = after.iter().filter(|(_, manifest)| manifest.instance.conf.class == *class);
        let of_class: Vec<(&DatacenterName, &Manifest)> = of_class.map(|(name, manifest)| (*name, *manifest)).collect();
        let running = Running::new(&of_class);
        for (name, manifest) in changed {
            let reference = manifest.instance.class_ref();
            let mut add = |file: &str, line, reason| {
                let causes = vec![reference.clone(), RefName::Class(class.clone()), RefName::Datacenter(name.clone())];
                let fault = Fault::of_file(&reference, file, line, reason);
                let known = found.iter().any(|one| Fault { datacenter: None, ..one.fault.clone() } == fault);
                if !known {
                    found.push(Caused { fault: Fault { datacenter: Some(name.clone()), ..fault }, causes });
                }
            };
            for component in overrides.of(repo, manifest.class_tree)?.files.keys() {
                if let Some(reason) = running.why_not(component) {
                    add(&Overrides::path(component), None, reason);
                }
            }
            let of_class = |one: &&DeclaredSecret| one.declared_in == DeclaredIn::Class;
            for (secret, declared) in manifest.secrets.iter().filter(|(_, one)| of_class(one)) {
                for reader in declared.declaration.readers.iter().filter(|one| !running.has_settings.contains_key(one))
                {
                    let reason = resolve::no_reader(reader, secret, &running.datacenters, &running.near(reader));
                    add(manifest::FILE, Some(declared.declaration.line), reason);
                }
            }
        }
    }
    Ok(found)
}
