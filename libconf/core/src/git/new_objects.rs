//! New objects: held in memory over a repository, and written together.
//!
//! A file for each object costs a new inode, 70 to 250 microseconds; in a pack an object costs less
//! than ten.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use flate2::Compression;
use git2::{Indexer, ObjectType, Oid, Repository};
use tempfile::TempDir;

use crate::git::pack::{Deflater, PackBytes};

/// About how many bytes are held before all are let go.
const MOST_BYTES: usize = 16 << 20;

/// So many objects are written as files of their own: a pack for each small change would make too
/// many packs.
const MOST_LOOSE: usize = 64;

/// Where new objects are written.
pub trait ObjectStore {
    /// The repository to write them into, and in which they are read.
    fn repo(&self) -> &Repository;

    /// Notes that an object is needed: the repository alone may hold it in memory. It has been
    /// written already.
    fn keep(&self, id: Oid);
}

/// In the repository itself nothing is lost.
impl ObjectStore for Repository {
    fn repo(&self) -> &Repository {
        self
    }

    fn keep(&self, _: Oid) {}
}

/// Objects in memory over a repository. What is kept is written by [`NewObjects::write`]; the rest
/// never reaches the disk.
pub struct NewObjects {
    path: PathBuf,
    /// The repository with the objects in memory over it.
    repo: Repository,
    /// Keeps libgit2 from listing the packs; `None` where it could not be made.
    gate: Option<Gate>,
    kept: RefCell<Vec<Oid>>,
    /// The objects that are kept, or were and are written.
    known: RefCell<HashSet<Oid>>,
    /// About how many bytes are in memory.
    bytes: Cell<usize>,
    deflater: RefCell<Deflater>,
}

impl ObjectStore for NewObjects {
    fn repo(&self) -> &Repository {
        &self.repo
    }

    fn keep(&self, id: Oid) {
        if self.known.borrow_mut().insert(id) {
            self.kept.borrow_mut().push(id);
            // The larger ones are trees and settings.
            self.count(1024);
        }
    }
}

impl NewObjects {
    /// Opens the repository at `path`, with no object in memory.
    pub fn over(path: &Path) -> Result<Self, git2::Error> {
        let repo = Repository::open_bare(path)?;
        // Its priority is above all other stores, so that everything is written here.
        repo.odb()?.add_new_mempack_backend(1000)?;
        // Without it the same is done, in more time.
        let gate = Gate::before(&repo, path).ok();
        let (kept, known) = (RefCell::default(), RefCell::default());
        let deflater = RefCell::new(Deflater::new(Compression::fast()));
        Ok(NewObjects { path: path.to_owned(), repo, gate, kept, known, bytes: Cell::new(0), deflater })
    }

    /// Lists the packs anew: those that came since are seen from now on.
    pub fn refresh(&self) -> Result<(), WriteError> {
        if let Some(gate) = &self.gate {
            gate.open()?;
        }
        let listed = self.repo.odb().and_then(|odb| odb.refresh());
        if let Some(gate) = &self.gate {
            gate.shut()?;
        }
        Ok(listed?)
    }

    /// Tells whether so much is in memory that it should be opened anew, after a write.
    pub fn is_full(&self) -> bool {
        self.bytes.get() > MOST_BYTES
    }

    /// Tells whether nothing waits to be written.
    pub fn is_written(&self) -> bool {
        self.kept.borrow().is_empty()
    }

    /// Counts bytes that were written into memory.
    pub fn count(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// Writes what is kept into the repository: few objects as files of their own, many as one
    /// pack. Durable with the next sync of the file system.
    pub fn write(&self) -> Result<(), WriteError> {
        let kept = self.kept.take();
        let odb = self.repo.odb()?;
        if kept.len() <= MOST_LOOSE {
            for id in kept {
                let object = odb.read(id)?;
                self.write_loose(id, object.kind(), object.data())?;
            }
            return Ok(());
        }
        let mut pack = PackBytes::new(kept.len(), Compression::fast());
        for id in &kept {
            let object = odb.read(*id)?;
            pack.whole(object.kind(), object.data());
        }
        self.install(&pack.finish())
    }

    /// Writes an object as a file of its own. libgit2 would look through all packs first, once more
    /// after it has listed them anew.
    fn write_loose(&self, id: Oid, kind: ObjectType, data: &[u8]) -> io::Result<()> {
        let id = id.to_string();
        let folder = self.path.join("objects").join(&id[..2]);
        let file = folder.join(&id[2..]);
        let mut bytes = Vec::new();
        let whole = [format!("{} {}\0", kind.str(), data.len()).as_bytes(), data].concat();
        self.deflater.borrow_mut().append(&whole, &mut bytes);
        // The next start removes it, if this program is killed.
        let staged = folder.join(format!("tmp_obj_{id}"));
        let open = || OpenOptions::new().write(true).create_new(true).mode(0o444).open(&staged);
        let mut staged_file = match open() {
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&folder)?;
                open()?
            }
            // An earlier attempt left it. It cannot be written to: nobody may write what is
            // read-only, unless he is root.
            Err(left) if left.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&staged)?;
                open()?
            }
            opened => opened?,
        };
        // One that is there has the same content.
        let written = staged_file.write_all(&bytes).and_then(|()| fs::rename(&staged, &file));
        if written.is_err() {
            // Best effort: what fills the disk must not stay.
            let _ = fs::remove_file(&staged);
        }
        written
    }

    /// Puts a pack to where Git reads it, with its index.
    fn install(&self, pack: &[u8]) -> Result<(), WriteError> {
        let objects = self.path.join("objects");
        // The next start removes it, if this program is killed.
        let staging = tempfile::Builder::new().prefix("tmp_pack_").tempdir_in(&objects)?;
        let mut indexer = Indexer::new(None, staging.path(), 0, false)?;
        indexer.write_all(pack)?;
        let name = indexer.commit()?;
        let folder = objects.join("pack");
        fs::create_dir_all(&folder)?;
        // A power cut may keep the names without the content, and `git repack` fails then.
        for ending in ["pack", "idx"] {
            File::open(staging.path().join(format!("pack-{name}.{ending}")))?.sync_all()?;
        }
        // Git does not see a pack without an index; an index without its pack is an error.
        for ending in ["pack", "idx"] {
            let file = format!("pack-{name}.{ending}");
            fs::rename(staging.path().join(&file), folder.join(&file))?;
        }
        Ok(())
    }
}

/// Stands before the packs when libgit2 looks for changes.
///
/// It looks before each object that it writes: it lists the folder of packs, and that took two
/// thirds of the system calls of an update. It asks its stores in order and stops at the first
/// error, and then takes the object for a new one. This is a store before the packs, whose own
/// folder of packs is gone.
struct Gate(TempDir);

impl Gate {
    fn before(repo: &Repository, path: &Path) -> Result<Self, WriteError> {
        // The next start removes it, if this program is killed.
        let gate = Gate(tempfile::Builder::new().prefix("tmp_pack_gate_").tempdir_in(path.join("objects"))?);
        gate.open()?;
        // Of two stores of packs libgit2 asks an alternate one first.
        repo.odb()?.add_disk_alternate(&gate.0.path().to_string_lossy())?;
        gate.shut()?;
        Ok(gate)
    }

    fn packs(&self) -> PathBuf {
        self.0.path().join("pack")
    }

    fn open(&self) -> io::Result<()> {
        match fs::create_dir(self.packs()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn shut(&self) -> io::Result<()> {
        fs::remove_dir(self.packs())
    }
}

impl std::fmt::Debug for NewObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewObjects").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why new objects cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Git's words.
    #[error("new objects cannot be written")]
    Git(#[from] git2::Error),
    /// The system's words.
    #[error("new objects cannot be written")]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_written_whether_few_or_many_and_the_rest_is_not() {
        let folder = tempfile::tempdir().unwrap();
        Repository::init_bare(folder.path()).unwrap();
        let new = NewObjects::over(folder.path()).unwrap();
        let packs = || crate::git::packs(folder.path()).unwrap().len();
        let mut all = Vec::new();
        for (count, packs_then) in [(3, 0), (MOST_LOOSE + 1, 1), (1, 1), (MOST_LOOSE * 3, 2)] {
            let lost = new.repo().blob(format!("lost {count}").as_bytes()).unwrap();
            for number in 0..count {
                let blob = new.repo().blob(format!("{count} {number}").as_bytes()).unwrap();
                new.keep(blob);
                new.keep(blob);
                all.push(blob);
            }
            assert!(!new.is_written());
            new.write().unwrap();
            assert!(new.is_written());
            assert_eq!(packs(), packs_then, "{count}");
            let disk = Repository::open_bare(folder.path()).unwrap();
            for blob in &all {
                assert!(disk.find_blob(*blob).is_ok(), "{count}");
            }
            assert!(disk.find_blob(lost).is_err());
        }
        // Git reads the packs.
        let checked = crate::git::command(folder.path()).args(["fsck", "--full", "--strict"]).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
        drop(new);
        let left = fs::read_dir(folder.path().join("objects")).unwrap().flatten();
        assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("tmp_")));
    }

    #[test]
    fn what_a_failed_write_has_left_is_replaced_and_not_written_into() {
        let folder = tempfile::tempdir().unwrap();
        Repository::init_bare(folder.path()).unwrap();
        let new = NewObjects::over(folder.path()).unwrap();
        let blob = new.repo().blob(b"one").unwrap();
        new.keep(blob);
        // Only root may write into a file that is read-only: a second name of it shows who did.
        let id = blob.to_string();
        let (objects, other) = (folder.path().join("objects").join(&id[..2]), folder.path().join("other"));
        fs::create_dir_all(&objects).unwrap();
        fs::write(&other, "left").unwrap();
        fs::hard_link(&other, objects.join(format!("tmp_obj_{id}"))).unwrap();
        new.write().unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"left");
        assert!(Repository::open_bare(folder.path()).unwrap().find_blob(blob).is_ok());
        assert_eq!(fs::read_dir(&objects).unwrap().count(), 1);
    }

    #[test]
    fn packs_are_listed_when_that_is_asked_for_and_not_for_each_object() {
        let folder = tempfile::tempdir().unwrap();
        Repository::init_bare(folder.path()).unwrap();
        let [new, other] = [(); 2].map(|()| NewObjects::over(folder.path()).unwrap());
        let pack = |text: &str| {
            let written =
                (0..=MOST_LOOSE).map(|number| other.repo().blob(format!("{text} {number}").as_bytes()).unwrap());
            let written: Vec<Oid> = written.collect();
            written.iter().for_each(|blob| other.keep(*blob));
            other.write().unwrap();
            written[0]
        };
        for text in ["first", "second"] {
            let blob = pack(text);
            new.repo().blob(format!("new {text}").as_bytes()).unwrap();
            assert!(new.repo().find_blob(blob).is_err(), "libgit2 lists no packs by itself");
            new.refresh().unwrap();
            assert!(new.repo().find_blob(blob).is_ok());
        }
        // A file of its own is seen at once.
        let blob = other.repo().blob(b"alone").unwrap();
        other.keep(blob);
        other.write().unwrap();
        assert!(new.repo().find_blob(blob).is_ok());
    }
}
