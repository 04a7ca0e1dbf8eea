//! Landing: the only way in which anything changes. One thread lands pushes and everything else,
//! one at a time.
//!
//! Read in this order: `push` is what shall land and its outcome, `update` drafts sections,
//! `staging` judges and writes objects, `writer` makes them durable and visible, `audit`
//! records refusals.

pub(crate) mod audit;
pub(crate) mod push;
mod staging;
#[cfg(test)]
mod tests;
pub(crate) mod update;
mod writer;

pub(crate) use crate::landing::audit::{Record, RefusedRef};
pub(crate) use crate::landing::push::{Outcome, Published, Push, Pusher};
pub(crate) use crate::landing::update::notation::Draft;
pub(crate) use crate::landing::update::request::{Conflict, Expected, IfMatch, SectionChange, Update, UpdateOutcome};
pub(crate) use crate::landing::update::section::{BRANCH, SectionFile, SectionName};
pub(crate) use crate::landing::writer::LANDING;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use conf_core::{daemon::Metrics, git_http::UploadPack, http::Health};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

use crate::fault::{Refusal, RefusalKind};
use crate::judge::Judge;
use crate::landing::audit::Audit;
use crate::landing::staging::Staging;
use crate::landing::writer::{Job, Landing};
use crate::store::Durable;

/// The most pushes that wait; more get "busy, push again".
const QUEUE: usize = 256;

/// The way to the landing thread.
#[derive(Clone, Debug)]
pub(crate) struct Lander {
    jobs: mpsc::Sender<Job>,
    /// The newest state, now and from now on.
    pub(crate) published: watch::Receiver<Arc<Published>>,
    durable: Arc<RwLock<Durable>>,
    /// The records of refusals.
    pub(crate) audit: Arc<Audit>,
}

impl Lander {
    /// Judges a push whose objects are still in quarantine; changes nothing. Cancel: the judgement
    /// is dropped.
    pub(crate) async fn check(&self, push: Push, quarantine: Option<PathBuf>) -> Outcome {
        self.ask(push.updates.len(), |reply| Job::Check { push, quarantine, reply }).await
    }

    /// Lands a push. Cancel: it may land all the same; the ledger holds the outcome.
    pub(crate) async fn land(&self, push: Push) -> Outcome {
        self.ask(push.updates.len(), |reply| Job::Land { push, reply }).await
    }

    /// Refuses every ref of a push without judging it, and records that.
    pub(crate) async fn refuse(&self, push: Push, why: Refusal) -> Outcome {
        let outcome = Outcome::refused(push.updates.len(), &why);
        info!(through = push.pusher.through, request = push.request, "refused: {}", why.reason);
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

    /// Returns the durable state. Hold it for a moment only, since landings wait for it.
    pub(crate) fn durable(&self) -> RwLockReadGuard<'_, Durable> {
        self.durable.read()
    }

    async fn ask(&self, refs: usize, job: impl FnOnce(oneshot::Sender<Outcome>) -> Job) -> Outcome {
        let refused = |reason: &str| Outcome::refused(refs, &Refusal::new(RefusalKind::Busy, reason));
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(job(reply)) {
            Ok(()) => answer.await.unwrap_or_else(|_| refused("conf-master is stopping; push again in a moment")),
            Err(_) => refused("conf-master is busy or stopping; push again in a moment"),
        }
    }
}

/// Opens the repository, repairs what a crash left, and starts the landing thread.
///
/// The thread ends, after the current step, when every [`Lander`] is gone. `upload` is handed the
/// answer to the fetch that each landing causes. Must be called inside the runtime.
pub(crate) fn start(
    path: &Path,
    judge: Arc<Judge>,
    upload: Arc<UploadPack>,
    metrics: &Metrics,
    health: Health,
) -> anyhow::Result<(Lander, thread::JoinHandle<()>)> {
    let (jobs, queue) = mpsc::channel(QUEUE);
    let (publish, published) = watch::channel(Arc::default());
    let audit = Arc::new(Audit::open(path).context("cannot open the records of what was refused")?);
    let staging = Staging::open(path, judge)?;
    let durable = Arc::new(RwLock::new(staging.durable()));
    let landing = Landing {
        staging,
        is_void: false,
        publish,
        durable: durable.clone(),
        audit: audit.clone(),
        upload,
        runtime: Handle::current(),
        health,
        landed: metrics.counter("conf_master_landings", "Changes that landed"),
        refused: metrics.counter("conf_master_refusals", "Refs that were refused"),
    };
    landing.announce();
    let thread = thread::Builder::new().name("landing".to_owned()).spawn(move || landing.run(queue))?;
    Ok((Lander { jobs, published, durable, audit }, thread))
}
