//! The name of what an update replaces: a component's branch, a class, a datacenter, or a layer of
//! one of the last two.

use std::{fmt, str::FromStr};

use conf_core::manifest;
use conf_core::settings::SCHEMA_FILE;
use conf_core::settings::{self, Format, SettingsFault};
use git2::{ObjectType, Repository, Tree};
use libconf::name::{BadName, BranchName, ClassName, ComponentName, DatacenterName, RefName};
use serde::{Deserialize, Serialize};

use crate::store::{LayerChanges, Table};

/// The branch of a component, unless the name says one.
pub(crate) const BRANCH: &str = "master";
/// The settings file of a component that has none yet.
const NEW_FILE: &str = "config.json";

/// A piece of configuration that is read and replaced as one.
///
/// Text form: `services/web`, `services/web@branch`, `datacenters/<id>/<version>`,
/// `datacenter-configuration/<class>`; a layer is one of the last two, a colon, and the component:
/// `datacenters/<id>/<version>:services/web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum SectionName {
    /// The settings of a component, on one of its branches.
    Component(ComponentName, BranchName),
    /// The `datacenter.yaml` of a class or a datacenter.
    Manifest(Owner),
    /// The settings that a class or a datacenter lays over a component's.
    Layer(Owner, ComponentName),
}

/// The owner of a `datacenter.yaml` and of layers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    /// A class of datacenters.
    Class(ClassName),
    /// A datacenter.
    Datacenter(DatacenterName),
}

/// The file of a section, existing or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SectionFile {
    /// Its path in the branch.
    pub(crate) path: String,
    /// Its notation.
    pub(crate) format: Format,
    /// The existing blob and its mode; `None` for a new file.
    pub(crate) found: Option<(git2::Oid, i32)>,
}

impl SectionName {
    /// Returns the branch that holds it.
    pub(crate) fn reference(&self) -> RefName {
        match self {
            SectionName::Component(component, branch) => RefName::Branch(component.clone(), branch.clone()),
            SectionName::Manifest(owner) | SectionName::Layer(owner, _) => match owner {
                Owner::Class(class) => RefName::Class(class.clone()),
                Owner::Datacenter(datacenter) => RefName::Datacenter(datacenter.clone()),
            },
        }
    }

    /// Returns the component whose layer it is; `None` for what is no layer.
    pub(crate) fn layer(&self) -> Option<&ComponentName> {
        match self {
            SectionName::Layer(_, component) => Some(component),
            SectionName::Component(..) | SectionName::Manifest(_) => None,
        }
    }

    /// Returns its version: that of its branch, and for a layer the one that its branch had with
    /// the layer's last change; -1 when it does not exist.
    pub(crate) fn version(&self, table: &Table, layers: &LayerChanges) -> i64 {
        let branch = self.reference();
        match self.layer() {
            Some(component) => layers.version(table, &branch, component),
            None => table.version(&branch),
        }
    }

    /// Returns the version of the schema that the branch holds: `x-schema-version` of a component's
    /// `config.schema.json`, else 1.
    pub(crate) fn schema_version(&self, repo: &Repository, tree: &Tree<'_>) -> Result<i64, git2::Error> {
        let entry = tree.get_name(SCHEMA_FILE).filter(|entry| entry.kind() == Some(ObjectType::Blob));
        let (SectionName::Component(..), Some(entry)) = (self, entry) else { return Ok(1) };
        let schema: Option<serde_json::Value> = serde_json::from_slice(repo.find_blob(entry.id())?.content()).ok();
        Ok(schema.and_then(|schema| schema.get("x-schema-version")?.as_i64()).unwrap_or(1))
    }

    /// Finds its file in the branch's tree.
    pub(crate) fn file(&self, tree: &Tree<'_>) -> Result<SectionFile, SettingsFault> {
        let (path, format) = match self {
            SectionName::Component(..) => {
                let names: Vec<String> = tree
                    .iter()
                    .filter(|entry| entry.kind() == Some(ObjectType::Blob))
                    .map(|entry| String::from_utf8_lossy(entry.name_bytes()).into_owned())
                    .collect();
                let chosen = settings::choose(names.iter().map(String::as_str), false)?;
                chosen.map_or((NEW_FILE.to_owned(), Format::Json), |(name, format)| (name.to_owned(), format))
            }
            SectionName::Manifest(_) => (manifest::FILE.to_owned(), Format::Yaml),
            SectionName::Layer(_, component) => (format!("overrides/{component}.yaml"), Format::Yaml),
        };
        let fault = |reason: &str| SettingsFault { file: path.clone(), line: None, reason: reason.to_owned() };
        let found = match tree.get_path(path.as_ref()) {
            Ok(entry) if entry.kind() != Some(ObjectType::Blob) => {
                return Err(fault("a folder is where the file should be; push a change that takes it out"));
            }
            Ok(entry) if entry.filemode() == 0o120_000 => {
                return Err(fault("it is a link; push the change with git instead"));
            }
            Ok(entry) => Some((entry.id(), entry.filemode())),
            Err(_) => None,
        };
        Ok(SectionFile { path, format, found })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Class(class) => write!(f, "datacenter-configuration/{class}"),
            Owner::Datacenter(datacenter) => write!(f, "datacenters/{datacenter}"),
        }
    }
}

impl fmt::Display for SectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SectionName::Component(component, branch) if branch.as_str() == BRANCH => write!(f, "{component}"),
            SectionName::Component(component, branch) => write!(f, "{component}@{branch}"),
            SectionName::Manifest(owner) => write!(f, "{owner}"),
            SectionName::Layer(owner, component) => write!(f, "{owner}:{component}"),
        }
    }
}

/// Why a text names no section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadSection(String);

impl From<BadName> for BadSection {
    fn from(bad: BadName) -> Self {
        BadSection(bad.to_string())
    }
}

impl FromStr for SectionName {
    type Err = BadSection;

    fn from_str(text: &str) -> Result<Self, BadSection> {
        let outside = || {
            BadSection(format!(
                "{:?} is not a section: write <kind>/<name>[@branch], datacenters/<id>/<version>, \
                 datacenter-configuration/<class>, or a layer of one of these two, as in \
                 datacenters/us-west/v1:services/web",
                text.chars().take(200).collect::<String>()
            ))
        };
        let (whole, layer) = match text.split_once(':') {
            Some((whole, component)) => (whole, Some(component.parse::<ComponentName>()?)),
            None => (text, None),
        };
        let parts: Vec<&str> = whole.split('/').collect();
        let owner = match parts.as_slice() {
            ["datacenters", id, version] => {
                Owner::Datacenter(DatacenterName { id: id.parse()?, version: version.parse()? })
            }
            ["datacenter-configuration", class] => Owner::Class(class.parse()?),
            ["services" | "applications" | "devices", _] if layer.is_none() => {
                let (component, branch) = whole.split_once('@').unwrap_or((whole, BRANCH));
                return Ok(SectionName::Component(component.parse()?, branch.parse()?));
            }
            _ => return Err(outside()),
        };
        Ok(match layer {
            Some(component) => SectionName::Layer(owner, component),
            None => SectionName::Manifest(owner),
        })
    }
}

impl TryFrom<String> for SectionName {
    type Error = BadSection;

    fn try_from(text: String) -> Result<Self, BadSection> {
        text.parse()
    }
}

impl From<SectionName> for String {
    fn from(name: SectionName) -> String {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_round_trip_and_name_their_branch() {
        for (text, reference) in [
            ("services/web", "refs/heads/services/web/master"),
            ("services/web@next", "refs/heads/services/web/next"),
            ("devices/router", "refs/heads/devices/router/master"),
            ("datacenters/us-west/v1", "refs/heads/datacenters/us-west/v1"),
            ("datacenter-configuration/big", "refs/heads/datacenter-configuration/big"),
            ("datacenters/us-west/v1:services/web", "refs/heads/datacenters/us-west/v1"),
            ("datacenter-configuration/big:applications/shop", "refs/heads/datacenter-configuration/big"),
        ] {
            let section: SectionName = text.parse().unwrap();
            assert_eq!(section.to_string(), text);
            assert_eq!(section.reference().to_string(), reference);
        }
        // The default branch is not written.
        assert_eq!("services/web@master".parse::<SectionName>().unwrap().to_string(), "services/web");
    }

    #[test]
    fn texts_that_name_no_section_are_errors() {
        for text in [
            "",
            "web",
            "services",
            "services/",
            "services/web/master",
            "services/web@",
            "services/web@a@b",
            "services/web@../x",
            "services/web:services/api",
            "servers/web",
            "datacenters/us-west",
            "datacenters/us-west/v1/x",
            "datacenters/us-west/v1@x",
            "datacenters/us-west/v1:",
            "datacenters/us-west/v1:web",
            "datacenters/us-west/v1:services/web@next",
            "datacenters/us-west/v1:services/web:services/api",
            "datacenter-configuration",
            "datacenter-configuration/big/v1",
            "secrets/us-west",
            "refs/heads/services/web/master",
            "services/w\u{e4}b",
        ] {
            assert!(text.parse::<SectionName>().is_err(), "{text:?}");
        }
    }

    proptest::proptest! {
        /// Any text either names no section, or the section prints as a name that parses to the
        /// same.
        #[test]
        fn any_text_is_a_section_that_round_trips_or_an_error(text in "[a-z/@:.-]{0,40}|(services|datacenters|datacenter-configuration|devices)[/@:]\\PC{0,20}") {
            if let Ok(section) = text.parse::<SectionName>() {
                proptest::prop_assert_eq!(section.to_string().parse(), Ok(section.clone()));
                proptest::prop_assert!(!section.reference().is_reserved());
            }
        }
    }

    #[test]
    fn the_file_of_a_section_is_the_one_that_is_there_or_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let tree = |names: &[(&str, i32)]| {
            let mut tree = repo.treebuilder(None).unwrap();
            for (name, mode) in names {
                tree.insert(name, repo.blob(b"{}").unwrap(), *mode).unwrap();
            }
            repo.find_tree(tree.write().unwrap()).unwrap()
        };
        let file = |section: &str, names: &[(&str, i32)]| {
            let section: SectionName = section.parse().unwrap();
            section.file(&tree(names)).map(|file| (file.path, file.format, file.found.map(|found| found.1)))
        };
        let named = |path: &str, format, mode| Ok((path.to_owned(), format, mode));
        assert_eq!(file("services/web", &[]), named("config.json", Format::Json, None));
        let toml = [("config.toml", 0o100_755), ("other", 0o100_644)];
        assert_eq!(file("services/web", &toml), named("config.toml", Format::Toml, Some(0o100_755)));
        assert_eq!(file("datacenters/a/v1", &[]), named("datacenter.yaml", Format::Yaml, None));
        let layer = "datacenters/a/v1:services/web";
        assert_eq!(file(layer, &[]), named("overrides/services/web.yaml", Format::Yaml, None));
        for names in [&[("config.toml", 0o100_644), ("config.json", 0o100_644)][..], &[("config.yaml", 0o120_000)]] {
            assert!(file("services/web", names).is_err(), "{names:?}");
        }
    }
}
