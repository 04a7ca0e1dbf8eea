//! Snapshots that stay beyond the retention: a process reads in them, or has just asked for them.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use libconf::name::Sequence;

use crate::{
    export::{folder::Export, plan::Retention},
    fs::Folder,
};

/// At most 256 stay beyond the retention. Then the oldest go, even if they are in use.
const MOST_HELD: usize = if cfg!(test) { 3 } else { 256 };

impl Export {
    /// Decides which of `outdated` (newest first) go now, and prepares their removal: each loses its name,
    /// and is locked as long as the folder that this returns for it. A snapshot that was removed by hand
    /// has no folder.
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
            // This looks first as well, so that a process that asks again hardly ever finds it missing.
            if asked()? || !folder.lock_alone()? || !self.set_aside(sequence, asked)? {
                held += 1;
                if held <= MOST_HELD {
                    continue;
                }
                tracing::warn!(%sequence, "removed although it is in use: {MOST_HELD} older snapshots are kept for readers already");
            }
            gone.push((sequence, Some(folder)));
        }
        Ok(gone)
    }

    /// Takes a snapshot's name away. If a process asks for it at this moment, gives the name back and
    /// returns false.
    fn set_aside(&self, sequence: Sequence, asked: impl Fn() -> io::Result<bool>) -> io::Result<bool> {
        let (name, aside) = (sequence.to_string(), format!(".{sequence}.gone"));
        if self.snapshots.rename(&name, &self.snapshots, &aside).is_err() {
            // A full disk refuses even the renaming. Then the folder is removed under its own name.
            return Ok(!asked()?);
        }
        // The stamp of a process that asked before is visible here. A process that asks later finds nothing.
        if !asked()? {
            return Ok(true);
        }
        self.snapshots.rename(&aside, &self.snapshots, &name)?;
        Ok(false)
    }

    /// True if a process asked for the snapshot within the given time. A folder has the time of its header
    /// when it is built, and a later one when a process asks for it. One that nothing ever switched to was
    /// built because a process asked.
    fn was_asked(&self, sequence: Sequence, folder: &Folder, within: Duration, now: SystemTime) -> io::Result<bool> {
        let asked = folder.stamped()?;
        let asked_for = asked > self.placed(sequence) || self.is_older(sequence);
        Ok(asked_for && now.duration_since(asked).unwrap_or_default() < within)
    }

    pub(crate) fn placed(&self, sequence: Sequence) -> SystemTime {
        let header = self.kept.get(&sequence).and_then(|kept| kept.header.as_ref());
        UNIX_EPOCH + Duration::from_secs(header.map_or(0, |header| header.time))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs::File, path::Path};

    use conf_core::render::StoreHash;

    use super::*;
    use crate::export::{Contents, plan, tests::header};

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
    fn a_folder_that_was_removed_by_hand_blocks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut export = export_with(folder.path(), 1..=4);
        std::fs::remove_dir_all(folder.path().join("snapshots/2")).unwrap();
        let retention = Retention { last: 1, younger_than: Duration::ZERO };
        export.retire(retention, &BTreeSet::new(), UNIX_EPOCH + Duration::from_secs(5000)).unwrap();
        assert_eq!(left(&export), [4]);
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
