//! Layers over components that the datacenter does not run: a layer without effect would mislead.

use std::collections::BTreeMap;

use conf_core::{layers::Overrides, manifest, settings::JsonPointer};
use libconf::name::{ComponentName, RefName};

use crate::catalog::DatacenterView;
use crate::fault::{Caused, Fault};

/// Finds the layers of a datacenter and its class that have no effect.
pub(crate) fn faults(view: &DatacenterView<'_>) -> Vec<Caused> {
    let mut runs: BTreeMap<&ComponentName, bool> = BTreeMap::new();
    for (name, request) in &view.manifest.requests {
        *runs.entry(&name.component).or_default() |= !request.raw;
    }
    let why_not = |component: &ComponentName| match runs.get(component) {
        Some(true) => None,
        Some(false) => Some(format!("{component} is pinned with `raw: true`, so it has no settings; take this out")),
        None => Some(format!(
            "{component} is run neither by the class nor by {}; add it there, or take this out",
            view.name
        )),
    };
    let fault = |reference: &RefName, file: &str, line, reason: String| Caused {
        fault: Fault::of_file(reference, file, line, reason),
        causes: vec![reference.clone(), view.class_ref(), view.own_ref()],
    };
    let mut found = Vec::new();
    let own = view.own_ref();
    for (reference, overrides) in [view.class_ref(), own.clone()].iter().zip(&view.overrides) {
        found.extend(
            overrides
                .files
                .keys()
                .filter_map(|component| Some(fault(reference, &Overrides::path(component), None, why_not(component)?))),
        );
    }
    let instance = &view.manifest.instance;
    let of_roles = instance.roles.values().flat_map(|role| &role.settings);
    let of_hosts = instance.hosts.values().flat_map(|host| &host.settings);
    found.extend(of_roles.chain(of_hosts).filter_map(|(component, overlay)| {
        let line = overlay.lines.at(&JsonPointer::default());
        Some(fault(&own, manifest::FILE, line, why_not(component)?))
    }));
    found
}
