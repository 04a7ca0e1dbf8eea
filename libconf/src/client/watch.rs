//! The events of the export directory.

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::{BuildHasher, Hasher},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::mpsc::SyncSender,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// The system's watch on the export directory, renewed when another directory has its name.
pub(crate) struct ExportWatch {
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the watched directory.
    watched: Option<(u64, u64)>,
}

impl ExportWatch {
    pub(crate) fn new(export_dir: &Path, wake: SyncSender<()>) -> Self {
        // A full channel means that a look is due anyway, and one look sees everything.
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = wake.try_send(());
            }
        });
        let mut watch = ExportWatch { watcher: watcher.ok(), watched: None };
        watch.renew(export_dir);
        watch
    }

    pub(crate) fn renew(&mut self, export_dir: &Path) {
        let there = fs::metadata(export_dir).map(|found| (found.dev(), found.ino())).ok();
        let Some(watcher) = self.watcher.as_mut().filter(|_| there.is_none() || there != self.watched) else { return };
        // The system has dropped the watch on a removed directory already.
        let _ = watcher.unwatch(export_dir);
        self.watched = there.filter(|_| watcher.watch(export_dir, RecursiveMode::NonRecursive).is_ok());
    }

    pub(crate) fn sees(&self) -> bool {
        self.watched.is_some()
    }
}

/// Returns a random time between three quarters of `time` and all of it, so that the processes of a
/// host do not all look at once.
pub(crate) fn jittered(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    let share = u32::try_from(random % 256).unwrap_or_default();
    time.saturating_sub(time / 1024 * share)
}
