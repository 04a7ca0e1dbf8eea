//! One layer over a component's settings, and the place where it is read.

use std::{collections::BTreeMap, fmt, sync::OnceLock};

use git2::{ObjectType, Repository, Tree};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    git,
    manifest::{InstanceManifest, Overlay},
    secret::Declaration,
    settings::{self, Format, JsonPointer, Lines, SettingsFault},
};
use libconf::name::{ComponentName, DatacenterName, HostName, ObjectId, RoleName, SecretName};

/// Where a layer comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "layer", content = "name", rename_all = "lowercase")]
pub enum Origin {
    /// The component's own settings file.
    Component,
    /// The class's `overrides/`.
    Class,
    /// The `overrides/` of the datacenter's own branch.
    Datacenter,
    /// A role, in the datacenter's `datacenter.yaml`.
    Role(RoleName),
    /// A host, in the datacenter's `datacenter.yaml`.
    Host(HostName),
}

/// One layer of a component's settings.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Where the layer comes from.
    pub origin: Origin,
    /// The path of the file in the tree of its branch.
    pub file: String,
    /// The settings themselves in the lowest layer, a merge patch in the others.
    pub values: Map<String, Value>,
    pub(crate) lines: Text,
}

/// The source of a layer's lines. A message needs them and a landing does not, so they are looked
/// for on demand.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    File { format: Format, bytes: Vec<u8>, lines: OnceLock<Option<Lines>> },
    Known(Lines),
}

/// Where the links in a component's content may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkPolicy {
    /// To something inside: the component's entry does not ask for more.
    Inside,
    /// To something inside: the entry says `links: any`, but the configuration of this host does
    /// not list the component.
    NotListed,
    /// Anywhere: the entry says `links: any`, and the reader allows it.
    Anywhere,
}

impl LinkPolicy {
    /// The policy of a component's entry, with or without `links: any`, for a reader that allows
    /// what entries say.
    pub fn of_entry(any: bool) -> Self {
        if any { LinkPolicy::Anywhere } else { LinkPolicy::Inside }
    }

    /// The links that [`git`] lets through.
    pub fn links(self) -> git::Links {
        if self == LinkPolicy::Anywhere { git::Links::Anywhere } else { git::Links::Inside }
    }

    /// What to write where a link of `component` leads out.
    pub fn remedy(self, component: &ComponentName) -> String {
        let entry = format!("`links: any` in the entry of {component} in datacenter.yaml");
        let host = format!("`links: [{component}]` in conf-local.yaml");
        match self {
            LinkPolicy::NotListed => format!("there is {entry}, and this host allows it only by {host}"),
            _ => format!("if hosts shall have it as it is, write {entry}, and {host} on each of them"),
        }
    }
}

/// Where a component's layers are read.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The tree of the component's content.
    pub component_tree: ObjectId,
    /// True when every file is exported byte for byte: no settings, no layers.
    pub raw: bool,
    /// Where the links in the content may lead.
    pub links: LinkPolicy,
    /// The tree of the class.
    pub class_tree: ObjectId,
    /// The tree of the datacenter's branch.
    pub datacenter_tree: ObjectId,
    /// The `datacenter.yaml` in that tree.
    pub instance: &'a InstanceManifest,
    /// The datacenter.
    pub datacenter: &'a DatacenterName,
    /// Facts about the platform: the class's, and over them the datacenter's own. See
    /// [`platform`](crate::manifest::platform).
    pub platform: &'a Map<String, Value>,
    /// The declared secrets, the class's among them.
    pub secrets: &'a BTreeMap<SecretName, Declaration>,
    /// The sealed value of each secret, if there is one; conf-master leaves this empty.
    pub sealed: &'a BTreeMap<SecretName, ObjectId>,
}

impl<'a> Sources<'a> {
    /// The secrets that a component may read.
    pub fn secrets_of(&self, component: &ComponentName) -> impl Iterator<Item = (&'a SecretName, &'a Declaration)> {
        self.secrets.iter().filter(|(_, declared)| declared.readers.contains(component))
    }
}

/// A fault in one layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{fault}", match origin { Origin::Component => String::new(), origin => format!("{origin}: ") })]
pub struct LayerFault {
    /// The layer.
    pub origin: Origin,
    /// The fault, in a file of that branch.
    pub fault: SettingsFault,
}

/// Why a component's layers cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layers have faults; all of them.
    #[error("{}", .0.iter().map(LayerFault::to_string).collect::<Vec<_>>().join("; "))]
    Faults(Vec<LayerFault>),
    /// The repository lacks an object, or is damaged.
    #[error("the repository cannot be read")]
    Repository(#[from] git2::Error),
}

/// Why one layer was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Fault(SettingsFault),
    Repository(git2::Error),
}

impl From<SettingsFault> for ReadError {
    fn from(fault: SettingsFault) -> Self {
        ReadError::Fault(fault)
    }
}

impl From<git2::Error> for ReadError {
    fn from(cause: git2::Error) -> Self {
        ReadError::Repository(cause)
    }
}

/// Reads the component's own settings; `None` when it has none.
pub(crate) fn of_component(repo: &Repository, tree: &Tree<'_>) -> Result<Option<Layer>, ReadError> {
    let files = tree.iter().filter(|entry| entry.kind() == Some(ObjectType::Blob));
    let names: Vec<String> = files.map(|entry| String::from_utf8_lossy(entry.name_bytes()).into_owned()).collect();
    let Some((file, format)) = settings::choose(names.iter().map(String::as_str), false)? else { return Ok(None) };
    of_file(repo, tree, Origin::Component, file.to_owned(), file, format)
}

/// Reads one file of a folder as a layer; `path` is the path that people see.
pub(crate) fn of_file(
    repo: &Repository,
    folder: &Tree<'_>,
    origin: Origin,
    path: String,
    name: &str,
    format: Format,
) -> Result<Option<Layer>, ReadError> {
    let Some(entry) = folder.get_name(name) else { return Ok(None) };
    let refuse = |reason: &str| Err(SettingsFault { file: path.clone(), line: None, reason: reason.to_owned() }.into());
    match (entry.kind(), entry.filemode()) {
        (Some(ObjectType::Blob), 0o120_000) => return refuse("settings may not be a link; put the file itself"),
        (Some(ObjectType::Blob), _) => {}
        _ => return refuse("it is a folder; put a file there"),
    }
    let bytes = repo.find_blob(entry.id())?.content().to_vec();
    let values = settings::parse(&path, format, &bytes)?;
    let lines = Text::File { format, bytes, lines: OnceLock::new() };
    Ok(Some(Layer { origin, file: path, values, lines }))
}

/// The layers of roles and of the host over a component, the lowest first.
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
    /// Makes a layer without lines.
    pub fn new(origin: Origin, file: &str, values: Map<String, Value>) -> Self {
        Layer { origin, file: file.to_owned(), values, lines: Text::Known(Lines::default()) }
    }

    /// The line of the layer's file that sets the value at a JSON Pointer, or at a dotted key,
    /// counted from 1.
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
    /// True for a layer of a role or a host, which not every host has.
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
