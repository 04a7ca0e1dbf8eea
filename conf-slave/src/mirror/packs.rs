//! The packs of the repository, as they were at the last look.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use conf_core::git::{self, LooseObjects};

/// What the system says of a file: inode, size, and the times of the last changes.
type Told = (u64, u64, (i64, i64), (i64, i64));

/// The packs at the last look. Programs of this daemon add packs. Whoever removes some, or has read
/// them all, clears this.
#[derive(Debug, Default)]
pub(crate) struct SeenPacks {
    seen: BTreeMap<PathBuf, Told>,
    /// A program of this daemon removes packs just now.
    is_packing: bool,
    loose: LooseObjects,
}

impl SeenPacks {
    /// Says which pack was changed or removed since the last look.
    pub(crate) fn look(&mut self, repo: &Path) -> Result<(), String> {
        if self.is_packing {
            return Ok(());
        }
        let now = packs(repo).map_err(|error| format!("its packs cannot be listed: {error}"))?;
        if let Some(pack) = self.seen.iter().find(|(pack, told)| now.get(*pack) != Some(told)).map(|(pack, _)| pack) {
            return Err(format!("{} was changed or removed", pack.display()));
        }
        self.seen = now;
        Ok(())
    }

    /// Sets loose objects aside that were cut short, and says so: libgit2 would read them without
    /// end.
    pub(crate) fn set_cut_aside(&mut self, repo: &Path) -> Result<(), String> {
        match self.loose.set_cut_aside(repo) {
            Ok(cut) if !cut.is_empty() => Err(format!("the file of the object {} was cut short", cut[0])),
            _ => Ok(()),
        }
    }

    /// Holds the looks until the next [`SeenPacks::clear`].
    pub(crate) fn hold(&mut self) {
        self.is_packing = true;
    }

    pub(crate) fn clear(&mut self) {
        (self.seen, self.is_packing) = (BTreeMap::new(), false);
    }
}

fn packs(repo: &Path) -> io::Result<BTreeMap<PathBuf, Told>> {
    let mut found = BTreeMap::new();
    for (pack, _) in git::packs(repo)? {
        for file in [pack.with_extension("idx"), pack] {
            let Ok(about) = fs::symlink_metadata(&file) else { continue };
            let times = ((about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec()));
            found.insert(file, (about.ino(), about.len(), times.0, times.1));
        }
    }
    Ok(found)
}
