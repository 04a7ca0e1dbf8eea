//! Decides the steps from one export to the next, and which snapshots go. Touches nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use conf_core::render::StoreHash;
use libconf::name::{CommitId, ComponentName, ComponentVersion, DatacenterName, HostName, Sequence, Version};
use serde::{Deserialize, Serialize};

/// The rendering of each component.
pub(crate) type Contents = BTreeMap<ComponentVersion, StoreHash>;

/// Components that keep earlier files, each with the reason.
pub(crate) type Faults = BTreeMap<ComponentVersion, String>;

/// `snapshot.json` in a snapshot's folder: identifies the snapshot. Readers ignore unknown members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) datacenter: DatacenterName,
    /// The host that it was rendered for.
    pub(crate) host: HostName,
    /// The change that made it.
    pub(crate) sequence: Sequence,
    pub(crate) commit: CommitId,
    /// The datacenter's snapshot before it, which is the newest for every change below `sequence`.
    /// `None` for the first snapshot, and if an earlier version of the agent wrote this.
    #[serde(default)]
    pub(crate) parent: Option<CommitId>,
    /// Seconds since 1970 at which it was put in place.
    pub(crate) time: u64,
    /// Components that were held back, each with the reason.
    #[serde(default)]
    pub(crate) faults: Faults,
    /// For each of them, the last change whose files of it are in place. Earlier versions of the
    /// agent did not write it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) held: BTreeMap<ComponentVersion, Sequence>,
    /// The way in which it was rendered; 1 if an earlier version of the agent wrote this.
    #[serde(default = "first_rendering")]
    pub(crate) rendering: u32,
    /// For a snapshot that was rendered beside a newer one, for operations that are pinned to it:
    /// the last change for which it is its datacenter's newest. Nothing ever switched to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) through: Option<Sequence>,
}

fn first_rendering() -> u32 {
    1
}

/// A snapshot that is on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptSnapshot {
    /// `None` if it was lost.
    pub(crate) header: Option<Header>,
    pub(crate) contents: Contents,
}

/// How a component differs from the export before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its rendered output differs.
    Changed,
    /// It is gone.
    Removed,
}

/// The steps from one export to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExportPlan {
    /// Every component of the next export.
    pub(crate) links: BTreeMap<ComponentName, Link>,
    /// Every component that the next export lacks.
    pub(crate) gone: BTreeSet<ComponentName>,
    /// The difference that readers will see.
    pub(crate) changed: BTreeMap<ComponentVersion, ChangeKind>,
}

/// How a component gets its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The snapshot before has the same link.
    pub(crate) keep: bool,
    pub(crate) versions: BTreeMap<Version, StoreHash>,
}

/// Decides the steps from one export to the next.
pub(crate) fn plan(have: &Contents, want: &Contents) -> ExportPlan {
    let mut plan = ExportPlan::default();
    let (have_by_name, want_by_name) = (by_name(have), by_name(want));
    plan.gone = have_by_name.keys().filter(|name| !want_by_name.contains_key(name)).cloned().collect();
    for (name, versions) in want_by_name {
        let keep = have_by_name.get(&name) == Some(&versions);
        plan.links.insert(name, Link { keep, versions });
    }
    for (component, hash) in want {
        match have.get(component) {
            None => drop(plan.changed.insert(component.clone(), ChangeKind::Added)),
            Some(before) if before != hash => drop(plan.changed.insert(component.clone(), ChangeKind::Changed)),
            Some(_) => {}
        }
    }
    let removed = have.keys().filter(|component| !want.contains_key(component));
    plan.changed.extend(removed.map(|component| (component.clone(), ChangeKind::Removed)));
    plan
}

pub(crate) fn by_name(contents: &Contents) -> BTreeMap<ComponentName, BTreeMap<Version, StoreHash>> {
    let mut names: BTreeMap<ComponentName, BTreeMap<Version, StoreHash>> = BTreeMap::new();
    for (component, hash) in contents {
        names.entry(component.component.clone()).or_default().insert(component.version.clone(), *hash);
    }
    names
}

/// Says which snapshots stay on disk besides the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// The number of snapshots that always stay, newest first.
    pub(crate) last: usize,
    /// Younger snapshots stay, and the newest one that is older: it was in use until then.
    pub(crate) younger_than: Duration,
}

/// Decides which snapshots go. `kept` has the time at which each was put in place. There is room
/// for so many young ones beyond [`Retention::last`].
pub(crate) fn outdated(
    kept: &BTreeMap<Sequence, SystemTime>,
    retention: Retention,
    most_young: usize,
    now: SystemTime,
) -> Vec<Sequence> {
    let young = |time: &SystemTime| now.duration_since(*time).unwrap_or_default() < retention.younger_than;
    let mut newest_old = true;
    let mut stays = |(place, (_, time)): &(usize, (&Sequence, &SystemTime))| {
        let in_use = young(time) || std::mem::take(&mut newest_old);
        *place < retention.last.max(1) || in_use && *place < retention.last.max(1) + most_young
    };
    kept.iter().rev().enumerate().filter(|entry| !stays(entry)).map(|(_, (sequence, _))| *sequence).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn contents(of: &str) -> Contents {
        let one = |pair: &str| {
            let (name, content) = pair.split_once('=').unwrap();
            (name.parse().unwrap(), StoreHash::of(content))
        };
        of.split_whitespace().map(one).collect()
    }

    #[test]
    fn plans() {
        let check = |have: &str, want: &str, changes: &str, kept: &str| {
            let plan = plan(&contents(have), &contents(want));
            let shown = |(name, kind): (&ComponentVersion, &ChangeKind)| match kind {
                ChangeKind::Added => format!("+{name}"),
                ChangeKind::Changed => format!("~{name}"),
                ChangeKind::Removed => format!("-{name}"),
            };
            let changed: Vec<String> = plan.changed.iter().map(shown).collect();
            assert_eq!(changed.join(" "), changes, "{have} -> {want}");
            let keep: Vec<String> =
                plan.links.iter().filter(|(_, link)| link.keep).map(|(name, _)| name.to_string()).collect();
            assert_eq!(keep.join(" "), kept, "{have} -> {want}");
        };
        check("", "services/a/latest=1", "+services/a/latest", "");
        check("services/a/latest=1", "services/a/latest=1", "", "services/a");
        check("services/a/latest=1", "services/a/latest=2", "~services/a/latest", "");
        check("services/a/latest=1 services/b/v1=1", "services/b/v1=1", "-services/a/latest", "services/b");
        // A second version changes the link, not the first version.
        check("services/a/v1=1", "services/a/v1=1 services/a/v2=2", "+services/a/v2", "");
        check("services/a/v1=1", "devices/a/v1=1", "-services/a/v1 +devices/a/v1", "");
    }

    #[test]
    fn outdated_snapshots_go() {
        let now = UNIX_EPOCH + Duration::from_secs(10_000);
        let check = |ages: &[(u64, u64)], last: usize, young: u64, gone: &[u64]| {
            let kept =
                ages.iter().map(|(sequence, age)| (Sequence(*sequence), now - Duration::from_secs(*age))).collect();
            let retention = Retention { last, younger_than: Duration::from_secs(young) };
            let mut outdated: Vec<u64> =
                outdated(&kept, retention, 100, now).iter().map(|sequence| sequence.0).collect();
            outdated.sort_unstable();
            assert_eq!(outdated, gone, "{ages:?} {last} {young}");
        };
        check(&[], 3, 60, &[]);
        check(&[(1, 900), (2, 800)], 3, 60, &[]);
        check(&[(1, 900), (2, 800), (3, 700), (4, 600)], 2, 60, &[1, 2]);
        // Young ones stay, and the one that was in use when the oldest of them came.
        check(&[(1, 900), (2, 800), (3, 50), (4, 10)], 1, 60, &[1]);
        check(&[(1, 900), (2, 800), (3, 50), (4, 10)], 1, 5, &[1, 2, 3]);
        // The newest stays, whatever the retention.
        check(&[(1, 900), (2, 800)], 0, 0, &[1]);
    }
}
