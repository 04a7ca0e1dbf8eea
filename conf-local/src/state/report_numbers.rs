//! The numbers of this host's reports: each is higher than all before it, whatever the clock says.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use conf_core::git::Durability;
use serde::{Deserialize, Serialize};

use crate::fs::{StateLock, read_state, replace_state};

/// 1000 numbers are reserved at once: one write for a day of reports, and a start gives up no more.
/// At one number for each millisecond since 1970, even an agent that starts every second stays
/// behind the clock.
const BLOCK: u64 = 1000;

/// Gives every report its number.
///
/// The first is the time, in milliseconds since 1970. So a host that lost its state goes on above
/// its old numbers, which grow slower than time does.
#[derive(Debug)]
pub(crate) struct ReportNumbers {
    file: PathBuf,
    last: u64,
    reserved: u64,
    is_told: bool,
    /// What keeps another agent from the state folder.
    lock: Option<StateLock>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Reserved {
    /// All numbers up to this one may have been used.
    reserved: u64,
}

impl ReportNumbers {
    /// Goes on above every number that was used with this state folder.
    pub(crate) fn open(state: &Path) -> Self {
        let file = state.join("reports.json");
        let Reserved { mut reserved } = read_state(&file).unwrap_or_else(|error| {
            tracing::warn!(%error, "{} cannot be read; reports are numbered by the clock", file.display());
            Reserved::default()
        });
        if reserved == 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            reserved = u64::try_from(now).unwrap_or(u64::MAX / 2);
        }
        ReportNumbers { file, last: reserved, reserved, is_told: false, lock: None }
    }

    /// Has it write only while this lock is held.
    #[must_use]
    pub(crate) fn behind(self, lock: StateLock) -> Self {
        ReportNumbers { lock: Some(lock), ..self }
    }

    /// Returns the next number. What cannot be written holds up no report: after a restart a number
    /// may then come again.
    pub(crate) async fn next(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        if self.last > self.reserved {
            let (file, reserved) = (self.file.clone(), self.last.saturating_add(BLOCK));
            let lock = self.lock.clone();
            let write = move || {
                lock.as_ref().map_or(Ok(()), StateLock::expect_held)?;
                replace_state(&file, &Reserved { reserved }, Durability::Full)
            };
            match tokio::task::spawn_blocking(write).await.map_err(Into::into).flatten() {
                Ok(()) => (self.reserved, self.is_told) = (reserved, false),
                Err(error) if !std::mem::replace(&mut self.is_told, true) => {
                    tracing::warn!(%error, "{} cannot be written", self.file.display());
                }
                Err(_) => {}
            }
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numbers_grow_over_restarts_and_begin_with_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let open = || ReportNumbers::open(folder.path());
        let mut numbers = open();
        let first = numbers.next().await;
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        // The first comes right after the time, so within one millisecond it is the higher one.
        assert!(first <= now + 1 && now < first + 60_000, "{first} {now}");
        assert_eq!(numbers.next().await, first + 1);
        let mut again = open();
        let second = again.next().await;
        assert!(second > first + 1);
        for _ in 0..=BLOCK {
            again.next().await;
        }
        assert!(open().next().await > again.last);
        // A clock that was set back changes nothing.
        let ahead = Reserved { reserved: now + 3_600_000 };
        replace_state(&folder.path().join("reports.json"), &ahead, Durability::None).unwrap();
        assert_eq!(open().next().await, now + 3_600_001);
        std::fs::write(folder.path().join("reports.json"), "damaged").unwrap();
        assert!(open().next().await > first);
        // Another agent may have the state: its file stays as it is.
        let lock = StateLock::take(folder.path()).unwrap();
        let mut kept_out = open().behind(lock);
        std::fs::remove_file(folder.path().join("conf.lock")).unwrap();
        let before = std::fs::read(folder.path().join("reports.json")).unwrap();
        assert!(kept_out.next().await < kept_out.next().await);
        assert_eq!(std::fs::read(folder.path().join("reports.json")).unwrap(), before);
        // Where nothing can be written, reports are numbered all the same.
        let mut nowhere = ReportNumbers::open(&folder.path().join("absent"));
        assert!(nowhere.next().await < nowhere.next().await);
    }
}
