//! Rendering an older snapshot beside the exported one, for operations that are pinned to it:
//! without checks, places, switch or notices.

use conf_core::{api::Pointer, daemon::chain, snapshot::Snapshot};
use git2::Repository as Git;
use libconf::name::Sequence;

use crate::{
    export::{self, Header},
    transaction::{error::TransactionError, host::Host, model::Draft},
};

impl Host {
    /// Renders `older`, the newest snapshot up to change `through`, into a folder of its own.
    /// Verifies first that it is signed for this datacenter, and, with `next`, that the signed
    /// `next` follows it. Does nothing if it is kept already.
    pub(crate) fn render_older(
        &mut self,
        older: Pointer,
        through: Sequence,
        next: Option<Pointer>,
    ) -> Result<(), TransactionError> {
        self.expect_held()?;
        let git = self.git()?;
        if let Some(next) = next
            && self.verified(&git, next)?.parent != Some(older.commit)
        {
            let words = format!(
                "snapshot #{} does not follow #{}: there is another one between",
                next.sequence, older.sequence
            );
            return Err(TransactionError::Refused(words));
        }
        let snapshot = self.verified(&git, older)?;
        let Some((current, _)) = self.export.current().filter(|(current, _)| *current > older.sequence) else {
            let words = format!("snapshot #{} is not older than what is exported", older.sequence);
            return Err(TransactionError::Refused(words));
        };
        if self.export.keeps(older.sequence, older.commit, &self.name) {
            return Ok(());
        }
        let rendered = self.render_beside(&git, &snapshot, through);
        if rendered.is_ok() {
            tracing::info!(
                sequence = older.sequence.0,
                current = current.0,
                "rendered an older snapshot for operations"
            );
        } else if let Err(error) = self.export.discard() {
            tracing::warn!(error = %chain(&error), "the rest of the failed step could not be removed; trying again later");
            self.unswept = true;
        }
        rendered
    }

    /// Verifies that a snapshot is signed for this datacenter and has no parent.
    pub(crate) fn begins_with(&mut self, first: Pointer) -> Result<(), TransactionError> {
        let snapshot = self.verified(&*self.git()?, first)?;
        if snapshot.parent.is_none() {
            return Ok(());
        }
        let words = format!("snapshot #{} is not the datacenter's first: it follows another", first.sequence);
        Err(TransactionError::Refused(words))
    }

    /// Reads a snapshot, and verifies that it is signed for this datacenter and has the named
    /// sequence.
    fn verified(&self, git: &Git, named: Pointer) -> Result<Snapshot, TransactionError> {
        let snapshot = Snapshot::verify(git, named.commit, &self.keys, &self.datacenter)?;
        if snapshot.sequence == named.sequence {
            return Ok(snapshot);
        }
        let commit = named.commit.short();
        let words = format!("{commit} is snapshot #{}, not #{}", snapshot.sequence, named.sequence);
        Err(TransactionError::Refused(words))
    }

    fn render_beside(&mut self, git: &Git, snapshot: &Snapshot, through: Sequence) -> Result<(), TransactionError> {
        let model = self.read(git, snapshot)?;
        if let Some(why) = &model.manifests.selection.shut_out {
            return Err(TransactionError::Refused(format!("at #{}, {why}", snapshot.sequence)));
        }
        // Most components are the same as now, and are not rendered again.
        let have = self.export.current().map(|(_, kept)| kept.clone()).unwrap_or_default();
        let Draft { mut contents, faults, damage, .. } = self.stage(git, &model, &have, false)?;
        if let Some(cause) = damage {
            return Err(TransactionError::Damaged(cause));
        }
        // A component that keeps earlier files in the export has none here: they would be of
        // another snapshot.
        contents.retain(|name, _| model.inputs.contains_key(name) && !faults.contains_key(name));
        let header = Header { through: Some(through), ..self.header(snapshot, faults) };
        let plan = export::plan(&have.contents, &contents);
        Ok(self.export.keep_older(header, &plan, contents)?)
    }
}
