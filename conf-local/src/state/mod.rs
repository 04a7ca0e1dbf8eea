//! What the agent knows, as everybody else in the process sees it: one consistent view behind one channel.

pub mod central;

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use conf_core::{
    api::{HostState, Pin, Pointer},
    daemon::chain,
    render::StoreHash,
};
use libconf::name::{CommitId, ComponentSelector, ComponentVersion, DatacenterName, HostName, Sequence};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, broadcast, mpsc, oneshot, watch};

use crate::{
    place::PlaceStatus,
    probe::{self, ProbeStatus},
    process::command::WordsFor,
    state::central::{Heard, Watermark},
    transaction::{TransactionError, check::CheckStatus},
};

/// How many changes `history` remembers.
pub const HISTORY: usize = 200;
/// How many changes a slow listener may be behind before it is told to look at the view again.
const SWITCHES: usize = 256;

/// Handle on the running agent: cheap to clone, answers from memory.
#[derive(Clone, Debug)]
pub struct Agent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    view: watch::Sender<Arc<View>>,
    switches: broadcast::Sender<Arc<Switched>>,
    requests: mpsc::Sender<Request>,
    history: Mutex<VecDeque<HistoryEntry>>,
}

/// What the agent knows at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// How it fares.
    pub status: Status,
    /// What readers see; `None` until something was exported.
    pub exported: Option<Arc<Exported>>,
    /// Which watermarks were heard.
    pub heard: Heard,
}

impl View {
    /// What is known before anything was exported.
    pub fn new(status: Status) -> Self {
        View { status, exported: None, heard: Heard::default() }
    }

    /// Another snapshot is exported, or a watermark was heard.
    pub(crate) fn raise_central(&mut self) {
        let (sequence, commit) = (self.status.sequence, self.status.commit.unwrap_or(CommitId::ZERO));
        self.status.central = self.heard.central(Pointer { sequence, commit });
    }
}

/// The host's state in plain values: the body of `GET /v1/status`, to which the service adds `watchers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Which datacenter this host follows.
    pub datacenter: DatacenterName,
    /// Which host this is.
    pub host: HostName,
    /// The sequence of what is exported; 0 for nothing yet.
    pub sequence: Sequence,
    /// The snapshot that is exported.
    pub commit: Option<CommitId>,
    /// Up to which change of the central repository it is known to be the datacenter's newest; at least its own sequence.
    #[serde(default)]
    pub central: Sequence,
    /// The absolute path of `export/`.
    pub export: PathBuf,
    /// The absolute path of the snapshot's own folder in `export/`, with no link in it; `None` for nothing yet.
    pub current: Option<PathBuf>,
    /// How it fares.
    pub state: HostState,
    /// Why it is not `current`, in words.
    pub error: Option<String>,
    /// What the authoritative pointer said when it was last read.
    pub pointer: Option<PointerSeen>,
    /// When what is exported was switched to, RFC 3339, UTC.
    pub since: Option<String>,
    /// How many components are exported.
    pub components: usize,
    /// Components that are not as the snapshot has them: not rendered, not passed by a check, not placed; with the reason. Each
    /// keeps its files of before, if it had any.
    #[serde(default)]
    pub faults: BTreeMap<ComponentVersion, String>,
    /// What cannot be reached just now, with the reason.
    #[serde(default)]
    pub away: BTreeMap<String, String>,
    /// False when the datacenter's inventory does not list this host, or gives it no components: it runs everything.
    pub listed: bool,
    /// How the checks of this host's configuration fared last.
    #[serde(default)]
    pub checks: Vec<CheckStatus>,
    /// How the placements of this host's configuration fare.
    #[serde(default)]
    pub placements: Vec<PlaceStatus>,
    /// How the probes of this host's configuration fared last.
    #[serde(default)]
    pub probes: Vec<ProbeStatus>,
    /// True when it tells nobody and places nothing (`--observe`).
    #[serde(default)]
    pub observe: bool,
    /// The agent's version.
    pub agent: String,
}

impl Status {
    /// What is known before anything was looked at.
    pub fn new(datacenter: DatacenterName, host: HostName, export: &Path) -> Self {
        Status {
            datacenter,
            host,
            sequence: Sequence(0),
            commit: None,
            central: Sequence(0),
            export: export.to_owned(),
            current: None,
            state: HostState::Updating,
            error: None,
            pointer: None,
            since: None,
            components: 0,
            faults: BTreeMap::new(),
            away: BTreeMap::new(),
            listed: true,
            checks: Vec::new(),
            placements: Vec::new(),
            probes: Vec::new(),
            observe: false,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// What is wanted is exported; components that were held back, or are not well, are all that can be wrong with it.
    pub fn settle(&mut self) {
        let first = self.faults.iter().next().map(|(name, reason)| format!("{name}: {reason}"));
        let held_back = first.map(|first| format!("{} held back; {first}", self.faults.len()));
        self.error = held_back.or_else(|| probe::failing(&self.probes).into_iter().next());
        self.state = if self.error.is_none() { HostState::Current } else { HostState::Failed };
    }

    /// The same, unless something newer is wanted that is on its way or could not be taken.
    pub(crate) fn judge(&mut self) {
        let arrived = self.pointer.is_none_or(|pointer| pointer.sequence == self.sequence);
        if arrived && self.state != HostState::Updating {
            self.settle();
        }
    }
}

/// The authoritative pointer as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointerSeen {
    /// The change that made the snapshot.
    pub sequence: Sequence,
    /// The snapshot.
    pub commit: CommitId,
}

/// A snapshot on this host's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The change that made it.
    pub sequence: Sequence,
    /// The snapshot.
    pub commit: CommitId,
    /// Its own folder, `export/snapshots/<sequence>`, absolute: what `CONF_EXPORT` gets.
    pub directory: PathBuf,
    /// What this host runs of it.
    pub components: BTreeMap<ComponentVersion, ExportedComponent>,
}

/// One component on this host's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedComponent {
    /// The name of its entry in `export/store/`: the SHA-256 of what was rendered.
    pub store: StoreHash,
    /// What was pinned; `None` when the repository that knew it was lost.
    pub pin: Option<Pin>,
    /// False when it is known that no secret is in it.
    pub reads_secrets: bool,
}

impl Exported {
    /// Every version that `selector` names, in order.
    pub fn matching(
        &self,
        selector: &ComponentSelector,
    ) -> impl Iterator<Item = (&ComponentVersion, &ExportedComponent)> {
        self.components.iter().filter(move |(component, _)| selector.matches(component))
    }

    /// Who may be shown what a command says that looks at these. One that is not exported any more may have held secrets.
    pub(crate) fn words_for(&self, components: &[ComponentVersion]) -> WordsFor {
        let is_plain = |one: &ComponentVersion| self.components.get(one).is_some_and(|one| !one.reads_secrets);
        if components.iter().all(is_plain) { WordsFor::Everybody } else { WordsFor::Nobody }
    }

    /// Where a component's files are.
    pub fn files(&self, component: &ComponentVersion) -> PathBuf {
        self.directory.join(component.to_string())
    }

    /// Where a component's settings are: one JSON object.
    pub fn settings(&self, component: &ComponentVersion) -> PathBuf {
        self.directory.join(format!("{component}.json"))
    }
}

/// What changed for a component from one export to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was not there before.
    Added,
    /// Its rendered output is another.
    Changed,
    /// It is gone.
    Removed,
}

/// `current` was switched: sent to everyone in the process after readers can see the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    /// The change that is exported now.
    pub sequence: Sequence,
    /// Its snapshot.
    pub commit: CommitId,
    /// Whose rendered output differs from the export before.
    pub changed: BTreeMap<ComponentVersion, ChangeKind>,
    /// Its own folder, `export/snapshots/<sequence>`, absolute.
    pub export: PathBuf,
}

/// One switch of the past, newest first in `GET /v1/history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The change that was exported.
    pub sequence: Sequence,
    /// Its snapshot.
    pub commit: CommitId,
    /// When `current` was switched, RFC 3339, UTC.
    pub when: String,
    /// Milliseconds from learning of the pointer to the switch.
    pub took_ms: u64,
    /// Whose rendered output changed.
    pub changed: BTreeMap<ComponentVersion, HistoryChange>,
    /// Of a switch that changed very many components only the first are kept; how many there were.
    pub changed_count: usize,
}

/// A component's part in one switch of the past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryChange {
    /// What happened to it.
    pub kind: ChangeKind,
    /// `<branch>/<commit>` that it has run since; `None` for one that is gone.
    pub pin: Option<String>,
}

/// What others may ask of the one task that writes repository and export.
#[derive(Debug)]
pub enum Request {
    /// Check repository and export; with `repair`, make them good.
    Verify {
        /// Mend what is found.
        repair: bool,
        /// Gets the findings.
        reply: oneshot::Sender<VerifyReport>,
    },
    /// Take a newer snapshot than the exported one, as if the pointer had named it.
    Take {
        /// Which one.
        pointer: Pointer,
        /// Gets why it was not taken.
        reply: oneshot::Sender<Result<(), Undone>>,
    },
    /// Render an older snapshot beside the exported one.
    Render {
        /// Which one.
        older: Older,
        /// Gets why it was not rendered.
        reply: oneshot::Sender<Result<(), Undone>>,
    },
    /// Do what was put off because somebody was always fetching.
    Tidy {
        /// That nobody is.
        alone: OwnedRwLockWriteGuard<()>,
        /// Hears when it is done.
        reply: oneshot::Sender<()>,
    },
    /// See that a snapshot is this datacenter's first.
    First {
        /// Which one.
        snapshot: Pointer,
        /// Keeps its objects here.
        fetching: OwnedRwLockReadGuard<()>,
        /// Gets why it is not.
        reply: oneshot::Sender<Result<(), Undone>>,
    },
}

/// Why what was asked of the one task that writes was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undone {
    /// What was named is not what it was said to be: whoever named it is not to be believed.
    #[error("{0}")]
    Wrong(String),
    /// This host, its disk, or the way to the servers: says nothing of who named it.
    #[error("{0}")]
    Failed(String),
}

impl From<TransactionError> for Undone {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Refused(_) | TransactionError::Untrusted(_) => Undone::Wrong(chain(&error)),
            _ => Undone::Failed(chain(&error)),
        }
    }
}

/// A snapshot older than the exported one whose objects are here.
#[derive(Debug)]
pub struct Older {
    /// Which one.
    pub snapshot: Pointer,
    /// Up to which change it is the newest.
    pub through: Sequence,
    /// The one after it, whose signature proves that nothing lies between; none where the chain of what was verified here
    /// proves it.
    pub next: Option<Pointer>,
    /// Keeps the objects here until they were used.
    pub fetching: OwnedRwLockReadGuard<()>,
}

/// What `verify` found: the body of the answer to `POST /v1/verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The sequence of what was checked; 0 when nothing is exported.
    pub sequence: Sequence,
    /// How many objects of the repository were read.
    pub objects: usize,
    /// How many components of the export were compared with their rendering.
    pub components: usize,
    /// What is wrong, each in one sentence.
    pub problems: Vec<String>,
    /// What was mended of it; with everything mended the host is whole again.
    pub repaired: Vec<String>,
}

impl VerifyReport {
    /// True when nothing is wrong, or everything that was has been mended.
    pub fn is_whole(&self) -> bool {
        self.problems.len() == self.repaired.len()
    }
}

impl Agent {
    /// A handle on an agent that starts from `view`, and the requests that its worker is to serve.
    pub fn new(view: View, history: Vec<HistoryEntry>) -> (Self, mpsc::Receiver<Request>) {
        // 4: requests are rare and each is waited for; more callers wait their turn in `send`.
        let (requests, served) = mpsc::channel(4);
        let shared = Shared {
            view: watch::Sender::new(Arc::new(view)),
            switches: broadcast::Sender::new(SWITCHES),
            requests,
            history: Mutex::new(history.into()),
        };
        (Agent(Arc::new(shared)), served)
    }

    /// What is known now.
    pub fn view(&self) -> Arc<View> {
        self.0.view.borrow().clone()
    }

    /// Follows what is known; skipping is the design.
    pub fn follow(&self) -> watch::Receiver<Arc<View>> {
        self.0.view.subscribe()
    }

    /// Follows every switch; one who lags by more than 256 gets `Lagged` and should look at [`Agent::view`].
    pub fn switches(&self) -> broadcast::Receiver<Arc<Switched>> {
        self.0.switches.subscribe()
    }

    /// The switches of the past, newest first.
    pub fn history(&self) -> Vec<HistoryEntry> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Checks repository and export between two steps; `None` when the agent is stopping.
    pub async fn verify(&self, repair: bool) -> Option<VerifyReport> {
        self.request(|reply| Request::Verify { repair, reply }).await
    }

    /// Takes a newer snapshot than the exported one. One that is not newer any more is as good as taken.
    pub async fn take(&self, pointer: Pointer) -> Result<(), Undone> {
        self.request(|reply| Request::Take { pointer, reply }).await.unwrap_or_else(stopping)
    }

    /// Renders an older snapshot beside the export.
    pub async fn render(&self, older: Older) -> Result<(), Undone> {
        self.request(|reply| Request::Render { older, reply }).await.unwrap_or_else(stopping)
    }

    /// Sees that a snapshot whose objects are here is this datacenter's first.
    pub async fn begins_with(&self, snapshot: Pointer, fetching: OwnedRwLockReadGuard<()>) -> Result<(), Undone> {
        self.request(|reply| Request::First { snapshot, fetching, reply }).await.unwrap_or_else(stopping)
    }

    /// Has the packs seen to while nobody fetches.
    pub async fn tidy(&self, alone: OwnedRwLockWriteGuard<()>) {
        // When it is stopping there is nothing to do.
        let _ = self.request(|reply| Request::Tidy { alone, reply }).await;
    }

    /// `None` when the agent is stopping.
    async fn request<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.requests.send(request(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Changes what is known; listeners wake only when something differs.
    pub fn update(&self, change: impl FnOnce(&mut View)) {
        self.0.view.send_if_modified(|view| {
            let mut next = View::clone(view);
            change(&mut next);
            let same_export = match (&next.exported, &view.exported) {
                (Some(next), Some(before)) => Arc::ptr_eq(next, before),
                (None, None) => true,
                _ => false,
            };
            let modified = !same_export || next.status != view.status;
            *view = Arc::new(next);
            modified
        });
    }

    /// Takes note of a watermark, of whichever snapshot.
    pub fn hear(&self, watermark: Watermark) {
        self.update(|view| {
            view.heard.hear(watermark);
            view.raise_central();
        });
    }

    /// Remembers and broadcasts a switch; the view must show it already.
    pub fn announce(&self, switched: Switched, entry: HistoryEntry) {
        let mut history = self.0.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.push_front(entry);
        history.truncate(HISTORY);
        drop(history);
        // Nobody listening is no fault.
        let _ = self.0.switches.send(Arc::new(switched));
    }
}

fn stopping() -> Result<(), Undone> {
    Err(Undone::Failed("the agent is stopping".to_owned()))
}

/// The folder of a snapshot that is still kept, by its sequence.
pub fn kept(export: &Path, sequence: Sequence) -> Option<PathBuf> {
    let directory = export.join("snapshots").join(sequence.to_string());
    directory.is_dir().then_some(directory)
}
