//! Placing by link: the path is one link into the export, so that its program sees every switch as
//! a whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    fs::Entry,
    place::{
        entry::PlaceEntry,
        exchange,
        journal::PlacedFiles,
        swap::{NEW, Swap},
    },
};

/// A path with a link, or for one.
#[derive(Debug)]
pub(crate) struct PlaceLink {
    swap: Swap,
    /// The target that it has now.
    target: Option<PathBuf>,
    /// A folder that conf-local placed is there: its files.
    former: Option<PlacedFiles>,
}

/// Tells whether the path is a link to `target`; for `None`, whether nothing is there. Writes
/// nothing.
pub(crate) fn leads_to(entry: &PlaceEntry, target: Option<&Path>) -> Result<bool, String> {
    match fs::read_link(&entry.path) {
        Ok(found) => Ok(target == Some(&*found)),
        // It is no link.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(target.is_none())
        }
        Err(error) => Err(format!("{} cannot be inspected: {error}", entry.path.display())),
    }
}

/// Opens the folder of a path. Refuses an entry there that does not lead into `export` and that
/// conf-local did not place.
pub(crate) fn open(entry: &PlaceEntry, export: &Path, placed: &PlacedFiles) -> Result<PlaceLink, String> {
    let shown = entry.path.display();
    let swap = exchange::open(entry, placed, true)?.ok_or_else(|| format!("{shown} has no folder"))?;
    let (mut target, mut former) = (None, None);
    match swap.entry().map_err(|error| format!("{shown} cannot be inspected: {error}"))? {
        None => {}
        Some(Entry::Link) => target = Some(exchange::own_link(entry, export, &swap)?),
        Some(Entry::Folder) if *placed != PlacedFiles::nothing(&entry.component) => {
            exchange::check_folder(entry, &swap, placed)?;
            former = Some(placed.clone());
        }
        Some(Entry::Folder) => {
            return Err(format!("{shown} is a folder; move it away, or place by copy (mode: copy)"));
        }
        Some(_) => return Err(format!("{shown} is in the way; move it away")),
    }
    Ok(PlaceLink { swap, target, former })
}

impl PlaceLink {
    /// True if it leads to `target`; for `None`, if there is no link.
    pub(crate) fn leads_to(&self, target: Option<&Path>) -> bool {
        self.target.as_deref() == target && self.former.is_none()
    }

    /// Points it to `target` in one step, or removes it.
    pub(crate) fn point_to(&mut self, target: Option<&Path>) -> io::Result<()> {
        if self.leads_to(target) {
            return Ok(());
        }
        if let Some(former) = self.former.take() {
            let beside = self.swap.begin()?;
            if let Some(target) = target {
                beside.link(NEW, &target.to_string_lossy())?;
            }
            self.swap.put(&beside, target.is_some(), &former, None)?;
        } else {
            self.swap.point_to(target)?;
        }
        self.target = target.map(Path::to_owned);
        Ok(())
    }
}
