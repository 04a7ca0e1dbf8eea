//! The host's state in plain values.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use conf_core::api::{HostFailure, HostState, LONGEST_FAILURE, MOST_FAILURES, Pointer};
use conf_core::freshness::FreshnessState;
use libconf::name::{CommitId, ComponentSelector, ComponentVersion, DatacenterName, HostName, Sequence, SourceName};
use serde::{Deserialize, Serialize};

use crate::{export::Faults, place::PlaceStatus};

/// The host's state: the answer to `GET /v1/status`, to which the service adds `watchers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The datacenter that this host follows.
    pub datacenter: DatacenterName,
    /// The name of this host.
    pub host: HostName,
    /// The exported change; 0 if there is none.
    pub sequence: Sequence,
    /// The exported snapshot.
    pub commit: Option<CommitId>,
    /// The last change for which the exported snapshot is known to be the newest; at least
    /// `sequence`.
    #[serde(default)]
    pub central: Sequence,
    /// The absolute path of `export/`.
    pub export: PathBuf,
    /// The absolute path of the snapshot's own folder in `export/`, without links; `None` if there
    /// is none.
    pub current: Option<PathBuf>,
    /// Whether the wanted snapshot is exported.
    pub state: HostState,
    /// Why it is not.
    pub error: Option<String>,
    /// The pointer that this host follows: the newest one that Consul or a conf-slave names.
    pub pointer: Option<Pointer>,
    /// Who named it first: `consul`, or the URL of a conf-slave.
    #[serde(default)]
    pub pointer_from: Option<String>,
    /// The time of the last switch, RFC 3339, UTC.
    pub since: Option<String>,
    /// The number of exported components.
    pub components: usize,
    /// Components that were not rendered, did not pass a check or were not placed, each with the
    /// reason. They keep their earlier files, if they had any.
    #[serde(default)]
    pub faults: Faults,
    /// For each of them, the last change whose files of it are in place.
    #[serde(skip)]
    pub(crate) held: BTreeMap<ComponentVersion, Sequence>,
    /// Watchers that were not told of their newest change, or could not be.
    #[serde(skip)]
    pub(crate) untold: BTreeMap<String, Untold>,
    /// What something else has changed or removed on this host's disk, with what is done about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) damage: Vec<String>,
    /// What cannot be reached now, with the reason.
    #[serde(default)]
    pub away: BTreeMap<String, String>,
    /// How long conf-master was not heard.
    #[serde(default)]
    pub(crate) freshness: FreshnessState,
    /// True if the central server has deleted the datacenter. This host keeps its files.
    #[serde(default)]
    pub deleted: bool,
    /// False if the datacenter's inventory does not list this host, or gives it no components.
    pub listed: bool,
    /// Why the exported snapshot shuts this host out: it keeps the files that it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shut_out: Option<String>,
    /// Components that this host's file names and the datacenter does not have, each with its
    /// place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// The last results of this host's checks.
    #[serde(default)]
    pub checks: Vec<CheckStatus>,
    /// The state of this host's placements.
    #[serde(default)]
    pub placements: Vec<PlaceStatus>,
    /// The last results of this host's probes.
    #[serde(default)]
    pub probes: Vec<ProbeStatus>,
    /// What is wrong with the sources of secrets on this host, each in one sentence without any
    /// value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The secret sources that this host's file offers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sources: Vec<SourceName>,
    /// True if the agent tells no process and places nothing (`--observe`).
    #[serde(default)]
    pub observe: bool,
    /// The agent's version.
    pub agent: String,
}

/// The last result of a check: an element of `checks` in `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// The component whose files it read.
    pub(crate) component: ComponentVersion,
    /// The command, for people.
    pub(crate) command: String,
    pub(crate) passed: bool,
    /// The change that it checked.
    pub(crate) sequence: Sequence,
    /// The time, RFC 3339, UTC.
    pub(crate) when: String,
    /// Its output if it did not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// The last result of a probe: an element of `probes` in `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// The component whose program it asked.
    pub(crate) component: ComponentSelector,
    /// The command or address, for people.
    pub(crate) target: String,
    pub(crate) passed: bool,
    /// The change that was exported then.
    pub(crate) sequence: Sequence,
    /// The time, RFC 3339, UTC.
    pub(crate) when: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The changes that brought its component as it is.
    #[serde(skip)]
    pub(crate) about: Changes,
}

/// The changes above `after`, up to `through`: what one switch brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) after: Sequence,
    pub(crate) through: Sequence,
}

impl Changes {
    /// Joins the changes that failed before: what follows a failure and fails too does not say that
    /// the earlier change was well.
    pub(crate) fn after_failed(self, failed: Option<Changes>) -> Self {
        Changes { after: failed.map_or(self.after, |failed| failed.after.min(self.after)), ..self }
    }
}

/// A watcher that was not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Untold {
    pub(crate) about: Changes,
    /// Why it could not be told; `None` if that was not tried yet, or goes on.
    pub(crate) error: Option<String>,
}

impl Untold {
    fn words(&self, watcher: &str) -> String {
        match &self.error {
            Some(error) => format!("{watcher} could not be told: {error}"),
            None => format!("{watcher} is not told yet"),
        }
    }
}

impl Status {
    /// The state before anything was read.
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
            pointer_from: None,
            since: None,
            components: 0,
            faults: BTreeMap::new(),
            held: BTreeMap::new(),
            untold: BTreeMap::new(),
            damage: Vec::new(),
            away: BTreeMap::new(),
            freshness: FreshnessState::default(),
            deleted: false,
            listed: true,
            shut_out: None,
            missing: Vec::new(),
            checks: Vec::new(),
            placements: Vec::new(),
            probes: Vec::new(),
            secrets: Vec::new(),
            sources: Vec::new(),
            observe: false,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Says that the datacenter was deleted, if it was.
    pub(crate) fn deleted_words(&self) -> Option<String> {
        self.deleted.then(|| {
            format!(
                "datacenter {} was deleted on the central server: this host keeps its last files and gets no change any more; \
                 push the datacenter's branch again, or move this host to another datacenter",
                self.datacenter
            )
        })
    }

    /// Notes that the wanted snapshot is exported: only held-back components or failed probes can
    /// be wrong, or the snapshot shuts this host out.
    pub(crate) fn settle(&mut self) {
        self.error = self.unwell();
        self.state = if self.error.is_none() { HostState::Current } else { HostState::Failed };
    }

    /// Returns what is wrong with the exported snapshot, if something is.
    fn unwell(&self) -> Option<String> {
        let first = self.faults.iter().next().map(|(name, reason)| format!("{name}: {reason}"));
        let held_back = first.map(|first| format!("{} held back; {first}", self.faults.len()));
        self.shut_out.clone().or(held_back).or_else(|| failing(&self.probes).into_iter().next())
    }

    /// Describes the first watcher that could not be told.
    pub(crate) fn could_not_be_told(&self) -> Option<String> {
        let mut failed = self.untold.iter().filter(|(_, untold)| untold.error.is_some());
        failed.next().map(|(watcher, untold)| untold.words(watcher))
    }

    /// Lists all that failed, and watchers that are not told yet, each with the changes that it is
    /// about.
    pub(crate) fn failures(&self) -> Vec<HostFailure> {
        let held_back = self.faults.iter().map(|(name, reason)| HostFailure {
            after: self.held.get(name).copied().unwrap_or_default(),
            through: None,
            error: format!("{name} is held back: {reason}"),
        });
        let of = |Changes { after, through }, error| HostFailure { after, through: Some(through), error };
        let probes = self.probes.iter().filter(|probe| !probe.passed);
        let probes = probes.map(|probe| of(probe.about, words_of(probe)));
        let (failed, pending): (Vec<_>, Vec<_>) = self.untold.iter().partition(|(_, untold)| untold.error.is_some());
        let untold = failed.into_iter().chain(pending);
        let untold = untold.map(|(watcher, untold)| of(untold.about, untold.words(watcher)));
        // Something else than the exported snapshot.
        let rest = self.error.clone().filter(|_| self.state == HostState::Failed && self.error != self.unwell());
        let arrived = self.pointer.is_none_or(|pointer| pointer.sequence <= self.sequence);
        let after = if arrived { Sequence(0) } else { self.sequence };
        let rest = rest.map(|error| HostFailure { after, through: None, error });
        joined(held_back.chain(probes).chain(untold).chain(rest))
    }

    /// Settles, unless a newer snapshot is on its way or could not be taken.
    pub(crate) fn judge(&mut self) {
        let arrived = self.pointer.is_none_or(|pointer| pointer.sequence == self.sequence);
        if arrived && self.state != HostState::Updating {
            self.settle();
        }
    }
}

/// Describes each component with a failed probe.
pub(crate) fn failing(probes: &[ProbeStatus]) -> BTreeSet<String> {
    let failed = probes.iter().filter(|probe| !probe.passed);
    failed.map(words_of).collect()
}

fn words_of(probe: &ProbeStatus) -> String {
    format!("{} is not well: {}", probe.component, probe.error.as_deref().unwrap_or_default())
}

/// Joins failures that are about the same changes, and of too many all.
fn joined(failures: impl Iterator<Item = HostFailure>) -> Vec<HostFailure> {
    let mut by_changes: BTreeMap<(Sequence, Option<Sequence>), (String, usize)> = BTreeMap::new();
    for HostFailure { after, through, error } in failures {
        by_changes.entry((after, through)).or_insert((error, 0)).1 += 1;
    }
    if by_changes.len() > MOST_FAILURES {
        let after = by_changes.keys().map(|(after, _)| *after).min().unwrap_or_default();
        let through = by_changes.keys().map(|(_, through)| *through).reduce(|one, other| Some(one?.max(other?)));
        let count = by_changes.values().map(|(_, count)| count).sum();
        let first = by_changes.into_values().next().map(|(error, _)| error).unwrap_or_default();
        by_changes = [((after, through.flatten()), (first, count))].into();
    }
    let of = |((after, through), (error, count)): ((Sequence, Option<Sequence>), (String, usize))| {
        let error: String = error.chars().take(LONGEST_FAILURE - 30).collect();
        let more = if count > 1 { format!("; and {} more", count - 1) } else { String::new() };
        HostFailure { after, through, error: error + &more }
    };
    by_changes.into_iter().map(of).collect()
}
