//! Showing the export to the agent's other tasks, and the work after a switch that can wait.

use std::{
    collections::BTreeMap,
    time::{Instant, SystemTime},
};

use conf_core::git::{Durability, replace_file};
use conf_core::{
    daemon::{chain, millis},
    snapshot::Snapshot,
    template,
};
use libconf::name::{CommitId, ComponentVersion, Sequence};
use tokio::sync::OwnedRwLockWriteGuard;

use crate::{
    export::ChangeKind,
    snapshot::NamedComponent,
    state::{Agent, HistoryChange, HistoryEntry, Switched},
    transaction::{
        accepted,
        host::{Audience, Host},
    },
};

/// The history shows 50 components of one switch, even if thousands changed.
const MOST_SHOWN: usize = 50;
/// 64 uses of the open repository, which are a dozen changes: then it is opened anew after a rest,
/// since it keeps every pack that it has looked into.
const MOST_READS: u32 = 64;
/// 16 switches: after so many without a rest the history is written down in between.
const MOST_UNWRITTEN: u32 = 16;

impl Host {
    /// Shows the export to all tasks of the agent.
    pub(crate) fn publish_to(&self, agent: &Agent) {
        let Some((exported, header)) = self.exported() else { return };
        let selection = self.model.as_ref().map(|model| &model.manifests.selection);
        let listed = selection.is_none_or(|selection| selection.listed && !selection.is_everything());
        let shut_out = selection.and_then(|selection| selection.shut_out.clone());
        let missing = self.missing();
        if agent.view().status.missing != missing {
            missing.iter().for_each(|words| tracing::warn!("{words}"));
        }
        agent.update(|view| {
            let status = &mut view.status;
            status.sequence = exported.sequence;
            status.commit = header.map(|header| header.commit);
            status.current = Some(exported.directory.clone());
            status.since = header.and_then(|header| timestamp(header.time));
            status.components = exported.components.len();
            status.faults = header.map(|header| header.faults.clone()).unwrap_or_default();
            status.held = header.map(|header| header.held.clone()).unwrap_or_default();
            status.listed = listed;
            status.shut_out = shut_out;
            status.missing = missing;
            status.checks = self.checks.status();
            status.placements = self.place.status();
            // An agent that observes leaves its notices to a later one.
            status.untold = if status.observe { BTreeMap::new() } else { self.outbox.untold() };
            // Without a pointer, no newer snapshot is known.
            if status.pointer.is_none_or(|pointer| pointer == exported.snapshot()) {
                status.settle();
            }
            view.exported = Some(exported);
            view.raise_central();
        });
    }

    /// Describes the components that this host's file names and the exported snapshot does not
    /// have.
    fn missing(&self) -> Vec<String> {
        let Some(model) = self.model.as_ref().filter(|_| !self.named.is_empty()) else { return Vec::new() };
        let missing = self.git().and_then(|git| Ok(NamedComponent::missing(&self.named, &git, &model.snapshot)?));
        missing.unwrap_or_else(|error| {
            tracing::debug!(error = %chain(&error), "cannot look for the components that the file names");
            Vec::new()
        })
    }

    pub(crate) fn announce(
        &mut self,
        snapshot: &Snapshot,
        before: Sequence,
        changed: BTreeMap<ComponentVersion, ChangeKind>,
        since: Instant,
        audience: &Audience,
    ) {
        let took_ms = millis(since.elapsed());
        tracing::info!(
            sequence = snapshot.sequence.0, commit = %snapshot.commit, changed = changed.len(), took_ms, "exported"
        );
        let inputs = self.model.as_ref().map(|model| &model.inputs);
        let shown = changed.iter().take(MOST_SHOWN).map(|(name, kind)| {
            let pin = inputs
                .and_then(|inputs| inputs.get(name))
                .map(|input| format!("{}/{}", input.pin.branch, input.pin.commit));
            (name.clone(), HistoryChange { kind: *kind, pin })
        });
        let entry = HistoryEntry {
            sequence: snapshot.sequence,
            commit: snapshot.commit,
            when: jiff::Timestamp::now().to_string(),
            took_ms,
            changed: shown.collect(),
            changed_count: changed.len(),
        };
        let (sequence, commit) = (snapshot.sequence, snapshot.commit);
        self.unwritten += 1;
        audience.agent.announce(Switched { sequence, commit, before, changed }, entry);
    }

    /// Ends the process that renders, and writes the history down. The repository stays open over
    /// some changes: to open it takes as many system calls as the rest of a change.
    pub(crate) fn rest(&mut self, agent: &Agent) {
        template::release();
        self.repository.pool.forget_after(MOST_READS);
        self.write_history(agent);
    }

    /// Does what can wait no longer, since the agent ends.
    pub(crate) fn end(&mut self, is_untidy: bool, audience: &Audience) {
        if is_untidy {
            self.tidy(audience, None);
        }
        self.write_history(&audience.agent);
    }

    /// Writes the newest snapshot down below which this host takes none. It is not synced: after a
    /// power cut the repository or the export says the same, and only their removal needs it.
    fn write_floor(&mut self) {
        let known = self.known().filter(|known| self.floor.is_none_or(|floor| floor.sequence < known.sequence));
        let Some(known) = known else { return };
        match accepted::write(&self.state, known, Durability::Content) {
            Ok(()) => self.floor = Some(known),
            Err(error) => tracing::debug!(%error, "the newest accepted snapshot could not be written down"),
        }
    }

    /// Writes the history down, unless it is there already. It grows with every switch, and is for
    /// people only: so it is not written with each of them, and not synced.
    pub(crate) fn write_history(&mut self, agent: &Agent) {
        if self.unwritten == 0 || !self.holds_state() {
            return;
        }
        self.unwritten = 0;
        let written = serde_json::to_vec(&agent.history())
            .map_err(std::io::Error::from)
            .and_then(|text| replace_file(&self.history, &text, 0o600, Durability::None));
        if let Err(error) = written {
            tracing::debug!(%error, "the history could not be written");
        }
    }

    /// Does the work that can wait until readers have their files: old snapshots, packs.
    /// False if something could not be done and is to be tried again.
    /// While there are fetches, the packs wait longer; then a fetch passes `guard`, which keeps
    /// other fetches away.
    pub(crate) fn tidy(&mut self, audience: &Audience, guard: Option<OwnedRwLockWriteGuard<()>>) -> bool {
        if !self.holds_state() {
            return false;
        }
        let mut is_tidy = true;
        // Of a snapshot that was fetched and not exported.
        for file in self.repository.pool.take_unsynced() {
            if let Err(error) = file.sync_all() {
                tracing::debug!(%error, "a pack may not survive a power cut");
            }
        }
        if self.unwritten >= MOST_UNWRITTEN {
            self.write_history(&audience.agent);
        }
        self.write_floor();
        let held = audience.watchers.held();
        if let Err(error) = self.export.retire(self.retention, &held, SystemTime::now()) {
            tracing::warn!(error = %chain(&error), "old snapshots could not be removed; trying again within half a minute");
            // What the removal left is found by looking at all of it.
            (self.unswept, is_tidy) = (true, false);
        }
        if self.unswept {
            self.unswept = self.export.discard().is_err();
            is_tidy = is_tidy && !self.unswept;
        }
        self.export.prepare_next();
        let exported = self.model.as_ref().map(|model| model.snapshot.commit);
        let mut keep: Vec<CommitId> = self.newest.iter().map(|(newest, _)| newest.commit).chain(exported).collect();
        keep.dedup();
        let git = self.git().ok();
        keep.retain(|commit| git.as_ref().is_some_and(|git| git.find_commit((*commit).into()).is_ok()));
        drop(git);
        let Some(_guard) = guard.or_else(|| self.collection.try_collect()) else { return is_tidy };
        match self.repository.consolidate(&keep) {
            Ok(true) => tracing::info!("the repository was consolidated"),
            Ok(false) => {}
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "the repository could not be consolidated; trying again within half a minute");
                is_tidy = false;
            }
        }
        is_tidy
    }
}

fn timestamp(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok()?;
    Some(jiff::Timestamp::from_second(seconds).ok()?.to_string())
}
