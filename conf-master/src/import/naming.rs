//! The names of components and secrets.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::suspect::words;
use libconf::name::{ComponentName, Kind, SecretName};

use crate::import::flags::ImportFlags;
use crate::import::scan::{FileEntry, Folder, Remark};

/// Folders with the same files, and their common name.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    /// The component's name.
    pub(crate) name: ComponentName,
    /// Every folder that holds it, in order of role.
    pub(crate) places: Vec<&'a Folder>,
    /// Why its name is not that of its folder.
    pub(crate) note: Option<String>,
}

/// Groups folders of one name and one content into one component. Where one name has several
/// contents, each is called `<role>-<name>` by its first role, unless `--rename` names it.
pub(crate) fn groups<'a>(folders: &'a [Folder], flags: &ImportFlags, faults: &mut Vec<Remark>) -> Vec<Group<'a>> {
    type Contents<'a> = Vec<(&'a BTreeMap<String, FileEntry>, Vec<&'a Folder>, bool)>;
    let mut asked: BTreeMap<(Kind, &str), Contents<'_>> = BTreeMap::new();
    for folder in folders {
        let place = format!("{}/{}", folder.role, folder.name);
        let rename = flags.renames.iter().find(|rename| rename.folder == place);
        let kind = rename.and_then(|rename| rename.kind).unwrap_or(flags.kind);
        let name = rename.map_or(folder.name.as_str(), |rename| rename.name.as_str());
        let contents = asked.entry((kind, name)).or_default();
        match contents.iter_mut().find(|(content, ..)| *content == &folder.files) {
            Some((_, places, renamed)) => {
                places.push(folder);
                *renamed |= rename.is_some();
            }
            None => contents.push((&folder.files, vec![folder], rename.is_some())),
        }
    }
    for rename in &flags.renames {
        if !folders.iter().any(|folder| format!("{}/{}", folder.role, folder.name) == rename.folder) {
            faults.push(Remark::new(rename.folder.as_str(), "--rename names it, and there is no such folder"));
        }
    }
    let mut groups: Vec<Group<'a>> = Vec::new();
    for ((kind, name), contents) in asked {
        let differ = contents.len() > 1;
        let note = differ.then(|| {
            let roles: Vec<String> = contents.iter().map(|(_, places, _)| roles(places)).collect();
            format!("{name} is not the same in {}: {} components", roles.join(" and in "), contents.len())
        });
        for (_, places, renamed) in contents {
            let name = if differ && !renamed { format!("{}-{name}", places[0].role) } else { name.to_owned() };
            let place = format!("{}/{}", places[0].role, places[0].name);
            match format!("{kind}/{name}").parse::<ComponentName>() {
                Err(bad) => faults.push(Remark::new(&place, format!("{bad}; name it by --rename {place}=NAME"))),
                Ok(name) => match groups.iter().find(|group| group.name == name) {
                    Some(other) => {
                        let other = &other.places[0];
                        let reason = format!(
                            "it would be called {name} as {}/{} is, which holds other files; name it by --rename \
                             {place}=NAME",
                            other.role, other.name
                        );
                        faults.push(Remark::new(&place, reason));
                    }
                    None => groups.push(Group { name, places, note: note.clone() }),
                },
            }
        }
    }
    groups.sort_by(|one, other| one.name.cmp(&other.name));
    groups
}

fn roles(places: &[&Folder]) -> String {
    places.iter().map(|place| place.role.as_str()).collect::<Vec<_>>().join(", ")
}

/// Finds a name for a secret: its key where the key says enough, else the component's name and the
/// key, or the name of its file. Names that differ only in case count as equal, because both would
/// be one environment variable.
pub(crate) fn secret(component: &ComponentName, file: &str, key: Option<&str>, taken: &BTreeSet<String>) -> SecretName {
    let told = match key {
        Some(key) if words(key).len() > 1 => key.to_owned(),
        Some(key) => format!("{}_{key}", component.name),
        None => file.rsplit('/').next().unwrap_or(file).to_owned(),
    };
    let mut name: String =
        told.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        name = format!("secret_{}", name.trim_start_matches('_'));
    }
    name.truncate(56);
    let free = (1..).map(|count| if count == 1 { name.clone() } else { format!("{name}_{count}") });
    let name = free.into_iter().find(|name| !taken.contains(&name.to_ascii_uppercase())).unwrap_or_default();
    name.parse().expect("letters, digits and '_', a letter first, at most 64")
}
