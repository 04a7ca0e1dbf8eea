//! The file `export/central`: the host's central sequence, which is the highest change for which
//! this host knows that its exported snapshot is its datacenter's newest not above it.
//!
//! The sequence rises by watermarks, which conf-master signs. They come in the answers to this
//! host's reports, and in answers to questions for a sequence. Processes read the file, so that
//! they need not ask. It is not synced. If it is missing or about another snapshot than `current`,
//! a process takes the snapshot's own sequence, so nothing is written while that is the highest.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use conf_core::retry::with_jitter;
use libconf::name::Sequence;
use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    fs::{Folder, StateLock},
    state::{agent::Agent, watermark::Watermark},
};

/// The content of `export/central`. It counts only while the snapshot `sequence` is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Central {
    /// The change that made the snapshot.
    sequence: Sequence,
    /// The last change for which it is the newest.
    central: Sequence,
}

impl Central {
    /// True if the file tells more than its absence.
    fn is_news(self) -> bool {
        self.central > self.sequence
    }
}

const FILE: &str = "central";
const NEW: &str = ".central.new";
/// 4 KiB: far above the size of two numbers.
const MOST_BYTES: u64 = 4096;

/// Reads `export/central`; `None` if it cannot be read.
fn read(export: &Path) -> Option<Central> {
    let (text, _) = Folder::existing(export).ok()?.read(FILE, MOST_BYTES).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Gives the agent back what it wrote about the exported snapshot before it was started again: that
/// was proven then.
pub(crate) fn recall(agent: &Agent, export: &Path) {
    if let (Some(exported), Some(written)) = (&agent.view().exported, read(export))
        && exported.sequence == written.sequence
    {
        agent.record(Watermark { snapshot: exported.snapshot(), central: written.central });
    }
}

fn write(export: &Path, central: Central) -> io::Result<()> {
    let folder = Folder::existing(export)?;
    folder.remove(NEW)?;
    folder.write(NEW, &serde_json::to_vec(&central)?, 0o444)?;
    folder.rename(NEW, &folder, FILE)
}

/// 10 s between two looks at most: the file may have been removed, or could not be written.
const LOOK: Duration = Duration::from_secs(10);

/// Keeps `export/central` equal to the view, until `stop`, unless another agent has the state. A
/// failure is logged, and repaired at the next look.
pub(crate) async fn run(agent: Agent, export: PathBuf, lock: StateLock, stop: CancellationToken) {
    let mut views = agent.follow();
    let mut written = read(&export);
    // A failure that goes on is logged once.
    let mut failed = None;
    loop {
        let status = &views.borrow_and_update().status.clone();
        let now = Central { sequence: status.sequence, central: status.central };
        if now.is_news() && status.commit.is_some() && written != Some(now) {
            let (path, lock) = (export.clone(), lock.clone());
            let write = move || if lock.is_held() { write(&path, now).map(|()| true) } else { Ok(false) };
            match spawn_blocking(write).await {
                Ok(Ok(true)) => (written, failed) = (Some(now), None),
                Ok(Err(error)) if failed.as_ref() != Some(&error.to_string()) => {
                    tracing::warn!(%error, "export/central could not be written; processes pin an older sequence");
                    failed = Some(error.to_string());
                }
                // Another agent may have the state; or the failure goes on.
                Ok(Ok(false) | Err(_)) => {}
                Err(error) => tracing::warn!(%error, "export/central was not written"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
            () = sleep(with_jitter(LOOK)) => {
                let path = export.clone();
                written = spawn_blocking(move || read(&path)).await.unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_sequence_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let written = Central { sequence: Sequence(3), central: Sequence(8) };
        assert_eq!(read(folder.path()), None);
        // Without the file, the snapshot's own sequence counts.
        assert!(written.is_news() && !Central { sequence: Sequence(8), ..written }.is_news());
        write(folder.path(), written).unwrap();
        write(folder.path(), written).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join(FILE)).unwrap(), r#"{"sequence":3,"central":8}"#);
        assert_eq!(read(folder.path()), Some(written));
        std::fs::write(folder.path().join("other"), "").unwrap();
        std::fs::rename(folder.path().join("other"), folder.path().join(FILE)).unwrap();
        assert_eq!(read(folder.path()), None);
    }
}
