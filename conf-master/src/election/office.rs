//! What the landing thread knows of the election: whether this server leads for sure, and how it
//! has the list of those in sync changed.

use std::collections::BTreeSet;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use libconf::name::HostName;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

use crate::landing::Office;

/// How long a change of the list may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time since this machine started, with the time in which it slept.
pub(crate) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// The list of those in sync shall be this one; the answer says whether it is.
pub(crate) struct KeepOnly {
    /// The list.
    pub(crate) standbys: BTreeSet<HostName>,
    /// The answer.
    pub(crate) reply: SyncSender<bool>,
}

/// The lock, as far as it is known.
#[derive(Debug)]
pub(crate) struct LockOffice {
    /// Until then nobody else gets the lock; by [`since_boot`].
    until: Mutex<Option<Duration>>,
    requests: mpsc::Sender<KeepOnly>,
}

impl LockOffice {
    /// The lock is not held; requests go to the other end of the channel.
    pub(crate) fn new() -> (Self, mpsc::Receiver<KeepOnly>) {
        let (requests, received) = mpsc::channel(1);
        (LockOffice { until: Mutex::default(), requests }, received)
    }

    /// The lock is held until then for sure.
    pub(crate) fn hold_until(&self, until: Duration) {
        *self.until.lock() = Some(until);
    }

    /// The lock is not held.
    pub(crate) fn end(&self) {
        *self.until.lock() = None;
    }

    /// How long it is held for sure.
    pub(crate) fn left(&self) -> Duration {
        self.until.lock().unwrap_or_default().saturating_sub(since_boot())
    }
}

impl Office for LockOffice {
    fn is_held(&self) -> bool {
        !self.left().is_zero()
    }

    fn keep_only(&self, standbys: BTreeSet<HostName>) -> bool {
        let (reply, answer) = sync_channel(1);
        let is_asked = self.is_held() && self.requests.try_send(KeepOnly { standbys, reply }).is_ok();
        is_asked && answer.recv_timeout(PATIENCE).unwrap_or(false)
    }
}
