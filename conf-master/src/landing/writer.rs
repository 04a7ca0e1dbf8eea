//! The landing thread: lands pushes one batch at a time, and answers everyone.
//!
//! Judge, write objects, make them durable, move the ledger (the one commit point), move the other
//! refs, answer, tell. Pushes that wait together share one durable write; each has its own ledger
//! commit, sequence and snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use conf_core::access::AccessTable;
use conf_core::daemon::chain;
use conf_core::git;
use conf_core::git::{Depth, ObjectStore as _, Step};
use conf_core::git_http::UploadPack;
use conf_core::http::{Health, Share};
use libconf::name::{CommitId, RefName, Sequence};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::landing::audit::{Audit, Record};
use crate::landing::checking::Version;
use crate::landing::push::{Leader, Outcome, Published, Push};
use crate::landing::staging::Staging;
use crate::landing::standbys::Standbys;
use crate::landing::told::Told;
use crate::store::{self, Durable, Move, RefTarget};

/// The most pushes that share one durable write.
const BATCH: usize = 64;
/// How often the refs are compared with the ledger while nothing lands.
const REPAIR_EVERY: Duration = Duration::from_secs(60);

/// The condition of a server that cannot write changes.
pub(crate) const LANDING: &str = "landing";

/// Work for the landing thread.
pub(crate) enum Job {
    /// Hands out the newest version of the catalog.
    Look { reply: oneshot::Sender<Version> },
    /// Lands a push.
    Land { push: Arc<Push>, place: Share, reply: oneshot::Sender<Outcome> },
    /// Runs while nothing lands.
    Exclusive { work: Box<dyn FnOnce() + Send>, reply: oneshot::Sender<()> },
    /// Reads the ledger anew, if the last landing failed.
    Recover { reply: oneshot::Sender<()> },
    /// Sets the refs to what the ledger says.
    Repair { reply: oneshot::Sender<()> },
    /// Follows another conf-master, or leads, from now on.
    Stand { leader: Option<Leader>, reply: oneshot::Sender<()> },
    /// Takes what the leader has landed, up to this entry of the ledger, whose objects are here.
    /// The answer comes when it is durable; its refs and its readers follow.
    Take { newest: CommitId, drops: bool, reply: oneshot::Sender<anyhow::Result<()>> },
}

/// A push, its outcome, and where the outcome is sent.
type Decided = (Arc<Push>, Outcome, oneshot::Sender<Outcome>);

/// The state of the landing thread.
pub(crate) struct Landing {
    /// Everything that was landed or staged.
    pub(crate) staging: Staging,
    /// The state in memory differs from the disk and must be read again before anything lands.
    pub(crate) is_void: bool,
    /// What a standby has taken last, where it is not read yet.
    pub(crate) landed: Option<CommitId>,
    /// A change is durable here and not on enough standbys: nobody is told of it yet.
    pub(crate) is_held: bool,
    /// Tells standbys what is durable, before anybody else is told.
    pub(crate) newest: watch::Sender<(CommitId, Sequence)>,
    /// The standbys.
    pub(crate) standbys: Arc<Standbys>,
    /// Announces every landing.
    pub(crate) publish: watch::Sender<Arc<Published>>,
    /// Announces every change of the tokens.
    pub(crate) access: watch::Sender<Arc<AccessTable>>,
    /// The durable state, for answers.
    pub(crate) durable: Arc<RwLock<Durable>>,
    /// The records of refusals.
    pub(crate) audit: Arc<Audit>,
    /// Is handed the answer to the fetch that each landing causes.
    pub(crate) upload: Arc<UploadPack>,
    /// Runs the asynchronous part of that.
    pub(crate) runtime: Handle,
    /// Where it tells that changes cannot be written.
    pub(crate) health: Health,
    /// Tells what became of each push.
    pub(crate) told: Told,
}

impl Landing {
    /// Works until every sender of jobs is gone.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut checked = Some(Instant::now());
        self.staging.keep_packed();
        while let Some(first) = queue.blocking_recv() {
            let (mut batch, mut looking) = (Vec::new(), Vec::new());
            let (mut next, mut repairing) = (Some(first), None);
            while let Some(job) = next.take() {
                match job {
                    Job::Look { reply } => looking.push(reply),
                    Job::Land { push, place, reply } => {
                        // From here on it is in no queue.
                        drop(place);
                        batch.push((push, reply));
                    }
                    Job::Exclusive { work, reply } => {
                        let landed = self.land(std::mem::take(&mut batch));
                        self.answer(landed);
                        work();
                        // It may have removed packs.
                        if let Err(error) = self.staging.open_again() {
                            warn!(error = chain(&*error), "the repository cannot be opened anew");
                        }
                        let _ = reply.send(());
                    }
                    Job::Recover { reply } => {
                        self.recover();
                        let _ = reply.send(());
                    }
                    Job::Take { newest, drops, reply } => self.take((newest, drops), reply),
                    Job::Stand { leader, reply } => {
                        let landed = self.land(std::mem::take(&mut batch));
                        self.answer(landed);
                        self.stand(leader);
                        let _: Result<(), ()> = reply.send(());
                    }
                    // It is done below, after what waits has landed.
                    Job::Repair { reply } => {
                        (checked, repairing) = (None, Some(reply));
                    }
                }
                if batch.len() + looking.len() < BATCH {
                    next = queue.try_recv().ok();
                }
            }
            let landed = self.land(batch);
            self.answer(landed);
            self.show(looking);
            // What is staged and did not land must not reach the refs.
            if !self.is_void {
                if checked.is_none_or(|checked| checked.elapsed() > REPAIR_EVERY) {
                    self.staging.repair();
                    checked = Some(Instant::now());
                }
                self.staging.keep_packed();
            }
            if let Some(reply) = repairing {
                let _: Result<(), ()> = reply.send(());
            }
        }
    }

    /// Reads the ledger anew, if the last landing failed, and tries whether changes can be written
    /// again.
    fn recover(&mut self) {
        if self.is_held && self.standbys.expect_enough().is_ok() && self.standbys.have(self.staging.sequence) {
            self.is_held = false;
            self.announce();
        }
        let read = if self.is_void { self.reload() } else { Ok(()) };
        self.report_able(read);
    }

    /// Takes what the leader has landed.
    fn take(&mut self, (newest, drops): (CommitId, bool), reply: oneshot::Sender<anyhow::Result<()>>) {
        let read = if self.is_void { self.reload() } else { Ok(()) };
        let taken = read.and_then(|()| {
            ensure!(self.staging.leader.is_some(), "this conf-master leads, and takes nothing of another one");
            self.staging.take(newest, drops)
        });
        let taking = match taken {
            Ok(taking) => taking,
            Err(cause) => {
                let _ = reply.send(Err(cause));
                return;
            }
        };
        self.landed = Some(taking.newest);
        let _ = reply.send(Ok(()));
        self.is_void = true;
        match self.staging.finish_taking(taking) {
            Ok(()) => self.is_read(),
            // The next work reads the ledger.
            Err(error) => error!(error = chain(&*error), "what the leader has landed cannot be read yet"),
        }
    }

    /// Follows another conf-master, or leads.
    fn stand(&mut self, leader: Option<Leader>) {
        if leader.is_none() && self.staging.leader.is_some() {
            self.lead();
        }
        self.staging.leader = leader;
        if self.is_held {
            // Only who leads is told: what is held may be dropped.
            let leader = self.staging.leader.clone();
            self.publish.send_modify(|published| Arc::make_mut(published).leader = leader);
        } else if !self.is_void {
            self.announce();
        }
    }

    /// The state in memory is what the ledger says.
    fn is_read(&mut self) {
        (self.is_void, self.landed) = (false, None);
        // What a standby takes was answered by its leader.
        self.is_held &= self.staging.leader.is_none();
        *self.durable.write() = self.staging.durable();
        self.tell_standbys();
        self.announce();
    }

    /// Has standbys fetch what is durable here.
    fn tell_standbys(&self) {
        self.standbys.is_durable(self.staging.ledger);
        self.newest.send_replace((self.staging.ledger, self.staging.sequence));
    }

    /// Reports whether changes can be written, after the ledger was `read`: what fails for one push
    /// alone keeps no other from landing.
    fn report_able(&self, read: anyhow::Result<()>) {
        let able = read.and_then(|()| store::try_to_write(&self.staging.repo));
        let unable = able.err().map(|cause| format!("changes cannot be written: {}", chain(&*cause)));
        let is_held = self.is_held && self.staging.leader.is_none();
        let held = || is_held.then(|| "what landed last is on no standby yet, and nobody is told of it".to_owned());
        self.health.report(LANDING, unable.or_else(held));
    }

    /// Reads the ledger anew, and publishes its state.
    fn reload(&mut self) -> anyhow::Result<()> {
        let landed = self.landed.unwrap_or_else(|| self.durable.read().ledger);
        self.staging.reload(Some(landed))?;
        self.is_read();
        Ok(())
    }

    /// Hands out the newest version of the catalog, without what was staged and did not land.
    fn show(&mut self, looking: Vec<oneshot::Sender<Version>>) {
        if looking.is_empty() {
            return;
        }
        if self.is_void
            && let Err(error) = self.reload()
        {
            error!(error = chain(&*error), "the ledger cannot be read");
            // What was staged has not landed, so there is no version to show: they are told to try
            // again.
            return;
        }
        for reply in looking {
            let _ = reply.send(self.staging.version());
        }
    }

    /// Lands changes from now on, in the place of the server that was followed.
    fn lead(&mut self) {
        let leader = self.staging.leader.take();
        self.standbys.lead();
        if let Err(error) = store::end_standby(&self.staging.path) {
            error!(error = chain(&*error), "this server leads until it starts again; promote it again then");
        }
        info!(before = leader.map(|url| url.to_string()), sequence = self.staging.sequence.0, "this server leads now");
    }

    fn land(&mut self, batch: Vec<(Arc<Push>, oneshot::Sender<Outcome>)>) -> Vec<Decided> {
        if batch.is_empty() {
            return Vec::new();
        }
        let began = Instant::now();
        let pushes = batch.iter().map(|(push, _)| &**push);
        // A standby refuses in its own words.
        let enough = if self.staging.leader.is_some() { Ok(()) } else { self.standbys.expect_enough() };
        let answers = match enough {
            Ok(()) => self
                .land_all(pushes.clone())
                .unwrap_or_else(|error| pushes.map(|push| Outcome::failed(push, &error)).collect()),
            Err(why) => pushes.map(|push| Outcome::not_now(push, why)).collect(),
        };
        let decided = batch.into_iter().zip(answers).map(|((push, reply), outcome)| {
            if !outcome.is_long {
                self.told.tell(&push, &outcome, began);
            }
            (push, outcome, reply)
        });
        decided.collect()
    }

    /// Answers everyone, after the refusals were recorded.
    fn answer(&self, decided: impl IntoIterator<Item = Decided>) {
        let decided: Vec<Decided> = decided.into_iter().collect();
        // What is only put off is not refused.
        let refused = decided.iter().filter(|(_, outcome, _)| !outcome.is_long);
        let records: Vec<Record> = refused.filter_map(|(push, outcome, _)| Record::of(push, outcome)).collect();
        if let Err(error) = self.audit.append(&records) {
            // None of them landed, so nothing has to be undone.
            error!(%error, "{} refused requests could not be recorded", records.len());
        }
        for (_, outcome, reply) in decided {
            let _ = reply.send(outcome);
        }
    }

    /// Lands pushes with one durable write. An error means that none of them landed.
    fn land_all<'a>(&mut self, pushes: impl Iterator<Item = &'a Push> + Clone) -> anyhow::Result<Vec<Outcome>> {
        if self.is_void {
            self.reload().context("the ledger cannot be read")?;
        } else {
            self.staging.freshen()?;
        }
        let mut before = self.staging.ledger;
        let mut staged = self.stage_all(pushes.clone());
        if let Err(error) = &staged {
            // Upkeep may have removed a pack just when it was read. Nothing is written yet.
            warn!(error = chain(&**error), "changes could not be staged, and are staged anew");
            self.reload().context("the ledger cannot be read")?;
            before = self.staging.ledger;
            staged = self.stage_all(pushes.clone());
        }
        let (answers, moves) = match staged {
            Ok(staged) => staged,
            Err(error) => {
                let read = self.reload();
                self.report_able(read);
                return Err(error);
            }
        };
        let tip = self.staging.ledger;
        let promotes = |(push, outcome): (&Push, &Outcome)| push.is_promotion() && outcome.sequence.is_some();
        let is_promoted = pushes.zip(&answers).any(promotes);
        if let Err(error) = if tip == before { Ok(()) } else { self.commit(before, &moves) } {
            // The staged state in memory is void: the ledger on disk counts, and it may have moved
            // after all.
            let read = self.reload();
            if read.is_err() || self.staging.ledger != tip || tip == before {
                self.report_able(read);
                return Err(error);
            }
            warn!(error = chain(&*error), "a change landed, but not every step after it succeeded");
        }
        self.is_void = false;
        if tip != before {
            self.health.report(LANDING, None);
        }
        if is_promoted {
            self.lead();
        }
        // A succession begins without those that followed the server before.
        let waits = !is_promoted && self.staging.leader.is_none() && (tip != before || self.is_held);
        if waits && let Err(why) = self.standbys.wait_for(self.staging.sequence) {
            self.is_held = true;
            warn!(sequence = self.staging.sequence.0, "changes are durable here alone: {why}");
            self.report_able(Ok(()));
            return Ok(answers.into_iter().map(|one| one.held(why)).collect());
        }
        self.is_held = false;
        self.announce();
        self.staging.put_key();
        Ok(answers)
    }

    /// Stages pushes, one over the other. After an error the state in memory is void.
    fn stage_all<'a>(&mut self, pushes: impl Iterator<Item = &'a Push>) -> anyhow::Result<(Vec<Outcome>, Vec<Move>)> {
        self.is_void = true;
        let (mut answers, mut moves) = (Vec::new(), Vec::new());
        for push in pushes {
            let (outcome, its_moves) = self.staging.stage(push)?;
            answers.push(outcome);
            moves.extend(its_moves);
        }
        Ok((answers, moves))
    }

    /// Makes the staged changes durable and visible. The move of the ledger is the commit point.
    fn commit(&mut self, before: CommitId, moves: &[Move]) -> anyhow::Result<()> {
        self.staging.objects.write()?;
        self.standbys.expect_office()?;
        store::move_ledger(self.staging.objects.repo(), Some(before), self.staging.ledger)?;
        // A burst moves a datacenter's snapshot many times; its ref is written once.
        let last: BTreeMap<&RefName, Option<RefTarget>> = moves.iter().map(|one| (&one.name, one.new)).collect();
        {
            let mut durable = self.durable.write();
            moves.iter().for_each(|one| durable.table.set(one.name.clone(), one.new));
            last.keys().for_each(|name| durable.layers.take_from(&self.staging.layers, name));
            (durable.ledger, durable.sequence) = (self.staging.ledger, self.staging.sequence);
        }
        self.tell_standbys();
        if let Err(cause) = self.staging.move_refs(&last) {
            // The change is accepted: the refs follow the ledger, now or at the next repair.
            error!(error = chain(&*cause), "a ref could not be moved; it is put right from the ledger");
            self.staging.repair();
        }
        // Of several snapshots of one datacenter only the last is announced; no slave has the one
        // before it.
        let mut steps: BTreeMap<&RefName, Option<&Move>> = BTreeMap::new();
        for one in moves.iter().filter(|one| matches!(one.name, RefName::Snapshot(_))) {
            steps.entry(&one.name).and_modify(|step| *step = None).or_insert(Some(one));
        }
        for (have, want) in steps.into_values().flatten().filter_map(|one| Some((one.old, one.new?.commit))) {
            self.prime_cache(have, want);
        }
        Ok(())
    }

    /// Caches the answer to the fetch that every conf-slave is about to make, so that no
    /// `upload-pack` works it out.
    fn prime_cache(&self, have: CommitId, want: CommitId) {
        match git::thin_answer(self.staging.objects.repo(), want) {
            Ok(Some(answer)) => {
                let step = Step { have: Some(have), want, depth: Depth::Full };
                self.runtime.block_on(self.upload.prime(step.request(), answer));
            }
            Ok(None) => {}
            Err(error) => warn!(error = chain(&error), "git upload-pack works this answer out"),
        }
    }

    /// Announces the newest state to everyone.
    pub(crate) fn announce(&self) {
        if self.is_held {
            return;
        }
        let snapshots = self.staging.catalog.datacenters.iter();
        let datacenters = snapshots.filter_map(|(name, one)| Some((name.clone(), one.snapshot.clone()?)));
        let published = Published {
            sequence: self.staging.sequence,
            datacenters: datacenters.collect(),
            deleted: self.staging.catalog.deleted.clone(),
            rights: self.staging.rights.clone(),
            leader: self.staging.leader.clone(),
            signer: Some(self.staging.key.clone()),
            keys: self.staging.keys.clone(),
        };
        self.publish.send_replace(Arc::new(published));
        self.access.send_if_modified(|told| {
            let is_new = !Arc::ptr_eq(told, &self.staging.access);
            *told = self.staging.access.clone();
            is_new
        });
    }
}
