//! Stores a pack that arrives: whole and durable, or not at all.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::Path,
};

use bytes::Bytes;
use git2::Repository;
use tokio::sync::mpsc;

use crate::git::{
    connectivity::Missing,
    file::{Durability, replace_file, sync_folder},
    incoming::{Arrived, Incoming},
    meter::Meter,
    pool::RepositoryPool,
    store_error::StoreError,
};
use libconf::name::CommitId;

/// 4 MiB: a larger pack is made durable before it gets its name.
const MOST_SYNCED_LATER: u64 = 4 << 20;

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

/// Stores an answer about `want` as it arrives, measured before that; the result is the number of
/// packs that were added: 0 when the answer holds no object.
///
/// A thin pack is completed with its bases. `check` sees the repository with the new pack. With
/// `is_step`, the owner of the repository may make the pack durable later.
pub(crate) fn store(
    opened: &RepositoryPool,
    mut parts: mpsc::Receiver<Part>,
    (want, is_step): (CommitId, bool),
    check: impl FnOnce(&Repository) -> Result<(), Missing>,
) -> Result<u32, StoreError> {
    opened.expect_ours()?;
    let repo = opened.lend()?;
    let path = repo.path();
    let odb = repo.odb()?;
    let objects = path.join("objects");
    let (bounds, mut judge) = opened.terms();
    let mut meter = Meter::new(bounds, judge.as_ref().map(|_| want));
    let (mut shallow, mut unshallow) = (BTreeSet::new(), BTreeSet::new());
    let mut incoming = Incoming::new(&odb, &objects);
    loop {
        match parts.blocking_recv().ok_or(StoreError::BrokenOff)? {
            Part::End => break,
            Part::Shallow(commit) => drop(shallow.insert(commit)),
            Part::Unshallow(commit) => drop(unshallow.insert(commit)),
            Part::Pack(bytes) => {
                if let Some(commit) = meter.feed(&bytes)? {
                    judge.take().map_or(Ok(()), |judge| judge(want, &commit)).map_err(StoreError::Unwanted)?;
                }
                incoming.take(&bytes)?;
            }
        }
    }
    let arrived = incoming.end()?;
    // The commit came as a delta, or was here.
    if let Some(judge) = judge
        && let Some(commit) = arrived.commit(&odb, want)
    {
        judge(want, &commit).map_err(StoreError::Unwanted)?;
    }
    // The answer may have taken long.
    opened.expect_ours()?;
    // Before the pack: an entry for a commit that is not here does no harm, a commit without its
    // parents does.
    note_shallow(path, &shallow, &unshallow)?;
    let is_synced_later = is_step && opened.is_synced_later();
    let folder = objects.join("pack");
    let new = match &arrived {
        Arrived::Nothing => None,
        Arrived::Small(pack) => {
            let (files, new) = pack.put(&objects)?;
            if is_synced_later {
                opened.leave_unsynced(files);
            } else {
                files.iter().try_for_each(File::sync_all)?;
            }
            new
        }
        Arrived::Staged(staging, name) => {
            let new = (!folder.join(format!("pack-{name}.idx")).exists()).then(|| name.clone());
            put_in_place(opened, &staging.path().join("pack"), &folder, (name, is_synced_later))?;
            new
        }
    };
    let packs = u32::from(!matches!(arrived, Arrived::Nothing));
    if packs > 0 {
        odb.refresh()?;
    }
    check(&repo).map_err(|missing| {
        // Others could fill the disk with what is of no use.
        if let Some(name) = new {
            opened.forget();
            for ending in ["idx", "pack"] {
                // Best effort: the next start removes what is not needed.
                let _ = fs::remove_file(folder.join(format!("pack-{name}.{ending}")));
            }
        }
        StoreError::Damaged(missing.to_string())
    })?;
    Ok(packs)
}

/// Moves a finished pack to where Git reads it, durably, unless the owner makes it so later.
fn put_in_place(
    opened: &RepositoryPool,
    packs: &Path,
    folder: &Path,
    (name, is_synced_later): (&str, bool),
) -> Result<(), StoreError> {
    let bytes = fs::metadata(packs.join(format!("pack-{name}.pack")))?.len();
    if !is_synced_later || bytes > MOST_SYNCED_LATER {
        return Ok(install(packs, folder, name)?);
    }
    // Another server may have sent the same one, which is perhaps durable already.
    if !folder.join(format!("pack-{name}.idx")).exists() {
        opened.leave_unsynced(put(packs, folder, name)?);
    }
    Ok(())
}

/// Moves a finished pack and its index to where Git reads them, durably.
pub(crate) fn install(from: &Path, to: &Path, name: &str) -> io::Result<()> {
    let (pack, index) = (format!("pack-{name}.pack"), format!("pack-{name}.idx"));
    let sync = |file: &str| File::open(from.join(file))?.sync_all();
    // Both at once: the file system then writes its journal once.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| sync(&index));
        sync(&pack)?;
        other.join().unwrap_or_else(|_| Err(io::Error::other("syncing panicked")))
    })?;
    put(from, to, name)?;
    sync_folder(to)
}

/// Moves a finished pack and its index to where Git reads them. Returns what is to be made durable.
fn put(from: &Path, to: &Path, name: &str) -> io::Result<Vec<File>> {
    fs::create_dir_all(to)?;
    let (pack, index) = (format!("pack-{name}.pack"), format!("pack-{name}.idx"));
    // Git does not see a pack without an index; an index without its pack is an error.
    for file in [&pack, &index] {
        fs::rename(from.join(file), to.join(file))?;
    }
    [to.join(pack), to.join(index), to.to_owned()].into_iter().map(File::open).collect()
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

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use git2::{ObjectType, Oid, Signature};

    use super::*;
    use crate::git::{complete, pack::PackBytes};

    /// A pack with a commit, its folder, some noise, and not the file that is in the folder.
    fn without_its_file(noise: usize) -> (CommitId, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let mut tree = repo.treebuilder(None).unwrap();
        tree.insert("file", repo.blob(b"content").unwrap(), 0o100_644).unwrap();
        let tree = tree.write().unwrap();
        let who = Signature::now("a", "a@b").unwrap();
        let commit = repo.commit(None, &who, &who, "m", &repo.find_tree(tree).unwrap(), &[]).unwrap();
        let mut pack = PackBytes::new(3, Compression::none());
        let odb = repo.odb().unwrap();
        for id in [commit, tree] {
            let object = odb.read(id).unwrap();
            pack.whole(object.kind(), object.data());
        }
        pack.whole(ObjectType::Blob, &vec![7; noise]);
        (commit.into(), pack.finish())
    }

    #[test]
    fn an_answer_that_leaves_objects_out_leaves_nothing_behind() {
        for noise in [10, 1 << 20] {
            let (commit, pack) = without_its_file(noise);
            let folder = tempfile::tempdir().unwrap();
            Repository::init_bare(folder.path()).unwrap();
            let pool = RepositoryPool::at(folder.path());
            for is_synced_later in [false, true] {
                if is_synced_later {
                    pool.syncing_later();
                }
                let (parts, received) = mpsc::channel(4);
                parts.try_send(Part::Pack(pack.clone().into())).unwrap();
                parts.try_send(Part::End).unwrap();
                let check = |repo: &Repository| complete(repo, None, commit);
                let stored = store(&pool, received, (commit, true), check);
                assert!(matches!(stored, Err(StoreError::Damaged(_))), "{stored:?}");
                let packs = fs::read_dir(folder.path().join("objects/pack")).unwrap();
                assert_eq!(packs.count(), 0, "{noise} {is_synced_later}");
                let repo = pool.lend().unwrap();
                assert!(repo.find_commit(Oid::from(commit)).is_err());
            }
        }
    }
}
