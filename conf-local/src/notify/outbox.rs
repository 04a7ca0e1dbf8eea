//! The outbox: notices to watchers that are not delivered yet. It is on disk before the switch, so
//! that a restart of the agent loses none.
//!
//! `duties.json`: `{"format": 1, "owed": {watcher: notice}, "coming": {"sequence", "commit",
//! "owed": {…}} | null}`. `owed` are notices of switches that happened. `coming` are those of a
//! switch that may not have happened when the agent died. If the agent cannot read the file, it
//! drops the notices with a warning.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use conf_core::api::Pointer;
use conf_core::git::Durability;
use libconf::name::{CommitId, ComponentVersion, Sequence};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, futures::Notified};

use crate::{
    export::ChangeKind,
    fs::{read_state, replace_state},
};

/// Identifies a watcher across restarts of the agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WatcherId(pub(crate) String);

/// What the host transaction needs from the registry of watchers.
pub trait Watchers: Send + Sync + 'static {
    /// Returns the changed components that each watcher watches. The transaction asks just before
    /// and just after the switch.
    fn concerned(&self, changed: &BTreeMap<ComponentVersion, ChangeKind>) -> Concerned;

    /// Returns the snapshots that registered processes may still read: they stay on disk.
    fn held(&self) -> BTreeSet<Sequence> {
        BTreeSet::new()
    }

    /// Writes its files in the state folder again if somebody has removed them.
    fn keep(&self) {}

    /// Says that `Outbox::pending` has grown; must not block. Also called once when the agent
    /// starts.
    fn tell(&self);
}

/// The changed components that each watcher watches.
pub(crate) type Concerned = BTreeMap<WatcherId, BTreeSet<ComponentVersion>>;

/// A notice to one watcher. Further changes join a notice that is not delivered yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// The newest change.
    pub(crate) sequence: Sequence,
    /// Its snapshot.
    commit: CommitId,
    /// The last change before all that are joined here; 0 if an earlier version of the agent wrote
    /// this.
    #[serde(default)]
    pub(crate) after: Sequence,
    /// The watcher's components that changed since the last delivery.
    pub(crate) components: BTreeSet<ComponentVersion>,
}

/// All notices that are not delivered yet.
pub struct Outbox {
    path: PathBuf,
    content: Mutex<Content>,
    /// A notice was delivered.
    delivered: Notify,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Content {
    owed: BTreeMap<WatcherId, Notice>,
    coming: Option<Coming>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Coming {
    sequence: Sequence,
    commit: CommitId,
    /// The change that was exported before.
    #[serde(default)]
    before: Sequence,
    owed: Concerned,
}

impl Outbox {
    /// Reads the outbox in the folder `state`. Drops notices of a switch that never happened, which
    /// is one beyond `current`.
    ///
    /// A file that cannot be read is dropped too, with a warning: the exported files matter more.
    pub fn open(state: &Path, current: Sequence) -> Self {
        let path = state.join("duties.json");
        let mut content: Content = read_state(&path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the outbox cannot be read; notices of earlier changes are lost");
            Content::default()
        });
        let coming = content.coming.take();
        let settled = coming.is_none();
        if let Some(coming) = coming.filter(|coming| coming.sequence <= current) {
            content.merge(coming);
        }
        if !settled && let Err(error) = replace_state(&path, &content, Durability::Full) {
            tracing::warn!(%error, path = %path.display(), "the outbox cannot be written");
        }
        Outbox { path, content: Mutex::new(content), delivered: Notify::new() }
    }

    /// Writes down durably which watchers to tell when `snapshot` is switched to, from the change
    /// `before`. Writes nothing if there are and were none.
    pub fn prepare(&self, snapshot: Pointer, before: Sequence, owed: Concerned) -> io::Result<()> {
        let mut content = self.content.lock();
        if owed.is_empty() && content.coming.is_none() {
            return Ok(());
        }
        let Pointer { sequence, commit } = snapshot;
        let mut next = content.clone();
        next.coming = (!owed.is_empty()).then_some(Coming { sequence, commit, before, owed });
        replace_state(&self.path, &next, Durability::Full)?;
        *content = next;
        Ok(())
    }

    /// Notes that the switch happened. The prepared notices are owed now, and those of `late`, for
    /// watchers that came during the switch.
    ///
    /// Changes the memory only: the file has the prepared notices of the change that is current
    /// now, which means the same.
    pub fn switched(&self, snapshot: Pointer, before: Sequence, late: Concerned) {
        let Pointer { sequence, commit } = snapshot;
        let mut content = self.content.lock();
        if let Some(coming) = content.coming.take_if(|coming| coming.sequence == sequence) {
            content.merge(coming);
        }
        content.merge(Coming { sequence, commit, before, owed: late });
    }

    /// Writes the file again if somebody has removed it.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let content = self.content.lock();
        if content.owed.is_empty() && content.coming.is_none() || self.path.exists() {
            return Ok(());
        }
        replace_state(&self.path, &*content, Durability::Full)
    }

    /// Returns all notices.
    pub(crate) fn pending(&self) -> BTreeMap<WatcherId, Notice> {
        self.content.lock().owed.clone()
    }

    /// Notes that `watcher` was told of everything up to `sequence`. A notice that grew meanwhile
    /// stays whole.
    pub(crate) fn delivered(&self, watcher: &WatcherId, sequence: Sequence) -> io::Result<()> {
        self.drop_if(watcher, |notice| notice.sequence <= sequence)
    }

    /// Ends when a notice is delivered or dropped.
    pub(crate) fn delivery(&self) -> Notified<'_> {
        self.delivered.notified()
    }

    /// Drops the notice of a watcher that does not exist any more.
    pub(crate) fn forget(&self, watcher: &WatcherId) -> io::Result<()> {
        self.drop_if(watcher, |_| true)
    }

    fn drop_if(&self, watcher: &WatcherId, done: impl FnOnce(&Notice) -> bool) -> io::Result<()> {
        let mut content = self.content.lock();
        if content.owed.get(watcher).is_some_and(done) {
            content.owed.remove(watcher);
            self.delivered.notify_waiters();
            // Not synced: if this is lost, the watcher is told twice, which does no harm.
            replace_state(&self.path, &*content, Durability::None)?;
        }
        Ok(())
    }
}

impl Content {
    fn merge(&mut self, coming: Coming) {
        let Coming { sequence, commit, before, owed } = coming;
        for (watcher, components) in owed {
            let notice = self.owed.entry(watcher).or_insert_with(|| Notice {
                sequence,
                commit,
                after: before,
                components: BTreeSet::new(),
            });
            notice.sequence = sequence;
            notice.commit = commit;
            notice.components.extend(components);
        }
    }
}
