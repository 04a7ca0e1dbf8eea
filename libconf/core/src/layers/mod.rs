//! A component's settings in layers, later ones over earlier ones: which one wins is decided here and nowhere else.
//!
//! The lowest are the component's own settings; over them, as JSON Merge Patch (RFC 7396), the class's
//! `overrides/<kind>/<name>.yaml`, the datacenter's, the `settings` of the host's roles in listed order, the host's own.
//! A `raw` component has no settings, so no layers either.

mod explain;
mod groups;
mod ingredients;
mod overrides;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::OnceLock};

use git2::{ObjectType, Repository, Tree};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::layers::{
    explain::{Explained, SetBy},
    groups::{Group, differ_by_host, groups, has_templates},
    ingredients::Ingredients,
    overrides::Overrides,
};
use crate::{
    manifest::{self, InstanceManifest, Overlay},
    secret::Declaration,
    settings::{self, Format, SettingsFault, lines::Lines, pointer::Pointer},
};
use libconf::name::{ComponentName, DatacenterName, HostName, ObjectId, RoleName, SecretName};

/// Who says what a layer says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "layer", content = "name", rename_all = "lowercase")]
pub enum Origin {
    /// The component itself: its settings file.
    Component,
    /// The class, in `overrides/`.
    Class,
    /// The datacenter's own branch, in `overrides/`.
    Datacenter,
    /// A role, in the datacenter's `datacenter.yaml`.
    Role(RoleName),
    /// A host, in the datacenter's `datacenter.yaml`.
    Host(HostName),
}

/// What one of them says about a component.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Who says it.
    pub origin: Origin,
    /// Where: the path of the file in the tree of its branch.
    pub file: String,
    /// What: the settings themselves in the lowest layer, a merge patch in the others.
    pub values: Map<String, Value>,
    lines: Text,
}

/// What tells the lines of a layer. They are looked for when somebody asks: a message, and not a landing, needs them.
#[derive(Clone, Debug)]
enum Text {
    File { format: Format, bytes: Vec<u8>, lines: OnceLock<Option<Lines>> },
    Known(Lines),
}

/// All layers of a component on one host, the lowest first.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    /// Those that there are; a layer that says nothing is not among them.
    pub layers: Vec<Layer>,
}

/// Where a component's layers are read.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The tree of the component's content.
    pub component_tree: ObjectId,
    /// Every file byte for byte, no settings, no layers.
    pub raw: bool,
    /// The tree of the class.
    pub class_tree: ObjectId,
    /// The tree of the datacenter's branch.
    pub datacenter_tree: ObjectId,
    /// The `datacenter.yaml` in that tree.
    pub instance: &'a InstanceManifest,
    /// Whose it is.
    pub datacenter: &'a DatacenterName,
    /// Facts about the platform: the class's, and over them the datacenter's own. See [`manifest::platform`].
    pub platform: &'a Map<String, Value>,
    /// The secrets that it declares, the class's among them.
    pub secrets: &'a BTreeMap<SecretName, Declaration>,
    /// The sealed value of each, where there is one; on conf-master none are looked at.
    pub sealed: &'a BTreeMap<SecretName, ObjectId>,
}

impl<'a> Sources<'a> {
    /// The secrets that a component may read.
    pub fn secrets_of(&self, component: &ComponentName) -> impl Iterator<Item = (&'a SecretName, &'a Declaration)> {
        self.secrets.iter().filter(|(_, declared)| declared.readers.contains(component))
    }
}

/// What cannot be read in a layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{fault}", match origin { Origin::Component => String::new(), origin => format!("{origin}: ") })]
pub struct LayerFault {
    /// Whose layer.
    pub origin: Origin,
    /// What is wrong, in a file of that branch.
    pub fault: SettingsFault,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layers say what nobody can read; all faults at once.
    #[error("{}", .0.iter().map(LayerFault::to_string).collect::<Vec<_>>().join("; "))]
    Faults(Vec<LayerFault>),
    /// The repository lacks something, or it is damaged.
    #[error("the repository cannot be read")]
    Repository(#[source] git2::Error),
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
        add(origin.clone(), overrides::layer(repo, &tree, &origin, component).map_err(broken)?);
    }
    let common = if faults.is_empty() { Stack { layers } } else { return Err(LayerError::Faults(faults)) };
    Ok(common.on_host(sources.instance, component, host))
}

/// The component's own settings.
fn of_component(repo: &Repository, tree: &Tree<'_>) -> Result<Result<Option<Layer>, SettingsFault>, git2::Error> {
    let files = tree.iter().filter(|entry| entry.kind() == Some(ObjectType::Blob));
    let names: Vec<String> = files.map(|entry| String::from_utf8_lossy(entry.name_bytes()).into_owned()).collect();
    let (file, format) = match settings::choose(names.iter().map(String::as_str), false) {
        Ok(Some(chosen)) => chosen,
        Ok(None) => return Ok(Ok(None)),
        Err(fault) => return Ok(Err(fault)),
    };
    of_file(repo, tree, Origin::Component, file.to_owned(), file, format)
}

/// One file of a folder; `path` is how people find it.
fn of_file(
    repo: &Repository,
    folder: &Tree<'_>,
    origin: Origin,
    path: String,
    name: &str,
    format: Format,
) -> Result<Result<Option<Layer>, SettingsFault>, git2::Error> {
    let Some(entry) = folder.get_name(name) else { return Ok(Ok(None)) };
    let refuse = |reason: &str| Ok(Err(SettingsFault { file: path.clone(), line: None, reason: reason.to_owned() }));
    match (entry.kind(), entry.filemode()) {
        (Some(ObjectType::Blob), 0o120_000) => return refuse("settings may not be a link; put the file itself"),
        (Some(ObjectType::Blob), _) => {}
        _ => return refuse("it is a folder; put a file there"),
    }
    let bytes = repo.find_blob(entry.id())?.content().to_vec();
    Ok(settings::parse(&path, format, &bytes).map(|values| {
        let lines = Text::File { format, bytes, lines: OnceLock::new() };
        Some(Layer { origin, file: path, values, lines })
    }))
}

/// What roles and host say of a component, the lowest first.
fn overlays<'a>(
    instance: &'a InstanceManifest,
    component: &'a ComponentName,
    host: Option<&HostName>,
) -> impl Iterator<Item = (Origin, &'a Overlay)> {
    let listed = host.and_then(|name| instance.hosts.get_key_value(name));
    let roles = listed.into_iter().flat_map(|(_, host)| &host.roles).filter_map(|(name, _)| {
        let overlay = instance.roles.get(name)?.settings.get(component)?;
        Some((Origin::Role(name.clone()), overlay))
    });
    let own = listed.and_then(|(name, host)| Some((Origin::Host(name.clone()), host.settings.get(component)?)));
    roles.chain(own)
}

impl Layer {
    /// A layer whose lines nobody knows.
    pub fn new(origin: Origin, file: &str, values: Map<String, Value>) -> Self {
        Layer { origin, file: file.to_owned(), values, lines: Text::Known(Lines::default()) }
    }

    /// The line of its file in which it sets the value at a JSON Pointer, or at a dotted key, counted from 1.
    pub fn line_of(&self, pointer: &str) -> Option<usize> {
        let Ok(pointer) = pointer.parse();
        self.line_at(&pointer)
    }

    fn line_at(&self, pointer: &Pointer) -> Option<usize> {
        match &self.lines {
            Text::Known(lines) => lines.at(pointer),
            Text::File { format, bytes, lines } => {
                lines.get_or_init(|| Lines::of(*format, bytes)).as_ref()?.at(pointer)
            }
        }
    }
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

    /// The layer that had the last word about the value at a JSON Pointer, or at a dotted key: it set it, set something in
    /// it, or removed it.
    pub fn winner(&self, pointer: &str) -> Option<&Layer> {
        let Ok(pointer) = pointer.parse();
        self.layers.iter().rev().find(|layer| explain::says(&layer.values, &pointer) != explain::Says::Nothing)
    }

    /// For every key of the settings at or below `at`, and for every one that a layer removes, who says what.
    pub fn explain(&self, at: Option<&Pointer>) -> Vec<Explained> {
        explain::explain(self, at.unwrap_or(&Pointer::default()))
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

/// JSON Merge Patch (RFC 7396) of objects: a null removes, an object is merged, everything else replaces.
pub(crate) fn merge(settings: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => drop(settings.remove(key)),
            Value::Object(patch) => {
                let inner = settings.entry(key.as_str()).or_insert(Value::Null);
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                if let Value::Object(inner) = inner {
                    merge(inner, patch);
                }
            }
            value => drop(settings.insert(key.clone(), value.clone())),
        }
    }
}

impl Origin {
    /// True for a layer that not every host has.
    pub fn is_of_hosts(&self) -> bool {
        matches!(self, Origin::Role(_) | Origin::Host(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Component => f.write_str("component"),
            Origin::Class => f.write_str("class"),
            Origin::Datacenter => f.write_str("datacenter"),
            Origin::Role(name) => write!(f, "role {name}"),
            Origin::Host(name) => write!(f, "host {name}"),
        }
    }
}
