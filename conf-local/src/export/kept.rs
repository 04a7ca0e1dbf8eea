//! Kept snapshots as others in the agent find them, without the writer of the export; and snapshots
//! that are only rendered for operations.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use libconf::name::{CommitId, HostName, Sequence};

use crate::{
    export::{
        error::ExportError,
        folder::Export,
        names::{HEADER, MOST_HEADER_BYTES},
        plan::{Contents, ExportPlan, Header},
    },
    fs::Folder,
};

/// Returns the path of a snapshot's own folder in `export`.
pub(crate) fn directory(export: &Path, sequence: Sequence) -> PathBuf {
    export.join("snapshots").join(sequence.to_string())
}

/// Returns the folder of a snapshot if it is still kept.
pub(crate) fn kept(export: &Path, sequence: Sequence) -> Option<PathBuf> {
    Some(directory(export, sequence)).filter(|directory| directory.is_dir())
}

/// Lists the snapshots that have a folder, whole or not.
pub(crate) fn sequences(export: &Path) -> BTreeSet<Sequence> {
    let entries = std::fs::read_dir(export.join("snapshots")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Reads the header of a snapshot's folder; `None` if it cannot be read.
pub(crate) fn header(export: &Path, sequence: Sequence) -> Option<Header> {
    read_header(&Folder::existing(&directory(export, sequence)).ok()?, sequence)
}

pub(crate) fn read_header(folder: &Folder, sequence: Sequence) -> Option<Header> {
    let (bytes, _) = folder.read(HEADER, MOST_HEADER_BYTES).ok()?;
    serde_json::from_slice::<Header>(&bytes).ok().filter(|header| header.sequence == sequence)
}

/// Lets a kept snapshot stay for the whole time of the retention from now on. `None` if it is not
/// here, or is just being removed.
pub(crate) fn renew(export: &Path, sequence: Sequence, now: SystemTime) -> io::Result<Option<Header>> {
    let path = directory(export, sequence);
    let open = || match Folder::existing(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    let Some(folder) = open()? else { return Ok(None) };
    let Some(header) = read_header(&folder, sequence) else { return Ok(None) };
    let placed = UNIX_EPOCH + Duration::from_secs(header.time);
    folder.stamp(now.max(placed + Duration::from_secs(1)))?;
    // The agent renames a folder before it removes it, and then reads the stamp once more. So
    // either it sees this stamp, or the folder is missing here.
    match open()? {
        Some(again) if folder.is_same(&again)? => Ok(Some(header)),
        _ => Ok(None),
    }
}

impl Export {
    /// Returns the path of a snapshot's own folder.
    pub(crate) fn directory(&self, sequence: Sequence) -> PathBuf {
        directory(&self.path, sequence)
    }

    /// Builds an older snapshot beside the current one, which readers still see. `plan` says what
    /// the two share.
    pub(crate) fn keep_older(
        &mut self,
        header: Header,
        plan: &ExportPlan,
        contents: Contents,
    ) -> Result<(), ExportError> {
        // The links that were made ahead belong to the next snapshot.
        let next = self.next.take();
        let built = self.build(&header, plan, false).and_then(|()| self.make_durable());
        self.next = next;
        built?;
        self.take_up(header, contents).map(drop)
    }

    /// True if this very snapshot is kept, rendered for this host. Forgets one that was removed by
    /// hand.
    pub(crate) fn keeps(&mut self, sequence: Sequence, commit: CommitId, host: &HostName) -> bool {
        if !self.directory(sequence).is_dir() {
            self.kept.remove(&sequence);
        }
        let header = self.kept.get(&sequence).and_then(|kept| kept.header.as_ref());
        header.is_some_and(|header| header.commit == commit && header.host == *host)
    }

    /// True for a snapshot that nothing ever switched to.
    pub(crate) fn is_older(&self, sequence: Sequence) -> bool {
        self.kept.get(&sequence).and_then(|kept| kept.header.as_ref()).is_some_and(|header| header.through.is_some())
    }
}
