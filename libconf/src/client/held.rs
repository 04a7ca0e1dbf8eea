//! Older snapshots: those held in memory, and those in the folders that the agent keeps.

use std::{
    collections::BTreeMap,
    fs, mem,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::client::{
    known::{Known, central_of},
    lock::lock,
    release::let_go,
    snapshot::{Header, Snapshot},
};
use crate::name::Sequence;

/// Snapshots that are held beyond the newest one, so that operations that follow each other need
/// not open them again.
const MOST_HELD: usize = 8;

/// The time after which a snapshot that no operation asked for is released.
const HELD_IDLE: Duration = Duration::from_secs(60);

/// The held snapshots, by their own sequence. Each proven range is true for ever.
#[derive(Debug, Default)]
pub(crate) struct HeldSnapshots(Mutex<BTreeMap<Sequence, Range>>);

/// `snapshot` is the datacenter's newest for every change from its own through `through`.
#[derive(Debug)]
struct Range {
    through: Sequence,
    snapshot: Arc<Snapshot>,
    used: Instant,
}

impl HeldSnapshots {
    /// Returns the held snapshot for a change.
    pub(crate) fn get(&self, sequence: Sequence) -> Option<Arc<Snapshot>> {
        let mut ranges = lock(&self.0);
        let (_, range) = ranges.range_mut(..=sequence).next_back().filter(|(_, range)| sequence <= range.through)?;
        range.used = Instant::now();
        Some(Arc::clone(&range.snapshot))
    }

    /// Looks for a change through the folders that the agent keeps. Each names its parent, so two
    /// neighbours prove that nothing lies between them.
    pub(crate) fn find_kept(&self, export_dir: &Path, sequence: Sequence) -> Option<Arc<Snapshot>> {
        let (current, dir) = Snapshot::named(export_dir).ok()?;
        let snapshots = dir.parent()?;
        let names = fs::read_dir(snapshots).ok()?.flatten().map(|entry| entry.file_name());
        let mut kept: Vec<Sequence> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
        // This host's checks may refuse a snapshot above `current`, so nobody reads it.
        kept.retain(|found| *found <= current);
        let at = kept.iter().copied().filter(|found| *found <= sequence).max()?;
        let next = kept.into_iter().filter(|found| *found > sequence).min();
        let snapshot = Arc::new(Snapshot::open(at, snapshots.join(at.to_string())).ok()?);
        let through = match next {
            None => central_of(export_dir, &snapshot),
            Some(next) => {
                let parent = Header::read(&snapshots.join(next.to_string())).ok()?.parent?;
                (Some(parent) == snapshot.header.commit).then(|| Sequence(next.0 - 1))?
            }
        };
        (sequence <= through).then(|| self.learn(through, snapshot))
    }

    /// Holds a snapshot, with the last change for which it is the newest. Returns the snapshot that
    /// is held now.
    pub(crate) fn learn(&self, through: Sequence, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        let mut ranges = lock(&self.0);
        let (at, used) = (snapshot.sequence, Instant::now());
        let (held, through, replaced) = match ranges.remove(&at) {
            None => (snapshot, through, None),
            // The agent made the snapshot again since: the folder that has the name now is valid.
            Some(before) if before.snapshot.identity != snapshot.identity && !before.snapshot.has_its_name() => {
                (snapshot, before.through.max(through), Some(before.snapshot))
            }
            Some(before) => (before.snapshot, before.through.max(through), Some(snapshot)),
        };
        ranges.insert(at, Range { through, snapshot: Arc::clone(&held), used });
        let oldest = ranges.iter().min_by_key(|(_, range)| range.used).map(|(at, _)| *at);
        let outdated = oldest.filter(|_| ranges.len() > MOST_HELD).and_then(|oldest| ranges.remove(&oldest));
        drop(ranges);
        let_go(replaced);
        let_go(outdated);
        held
    }

    /// Holds the snapshot that was the newest until `snapshot` came.
    pub(crate) fn replaced(&self, known: &Known, snapshot: &Snapshot) {
        let before = &known.snapshot;
        if snapshot.sequence == before.sequence {
            // The agent made it again, so the held one is no longer valid.
            let outdated = lock(&self.0).remove(&before.sequence);
            return let_go(outdated);
        }
        let follows = before.header.commit.is_some() && snapshot.header.parent == before.header.commit;
        let through = if follows { Sequence(snapshot.sequence.0 - 1) } else { known.central };
        self.learn(through, Arc::clone(before));
    }

    /// Releases the snapshots that no operation asked for in a while.
    pub(crate) fn forget_unused(&self) {
        let mut ranges = lock(&self.0);
        let (used, unused) = mem::take(&mut *ranges)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(_, range)| range.used.elapsed() < HELD_IDLE);
        *ranges = used;
        drop(ranges);
        // One by one: a value of the program may panic when it is dropped.
        unused.into_values().for_each(let_go);
    }
}
