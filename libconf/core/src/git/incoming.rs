//! A pack that arrives, until it is complete: a small one in memory, the others by libgit2's
//! indexer.

use std::{fs, io::Write as _, path::Path};

use git2::{Indexer, ObjectType, Odb};
use libconf::name::CommitId;
use tempfile::TempDir;

use crate::git::{
    small_pack::{self, SmallPack},
    store_error::StoreError,
};

/// A pack while it arrives.
pub(crate) struct Incoming<'o> {
    odb: &'o Odb<'o>,
    objects: &'o Path,
    /// All that has come while that is little.
    first: Vec<u8>,
    indexer: Option<(TempDir, Indexer<'o>)>,
}

/// A pack that has arrived, complete, and that nobody sees yet.
pub(crate) enum Arrived {
    /// It has no object.
    Nothing,
    Small(SmallPack),
    /// Pack and index lie in the folder, which is laid out as that of a repository's objects, named
    /// by this.
    Staged(TempDir, String),
}

impl<'o> Incoming<'o> {
    /// Nothing has come yet. `objects` is the folder of the repository's objects.
    pub(crate) fn new(odb: &'o Odb<'o>, objects: &'o Path) -> Self {
        Incoming { odb, objects, first: Vec::new(), indexer: None }
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if let Some((_, indexer)) = &mut self.indexer {
            return indexer.write_all(bytes).map_err(|error| StoreError::of_indexer(&error));
        }
        if !self.is_empty() {
            self.first.extend_from_slice(bytes);
        }
        if self.first.len() > small_pack::MOST_BYTES { self.index_all() } else { Ok(()) }
    }

    /// True for the header of a pack without objects. The indexer refuses one.
    fn is_empty(&self) -> bool {
        self.first.starts_with(b"PACK") && self.first.get(8..12) == Some(&[0; 4])
    }

    /// Gives what has come so far to the indexer, which completes a thin pack with its bases.
    fn index_all(&mut self) -> Result<(), StoreError> {
        // The next start removes it, if this program is killed.
        let staging = tempfile::Builder::new().prefix("tmp_pack_").tempdir_in(self.objects)?;
        // The caller's check looks at the objects afterwards, together with those that were here
        // before: the indexer's own check would ask for the parents of a shallow commit.
        let packs = staging.path().join("pack");
        fs::create_dir(&packs)?;
        let indexer = Indexer::new(Some(self.odb), &packs, 0, false)?;
        let (_, indexer) = self.indexer.insert((staging, indexer));
        indexer.write_all(&self.first).map_err(|error| StoreError::of_indexer(&error))?;
        self.first = Vec::new();
        Ok(())
    }

    /// Completes the pack.
    pub(crate) fn end(mut self) -> Result<Arrived, StoreError> {
        if self.indexer.is_none() {
            match self.first.len() {
                _ if self.is_empty() => return Ok(Arrived::Nothing),
                0..12 => return Err(StoreError::BrokenOff),
                _ => {}
            }
            let odb = self.odb;
            if let Some(pack) = SmallPack::read(&self.first, |id| small_pack::content(odb, id)) {
                return Ok(Arrived::Small(pack));
            }
            self.index_all()?;
        }
        let (staging, indexer) = self.indexer.ok_or(StoreError::BrokenOff)?;
        Ok(Arrived::Staged(staging, indexer.commit()?))
    }
}

impl Arrived {
    /// Returns the bytes of a commit that has arrived, or was here before.
    pub(crate) fn commit(&self, here: &Odb<'_>, commit: CommitId) -> Option<Vec<u8>> {
        let read = |odb: &Odb<'_>| {
            let object = odb.read(commit.into()).ok().filter(|object| object.kind() == ObjectType::Commit)?;
            Some(object.data().to_vec())
        };
        let new = match self {
            Arrived::Nothing => None,
            Arrived::Small(pack) => {
                let found = pack.objects().get(&commit.into()).filter(|(kind, _)| *kind == ObjectType::Commit);
                found.map(|(_, bytes)| bytes.clone())
            }
            Arrived::Staged(staging, _) => {
                let new = Odb::new().ok()?;
                new.add_disk_alternate(&staging.path().to_string_lossy()).ok()?;
                read(&new)
            }
        };
        new.or_else(|| read(here))
    }
}
