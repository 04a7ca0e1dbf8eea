//! Putting this host's disk in order without asking a server.

use std::time::Instant;

use conf_core::{daemon::chain, render::RENDERING, snapshot::Snapshot};

use crate::transaction::{
    error::TransactionError,
    host::{Audience, Host},
};

impl Host {
    /// Puts the state folder in order without asking a server. Makes a damaged or missing export
    /// again, and exports a snapshot that was accepted and not exported yet.
    pub(crate) fn settle(&mut self, audience: &Audience) -> Result<(), TransactionError> {
        self.restore_places();
        let Some((snapshot, _)) = self.newest.clone() else { return Ok(()) };
        if self.export.current.is_some_and(|current| current > snapshot.sequence) {
            // The repository is older than the export, and cannot help.
            return Ok(());
        }
        let exported = self.export.current().and_then(|(_, kept)| kept.header.clone());
        let same = exported.as_ref().is_some_and(|header| header.commit == snapshot.commit && header.host == self.name);
        if same {
            return self.settle_exported(&snapshot, audience);
        }
        let mut before = None;
        if let Some(header) = exported.filter(|header| header.host == self.name) {
            // If the snapshot of the export is still here, only the difference is rendered.
            let git = self.git()?;
            before = Snapshot::read(&git, header.commit).ok();
            self.model = before.as_ref().and_then(|before| self.read(&git, before).ok());
            if !self.is_whole() || header.rendering != RENDERING {
                self.model = None;
            }
        }
        let settled = self.put_in_place(&snapshot, self.model.is_none(), Instant::now(), audience);
        // A host that the newest snapshot shuts out keeps its files: those are put in order.
        if let (Err(TransactionError::Refused(_)), Some(before)) = (&settled, before)
            && let Err(error) = self.settle_exported(&before, audience)
        {
            tracing::warn!(error = %chain(&error), "the export could not be put in order");
        }
        settled
    }

    /// Makes the export of the exported snapshot again, unless it is whole.
    fn settle_exported(&mut self, snapshot: &Snapshot, audience: &Audience) -> Result<(), TransactionError> {
        self.model = Some(self.read(&*self.git()?, snapshot)?);
        self.recall_secrets();
        let is_whole = self.is_whole();
        let header = self.export.current().and_then(|(_, kept)| kept.header.as_ref());
        if !is_whole {
            tracing::warn!(sequence = snapshot.sequence.0, "the export is damaged; making it anew");
        } else if header.is_some_and(|header| header.faults.is_empty() && header.rendering == RENDERING) {
            return Ok(());
        }
        // A component that was held back may pass now: this host or its configuration may have been
        // corrected. And another version of the agent may render other bytes.
        self.put_in_place(snapshot, true, Instant::now(), audience)
    }

    /// True while a placement of `export:` is not as it should be, or a check holds a component
    /// back.
    pub(crate) fn is_troubled(&self) -> bool {
        self.place.is_troubled() || self.checks.hold_back()
    }

    /// Tries again to place components that could not be placed, and those whose check did not
    /// pass.
    pub(crate) fn place_again(&mut self, audience: &Audience) -> Result<(), TransactionError> {
        self.restore_places();
        self.checks.try_again();
        if let Some(snapshot) = self.model.as_ref().map(|model| model.snapshot.clone()) {
            self.put_in_place(&snapshot, false, Instant::now(), audience)?;
        }
        self.publish_to(&audience.agent);
        Ok(())
    }

    /// Makes the places of `export:` hold the exported files, whatever a crash or a failure has
    /// left there.
    pub(crate) fn restore_places(&mut self) {
        if let Some((_, kept)) = self.export.current().filter(|_| self.holds_state()) {
            self.place.restore(&self.export, &kept.contents);
        }
    }
}
