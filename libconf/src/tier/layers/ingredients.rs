//! What a component is made from on one host, without reading any of it.

use super::{Overrides, Sources, overlays};
use crate::{
    name::{ComponentName, HostName, ObjectId},
    tier::settings,
};

/// Equal ingredients give equal files and settings, and equal faults.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ingredients {
    tree: ObjectId,
    raw: bool,
    /// The class's and the datacenter's.
    overrides: [Option<ObjectId>; 2],
    /// The patches of roles and host, in canonical form.
    overlays: Vec<Vec<u8>>,
    /// Faults in layers name the component; without a layer there are none.
    layered: Option<ComponentName>,
}

impl Ingredients {
    /// Those of `component` on `host`; `class` and `datacenter` are the overrides in the trees of `sources`.
    pub fn new(
        sources: &Sources<'_>,
        [class, datacenter]: [&Overrides; 2],
        component: &ComponentName,
        host: Option<&HostName>,
    ) -> Self {
        let (tree, raw) = (sources.component_tree, sources.raw);
        if raw {
            return Ingredients { tree, raw, overrides: [None; 2], overlays: Vec::new(), layered: None };
        }
        let overrides = [class, datacenter].map(|overrides| overrides.files.get(component).copied());
        let overlays: Vec<_> = overlays(sources.instance, component, host)
            .map(|(_, overlay)| settings::to_canonical(&overlay.values.clone().into()))
            .collect();
        let layered = overrides.iter().any(Option::is_some) || !overlays.is_empty();
        Ingredients { tree, raw, overrides, overlays, layered: layered.then(|| component.clone()) }
    }
}
