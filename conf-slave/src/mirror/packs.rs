//! The packs and the packed refs of the repository, as they were at the last look.

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
    /// The file of packed refs when it was last read whole.
    refs: Option<Told>,
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

    /// Reads the file of packed refs by `read`, if it is not as it was when that was last done
    /// well.
    pub(crate) fn look_at_refs<E>(&mut self, repo: &Path, read: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        // Zeros for a file that does not exist.
        let now = tell(&repo.join("packed-refs")).unwrap_or_default();
        if self.refs != Some(now) {
            read()?;
            self.refs = Some(now);
        }
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
        (self.seen, self.refs, self.is_packing) = (BTreeMap::new(), None, false);
    }
}

fn packs(repo: &Path) -> io::Result<BTreeMap<PathBuf, Told>> {
    let mut found = BTreeMap::new();
    for (pack, _) in git::packs(repo)? {
        for file in [pack.with_extension("idx"), pack] {
            if let Some(told) = tell(&file) {
                found.insert(file, told);
            }
        }
    }
    Ok(found)
}

fn tell(file: &Path) -> Option<Told> {
    let about = fs::symlink_metadata(file).ok()?;
    Some((about.ino(), about.len(), (about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_refs_are_read_when_their_file_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let (file, mut seen) = (folder.path().join("packed-refs"), SeenPacks::default());
        let mut is_read = |well: bool| {
            let mut was_read = false;
            let read = || {
                was_read = true;
                if well { Ok(()) } else { Err(()) }
            };
            (seen.look_at_refs(folder.path(), read).is_ok(), was_read)
        };
        assert_eq!([is_read(true), is_read(true)], [(true, true), (true, false)], "there is no such file");
        fs::write(&file, "one").unwrap();
        assert_eq!([is_read(false), is_read(true)], [(false, true), (true, true)], "the first reading failed");
        assert_eq!(is_read(true), (true, false));
        fs::write(&file, "other").unwrap();
        assert_eq!(is_read(true), (true, true));
    }
}
