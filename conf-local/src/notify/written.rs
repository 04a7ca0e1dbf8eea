//! Writing the outbox and the registrations, beside everything else that the agent does.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use conf_core::daemon;
use tokio::{sync::OwnedMutexGuard, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::notify::{
    registrations::{self, Registration},
    registry::Registry,
};

/// 5 s: what could not be written is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

impl Registry {
    /// Writes the outbox and the registrations, the newest content of each, one after the other,
    /// whenever one has changed, until everybody was told. A disk that stalls keeps no other task
    /// waiting.
    pub(crate) async fn write_all(&self, told: &CancellationToken) {
        let mut is_known = false;
        loop {
            let is_over = told.run_until_cancelled(self.outbox.unwritten()).await.is_none();
            let (outbox, registrations) = (Arc::clone(&self.outbox), self.write_registrations().await);
            let notices = daemon::blocking(move || outbox.write()).await;
            if is_over {
                return;
            }
            let Err(error) = notices.and(registrations) else {
                is_known = false;
                continue;
            };
            if !std::mem::replace(&mut is_known, true) {
                tracing::warn!(%error, "the outbox or the registrations cannot be written; after a restart a watcher may be told once more");
            }
            told.run_until_cancelled(sleep(AGAIN)).await;
            self.outbox.write_soon();
        }
    }

    /// Writes the registered processes down if the file is behind.
    async fn write_registrations(&self) -> io::Result<()> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if !self.is_unwritten.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let (saved, _turn) = self.save(self.registrations(), turn).await;
        saved.inspect_err(|_| self.is_unwritten.store(true, Ordering::Relaxed))
    }

    pub(crate) fn registrations(&self) -> Vec<Registration> {
        self.watchers.lock().values().filter_map(|watcher| watcher.registration.clone()).collect()
    }

    /// Writes these registered processes down, unless another agent may have the state folder. The
    /// turn comes back, and is over only after the write, even if nobody waits for it any more.
    pub(crate) async fn save(
        &self,
        registered: Vec<Registration>,
        turn: OwnedMutexGuard<()>,
    ) -> (io::Result<()>, OwnedMutexGuard<()>) {
        let (file, outbox) = (self.file.clone(), Arc::clone(&self.outbox));
        let save = move || {
            let saved = outbox.expect_held().and_then(|()| registrations::save(&file, &registered));
            (saved, turn)
        };
        daemon::blocking(save).await
    }
}
