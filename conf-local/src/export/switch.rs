//! Switching readers to a snapshot that was built.

use std::io;

use crate::{
    export::{
        error::ExportError,
        folder::Export,
        names::{CURRENT, NEW},
        plan::{Contents, Header, KeptSnapshot},
    },
    fs::Entry,
};

impl Export {
    /// Lets readers see a built snapshot, in one step. That step moves the link `current`, or, if a
    /// snapshot of this sequence is kept already, exchanges the two folders. After it nothing is an error
    /// any more. An unchanged link is made again, for readers that wait for a change of it.
    pub(crate) fn switch(&mut self, header: Header, contents: Contents) -> Result<(), ExportError> {
        let sequence = header.sequence;
        let replaces = self.take_up(header, contents)?;
        if let Err(cause) = self.switch_link(&format!("snapshots/{sequence}"), replaces) {
            if !replaces {
                self.kept.remove(&sequence);
            }
            return Err(self.failed("switch", cause));
        }
        self.current = Some(sequence);
        Ok(())
    }

    /// Counts a built snapshot as kept. One that was kept under its sequence becomes a former one; then
    /// this returns true.
    pub(crate) fn take_up(&mut self, header: Header, contents: Contents) -> Result<bool, ExportError> {
        let sequence = header.sequence;
        let beside = self.beside(sequence);
        if self.kept.contains_key(&sequence) {
            let exchanged = self.snapshots.exchange(&beside.name(), &sequence.to_string());
            exchanged.map_err(|cause| self.failed("switch", cause))?;
        }
        let Some(before) = self.kept.insert(sequence, KeptSnapshot { header: Some(header), contents }) else {
            return Ok(false);
        };
        self.former.insert(beside, before.contents);
        if let Err(error) = self.thin_former().and_then(|()| self.snapshots.sync()) {
            tracing::warn!(%error, path = %self.path.display(), "the switch may not survive a power cut");
        }
        Ok(true)
    }

    /// Looks at the link on disk: a switch that has happened already is not repeated, except `again`.
    fn switch_link(&mut self, target: &str, again: bool) -> io::Result<()> {
        let found = self.root.entry(CURRENT)?;
        if found != Some(Entry::Link) || self.root.read_link(CURRENT)? != target {
            if found.is_some_and(|found| found != Entry::Link) {
                // Another program put it there, and it is in the way.
                self.root.remove(CURRENT)?;
            }
            self.make_link(target)?;
        } else if again && let Err(error) = self.make_link(target) {
            tracing::warn!(%error, path = %self.path.display(), "processes see the new files only when they look again");
        }
        // Readers see it by now. If this fails, a power cut may bring back the snapshot before, whole.
        if let Err(error) = self.root.sync() {
            tracing::warn!(%error, path = %self.path.display(), "the switch may not survive a power cut");
        }
        Ok(())
    }

    fn make_link(&self, target: &str) -> io::Result<()> {
        self.root.remove(NEW)?;
        self.root.link(NEW, target)?;
        self.root.rename(NEW, &self.root, CURRENT).inspect_err(|_| drop(self.root.remove(NEW)))
    }
}
