//! Landing: the one way in which anything changes. One thread does it, for pushes and everything else, one at a time.
//!
//! Judge, write objects, make them durable, move the ledger (the one commit point), move the other refs, answer, tell.
//! Pushes that wait together share one durable write; each has its own ledger commit, sequence and snapshots.

pub mod audit;
pub mod update;

mod stage;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use conf_core::{
    daemon::Metrics,
    git::{self, Depth, Step},
    git_http::UploadPack,
    sign::SigningKey,
    snapshot::Snapshot,
};
use git2::Repository;
use libconf::name::{CommitId, DatacenterName, RefName, Sequence};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
};
use tracing::{error, info, warn};

use crate::{
    catalog::Catalog,
    fault::refusal::{Kind, Refusal},
    judge::{Wish, judge, plan::Plan, validate::Validator},
    landing::{
        audit::{Audit, Record},
        update::{Decision, Scratch, Update},
    },
    secrets::order::Order,
    store as repository,
    store::{
        history::Durable,
        idempotency::LandedRequests,
        ledger::{self, Move, State},
        refs::{Table, Target},
    },
};

/// Pushes that may wait; more get "busy, push again".
const QUEUE: usize = 256;
/// Pushes that share one durable write.
const BATCH: usize = 64;
/// How often the refs are compared with the ledger while nothing lands.
const REPAIR_EVERY: Duration = Duration::from_secs(60);

/// What somebody wants to land.
#[derive(Clone, Debug)]
pub struct Push {
    /// The refs. Those of an update say no more than which.
    pub wishes: Vec<Wish>,
    /// All of them or none.
    pub atomic: bool,
    /// Who, on one line; `None` where nobody proved a name, and the pushed commits' committer stands in.
    pub by: Option<String>,
    /// Through what: `http <address>`, `path`, `ssh`.
    pub through: String,
    /// The id of the request.
    pub request: String,
    /// What was asked for besides.
    pub options: Options,
    /// The sections to write on the refs, where it is no push of commits.
    pub update: Option<Update>,
    /// What is asked for of secrets, where it is neither.
    pub order: Option<Order>,
}

/// What a push or a request asks for besides the change itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only try it: judge all of it, and land nothing.
    pub dry_run: bool,
    /// It may remove much at once.
    pub allow_shrink: bool,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// For each wish, in order: `None` when it landed, else why not.
    pub refusals: Vec<Option<Refusal>>,
    /// What to tell the pusher.
    pub notes: Vec<String>,
    /// The change's number, when anything landed.
    pub sequence: Option<Sequence>,
    /// What would have become of it, where it was only tried.
    pub plan: Option<Plan>,
    /// What there is to say of an update.
    pub decision: Option<Decision>,
}

impl Outcome {
    /// Nothing of `wishes` wishes landed, for one reason; where there is none of them, it is told all the same.
    fn refused(wishes: usize, why: &Refusal) -> Self {
        Outcome { refusals: vec![Some(why.clone()); wishes.max(1)], ..Outcome::default() }
    }
}

/// What everyone may know after a landing.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The newest change.
    pub central: Sequence,
    /// Every datacenter's newest snapshot.
    pub datacenters: BTreeMap<DatacenterName, Snapshot>,
}

enum Job {
    Check { push: Push, quarantine: Option<PathBuf>, reply: oneshot::Sender<Outcome> },
    Land { push: Push, reply: oneshot::Sender<Outcome> },
    Exclusive { work: Box<dyn FnOnce() + Send>, reply: oneshot::Sender<()> },
}

/// A push, what became of it, and who wants to know.
type Decided = (Push, Outcome, oneshot::Sender<Outcome>);

/// The way to the landing thread.
#[derive(Clone, Debug)]
pub struct Lander {
    jobs: mpsc::Sender<Job>,
    published: watch::Receiver<Arc<Published>>,
    durable: Arc<RwLock<Durable>>,
    audit: Arc<Audit>,
}

impl Lander {
    /// Judges a push whose objects are still in quarantine; nothing changes. Cancel: the judgement goes nowhere.
    pub async fn check(&self, push: Push, quarantine: Option<PathBuf>) -> Outcome {
        let wishes = push.wishes.len();
        self.ask(wishes, |reply| Job::Check { push, quarantine, reply }).await
    }

    /// Lands a push. Cancel: it may land all the same; what became of it is in the ledger.
    pub async fn land(&self, push: Push) -> Outcome {
        let wishes = push.wishes.len();
        self.ask(wishes, |reply| Job::Land { push, reply }).await
    }

    /// Does something while nothing lands.
    pub async fn exclusively(&self, work: impl FnOnce() + Send + 'static) {
        let (reply, done) = oneshot::channel();
        if self.jobs.send(Job::Exclusive { work: Box::new(work), reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    /// What was landed, now and from now on.
    pub fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.published.clone()
    }

    /// What is durable now; to be held for a moment only, since landings wait for it.
    pub fn durable(&self) -> RwLockReadGuard<'_, Durable> {
        self.durable.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records of what was refused.
    pub fn audit(&self) -> Arc<Audit> {
        self.audit.clone()
    }

    async fn ask(&self, wishes: usize, job: impl FnOnce(oneshot::Sender<Outcome>) -> Job) -> Outcome {
        let refused = |reason: &str| Outcome::refused(wishes, &Refusal::new(Kind::Busy, reason));
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(job(reply)) {
            Ok(()) => answer.await.unwrap_or_else(|_| refused("conf-master is stopping; push again in a moment")),
            Err(_) => refused("conf-master is busy or stopping; push again in a moment"),
        }
    }
}

/// Opens the repository, sets right what a crash left, and starts the landing thread.
///
/// The thread ends, after the step at hand, when every [`Lander`] is gone.
///
/// `upload` is handed the answer to each step that a landing makes. Call it inside the runtime.
pub fn start(
    path: &Path,
    validator: Arc<Validator>,
    upload: Arc<UploadPack>,
    metrics: &Metrics,
) -> anyhow::Result<(Lander, thread::JoinHandle<()>)> {
    let key = SigningKey::load(&repository::key_path(path))?;
    let (jobs, queue) = mpsc::channel(QUEUE);
    let (publish, published) = watch::channel(Arc::default());
    let audit = Arc::new(Audit::open(path).context("cannot open the records of what was refused")?);
    let nothing = Durable { table: Table::default(), ledger: CommitId::ZERO, sequence: Sequence(0) };
    let durable = Arc::new(RwLock::new(nothing));
    let mut landing = Landing {
        path: path.to_owned(),
        repo: repository::open(path)?,
        key,
        validator,
        catalog: Catalog::default(),
        requests: LandedRequests::default(),
        scratch: None,
        ledger: CommitId::ZERO,
        sequence: Sequence(0),
        is_void: false,
        publish,
        durable: durable.clone(),
        audit: audit.clone(),
        upload,
        runtime: Handle::current(),
        landed: metrics.counter("conf_master_landings", "Changes that landed"),
        refused: metrics.counter("conf_master_refusals", "Refs that were refused"),
    };
    landing.load()?;
    let thread = thread::Builder::new().name("landing".to_owned()).spawn(move || landing.run(queue))?;
    Ok((Lander { jobs, published, durable, audit }, thread))
}

struct Landing {
    path: PathBuf,
    repo: Repository,
    key: SigningKey,
    validator: Arc<Validator>,
    catalog: Catalog,
    requests: LandedRequests,
    /// Where updates are drafted.
    scratch: Option<Scratch>,
    ledger: CommitId,
    sequence: Sequence,
    /// What is in memory is not what is on disk; to be read again before anything lands.
    is_void: bool,
    publish: watch::Sender<Arc<Published>>,
    durable: Arc<RwLock<Durable>>,
    audit: Arc<Audit>,
    upload: Arc<UploadPack>,
    runtime: Handle,
    landed: Counter,
    refused: Counter,
}

impl Landing {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut checked = Instant::now();
        while let Some(first) = queue.blocking_recv() {
            let (mut batch, mut refused) = (Vec::new(), Vec::new());
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Check { push, quarantine, reply } => {
                        let (began, outcome) = (Instant::now(), self.check(&push, quarantine.as_deref()));
                        // What is refused whole comes no further than this.
                        if outcome.refusals.iter().all(Option::is_some) {
                            self.record(&push, &outcome, began);
                            refused.push((push, outcome, reply));
                        } else {
                            let _ = reply.send(outcome);
                        }
                    }
                    Job::Land { push, reply } => batch.push((push, reply)),
                    Job::Exclusive { work, reply } => {
                        let landed = self.land(std::mem::take(&mut batch));
                        self.answer(landed);
                        work();
                        let _ = reply.send(());
                    }
                }
                if batch.len() + refused.len() < BATCH {
                    next = queue.try_recv().ok();
                }
            }
            let landed = self.land(batch);
            self.answer(refused.into_iter().chain(landed));
            if checked.elapsed() > REPAIR_EVERY {
                self.repair();
                checked = Instant::now();
            }
        }
    }

    /// Reads everything anew from the ledger, and puts the refs to it.
    fn load(&mut self) -> anyhow::Result<()> {
        (self.repo, self.scratch) = (repository::open(&self.path)?, None);
        self.ledger = self.repo.refname_to_id(&RefName::Ledger.to_string())?.into();
        let State { table, requests, sequence } = ledger::replay(&self.repo, self.ledger)?;
        for line in repository::repair(&self.repo, &table, self.ledger)? {
            warn!("{line}");
        }
        repository::sync_objects(&self.repo)?;
        let (catalog, faults) = Catalog::load(&self.repo, table);
        for fault in faults {
            error!(%fault, "a datacenter cannot be resolved; it keeps its last snapshot");
        }
        (self.catalog, self.requests, self.sequence, self.is_void) = (catalog, requests, sequence, false);
        info!(sequence = sequence.0, datacenters = self.catalog.datacenters.len(), "the ledger is read");
        let durable = Durable { table: self.catalog.table.clone(), ledger: self.ledger, sequence };
        *self.durable.write().unwrap_or_else(PoisonError::into_inner) = durable;
        self.tell();
        Ok(())
    }

    fn repair(&mut self) {
        match repository::repair(&self.repo, &self.catalog.table, self.ledger) {
            Ok(lines) => lines.iter().for_each(|line| warn!("{line}")),
            Err(error) => error!(error = format!("{error:#}"), "the refs cannot be compared with the ledger"),
        }
    }

    fn check(&self, push: &Push, quarantine: Option<&Path>) -> Outcome {
        match self.judge_in_quarantine(push, quarantine) {
            Ok((refusals, plan)) => Outcome { refusals, plan, ..Outcome::default() },
            Err(error) => failed(push, &error),
        }
    }

    fn judge_in_quarantine(
        &self,
        push: &Push,
        quarantine: Option<&Path>,
    ) -> anyhow::Result<(Vec<Option<Refusal>>, Option<Plan>)> {
        let repo = Repository::open_bare(&self.path)?;
        if let Some(folder) = quarantine {
            let folder = folder.canonicalize()?;
            let inside = folder.starts_with(self.path.canonicalize()?.join("objects"));
            anyhow::ensure!(inside, "the quarantine {} is not in this repository", folder.display());
            repo.odb()?.add_disk_alternate(&folder.to_string_lossy())?;
        }
        let (validator, catalog, wishes) = (&self.validator, &self.catalog, &push.wishes);
        let mut judgement = judge(catalog, &repo, validator, wishes, push.atomic, push.options);
        let mut plan = None;
        if push.options.dry_run {
            plan = Some(Plan::of(validator, &repo, catalog, wishes, &judgement)?);
            stage::only_tried(&mut judgement.refusals);
        }
        Ok((judgement.refusals, plan))
    }

    fn land(&mut self, batch: Vec<(Push, oneshot::Sender<Outcome>)>) -> Vec<Decided> {
        if batch.is_empty() {
            return Vec::new();
        }
        let began = Instant::now();
        let answers = self.land_all(batch.iter().map(|(push, _)| push)).unwrap_or_else(|error| {
            let refusals = batch.iter().map(|(push, _)| failed(push, &error));
            refusals.collect()
        });
        let decided = batch.into_iter().zip(answers).map(|((push, reply), outcome)| {
            self.record(&push, &outcome, began);
            (push, outcome, reply)
        });
        decided.collect()
    }

    /// Answers everyone, once what was refused is on record.
    fn answer(&self, decided: impl IntoIterator<Item = Decided>) {
        let decided: Vec<Decided> = decided.into_iter().collect();
        let records: Vec<Record> = decided.iter().filter_map(|(push, outcome, _)| Record::of(push, outcome)).collect();
        if let Err(error) = self.audit.append(&records) {
            // Nothing of them landed, so there is nothing to take back.
            error!(%error, "{} refused requests could not be recorded", records.len());
        }
        for (_, outcome, reply) in decided {
            let _ = reply.send(outcome);
        }
    }

    /// Lands pushes with one durable write. An error means that none of them landed.
    fn land_all<'a>(&mut self, pushes: impl Iterator<Item = &'a Push>) -> anyhow::Result<Vec<Outcome>> {
        if self.is_void {
            self.load().context("the ledger cannot be read")?;
        }
        let before = self.ledger;
        let (mut answers, mut moves) = (Vec::new(), Vec::new());
        self.is_void = true;
        let staged = pushes.into_iter().try_for_each(|push| {
            let (outcome, its_moves) = self.stage(push)?;
            answers.push(outcome);
            moves.extend(its_moves);
            anyhow::Ok(())
        });
        let tip = self.ledger;
        let written = staged.and_then(|()| if tip == before { Ok(()) } else { self.commit(before, &moves) });
        if let Err(error) = written {
            // What was staged in memory is void: the ledger on disk is what counts, and it may have moved after all.
            let read = self.load();
            if read.is_err() || self.ledger != tip || tip == before {
                return Err(error);
            }
            warn!(error = format!("{error:#}"), "a change landed, though not without trouble");
        }
        self.is_void = false;
        self.tell();
        Ok(answers)
    }

    /// Makes what was staged durable and visible. Until the ledger moved nothing happened; after that it did.
    fn commit(&mut self, before: CommitId, moves: &[Move]) -> anyhow::Result<()> {
        repository::move_ledger(&self.repo, Some(before), self.ledger)?;
        {
            let mut durable = self.durable.write().unwrap_or_else(PoisonError::into_inner);
            moves.iter().for_each(|one| durable.table.set(one.name.clone(), one.new));
            (durable.ledger, durable.sequence) = (self.ledger, self.sequence);
        }
        // A burst moves a datacenter's snapshot many times; its ref is written once.
        let last: BTreeMap<&RefName, Option<Target>> = moves.iter().map(|one| (&one.name, one.new)).collect();
        let failed = last.into_iter().find_map(|(name, new)| repository::set_ref(&self.repo, name, new).err());
        if let Some(cause) = failed {
            // The change is accepted: the refs follow the ledger, now or at the next repair.
            error!(error = cause.message(), "a ref could not be moved; it is put right from the ledger");
            self.repair();
        }
        // Of several snapshots of one datacenter only the last is told of, and from the one before it nobody comes.
        let mut steps: BTreeMap<&RefName, Option<&Move>> = BTreeMap::new();
        for one in moves.iter().filter(|one| matches!(one.name, RefName::Snapshot(_))) {
            steps.entry(&one.name).and_modify(|step| *step = None).or_insert(Some(one));
        }
        for (have, want) in steps.into_values().flatten().filter_map(|one| Some((one.old, one.new?.commit))) {
            self.foretell(have, want);
        }
        Ok(())
    }

    /// Hands over the answer to the step that every conf-slave is about to make, so that no `upload-pack` need find it.
    fn foretell(&self, have: CommitId, want: CommitId) {
        match git::thin_answer(&self.repo, want) {
            Ok(Some(answer)) => {
                let step = Step { have: Some(have), want, depth: Depth::Full };
                self.runtime.block_on(self.upload.prime(step.request(), answer));
            }
            Ok(None) => {}
            Err(error) => warn!(error = error.message(), "a step is left to git upload-pack"),
        }
    }

    fn record(&self, push: &Push, outcome: &Outcome, began: Instant) {
        let nothing_due = outcome.sequence.is_none() && outcome.refusals.iter().all(Option::is_none);
        if nothing_due || matches!(outcome.decision, Some(Decision::Landed { again: true, .. })) {
            return;
        }
        let refused = outcome.refusals.iter().flatten().count();
        self.refused.inc_by(refused as u64);
        let took_ms = began.elapsed().as_millis();
        let (by, through, request) = (push.by.as_deref().unwrap_or("not proven"), &push.through, &push.request);
        if let Some(sequence) = outcome.sequence {
            self.landed.inc();
            info!(
                sequence = sequence.0,
                refused,
                by,
                through,
                request,
                took_ms,
                "landed: {}",
                outcome.notes.join("; ")
            );
        } else {
            let reason = outcome.refusals.iter().flatten().next().map(|one| one.reason.as_str()).unwrap_or_default();
            info!(refused, by, through, request, took_ms, "refused: {reason}");
        }
    }

    fn tell(&self) {
        let snapshots = self.catalog.datacenters.iter();
        let datacenters = snapshots.filter_map(|(name, one)| Some((name.clone(), one.snapshot.clone()?)));
        let published = Published { central: self.sequence, datacenters: datacenters.collect() };
        self.publish.send_replace(Arc::new(published));
    }
}

fn failed(push: &Push, cause: &anyhow::Error) -> Outcome {
    error!(error = format!("{cause:#}"), request = push.request, "a push could not be judged or written");
    let reason = format!("conf-master could not write it, nothing landed: {cause:#}");
    Outcome::refused(push.wishes.len(), &Refusal::new(Kind::Failed, reason))
}

/// One line without control characters, of at most 200: what may stand in a trailer or a log.
pub fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(200).collect();
    let line = line.trim();
    if line.is_empty() { "unknown".to_owned() } else { line.to_owned() }
}
