//! Makes one pack of a host's many, with the kept snapshots alone in it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use git2::Repository;

use crate::git::{
    connectivity::{complete, parents},
    file::sync_folder,
    store::{install, write_shallow},
};
use libconf::name::CommitId;

/// The most packs. Git looks for an object in every pack, so more make every read slower.
const MOST_PACKS: usize = 64;

/// The most room of all packs together, as a multiple of the largest one, which holds about all
/// that is kept.
const MOST_GROWTH: u64 = 4;

/// The size that a smaller largest pack counts as, in bytes: a few changes exceed four times a tiny
/// pack, and are still next to nothing.
const LITTLE_BYTES: u64 = 256 << 10;

/// A repository could not be consolidated; nothing of it is lost.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the repository {path}: {reason}")]
pub struct ConsolidateError {
    /// The repository.
    pub path: PathBuf,
    /// What went wrong.
    pub reason: String,
}

/// Replaces many packs by one that holds the kept snapshots alone, when there are more than 64
/// packs, or when they take more than 1 MiB and more than four times the largest pack. The answer
/// is true when it did.
///
/// Does nothing while any ref leads to a commit that is not kept: then the repository has other
/// users. Blocks for about a second for every 100,000 objects. Nobody else may write to the
/// repository meanwhile; open it anew afterwards.
pub fn consolidate(repo: &Path, keep: &[CommitId]) -> Result<bool, ConsolidateError> {
    try_consolidate(repo, keep).map_err(|reason| ConsolidateError { path: repo.to_owned(), reason: reason.to_string() })
}

fn try_consolidate(path: &Path, keep: &[CommitId]) -> Result<bool, Box<dyn std::error::Error>> {
    let folder = path.join("objects/pack");
    let mut old = packs(path)?;
    old.retain(|(pack, _)| !pack.with_extension("keep").exists());
    let (total, largest) = old.iter().fold((0, 0), |(total, largest), (_, size)| (total + size, largest.max(*size)));
    if keep.is_empty() || old.len() <= MOST_PACKS && total <= MOST_GROWTH * largest.max(LITTLE_BYTES) {
        return Ok(false);
    }
    let repo = Repository::open_bare(path)?;
    let keep: BTreeSet<CommitId> = keep.iter().copied().collect();
    for reference in repo.references()? {
        let commit = reference?.peel_to_commit();
        if commit.is_ok_and(|commit| !keep.contains(&commit.id().into())) {
            return Ok(false);
        }
    }
    let mut builder = repo.packbuilder()?;
    for commit in &keep {
        // No object goes before all kept snapshots are known to be complete.
        complete(&repo, None, *commit)?;
        builder.insert_commit((*commit).into())?;
    }
    let staging = tempfile::Builder::new().prefix("tmp_pack_").tempdir_in(path.join("objects"))?;
    builder.write(staging.path(), 0)?;
    let name = builder.name()?.ok_or("the new pack has no name")?.to_owned();
    // A crash after this leaves one pack too many; a crash after the next step leaves a shorter
    // history than there is.
    install(staging.path(), &folder, &name)?;
    write_shallow(path, &cut_off(&repo, &keep)?)?;
    let new = folder.join(format!("pack-{name}.pack"));
    for (pack, _) in old.iter().filter(|(pack, _)| *pack != new) {
        // The index goes first: Git does not see a pack without one, and the next consolidation
        // removes it.
        for ending in ["idx", "rev", "bitmap", "pack"] {
            match fs::remove_file(pack.with_extension(ending)) {
                Err(other) if other.kind() != io::ErrorKind::NotFound => return Err(other.into()),
                _ => {}
            }
        }
    }
    sync_folder(&folder)?;
    Ok(true)
}

/// The path and the size in bytes of every pack of a repository.
pub fn packs(repo: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let sized = |pack: PathBuf| pack.metadata().map(|pack| pack.len()).map(|bytes| (pack, bytes));
    pack_paths(repo)?.into_iter().map(sized).collect()
}

/// The path of every pack of a repository. The system is asked nothing about each.
pub fn pack_paths(repo: &Path) -> io::Result<Vec<PathBuf>> {
    let files = fs::read_dir(repo.join("objects/pack"))?.map(|entry| entry.map(|entry| entry.path()));
    files
        .filter(|file| file.as_ref().map_or(true, |file| file.extension().is_some_and(|ending| ending == "pack")))
        .collect()
}

/// The kept commits with a parent that is not kept: the history ends there.
fn cut_off(repo: &Repository, keep: &BTreeSet<CommitId>) -> Result<BTreeSet<CommitId>, git2::Error> {
    let mut cut = BTreeSet::new();
    for id in keep {
        if parents(repo, *id)?.iter().any(|parent| !keep.contains(parent)) {
            cut.insert(*id);
        }
    }
    Ok(cut)
}
