//! Judges pushes whose objects are still in quarantine, beside the landing thread and against one
//! version of the catalog: others land meanwhile, and a push that is refused whole ends here.

use std::collections::VecDeque;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use conf_core::access::Principal;
use conf_core::daemon::chain;
use conf_core::git::{NewObjects, ObjectStore as _};
use conf_core::http::{Crowded, Share, ShareBounds, Shares, Who};
use git2::{Oid, Repository};
use libconf::name::CommitId;
use parking_lot::Mutex;
use tracing::error;

use crate::catalog::Catalog;
use crate::fault::{Refusal, RefusalKind};
use crate::judge::{Authority, Effort, Judge, Judgement, ProposalOptions, RefUpdate, Rights};
use crate::landing::audit::{Audit, Record};
use crate::landing::push::{Outcome, Push, PushContent};
use crate::landing::sizes;
use crate::landing::told::Told;
use crate::landing::update::draft::{self, Authorship};
use crate::landing::update::request::DraftError;
use crate::store::{Landed, LayerChanges};
use crate::text::now;

/// So many pushes of one peer are judged at the same time at least, however few processors there
/// are: a small push does not wait for two large ones. Of all peers it is twice as many.
const FEWEST: usize = 4;
/// Those that wait to be judged.
const WAITING: usize = 256;
/// How long each of them waits: a judgement takes half a minute at most, unless it is large.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many judgements are kept for the landing; each may be large.
const MOST_KEPT: usize = 4;

/// One version of the catalog.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    /// The newest entry of the ledger in it.
    pub(crate) ledger: CommitId,
    /// What each datacenter runs.
    pub(crate) catalog: Arc<Catalog>,
    /// Who may do what.
    pub(crate) rights: Rights,
}

/// Judges pushes beside the landing thread.
#[derive(Debug)]
pub(crate) struct Checker {
    path: PathBuf,
    judge: Arc<Judge>,
    landed: Arc<Landed>,
    audit: Arc<Audit>,
    told: Told,
    /// Lets some judge at the same time.
    judging: Shares,
    kept: KeptJudgements,
}

impl Checker {
    /// Makes a checker for the repository at `path`.
    pub(crate) fn new(path: &Path, judge: Arc<Judge>, landed: Arc<Landed>, audit: Arc<Audit>, told: Told) -> Self {
        let of_one = available_parallelism().map_or(1, NonZero::get).max(FEWEST) as u64;
        let judging = Shares::new(ShareBounds { places: 2 * of_one, of_one, waiting: WAITING });
        Checker { path: path.to_owned(), judge, landed, audit, told, judging, kept: KeptJudgements::default() }
    }

    /// Waits until one more push of a peer may be judged.
    pub(crate) async fn place(&self, who: Who) -> Result<Share, Crowded> {
        self.judging.take(who, 1, PATIENCE).await
    }

    /// The pushes that are judged now.
    #[cfg(test)]
    pub(crate) fn judging_now(&self) -> u64 {
        self.judging.taken_now()
    }

    /// Judges a push; changes nothing. Blocks.
    pub(crate) fn check(&self, push: &Push, quarantine: Option<&Path>, version: &Version) -> Outcome {
        let began = Instant::now();
        let judged = self.judge(push, quarantine, version);
        let outcome = judged.unwrap_or_else(|error| Outcome::failed(push, &error));
        let outcome = Outcome { policy: version.rights.version(), ..outcome };
        // A push that is refused whole ends here.
        if outcome.refusals.iter().all(Option::is_some) {
            self.told.tell(push, &outcome, began);
            if let Err(error) = self.audit.append(&Vec::from_iter(Record::of(push, &outcome))) {
                // It does not land, so nothing has to be undone.
                error!(%error, "a refused push could not be recorded");
            }
        }
        outcome
    }

    fn judge(&self, push: &Push, quarantine: Option<&Path>, version: &Version) -> anyhow::Result<Outcome> {
        let quarantine = quarantine.map(|folder| inside(&self.path, folder)).transpose()?;
        if let Some(why) = quarantine.as_deref().map(sizes::fault).transpose()?.flatten() {
            return Ok(Outcome::refused(push.updates.len(), &why.into()));
        }
        // What is here and did not land was refused: whoever knows its id must not publish it.
        let tips = push.updates.iter().map(|update| update.new).filter(|new| !new.is_zero());
        if let Some(foreign) = self.landed.foreign(quarantine.as_deref(), tips)? {
            return Ok(Outcome::refused(push.updates.len(), &foreign.to_string().into()));
        }
        let open = || {
            let repo = Repository::open_bare(&self.path)?;
            if let Some(folder) = &quarantine {
                repo.odb()?.add_disk_alternate(&folder.to_string_lossy())?;
            }
            Ok(repo)
        };
        let (repo, catalog) = (open()?, &version.catalog);
        let authority = Authority::new(&push.pusher.principal, &version.rights);
        let judge = self.judge.with(&Arc::new(Effort::of_push(push.pusher.who)), authority);
        let mut judgement = judge.judge((&repo, Some(&open)), catalog, &push.updates, push.atomic, &push.options);
        let mut plan = None;
        if push.options.dry_run && !judgement.is_denied() {
            plan = Some(judge.plan(&repo, catalog, &push.updates, &judgement)?);
        }
        if push.options.dry_run {
            judgement.refuse_dry_run();
        }
        let refusals = judgement.refusals.clone();
        if let Some(folder) = quarantine.as_deref().filter(|_| refusals.iter().any(Option::is_none)) {
            self.landed.forget_brought(folder)?;
        }
        self.kept.keep(push, version.ledger, judgement);
        Ok(Outcome { refusals, plan, ..Outcome::default() })
    }

    /// Judges what takes the landing thread too long, so that it finds there what is known already.
    /// Returns whether it takes more than a push may. Blocks.
    pub(crate) fn rehearse(&self, push: &Push, version: &Version, layers: &LayerChanges) -> anyhow::Result<bool> {
        let effort = Arc::new(Effort::of_push(push.pusher.who));
        let authority = Authority::new(&push.pusher.principal, &version.rights);
        let (judge, catalog) = (self.judge.with(&effort, authority), &version.catalog);
        let PushContent::Sections(update) = &push.content else {
            let open = || Repository::open_bare(&self.path);
            let repo = open()?;
            let judgement = judge.judge((&repo, Some(&open)), catalog, &push.updates, push.atomic, &push.options);
            self.kept.keep(push, version.ledger, judgement);
            return Ok(effort.is_over());
        };
        let objects = NewObjects::over(&self.path)?;
        let authorship = Authorship { by: "someone", request: &push.request, time: now() };
        match draft::draft((&catalog.table, layers), &objects, update, authorship) {
            Ok(drafted) => drop(judge.judge((objects.repo(), None), catalog, &drafted.updates, true, &push.options)),
            Err(DraftError::Repository(error)) => return Err(error.into()),
            // The landing thread says so.
            Err(DraftError::Conflict(_) | DraftError::Invalid(_)) => {}
        }
        Ok(effort.is_over())
    }

    /// Returns the judgement of a push that is about to land, if nothing has landed since it was
    /// judged.
    pub(crate) fn take(&self, push: &Push, ledger: CommitId) -> Option<Judgement> {
        self.kept.take(push, ledger)
    }
}

impl Checker {
    /// Notes what an update has just made, whoever brought the same before.
    pub(crate) fn landed<'a>(&self, objects: impl IntoIterator<Item = &'a Oid>) {
        self.landed.forget(objects);
    }

    /// Forgets every judgement: the catalog was read anew.
    pub(crate) fn forget(&self) {
        self.kept.clear();
    }
}

/// Finds the folder of a quarantine, which must be in this repository.
fn inside(repo: &Path, quarantine: &Path) -> anyhow::Result<PathBuf> {
    let folder = quarantine.canonicalize()?;
    let is_inside = folder.starts_with(repo.canonicalize()?.join("objects"));
    anyhow::ensure!(is_inside, "the quarantine {} is not in this repository", folder.display());
    Ok(folder)
}

/// Judgements of pushes that may land, whole or in part, each with the version against which it was
/// made.
#[derive(Debug, Default)]
struct KeptJudgements(Mutex<VecDeque<Kept>>);

#[derive(Debug)]
struct Kept {
    ledger: CommitId,
    /// Whose rights were looked at.
    principal: Principal,
    updates: Vec<RefUpdate>,
    atomic: bool,
    options: ProposalOptions,
    judgement: Judgement,
}

impl KeptJudgements {
    fn keep(&self, push: &Push, ledger: CommitId, judgement: Judgement) {
        if judgement.refusals.iter().all(Option::is_some) {
            return;
        }
        let mut kept = self.0.lock();
        if kept.len() >= MOST_KEPT {
            kept.pop_front();
        }
        let (updates, options) = (push.updates.clone(), push.options.clone());
        let principal = push.pusher.principal.clone();
        kept.push_back(Kept { ledger, principal, updates, atomic: push.atomic, options, judgement });
    }

    fn clear(&self) {
        self.0.lock().clear();
    }

    /// Takes the judgement of a push, and forgets all that were made against other versions.
    fn take(&self, push: &Push, ledger: CommitId) -> Option<Judgement> {
        let mut kept = self.0.lock();
        kept.retain(|one| one.ledger == ledger);
        let is_of = |one: &Kept| {
            one.principal == push.pusher.principal
                && one.updates == push.updates
                && one.atomic == push.atomic
                && one.options == push.options
        };
        let place = kept.iter().position(is_of)?;
        kept.remove(place).map(|one| one.judgement)
    }
}

impl Outcome {
    /// Refuses a push that could not be judged or written.
    pub(crate) fn failed(push: &Push, cause: &anyhow::Error) -> Self {
        error!(error = chain(&**cause), request = push.request, "a push could not be judged or written");
        let reason = format!("conf-master could not write it, nothing landed: {}", chain(&**cause));
        Outcome::refused(push.updates.len(), &Refusal::new(RefusalKind::Failed, reason))
    }
}
