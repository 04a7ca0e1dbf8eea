//! What is in memory follows the ledger: from a start on, after a failure, and on a standby, which
//! takes entries that its leader has landed.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use conf_core::sign::{SigningKey, TrustedKeys, fingerprint_of_new};
use conf_core::snapshot::Snapshot;
use libconf::name::{CommitId, RefName};
use tracing::{error, info, warn};

use crate::catalog::Catalog;
use crate::landing::staging::Staging;
use crate::store::{self, LedgerState, RefFiles, RefTarget, Table, Wanted, ledger, signer, tip};

/// Entries of the ledger that were looked at, and are not taken yet.
pub(crate) struct Taking {
    /// The last of them.
    pub(crate) newest: CommitId,
    state: LedgerState,
}

impl Staging {
    /// Drops everything that was staged: reads the ledger anew, and sets the refs to it. It is an
    /// error when the ledger does not contain the last change that is known to have landed.
    pub(crate) fn reload(&mut self, landed: Option<CommitId>) -> anyhow::Result<()> {
        landed.map_or(Ok(()), |landed| tip::settle(&self.path, landed))?;
        self.open_again()?;
        let newest: CommitId = self.repo.refname_to_id(&RefName::Ledger.to_string())?.into();
        let state = ledger::replay(&self.repo, newest)?;
        self.follow(newest, state)
    }

    /// Puts the state of the ledger's newest entry in the place of what is in memory, and sets the
    /// refs to it.
    pub(crate) fn follow(&mut self, newest: CommitId, state: LedgerState) -> anyhow::Result<()> {
        let LedgerState { table, requests, layers, sequence } = state;
        self.ref_files = RefFiles::find(&self.path, sequence);
        let wanted = Wanted { table: &table, ledger: newest, sequence };
        for line in self.ref_files.repair(&self.repo, wanted)? {
            warn!("{line}");
        }
        store::sync_objects(&self.repo)?;
        let access = store::access::read(&self.repo, &table)?;
        let keys = store::keys::read(&self.repo, &table)?;
        if self.ledger == CommitId::ZERO || *self.keys != keys {
            self.key = Arc::new(signer::load(&self.path, &keys)?);
        }
        self.keys = Arc::new(keys);
        let (catalog, faults) = Catalog::load(&self.repo, &self.judge.contents, table);
        for fault in faults {
            error!(%fault, "a datacenter cannot be resolved; it keeps its last snapshot");
        }
        self.checker.forget();
        self.ledger = newest;
        self.access = Arc::new(access);
        (self.catalog, self.requests, self.layers, self.sequence) = (Arc::new(catalog), requests, layers, sequence);
        self.rights.tokens = self.access.clone();
        self.rights.follow(&self.repo, &self.catalog.table);
        info!(sequence = sequence.0, datacenters = self.catalog.datacenters.len(), "the ledger is read");
        Ok(())
    }

    /// Makes entries of the ledger durable, up to `newest`, and returns what is left to do with
    /// them. They must follow from the newest entry here, and the key of this repository must have
    /// signed their snapshots. An error leaves the ledger as it was.
    ///
    /// With `drops` the leader was elected: of what is here and not there nobody was answered, and
    /// it is dropped, if this server's key has signed that another epoch began.
    pub(crate) fn take(&mut self, newest: CommitId, drops: bool) -> anyhow::Result<Taking> {
        self.open_again()?;
        let state = ledger::replay(&self.repo, newest).context("the ledger of the leader cannot be read")?;
        let follows = tip::is_before(&self.repo, self.ledger, newest);
        let supersedes = self.expect_signed(&state)? > self.epoch() && drops;
        if !follows && supersedes {
            let (sequence, ledger) = (self.sequence.0, self.ledger);
            warn!(sequence, %ledger, "changes that landed here alone, and were answered to nobody, are dropped");
        }
        ensure!(
            follows || supersedes,
            "the leader has #{} and what is here is not a part of it: #{} landed on another server. Make this standby anew: \
             move its repository away, and run `conf-master init --follow`",
            state.sequence,
            self.sequence
        );
        store::move_ledger(&self.repo, Some(self.ledger), newest)?;
        Ok(Taking { newest, state })
    }

    /// Sets the refs to entries that were taken, and the state in memory. Refs that cannot be set
    /// now are set at the next repair.
    pub(crate) fn finish_taking(&mut self, taking: Taking) -> anyhow::Result<()> {
        let Taking { newest, state } = taking;
        let moved = moved(&self.catalog.table, &state.table);
        for target in moved.values().flatten().filter(|target| target.value != target.commit) {
            ledger::restore_tag(&self.repo, newest, target.value)?;
        }
        let wanted = Wanted { table: &state.table, ledger: newest, sequence: state.sequence };
        let moves = moved.iter().map(|(name, target)| (name, *target)).collect();
        self.ref_files.set(&self.repo, wanted, &moves)?;
        let (refs, sequence) = (moved.len(), state.sequence.0);
        self.follow(newest, state)?;
        info!(sequence, refs, "changes of the leader are here");
        Ok(())
    }

    /// Expects the key of this repository to have signed what is new, and returns the epoch.
    fn expect_signed(&mut self, state: &LedgerState) -> anyhow::Result<u32> {
        let statements = store::keys::read(&self.repo, &state.table)?;
        let signs =
            |key: &SigningKey| statements.last().is_none_or(|last| fingerprint_of_new(last) == key.fingerprint());
        if !signs(&self.key) {
            // It may have been imported since.
            let found = SigningKey::load(&store::key_path(&self.path))?;
            ensure!(
                signs(&found),
                "the leader has another key by now, and this standby has {}; export the leader's keys again, and \
                 `conf-master key import` them here",
                found.fingerprint()
            );
            self.key = Arc::new(found);
        }
        let trusted = TrustedKeys::of(&self.key);
        trusted.follow(&statements)?;
        for (name, target) in moved(&self.catalog.table, &state.table) {
            let (RefName::Snapshot(datacenter), Some(target)) = (name, target) else { continue };
            Snapshot::verify(&self.repo, target.commit, &trusted, &datacenter)
                .with_context(|| format!("the leader's snapshot of {datacenter} is not good"))?;
        }
        Ok(trusted.epoch())
    }
}

/// The refs that differ.
fn moved(before: &Table, after: &Table) -> BTreeMap<RefName, Option<RefTarget>> {
    let new = after.iter().filter(|(name, target)| before.target(name) != Some(*target));
    let gone = before.iter().filter(|(name, _)| after.target(name).is_none());
    let gone = gone.map(|(name, _)| (name.clone(), None));
    new.map(|(name, target)| (name.clone(), Some(target))).chain(gone).collect()
}
