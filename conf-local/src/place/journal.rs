//! What was placed, on disk: only what stands here is ever removed or replaced as ours.
//!
//! `placed.json`: `{"format": 1, "placed": {path: {"component", "files": [path], "folders": [path]}}}`. A name stands here before
//! it is made, so that after a crash nothing of ours is taken for somebody else's. A reader that meets a higher format, or
//! cannot read it, takes nothing for ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use libconf::name::ComponentSelector;
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;

/// What is ours at one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ours {
    /// What was placed.
    pub(crate) component: ComponentSelector,
    /// Files and links, relative to the path.
    pub(crate) files: BTreeSet<String>,
    /// Folders that were made, relative to the path.
    pub(crate) folders: BTreeSet<String>,
}

impl Ours {
    pub(crate) fn nothing(component: &ComponentSelector) -> Self {
        Ours { component: component.clone(), files: BTreeSet::new(), folders: BTreeSet::new() }
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    placed: BTreeMap<PathBuf, Ours>,
}

/// The file.
#[derive(Debug)]
pub(crate) struct Journal {
    file: PathBuf,
    placed: BTreeMap<PathBuf, Ours>,
}

impl Journal {
    pub(crate) fn open(state: &Path) -> Self {
        let file = state.join("placed.json");
        let placed = match fs::read(&file) {
            Ok(text) => serde_json::from_slice::<Kept>(&text).ok().filter(|kept| kept.format == FORMAT),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Some(Kept { format: FORMAT, placed: BTreeMap::new() })
            }
            Err(_) => None,
        };
        let kept = placed.unwrap_or_else(|| {
            let path = file.display();
            tracing::warn!(%path, "the journal of placed files cannot be read; what was placed before is not removed");
            Kept { format: FORMAT, placed: BTreeMap::new() }
        });
        Journal { file, placed: kept.placed }
    }

    /// What is ours at a path.
    pub(crate) fn at(&self, path: &Path) -> Option<&Ours> {
        self.placed.get(path)
    }

    /// Every path with something of ours.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.placed.keys()
    }

    /// Sets what is ours at a path; nothing at all is left out. `durable` when something is made only after it: then a
    /// power cut does not bring back the set before.
    pub(crate) fn set(&mut self, path: &Path, ours: Ours, durable: bool) -> io::Result<()> {
        let mut next = self.placed.clone();
        if ours.files.is_empty() && ours.folders.is_empty() {
            next.remove(path);
        } else {
            next.insert(path.to_owned(), ours);
        }
        if next == self.placed {
            return Ok(());
        }
        self.write(&next, durable)?;
        self.placed = next;
        Ok(())
    }

    /// Somebody else's from now on.
    pub(crate) fn forget(&mut self, path: &Path) -> io::Result<()> {
        let mut next = self.placed.clone();
        next.remove(path);
        self.write(&next, false)?;
        self.placed = next;
        Ok(())
    }

    fn write(&self, placed: &BTreeMap<PathBuf, Ours>, durable: bool) -> io::Result<()> {
        let new = self.file.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&Kept { format: FORMAT, placed: placed.clone() })?)?;
        // Whole also after a power cut, or nothing of before were known as ours.
        file.sync_all()?;
        fs::rename(&new, &self.file)?;
        match self.file.parent() {
            Some(folder) if durable => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    }
}
