//! The host transaction: from a snapshot that is in the repository to files that readers see and duties to tell of them.
//!
//! Decide first (`Host::next`: what is wanted, what of it must be rendered), then do: render into the store, build the
//! snapshot's folder, write down who is to be told, switch, tell. Whatever fails before the switch leaves the last good
//! export in use.

pub mod check;
#[cfg(test)]
mod tests;

mod error;
mod model;
mod older;
mod shown;
mod verify;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use conf_core::{
    api::Pointer,
    daemon::chain,
    git::{self, PooledRepository, RepositoryLock, RepositoryPool},
    secret::Identity,
    sign::TrustedKeys,
    snapshot::Snapshot,
};
use libconf::name::{CommitId, ComponentVersion, DatacenterName, HostName, Sequence};

pub use crate::transaction::error::{OpenError, TransactionError};
use crate::transaction::model::Model;
use crate::{
    export::{self, Contents, Export, Header, Kept, Retention},
    notify::duties::{Duties, Watchers},
    place::{PlaceEntry, Placements},
    snapshot::{
        fetching::Fetching,
        keyring as secrets,
        keyring::Keyring,
        repository::{Repository, RepositoryError},
    },
    state::{Agent, Exported, ExportedComponent, HistoryEntry},
    transaction::check::{Checks, Staged},
};

/// Everything on this host's disk, and the one who writes it. All of it blocks.
pub struct Host {
    datacenter: DatacenterName,
    name: HostName,
    keys: TrustedKeys,
    retention: Retention,
    /// Held until the agent ends: keeps a second one from this export.
    #[expect(dead_code, reason = "it acts by being held")]
    lock: RepositoryLock,
    repository: Repository,
    export: Export,
    keyring: Keyring,
    checks: Checks,
    place: Placements,
    duties: Arc<Duties>,
    model: Option<Model>,
    history: PathBuf,
    /// The newest good snapshot in the repository, and whether all its objects were seen to be there.
    newest: Option<(Snapshot, bool)>,
    /// Read by whoever fetches objects that no ref leads to: nothing is removed from the repository meanwhile.
    fetching: Arc<Fetching>,
}

/// What a [`Host`] is made for.
#[derive(Debug)]
pub struct HostOptions<'a> {
    /// Whose snapshots.
    pub datacenter: &'a DatacenterName,
    /// For which host.
    pub host: &'a HostName,
    /// Who may sign them.
    pub keys: TrustedKeys,
    /// Where everything is kept.
    pub state: &'a Path,
    /// A repository to use in place of `<state>/repo.git`.
    pub git_dir: Option<&'a Path>,
    /// How long snapshots stay.
    pub retention: Retention,
    /// The file of this host's identity in place of `<state>/identity`.
    pub identity: Option<&'a Path>,
    /// Where components are placed besides the export; `None` leaves everything there as it is.
    pub place: Option<Vec<PlaceEntry>>,
    /// What looks at components before they are used.
    pub checks: Checks,
}

/// Who is told, and who may look.
#[derive(Clone)]
pub struct Audience {
    /// Everybody in this process.
    pub agent: Agent,
    /// Those who know the watchers.
    pub watchers: Arc<dyn Watchers>,
}

impl Host {
    /// Opens repository, export and journal. Asks nobody; what is there is in use at once.
    pub fn open(options: HostOptions<'_>) -> Result<Self, OpenError> {
        let HostOptions { datacenter, host, keys, state, git_dir, retention, identity, place, checks } = options;
        std::fs::create_dir_all(state).map_err(|cause| OpenError::State { path: state.to_owned(), cause })?;
        let lock = git::lock_alone(state).map_err(RepositoryError::from)?;
        let repository = Repository::open(state, git_dir, datacenter)?;
        let keyring = Keyring::open(&secrets::identity_path(state, identity))?;
        let salt = secrets::salt(state).map_err(|cause| OpenError::State { path: state.to_owned(), cause })?;
        let export = Export::open(&state.join("export"), salt)?;
        let place = match place {
            Some(entries) => Placements::open(entries, state)?,
            None => Placements::none(state),
        };
        if let Some(header) = export.current().and_then(|(_, kept)| kept.header.as_ref())
            && header.datacenter != *datacenter
        {
            let path = state.to_owned();
            return Err(OpenError::OtherDatacenter { path, found: header.datacenter.clone() });
        }
        let current = export.current().map_or(Sequence(0), |(sequence, _)| sequence);
        let duties = Arc::new(Duties::open(state, current));
        let newest = repository.newest(&keys).map(|snapshot| (snapshot, false));
        Ok(Host {
            datacenter: datacenter.clone(),
            name: host.clone(),
            keys,
            retention,
            lock,
            repository,
            export,
            keyring,
            checks,
            place,
            duties,
            model: None,
            history: state.join("history.json"),
            newest,
            fetching: Arc::default(),
        })
    }

    /// To be entered while objects are fetched that no ref leads to, and until they were used.
    pub fn fetching(&self) -> Arc<Fetching> {
        Arc::clone(&self.fetching)
    }

    /// The journal of who is to be told.
    pub fn duties(&self) -> Arc<Duties> {
        self.duties.clone()
    }

    /// This host's private key.
    pub fn identity(&self) -> Arc<Identity> {
        self.keyring.identity()
    }

    /// The absolute path of `export/`.
    pub fn export_path(&self) -> &Path {
        self.export.path()
    }

    /// The repository, wherever it is.
    pub fn opened(&self) -> RepositoryPool {
        self.repository.opened()
    }

    /// Closes the repository, and gives back what was remembered of it: a whole snapshot is much.
    pub fn close_repository(&self) {
        self.repository.close();
    }

    /// The switches of the past, newest first; none when they cannot be read.
    pub fn history(&self) -> Vec<HistoryEntry> {
        std::fs::read(&self.history).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// What readers see, as far as it is known without the repository.
    pub fn exported(&self) -> Option<(Arc<Exported>, Option<&Header>)> {
        let (sequence, kept) = self.export.current()?;
        let inputs = self.model.as_ref().map(|model| &model.inputs);
        // Older files may hold what is not declared any more.
        let faults = kept.header.as_ref().map(|header| &header.faults);
        let is_held_back = |name: &ComponentVersion| {
            faults.is_none_or(|faults| faults.keys().any(|fault| fault.component == name.component))
        };
        let component = |(name, store): (&ComponentVersion, &_)| {
            let pin = inputs.and_then(|inputs| inputs.get(name)).map(|component| component.pin.clone());
            let reads_secrets = self.model.as_ref().is_none_or(|model| model.declared.reads_secrets(name))
                || is_held_back(name) && !self.export.is_for_everybody(store).unwrap_or(false);
            (name.clone(), ExportedComponent { store: *store, pin, reads_secrets })
        };
        let exported = Exported {
            sequence,
            commit: kept.header.as_ref().map_or(CommitId::ZERO, |header| header.commit),
            directory: self.export.directory(sequence),
            components: kept.contents.iter().map(component).collect(),
        };
        Some((Arc::new(exported), kept.header.as_ref()))
    }

    /// The newest snapshot that this host has ever accepted and still knows of; nothing older is taken.
    pub fn known(&self) -> Option<(Sequence, CommitId)> {
        let exported = self
            .export
            .current()
            .map(|(sequence, kept)| (sequence, kept.header.as_ref().map_or(CommitId::ZERO, |header| header.commit)));
        let fetched = self.newest.as_ref().map(|(snapshot, _)| (snapshot.sequence, snapshot.commit));
        exported.max(fetched)
    }

    /// What [`Host::have`] answers, where that was looked at before.
    pub fn have_at_hand(&self) -> Option<CommitId> {
        self.newest.as_ref().filter(|(_, complete)| *complete).map(|(snapshot, _)| snapshot.commit)
    }

    /// The newest snapshot whose objects are all here: what a fetch may build on.
    pub fn have(&mut self) -> Option<CommitId> {
        let (snapshot, complete) = self.newest.as_mut()?;
        // Looked at once; later ones come with a fetch that has seen to it.
        *complete = *complete || self.repository.is_complete(snapshot.commit);
        complete.then_some(snapshot.commit)
    }

    /// Looks at a fetched snapshot, and remembers it when it is good.
    pub fn accept(&mut self, pointer: Pointer) -> Result<Snapshot, TransactionError> {
        let git = self.git()?;
        let snapshot = Snapshot::verify(&git, pointer.commit, &self.keys, &self.datacenter)?;
        if snapshot.sequence != pointer.sequence {
            return Err(TransactionError::Refused(format!(
                "the pointer says #{}, but {} is snapshot #{}",
                pointer.sequence,
                pointer.commit.short(),
                snapshot.sequence
            )));
        }
        if let Some(known) = self.known().filter(|known| known.1 != snapshot.commit) {
            if snapshot.sequence <= known.0 {
                return Err(TransactionError::Refused(format!(
                    "snapshot #{} is not newer than #{}, which this host has taken already",
                    snapshot.sequence, known.0
                )));
            }
            if !known.1.is_zero()
                && !self.repository.descends(&git, &snapshot, known).map_err(TransactionError::Damaged)?
            {
                return Err(TransactionError::Refused(format!(
                    "snapshot #{} does not follow from #{}, which this host has taken already",
                    snapshot.sequence, known.0
                )));
            }
        }
        self.repository.record(&git, &snapshot).map_err(TransactionError::Damaged)?;
        self.newest = Some((snapshot.clone(), true));
        Ok(snapshot)
    }

    /// What `<state>` holds is put in order without asking anybody: an export that is damaged or gone is made again, a
    /// snapshot that was accepted and not exported yet is. True when nothing is left to do.
    pub fn settle(&mut self, audience: &Audience) -> Result<bool, TransactionError> {
        self.restore_places();
        let Some((snapshot, _)) = self.newest.clone() else { return Ok(false) };
        let current = self.export.current().map(|(sequence, kept)| (sequence, kept.header.clone()));
        let exported = current.as_ref().and_then(|(_, header)| header.clone());
        if let Some((sequence, _)) = &current
            && *sequence > snapshot.sequence
        {
            // The repository is older than the export: nothing to be made from it.
            return Ok(false);
        }
        let same = exported.as_ref().is_some_and(|header| header.commit == snapshot.commit && header.host == self.name);
        if same {
            self.model = Some(self.model_of(&*self.git()?, &snapshot)?);
            if !self.is_whole() || !self.export.damaged().is_empty() {
                tracing::warn!(sequence = %snapshot.sequence, "the export is damaged; made anew");
            } else if exported.is_some_and(|header| header.faults.is_empty()) {
                return Ok(true);
            }
            // What was held back may pass now: this host, or its configuration, may have been put right.
        } else if let Some(header) = exported.filter(|header| header.host == self.name) {
            // What the export was made from may still be here: then only the difference is rendered.
            let git = self.git()?;
            let before = Snapshot::read(&git, header.commit).ok();
            self.model = before.and_then(|before| self.model_of(&git, &before).ok());
            if self.model.is_some() && (!self.is_whole() || !self.export.damaged().is_empty()) {
                self.model = None;
            }
        }
        let anew = same || self.model.is_none();
        self.put_in_place(&snapshot, anew, Instant::now(), audience)?;
        Ok(true)
    }

    /// Renders what changed, switches, and tells. With `anew` everything is rendered and compared with what is there.
    pub fn put_in_place(
        &mut self,
        snapshot: &Snapshot,
        anew: bool,
        since: Instant,
        audience: &Audience,
    ) -> Result<(), TransactionError> {
        let result = self.transact(snapshot, anew, since, audience);
        if result.is_err()
            && let Err(error) = self.export.discard()
        {
            tracing::warn!(error = %chain(&error), "what the failed step left could not be removed; tried again later");
        }
        if result.is_err() {
            self.restore_places();
            self.publish_to(&audience.agent);
        }
        result
    }

    fn transact(
        &mut self,
        snapshot: &Snapshot,
        anew: bool,
        since: Instant,
        audience: &Audience,
    ) -> Result<(), TransactionError> {
        let git = self.git()?;
        let next = self.next(&git, snapshot, if anew { None } else { self.model.as_ref() })?;
        let have = self.export.current().map_or_else(Kept::default, |(_, kept)| kept.clone());
        let (mut contents, mut faults) = self.stage(&git, &next, &have, anew)?;
        let unfit = self.check(&next, &have.contents, &contents)?;
        next.hold_back(unfit, &have.contents, &mut contents, &mut faults);
        let before = (!anew).then_some(&have.contents);
        let unplaced = self.place.stage(&self.export, before, &contents);
        next.hold_back(unplaced, &have.contents, &mut contents, &mut faults);
        if let Some(header) = have.header.as_ref().filter(|_| !anew)
            && header.commit == snapshot.commit
            && header.faults == faults
            && have.contents == contents
        {
            // A try to place what could not be placed before, and cannot be yet.
            return Ok(());
        }
        let (header, plan) = loop {
            let plan = export::plan(&have.contents, &contents);
            let header = self.header(snapshot, faults.clone());
            self.export.build(&header, &plan, anew)?;
            // A crash after this leaves duties of a switch that never happened: dropped at the next start, or, of another try of
            // the same snapshot, told once without need.
            self.duties
                .prepare(snapshot.sequence, snapshot.commit, audience.watchers.concerned(&plan.changed))
                .map_err(TransactionError::Journal)?;
            // A crash after this leaves files of both at the places of `export:`: put right at the next start.
            let failed = self.place.put(&self.export, &have.contents, &contents);
            if !next.hold_back(failed, &have.contents, &mut contents, &mut faults) {
                break (header, plan);
            }
        };
        let in_place = contents.clone();
        self.export.switch(header, contents)?;
        self.place.finish(&self.export, &in_place);
        // A crash after this tells at the next start.
        self.model = Some(next);
        let owed = audience.watchers.concerned(&plan.changed);
        self.duties.switched(snapshot.sequence, snapshot.commit, owed);
        self.publish_to(&audience.agent);
        audience.watchers.tell();
        self.announce(snapshot, plan.changed, since, audience);
        Ok(())
    }

    /// Lets this host's checks look at what is new, and answers what they do not let pass.
    fn check(
        &mut self,
        next: &Model,
        have: &Contents,
        contents: &Contents,
    ) -> Result<BTreeMap<ComponentVersion, String>, TransactionError> {
        let new = contents.iter().filter(|(name, hash)| have.get(*name) != Some(*hash) && self.checks.concern(name));
        let (names, staged): (Vec<_>, Vec<_>) = new
            .map(|(name, hash)| {
                let folder = self.export.staged(hash);
                let (files, settings) = (folder.join("files"), folder.join("settings.json"));
                let reads_secrets = next.declared.reads_secrets(name);
                ((name, hash), Staged { component: name.clone(), files, settings, reads_secrets })
            })
            .unzip();
        let export = self.export.current().map(|(sequence, _)| self.export.directory(sequence));
        let mut unfit = self.checks.run(&staged, next.snapshot.sequence, export.as_deref())?;
        for (name, hash) in names {
            if !self.export.is_intact(hash) {
                let why = "its check changed the files that it was to look at; let it write elsewhere";
                unfit.entry(name.clone()).or_insert_with(|| why.to_owned());
            }
        }
        Ok(unfit)
    }

    /// True while something of `export:` is not in place.
    pub fn is_troubled(&self) -> bool {
        self.place.is_troubled()
    }

    /// Tries again to place what could not be placed.
    pub fn place_again(&mut self, audience: &Audience) -> Result<(), TransactionError> {
        self.restore_places();
        if let Some(snapshot) = self.model.as_ref().map(|model| model.snapshot.clone()) {
            self.put_in_place(&snapshot, false, Instant::now(), audience)?;
        }
        self.publish_to(&audience.agent);
        Ok(())
    }

    /// Lets the places of `export:` hold what is exported, whatever a crash or a failure has left there.
    pub(crate) fn restore_places(&mut self) {
        if let Some((_, kept)) = self.export.current() {
            self.place.restore(&self.export, &kept.contents);
        }
    }

    /// What a folder made now says of itself.
    fn header(&self, snapshot: &Snapshot, faults: BTreeMap<ComponentVersion, String>) -> Header {
        Header {
            datacenter: self.datacenter.clone(),
            host: self.name.clone(),
            sequence: snapshot.sequence,
            commit: snapshot.commit,
            parent: snapshot.parent,
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            faults,
            through: None,
        }
    }

    fn git(&self) -> Result<PooledRepository, TransactionError> {
        self.repository.git().map_err(TransactionError::Damaged)
    }
}
