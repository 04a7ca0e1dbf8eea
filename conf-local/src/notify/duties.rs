//! Who is still to be told of a change, on disk: written before the switch, so that a restart still tells.
//!
//! `duties.json`: `{"format": 1, "owed": {watcher: duty}, "coming": {"sequence", "commit", "owed": {…}} | null}`. `owed`
//! are duties of switches that happened; `coming` are those of a switch that may not have happened when the agent died.
//! A reader that meets a higher format drops the file and says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use libconf::name::{CommitId, ComponentVersion, Sequence};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, futures::Notified};

use crate::state::ChangeKind;

/// Names a watcher across restarts of the agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WatcherId(pub String);

/// What the host transaction needs of whoever knows the watchers.
pub trait Watchers: Send + Sync + 'static {
    /// Which watchers care for which of the changed components. Asked just before and just after the switch.
    fn concerned(
        &self,
        changed: &BTreeMap<ComponentVersion, ChangeKind>,
    ) -> BTreeMap<WatcherId, BTreeSet<ComponentVersion>>;

    /// Snapshots that registered processes may still read in: they stay on disk.
    fn held(&self) -> BTreeSet<Sequence> {
        BTreeSet::new()
    }

    /// There is more in [`Duties::owed`] than before; must not block. Also called once when the agent starts.
    fn tell(&self);
}

/// One watcher is to be told; further changes join a duty that is not done yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duty {
    /// The newest change that it is to be told of.
    pub sequence: Sequence,
    /// Its snapshot.
    pub commit: CommitId,
    /// Those of its components that changed since it was last told.
    pub components: BTreeSet<ComponentVersion>,
}

/// The journal of duties.
#[derive(Debug)]
pub struct Duties {
    path: PathBuf,
    journal: Mutex<Journal>,
    /// A duty is done.
    done: Notify,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    format: u32,
    owed: BTreeMap<WatcherId, Duty>,
    coming: Option<Coming>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Coming {
    sequence: Sequence,
    commit: CommitId,
    owed: BTreeMap<WatcherId, BTreeSet<ComponentVersion>>,
}

const FORMAT: u32 = 1;

impl Duties {
    /// Reads the journal in `directory`; duties of a switch that never happened (beyond `current`) are dropped.
    ///
    /// A file that cannot be read as a journal is dropped too, with a warning: the files on disk matter more.
    pub fn open(directory: &Path, current: Sequence) -> Self {
        let path = directory.join("duties.json");
        let mut journal = match fs::read(&path) {
            Ok(text) => serde_json::from_slice::<Journal>(&text).ok().filter(|journal| journal.format == FORMAT),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Journal::default()),
            Err(_) => None,
        }
        .unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "the journal of duties cannot be read; nobody is told of old changes");
            Journal::default()
        });
        journal.format = FORMAT;
        let coming = journal.coming.take();
        let settled = coming.is_none();
        if let Some(coming) = coming.filter(|coming| coming.sequence <= current) {
            journal.merge(coming);
        }
        let duties = Duties { path, journal: Mutex::new(journal), done: Notify::new() };
        if !settled && let Err(error) = duties.write(&duties.lock(), true) {
            tracing::warn!(%error, path = %duties.path.display(), "the journal of duties cannot be written");
        }
        duties
    }

    /// Makes durable who is to be told when `sequence` is switched to. Writes nothing when nobody is and was.
    pub fn prepare(
        &self,
        sequence: Sequence,
        commit: CommitId,
        owed: BTreeMap<WatcherId, BTreeSet<ComponentVersion>>,
    ) -> io::Result<()> {
        let mut journal = self.lock();
        if owed.is_empty() && journal.coming.is_none() {
            return Ok(());
        }
        let mut next = journal.clone();
        next.coming = (!owed.is_empty()).then_some(Coming { sequence, commit, owed });
        self.write(&next, true)?;
        *journal = next;
        Ok(())
    }

    /// The switch happened: what was coming is owed, and `late` too (watchers that came while the switch was made).
    ///
    /// In memory only: the file says `coming` with the sequence that is now current, which means the same.
    pub fn switched(
        &self,
        sequence: Sequence,
        commit: CommitId,
        late: BTreeMap<WatcherId, BTreeSet<ComponentVersion>>,
    ) {
        let mut journal = self.lock();
        if let Some(coming) = journal.coming.take_if(|coming| coming.sequence == sequence) {
            journal.merge(coming);
        }
        journal.merge(Coming { sequence, commit, owed: late });
    }

    /// Everyone who is to be told.
    pub fn owed(&self) -> BTreeMap<WatcherId, Duty> {
        self.lock().owed.clone()
    }

    /// `watcher` was told of everything up to `sequence`; a duty that grew meanwhile stays whole.
    pub fn delivered(&self, watcher: &WatcherId, sequence: Sequence) -> io::Result<()> {
        self.drop_if(watcher, |duty| duty.sequence <= sequence)
    }

    /// Ends when a duty is done or dropped.
    pub fn delivery(&self) -> Notified<'_> {
        self.done.notified()
    }

    /// `watcher` is no more.
    pub fn forget(&self, watcher: &WatcherId) -> io::Result<()> {
        self.drop_if(watcher, |_| true)
    }

    fn drop_if(&self, watcher: &WatcherId, done: impl FnOnce(&Duty) -> bool) -> io::Result<()> {
        let mut journal = self.lock();
        if journal.owed.get(watcher).is_some_and(done) {
            journal.owed.remove(watcher);
            self.done.notify_waiters();
            // Not synced: losing this tells once more, which does no harm.
            self.write(&journal, false)?;
        }
        Ok(())
    }

    fn write(&self, journal: &Journal, durable: bool) -> io::Result<()> {
        let new = self.path.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(journal)?)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&new, &self.path)?;
        match self.path.parent() {
            Some(directory) if durable => File::open(directory)?.sync_all(),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal {
    fn merge(&mut self, coming: Coming) {
        let Coming { sequence, commit, owed } = coming;
        for (watcher, components) in owed {
            let duty =
                self.owed.entry(watcher).or_insert_with(|| Duty { sequence, commit, components: BTreeSet::new() });
            duty.sequence = sequence;
            duty.commit = commit;
            duty.components.extend(components);
        }
    }
}
