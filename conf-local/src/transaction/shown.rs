//! What others see of this host: what is exported, what was switched, and what is left when nobody looks any more.

use std::{
    collections::BTreeMap,
    time::{Instant, SystemTime},
};

use conf_core::{daemon::chain, snapshot::Snapshot};
use libconf::name::{CommitId, ComponentVersion};

use tokio::sync::OwnedRwLockWriteGuard;

use crate::state::{Agent, ChangeKind, HistoryChange, HistoryEntry, Switched};
use crate::transaction::{Audience, Host};

/// A switch that changed thousands shows so many of them in the history.
const MOST_SHOWN: usize = 50;

impl Host {
    /// Shows everybody in the process what is exported.
    pub fn publish_to(&self, agent: &Agent) {
        let Some((exported, header)) = self.exported() else { return };
        let listed = self.model.as_ref().is_none_or(|model| !model.declared.selection.is_everything());
        agent.update(|view| {
            let status = &mut view.status;
            status.sequence = exported.sequence;
            status.commit = header.map(|header| header.commit);
            status.current = Some(exported.directory.clone());
            status.since = header.and_then(|header| timestamp(header.time));
            status.components = exported.components.len();
            status.faults = header.map(|header| header.faults.clone()).unwrap_or_default();
            status.listed = listed;
            status.checks = self.checks.status();
            status.placements = self.place.status();
            // With the pointer unknown, nothing is known to be newer.
            let (sequence, commit) = (exported.sequence, exported.commit);
            if status.pointer.is_none_or(|pointer| (pointer.sequence, pointer.commit) == (sequence, commit)) {
                status.settle();
            }
            view.exported = Some(exported);
            view.raise_central();
        });
    }

    pub(crate) fn announce(
        &self,
        snapshot: &Snapshot,
        changed: BTreeMap<ComponentVersion, ChangeKind>,
        since: Instant,
        audience: &Audience,
    ) {
        let took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            sequence = %snapshot.sequence, commit = %snapshot.commit, changed = changed.len(), took_ms, "exported"
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
        let export = self.export.directory(snapshot.sequence);
        audience
            .agent
            .announce(Switched { sequence: snapshot.sequence, commit: snapshot.commit, changed, export }, entry);
    }

    /// What can wait until readers have their files: history, old snapshots, packs. The packs wait longer while somebody
    /// fetches, who then hands over that nobody does.
    pub fn tidy(&mut self, audience: &Audience, alone: Option<OwnedRwLockWriteGuard<()>>) {
        // For people only: no sync.
        let new = self.history.with_extension("json.new");
        let written = serde_json::to_vec(&audience.agent.history())
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, &self.history));
        if let Err(error) = written {
            tracing::debug!(%error, "the history could not be written");
        }
        let held = audience.watchers.held();
        if let Err(error) = self.export.retire(self.retention, &held, SystemTime::now()) {
            tracing::warn!(error = %chain(&error), "old snapshots could not be removed; tried again after the next change");
        }
        self.export.prepare_next();
        let exported = self.model.as_ref().map(|model| model.snapshot.commit);
        let mut keep: Vec<CommitId> = self.newest.iter().map(|(newest, _)| newest.commit).chain(exported).collect();
        keep.dedup();
        let git = self.git().ok();
        keep.retain(|commit| git.as_ref().is_some_and(|git| git.find_commit((*commit).into()).is_ok()));
        drop(git);
        let Some(_alone) = alone.or_else(|| self.fetching.alone()) else { return };
        match self.repository.consolidate(&keep) {
            Ok(true) => tracing::info!("the repository was consolidated"),
            Ok(false) => {}
            Err(error) => tracing::warn!(error = %chain(&error), "the repository could not be consolidated"),
        }
    }
}

fn timestamp(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok()?;
    Some(jiff::Timestamp::from_second(seconds).ok()?.to_string())
}
