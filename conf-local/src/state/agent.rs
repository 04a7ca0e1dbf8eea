//! The handle on the running agent, and the requests to its one task that writes repository and
//! export.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use conf_core::api::{HostState, Pointer};
use conf_core::freshness::Freshness;
use libconf::name::{CommitId, Sequence};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, broadcast, mpsc, oneshot, watch};

use crate::state::{
    exported::{Exported, HistoryEntry, Switched},
    status::Status,
    watermark::{Watermark, Watermarks},
};

/// `history` remembers 200 switches: enough for a busy day, and small on disk.
const HISTORY: usize = 200;
/// A listener may lag by 256 switches before it must read the view again.
const SWITCHES: usize = 256;

/// A handle on the running agent. It is cheap to clone, and answers from memory.
#[derive(Clone)]
pub struct Agent(Arc<Shared>);

struct Shared {
    view: watch::Sender<Arc<View>>,
    switches: broadcast::Sender<Arc<Switched>>,
    requests: mpsc::Sender<WriterRequest>,
    history: Mutex<VecDeque<HistoryEntry>>,
}

/// What the agent knows at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// The host's state.
    pub status: Status,
    /// The snapshot that readers see; `None` until something was exported.
    pub exported: Option<Arc<Exported>>,
    /// The known watermarks.
    pub watermarks: Watermarks,
    /// When conf-master was heard.
    pub freshness: Freshness,
}

impl View {
    /// What is known before anything was exported.
    pub fn new(status: Status) -> Self {
        View { status, exported: None, watermarks: Watermarks::default(), freshness: Freshness::default() }
    }

    /// Sets the central sequence again, after a switch or a new watermark.
    pub(crate) fn raise_central(&mut self) {
        let (sequence, commit) = (self.status.sequence, self.status.commit.unwrap_or(CommitId::ZERO));
        self.status.central = self.watermarks.central(Pointer { sequence, commit });
    }
}

impl Agent {
    /// Creates a handle that starts from `view`, and the queue of requests for the task that
    /// writes.
    pub fn new(view: View, history: Vec<HistoryEntry>) -> (Self, mpsc::Receiver<WriterRequest>) {
        // 4: requests are rare, and each caller waits for its answer. Further callers wait in
        // `send`.
        let (requests, served) = mpsc::channel(4);
        let shared = Shared {
            view: watch::Sender::new(Arc::new(view)),
            switches: broadcast::Sender::new(SWITCHES),
            requests,
            history: Mutex::new(history.into()),
        };
        (Agent(Arc::new(shared)), served)
    }

    /// Returns what is known now.
    pub fn view(&self) -> Arc<View> {
        self.0.view.borrow().clone()
    }

    /// Follows what is known. A slow listener skips views by design.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<View>> {
        self.0.view.subscribe()
    }

    /// Follows every switch. A listener that lags by more than 256 gets `Lagged`, and should read
    /// [`Agent::view`].
    pub(crate) fn switches(&self) -> broadcast::Receiver<Arc<Switched>> {
        self.0.switches.subscribe()
    }

    /// Returns the switches of the past, newest first.
    pub(crate) fn history(&self) -> Vec<HistoryEntry> {
        self.0.history.lock().iter().cloned().collect()
    }

    /// Returns how long the last switch took, from the pointer on; zero without one.
    pub(crate) fn last_took(&self) -> Duration {
        Duration::from_millis(self.0.history.lock().front().map_or(0, |entry| entry.took_ms))
    }

    /// Sends a request and waits until it is done, between two steps of the task that writes.
    pub(crate) async fn ask(&self, request: impl FnOnce(Reply) -> WriterRequest) -> Result<(), RequestError> {
        let stopping = || Err(RequestError::Failed("the agent is stopping".to_owned()));
        self.request(request).await.unwrap_or_else(stopping)
    }

    /// Does the same for a request with another answer. `None` if the agent is stopping.
    pub(crate) async fn request<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> WriterRequest) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.requests.send(request(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Changes what is known. Listeners wake only if something differs.
    pub fn update(&self, change: impl FnOnce(&mut View)) {
        self.0.view.send_if_modified(|view| {
            let mut next = View::clone(view);
            change(&mut next);
            let same_export = next.exported.as_ref().map(Arc::as_ptr) == view.exported.as_ref().map(Arc::as_ptr);
            let modified = !same_export || next.status != view.status;
            *view = Arc::new(next);
            modified
        });
    }

    /// Records a watermark of any snapshot.
    pub(crate) fn record(&self, watermark: Watermark) {
        self.update(|view| {
            view.watermarks.record(watermark);
            view.raise_central();
        });
    }

    /// Remembers and broadcasts a switch. The view must show it already.
    pub fn announce(&self, switched: Switched, entry: HistoryEntry) {
        let mut history = self.0.history.lock();
        history.push_front(entry);
        history.truncate(HISTORY);
        drop(history);
        // An error means that there is no listener.
        let _ = self.0.switches.send(Arc::new(switched));
    }

    /// Notes that something cannot be reached or is damaged. Logs it once, and shows it until it is
    /// back.
    pub(crate) fn set_away(&self, what: &str, reason: &str) {
        let mut new = false;
        self.update(|view| {
            if view.exported.is_none() && view.status.state == HostState::Updating {
                view.status.error = Some(reason.to_owned());
            }
            new = view.status.away.insert(what.to_owned(), reason.to_owned()).is_none();
        });
        if new {
            tracing::warn!(what, reason, "away; the exported files stay in use");
        }
    }

    /// Notes that it is back.
    pub(crate) fn set_back(&self, what: &str) {
        if !self.view().status.away.contains_key(what) {
            return;
        }
        self.update(|view| drop(view.status.away.remove(what)));
        tracing::info!(what, "back");
    }

    /// Notes what something else has changed or removed on this host's disk. Logs what is new, and
    /// the end.
    pub(crate) fn set_damage(&self, damage: Vec<String>) {
        let before = self.view().status.damage.clone();
        if before == damage {
            return;
        }
        for one in damage.iter().filter(|one| !before.contains(one)) {
            tracing::warn!("{one}");
        }
        if damage.is_empty() {
            tracing::info!("the disk is as conf-local left it again");
        }
        self.update(|view| view.status.damage = damage);
    }

    /// Notes whether the central server has deleted the datacenter, and logs a change.
    pub(crate) fn set_deleted(&self, deleted: bool) {
        if self.view().status.deleted == deleted {
            return;
        }
        self.update(|view| view.status.deleted = deleted);
        if let Some(words) = self.view().status.deleted_words() {
            tracing::warn!("{words}");
        } else {
            tracing::info!("the central server has the datacenter again");
        }
    }

    /// Notes that the wanted snapshot is known and on its way.
    pub(crate) fn set_updating(&self) {
        self.update(|view| {
            // A retry is no new state: the reason of the last failure stays visible.
            if view.status.state == HostState::Current {
                view.status.state = HostState::Updating;
            }
        });
    }

    /// Notes that the wanted snapshot could not be taken. Logs a new reason once.
    pub(crate) fn set_failed(&self, reason: &str) {
        let mut new = false;
        self.update(|view| {
            new = view.status.error.as_deref() != Some(reason) || view.status.state != HostState::Failed;
            view.status.state = HostState::Failed;
            view.status.error = Some(reason.to_owned());
        });
        if new {
            tracing::warn!(reason, "the wanted snapshot is not in place; the exported files stay in use");
        }
    }
}

/// Gets the reason if a request was not done.
pub(crate) type Reply = oneshot::Sender<Result<(), RequestError>>;

/// A request to the one task that writes repository and export.
#[derive(Debug)]
pub enum WriterRequest {
    /// Checks repository and export, and with `repair` mends them.
    Verify { repair: bool, reply: oneshot::Sender<VerifyReport> },
    /// Takes a newer snapshot than the exported one, as if the pointer had named it.
    Take { snapshot: Pointer, reply: Reply },
    /// Renders components again whose secrets on this host have other values.
    Secrets { reply: Reply },
    /// Renders an older snapshot beside the exported one.
    Render { older: OlderSnapshot, reply: Reply },
    /// Tidies the packs, which was put off because of endless fetches. The guard keeps fetches
    /// away.
    Tidy { guard: OwnedRwLockWriteGuard<()>, reply: oneshot::Sender<()> },
    /// Verifies that a snapshot is this datacenter's first. The guard keeps its objects here.
    First { snapshot: Pointer, guard: OwnedRwLockReadGuard<()>, reply: Reply },
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The snapshot is not what the server said, so that the server is not trusted.
    #[error("{0}")]
    Wrong(String),
    /// This host, its disk or the way to the servers failed. That says nothing about the server.
    #[error("{0}")]
    Failed(String),
}

/// A snapshot older than the exported one, whose objects are here.
#[derive(Debug)]
pub struct OlderSnapshot {
    pub(crate) snapshot: Pointer,
    /// The last change for which it is the newest.
    pub(crate) through: Sequence,
    /// The snapshot after it, whose signature proves that there is none between. `None` where the
    /// chain of verified snapshots proves it.
    pub(crate) next: Option<Pointer>,
    /// Keeps the objects here until they were used.
    pub(crate) guard: OwnedRwLockReadGuard<()>,
}

/// The findings of `verify`: the answer to `POST /v1/verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The checked change; 0 if nothing is exported.
    pub(crate) sequence: Sequence,
    /// The number of objects that were read from the repository.
    pub(crate) objects: usize,
    /// The number of exported components that were compared with their rendering.
    pub(crate) components: usize,
    /// Each problem in one sentence.
    pub(crate) problems: Vec<String>,
    /// The problems that were mended.
    pub(crate) repaired: Vec<String>,
}

impl VerifyReport {
    /// True if there are no problems, or all were mended.
    pub(crate) fn is_whole(&self) -> bool {
        self.problems.len() == self.repaired.len()
    }
}
