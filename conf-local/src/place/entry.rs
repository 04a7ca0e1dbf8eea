//! `export:` in the YAML file: which component is placed where.

use std::{
    collections::BTreeMap,
    path::{Component as Part, Path, PathBuf},
};

use libconf::name::{ComponentSelector, ComponentVersion};
use nix::unistd::{Group, User};
use serde::{Deserialize, Serialize};

/// One entry of `export:`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawPlace")]
pub(crate) struct PlaceEntry {
    pub(crate) component: ComponentSelector,
    /// Absolute, without `.` and `..`.
    pub(crate) path: PathBuf,
    pub(crate) mode: PlaceMode,
    /// The owner of files and folders; `None` for the agent's user.
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
    /// The permission bits of files. Every user who may read an executable file may execute it.
    pub(crate) file_mode: Option<u32>,
    /// The permission bits of folders that are made.
    pub(crate) dir_mode: Option<u32>,
}

/// How a component gets to its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PlaceMode {
    /// The path is a link into the export.
    Link,
    /// Each file is written beside its place, and renamed to it.
    Copy,
    /// The whole folder is written beside its place, and exchanged with the former one.
    Exchange,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlace {
    component: ComponentSelector,
    path: PathBuf,
    mode: PlaceMode,
    owner: Option<Id>,
    group: Option<Id>,
    file_mode: Option<String>,
    dir_mode: Option<String>,
}

/// A user or a group: its name, or its number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(u32),
    Name(String),
}

impl TryFrom<RawPlace> for PlaceEntry {
    type Error = String;

    fn try_from(raw: RawPlace) -> Result<Self, String> {
        let path = plain(&raw.path)?;
        let has = [raw.owner.is_some(), raw.group.is_some(), raw.file_mode.is_some(), raw.dir_mode.is_some()];
        if raw.mode == PlaceMode::Link && has.contains(&true) {
            return Err(
                "owner, group and modes are for mode copy and exchange; through a link files are as in the export"
                    .to_owned(),
            );
        }
        let owner =
            raw.owner.map(|owner| id(owner, "user", |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))));
        let group = raw
            .group
            .map(|group| id(group, "group", |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))));
        Ok(PlaceEntry {
            component: raw.component,
            path,
            mode: raw.mode,
            owner: owner.transpose()?,
            group: group.transpose()?,
            file_mode: raw.file_mode.map(|mode| bits("file_mode", &mode, 0o400)).transpose()?,
            dir_mode: raw.dir_mode.map(|mode| bits("dir_mode", &mode, 0o700)).transpose()?,
        })
    }
}

impl PlaceEntry {
    /// Lists the components that the entry places.
    pub(crate) fn matching<'a, T>(
        &'a self,
        components: &'a BTreeMap<ComponentVersion, T>,
    ) -> impl Iterator<Item = (&'a ComponentVersion, &'a T)> {
        components.iter().filter(|(component, _)| self.component.matches(component))
    }
}

/// Checks that a path is absolute and has no `.` and `..`.
fn plain(path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("path {shown} is not absolute"));
    }
    let mut parts = path.components().skip(1).peekable();
    if parts.peek().is_none() {
        return Err(format!("path {shown} is the root of everything; name a folder of its own"));
    }
    if parts.any(|part| !matches!(part, Part::Normal(_))) || path.to_str().is_none() {
        return Err(format!("path {shown} must be UTF-8, without '.' and '..'"));
    }
    Ok(path.components().collect())
}

fn id(id: Id, what: &str, named: impl Fn(&str) -> nix::Result<Option<u32>>) -> Result<u32, String> {
    match id {
        Id::Number(number) => Ok(number),
        Id::Name(name) => match named(&name) {
            Ok(Some(number)) => Ok(number),
            Ok(None) => Err(format!("there is no {what} {name:?} on this host; make it first, or give its number")),
            Err(error) => Err(format!("cannot look up the {what} {name:?}: {error}")),
        },
    }
}

/// Reads permission bits in octal.
fn bits(key: &str, text: &str, least: u32) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| (3..=4).contains(&text.len()) && *mode <= 0o777);
    match mode {
        Some(mode) if mode & 0o002 != 0 => {
            Err(format!("{key} {text} lets every user write; take 2 off its last digit"))
        }
        Some(mode) if mode & least != least => Err(format!("{key} {text} keeps its own owner out; as in 0640")),
        Some(mode) => Ok(mode),
        None => Err(format!("{key} {text:?} must be three or four octal digits, as in 0640")),
    }
}
