//! `overrides/<kind>/<name>.yaml` in the tree of a class or of a datacenter.

use std::collections::BTreeMap;

use git2::{ObjectType, Repository, Tree};

use crate::{
    layers::layer::{Layer, Origin, ReadError, of_file},
    settings::Format,
};
use libconf::name::{ComponentName, Kind, ObjectId};

/// The files in `overrides/` of one tree. Equal ids are equal layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The file of each component.
    pub files: BTreeMap<ComponentName, ObjectId>,
    /// Paths of files that belong to no component, and have no effect.
    pub strays: Vec<String>,
}

/// The folder of the files.
const FOLDER: &str = Overrides::FOLDER;

impl Overrides {
    /// The folder of the files.
    pub const FOLDER: &str = "overrides";

    /// Lists the files; reads none of them.
    pub fn read(repo: &Repository, tree: ObjectId) -> Result<Self, git2::Error> {
        let mut found = Overrides::default();
        let root = repo.find_tree(tree.into())?;
        let Some(entry) = root.get_name(FOLDER) else { return Ok(found) };
        if entry.kind() != Some(ObjectType::Tree) {
            found.strays.push(FOLDER.to_owned());
            return Ok(found);
        }
        for entry in &repo.find_tree(entry.id())? {
            let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
            let kind = name.parse::<Kind>().ok().filter(|_| entry.kind() == Some(ObjectType::Tree));
            let Some(kind) = kind else {
                found.strays.push(format!("{FOLDER}/{name}"));
                continue;
            };
            for entry in &repo.find_tree(entry.id())? {
                let file = String::from_utf8_lossy(entry.name_bytes()).into_owned();
                let component = file.strip_suffix(".yaml").and_then(|name| name.parse().ok());
                match component.filter(|_| entry.kind() == Some(ObjectType::Blob)) {
                    Some(name) => drop(found.files.insert(ComponentName { kind, name }, entry.id().into())),
                    None => found.strays.push(format!("{FOLDER}/{name}/{file}")),
                }
            }
        }
        Ok(found)
    }

    /// The path of a component's file in the tree.
    pub fn path(component: &ComponentName) -> String {
        format!("{FOLDER}/{component}.yaml")
    }
}

/// Reads a tree's layer over a component's settings.
pub(crate) fn of_overrides(
    repo: &Repository,
    tree: &Tree<'_>,
    origin: Origin,
    component: &ComponentName,
) -> Result<Option<Layer>, ReadError> {
    let folder = |tree: &Tree<'_>, name: &str| match tree.get_name(name) {
        Some(entry) if entry.kind() == Some(ObjectType::Tree) => Some(entry.id()),
        _ => None,
    };
    let Some(all) = folder(tree, FOLDER) else { return Ok(None) };
    let Some(kind) = folder(&repo.find_tree(all)?, component.kind.as_str()) else { return Ok(None) };
    let name = format!("{}.yaml", component.name);
    of_file(repo, &repo.find_tree(kind)?, origin, Overrides::path(component), &name, Format::Yaml)
}
