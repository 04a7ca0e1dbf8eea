//! Stores a pack that arrives: whole and durable, or not at all.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use bytes::Bytes;
use git2::{ErrorClass, Indexer, Repository};
use tokio::sync::mpsc;

use crate::git::{
    connectivity::Missing,
    file::{Durability, replace_file, sync_folder},
    pool::RepositoryPool,
};
use libconf::name::CommitId;

/// A part of an answer.
#[derive(Debug)]
pub(crate) enum Part {
    /// The history of this commit ends with it.
    Shallow(CommitId),
    /// The history of this commit no longer ends with it.
    Unshallow(CommitId),
    /// The next bytes of the pack.
    Pack(Bytes),
    /// The whole answer was sent.
    End,
}

impl Part {
    /// Reads a line of the section `shallow-info`.
    pub(crate) fn shallow(line: &[u8]) -> Option<Part> {
        let (word, id) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        let id = id.parse().ok()?;
        match word {
            "shallow" => Some(Part::Shallow(id)),
            "unshallow" => Some(Part::Unshallow(id)),
            _ => None,
        }
    }
}

/// Why an answer could not be stored.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// The repository or its disk fails.
    Repository(String),
    /// The pack is damaged, thin against objects that are not here, or leaves objects out.
    Damaged(String),
    /// The parts ended before their end.
    BrokenOff,
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        StoreError::Repository(error.to_string())
    }
}

impl From<git2::Error> for StoreError {
    fn from(error: git2::Error) -> Self {
        match error.class() {
            ErrorClass::Os | ErrorClass::Repository | ErrorClass::NoMemory | ErrorClass::Filesystem => {
                StoreError::Repository(error.message().to_owned())
            }
            _ => StoreError::Damaged(error.message().to_owned()),
        }
    }
}

/// Stores an answer as it arrives; the result is the number of packs that were added: 0 when the
/// answer holds no object.
///
/// libgit2's indexer completes a thin pack with its bases. `check` sees the repository with the new
/// pack.
pub(crate) fn store(
    opened: &RepositoryPool,
    mut parts: mpsc::Receiver<Part>,
    check: impl FnOnce(&Repository) -> Result<(), Missing>,
) -> Result<u32, StoreError> {
    let repo = opened.lend()?;
    let path = repo.path();
    let odb = repo.odb()?;
    let objects = path.join("objects");
    // The next start removes it, if this program is killed.
    let staging = tempfile::Builder::new().prefix("tmp_pack_").tempdir_in(&objects)?;
    let (mut shallow, mut unshallow) = (BTreeSet::new(), BTreeSet::new());
    let mut header = Vec::new();
    let mut indexer: Option<Indexer<'_>> = None;
    let mut is_empty = false;
    loop {
        let bytes = match parts.blocking_recv().ok_or(StoreError::BrokenOff)? {
            Part::End => break,
            Part::Shallow(commit) => {
                shallow.insert(commit);
                continue;
            }
            Part::Unshallow(commit) => {
                unshallow.insert(commit);
                continue;
            }
            Part::Pack(bytes) => bytes,
        };
        let write = |indexer: &mut Indexer<'_>, bytes: &[u8]| indexer.write_all(bytes).map_err(|error| words(&error));
        match &mut indexer {
            Some(indexer) => write(indexer, &bytes)?,
            None if is_empty => {}
            None => {
                header.extend_from_slice(&bytes);
                // "PACK", the version, the number of objects. The indexer refuses a pack of none.
                let Some(count) = header.get(8..12) else { continue };
                is_empty = header.starts_with(b"PACK") && count == [0; 4];
                if !is_empty {
                    // `check` looks at the objects afterwards, together with those that were here
                    // before: the indexer's own check would ask for the parents of a shallow
                    // commit.
                    let started = indexer.insert(Indexer::new(Some(&odb), staging.path(), 0, false)?);
                    write(started, &header)?;
                }
            }
        }
    }
    let name = match indexer {
        Some(indexer) => Some(indexer.commit()?),
        None if is_empty => None,
        None => return Err(StoreError::BrokenOff),
    };
    // Before the pack: an entry for a commit that is not here does no harm, a commit without its
    // parents does.
    note_shallow(path, &shallow, &unshallow)?;
    if let Some(name) = &name {
        install(staging.path(), &objects.join("pack"), name)?;
        odb.refresh()?;
    }
    check(&repo).map_err(|missing| StoreError::Damaged(missing.to_string()))?;
    Ok(u32::from(name.is_some()))
}

/// Finds libgit2's error inside the [`io::Error`] of the indexer.
fn words(error: &io::Error) -> StoreError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<git2::Error>()) {
        Some(inner) => git2::Error::new(inner.code(), inner.class(), inner.message()).into(),
        None => StoreError::Repository(error.to_string()),
    }
}

/// Moves a finished pack and its index to where Git reads them, durably.
pub(crate) fn install(from: &Path, to: &Path, name: &str) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let (pack, index) = (format!("pack-{name}.pack"), format!("pack-{name}.idx"));
    let sync = |file: &str| File::open(from.join(file))?.sync_all();
    // Both at once: the file system then writes its journal once.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| sync(&index));
        sync(&pack)?;
        other.join().unwrap_or_else(|_| Err(io::Error::other("syncing panicked")))
    })?;
    // Git does not see a pack without an index; an index without its pack is an error.
    for file in [&pack, &index] {
        fs::rename(from.join(file), to.join(file))?;
    }
    sync_folder(to)
}

/// The commits at which the history of a shallow repository ends.
pub(crate) fn read_shallow(repo: &Path) -> io::Result<BTreeSet<CommitId>> {
    match fs::read_to_string(repo.join("shallow")) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(none) if none.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(other) => Err(other),
    }
}

/// Writes the commits at which the history ends, in one step. An empty file would still make the
/// repository shallow.
pub(crate) fn write_shallow(repo: &Path, commits: &BTreeSet<CommitId>) -> io::Result<()> {
    let path = repo.join("shallow");
    if commits.is_empty() {
        return match fs::remove_file(&path) {
            Err(other) if other.kind() != io::ErrorKind::NotFound => Err(other),
            _ => sync_folder(repo),
        };
    }
    let lines: Vec<String> = commits.iter().map(CommitId::to_string).collect();
    replace_file(&path, (lines.join("\n") + "\n").as_bytes(), 0o644, Durability::Full)
}

fn note_shallow(repo: &Path, add: &BTreeSet<CommitId>, remove: &BTreeSet<CommitId>) -> io::Result<()> {
    if add.is_empty() && remove.is_empty() {
        return Ok(());
    }
    let before = read_shallow(repo)?;
    let after = before.union(add).filter(|commit| !remove.contains(commit)).copied().collect();
    if before == after { Ok(()) } else { write_shallow(repo, &after) }
}
