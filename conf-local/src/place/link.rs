//! Placing by link: the path is one link into the export, so that its program sees every switch as
//! a whole.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    fs::{Entry, Folder, Owner},
    place::{
        entry::PlaceEntry,
        path::{self, NewFolder, Trusted},
    },
};

/// A path with a link, or for one.
#[derive(Debug)]
pub(crate) struct PlaceLink {
    parent: Folder,
    name: String,
    /// The target that it has now.
    target: Option<PathBuf>,
}

/// Opens the folder of a path. Refuses an entry there that does not lead into `export`.
pub(crate) fn open(entry: &PlaceEntry, export: &Path) -> Result<PlaceLink, String> {
    let shown = entry.path.display();
    let failed = |error: io::Error| format!("{shown} cannot be inspected: {error}");
    let parent = entry.path.parent().unwrap_or(Path::new("/"));
    let name = entry.path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let new = NewFolder { mode: 0o755, owner: Owner::default() };
    let parent = path::open(parent, &Trusted::new(Owner::default()), Some(new))?
        .ok_or_else(|| format!("{} does not exist", parent.display()))?;
    let target = match parent.entry(&name).map_err(failed)? {
        None => None,
        Some(Entry::Link) => {
            let target = PathBuf::from(parent.read_link(&name).map_err(failed)?);
            if !target.starts_with(export) {
                let target = target.display();
                return Err(format!("{shown} is a link to {target}, which conf-local did not make; take it away"));
            }
            Some(target)
        }
        Some(Entry::Folder) => {
            return Err(format!("{shown} is a folder; move it away, or place by copy (mode: copy)"));
        }
        Some(_) => return Err(format!("{shown} is in the way; move it away")),
    };
    Ok(PlaceLink { parent, name, target })
}

impl PlaceLink {
    /// True if it leads to `target`; for `None`, if there is no link.
    pub(crate) fn leads_to(&self, target: Option<&Path>) -> bool {
        self.target.as_deref() == target
    }

    /// Points it to `target` in one step, or removes it.
    pub(crate) fn point_to(&mut self, target: Option<&Path>) -> io::Result<()> {
        if self.leads_to(target) {
            return Ok(());
        }
        match target {
            None => self.parent.remove_one(&self.name, false)?,
            Some(target) => {
                let new = format!(".{}.conf-local", self.name);
                self.parent.remove_one(&new, false)?;
                self.parent.link(&new, &target.to_string_lossy())?;
                self.parent.rename(&new, &self.parent, &self.name)?;
            }
        }
        self.target = target.map(Path::to_owned);
        self.parent.sync()
    }
}
