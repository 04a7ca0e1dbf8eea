//! The host: everything on its disk, and the one task that writes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use conf_core::{
    api::Pointer,
    daemon::chain,
    git::PooledRepository,
    render::{RENDERING, StoreHash},
    secret::Identity,
    sign::TrustedKeys,
    snapshot::{Snapshot, SnapshotError},
};
use git2::Repository as Git;
use libconf::name::{CommitId, ComponentSelector, ComponentVersion, DatacenterName, HostName, Sequence};

use crate::{
    export::{self, Contents, Export, Faults, Header, Retention},
    fs::{StateLock, make_state_folder},
    notify::{Outbox, Watchers},
    place::{PlaceEntry, Placements},
    snapshot::{
        CollectionLock, HostSecrets, NamedComponent, Offers, Repository, identity_path, load_identity, may_follow, salt,
    },
    state::{Agent, Exported, ExportedComponent, HistoryEntry},
    transaction::{
        accepted,
        check::{Checks, StagedComponent},
        error::{TransactionError, only_signed},
        model::{Draft, Model},
    },
};

/// Everything on this host's disk. All functions block.
pub(crate) struct Host {
    pub(crate) datacenter: DatacenterName,
    pub(crate) name: HostName,
    /// The components whose links may lead anywhere on this host.
    pub(crate) links: Vec<ComponentSelector>,
    pub(crate) keys: TrustedKeys,
    pub(crate) retention: Retention,
    /// The folder for all of it.
    pub(crate) state: PathBuf,
    /// The file system of that folder.
    pub(crate) device: u64,
    /// Keeps a second agent from this state.
    pub(crate) lock: StateLock,
    pub(crate) repository: Repository,
    pub(crate) export: Export,
    pub(crate) identity: Arc<Identity>,
    /// The secrets that this host has itself.
    pub(crate) secrets: Arc<HostSecrets>,
    /// The file of the identity, if it is in the state folder.
    pub(crate) identity_file: Option<PathBuf>,
    pub(crate) checks: Checks,
    pub(crate) place: Placements,
    /// The components that this host's file names.
    pub(crate) named: Vec<NamedComponent>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) model: Option<Model>,
    /// Components that the export holds back because the repository lacks their content.
    pub(crate) unreadable: BTreeSet<ComponentVersion>,
    /// The file of the history.
    pub(crate) history: PathBuf,
    /// The number of switches that it does not have yet.
    pub(crate) unwritten: u32,
    /// The newest good snapshot in the repository, and whether all its objects are known to be
    /// present.
    pub(crate) newest: Option<(Snapshot, bool)>,
    /// The newest snapshot that this agent has accepted, even if the state that had it was lost.
    pub(crate) accepted: Option<Pointer>,
    /// What the file of it says.
    pub(crate) floor: Option<Pointer>,
    /// A failed step left something in the export that could not be removed.
    pub(crate) unswept: bool,
    /// Held by fetches of objects that no ref names: nothing is removed from the repository
    /// meanwhile.
    pub(crate) collection: Arc<CollectionLock>,
}

/// The options of a [`Host`].
pub(crate) struct HostOptions<'a> {
    pub(crate) datacenter: &'a DatacenterName,
    pub(crate) host: &'a HostName,
    /// Keys that may sign snapshots.
    pub(crate) keys: TrustedKeys,
    pub(crate) state: &'a Path,
    /// A repository to use in place of `<state>/repo.git`.
    pub(crate) git_dir: Option<&'a Path>,
    pub(crate) retention: Retention,
    /// The file of this host's identity in place of `<state>/identity`.
    pub(crate) identity: Option<&'a Path>,
    /// Where to place components besides the export; `None` leaves all places as they are.
    pub(crate) place: Option<Vec<PlaceEntry>>,
    /// The components whose links may lead anywhere on this host.
    pub(crate) links: Vec<ComponentSelector>,
    pub(crate) checks: Checks,
    /// The secrets that this host has itself.
    pub(crate) offers: Offers,
    /// The components that this host's file names.
    pub(crate) named: Vec<NamedComponent>,
}

/// The receivers of a transaction's results.
#[derive(Clone)]
pub(crate) struct Audience {
    /// The agent's other tasks.
    pub(crate) agent: Agent,
    pub(crate) watchers: Arc<dyn Watchers>,
}

impl Host {
    /// Opens repository, export and outbox. Asks no server; the export is in use at once.
    pub(crate) fn open(options: HostOptions<'_>) -> anyhow::Result<Self> {
        let HostOptions { datacenter, host, keys, state, git_dir, retention, identity, place, links, checks, .. } =
            options;
        let shown = state.display();
        let unusable = || {
            format!(
                "cannot use the state folder {shown}; give the user of conf-local write access to it, or name another"
            )
        };
        make_state_folder(state).with_context(unusable)?;
        let lock = StateLock::take(state)?;
        let device = std::fs::metadata(state).with_context(unusable)?.dev();
        let repository = Repository::open(state, git_dir, datacenter)?;
        let guard = lock.clone();
        repository.pool.behind(move || guard.expect_held());
        repository.pool.judging(only_signed(keys.clone(), datacenter.clone()));
        let identity_file = identity.is_none().then(|| identity_path(state, None));
        let identity = load_identity(&identity_path(state, identity))?;
        let export = Export::open(&state.join("export"), salt(state).with_context(unusable)?)?;
        let place = Placements::open(place, state)?;
        if let Some(header) = export.current().and_then(|(_, kept)| kept.header.as_ref()) {
            let found = &header.datacenter;
            ensure!(
                found == datacenter,
                "{shown} holds the export of {found}; name that datacenter, or another --state"
            );
        }
        let outbox = Arc::new(Outbox::open(state, export.current.unwrap_or_default()).behind(lock.clone()));
        let newest = repository.newest(&keys).or_else(|| {
            // A power cut may have torn the pack of a newer one.
            let commit = export.snapshot().filter(|exported| !exported.commit.is_zero())?.commit;
            Snapshot::verify(&*repository.git().ok()?, commit, &keys, datacenter).ok()
        });
        let newest = newest.map(|snapshot| (snapshot, false));
        let accepted = accepted::read(state);
        Ok(Host {
            datacenter: datacenter.clone(),
            name: host.clone(),
            links,
            keys,
            retention,
            state: state.to_owned(),
            device,
            lock,
            repository,
            export,
            identity,
            secrets: Arc::new(HostSecrets::of(options.offers)),
            identity_file,
            checks,
            place,
            named: options.named,
            outbox,
            model: None,
            unreadable: BTreeSet::new(),
            history: state.join("history.json"),
            unwritten: 0,
            newest,
            accepted,
            floor: accepted,
            unswept: false,
            collection: Arc::default(),
        })
    }

    /// Reads the switches of the past, newest first; none if they cannot be read.
    pub(crate) fn history(&self) -> Vec<HistoryEntry> {
        std::fs::read(&self.history).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Returns the export as far as it is known without the repository.
    pub(crate) fn exported(&self) -> Option<(Arc<Exported>, Option<&Header>)> {
        let (_, kept) = self.export.current()?;
        let Pointer { sequence, commit } = self.export.snapshot()?;
        let inputs = self.model.as_ref().map(|model| &model.inputs);
        // Earlier files may hold a secret that is not declared any more.
        let faults = kept.header.as_ref().map(|header| &header.faults);
        let is_held_back = |name: &ComponentVersion| {
            faults.is_none_or(|faults| faults.keys().any(|fault| fault.component == name.component))
        };
        let component = |(name, store): (&ComponentVersion, &_)| {
            let pin = inputs.and_then(|inputs| inputs.get(name)).map(|component| component.pin.clone());
            let reads_secrets = self.model.as_ref().is_none_or(|model| model.manifests.reads_secrets(name))
                || is_held_back(name) && !self.export.is_for_everybody(store).unwrap_or(false);
            (name.clone(), ExportedComponent { pin, reads_secrets })
        };
        let components = kept.contents.iter().map(component).collect();
        let exported = Exported { sequence, commit, directory: self.export.directory(sequence), components };
        Some((Arc::new(exported), kept.header.as_ref()))
    }

    /// Returns the newest snapshot that this host has ever accepted, as far as it knows. Nothing
    /// older is taken.
    pub(crate) fn known(&self) -> Option<Pointer> {
        let pointer = |(newest, _): &(Snapshot, bool)| Pointer { sequence: newest.sequence, commit: newest.commit };
        let fetched = self.newest.as_ref().map(pointer);
        let all = self.export.snapshot().into_iter().chain(fetched).chain(self.accepted);
        all.max_by_key(|known| (known.sequence, known.commit))
    }

    /// Returns the answer of [`Host::have`] if that was found out before.
    pub(crate) fn have_at_hand(&self) -> Option<CommitId> {
        self.newest.as_ref().filter(|(_, complete)| *complete).map(|(snapshot, _)| snapshot.commit)
    }

    /// Returns the newest snapshot whose objects are all here: a fetch may build on it.
    pub(crate) fn have(&mut self) -> Option<CommitId> {
        let (snapshot, complete) = self.newest.as_mut()?;
        // Checked once: later snapshots come with a fetch that has checked it.
        *complete = *complete || self.repository.is_complete(snapshot.commit);
        complete.then_some(snapshot.commit)
    }

    /// Verifies a fetched snapshot, and records it if it is good.
    pub(crate) fn accept(&mut self, named: Pointer) -> Result<Snapshot, TransactionError> {
        let git = self.git()?;
        let snapshot = Snapshot::verify_new(&git, named.commit, &self.keys, &self.datacenter)?;
        let sequence = snapshot.sequence;
        if sequence != named.sequence {
            let (wrong, commit) = (named.sequence, named.commit.short());
            let words = format!("the pointer says #{wrong}, but {commit} is snapshot #{sequence}");
            return Err(TransactionError::Refused(words));
        }
        if let Some(known) = self.known().filter(|known| known.commit != snapshot.commit) {
            let taken = format!("#{}, which this host has taken already", known.sequence);
            if sequence <= known.sequence {
                return Err(TransactionError::Refused(format!("snapshot #{sequence} is not newer than {taken}")));
            }
            if !may_follow(&git, &snapshot, known, &self.keys) {
                return Err(TransactionError::Refused(format!("snapshot #{sequence} does not follow from {taken}")));
            }
        }
        // The fetch may have taken long.
        self.expect_held()?;
        self.repository.record(&git, &snapshot).map_err(TransactionError::Damaged)?;
        self.newest = Some((snapshot.clone(), true));
        self.accepted = Some(named);
        Ok(snapshot)
    }

    /// Renders the difference, switches, and tells. With `anew`, renders everything and compares it
    /// with the export.
    pub(crate) fn put_in_place(
        &mut self,
        snapshot: &Snapshot,
        anew: bool,
        since: Instant,
        audience: &Audience,
    ) -> Result<(), TransactionError> {
        self.expect_held()?;
        let result = self.transact(snapshot, anew, since, audience);
        if result.is_err() {
            if let Err(error) = self.export.discard() {
                tracing::warn!(error = %chain(&error), "the rest of the failed step could not be removed; trying again later");
                self.unswept = true;
            }
            self.restore_places();
            self.publish_to(&audience.agent);
        }
        result
    }

    /// Reads a snapshot, as it is for this host.
    pub(crate) fn read(&self, git: &Git, snapshot: &Snapshot) -> Result<Model, SnapshotError> {
        Model::read(git, snapshot, &self.name, &self.links, self.exported_of(snapshot))
    }

    /// Returns what is exported, if that is this host's export of `snapshot`.
    fn exported_of(&self, snapshot: &Snapshot) -> Option<&Contents> {
        let (_, kept) = self.export.current()?;
        let is_of = |header: &Header| header.commit == snapshot.commit && header.host == self.name;
        kept.header.as_ref().is_some_and(is_of).then_some(&kept.contents)
    }

    fn transact(
        &mut self,
        snapshot: &Snapshot,
        anew: bool,
        since: Instant,
        audience: &Audience,
    ) -> Result<(), TransactionError> {
        let (git, at) = (self.git()?, Pointer { sequence: snapshot.sequence, commit: snapshot.commit });
        let known = self.model.as_ref().filter(|_| !anew);
        let next = Model::read_after(known, &git, snapshot, &self.name, &self.links, self.exported_of(snapshot))?;
        if let Some(why) = next.manifests.selection.shut_out.as_ref().filter(|_| self.exported_of(snapshot).is_none()) {
            return Err(TransactionError::Refused(format!("{why}; until then this host keeps the files that it has")));
        }
        let have = self.export.current().map(|(_, kept)| kept.clone()).unwrap_or_default();
        // Another attempt at the exported snapshot counts as the step to it.
        let before = self.export.current.unwrap_or_default().min(Sequence(snapshot.sequence.0.saturating_sub(1)));
        let mut draft = self.stage(&git, &next, &have, anew)?;
        let unfit = self.check(&next, &have.contents, &draft.contents)?;
        draft.hold_back(&next, unfit, &have.contents);
        let unplaced = self.place.stage(&self.export, (!anew).then_some(&have.contents), &draft.contents);
        draft.hold_back(&next, unplaced, &have.contents);
        if let Some(header) = have.header.as_ref().filter(|_| !anew)
            && header.commit == snapshot.commit
            && header.faults == draft.faults
            && have.contents == draft.contents
        {
            // Another attempt to place or to read a component, which still cannot be done.
            return self.note_unreadable(draft);
        }
        let (header, plan) = loop {
            let plan = export::plan(&have.contents, &draft.contents);
            let held = held(have.header.as_ref(), snapshot.sequence, &draft.faults);
            let header = Header { held, ..self.header(snapshot, draft.faults.clone()) };
            self.export.build(&header, &plan, anew)?;
            // A crash after this leaves notices of a switch that never happened. The next start
            // drops them, unless it was another attempt at the exported snapshot: then watchers are
            // told once without need.
            let owed = audience.watchers.concerned(&plan.changed);
            let written = self.outbox.prepare(at, before, owed).map_err(TransactionError::Outbox)?;
            // The one wait for the disk: the fetched pack, the rendered files, the snapshot's
            // folder and the outbox are durable after it, and nobody sees any of them before.
            self.make_durable(written)?;
            // A crash after this leaves files of both snapshots at the places of `export:`. The
            // next start corrects it.
            let failed = self.place.put(&self.export, &have.contents, &draft.contents);
            if !draft.hold_back(&next, failed, &have.contents) {
                break (header, plan);
            }
        };
        self.export.switch(header, draft.contents.clone())?;
        self.place.finish(&self.export, &draft.contents);
        // After a crash from here on, the next start tells the watchers.
        self.model = Some(next);
        self.outbox.switched(at, before, audience.watchers.concerned(&plan.changed));
        self.publish_to(&audience.agent);
        self.announce(snapshot, before, plan.changed, since, audience);
        // The last step: this thread is free when a watcher's process is looked at.
        audience.watchers.tell();
        self.note_unreadable(draft)
    }

    /// Makes all that was written for the next switch durable, the fetched pack and `others` among
    /// it. A pack that could not be is left to the next attempt.
    fn make_durable(&mut self, others: Vec<File>) -> Result<(), TransactionError> {
        let packs = self.repository.pool.take_unsynced();
        others.into_iter().for_each(|file| self.export.unsynced.add(file));
        let result = self.export.make_durable_with(&packs);
        if result.is_err() {
            self.repository.pool.leave_unsynced(packs);
        }
        Ok(result?)
    }

    /// Remembers the components whose content the repository lacks. They hold nobody up; but the
    /// caller is told of the damage, so that it is mended and they are tried again.
    fn note_unreadable(&mut self, draft: Draft) -> Result<(), TransactionError> {
        self.unreadable = draft.unreadable;
        self.checks.forget_all_but(&draft.faults);
        self.secrets.exported(draft.secrets);
        draft.damage.map_or(Ok(()), |cause| Err(TransactionError::Damaged(cause)))
    }

    /// Runs this host's checks on new renderings. Returns the components that did not pass, with
    /// the reason.
    fn check(&mut self, next: &Model, have: &Contents, contents: &Contents) -> Result<Faults, TransactionError> {
        let is_new = |(name, hash): &(&ComponentVersion, &StoreHash)| have.get(*name) != Some(*hash);
        let new: Vec<_> = contents.iter().filter(is_new).filter(|(name, _)| self.checks.concern(name)).collect();
        let staged = new.iter().map(|(name, hash)| {
            let folder = self.export.staged(hash);
            let (files, settings) = (folder.join("files"), folder.join("settings.json"));
            let reads_secrets = next.manifests.reads_secrets(name);
            StagedComponent { component: (*name).clone(), files, settings, reads_secrets }
        });
        let staged: Vec<_> = staged.collect();
        let export = self.export.current.map(|sequence| self.export.directory(sequence));
        let mut unfit = self.checks.run(&staged, next.snapshot.sequence, export.as_deref())?;
        for (name, hash) in new {
            if !self.export.is_intact(hash) {
                let why = "its check changed the files that it should only read; let it write elsewhere";
                unfit.entry(name.clone()).or_insert_with(|| why.to_owned());
            }
        }
        Ok(unfit)
    }

    /// True while a component is held back because the repository lacks its content. A repository
    /// that was set aside as damaged, and not fetched anew before a restart, lacks all content.
    pub(crate) fn lacks_content(&self) -> bool {
        let exported = self.export.current().and_then(|(_, kept)| kept.header.as_ref());
        !self.unreadable.is_empty() || self.newest.is_none() && exported.is_some_and(|header| !header.faults.is_empty())
    }

    /// Returns the header of a folder that is made now.
    pub(crate) fn header(&self, snapshot: &Snapshot, faults: Faults) -> Header {
        Header {
            datacenter: self.datacenter.clone(),
            host: self.name.clone(),
            sequence: snapshot.sequence,
            commit: snapshot.commit,
            parent: snapshot.parent,
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            faults,
            held: BTreeMap::new(),
            rendering: RENDERING,
            through: None,
        }
    }

    /// Nothing is written into a state folder that another agent may have locked.
    pub(crate) fn expect_held(&self) -> Result<(), TransactionError> {
        if self.holds_state() { Ok(()) } else { Err(TransactionError::NotHeld) }
    }

    pub(crate) fn git(&self) -> Result<PooledRepository, TransactionError> {
        self.repository.git().map_err(TransactionError::Damaged)
    }
}

/// Returns for each component that is held back the last change whose files of it are in place.
fn held(have: Option<&Header>, next: Sequence, faults: &Faults) -> BTreeMap<ComponentVersion, Sequence> {
    let since = |name: &ComponentVersion| {
        let Some(have) = have else { return Sequence(0) };
        // A version that cannot be used may follow another one.
        match have.faults.keys().find(|held| held.component == name.component) {
            Some(held) => have.held.get(held).copied().unwrap_or_default(),
            // Another attempt at the exported snapshot: it is no longer whole.
            None => have.sequence.min(Sequence(next.0.saturating_sub(1))),
        }
    };
    faults.keys().map(|name| (name.clone(), since(name))).collect()
}
