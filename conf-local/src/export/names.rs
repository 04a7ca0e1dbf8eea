//! The names within `export/`, and steps on them that a crash cannot leave half done.

use std::{collections::BTreeMap, io};

use conf_core::render::StoreHash;
use libconf::name::{Sequence, Version};

use crate::fs::Folder;

/// An entry that is being made, until it gets its own name.
pub(crate) const NEW: &str = ".new";
/// An entry that is being removed, so that no half of it has its name.
const OLD: &str = ".old";
/// A second set of the links of the current snapshot, made ahead for the next one.
pub(crate) const NEXT: &str = ".next";
/// Beside settings that hold secrets: the same with the names of secrets, for every user.
pub(crate) const SHOWN: &str = "shown.json";
pub(crate) const CURRENT: &str = "current";
pub(crate) const HEADER: &str = "snapshot.json";
/// 16 MiB: a header names every fault, and is far smaller in practice.
pub(crate) const MOST_HEADER_BYTES: u64 = 16 << 20;
/// 64 MiB for one file or settings: conf-master accepts less.
pub(crate) const MOST_FILE_BYTES: u64 = 64 << 20;

/// Lists the links in the folder of a component's versions, each with its target.
pub(crate) fn names_links(versions: &BTreeMap<Version, StoreHash>) -> BTreeMap<String, String> {
    let links = |(version, hash): (&Version, &StoreHash)| {
        let store = format!("../../store/{hash}");
        [(version.to_string(), format!("{store}/files")), (format!("{version}.json"), format!("{store}/settings.json"))]
    };
    versions.iter().flat_map(links).collect()
}

/// Returns the name of that folder.
pub(crate) fn names_hash(versions: &BTreeMap<Version, StoreHash>) -> StoreHash {
    let lines: Vec<String> = versions.iter().map(|(version, hash)| format!("{version} {hash}\n")).collect();
    StoreHash::of(&lines.concat())
}

/// Returns the permission bits of an exported file.
pub(crate) fn mode_of(executable: bool, secret: bool) -> u32 {
    match (executable, secret) {
        (false, false) => 0o444,
        (true, false) => 0o555,
        (false, true) => 0o600,
        (true, true) => 0o700,
    }
}

/// Gives the entry `.new` its name in one step. With `exists`, an entry that has this name goes.
pub(crate) fn put(folder: &Folder, name: &str, exists: bool) -> io::Result<()> {
    if !exists {
        return folder.rename(NEW, folder, name);
    }
    folder.exchange(NEW, name)?;
    folder.remove(NEW)
}

/// Removes an entry. It loses its name first, so that a crash leaves no half of it under that name.
pub(crate) fn remove_whole(folder: &Folder, name: &str) -> io::Result<()> {
    if name.starts_with('.') {
        return folder.remove(name);
    }
    folder.remove(OLD)?;
    match folder.rename(name, folder, OLD) {
        Ok(()) => folder.remove(OLD),
        // A full disk refuses even the renaming. Then removing half of it is better than nothing.
        Err(_) => folder.remove(name),
    }
}

/// Names the folder of a former snapshot: `<sequence>.<number>`, with a higher number for a later
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Former {
    pub(crate) sequence: Sequence,
    pub(crate) number: u32,
}

impl Former {
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let (sequence, number) = name.split_once('.')?;
        Some(Former { sequence: sequence.parse().ok()?, number: number.parse().ok()? })
    }

    pub(crate) fn name(self) -> String {
        format!("{}.{}", self.sequence, self.number)
    }
}
