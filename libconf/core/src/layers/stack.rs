//! All layers of a component on one host.

use git2::Repository;
use serde_json::{Map, Value};

use crate::{
    layers::{
        layer::{Layer, LayerError, LayerFault, Origin, ReadError, Sources, Text, of_component, overlays},
        overrides::of_overrides,
    },
    manifest::{self, InstanceManifest},
    settings::merge,
};
use libconf::name::{ComponentName, HostName};

/// All layers of a component on one host, the lowest first.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    /// The layers; a layer that says nothing is left out.
    pub layers: Vec<Layer>,
}

/// Reads a component's layers as `host` has them; without a host, as one has them
/// that has no roles and no settings of its own.
pub fn stack(
    repo: &Repository,
    sources: &Sources<'_>,
    component: &ComponentName,
    host: Option<&HostName>,
) -> Result<Stack, LayerError> {
    if sources.raw {
        return Ok(Stack::default());
    }
    let mut layers = Vec::new();
    let mut faults = Vec::new();
    for (origin, tree) in [
        (Origin::Component, sources.component_tree),
        (Origin::Class, sources.class_tree),
        (Origin::Datacenter, sources.datacenter_tree),
    ] {
        let tree = repo.find_tree(tree.into())?;
        let layer = match origin {
            Origin::Component => of_component(repo, &tree),
            _ => of_overrides(repo, &tree, origin.clone(), component),
        };
        match layer {
            Ok(layer) => layers.extend(layer),
            Err(ReadError::Fault(fault)) => faults.push(LayerFault { origin, fault }),
            Err(ReadError::Repository(cause)) => return Err(cause.into()),
        }
    }
    let common = if faults.is_empty() { Stack { layers } } else { return Err(LayerError::Faults(faults)) };
    Ok(common.on_host(sources.instance, component, host))
}

impl Stack {
    /// Adds the layers of roles and `host` to layers that were read without a host: for many hosts
    /// nothing is read twice.
    #[must_use]
    pub fn on_host(mut self, instance: &InstanceManifest, component: &ComponentName, host: Option<&HostName>) -> Self {
        self.layers.extend(overlays(instance, component, host).map(|(origin, overlay)| Layer {
            origin,
            file: manifest::FILE.to_owned(),
            values: overlay.values.clone(),
            lines: Text::Known(overlay.lines.clone()),
        }));
        self
    }

    /// The settings: all layers merged.
    pub fn merged(&self) -> Map<String, Value> {
        let mut layers = self.layers.iter();
        let mut settings = layers.next().map(base).unwrap_or_default();
        layers.for_each(|layer| merge(&mut settings, &layer.values));
        settings
    }
}

/// The lowest layer. When it is a patch, since the component has no settings of its own, its nulls
/// go.
fn base(layer: &Layer) -> Map<String, Value> {
    if layer.origin == Origin::Component {
        return layer.values.clone();
    }
    let mut settings = Map::new();
    merge(&mut settings, &layer.values);
    settings
}
