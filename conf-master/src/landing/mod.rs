//! Landing: the only way in which anything changes. One thread lands pushes and everything else,
//! one at a time.
//!
//! Read in this order: `push` is what shall land and its outcome, `update` drafts sections,
//! `staging` judges and writes objects, `writer` makes them durable and visible, `audit`
//! records refusals.

pub(crate) mod audit;
mod checking;
mod composing;
mod following;
mod keys;
pub(crate) mod push;
#[cfg(test)]
mod rights_tests;
mod sizes;
mod staging;
mod standbys;
#[cfg(test)]
mod tests;
mod told;
pub(crate) mod update;
mod writer;

pub(crate) use crate::landing::audit::{Record, RefusedRef};
pub(crate) use crate::landing::push::{KeyRequest, Leader, Outcome, Published, Push, Pusher};
pub(crate) use crate::landing::standbys::{Office, Standbys, SyncRule};
pub(crate) use crate::landing::told::Told;
pub(crate) use crate::landing::update::notation::Draft;
pub(crate) use crate::landing::update::request::{Conflict, Expected, IfMatch, SectionChange, Update, UpdateOutcome};
pub(crate) use crate::landing::update::section::{BRANCH, SectionFile, SectionName};
pub(crate) use crate::landing::writer::LANDING;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use conf_core::access::AccessTable;
use conf_core::daemon::{blocking, chain};
use conf_core::git_http::UploadPack;
use conf_core::http::{Health, ShareBounds, Shares};
use libconf::name::{CommitId, DatacenterName, ObjectId, RefName, Sequence};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

use crate::catalog::Catalog;
use crate::fault::{Refusal, RefusalKind};
use crate::judge::{Judge, Rights, TOO_MUCH};
use crate::landing::audit::Audit;
use crate::landing::checking::{Checker, Version};
use crate::landing::push::PushContent;
use crate::landing::staging::Staging;
use crate::landing::writer::{Job, Landing};
use crate::store::{Durable, Landed};

/// The pushes in the queue of the landing thread, a quarter of them of one peer; more wait for a
/// place in it.
const QUEUE: u32 = 256;
/// Those that wait for a place; more get "busy, push again".
const WAITING: usize = 1024;
/// How long each of them waits.
const PATIENCE: Duration = Duration::from_secs(30);
/// Other work in that queue: each is asked for by one part of this program, or by a push that is
/// judged.
const OTHER_JOBS: usize = 64;
/// How often a push is judged again because others landed meanwhile.
const TRIES: usize = 3;

/// The way to the landing thread.
#[derive(Clone, Debug)]
pub(crate) struct Lander {
    jobs: mpsc::Sender<Job>,
    /// The newest state, now and from now on.
    pub(crate) published: watch::Receiver<Arc<Published>>,
    /// The tokens, now and from now on.
    pub(crate) access: watch::Receiver<Arc<AccessTable>>,
    durable: Arc<RwLock<Durable>>,
    /// The records of refusals.
    pub(crate) audit: Arc<Audit>,
    checker: Arc<Checker>,
    told: Told,
    /// Knows what landed.
    pub(crate) landed: Arc<Landed>,
    /// The places in the queue.
    places: Shares,
    /// The newest entry of the ledger that is durable here, before anybody else is told.
    pub(crate) newest: watch::Receiver<(CommitId, Sequence)>,
    /// The standbys.
    pub(crate) standbys: Arc<Standbys>,
}

/// Asks the landing thread what there is.
#[derive(Clone, Debug)]
pub(crate) struct Looker(mpsc::WeakSender<Job>);

impl Looker {
    /// Returns what each datacenter runs now; `None` when the landing thread cannot say.
    pub(crate) async fn catalog(&self) -> Option<Arc<Catalog>> {
        look(&self.0.upgrade()?).await.map(|version| version.catalog)
    }
}

async fn look(jobs: &mpsc::Sender<Job>) -> Option<Version> {
    let (reply, version) = oneshot::channel();
    jobs.try_send(Job::Look { reply }).ok()?;
    version.await.ok()
}

impl Lander {
    /// Judges a push whose objects are still in quarantine; changes nothing. Cancel: a judgement
    /// that has begun goes on to its end, and keeps its place until then.
    pub(crate) async fn check(&self, push: Push, quarantine: Option<PathBuf>) -> Outcome {
        let refs = push.updates.len();
        let Ok(judging) = self.checker.place(push.pusher.who).await else { return busy(refs) };
        let Some(version) = self.look().await else { return busy(refs) };
        let checker = self.checker.clone();
        let check = move || {
            let _place = judging;
            checker.check(&push, quarantine.as_deref(), &version)
        };
        tokio::task::spawn_blocking(check).await.unwrap_or_else(|_| busy(refs))
    }

    /// Returns the newest version of the catalog; `None` when the landing thread cannot say.
    async fn look(&self) -> Option<Version> {
        look(&self.jobs).await
    }

    /// Makes one that only looks, and does not keep the landing thread from its end.
    pub(crate) fn looker(&self) -> Looker {
        Looker(self.jobs.downgrade())
    }

    /// Returns the datacenters that run a ref now; none when the landing thread cannot say.
    pub(crate) async fn datacenters_of(&self, name: &RefName) -> BTreeSet<DatacenterName> {
        let version = self.look().await;
        version.map(|version| version.catalog.readers(name).into_iter().cloned().collect()).unwrap_or_default()
    }

    /// Lands a push. What takes longer to judge than others can wait is judged beside the landing
    /// thread first, and then looked at again there. Cancel: it may land all the same; the ledger
    /// holds the outcome.
    pub(crate) async fn land(&self, push: Push) -> Outcome {
        let is_pushed = matches!(push.content, PushContent::Commits);
        let tips: Vec<ObjectId> = if is_pushed { push.updates.iter().map(|one| one.new).collect() } else { Vec::new() };
        let outcome = self.land_in_turn(push).await;
        let refused = tips.into_iter().zip(&outcome.refusals).filter(|(_, refusal)| refusal.is_some());
        let refused: BTreeSet<ObjectId> = refused.map(|(tip, _)| tip).filter(|tip| !tip.is_zero()).collect();
        if !refused.is_empty() {
            let landed = self.landed.clone();
            // Before the pusher is told.
            blocking(move || landed.set_apart(&refused)).await;
        }
        outcome
    }

    async fn land_in_turn(&self, push: Push) -> Outcome {
        let (refs, push) = (push.updates.len(), Arc::new(push));
        for _ in 0..TRIES {
            let Ok(place) = self.places.take(push.pusher.who, 1, PATIENCE).await else { return busy(refs) };
            let outcome = self.ask(refs, |reply| Job::Land { push: push.clone(), place, reply }).await;
            if !outcome.is_long {
                return outcome;
            }
            match self.rehearse(push.clone()).await {
                Ok(()) => {}
                Err(Rehearsed::TooMuch) => return self.refuse(Push::clone(&push), TOO_MUCH.to_owned().into()).await,
                Err(Rehearsed::Busy) => return busy(refs),
            }
        }
        busy(refs)
    }

    /// Judges a push beside the landing thread, so that what it found is known there.
    async fn rehearse(&self, push: Arc<Push>) -> Result<(), Rehearsed> {
        let judging = self.checker.place(push.pusher.who).await.map_err(|_| Rehearsed::Busy)?;
        let version = self.look().await.ok_or(Rehearsed::Busy)?;
        let (checker, layers) = (self.checker.clone(), self.durable().layers.clone());
        let rehearse = move || {
            let _place = judging;
            checker.rehearse(&push, &version, &layers)
        };
        let is_over = tokio::task::spawn_blocking(rehearse).await.map_err(anyhow::Error::from).flatten();
        match is_over {
            Ok(false) => Ok(()),
            Ok(true) => Err(Rehearsed::TooMuch),
            Err(cause) => {
                error!(error = chain(&*cause), "a push could not be judged");
                Err(Rehearsed::Busy)
            }
        }
    }

    /// Refuses every ref of a push without judging it, and records that.
    pub(crate) async fn refuse(&self, push: Push, why: Refusal) -> Outcome {
        let outcome = Outcome::refused(push.updates.len(), &why);
        info!(through = push.pusher.through, request = push.request, "refused: {}", why.reason);
        self.told.note(&push, &outcome);
        let (audit, records) = (self.audit.clone(), Vec::from_iter(Record::of(&push, &outcome)));
        let written = tokio::task::spawn_blocking(move || audit.append(&records)).await;
        if let Err(error) = written.map_err(std::io::Error::from).flatten() {
            error!(%error, "a refused push could not be recorded");
        }
        outcome
    }

    /// Runs `work` while nothing lands.
    pub(crate) async fn exclusively(&self, work: impl FnOnce() + Send + 'static) {
        let (reply, done) = oneshot::channel();
        if self.jobs.send(Job::Exclusive { work: Box::new(work), reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Reads the ledger anew, if the last landing failed.
    pub(crate) async fn recover(&self) {
        let (reply, done) = oneshot::channel();
        if self.jobs.try_send(Job::Recover { reply }).is_ok() {
            let _ = done.await;
        }
    }

    /// Takes what the leader has landed, up to this entry of its ledger, whose objects are here;
    /// returns when it is durable. With `drops` what landed here alone is dropped. Cancel: it is
    /// taken all the same.
    pub(crate) async fn take(&self, newest: CommitId, drops: bool) -> anyhow::Result<()> {
        let (reply, done) = oneshot::channel();
        self.jobs.send(Job::Take { newest, drops, reply }).await.ok().context("conf-master is stopping")?;
        done.await.context("conf-master is stopping")?
    }

    /// Has this conf-master follow another one, and land nothing; or lead, in the epoch that it is
    /// in. What it was told before is done first.
    pub(crate) async fn stand(&self, leader: Option<Leader>) {
        let (reply, done) = oneshot::channel();
        if self.jobs.send(Job::Stand { leader, reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Sets the refs to what the ledger says.
    pub(crate) async fn repair(&self) {
        let (reply, done) = oneshot::channel();
        if self.jobs.try_send(Job::Repair { reply }).is_ok() {
            let _ = done.await;
        }
    }

    /// Returns the durable state. Hold it for a moment only, since landings wait for it.
    pub(crate) fn durable(&self) -> RwLockReadGuard<'_, Durable> {
        self.durable.read()
    }

    async fn ask(&self, refs: usize, job: impl FnOnce(oneshot::Sender<Outcome>) -> Job) -> Outcome {
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(job(reply)) {
            Ok(()) => answer.await.unwrap_or_else(|_| busy(refs)),
            Err(_) => busy(refs),
        }
    }
}

/// Why a push that takes long is not tried again.
enum Rehearsed {
    /// It takes more than a push may.
    TooMuch,
    /// It was not judged.
    Busy,
}

fn busy(refs: usize) -> Outcome {
    Outcome::refused(refs, &Refusal::new(RefusalKind::Busy, "conf-master is busy or stopping; push again in a moment"))
}

/// What a server is from its start on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Role {
    /// Who may do what; the policy is read from the repository.
    pub(crate) rights: Rights,
    /// Whom it follows: nothing lands here but what that one has landed.
    pub(crate) leader: Option<Leader>,
    /// How many standbys have a change before it is answered.
    pub(crate) sync: SyncRule,
}

/// Opens the repository, repairs what a crash left, and starts the landing thread.
///
/// The thread ends, after the current step, when every [`Lander`] is gone. `upload` is handed the
/// answer to the fetch that each landing causes; `told` tells what becomes of each push; `landed`
/// follows from now on what lands. Must be called inside the runtime.
pub(crate) fn start(
    path: &Path,
    judge: &Arc<Judge>,
    landed: &Arc<Landed>,
    upload: Arc<UploadPack>,
    told: Told,
    health: Health,
    role: Role,
) -> anyhow::Result<(Lander, thread::JoinHandle<()>)> {
    let (jobs, queue) = mpsc::channel(QUEUE as usize + OTHER_JOBS);
    let (publish, published) = watch::channel(Arc::default());
    let (access_sender, access) = watch::channel(Arc::default());
    let audit = Arc::new(Audit::open(path).context("cannot open the records of what was refused")?);
    let checker = Arc::new(Checker::new(path, judge.clone(), landed.clone(), audit.clone(), told.clone()));
    // Schemas that others push take no time of the landing thread.
    let staging = Staging::open(path, Arc::new(judge.beside()), checker.clone(), (role.rights, role.leader))?;
    let durable = Arc::new(RwLock::new(staging.durable()));
    landed.follow(durable.clone());
    let standbys = Arc::new(Standbys::new(role.sync, health.clone()));
    let (newest_sender, newest) = watch::channel((staging.ledger, staging.sequence));
    standbys.is_durable(staging.ledger);
    let landing = Landing {
        staging,
        landed: None,
        is_held: false,
        newest: newest_sender,
        standbys: standbys.clone(),
        is_void: false,
        publish,
        access: access_sender,
        durable: durable.clone(),
        audit: audit.clone(),
        upload,
        runtime: Handle::current(),
        health,
        told: told.clone(),
    };
    landing.announce();
    let thread = thread::Builder::new().name("landing".to_owned()).spawn(move || landing.run(queue))?;
    let places = Shares::new(ShareBounds { places: QUEUE.into(), of_one: (QUEUE / 4).into(), waiting: WAITING });
    let landed = landed.clone();
    let lander = Lander { jobs, published, access, durable, audit, checker, told, landed, places, newest, standbys };
    Ok((lander, thread))
}
