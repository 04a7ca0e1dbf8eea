//! One step that puts a new folder or link in place of what is at a path.
//!
//! A folder of the agent's own beside the path, which only its user can enter, holds the new entry
//! as `new` until it is complete and the journal knows it. Then it is `swap`, and after the
//! exchange that is the former entry. So after a crash `new` is the agent's alone, and of `swap`
//! goes what the journal lists.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    fs::{Entry, Folder, Mount, Owner},
    place::journal::PlacedFiles,
};

/// The new entry while it is made.
pub(crate) const NEW: &str = "new";
/// The entry that is exchanged.
const SWAP: &str = "swap";

/// A path whose entry is replaced in one step.
#[derive(Debug)]
pub(crate) struct Swap {
    path: PathBuf,
    parent: Folder,
    name: String,
    mount: Mount,
}

impl Swap {
    /// `parent` is the folder of `path`.
    pub(crate) fn at(path: &Path, parent: Folder) -> Result<Self, String> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let mount = parent.mount(".").map_err(|error| format!("{} cannot be inspected: {error}", path.display()))?;
        Ok(Swap { path: path.to_owned(), parent, name, mount })
    }

    fn beside(&self) -> String {
        format!(".{}.conf-local.d", self.name)
    }

    /// Removes what a crash has left. `placed` is what the journal lists.
    pub(crate) fn clear(&self, placed: &PlacedFiles) -> Result<(), String> {
        let failed = |error: io::Error| format!("the rest of an earlier step beside {}: {error}", self.path.display());
        if self.parent.entry(&self.beside()).map_err(failed)?.is_none() {
            return Ok(());
        }
        let beside = self.parent.enter(&self.beside()).map_err(failed)?;
        beside.remove(NEW).map_err(failed)?;
        if let Some(foreign) = self.remove_placed(&beside, placed).map_err(failed)? {
            let kept = self.path.with_file_name(self.beside()).join(SWAP);
            return Err(format!("{} holds {foreign}, which conf-local did not place; move it away", kept.display()));
        }
        self.parent.remove(&self.beside()).map_err(failed)
    }

    /// Creates the folder in which [`NEW`] is made.
    pub(crate) fn begin(&self) -> io::Result<Folder> {
        self.parent.make_owned(&self.beside(), 0o700, Owner::default())
    }

    /// Replaces what is at the path by `new`, in one step, and removes what was there. `placed` is
    /// what the journal lists for it. Without `new`, takes it away in one step.
    ///
    /// `link` is the target of a link that was there. When another program has put something into
    /// the former folder meanwhile, or something else in its place, that comes back.
    pub(crate) fn put(
        &self,
        beside: &Folder,
        is_new: bool,
        placed: &PlacedFiles,
        link: Option<&Path>,
    ) -> io::Result<()> {
        let was_there = self.parent.entry(&self.name)?.is_some();
        if is_new {
            beside.rename(NEW, beside, SWAP)?;
        }
        let exchange = || match (is_new, was_there) {
            (true, true) => beside.exchange_with(SWAP, &self.parent, &self.name),
            (true, false) => beside.rename_to_free(SWAP, &self.parent, &self.name),
            (false, true) => self.parent.rename_to_free(&self.name, beside, SWAP),
            (false, false) => Ok(()),
        };
        exchange().map_err(|error| self.refused(error))?;
        // A crash before this leaves either the former entry or the new one.
        self.parent.sync()?;
        beside.sync()?;
        if let Some(foreign) = self.foreign_swap(beside, placed, link)? {
            if is_new {
                beside.exchange_with(SWAP, &self.parent, &self.name)?;
            } else {
                beside.rename_to_free(SWAP, &self.parent, &self.name)?;
            }
            self.parent.sync()?;
            return Err(io::Error::other(format!("it {foreign}, which conf-local did not place")));
        }
        if let Some(foreign) = self.remove_placed(beside, placed)? {
            return Err(io::Error::other(format!("its former folder holds {foreign} now, and was kept")));
        }
        self.parent.remove(&self.beside())
    }

    /// Says what `swap` is or holds that conf-local did not place.
    fn foreign_swap(&self, beside: &Folder, placed: &PlacedFiles, link: Option<&Path>) -> io::Result<Option<String>> {
        match beside.entry(SWAP)? {
            None => Ok(None),
            Some(Entry::Folder) => {
                Ok(self.foreign_in(beside, SWAP, "", placed)?.map(|foreign| format!("holds {foreign}")))
            }
            Some(Entry::Link) => {
                let target = PathBuf::from(beside.read_link(SWAP)?);
                Ok((link != Some(&*target)).then(|| format!("is a link to {}", target.display())))
            }
            Some(_) => Ok(Some("is a file".to_owned())),
        }
    }

    /// Says why the system refuses an exchange.
    fn refused(&self, error: io::Error) -> io::Error {
        let why = match error.kind() {
            io::ErrorKind::CrossesDevices => {
                "the folder is on another file system, or in a lower layer of an overlay; use mode: copy, or remove the \
                 folder, so that conf-local makes it"
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => {
                "its file system cannot exchange folders; use mode: copy"
            }
            io::ErrorKind::ResourceBusy => "it is a mount; use mode: copy",
            _ => return error,
        };
        io::Error::new(error.kind(), format!("{}: {why}", self.path.display()))
    }

    /// Finds something in the entry `name` of `folder` that is not in `placed`: `at` is its path
    /// there.
    fn foreign_in(&self, folder: &Folder, name: &str, at: &str, placed: &PlacedFiles) -> io::Result<Option<String>> {
        if folder.entry(name)? != Some(Entry::Folder) {
            return Ok(None);
        }
        if folder.mount(name)? != self.mount {
            return Ok(Some(format!("a mount at {}", if at.is_empty() { "." } else { at })));
        }
        let here = folder.enter(name)?;
        for (name, kind) in here.entries()? {
            let path = inner(at, &name);
            let is_placed = match kind {
                Entry::Folder => placed.folders.contains(&path),
                Entry::File | Entry::Link => placed.files.contains(&path) && here.mount(&name)? == self.mount,
                Entry::Other => false,
            };
            if !is_placed {
                return Ok(Some(path));
            }
            if let Some(foreign) = self.foreign_in(&here, &name, &path, placed)? {
                return Ok(Some(foreign));
            }
        }
        Ok(None)
    }

    /// Finds something at the path that is not in `placed`.
    pub(crate) fn foreign(&self, placed: &PlacedFiles) -> io::Result<Option<String>> {
        self.foreign_in(&self.parent, &self.name, "", placed)
    }

    /// Removes `swap`, and of a folder only what is placed. Returns something else that is in it.
    fn remove_placed(&self, beside: &Folder, placed: &PlacedFiles) -> io::Result<Option<String>> {
        match beside.entry(SWAP)? {
            None => return Ok(None),
            Some(Entry::Folder) => {}
            // A link of conf-local's own.
            Some(Entry::Link) => {
                beside.remove_one(SWAP, false)?;
                return Ok(None);
            }
            Some(_) => return Ok(Some(SWAP.to_owned())),
        }
        if let Some(foreign) = self.foreign_in(beside, SWAP, "", placed)? {
            return Ok(Some(foreign));
        }
        let left = remove_known(&beside.enter(SWAP)?, "", placed)?;
        if left.is_some() {
            return Ok(left);
        }
        beside.remove_one(SWAP, true)?;
        Ok(None)
    }

    /// Makes the path a link, or nothing, where there is a link or nothing.
    pub(crate) fn point_to(&self, target: Option<&Path>) -> io::Result<()> {
        match target {
            None => self.parent.remove_one(&self.name, false)?,
            Some(target) => {
                let new = format!(".{}.conf-local", self.name);
                self.parent.remove_one(&new, false)?;
                self.parent.link(&new, &target.to_string_lossy())?;
                self.parent.rename(&new, &self.parent, &self.name)?;
            }
        }
        self.parent.sync()
    }

    /// Returns the kind of what is at the path.
    pub(crate) fn entry(&self) -> io::Result<Option<Entry>> {
        self.parent.entry(&self.name)
    }

    /// Returns the target of the link at the path.
    pub(crate) fn read_link(&self) -> io::Result<PathBuf> {
        Ok(PathBuf::from(self.parent.read_link(&self.name)?))
    }
}

/// Removes everything placed in a folder, whose path is `at`. Returns what came into it meanwhile.
fn remove_known(folder: &Folder, at: &str, placed: &PlacedFiles) -> io::Result<Option<String>> {
    for (name, kind) in folder.entries()? {
        let path = inner(at, &name);
        match kind {
            Entry::Folder if placed.folders.contains(&path) => {
                let left = remove_known(&folder.enter(&name)?, &path, placed)?;
                if left.is_some() {
                    return Ok(left);
                }
                folder.remove_one(&name, true)?;
            }
            Entry::File | Entry::Link if placed.files.contains(&path) => folder.remove_one(&name, false)?,
            _ => return Ok(Some(path)),
        }
    }
    Ok(None)
}

/// Returns the path of an entry of the folder at `at`.
fn inner(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_came_to_the_path_meanwhile_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app");
        let made: [(&dyn Fn(), &str); 2] = [
            (&|| symlink("/etc", &path).unwrap(), "is a link to /etc"),
            (&|| fs::write(&path, "theirs").unwrap(), "is a file"),
        ];
        for (make, words) in made {
            let placed = PlacedFiles::nothing(&"services/web".parse().unwrap());
            let swap = Swap::at(&path, Folder::existing(folder.path()).unwrap()).unwrap();
            let beside = swap.begin().unwrap();
            beside.make_owned(NEW, 0o755, Owner::default()).unwrap();
            make();
            let before = fs::symlink_metadata(&path).unwrap().file_type();
            let error = swap.put(&beside, true, &placed, Some(Path::new("/export/current"))).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert_eq!(fs::symlink_metadata(&path).unwrap().file_type(), before);
            swap.clear(&placed).unwrap();
            fs::remove_file(&path).unwrap();
        }
    }
}
