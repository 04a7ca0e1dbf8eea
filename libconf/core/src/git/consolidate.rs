//! Making one pack of a host's many, with the kept snapshots alone in it.

use std::{
    collections::BTreeSet,
    ffi::OsString,
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

/// Every object is looked for in every pack.
const MOST_PACKS: usize = 64;

/// How much room all packs may take, in times of the largest one, which holds about what is kept.
const MOST_GROWTH: u64 = 4;

/// Where little is kept, what a few changes add is many times that, and still nothing: less than this counts as this much.
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

/// Replaces many packs by one that holds the kept snapshots alone, when there are more than 64 packs or they take more
/// than four times what is kept, and than 1 MiB. Answers whether it did.
///
/// Does nothing while any ref leads to something else than a kept snapshot: such a repository is not ours alone. Blocks,
/// for about a second for every 100,000 objects. Nobody else may write to the repository meanwhile; open it anew
/// afterwards.
pub fn consolidate(repo: &Path, keep: &[CommitId]) -> Result<bool, ConsolidateError> {
    try_consolidate(repo, keep).map_err(|reason| ConsolidateError { path: repo.to_owned(), reason: reason.to_string() })
}

fn try_consolidate(path: &Path, keep: &[CommitId]) -> Result<bool, Box<dyn std::error::Error>> {
    let folder = path.join("objects/pack");
    let old = packs(&folder)?;
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
        // Not one object goes before all that is kept is known to be here.
        complete(&repo, None, *commit)?;
        builder.insert_commit((*commit).into())?;
    }
    let staging = tempfile::Builder::new().prefix("tmp_pack_").tempdir_in(path.join("objects"))?;
    builder.write(staging.path(), 0)?;
    let name = builder.name()?.ok_or("the new pack has no name")?.to_owned();
    // A crash after this leaves one pack too many; after the next, a shorter history than there is.
    install(staging.path(), &folder, &name)?;
    write_shallow(path, &cut_off(&repo, &keep)?)?;
    let new = OsString::from(format!("pack-{name}"));
    for (stem, _) in old.iter().filter(|(stem, _)| *stem != new) {
        // The index first: a pack without one is not seen, and goes with the next consolidation.
        for ending in ["idx", "rev", "bitmap", "pack"] {
            let file = folder.join(stem).with_extension(ending);
            match fs::remove_file(file) {
                Err(other) if other.kind() != io::ErrorKind::NotFound => return Err(other.into()),
                _ => {}
            }
        }
    }
    sync_folder(&folder)?;
    Ok(true)
}

/// Name and size of every pack that is not to be kept as it is.
fn packs(folder: &Path) -> io::Result<Vec<(OsString, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let is_pack = path.extension().is_some_and(|ending| ending == "pack");
        if is_pack && !path.with_extension("keep").exists() {
            found.extend(path.file_stem().map(|stem| (stem.to_owned(), entry.metadata())));
        }
    }
    found.into_iter().map(|(stem, about)| Ok((stem, about?.len()))).collect()
}

/// The kept commits with a parent that is not kept.
fn cut_off(repo: &Repository, keep: &BTreeSet<CommitId>) -> Result<BTreeSet<CommitId>, git2::Error> {
    let mut cut = BTreeSet::new();
    for id in keep {
        if parents(repo, *id)?.iter().any(|parent| !keep.contains(parent)) {
            cut.insert(*id);
        }
    }
    Ok(cut)
}
