//! Objects that are held in memory over the repository, until a change lands.

use std::{cell::Cell, path::Path};

use git2::{Oid, Repository};

/// How many bytes one scratch may hold before another one takes its place.
const SCRATCH_BYTES: usize = 16 << 20;

/// Objects that are held in memory over a repository.
pub(crate) struct Scratch {
    /// The repository with the objects of the scratch over it.
    pub(crate) repo: Repository,
    /// About how many bytes the scratch holds.
    bytes: Cell<usize>,
}

impl Scratch {
    /// Opens a scratch over the repository at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, git2::Error> {
        let repo = Repository::open_bare(path)?;
        // Its priority is above all other stores, so that everything is written here.
        repo.odb()?.add_new_mempack_backend(1000)?;
        Ok(Scratch { repo, bytes: Cell::new(0) })
    }

    /// Tells whether the scratch holds so much that a new one is due.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.get() > SCRATCH_BYTES
    }

    /// Counts bytes that were written.
    pub(crate) fn count(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// Copies objects into the repository itself.
    pub(crate) fn keep(&self, objects: &[Oid], repo: &Repository) -> Result<(), git2::Error> {
        let (from, to) = (self.repo.odb()?, repo.odb()?);
        for id in objects {
            let object = from.read(*id)?;
            to.write(object.kind(), object.data())?;
        }
        Ok(())
    }
}
