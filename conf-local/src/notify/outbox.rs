//! The outbox: notices to watchers that are not delivered yet. It is on disk before the switch, so
//! that a restart of the agent loses none.
//!
//! `duties.json`: `{"format": 1, "owed": {watcher: notice}, "coming": {"sequence", "commit",
//! "owed": {…}} | null}`. `owed` are notices of switches that happened. `coming` are those of a
//! switch that may not have happened when the agent died. If the agent cannot read the file, it
//! tells every watcher once: a notice that was lost is worse than one too many.
//!
//! A notice whose watcher could not be told stays, with the reason, until it is told.
//!
//! What was told is changed in memory at once, and written by the registry's own task: a disk that
//! stalls keeps nobody waiting but the host transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use conf_core::api::Pointer;
use conf_core::git::Durability;
use libconf::name::{CommitId, ComponentVersion, Sequence};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, futures::Notified};

use crate::{
    export::ChangeKind,
    fs::{StateLock, overwrite_state, read_state, replace_state},
    state::{Changes, Untold},
};

/// Identifies a watcher across restarts of the agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WatcherId(pub(crate) String);

/// The first word of the id of a registered process.
pub(crate) const REGISTERED: &str = "process";

impl WatcherId {
    /// True for a process that registered; false for an entry of the configuration.
    fn is_registered(&self) -> bool {
        self.0.starts_with(REGISTERED)
    }
}

/// What the host transaction needs from the registry of watchers.
pub trait Watchers: Send + Sync + 'static {
    /// Returns the changed components that each watcher watches. The transaction asks just before
    /// and just after the switch.
    fn concerned(&self, changed: &BTreeMap<ComponentVersion, ChangeKind>) -> Concerned;

    /// Returns the snapshots that registered processes may still read: they stay on disk.
    fn held(&self) -> BTreeSet<Sequence> {
        BTreeSet::new()
    }

    /// Returns its files in the state folder that have content and that somebody has removed.
    fn gone(&self) -> Option<PathBuf> {
        None
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
    /// The number of the newest switch that is joined here: one change may be switched to more than
    /// once. 0 if an earlier version of the agent wrote this.
    #[serde(default)]
    switch: u64,
    /// Why the watcher could not be told so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

impl Notice {
    /// True if both are of the same switches. One of them may have failed since.
    pub(crate) fn is_same(&self, other: &Notice) -> bool {
        self.switch == other.switch
    }
}

/// All notices that are not delivered yet.
pub struct Outbox {
    path: PathBuf,
    /// Not held while a file is read or written.
    content: Mutex<Content>,
    /// Held while the file is written, so that an older content never follows a newer one.
    file: Mutex<()>,
    /// The file is behind `content`.
    is_unwritten: AtomicBool,
    /// There is something to write.
    unwritten: Notify,
    registered: Mutex<Registered>,
    /// A notice was delivered, or telling failed.
    delivered: Notify,
    /// The file could not be read.
    lost: bool,
    /// What keeps another agent from the state folder.
    lock: Option<StateLock>,
    /// Something was not written, since another agent might have had the state folder.
    was_kept_out: AtomicBool,
}

/// What is known of registered processes while the agent runs.
#[derive(Default)]
struct Registered {
    /// Those that count for this host's reports.
    counted: BTreeSet<WatcherId>,
    /// What those of them were told that tell another process, and have not passed on.
    relaying: BTreeMap<WatcherId, Untold>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Content {
    owed: BTreeMap<WatcherId, Notice>,
    coming: Option<Coming>,
    /// The number of switches that concerned a watcher.
    #[serde(default)]
    switches: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Coming {
    #[serde(default)]
    switch: u64,
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
    /// A file that cannot be read is no error: see `is_lost`.
    pub fn open(state: &Path, current: Sequence) -> Self {
        let path = state.join("duties.json");
        let read = read_state(&path);
        let lost = read.is_err();
        let mut content: Content = read.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the outbox cannot be read; every watcher is told once");
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
        Outbox {
            path,
            content: Mutex::new(content),
            file: Mutex::default(),
            is_unwritten: AtomicBool::new(false),
            unwritten: Notify::new(),
            registered: Mutex::default(),
            delivered: Notify::new(),
            lost,
            lock: None,
            was_kept_out: AtomicBool::new(false),
        }
    }

    /// Has it write only while this lock is held.
    #[must_use]
    pub(crate) fn behind(self, lock: StateLock) -> Self {
        Outbox { lock: Some(lock), ..self }
    }

    /// An error while another agent may have the state folder.
    pub(crate) fn expect_held(&self) -> io::Result<()> {
        self.lock.as_ref().map_or(Ok(()), StateLock::expect_held)
    }

    /// Nothing is durable yet. The caller holds `file`.
    fn overwrite(&self, content: &Content) -> io::Result<File> {
        self.expect_ours()?;
        overwrite_state(&self.path, content)
    }

    /// An error while another agent may have the state folder: `keep` makes up for it.
    fn expect_ours(&self) -> io::Result<()> {
        self.expect_held().inspect_err(|_| self.was_kept_out.store(true, Ordering::Relaxed))
    }

    /// Has the task that writes look for something to write.
    pub(crate) fn write_soon(&self) {
        self.unwritten.notify_one();
    }

    /// Waits until there is something to write.
    pub(crate) fn unwritten(&self) -> Notified<'_> {
        self.unwritten.notified()
    }

    /// Writes the file if it is behind. Blocks.
    pub(crate) fn write(&self) -> io::Result<()> {
        let _file = self.file.lock();
        if !self.is_unwritten.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let content = self.content.lock().clone();
        // Not synced: if this is lost, the watcher is told twice, which does no harm.
        let written = self.overwrite(&content).map(drop);
        written.inspect_err(|_| self.is_unwritten.store(true, Ordering::Relaxed))
    }

    /// True if the file could not be read, so that nobody knows which watchers are owed a notice.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Writes down which watchers to tell when `snapshot` is switched to, from the change `before`.
    /// Writes nothing if there are and were none.
    ///
    /// Returns the file and its folder, which the caller makes durable before the switch. A power
    /// cut before that may leave a file that cannot be read: then every watcher is told once.
    pub fn prepare(&self, snapshot: Pointer, before: Sequence, owed: Concerned) -> io::Result<Vec<File>> {
        let _file = self.file.lock();
        let mut next = self.content.lock().clone();
        if owed.is_empty() && next.coming.is_none() {
            return Ok(Vec::new());
        }
        let Pointer { sequence, commit } = snapshot;
        next.switches += u64::from(!owed.is_empty());
        let switch = next.switches;
        next.coming = (!owed.is_empty()).then_some(Coming { switch, sequence, commit, before, owed });
        let written = self.overwrite(&next)?;
        // Notices may have been delivered meanwhile: the rest of `content` is newer.
        let mut content = self.content.lock();
        (content.switches, content.coming) = (next.switches, next.coming);
        drop(content);
        let folder = self.path.parent().map(File::open).transpose()?;
        Ok([Some(written), folder].into_iter().flatten().collect())
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
        } else {
            content.switches += u64::from(!late.is_empty());
        }
        let switch = content.switches;
        content.merge(Coming { switch, sequence, commit, before, owed: late });
    }

    /// Returns the path of the file if it has notices and somebody has removed it.
    pub(crate) fn gone(&self) -> Option<PathBuf> {
        let content = self.content.lock();
        let has_notices = !content.owed.is_empty() || content.coming.is_some();
        drop(content);
        (has_notices && !self.path.exists()).then(|| self.path.clone())
    }

    /// Writes the file again if somebody has removed it, or if it could not be written.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let was_kept_out = self.was_kept_out.load(Ordering::Relaxed);
        if self.gone().is_none() && !was_kept_out {
            return Ok(());
        }
        let _file = self.file.lock();
        // Another agent may have had the state folder: what it owed is not lost with it.
        let found: Content = was_kept_out.then(|| read_state(&self.path).ok()).flatten().unwrap_or_default();
        let mut content = self.content.lock();
        found.coming.into_iter().for_each(|coming| content.merge(coming));
        for (watcher, notice) in found.owed {
            content.owed.entry(watcher).or_insert(notice);
        }
        let next = content.clone();
        drop(content);
        self.expect_ours()?;
        replace_state(&self.path, &next, Durability::Full)?;
        self.was_kept_out.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Returns all notices.
    pub(crate) fn pending(&self) -> BTreeMap<WatcherId, Notice> {
        self.content.lock().owed.clone()
    }

    /// Returns what watchers were not told, by the watcher's name. Of registered processes only
    /// those that count: any user may register one.
    pub(crate) fn untold(&self) -> BTreeMap<String, Untold> {
        let (content, registered) = (self.content.lock(), self.registered.lock());
        let counts = |(watcher, notice): &(&WatcherId, &Notice)| {
            notice.failed.is_some() || !watcher.is_registered() || registered.counted.contains(watcher)
        };
        let owed = content.owed.iter().filter(counts).map(|(watcher, notice)| {
            let about = Changes { after: notice.after, through: notice.sequence };
            (watcher, Untold { about, error: notice.failed.clone() })
        });
        let relaying = registered.relaying.iter().map(|(watcher, untold)| (watcher, untold.clone()));
        let mut all: BTreeMap<String, Untold> = BTreeMap::new();
        for (watcher, untold) in owed.chain(relaying) {
            all.entry(watcher.0.clone())
                .and_modify(|known| {
                    known.about.after = known.about.after.min(untold.about.after);
                    known.about.through = known.about.through.max(untold.about.through);
                    known.error = known.error.take().or(untold.error.clone());
                })
                .or_insert(untold);
        }
        all
    }

    /// Has a registered process count for this host's reports.
    pub(crate) fn count(&self, watcher: &WatcherId) {
        self.registered.lock().counted.insert(watcher.clone());
    }

    /// Notes what a registered process has not passed on to the process that it tells. One that
    /// does not count may not pass on anything.
    pub(crate) fn relaying(&self, watcher: &WatcherId, untold: Option<Untold>) {
        let mut registered = self.registered.lock();
        match untold.filter(|_| registered.counted.contains(watcher)) {
            Some(untold) => drop(registered.relaying.insert(watcher.clone(), untold)),
            None => drop(registered.relaying.remove(watcher)),
        }
        self.delivered.notify_waiters();
    }

    /// Notes that `watcher` was told of `told`. A notice that grew meanwhile stays: it is about the
    /// later changes then.
    pub(crate) fn delivered(&self, watcher: &WatcherId, told: &Notice) {
        let mut content = self.content.lock();
        let Some(owed) = content.owed.get_mut(watcher) else { return };
        if owed.switch > told.switch {
            owed.failed = None;
            owed.after = owed.after.max(told.sequence.min(Sequence(owed.sequence.0.saturating_sub(1))));
        } else {
            content.owed.remove(watcher);
        }
        drop(content);
        self.changed();
    }

    /// Notes that `watcher` could not be told. Its notice stays.
    pub(crate) fn failed(&self, watcher: &WatcherId, why: &str) {
        let mut content = self.content.lock();
        match content.owed.get_mut(watcher) {
            Some(owed) if owed.failed.as_deref() != Some(why) => owed.failed = Some(why.to_owned()),
            _ => return,
        }
        drop(content);
        self.changed();
    }

    /// Ends when a notice is delivered or dropped, or when telling failed.
    pub(crate) fn delivery(&self) -> Notified<'_> {
        self.delivered.notified()
    }

    /// Drops the notice of a watcher that does not exist any more.
    pub(crate) fn forget(&self, watcher: &WatcherId) {
        let mut registered = self.registered.lock();
        registered.counted.remove(watcher);
        registered.relaying.remove(watcher);
        drop(registered);
        if self.content.lock().owed.remove(watcher).is_some() {
            self.changed();
        }
    }

    /// Has the file written, and wakes those that wait for deliveries.
    fn changed(&self) {
        self.is_unwritten.store(true, Ordering::Relaxed);
        self.unwritten.notify_one();
        self.delivered.notify_waiters();
    }
}

impl Content {
    fn merge(&mut self, coming: Coming) {
        let Coming { switch, sequence, commit, before, owed } = coming;
        for (watcher, components) in owed {
            let notice = self.owed.entry(watcher).or_insert_with(|| Notice {
                sequence,
                commit,
                after: before,
                components: BTreeSet::new(),
                switch,
                failed: None,
            });
            notice.switch = switch;
            notice.sequence = sequence;
            notice.commit = commit;
            notice.components.extend(components);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(sequence: u64) -> Pointer {
        Pointer { sequence: Sequence(sequence), commit: CommitId::ZERO }
    }

    fn id(text: &str) -> WatcherId {
        WatcherId(text.to_owned())
    }

    fn owe(outbox: &Outbox, watcher: &str, sequence: u64) -> Notice {
        let owed: Concerned = [(id(watcher), ["services/web/latest".parse().unwrap()].into())].into();
        outbox.prepare(pointer(sequence), Sequence(sequence - 1), owed.clone()).unwrap();
        outbox.switched(pointer(sequence), Sequence(sequence - 1), owed);
        outbox.pending()[&id(watcher)].clone()
    }

    #[test]
    fn a_second_switch_to_the_same_change_is_another_notice() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path(), Sequence(0));
        let first = owe(&outbox, "reload", 5);
        let second = owe(&outbox, "reload", 5);
        assert!(!first.is_same(&second));
        outbox.delivered(&id("reload"), &first);
        assert!(outbox.pending()[&id("reload")].is_same(&second), "it was told of the first alone");
        outbox.delivered(&id("reload"), &second);
        assert!(outbox.pending().is_empty());
        outbox.write().unwrap();
        drop(outbox);
        let outbox = Outbox::open(folder.path(), Sequence(5));
        assert!(!owe(&outbox, "reload", 5).is_same(&second), "numbers go on after a restart");
    }

    #[test]
    fn a_failure_and_what_it_is_about_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path(), Sequence(4));
        let about = |outbox: &Outbox| {
            let shown = |one: &Untold| (one.about.after.0, one.about.through.0, one.error.clone());
            outbox.untold().get("reload").map(shown)
        };
        let five = owe(&outbox, "reload", 5);
        assert_eq!(about(&outbox), Some((4, 5, None)));
        outbox.failed(&id("reload"), "no");
        outbox.write().unwrap();
        drop(outbox);
        let outbox = Outbox::open(folder.path(), Sequence(5));
        assert_eq!(about(&outbox), Some((4, 5, Some("no".to_owned()))));
        owe(&outbox, "reload", 7);
        assert_eq!(about(&outbox), Some((4, 7, Some("no".to_owned()))));
        // It was told of the first, and not of the second.
        outbox.delivered(&id("reload"), &five);
        assert_eq!(about(&outbox), Some((5, 7, None)));
    }

    #[test]
    fn registered_processes_of_root_alone_are_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path(), Sequence(4));
        let (roots, others) = (id("process 1.2 SIGHUP"), id("process 3.4 SIGHUP"));
        outbox.count(&roots);
        owe(&outbox, &others.0, 5);
        let notice = owe(&outbox, &roots.0, 5);
        let shown = |outbox: &Outbox| {
            let shown = |(name, one): (String, Untold)| (name, one.about.after.0, one.about.through.0, one.error);
            outbox.untold().into_iter().map(shown).collect::<Vec<_>>()
        };
        // Both are owed, and neither has failed.
        assert_eq!(shown(&outbox), [(roots.0.clone(), 4, 5, None)]);

        // It was told, and has to tell another process.
        let about = Changes { after: Sequence(3), through: Sequence(5) };
        let untold = |error: Option<&str>| Some(Untold { about, error: error.map(str::to_owned) });
        outbox.relaying(&roots, untold(None));
        outbox.relaying(&others, untold(Some("held up")));
        outbox.delivered(&roots, &notice);
        assert_eq!(shown(&outbox), [(roots.0.clone(), 3, 5, None)]);
        outbox.relaying(&roots, untold(Some("no handler")));
        owe(&outbox, &roots.0, 6);
        assert_eq!(shown(&outbox), [(roots.0.clone(), 3, 6, Some("no handler".to_owned()))]);
        outbox.relaying(&roots, None);
        assert_eq!(shown(&outbox), [(roots.0.clone(), 5, 6, None)]);
        outbox.forget(&roots);
        assert_eq!(shown(&outbox), []);
    }

    #[test]
    fn a_damaged_file_is_known_to_be_lost() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!Outbox::open(folder.path(), Sequence(4)).is_lost());
        std::fs::write(folder.path().join("duties.json"), "{").unwrap();
        assert!(Outbox::open(folder.path(), Sequence(4)).is_lost());
    }
}
