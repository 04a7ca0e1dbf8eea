//! The files of refs: one for each ref that moved lately, and `packed-refs` for all others. Git
//! lists three thousand refs in files of their own in 100 ms, and in `packed-refs` in 4 ms.

mod packed_lock;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use conf_core::daemon::chain;
use conf_core::git::sync_folder;
use git2::Repository;
use libconf::name::{CommitId, ObjectId, RefName, Sequence};
use tracing::warn;

use crate::store::ledger;
use crate::store::lock::patiently;
use crate::store::ref_files::packed_lock::Stamp;
use crate::store::refs::{RefTarget, Table};

/// The most refs in files of their own: Git lists these in 3 ms, and to pack them takes 10 ms.
const MOST_LOOSE: usize = 100;

/// The most changes between two writes of `packed-refs`: if the ledger's own file is lost, its
/// packed value is so many changes old at most, and the way from there is short.
const MOST_CHANGES: u64 = 1000;

/// The first line of `packed-refs`, letter by letter as Git writes it. Source: git-pack-refs(1).
const HEADER: &str = "# pack-refs with: peeled fully-peeled sorted \n";

/// What the refs have to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Every ref besides the ledger's.
    pub(crate) table: &'a Table,
    /// The newest entry of the ledger, which has landed.
    pub(crate) ledger: CommitId,
    /// Its number.
    pub(crate) sequence: Sequence,
}

/// The refs that have files of their own. The ledger's always has one, and is not counted.
#[derive(Debug, Default)]
pub(crate) struct RefFiles {
    loose: BTreeSet<RefName>,
    /// The change at which `packed-refs` was written, or looked at first.
    packed_at: Sequence,
    /// With so many loose refs the next packing is tried. It rises while a lock of another program
    /// stands in the way.
    most: usize,
    /// The lock of `packed-refs` that was waited for in vain.
    outlasted: Option<Stamp>,
}

impl RefFiles {
    /// Looks for the files of refs, and removes empty folders: each slows a listing.
    pub(crate) fn find(repo: &Path, sequence: Sequence) -> Self {
        let mut loose = BTreeSet::new();
        let folders = fs::read_dir(repo.join("refs")).into_iter().flatten().flatten();
        for folder in folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            collect(repo, &folder.path(), &mut loose);
        }
        loose.remove(&RefName::Ledger);
        RefFiles { loose, packed_at: sequence, most: MOST_LOOSE, outlasted: None }
    }

    /// Moves refs to what `wanted` says of them. Many, and deleted ones, at once by a new
    /// `packed-refs`. Durable with the next sync of the objects; the start does it again if needed.
    pub(crate) fn set(
        &mut self,
        repo: &Repository,
        wanted: Wanted<'_>,
        moved: &BTreeMap<&RefName, Option<RefTarget>>,
    ) -> anyhow::Result<()> {
        if (moved.len() > MOST_LOOSE || moved.values().any(Option::is_none)) && self.pack(repo.path(), wanted) {
            return Ok(());
        }
        // All are tried: one that cannot be moved keeps no other from it.
        let done: Vec<_> = moved.iter().map(|(name, target)| self.set_one(repo, name, *target)).collect();
        done.into_iter().collect()
    }

    fn set_one(&mut self, repo: &Repository, name: &RefName, target: Option<RefTarget>) -> anyhow::Result<()> {
        // A deleted ref goes with a new `packed-refs` alone: its file may hide an earlier value.
        // libgit2 forgets one that it could not delete, and takes it for deleted the next time.
        let Some(target) = target else {
            bail!("{name} is deleted, and stays listed until `packed-refs` can be written");
        };
        write_one(repo.path(), name, target.value)?;
        self.loose.insert(name.clone());
        Ok(())
    }

    /// Packs the refs, where many have files of their own or where the last time is long ago.
    pub(crate) fn keep_packed(&mut self, repo: &Path, wanted: Wanted<'_>) {
        let is_old = !self.loose.is_empty() && wanted.sequence.0 >= self.packed_at.0 + MOST_CHANGES;
        if self.loose.len() > self.most || is_old {
            self.pack(repo, wanted);
        }
    }

    /// Writes `packed-refs`, and removes the files of the refs in it. False where that failed, and
    /// `packed-refs` is as it was.
    fn pack(&mut self, repo: &Path, wanted: Wanted<'_>) -> bool {
        self.packed_at = wanted.sequence;
        if let Err(error) = write(repo, wanted, &mut self.outlasted) {
            self.most = self.loose.len() + MOST_LOOSE;
            warn!(error = chain(&*error), "the refs cannot be packed; each has a file of its own meanwhile");
            return false;
        }
        // A crash before this leaves files with earlier values, which the next start puts right.
        for name in &std::mem::take(&mut self.loose) {
            if let Err(error) = remove(repo, &name.to_string()) {
                warn!(%error, %name, "the file of a packed ref cannot be removed");
                self.loose.insert(name.clone());
            }
        }
        self.most = self.loose.len() + MOST_LOOSE;
        true
    }

    /// True if a ref has a file of its own that says something else. libgit2 passes over one that
    /// cannot be read, as a power cut may leave it, for the packed value; Git does not.
    fn is_torn(&self, repo: &Path, name: &RefName, value: ObjectId) -> bool {
        let is_value = |bytes: Vec<u8>| bytes.trim_ascii() == value.to_string().as_bytes();
        self.loose.contains(name) && !fs::read(repo.join(name.to_string())).is_ok_and(is_value)
    }

    /// Sets every ref to what is wanted; returns the differences, for the log.
    pub(crate) fn repair(&mut self, repo: &Repository, wanted: Wanted<'_>) -> anyhow::Result<Vec<String>> {
        let mut repaired = Vec::new();
        let mut present = match listed(repo) {
            Ok(present) => present,
            Err(error) => {
                write(repo.path(), wanted, &mut self.outlasted).context("`packed-refs` cannot be written anew")?;
                repaired.push(format!("`packed-refs` was damaged ({}), and is written anew", error.message()));
                listed(repo)?
            }
        };
        let mut wrong = BTreeMap::new();
        for (name, target) in wanted.table.iter() {
            let found = present.remove(&name.to_string()).flatten();
            if found == Some(target.value) && !self.is_torn(repo.path(), name, target.value) {
                continue;
            }
            if target.value != target.commit && repo.find_tag(target.value.into()).is_err() {
                ledger::restore_tag(repo, wanted.ledger, target.value)?;
            }
            wrong.insert(name, Some(target));
            repaired.push(match found {
                Some(found) => format!("{name} held {found}, put back to {}", target.value),
                None => format!("{name} was missing, made again at {}", target.value),
            });
        }
        // Whatever file they have, it is wrong.
        self.loose.extend(wrong.keys().map(|name| (*name).clone()));
        self.set(repo, wanted, &wrong)?;
        let strays = present.len();
        if strays > 0 && !self.pack(repo.path(), wanted) {
            bail!("{strays} refs that no push made, or that are deleted, stay until `packed-refs` can be written");
        }
        for (name, found) in present {
            remove(repo.path(), &name)?;
            let found = found.map(|found| found.to_string()).unwrap_or_default();
            repaired.push(format!("{name} ({found}) {STRAY}"));
        }
        Ok(repaired)
    }
}

/// What is said of a ref that the ledger does not know.
const STRAY: &str = "was not made by a push, and is removed; push it to bring it back";

/// Lists the refs besides the ledger's.
fn listed(repo: &Repository) -> Result<BTreeMap<String, Option<ObjectId>>, git2::Error> {
    let mut present = BTreeMap::new();
    for reference in repo.references()? {
        let reference = reference?;
        let name = reference.name().unwrap_or_default().to_owned();
        if name != RefName::Ledger.to_string() && name.starts_with("refs/") {
            present.insert(name, reference.target().map(ObjectId::from));
        }
    }
    Ok(present)
}

/// Replaces `packed-refs`, under Git's own lock. It holds the ledger's ref too: another program of
/// Git that packs may just be about to remove the ledger's file for the value that it has packed.
fn write(repo: &Path, Wanted { table, ledger, .. }: Wanted<'_>, outlasted: &mut Option<Stamp>) -> anyhow::Result<()> {
    let own = [(RefName::Ledger, RefTarget { value: ledger, commit: ledger })];
    let all = table.iter().map(|(name, target)| (name.to_string(), target));
    let all: BTreeMap<String, RefTarget> = all.chain(own.map(|(name, target)| (name.to_string(), target))).collect();
    let mut text = HEADER.to_owned();
    for (name, RefTarget { value, commit }) in &all {
        let _ = writeln!(text, "{value} {name}");
        if value != commit {
            let _ = writeln!(text, "^{commit}");
        }
    }
    let (path, lock) = (repo.join("packed-refs"), repo.join("packed-refs.lock"));
    let held = || format!("cannot make {}; if no program of Git runs here, remove it", lock.display());
    let mut file = packed_lock::take(&lock, outlasted).with_context(held)?;
    let replaced = (|| {
        for line in fs::read_to_string(&path).unwrap_or_default().lines() {
            let name = line.split_once(' ').map_or("", |(_, name)| name);
            if name.starts_with("refs/")
                && !all.contains_key(name)
                && !name.parse().is_ok_and(|name| table.knows(&name))
            {
                warn!("{name} {STRAY}");
            }
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&lock, &path)?;
        // Before the refs' own files go.
        sync_folder(repo)
    })();
    if replaced.is_err() {
        // Best effort: the next start removes a stale lock as well.
        let _ = fs::remove_file(&lock);
    }
    Ok(replaced?)
}

/// Writes the file of a ref, under Git's own lock.
fn write_one(repo: &Path, name: &RefName, value: ObjectId) -> anyhow::Result<()> {
    let path = repo.join(name.to_string());
    let mut lock = path.clone().into_os_string();
    lock.push(".lock");
    let lock = Path::new(&lock);
    let open = || OpenOptions::new().write(true).create_new(true).mode(0o664).open(lock);
    let locked = patiently(
        || match open() {
            // Another program of Git that packs removes empty folders.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                open()
            }
            opened => opened,
        },
        |error| matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound),
    );
    let held = || format!("cannot make {}; if no program of Git runs here, remove it", lock.display());
    let mut file = locked.with_context(held)?;
    let written = file.write_all(format!("{value}\n").as_bytes()).and_then(|()| fs::rename(lock, &path));
    if written.is_err() {
        let _ = fs::remove_file(lock);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Removes the file of a ref, and the folders that are empty then.
fn remove(repo: &Path, name: &str) -> io::Result<()> {
    let file = repo.join(name);
    match fs::remove_file(&file) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(error);
        }
        _ => {}
    }
    // Git itself makes these three.
    let kept = ["refs", "refs/heads", "refs/tags"].map(|folder| repo.join(folder));
    let folders = file.ancestors().skip(1).take_while(|folder| !kept.iter().any(|one| one == folder));
    // One that holds another ref stays, and so do those around it.
    let _ = folders.into_iter().try_for_each(fs::remove_dir);
    Ok(())
}

/// Collects the refs whose files are in a folder, and removes folders without any.
fn collect(repo: &Path, folder: &Path, loose: &mut BTreeSet<RefName>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(repo, &path, loose);
            let _ = fs::remove_dir(&path);
        } else if let Some(name) = path.strip_prefix(repo).ok().and_then(|name| name.to_str()?.parse().ok()) {
            loose.insert(name);
        }
    }
}
