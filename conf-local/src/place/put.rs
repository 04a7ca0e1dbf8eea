//! The second half of placing by copy: programs see the staged files.

use std::{collections::BTreeSet, io};

use crate::{
    fs::Entry,
    place::{
        copy::{CopyPlan, StagedCopy, clear_staging, enter, split},
        journal::PlacedFiles,
    },
};

impl StagedCopy {
    /// Returns everything that may be placed until `put` ends.
    pub(crate) fn meanwhile(&self, before: &PlacedFiles) -> PlacedFiles {
        let mut both = self.plan.after.clone();
        both.files.extend(before.files.iter().cloned());
        both.folders.extend(before.folders.iter().cloned());
        both
    }

    /// Lets programs see the staged files. A crash leaves whole files, some of which are the
    /// earlier ones.
    pub(crate) fn put(self) -> io::Result<()> {
        let StagedCopy { root, new_folder, plan, staging } = self;
        let CopyPlan { changed, remove_first, remove_last, make, mend, unmake, .. } = plan;
        let mut touched: BTreeSet<&str> = BTreeSet::new();
        // The deepest first, so that a folder is empty when its turn comes.
        for path in remove_first.iter().rev() {
            let (above, name) = split(path);
            let parent = enter(&root, above)?;
            let kind = parent.entry(name)?;
            parent.remove_one(name, kind == Some(Entry::Folder))?;
            touched.insert(above);
        }
        for path in &mend {
            enter(&root, path)?.own(new_folder.mode, new_folder.owner)?;
            touched.insert(path);
        }
        for path in &make {
            let (above, name) = split(path);
            enter(&root, above)?.make_owned(name, new_folder.mode, new_folder.owner)?;
            touched.extend([above, path]);
        }
        for (number, path) in changed.iter().enumerate() {
            let Some(staging) = &staging else { break };
            let (above, name) = split(path);
            staging.rename(&number.to_string(), &enter(&root, above)?, name)?;
            touched.insert(above);
        }
        for path in &remove_last {
            let (above, name) = split(path);
            // An entry of another kind is not the placed one: another program has replaced it.
            let Ok(parent) = enter(&root, above) else { continue };
            if matches!(parent.entry(name)?, Some(Entry::File | Entry::Link)) {
                match parent.remove_one(name, false) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                    other => other?,
                }
                touched.insert(above);
            }
        }
        for path in unmake.iter().rev().filter(|path| !remove_first.contains(*path)) {
            let (above, name) = split(path);
            let Ok(parent) = enter(&root, above) else { continue };
            match parent.remove_one(name, true) {
                Ok(()) => drop(touched.insert(above)),
                // Another program has files in it, or has replaced it: it is no placed folder any
                // more.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory | io::ErrorKind::ResourceBusy
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        for path in touched.into_iter().filter(|path| !unmake.contains(*path)) {
            enter(&root, path)?.sync()?;
        }
        clear_staging(&root)
    }
}
