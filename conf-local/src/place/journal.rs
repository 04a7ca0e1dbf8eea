//! The journal of placed files: only what it lists is ever removed or replaced.
//!
//! `placed.json`: `{"format": 1, "placed": {path: {"component", "files": [path], "folders":
//! [path]}}}`. A name is written here before it is made, so that after a crash the agent still
//! knows its own files. If the agent cannot read the journal, it counts nothing as placed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use conf_core::git::Durability;
use libconf::name::ComponentSelector;
use serde::{Deserialize, Serialize};

use crate::fs::{read_state, replace_state};

/// Everything that is placed at one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlacedFiles {
    pub(crate) component: ComponentSelector,
    /// Files and links, relative to the path.
    pub(crate) files: BTreeSet<String>,
    /// Folders that were made, relative to the path.
    pub(crate) folders: BTreeSet<String>,
}

impl PlacedFiles {
    pub(crate) fn nothing(component: &ComponentSelector) -> Self {
        PlacedFiles { component: component.clone(), files: BTreeSet::new(), folders: BTreeSet::new() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Content {
    placed: BTreeMap<PathBuf, PlacedFiles>,
}

/// The journal, as it is on disk.
#[derive(Debug)]
pub(crate) struct Journal {
    file: PathBuf,
    content: Content,
}

impl Journal {
    pub(crate) fn open(state: &Path) -> Self {
        let file = state.join("placed.json");
        let content = read_state(&file).unwrap_or_else(|error| {
            let path = file.display();
            tracing::warn!(%path, %error, "the journal of placed files cannot be read; files placed before are not removed");
            Content::default()
        });
        Journal { file, content }
    }

    /// Returns what is placed at a path.
    pub(crate) fn at(&self, path: &Path) -> Option<&PlacedFiles> {
        self.content.placed.get(path)
    }

    /// Lists every path at which something is placed.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.content.placed.keys()
    }

    /// Sets what is placed at a path. `durability` is `Full` before a file is made: then a power
    /// cut does not bring back the list before. It is at least `Content`: without a whole journal
    /// no file would be known.
    pub(crate) fn set(&mut self, path: &Path, placed: PlacedFiles, durability: Durability) -> io::Result<()> {
        let mut next = self.content.clone();
        if placed.files.is_empty() && placed.folders.is_empty() {
            next.placed.remove(path);
        } else {
            next.placed.insert(path.to_owned(), placed);
        }
        self.write(next, durability)
    }

    /// Forgets a path: its files are not the agent's any more.
    pub(crate) fn forget(&mut self, path: &Path) -> io::Result<()> {
        let mut next = self.content.clone();
        next.placed.remove(path);
        self.write(next, Durability::Content)
    }

    /// Returns the path of the file if somebody has removed it.
    pub(crate) fn gone(&self) -> Option<PathBuf> {
        (!self.content.placed.is_empty() && !self.file.exists()).then(|| self.file.clone())
    }

    /// Writes the file again if somebody has removed it.
    pub(crate) fn keep(&self) -> io::Result<()> {
        if self.gone().is_none() {
            return Ok(());
        }
        replace_state(&self.file, &self.content, Durability::Full)
    }

    fn write(&mut self, next: Content, durability: Durability) -> io::Result<()> {
        if next != self.content {
            replace_state(&self.file, &next, durability)?;
            self.content = next;
        }
        Ok(())
    }
}
