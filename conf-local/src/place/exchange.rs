//! Placing by exchange: a whole new folder is written beside the path, and exchanged with the one
//! that is there. The former one is never changed while it is there.

use std::{
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use crate::{
    export::MOST_FILE_BYTES,
    fs::{Entry, Folder, Owner, Unsynced, mount_of},
    place::{
        copy::{self, Wanted, enter, split},
        entry::PlaceEntry,
        journal::PlacedFiles,
        path::{self, NewFolder, Trusted},
        swap::{NEW, Swap},
    },
};

/// A folder that is written beside its path, or the way to take one away.
#[derive(Debug)]
pub(crate) struct StagedExchange {
    swap: Swap,
    /// `None` if only the journal is to be written.
    beside: Option<Folder>,
    is_new: bool,
    /// The target of the link that is at the path.
    link: Option<PathBuf>,
    pub(crate) after: PlacedFiles,
}

/// Opens the folder of an entry's path, and removes there what a crash has left. With `make`,
/// creates it; without, `None` means that it does not exist.
pub(crate) fn open(entry: &PlaceEntry, placed: &PlacedFiles, make: bool) -> Result<Option<Swap>, String> {
    let parent = entry.path.parent().unwrap_or(Path::new("/"));
    let new = NewFolder { mode: 0o755, owner: Owner::default() };
    let Some(parent) = path::open(parent, &Trusted::new(Owner::default()), make.then_some(new))? else {
        return Ok(None);
    };
    let swap = Swap::at(&entry.path, parent)?;
    swap.clear(placed)?;
    Ok(Some(swap))
}

/// Writes a folder with exactly `files` beside the entry's path. Without `files`, the placed folder
/// goes. `None` if nothing must change. Refuses a folder with more in it than conf-local placed,
/// and one that somebody mounts.
pub(crate) fn stage(
    entry: &PlaceEntry,
    export: &Path,
    files: Option<&Folder>,
    placed: &PlacedFiles,
) -> Result<Option<StagedExchange>, String> {
    let Some(swap) = open(entry, placed, files.is_some())? else { return Ok(None) };
    let kind = swap.entry().map_err(|error| failed(entry, &error))?;
    let mut link = None;
    match kind {
        None => {}
        Some(Entry::Link) => link = Some(own_link(entry, export, &swap)?),
        Some(Entry::Folder) => check_folder(entry, &swap, placed)?,
        Some(_) => return Err(format!("{} is in the way; move it away", entry.path.display())),
    }
    let nothing = PlacedFiles::nothing(&entry.component);
    let Some(files) = files else {
        if kind.is_none() || kind == Some(Entry::Folder) && *placed == nothing {
            return Ok(None);
        }
        let beside = swap.begin().map_err(|error| failed(entry, &error))?;
        return Ok(Some(StagedExchange { swap, beside: Some(beside), is_new: false, link, after: nothing }));
    };
    let wanted = copy::wanted(entry, files)?;
    let folders = wanted.keys().flat_map(|path| copy::ways(path)).map(str::to_owned).collect();
    let after = PlacedFiles { files: wanted.keys().cloned().collect(), folders, ..nothing };
    let holds_more = || swap.foreign(&after).map_err(|error| failed(entry, &error)).map(|foreign| foreign.is_some());
    if kind == Some(Entry::Folder) && copy::holds(entry, files, placed)? && !holds_more()? {
        let staged = StagedExchange { swap, beside: None, is_new: true, link, after };
        return Ok((staged.after != *placed).then_some(staged));
    }
    let written = swap.begin().and_then(|beside| {
        let written = write(entry, &beside, files, &wanted, &after);
        // If it cannot be removed now, the next attempt removes it.
        written.map(|()| beside).inspect_err(|_| drop(swap.clear(placed)))
    });
    let beside = written.map_err(|error| failed(entry, &error))?;
    Ok(Some(StagedExchange { swap, beside: Some(beside), is_new: true, link, after }))
}

/// True if a link into `export` is at the path, which an entry with `mode: copy` replaces by a
/// folder. Removes what a crash has left.
pub(crate) fn clear_and_find_link(entry: &PlaceEntry, export: &Path, placed: &PlacedFiles) -> Result<bool, String> {
    // Copying makes the folders that lead to the path, and says what is wrong with them.
    let Ok(Some(swap)) = open(entry, placed, false) else { return Ok(false) };
    let is_link = swap.entry().map_err(|error| failed(entry, &error))? == Some(Entry::Link);
    Ok(is_link && own_link(entry, export, &swap).is_ok())
}

fn failed(entry: &PlaceEntry, error: &io::Error) -> String {
    format!("a folder beside {}: {error}", entry.path.display())
}

/// Returns the target of the link at an entry's path. Refuses one that conf-local did not make.
pub(crate) fn own_link(entry: &PlaceEntry, export: &Path, swap: &Swap) -> Result<PathBuf, String> {
    let shown = entry.path.display();
    let target = swap.read_link().map_err(|error| format!("{shown} cannot be inspected: {error}"))?;
    if !target.starts_with(export) {
        let target = target.display();
        return Err(format!("{shown} is a link to {target}, which conf-local did not make; take it away"));
    }
    Ok(target)
}

/// Refuses a folder that cannot be exchanged: with more in it than conf-local placed, or mounted
/// anywhere.
pub(crate) fn check_folder(entry: &PlaceEntry, swap: &Swap, placed: &PlacedFiles) -> Result<(), String> {
    let shown = entry.path.display();
    if let Some(foreign) = swap.foreign(placed).map_err(|error| failed(entry, &error))? {
        return Err(format!(
            "{shown} holds {foreign}, which conf-local did not place; move it away, or let the folder stay and its files \
             change (mode: copy)"
        ));
    }
    let trusted = Trusted::new(Owner { user: entry.owner, group: entry.group });
    let Some(folder) = path::open(&entry.path, &trusted, None)? else { return Ok(()) };
    match mount_of(&entry.path, &folder) {
        Ok(None) => Ok(()),
        Ok(Some(how)) => Err(format!("{shown} cannot be exchanged while {how}; let its files change (mode: copy)")),
        Err(error) => Err(format!("the mounts of {shown} cannot be read: {error}")),
    }
}

/// Writes the folder, with its owner and modes, and makes it durable.
fn write(
    entry: &PlaceEntry,
    beside: &Folder,
    files: &Folder,
    wanted: &std::collections::BTreeMap<String, Wanted>,
    after: &PlacedFiles,
) -> io::Result<()> {
    let NewFolder { mode, owner } = copy::new_folder(entry);
    let root = beside.make_owned(NEW, mode, owner)?;
    let mut unsynced = Unsynced::default();
    // Each folder comes before what is in it.
    for path in &after.folders {
        let (above, name) = split(path);
        enter(&root, above)?.make_owned(name, mode, owner)?;
    }
    for (path, wanted) in wanted {
        let (above, name) = split(path);
        let folder = enter(&root, above)?;
        match wanted {
            Wanted::File { mode } => {
                let (bytes, _) = files.read(path, MOST_FILE_BYTES)?;
                unsynced.add(folder.write_owned(name, &bytes, *mode, owner)?);
            }
            Wanted::Link(target) => {
                folder.link(name, target)?;
                folder.own_link(name, owner)?;
            }
        }
    }
    for path in &after.folders {
        unsynced.add(enter(&root, path)?);
    }
    unsynced.flush(&[root.as_fd()])?;
    root.sync()?;
    beside.sync()
}

impl StagedExchange {
    /// Returns everything that may be placed until `put` ends.
    pub(crate) fn meanwhile(&self, before: &PlacedFiles) -> PlacedFiles {
        let mut both = self.after.clone();
        both.files.extend(before.files.iter().cloned());
        both.folders.extend(before.folders.iter().cloned());
        both
    }

    /// Exchanges the folders, and removes the former one. A crash leaves either of them at the
    /// path, whole.
    pub(crate) fn put(self, before: &PlacedFiles) -> io::Result<()> {
        self.beside.map_or(Ok(()), |beside| self.swap.put(&beside, self.is_new, before, self.link.as_deref()))
    }
}

/// Lists the paths that hold something else than they should. Writes nothing.
pub(crate) fn differing(
    entry: &PlaceEntry,
    files: Option<&Folder>,
    placed: &PlacedFiles,
) -> Result<Vec<String>, String> {
    let mut differing = copy::differing(entry, files, placed)?;
    let parent = entry.path.parent().unwrap_or(Path::new("/"));
    if let Some(parent) = path::open(parent, &Trusted::new(Owner::default()), None)? {
        let foreign = Swap::at(&entry.path, parent)?.foreign(placed).map_err(|error| failed(entry, &error))?;
        differing.extend(foreign.map(|path| entry.path.join(path).display().to_string()));
    }
    if let Some(files) = files
        && differing.is_empty()
        && !copy::holds(entry, files, placed)?
    {
        differing.push(entry.path.display().to_string());
    }
    Ok(differing)
}
