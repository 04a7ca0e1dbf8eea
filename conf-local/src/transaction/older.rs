//! An older snapshot than the exported one, rendered beside it for operations that are pinned to it: no checks, no places,
//! no switch, nobody told.

use conf_core::{api::Pointer, daemon::chain, snapshot::Snapshot};
use git2::Repository as Git;
use libconf::name::{CommitId, Sequence};

use crate::export::{self, Header};
use crate::transaction::{Host, TransactionError};

impl Host {
    /// Renders `older`, the newest up to change `through`, into a folder of its own, once it is proven to be this datacenter's:
    /// signed, and, with `next`, what that one follows, signed as well. Does nothing when it is kept already.
    pub fn render_older(
        &mut self,
        older: Pointer,
        through: Sequence,
        next: Option<Pointer>,
    ) -> Result<(), TransactionError> {
        let git = self.git()?;
        if let Some(next) = next
            && self.named(&git, next)?.parent != Some(older.commit)
        {
            let words =
                format!("snapshot #{} does not follow #{}: something lies between", next.sequence, older.sequence);
            return Err(TransactionError::Refused(words));
        }
        let snapshot = self.named(&git, older)?;
        let Some((current, _)) = self.export.current().filter(|(current, _)| *current > older.sequence) else {
            let words = format!("snapshot #{} is not older than what is exported", older.sequence);
            return Err(TransactionError::Refused(words));
        };
        if self.export.keeps(older.sequence, older.commit, &self.name) {
            return Ok(());
        }
        let rendered = self.render_beside(&git, &snapshot, through);
        if rendered.is_ok() {
            tracing::info!(sequence = %older.sequence, %current, "an older snapshot is rendered for operations");
        } else if let Err(error) = self.export.discard() {
            tracing::warn!(error = %chain(&error), "what the failed step left could not be removed; tried again later");
        }
        rendered
    }

    /// Sees that a snapshot is signed for this datacenter, and follows none.
    pub fn begins_with(&mut self, first: Pointer) -> Result<(), TransactionError> {
        let snapshot = self.named(&*self.git()?, first)?;
        if snapshot.parent.is_none() {
            return Ok(());
        }
        let words = format!("snapshot #{} is not the datacenter's first: it follows another", first.sequence);
        Err(TransactionError::Refused(words))
    }

    /// A snapshot that is signed for this datacenter and is what it was called.
    fn named(&self, git: &Git, named: Pointer) -> Result<Snapshot, TransactionError> {
        let snapshot = Snapshot::verify(git, named.commit, &self.keys, &self.datacenter)?;
        if snapshot.sequence == named.sequence {
            return Ok(snapshot);
        }
        let short = |commit: CommitId| commit.short();
        let words = format!("{} is snapshot #{}, not #{}", short(named.commit), snapshot.sequence, named.sequence);
        Err(TransactionError::Refused(words))
    }

    fn render_beside(&mut self, git: &Git, snapshot: &Snapshot, through: Sequence) -> Result<(), TransactionError> {
        let model = self.model_of(git, snapshot)?;
        // Most components are as they are now, and are not rendered again.
        let have = self.export.current().map(|(_, kept)| kept.clone()).unwrap_or_default();
        let (mut contents, faults) = self.stage(git, &model, &have, false)?;
        // What keeps other files in the export has none here: those would be of another snapshot.
        contents.retain(|name, _| model.inputs.contains_key(name) && !faults.contains_key(name));
        let header = Header { through: Some(through), ..self.header(snapshot, faults) };
        let plan = export::plan(&have.contents, &contents);
        Ok(self.export.keep_older(header, &plan, contents)?)
    }
}
