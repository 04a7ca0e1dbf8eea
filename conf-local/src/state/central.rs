//! The host's central sequence: the highest change for which this host knows that what it exports is its datacenter's newest
//! snapshot not above it.
//!
//! It rises by watermarks, which conf-master signs: in the answers to this host's reports, and in answers to questions for a sequence. `export/central`
//! tells processes of it, so that they need not ask; it is not synced, and a reader that finds it missing, or about another
//! snapshot than `current`, takes the snapshot's own sequence.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
};

use conf_core::{
    api::{Pointer, WatermarkEvent},
    sign::{self, KeyError, TrustedKeys},
};
use libconf::name::{DatacenterName, Sequence};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{fs::Folder, state::Agent};

/// That the datacenter's newest snapshot not above `central` is `snapshot`: a fact, true for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// That snapshot.
    pub snapshot: Pointer,
    /// Up to which change it is the newest.
    pub central: Sequence,
}

impl Watermark {
    /// What conf-master has signed for this datacenter, whoever brought it.
    pub fn proven(event: &WatermarkEvent, datacenter: &DatacenterName, keys: &TrustedKeys) -> Result<Self, KeyError> {
        sign::verify_watermark(event, datacenter, keys)?;
        Ok(Watermark { snapshot: event.newest(), central: event.central })
    }
}

/// What `export/central` says: the host's central sequence, for who finds the snapshot `sequence` to be current.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The change that made the snapshot.
    pub sequence: Sequence,
    /// Up to which change it is the newest.
    pub central: Sequence,
}

/// Snapshots whose watermarks are remembered: the exported one, and some that are not exported yet.
const MOST_HEARD: usize = 16;

/// What was heard of the exported snapshot and newer ones, by the snapshot; what was heard last at the end.
///
/// What is exported stays, however long newer ones cannot be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard(VecDeque<Watermark>);

impl Heard {
    /// Takes note of a watermark.
    pub fn hear(&mut self, mut watermark: Watermark) {
        if let Some(known) = self.0.iter().position(|known| known.snapshot == watermark.snapshot) {
            // A late answer takes nothing back.
            watermark.central =
                self.0.remove(known).map_or(watermark.central, |known| known.central.max(watermark.central));
        }
        self.0.push_back(watermark);
        if self.0.len() > MOST_HEARD {
            self.0.pop_front();
        }
    }

    /// The central sequence of a host that exports `snapshot`; what is said of older ones is not needed any more.
    pub fn central(&mut self, snapshot: Pointer) -> Sequence {
        self.0.retain(|heard| heard.snapshot.sequence >= snapshot.sequence);
        let exported = self.0.iter().position(|heard| heard.snapshot == snapshot);
        let Some(heard) = exported.and_then(|exported| self.0.remove(exported)) else { return snapshot.sequence };
        self.0.push_back(heard);
        heard.central.max(snapshot.sequence)
    }
}

const FILE: &str = "central";
const NEW: &str = ".central.new";
const MOST_BYTES: u64 = 4096;

/// What `export/central` says; nothing when it cannot be read.
pub fn read(export: &Path) -> Option<Written> {
    let (text, _) = Folder::existing(export).ok()?.read(FILE, MOST_BYTES).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Lets the agent know what it had written of what it exports: that was proven then.
pub fn recall(agent: &Agent, export: &Path) {
    if let (Some(exported), Some(written)) = (&agent.view().exported, read(export))
        && exported.sequence == written.sequence
    {
        let snapshot = Pointer { sequence: exported.sequence, commit: exported.commit };
        agent.hear(Watermark { snapshot, central: written.central });
    }
}

fn write(export: &Path, written: Written) -> io::Result<()> {
    let folder = Folder::existing(export)?;
    folder.remove(NEW)?;
    folder.write(NEW, &serde_json::to_vec(&written)?, 0o444)?;
    folder.rename(NEW, &folder, FILE)
}

/// Keeps `export/central` as the view has it, until `stop`. A failure is told, and made good at the next rise.
pub async fn run(agent: Agent, export: PathBuf, stop: CancellationToken) {
    let mut views = agent.follow();
    let mut written = read(&export);
    loop {
        let status = &views.borrow_and_update().status.clone();
        let now = Written { sequence: status.sequence, central: status.central };
        if status.commit.is_some() && written != Some(now) {
            let path = export.clone();
            match spawn_blocking(move || write(&path, now)).await {
                Ok(Ok(())) => written = Some(now),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "export/central could not be written; processes pin an older sequence");
                }
                Err(error) => tracing::warn!(%error, "export/central was not written"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_counts_for_its_snapshot_alone() {
        let mut heard = Heard::default();
        let at = |sequence: u64| Pointer {
            sequence: Sequence(sequence),
            commit: [u8::try_from(sequence).unwrap(); 20].into(),
        };
        let mut hear = |snapshot, central| heard.hear(Watermark { snapshot: at(snapshot), central: Sequence(central) });
        hear(5, 9);
        hear(5, 7);
        // Of a snapshot that is on its way.
        hear(10, 12);
        assert_eq!(heard.central(at(5)), Sequence(9));
        // Of another history.
        assert_eq!(heard.central(Pointer { commit: [77; 20].into(), ..at(10) }), Sequence(10));
        assert_eq!(heard.central(at(10)), Sequence(12));
        assert_eq!(heard.central(at(13)), Sequence(13));
        heard.hear(Watermark { snapshot: at(14), central: Sequence(20) });
        assert_eq!(heard.central(at(14)), Sequence(20));
        // Those that cannot be taken.
        for snapshot in 100..200 {
            heard.hear(Watermark { snapshot: at(snapshot), central: Sequence(snapshot) });
            assert_eq!(heard.central(at(14)), Sequence(20));
        }
        assert!(heard.0.len() <= MOST_HEARD);
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let written = Written { sequence: Sequence(3), central: Sequence(8) };
        assert_eq!(read(folder.path()), None);
        write(folder.path(), written).unwrap();
        write(folder.path(), written).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join(FILE)).unwrap(), r#"{"sequence":3,"central":8}"#);
        assert_eq!(read(folder.path()), Some(written));
        std::fs::write(folder.path().join("other"), "").unwrap();
        std::fs::rename(folder.path().join("other"), folder.path().join(FILE)).unwrap();
        assert_eq!(read(folder.path()), None);
    }
}
