//! Looking for damage while the agent runs, and mending it.
//!
//! A look reads what the system says of folders, refs, links and files, a bounded number of them at
//! a time. It reads content only where that is another than before. `verify` reads everything.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, time::Instant};

use anyhow::bail;
use conf_core::{api::Pointer, daemon::chain, git::Durability, snapshot::Snapshot};
use libconf::name::ComponentVersion;

use crate::{
    fs::make_state_folder,
    snapshot::{Looked, keep_salt},
    transaction::{
        accepted,
        error::TransactionError,
        host::{Audience, Host},
    },
};

/// 1,000 components and 5,000 placed files in one look. Of 3,000 components a look takes 85 ms of a
/// processor in a build for tests (measured by `three_thousand_components`).
const MOST_COMPONENTS: usize = 1000;
/// After 4 looks, which is 40 s, every component was looked at.
const MOST_LOOKS: usize = 4;
const MOST_PLACED: usize = 5000;

/// What something else has changed on this host's disk, each in one sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The agent's own files and folders, and the repository.
    pub(crate) state: Vec<String>,
    /// What readers see in `export/`.
    pub(crate) export: Vec<String>,
    /// The components whose files in it were changed; `export` says so of each.
    pub(crate) renderings: BTreeSet<ComponentVersion>,
    /// Placed files.
    pub(crate) places: Vec<String>,
}

impl Damage {
    pub(crate) fn words(&self) -> Vec<String> {
        [&self.state, &self.export, &self.places].into_iter().flatten().cloned().collect()
    }
}

impl Host {
    /// Looks for damage that shows without reading everything.
    pub(crate) fn look(&mut self) -> Damage {
        let all = self.export.current().map_or(0, |(_, kept)| kept.contents.len());
        self.look_at(MOST_COMPONENTS.max(all.div_ceil(MOST_LOOKS)))
    }

    /// Does so at this many components.
    pub(crate) fn look_at(&mut self, components: usize) -> Damage {
        let mut damage = Damage { state: self.look_at_state(), ..Damage::default() };
        let newest = self.newest.as_ref().map(|(newest, _)| newest.commit);
        match self.repository.look(newest, false) {
            Looked::Whole => {}
            Looked::Damaged(problems) => damage.state.extend(problems),
            Looked::Hidden(why) => damage.state.push(why),
        }
        if newest.is_none() && damage.state.is_empty() && self.export.current().is_some() {
            let path = self.repository.pool.path();
            damage.state.push(format!("the repository {} holds no snapshot any more", path.display()));
        }
        damage.state.extend(self.export.closed());
        (damage.export, damage.renderings) = self.export.look(components);
        if let Some((_, kept)) = self.export.current().filter(|_| damage.export.is_empty()) {
            damage.places = self.place.look(&self.export, &kept.contents, MOST_PLACED);
        }
        damage
    }

    fn look_at_state(&self) -> Vec<String> {
        if !self.holds_state() {
            return vec![format!("{}, or its lock file, was removed or replaced", self.state.display())];
        }
        let own = [self.identity_file.clone(), Some(self.state.join("salt"))];
        let gone = own.into_iter().flatten().filter(|file| !file.exists());
        let gone = gone.chain(self.outbox.gone()).chain(self.place.journal.gone());
        gone.map(|file| format!("{} was removed", file.display())).collect()
    }

    /// False when somebody has removed or replaced the state folder or its lock file: then another
    /// agent may have locked it.
    pub(crate) fn holds_state(&self) -> bool {
        self.lock.is_held()
    }

    /// Mends what needs no server: the state folder, the folders of the export, a repository that
    /// must be fetched anew. With `thorough`, reads all objects to find out. Returns the snapshot
    /// that must be fetched, if one must.
    pub(crate) fn mend_folders(&mut self, thorough: bool, audience: &Audience) -> anyhow::Result<Option<Pointer>> {
        self.mend_state(audience)?;
        if !self.export.is_in_place() {
            self.export.reopen()?;
        }
        self.export.open_to_all()?;
        self.mend_repository(thorough)?;
        let newest = self.newest.as_ref().map(|(newest, _)| newest.sequence);
        let known = self.known().filter(|known| !known.commit.is_zero());
        Ok(known.filter(|known| newest.is_none_or(|newest| newest < known.sequence)))
    }

    /// Reads the whole repository, and replaces a damaged one. True if it was damaged.
    pub(crate) fn heal(&mut self) -> anyhow::Result<bool> {
        self.lock.expect_held()?;
        self.repository.pool.forget();
        self.mend_repository(true)
    }

    /// Mends the repository if a look finds it damaged. True if it was.
    fn mend_repository(&mut self, thorough: bool) -> anyhow::Result<bool> {
        if self.newest.is_none() {
            // It may have been hidden before.
            self.newest = self.repository.newest(&self.keys).map(|snapshot| (snapshot, false));
        }
        let newest = self.newest.as_ref().map(|(newest, _)| newest.commit);
        match self.repository.look(newest, thorough) {
            Looked::Hidden(why) => bail!("{why}"),
            Looked::Whole if newest.is_some() || !thorough => Ok(false),
            Looked::Whole | Looked::Damaged(_) => {
                self.keep_known()?;
                let written = match &self.newest {
                    Some((newest, _)) => self.repository.write_names_again(newest)?,
                    None => false,
                };
                if written {
                    tracing::warn!("refs and settings of the repository were damaged, and are written again");
                } else {
                    self.renew_repository()?;
                }
                Ok(true)
            }
        }
    }

    /// Locks the state folder again, and writes what the agent still knows of its files.
    fn mend_state(&mut self, audience: &Audience) -> anyhow::Result<()> {
        if !self.holds_state() {
            self.expect_mounted()?;
            make_state_folder(&self.state)?;
            self.lock.take_again()?;
        }
        if let Some(file) = self.identity_file.as_ref().filter(|file| !file.exists()) {
            self.identity.write_again(file)?;
        }
        keep_salt(&self.state, &self.export.salt)?;
        self.place.keep_journal()?;
        self.outbox.keep()?;
        audience.watchers.keep();
        Ok(())
    }

    /// Nothing is written below a mount point whose file system is away: it would be hidden later.
    fn expect_mounted(&self) -> anyhow::Result<()> {
        let found = self.state.ancestors().find_map(|folder| fs::metadata(folder).ok());
        if found.is_some_and(|found| found.dev() != self.device) {
            let shown = self.state.display();
            bail!("the file system of {shown} is not mounted; mount it, or restart conf-local to begin there anew");
        }
        Ok(())
    }

    /// Makes what readers see again as far as it was changed. With `thorough`, all of it.
    pub(crate) fn mend_seen(
        &mut self,
        found: &Damage,
        thorough: bool,
        audience: &Audience,
    ) -> Result<(), TransactionError> {
        let are_files_alone = !found.export.is_empty() && found.renderings.len() == found.export.len();
        if !thorough && are_files_alone && self.render_again(&found.renderings)? {
            // Settings that were read meanwhile are forgotten.
            self.publish_to(&audience.agent);
            return Ok(());
        }
        self.mend_export(thorough || !found.export.is_empty(), audience)
    }

    /// Makes what readers see again, all of it if the export is damaged, or else the placed files.
    pub(crate) fn mend_export(&mut self, is_damaged: bool, audience: &Audience) -> Result<(), TransactionError> {
        if !is_damaged {
            self.restore_places();
            self.publish_to(&audience.agent);
            return Ok(());
        }
        let Some(exported) = self.export.snapshot() else { return Ok(()) };
        let same = Snapshot::verify(&*self.git()?, exported.commit, &self.keys, &self.datacenter).ok();
        let newest = self.newest.as_ref().map(|(newest, _)| newest.clone());
        // A newer snapshot replaces one that is lost; an older one never does.
        let newest = newest.filter(|newest| newest.sequence >= exported.sequence);
        let Some(snapshot) = same.or(newest) else {
            let words = format!("snapshot #{} of the export is not in the repository", exported.sequence);
            return Err(TransactionError::Damaged(git2::Error::from_str(&words)));
        };
        self.put_in_place(&snapshot, true, Instant::now(), audience)
    }

    /// Removes what nobody needs, on a disk that is full.
    pub(crate) fn make_room(&mut self) {
        if let Err(error) = self.repository.remove_aside() {
            tracing::warn!(%error, "the damaged repository that was set aside cannot be removed");
        }
        if let Err(error) = self.export.discard() {
            tracing::warn!(error = %chain(&error), "what is not needed any more cannot be removed");
        }
    }

    /// Begins a new repository, without keeping the present one, if that holds a snapshot that is
    /// not exported: its objects may be what fills the disk. True if it did. The snapshot stays
    /// known, so that nothing older is taken.
    pub(crate) fn drop_skipped(&mut self) -> anyhow::Result<bool> {
        let exported = self.export.snapshot().map(|exported| exported.commit);
        let is_skipped = self.newest.as_ref().is_some_and(|(newest, _)| Some(newest.commit) != exported);
        if is_skipped && exported.is_some() {
            self.keep_known()?;
            self.repository.clear()?;
            self.renew_repository()?;
            self.repository.remove_aside()?;
        }
        Ok(is_skipped)
    }

    /// Sets the repository aside and begins an empty one. What was taken stays known.
    pub(crate) fn renew_repository(&mut self) -> anyhow::Result<()> {
        tracing::warn!(
            path = %self.repository.pool.path().display(),
            "the repository is set aside and fetched anew; the exported files stay in use"
        );
        self.keep_known()?;
        self.repository.begin_anew(self.newest.is_some())?;
        self.newest = None;
        Ok(())
    }

    /// Writes down what perhaps only the repository knows, so that it stays known without it, also
    /// after a restart.
    fn keep_known(&mut self) -> anyhow::Result<()> {
        self.accepted = self.known();
        if let Some(known) = self.accepted {
            accepted::write(&self.state, known, Durability::Full)?;
        }
        Ok(())
    }
}
