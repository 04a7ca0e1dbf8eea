//! One layer over a component's settings, and where it is read.

use std::{collections::BTreeMap, fmt, sync::OnceLock};

use git2::{ObjectType, Repository, Tree};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    manifest::{InstanceManifest, Overlay},
    secret::Declaration,
    settings::{self, Format, JsonPointer, Lines, SettingsFault},
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
    pub(crate) lines: Text,
}

/// What tells the lines of a layer. They are looked for when somebody asks: a message, and not a landing, needs them.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    File { format: Format, bytes: Vec<u8>, lines: OnceLock<Option<Lines>> },
    Known(Lines),
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

/// The component's own settings.
pub(crate) fn of_component(
    repo: &Repository,
    tree: &Tree<'_>,
) -> Result<Result<Option<Layer>, SettingsFault>, git2::Error> {
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
pub(crate) fn of_file(
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
pub(crate) fn overlays<'a>(
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

    pub(crate) fn line_at(&self, pointer: &JsonPointer) -> Option<usize> {
        match &self.lines {
            Text::Known(lines) => lines.at(pointer),
            Text::File { format, bytes, lines } => {
                lines.get_or_init(|| Lines::of(*format, bytes)).as_ref()?.at(pointer)
            }
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
