//! All layers of a component on one host.

use git2::Repository;
use serde_json::{Map, Value};

use crate::{
    layers::layer::{Layer, LayerError, LayerFault, Origin, Sources, Text, of_component, overlays},
    manifest::{self, InstanceManifest},
    settings::{SettingsFault, merge},
};
use libconf::name::{ComponentName, HostName};

/// All layers of a component on one host, the lowest first.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    /// Those that there are; a layer that says nothing is not among them.
    pub layers: Vec<Layer>,
}

/// Reads a component's layers as `host` has them; without a host, as one has them that the inventory says nothing of.
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
    let mut add = |origin: Origin, layer: Result<Option<Layer>, SettingsFault>| match layer {
        Ok(layer) => layers.extend(layer),
        Err(fault) => faults.push(LayerFault { origin, fault }),
    };
    let broken = LayerError::Repository;
    let tree = repo.find_tree(sources.component_tree.into()).map_err(broken)?;
    add(Origin::Component, of_component(repo, &tree).map_err(broken)?);
    for (origin, tree) in [(Origin::Class, sources.class_tree), (Origin::Datacenter, sources.datacenter_tree)] {
        let tree = repo.find_tree(tree.into()).map_err(broken)?;
        add(origin.clone(), crate::layers::overrides::layer(repo, &tree, &origin, component).map_err(broken)?);
    }
    let common = if faults.is_empty() { Stack { layers } } else { return Err(LayerError::Faults(faults)) };
    Ok(common.on_host(sources.instance, component, host))
}

impl Stack {
    /// Layers that were read without a host, and over them what roles and `host` say: for many hosts nothing is read twice.
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

    /// The settings: every layer over those below it.
    pub fn merged(&self) -> Map<String, Value> {
        let mut layers = self.layers.iter();
        let mut settings = layers.next().map(base).unwrap_or_default();
        layers.for_each(|layer| merge(&mut settings, &layer.values));
        settings
    }
}

/// The lowest layer as it is; when it is a patch, since the component has no settings of its own, without its nulls.
fn base(layer: &Layer) -> Map<String, Value> {
    if layer.origin == Origin::Component {
        return layer.values.clone();
    }
    let mut settings = Map::new();
    merge(&mut settings, &layer.values);
    settings
}
