//! The host transaction: from a snapshot that is in the repository to files that readers see and duties to tell of them.
//!
//! Decide first (`Host::next`: what is wanted, what of it must be rendered), then do: render into the store, build the
//! snapshot's folder, write down who is to be told, switch, tell. Whatever fails before the switch leaves the last good
//! export in use.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use git2::Repository as Git;
use libconf::{
    name::{CommitId, ComponentVersion, DatacenterName, HostName, Sequence},
    tier::{
        daemon::chain,
        git::{self, RepositoryLock},
        layers::{Ingredients, Sources},
        pointers::Pointer,
        render::{self, RenderError},
        secret::IdentityError,
        sign::TrustedKeys,
        snapshot::{self, Component, Snapshot, SnapshotError},
        template,
    },
};

use crate::{
    check::{Checks, Staged, Unchecked},
    declared::{self, Declared},
    duties::{Duties, Watchers},
    export::{self, Contents, Export, ExportError, Header, Kept, Retention},
    place::{BadPlace, PlaceEntry, Placements},
    repository::{Repository, RepositoryError},
    secrets::{self, Keyring},
    state::{Agent, ChangeKind, Exported, ExportedComponent, HistoryChange, HistoryEntry, Switched, VerifyReport},
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

/// What is exported, and what it was made from.
struct Model {
    snapshot: Snapshot,
    declared: Arc<Declared>,
    inputs: BTreeMap<ComponentVersion, Component>,
}

impl Model {
    fn sources(&self, name: &ComponentVersion, component: &Component) -> Sources<'_> {
        self.declared.sources(name, component)
    }

    fn ingredients(
        &self,
        git: &Git,
        name: &ComponentVersion,
        component: &Component,
        host: &HostName,
    ) -> Result<Ingredients, TransactionError> {
        let overrides = self.declared.overrides.each_ref();
        Ingredients::new(git, &self.sources(name, component), overrides, name, Some(host))
            .map_err(TransactionError::Damaged)
    }
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
        })
    }

    /// The journal of who is to be told.
    pub fn duties(&self) -> Arc<Duties> {
        self.duties.clone()
    }

    /// The absolute path of `export/`.
    pub fn export_path(&self) -> &Path {
        self.export.path()
    }

    /// Where the repository is now.
    pub fn repository_path(&self) -> PathBuf {
        self.repository.path().to_owned()
    }

    /// The switches of the past, newest first; none when they cannot be read.
    pub fn history(&self) -> Vec<HistoryEntry> {
        std::fs::read(&self.history).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// What readers see, as far as it is known without the repository.
    pub fn exported(&self) -> Option<(Arc<Exported>, Option<&Header>)> {
        let (sequence, kept) = self.export.current()?;
        let inputs = self.model.as_ref().map(|model| &model.inputs);
        let component = |(name, store): (&ComponentVersion, &_)| {
            let pin = inputs.and_then(|inputs| inputs.get(name)).map(|component| component.pin.clone());
            (name.clone(), ExportedComponent { store: *store, pin })
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
            if !known.1.is_zero() && !self.repository.descends(&snapshot, known).map_err(TransactionError::Damaged)? {
                return Err(TransactionError::Refused(format!(
                    "snapshot #{} does not follow from #{}, which this host has taken already",
                    snapshot.sequence, known.0
                )));
            }
        }
        self.repository.record(&snapshot).map_err(TransactionError::Damaged)?;
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
            self.model = Some(self.model_of(&snapshot)?);
            if !self.is_whole() || !self.export.damaged().is_empty() {
                tracing::warn!(sequence = %snapshot.sequence, "the export is damaged; made anew");
            } else if !exported.is_some_and(|header| header.faults.keys().any(|name| self.may_pass_now(name))) {
                return Ok(true);
            }
        } else if let Some(header) = exported.filter(|header| header.host == self.name) {
            // What the export was made from may still be here: then only the difference is rendered.
            let before = self.git().ok().and_then(|git| Snapshot::read(&git, header.commit).ok());
            self.model = before.and_then(|before| self.model_of(&before).ok());
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
        hold_back(unfit, &have.contents, &mut contents, &mut faults);
        let before = (!anew).then_some(&have.contents);
        let unplaced = self.place.stage(&self.export, before, &contents);
        hold_back(unplaced, &have.contents, &mut contents, &mut faults);
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
            let header = Header {
                datacenter: self.datacenter.clone(),
                host: self.name.clone(),
                sequence: snapshot.sequence,
                commit: snapshot.commit,
                time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
                faults: faults.clone(),
            };
            self.export.build(&header, &plan, anew)?;
            // A crash after this leaves duties of a switch that never happened: dropped at the next start.
            self.duties
                .prepare(snapshot.sequence, snapshot.commit, audience.watchers.concerned(&plan.changed))
                .map_err(TransactionError::Journal)?;
            // A crash after this leaves files of both at the places of `export:`: put right at the next start.
            let failed = self.place.put(&self.export, &have.contents, &contents, snapshot.sequence);
            if !hold_back(failed, &have.contents, &mut contents, &mut faults) {
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

    /// True for what was held back by something of this host, which may have been put right since.
    fn may_pass_now(&self, name: &ComponentVersion) -> bool {
        let secrets = || self.model.as_ref().is_some_and(|model| model.declared.reads_secrets(name));
        self.checks.concern(name) || self.place.concern(name) || secrets()
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

    /// What is wanted, decided from the snapshot alone; what `before` was made from is not read again.
    fn next(&self, git: &Git, snapshot: &Snapshot, before: Option<&Model>) -> Result<Model, TransactionError> {
        // Without the snapshot before (a repository begun anew) all of the new one is looked at.
        let difference =
            before.and_then(|before| Some((before, snapshot::compare(git, Some(&before.snapshot), snapshot).ok()?)));
        let sealed = declared::sealed_tree(git, snapshot)?;
        let Some((before, difference)) = difference.filter(|(before, difference)| {
            !difference.datacenter && !difference.class && before.declared.sealed_tree == sealed
        }) else {
            return self.model_of(snapshot);
        };
        let declared = before.declared.clone();
        let mut inputs = before.inputs.clone();
        for (name, change) in difference.components {
            match change.after {
                Some(after) if declared.selection.contains(&name) => drop(inputs.insert(name, after)),
                _ => drop(inputs.remove(&name)),
            }
        }
        Ok(Model { snapshot: snapshot.clone(), declared, inputs })
    }

    fn model_of(&self, snapshot: &Snapshot) -> Result<Model, TransactionError> {
        let git = self.git()?;
        let declared = Arc::new(Declared::read(&git, snapshot, &self.name)?);
        let mut inputs = snapshot.components(&git)?;
        inputs.retain(|name, _| declared.selection.contains(name));
        Ok(Model { snapshot: snapshot.clone(), declared, inputs })
    }

    /// Renders what is not as it was, and answers what the next export holds, and what could not be rendered.
    fn stage(
        &mut self,
        git: &Git,
        next: &Model,
        have: &Kept,
        anew: bool,
    ) -> Result<(Contents, BTreeMap<ComponentVersion, String>), TransactionError> {
        let before = self.model.as_ref().filter(|_| !anew);
        let old_faults = have.header.as_ref().map(|header| &header.faults);
        let mut contents = Contents::new();
        let mut faults = BTreeMap::new();
        // Those made from the same are rendered once.
        let mut rendered: BTreeMap<Ingredients, Result<_, String>> = BTreeMap::new();
        let mut look = self.keyring.look(git);
        for (name, component) in &next.inputs {
            let same = match before.and_then(|before| Some((before, before.inputs.get(name)?))) {
                None => false,
                Some((before, old)) => {
                    let declared_alike = Arc::ptr_eq(&before.declared, &next.declared) && old.tree == component.tree;
                    declared_alike
                        || before.ingredients(git, name, old, &self.name)?
                            == next.ingredients(git, name, component, &self.name)?
                }
            };
            let old = have.contents.get(name);
            if same
                && let Some(fault) = old_faults.and_then(|faults| faults.get(name))
                && !self.place.held_back(name)
            {
                faults.insert(name.clone(), fault.clone());
                contents.extend(old.map(|old| (name.clone(), *old)));
                continue;
            }
            if same
                && let Some(old) = old
                && !self.place.held_back(name)
            {
                contents.insert(name.clone(), *old);
                continue;
            }
            let sources = next.sources(name, component);
            let result = match rendered.entry(next.ingredients(git, name, component, &self.name)?) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(
                    match render::render(git, &sources, name, Some(&self.name), &look.of(&sources, &name.component)) {
                        Ok(rendering) => Ok(self.export.stage(&rendering, anew)?),
                        Err(fault @ (RenderError::Fault(_) | RenderError::Templates(_))) => Err(fault.to_string()),
                        Err(RenderError::Repository(cause)) => return Err(TransactionError::Damaged(cause)),
                    },
                ),
            };
            match result {
                Ok(hash) => drop(contents.insert(name.clone(), *hash)),
                Err(reason) => {
                    // It keeps what it had, and the others go on.
                    tracing::warn!(component = %name, reason, "cannot be rendered; its files of before stay");
                    faults.insert(name.clone(), reason.clone());
                    contents.extend(old.map(|old| (name.clone(), *old)));
                }
            }
        }
        // Nothing of the secrets stays anywhere.
        template::rest();
        Ok((contents, faults))
    }

    /// True when the export holds exactly the components that it should.
    fn is_whole(&self) -> bool {
        let (Some(model), Some((_, kept))) = (&self.model, self.export.current()) else { return false };
        let Some(header) = &kept.header else { return false };
        kept.contents.keys().all(|name| model.inputs.contains_key(name))
            && model.inputs.keys().all(|name| kept.contents.contains_key(name) || header.faults.contains_key(name))
    }

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
        });
    }

    fn announce(
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

    /// What can wait until readers have their files: history, old snapshots, packs.
    pub fn tidy(&mut self, audience: &Audience) {
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
        keep.retain(|commit| self.git().is_ok_and(|git| git.find_commit((*commit).into()).is_ok()));
        match self.repository.consolidate(&keep) {
            Ok(true) => tracing::info!("the repository was consolidated"),
            Ok(false) => {}
            Err(error) => tracing::warn!(error = %chain(&error), "the repository could not be consolidated"),
        }
    }

    /// Tells whether reading failed because the repository is damaged, and if so begins an empty one.
    pub fn heal(&mut self) -> Result<bool, RepositoryError> {
        let damaged = match &self.newest {
            Some((snapshot, _)) => !self.repository.check(snapshot.commit).1.is_empty(),
            None => true,
        };
        if damaged {
            tracing::warn!(
                path = %self.repository.path().display(),
                "the repository is damaged; set aside and fetched anew, what is exported stays in use"
            );
            self.repository.begin_anew()?;
            // What was taken once is still known by the export.
            self.newest = None;
        }
        Ok(damaged)
    }

    /// Checks that the repository holds every object of what is exported, and the export what would be rendered now.
    /// With `repair`, mends the export; a damaged repository is begun anew, to be fetched again by the caller.
    pub fn verify(&mut self, repair: bool, audience: &Audience) -> VerifyReport {
        let mut report = VerifyReport::default();
        let Some((sequence, kept)) = self.export.current() else {
            report.problems.push("nothing is exported yet".to_owned());
            return report;
        };
        report.sequence = sequence;
        report.components = kept.contents.len();
        let commit = kept.header.as_ref().map(|header| header.commit);
        let damaged = self.export.damaged();
        report.problems.extend(damaged.iter().map(|name| format!("the files of {name} are not as they were exported")));
        report.problems.extend(self.place.problems(&self.export, &kept.contents));

        let Some(commit) = commit else {
            report.problems.push(format!("snapshot.json of #{sequence} cannot be read"));
            return report;
        };
        let (objects, problems) = self.repository.check(commit);
        report.objects = objects;
        let repository_good = problems.is_empty();
        report.problems.extend(problems.into_iter().map(|problem| format!("repository: {problem}")));
        if repository_good {
            report.problems.extend(self.differs_from_rendering(commit, &damaged));
        }
        if !repair || report.problems.is_empty() {
            return report;
        }
        if repository_good {
            let snapshot = self
                .git()
                .and_then(|git| Ok(Snapshot::verify(&git, commit, &self.keys, &self.datacenter)?))
                .and_then(|snapshot| self.put_in_place(&snapshot, true, Instant::now(), audience));
            match snapshot {
                Ok(()) => {
                    let have = self.export.current().map(|(_, kept)| kept.contents.clone()).unwrap_or_default();
                    let left = self.place.problems(&self.export, &have);
                    report.repaired = report.problems.iter().filter(|one| !left.contains(one)).cloned().collect();
                }
                Err(error) => tracing::warn!(error = %chain(&error), "the export could not be mended"),
            }
        }
        report
    }

    /// Components whose link leads to something else than what is rendered now.
    fn differs_from_rendering(&self, commit: CommitId, known: &BTreeSet<ComponentVersion>) -> Vec<String> {
        let compare = || -> Result<Vec<String>, TransactionError> {
            let git = self.git()?;
            let model = self.model_of(&Snapshot::verify(&git, commit, &self.keys, &self.datacenter)?)?;
            let Some((_, kept)) = self.export.current() else { return Ok(Vec::new()) };
            let faults = kept.header.as_ref().map(|header| header.faults.clone()).unwrap_or_default();
            let mut problems = Vec::new();
            let mut look = self.keyring.look(&git);
            for (name, component) in &model.inputs {
                if known.contains(name) || faults.contains_key(name) {
                    continue;
                }
                let sources = model.sources(name, component);
                match render::render(&git, &sources, name, Some(&self.name), &look.of(&sources, &name.component)) {
                    Ok(rendered) if kept.contents.get(name) == Some(&self.export.hash(&rendered)) => {}
                    Ok(_) if kept.contents.contains_key(name) => {
                        problems.push(format!("the export of {name} is not what its snapshot holds"));
                    }
                    Ok(_) => problems.push(format!("{name} is missing in the export")),
                    Err(error) => problems.push(format!("{name} cannot be rendered: {}", chain(&error))),
                }
            }
            template::rest();
            let extra = kept.contents.keys().filter(|name| !model.inputs.contains_key(name));
            problems.extend(extra.map(|name| format!("{name} is in the export, but not in its snapshot")));
            Ok(problems)
        };
        compare().unwrap_or_else(|error| vec![format!("repository: {}", chain(&error))])
    }

    fn git(&self) -> Result<Git, TransactionError> {
        self.repository.git().map_err(TransactionError::Damaged)
    }
}

/// Lets components keep what they had, each for its reason. False when all of them have that already.
fn hold_back(
    why: BTreeMap<ComponentVersion, String>,
    have: &Contents,
    contents: &mut Contents,
    faults: &mut BTreeMap<ComponentVersion, String>,
) -> bool {
    let mut changed = false;
    for (name, reason) in why {
        if have.get(&name) == contents.get(&name) {
            continue;
        }
        tracing::warn!(component = %name, reason, "held back; its files of before stay");
        changed = true;
        match have.get(&name) {
            Some(old) => drop(contents.insert(name.clone(), *old)),
            None => drop(contents.remove(&name)),
        }
        faults.insert(name, reason);
    }
    changed
}

/// A switch that changed thousands shows so many of them in the history.
const MOST_SHOWN: usize = 50;

fn timestamp(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok()?;
    Some(jiff::Timestamp::from_second(seconds).ok()?.to_string())
}

/// The newest snapshots stay as long as the flags say.
impl Retention {
    /// From the flags.
    pub fn new(keep: u32, keep_seconds: u64) -> Self {
        Retention { last: keep as usize, younger_than: Duration::from_secs(keep_seconds) }
    }
}

/// Why a snapshot was not put in place; what readers see is as it was.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The snapshot will not do, today or tomorrow.
    #[error("{0}")]
    Refused(String),
    /// The snapshot will not do: not signed, another datacenter's, of a newer format.
    #[error("the snapshot is refused")]
    Untrusted(#[source] SnapshotError),
    /// The repository cannot be read.
    #[error("the repository on this host cannot be read")]
    Damaged(#[source] git2::Error),
    /// The files cannot be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The checks were not run to their end.
    #[error(transparent)]
    Unchecked(#[from] Unchecked),
    /// The journal cannot be written.
    #[error("cannot write the journal of whom to tell; free some space, what was there stays in use")]
    Journal(#[source] std::io::Error),
}

impl From<SnapshotError> for TransactionError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Read { cause, .. } | SnapshotError::Write(cause) => TransactionError::Damaged(cause),
            other => TransactionError::Untrusted(other),
        }
    }
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state folder cannot be made.
    #[error("cannot use the state folder {path}; give the user of conf-local write access to it, or name another")]
    State {
        /// Which folder.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: std::io::Error,
    },
    /// The repository cannot be used.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The export cannot be used.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Components cannot be placed as the configuration says.
    #[error(transparent)]
    Place(#[from] BadPlace),
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The state belongs to another datacenter.
    #[error("{path} holds the export of {found}; name that datacenter, or another --state")]
    OtherDatacenter {
        /// Which folder.
        path: PathBuf,
        /// Whose export it has.
        found: DatacenterName,
    },
}
