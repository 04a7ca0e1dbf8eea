//! Removing what is not needed any more.
//!
//! A snapshot stays beyond the retention while a process reads in it, and for a while after one has
//! asked for it. A former snapshot is one that was rendered again: a component that could not be
//! used at first may be usable later, so that one sequence gets other files. A reader of the former
//! folder goes on reading in it: it stays whole, under another name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use conf_core::render::StoreHash;
use libconf::name::{Sequence, Version};

use crate::{
    export::{
        error::ExportError,
        folder::Export,
        names::{Former, NEW, names_hash, remove_whole},
        plan::{Contents, Retention, by_name, outdated},
    },
    fs::{Entry, Folder, Unsynced},
};

/// At most 256 stay beyond the retention. Then the oldest go, even if they are in use.
const MOST_HELD: usize = if cfg!(test) { 3 } else { 256 };

/// 1 MiB for young snapshots beyond [`Retention::last`], or 8 of them if those take more: a burst
/// of changes must not fill the disk.
const YOUNG_BYTES: u64 = 1 << 20;
const LEAST_YOUNG: usize = 8;

/// 48 KiB, the room of a small change, count for a snapshot that an earlier run of the agent made.
const USUAL_BYTES: u64 = 48 << 10;

/// At most 16 stay, even if they are in use; the oldest go first.
const MOST_FORMER: usize = if cfg!(test) { 3 } else { 16 };

impl Export {
    /// Removes snapshots that are not kept any more, except those of `held`. Costs nothing if there
    /// are none.
    pub(crate) fn retire(
        &mut self,
        retention: Retention,
        held: &BTreeSet<Sequence>,
        now: SystemTime,
    ) -> Result<(), ExportError> {
        // A snapshot that was only rendered for operations does not displace one that was in use.
        let (older, used): (Vec<Sequence>, Vec<Sequence>) =
            self.kept.keys().partition(|sequence| self.is_older(**sequence));
        let young = self.young_with_room(&used, retention.last);
        let times = used.into_iter().map(|sequence| (sequence, self.placed(sequence)));
        let mut outdated = outdated(&times.collect(), retention, young, now);
        outdated.extend(older);
        outdated.retain(|sequence| !held.contains(sequence));
        outdated.sort_unstable_by(|one, other| other.cmp(one));
        let gone = self.let_go(outdated, retention, now).map_err(|cause| self.failed("clean up", cause))?;
        let mut left = Vec::new();
        for (sequence, _) in &gone {
            left.extend(self.kept.remove(sequence).map(|kept| kept.contents));
            self.took.remove(sequence);
        }
        // `gone` holds the locks until all of them are removed.
        if self.retire_former().map_err(|cause| self.failed("clean up", cause))? {
            return self.discard();
        }
        let sequences = gone.iter().map(|(sequence, _)| *sequence);
        self.remove_gone(sequences, &left).map_err(|cause| self.failed("clean up", cause))
    }

    /// Removes the folders of these snapshots, which are not kept any more, and what no other one
    /// has of their contents.
    fn remove_gone(&self, gone: impl Iterator<Item = Sequence>, contents: &[Contents]) -> io::Result<()> {
        for sequence in gone {
            self.snapshots.remove(&aside(sequence))?;
            self.snapshots.remove(&sequence.to_string())?;
        }
        let kept = || self.kept.values().map(|kept| &kept.contents).chain(self.former.values());
        let newest = self.current().map(|(_, kept)| by_name(&kept.contents)).unwrap_or_default();
        for contents in contents {
            let mut names = by_name(contents);
            // Most are those of the newest snapshot.
            names.retain(|name, versions| newest.get(name) != Some(versions));
            for versions in names.values() {
                if !kept().any(|other| has_versions(other, versions)) {
                    remove_whole(&self.names, &names_hash(versions).to_string())?;
                }
            }
            for hash in names.values().flat_map(BTreeMap::values) {
                if !kept().any(|other| other.values().any(|one| one == hash)) {
                    remove_whole(&self.store, &hash.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Returns how many of these snapshots may stay beyond the newest `last`, since there is room
    /// for them.
    fn young_with_room(&self, used: &[Sequence], last: usize) -> usize {
        let mut left = YOUNG_BYTES;
        let has_room = |sequence: &&Sequence| {
            let took = self.took.get(sequence).copied().unwrap_or(USUAL_BYTES);
            left.checked_sub(took).inspect(|rest| left = *rest).is_some()
        };
        used.iter().rev().skip(last.max(1)).take_while(has_room).count().max(LEAST_YOUNG)
    }

    /// Removes everything that no kept snapshot uses, such as what a failed step left.
    pub(crate) fn discard(&mut self) -> Result<(), ExportError> {
        (self.unsynced, self.taking) = (Unsynced::default(), 0);
        self.sweep().map_err(|cause| self.failed("clean up", cause))
    }

    /// Removes every entry that no kept snapshot uses.
    pub(crate) fn sweep(&mut self) -> io::Result<()> {
        self.next = None;
        self.root.remove(NEW)?;
        retain(&self.snapshots, |name| {
            name.parse::<Sequence>().is_ok_and(|sequence| self.kept.contains_key(&sequence))
                || Former::of_name(name).is_some_and(|former| self.former.contains_key(&former))
        })?;
        let (mut names, mut stores) = (HashSet::new(), HashSet::new());
        for contents in self.kept.values().map(|kept| &kept.contents).chain(self.former.values()) {
            stores.extend(contents.values().copied());
            names.extend(by_name(contents).values().map(names_hash));
        }
        let is_in = |hashes: &HashSet<StoreHash>, name: &str| {
            name.parse::<StoreHash>().is_ok_and(|hash| hashes.contains(&hash))
        };
        retain(&self.names, |name| is_in(&names, name))?;
        retain(&self.store, |name| is_in(&stores, name))
    }

    /// Decides which of `outdated` (newest first) go now, and prepares their removal: each loses
    /// its name, and is locked as long as the folder that this returns for it. A snapshot that was
    /// removed by hand has no folder.
    pub(crate) fn let_go(
        &self,
        outdated: Vec<Sequence>,
        retention: Retention,
        now: SystemTime,
    ) -> io::Result<Vec<(Sequence, Option<Folder>)>> {
        let mut gone = Vec::new();
        let mut held = 0;
        for sequence in outdated {
            let folder = match self.snapshots.enter(&sequence.to_string()) {
                Ok(folder) => folder,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    gone.push((sequence, None));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let asked = || self.was_asked(sequence, &folder, retention.younger_than, now);
            // This looks first as well, so that a process that asks again hardly ever finds it
            // missing.
            if asked()? || !folder.lock_alone()? || !self.set_aside(sequence, asked)? {
                held += 1;
                if held <= MOST_HELD {
                    continue;
                }
                tracing::warn!(
                    sequence = sequence.0,
                    "removed although it is in use: {MOST_HELD} older snapshots are kept for readers already"
                );
            }
            gone.push((sequence, Some(folder)));
        }
        Ok(gone)
    }

    /// Takes a snapshot's name away. If a process asks for it at this moment, gives the name back
    /// and returns false.
    fn set_aside(&self, sequence: Sequence, asked: impl Fn() -> io::Result<bool>) -> io::Result<bool> {
        let (name, aside) = (sequence.to_string(), aside(sequence));
        if self.snapshots.rename(&name, &self.snapshots, &aside).is_err() {
            // A full disk refuses even the renaming. Then the folder is removed under its own name.
            return Ok(!asked()?);
        }
        // The stamp of a process that asked before is visible here. A process that asks later finds
        // nothing.
        if !asked()? {
            return Ok(true);
        }
        self.snapshots.rename(&aside, &self.snapshots, &name)?;
        Ok(false)
    }

    /// True if a process asked for the snapshot within the given time. A folder has the time of its
    /// header when it is built, and a later one when a process asks for it. One that nothing ever
    /// switched to was built because a process asked.
    fn was_asked(&self, sequence: Sequence, folder: &Folder, within: Duration, now: SystemTime) -> io::Result<bool> {
        let asked = folder.stamped()?;
        let asked_for = asked > self.placed(sequence) || self.is_older(sequence);
        Ok(asked_for && now.duration_since(asked).unwrap_or_default() < within)
    }

    pub(crate) fn placed(&self, sequence: Sequence) -> SystemTime {
        let header = self.kept.get(&sequence).and_then(|kept| kept.header.as_ref());
        UNIX_EPOCH + Duration::from_secs(header.map_or(0, |header| header.time))
    }

    /// Returns the name under which a kept snapshot is built again. The former one has it after the
    /// exchange.
    pub(crate) fn beside(&self, sequence: Sequence) -> Former {
        let of_it = self.former.keys().filter(|former| former.sequence == sequence);
        Former { sequence, number: of_it.map(|former| former.number + 1).max().unwrap_or(0) }
    }

    /// Reads the former snapshots on disk. Each is whole, even one that nothing ever switched to.
    pub(crate) fn read_former(&mut self) -> io::Result<()> {
        for (name, kind) in self.snapshots.entries()? {
            let Some(former) = Former::of_name(&name) else { continue };
            if kind == Entry::Folder && former.name() == name {
                let contents = self.read_snapshot(&name, &mut HashMap::new())?.contents;
                self.former.insert(former, contents);
            }
        }
        Ok(())
    }

    /// Removes the oldest if there are too many.
    pub(crate) fn thin_former(&mut self) -> io::Result<()> {
        while self.former.len() > MOST_FORMER {
            let Some((former, _)) = self.former.pop_first() else { break };
            remove_whole(&self.snapshots, &former.name())?;
        }
        Ok(())
    }

    /// Forgets those whose snapshot is not kept any more and that nobody reads. True if there were
    /// any.
    pub(crate) fn retire_former(&mut self) -> io::Result<bool> {
        let orphans = self.former.keys().copied().filter(|former| !self.kept.contains_key(&former.sequence));
        let mut gone = Vec::new();
        for former in orphans {
            if self.snapshots.enter(&former.name())?.lock_alone()? {
                gone.push(former);
            }
        }
        for former in &gone {
            self.former.remove(former);
        }
        Ok(!gone.is_empty())
    }
}

/// Returns the name of a snapshot's folder while it is removed.
fn aside(sequence: Sequence) -> String {
    format!(".{sequence}.gone")
}

/// True if a component of `contents` has exactly these versions, each with this rendering.
fn has_versions(contents: &Contents, versions: &BTreeMap<Version, StoreHash>) -> bool {
    let Some((version, hash)) = versions.first_key_value() else { return false };
    let has_first = contents.iter().filter(|(name, one)| *one == hash && name.version == *version);
    has_first.map(|(name, _)| &name.component).any(|component| {
        let own = contents.iter().filter(|(name, _)| name.component == *component);
        own.map(|(name, hash)| (&name.version, hash)).eq(versions)
    })
}

/// Removes the entries of a folder that are not needed.
fn retain(folder: &Folder, needed: impl Fn(&str) -> bool) -> io::Result<()> {
    for (name, _) in folder.entries()? {
        if !needed(&name) {
            remove_whole(folder, &name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs::File, path::Path};

    use conf_core::render::StoreHash;

    use super::*;
    use crate::export::{Contents, folder::BLOCK, plan, tests::header};

    fn export_with(folder: &Path, sequences: impl Iterator<Item = u64>) -> Export {
        let mut export = Export::open(folder, Vec::new()).unwrap();
        for sequence in sequences {
            let header = header(sequence);
            let contents =
                Contents::from([("services/web/latest".parse().unwrap(), StoreHash::of(&header.time.to_string()))]);
            export.build(&header, &plan(&Contents::new(), &contents), true).unwrap();
            export.switch(header, contents).unwrap();
        }
        export
    }

    fn left(export: &Export) -> Vec<u64> {
        export
            .kept
            .keys()
            .map(|sequence| sequence.0)
            .filter(|sequence| export.directory(Sequence(*sequence)).is_dir())
            .collect()
    }

    #[test]
    fn a_snapshot_stays_while_a_process_reads_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut export = export_with(folder.path(), 1..=8);
        let retention = Retention { last: 2, younger_than: Duration::from_secs(60) };
        let now = UNIX_EPOCH + Duration::from_secs(5000);
        let hold = |sequence: u64| {
            let held = File::open(folder.path().join(format!("snapshots/{sequence}"))).unwrap();
            held.try_lock_shared().unwrap();
            held
        };
        let (first, second) = (hold(1), hold(3));
        export.retire(retention, &BTreeSet::new(), now).unwrap();
        assert_eq!(left(&export), [1, 3, 7, 8]);
        drop(first);
        export.retire(retention, &BTreeSet::new(), now).unwrap();
        assert_eq!(left(&export), [3, 7, 8]);
        drop(second);
        // A process has just asked for it.
        let asked = export.snapshots.enter("3").unwrap();
        asked.stamp(now - Duration::from_secs(30)).unwrap();
        export.retire(retention, &BTreeSet::new(), now).unwrap();
        assert_eq!(left(&export), [3, 7, 8]);
        export.retire(retention, &BTreeSet::new(), now + Duration::from_secs(31)).unwrap();
        assert_eq!(left(&export), [7, 8]);
    }

    #[test]
    fn what_goes_with_a_snapshot_is_all_that_no_other_one_has() {
        let folder = tempfile::tempdir().unwrap();
        let mut export = Export::open(folder.path(), Vec::new()).unwrap();
        let steps = [
            "a/v1=1 b/v1=1 c/v1=1",
            "a/v1=2 b/v1=1 c/v1=1 c/v2=2",
            "a/v1=2 b/v1=3 c/v1=1 c/v2=4",
            // As it was before, and two components of one rendering.
            "a/v1=1 b/v1=3 c/v2=4 d/v1=1",
            "a/v1=5 b/v2=3 d/v1=6",
            "b/v2=3 d/v1=6",
        ];
        let listed = |name: &str| {
            let entries = std::fs::read_dir(folder.path().join(name)).unwrap().flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name != ".next").collect();
            names.sort();
            names
        };
        let mut have = Contents::new();
        for (sequence, step) in (1..).zip(steps) {
            let header = header(sequence);
            let content = |word: &str| {
                let (name, of) = word.split_once('=').unwrap();
                let hash = StoreHash::of(of);
                std::fs::create_dir_all(folder.path().join(format!("store/{hash}/files"))).unwrap();
                (format!("services/{name}").parse().unwrap(), hash)
            };
            let contents: Contents = step.split_whitespace().map(content).collect();
            export.build(&header, &plan(&have, &contents), false).unwrap();
            export.switch(header, contents.clone()).unwrap();
            have = contents;
            let retention = Retention { last: 2, younger_than: Duration::ZERO };
            export.retire(retention, &BTreeSet::new(), UNIX_EPOCH + Duration::from_secs(5000)).unwrap();
            let left = ["snapshots", "names", "store"].map(listed);
            // Looking at all of it finds nothing more to remove, and nothing that is missing.
            export.discard().unwrap();
            assert_eq!(["snapshots", "names", "store"].map(listed), left, "{step}");
            for kept in export.kept.values() {
                for hash in kept.contents.values() {
                    assert!(left[2].contains(&hash.to_string()), "{step}");
                }
                for versions in by_name(&kept.contents).values() {
                    assert!(left[1].contains(&names_hash(versions).to_string()), "{step}");
                }
            }
            export.prepare_next();
        }
    }

    #[test]
    fn a_folder_that_was_removed_by_hand_blocks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut export = export_with(folder.path(), 1..=4);
        std::fs::remove_dir_all(folder.path().join("snapshots/2")).unwrap();
        let retention = Retention { last: 1, younger_than: Duration::ZERO };
        export.retire(retention, &BTreeSet::new(), UNIX_EPOCH + Duration::from_secs(5000)).unwrap();
        assert_eq!(left(&export), [4]);
    }

    #[test]
    fn a_burst_of_changes_does_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut export = export_with(folder.path(), 1..=100);
        let retention = Retention { last: 2, younger_than: Duration::from_secs(3600) };
        let now = UNIX_EPOCH + Duration::from_secs(1200);
        let took = export.took.values().copied().max().unwrap();
        assert!((BLOCK * 6..BLOCK * 12).contains(&took), "{took}");
        export.retire(retention, &BTreeSet::new(), now).unwrap();
        let room = usize::try_from(YOUNG_BYTES / took).unwrap();
        assert_eq!(left(&export).len(), 2 + room);
        export.took.values_mut().for_each(|took| *took = YOUNG_BYTES);
        export.retire(retention, &BTreeSet::new(), now).unwrap();
        assert_eq!(left(&export).len(), 2 + LEAST_YOUNG, "each is as large as all may be");
        // What an earlier run has made counts as usual.
        let mut export = Export::open(folder.path(), Vec::new()).unwrap();
        export.retire(retention, &BTreeSet::new(), now).unwrap();
        assert_eq!(left(&export).len(), 2 + LEAST_YOUNG);
    }

    #[test]
    fn readers_do_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut export = export_with(folder.path(), 1..=8);
        let held: Vec<File> = (1..=8)
            .map(|sequence| File::open(folder.path().join(format!("snapshots/{sequence}"))).unwrap())
            .inspect(|file| file.try_lock_shared().unwrap())
            .collect();
        let retention = Retention { last: 1, younger_than: Duration::ZERO };
        export.retire(retention, &BTreeSet::new(), UNIX_EPOCH + Duration::from_secs(5000)).unwrap();
        assert_eq!(left(&export).len(), 1 + MOST_HELD);
        assert_eq!(left(&export), [5, 6, 7, 8]);
        drop(held);
    }
}
