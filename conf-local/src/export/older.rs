//! Kept snapshots as others find them, without the one who writes the export; and those that are only rendered for operations.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use libconf::name::{CommitId, HostName, Sequence};

use crate::export::{Contents, Export, ExportError, HEADER, Header, MOST_HEADER_BYTES, Plan};
use crate::fs::Folder;

/// What came of asking for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asking {
    /// It stays for the whole time of the retention from now on.
    Kept(Box<Header>),
    /// It is not here, or just being removed.
    Gone,
}

/// Where a snapshot's own folder is in `export`.
pub fn directory(export: &Path, sequence: Sequence) -> PathBuf {
    export.join("snapshots").join(sequence.to_string())
}

/// The snapshots that have a folder, whole or not.
pub fn sequences(export: &Path) -> BTreeSet<Sequence> {
    let entries = std::fs::read_dir(export.join("snapshots")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What a snapshot's folder says of itself; nothing when that cannot be read.
pub fn header(export: &Path, sequence: Sequence) -> Option<Header> {
    read_header(&Folder::existing(&directory(export, sequence)).ok()?, sequence)
}

pub(crate) fn read_header(folder: &Folder, sequence: Sequence) -> Option<Header> {
    let (bytes, _) = folder.read(HEADER, MOST_HEADER_BYTES).ok()?;
    serde_json::from_slice::<Header>(&bytes).ok().filter(|header| header.sequence == sequence)
}

/// Lets a kept snapshot stay for the whole time of the retention from now on.
pub fn ask(export: &Path, sequence: Sequence, now: SystemTime) -> io::Result<Asking> {
    let path = directory(export, sequence);
    let open = || match Folder::existing(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    let Some(folder) = open()? else { return Ok(Asking::Gone) };
    let Some(header) = read_header(&folder, sequence) else { return Ok(Asking::Gone) };
    let placed = UNIX_EPOCH + Duration::from_secs(header.time);
    folder.stamp(now.max(placed + Duration::from_secs(1)))?;
    // Whoever removes it takes its name away, and looks at the stamp once more after that: one of the two sees the other.
    match open()? {
        Some(there) if folder.is_same(&there)? => Ok(Asking::Kept(Box::new(header))),
        _ => Ok(Asking::Gone),
    }
}

impl Export {
    /// Builds a snapshot beside the current one, which stays what readers see. `plan` says what it shares with that one.
    pub fn keep_older(&mut self, header: Header, plan: &Plan, contents: Contents) -> Result<(), ExportError> {
        // The links that were made ahead are the next snapshot's.
        let next = self.next.take();
        let built = self.build(&header, plan, false);
        self.next = next;
        built?;
        self.take_up(header, contents).map(drop)
    }

    /// True when this very snapshot is kept, rendered for this host. One that somebody removed by hand is forgotten.
    pub fn keeps(&mut self, sequence: Sequence, commit: CommitId, host: &HostName) -> bool {
        if !self.directory(sequence).is_dir() {
            self.kept.remove(&sequence);
        }
        let header = self.kept.get(&sequence).and_then(|kept| kept.header.as_ref());
        header.is_some_and(|header| header.commit == commit && header.host == *host)
    }

    /// True for one that was never switched to.
    pub(crate) fn is_older(&self, sequence: Sequence) -> bool {
        self.kept.get(&sequence).and_then(|kept| kept.header.as_ref()).is_some_and(|header| header.through.is_some())
    }
}
