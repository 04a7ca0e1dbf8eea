//! The staging area: judges one change against what was landed and staged before it, and writes its
//! objects. Moves no ref.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use conf_core::access::{AccessTable, Unproven};
use conf_core::api::KeyStatement;
use conf_core::daemon::chain;
use conf_core::git::{NewObjects, ObjectStore as _};
use conf_core::sign::SigningKey;
use conf_core::snapshot::SharedTrees;
use git2::Repository;
use libconf::name::{CommitId, ObjectId, RefName, Sequence};
use tracing::{error, warn};

use crate::access::AccessRequest;
use crate::catalog::Catalog;
use crate::fault::{Refusal, RefusalKind};
use crate::judge::{Authority, Effort, Judge, Judgement, Need, Open, RefUpdate, Rights};
use crate::landing::checking::{Checker, Version};
use crate::landing::push::{Anew, Leader, Outcome, Push, PushContent};
use crate::landing::update::draft::{self, Authorship};
use crate::landing::update::request::{DraftError, Update, UpdateOutcome, another_section};
use crate::secrets::SecretRequest;
use crate::store::{
    self, Durable, LandedRequests, LayerChanges, LedgerEntry, Move, RefChanges, RefFiles, RefTarget, Tables, Wanted,
    damage, journal, ledger, signer,
};
use crate::text::{now, one_line};

/// The outcome of a staged change, and the moves of its refs.
pub(crate) type Staged = (Outcome, Vec<Move>);

/// Everything that was landed or staged, and the repository into which objects are written.
pub(crate) struct Staging {
    /// Where the repository is.
    pub(crate) path: PathBuf,
    /// The repository.
    pub(crate) repo: Repository,
    /// Signs snapshots.
    pub(crate) key: Arc<SigningKey>,
    /// The statements about keys after the last staged change.
    pub(crate) keys: Arc<Vec<KeyStatement>>,
    /// Why the change that is staged gives every datacenter a snapshot.
    pub(crate) anew: Option<Anew>,
    /// The key that signs is not in its place on the disk yet.
    pub(crate) has_next_key: bool,
    /// Judges, and tells what a change does.
    pub(crate) judge: Arc<Judge>,
    /// What is judged beside the landing thread.
    pub(crate) checker: Arc<Checker>,
    /// The state after the last staged change.
    pub(crate) catalog: Arc<Catalog>,
    /// Who may do what, after it.
    pub(crate) rights: Rights,
    /// The requests that landed under a key of their own.
    pub(crate) requests: LandedRequests,
    /// The tokens after the last staged change.
    pub(crate) access: Arc<AccessTable>,
    /// The last change of each layer.
    pub(crate) layers: LayerChanges,
    /// Where updates are drafted and everything is staged.
    pub(crate) objects: NewObjects,
    /// The newest entry of the ledger.
    pub(crate) ledger: CommitId,
    /// Whom this conf-master follows, where it is a standby and lands nothing.
    pub(crate) leader: Option<Leader>,
    /// The number of the newest change.
    pub(crate) sequence: Sequence,
    /// The packs that came since the repository was opened: each push is one.
    staged: u32,
    /// The files of refs.
    pub(crate) ref_files: RefFiles,
}

/// The most pushes with one opening of the repository, besides those of one batch. An open
/// repository keeps every pack open that it has met, and each push is a pack.
const MOST_STAGED: u32 = 64;

impl Staging {
    /// Opens the repository, and reads everything from the ledger.
    pub(crate) fn open(
        path: &Path,
        judge: Arc<Judge>,
        checker: Arc<Checker>,
        (rights, leader): (Rights, Option<Leader>),
    ) -> anyhow::Result<Self> {
        let mut staging = Staging {
            path: path.to_owned(),
            repo: store::open(path)?,
            key: Arc::new(SigningKey::load(&store::key_path(path))?),
            keys: Arc::default(),
            anew: None,
            has_next_key: false,
            judge,
            checker,
            catalog: Arc::default(),
            rights,
            requests: LandedRequests::default(),
            access: Arc::default(),
            layers: LayerChanges::default(),
            objects: NewObjects::over(path)?,
            ledger: CommitId::ZERO,
            leader,
            sequence: Sequence(0),
            staged: 0,
            ref_files: RefFiles::default(),
        };
        // The ref may have fallen back to an earlier value while nobody looked.
        let landed = journal::newest(path).unwrap_or_else(|error| {
            warn!(%error, "the ledger's journal cannot be read");
            None
        });
        if let Err(cause) = staging.reload(landed) {
            let is_damage = damage::is_damage(&cause);
            let damaged =
                || format!("the repository is damaged, and nothing was changed in it. {}", damage::advice(path));
            return if is_damage { Err(cause).with_context(damaged) } else { Err(cause) };
        }
        let key_path = store::key_path(path);
        signer::check(&staging.repo, &staging.catalog.table, &staging.keys, (&staging.key, &key_path))?;
        if let Err(error) = journal::catch_up(&staging.repo, staging.ledger) {
            warn!(error = chain(&*error), "the ledger's journal cannot be kept");
        }
        Ok(staging)
    }

    /// Returns the state for answers. Nothing may be staged.
    pub(crate) fn durable(&self) -> Durable {
        let (table, layers) = (self.catalog.table.clone(), self.layers.clone());
        Durable { table, ledger: self.ledger, sequence: self.sequence, layers }
    }

    /// Opens the repository anew when it has met many packs.
    pub(crate) fn freshen(&mut self) -> anyhow::Result<()> {
        if self.staged >= MOST_STAGED || self.objects.is_full() { self.open_again() } else { Ok(()) }
    }

    /// Opens the repository anew: lets go of the packs that were met, and of those that are
    /// removed.
    pub(crate) fn open_again(&mut self) -> anyhow::Result<()> {
        (self.repo, self.objects, self.staged) = (store::open(&self.path)?, NewObjects::over(&self.path)?, 0);
        Ok(())
    }

    /// Sets the refs to what the ledger says. Nothing may be staged.
    pub(crate) fn repair(&mut self) {
        let Staging { repo, ref_files, .. } = self;
        match ref_files
            .repair(repo, Wanted { table: &self.catalog.table, ledger: self.ledger, sequence: self.sequence })
        {
            Ok(lines) => lines.iter().for_each(|line| warn!("{line}")),
            Err(error) => error!(error = chain(&*error), "the refs cannot be compared with the ledger"),
        }
    }

    /// Moves the refs of a change that has landed. Nothing else may be staged.
    pub(crate) fn move_refs(&mut self, moved: &BTreeMap<&RefName, Option<RefTarget>>) -> anyhow::Result<()> {
        let wanted = Wanted { table: &self.catalog.table, ledger: self.ledger, sequence: self.sequence };
        self.ref_files.set(&self.repo, wanted, moved)
    }

    /// Packs the refs when many have files of their own. Nothing may be staged.
    pub(crate) fn keep_packed(&mut self) {
        let wanted = Wanted { table: &self.catalog.table, ledger: self.ledger, sequence: self.sequence };
        self.ref_files.keep_packed(&self.path, wanted);
    }

    /// Returns the newest version of the catalog. Nothing may be staged.
    pub(crate) fn version(&self) -> Version {
        Version { ledger: self.ledger, catalog: self.catalog.clone(), rights: self.rights.clone() }
    }

    /// Judges one push against what is staged so far, and writes its objects.
    pub(crate) fn stage(&mut self, push: &Push) -> anyhow::Result<Staged> {
        let policy = self.rights.version();
        if let Some(why) = self.unwelcome(push) {
            return Ok((Outcome { policy, ..Outcome::refused(push.updates.len(), &why) }, Vec::new()));
        }
        let (outcome, moves) = self.stage_content(push)?;
        Ok((Outcome { policy, ..outcome }, moves))
    }

    /// Refuses everything where another server lands, and a push whose token has ended since it
    /// came.
    fn unwelcome(&self, push: &Push) -> Option<Refusal> {
        if let Some(leader) = self.leader.as_ref().filter(|_| !push.is_promotion()) {
            let words = format!("this conf-master is a standby, and lands nothing; ask {leader}, which it follows");
            return Some(Refusal::new(RefusalKind::Busy, words));
        }
        let id = push.pusher.token().filter(|_| !self.rights.is_open)?;
        let fault = self.access.by_id(&id).map_or(Some(Unproven::Unknown), |entry| entry.fault(now()))?;
        Some(Refusal::new(RefusalKind::Denied, fault.to_string()))
    }

    fn stage_content(&mut self, push: &Push) -> anyhow::Result<Staged> {
        if self.objects.is_full() {
            self.objects.write()?;
            self.objects = NewObjects::over(&self.path)?;
        }
        let someone = || push.pusher.by().unwrap_or_else(|| format!("someone, {}", push.pusher.through));
        match &push.content {
            PushContent::Commits => {
                self.staged += 1;
                self.objects.refresh().context("the objects of a push cannot be looked up")?;
                // Other threads do not see what is staged in memory.
                let open = || Repository::open_bare(&self.path);
                let open = self.objects.is_written().then_some(&open as Open<'_>);
                let known = self.checker.take(push, self.ledger);
                let judge = || Some(self.judged((self.objects.repo(), open), push, &push.updates, push.atomic)?.1);
                let Some(judgement) = known.or_else(judge) else { return Ok((Outcome::put_off(push), Vec::new())) };
                let claimed = || self.claimed(&judgement.changes, &push.pusher.through);
                let by = push.pusher.by().unwrap_or_else(claimed);
                self.stage_judged(push, judgement, by)
            }
            PushContent::Sections(update) => self.stage_update(push, update, someone()),
            PushContent::Secrets(request) => self.stage_request(push, request, someone()),
            PushContent::Access(request) => self.stage_access(push, request, someone()),
            PushContent::Keys(request) => self.stage_keys(push, request, someone()),
        }
    }

    /// Judges a push while others wait; `None` when that takes too long. Returns the judge, too.
    fn judged(
        &self,
        repo: (&Repository, Option<Open<'_>>),
        push: &Push,
        updates: &[RefUpdate],
        atomic: bool,
    ) -> Option<(Judge, Judgement)> {
        let effort = Arc::new(Effort::while_others_wait(push.pusher.who));
        let judge = self.judge.with(&effort, self.authority(push));
        let judgement = judge.judge(repo, &self.catalog, updates, atomic, &push.options);
        (!effort.is_over()).then_some((judge, judgement))
    }

    /// Who pushes, and the rights that hold now.
    fn authority(&self, push: &Push) -> Authority {
        Authority::new(&push.pusher.principal, &self.rights)
    }

    /// Stages the actions of a request about secrets.
    fn stage_request(&mut self, push: &Push, request: &SecretRequest, by: String) -> anyhow::Result<Staged> {
        let need = Need::of_secrets(&self.catalog, request.id(), request.datacenter());
        if let Some((_, why)) = self.authority(push).denied(&[need]).pop_first() {
            return Ok((Outcome::refused(push.updates.len(), &why), Vec::new()));
        }
        let secrets = match request.actions(self.objects.repo(), &self.catalog, &self.judge.secrets) {
            Ok(secrets) => secrets,
            Err(why) => return Ok((Outcome::refused(push.updates.len(), &why), Vec::new())),
        };
        let judgement = Judgement { refusals: vec![None; push.updates.len()], secrets, ..Judgement::default() };
        self.stage_judged(push, judgement, by)
    }

    /// Stages a request about tokens.
    fn stage_access(&mut self, push: &Push, request: &AccessRequest, by: String) -> anyhow::Result<Staged> {
        let (authority, time) = (self.authority(push), now());
        let changed = authority.enter(&RefName::Access, false).and_then(|()| {
            let changed = request.apply(&self.access, &by, time)?;
            authority.keep_an_administrator(&changed.0, time).map(|()| changed)
        });
        let (table, words) = match changed {
            Ok(changed) => changed,
            Err(why) => return Ok((Outcome::refused(push.updates.len(), &why), Vec::new())),
        };
        let parent = self.catalog.table.target(&RefName::Access).map(|tip| tip.commit);
        let target = store::access::write(&self.objects, parent, (&self.access, &table), time)?;
        let changes = RefChanges::from([(RefName::Access, Some(target))]);
        let judgement = Judgement { refusals: vec![None; push.updates.len()], changes, ..Judgement::default() };
        let (outcome, moves) = self.stage_judged(push, judgement, by)?;
        self.access = Arc::new(table);
        self.rights.tokens = self.access.clone();
        Ok((Outcome { notes: vec![words], ..outcome }, moves))
    }

    /// Makes the commits of an update from the newest state, and stages them like a push. Objects
    /// of an update that does not land are not kept.
    fn stage_update(&mut self, push: &Push, update: &Update, by: String) -> anyhow::Result<Staged> {
        let references = update.references();
        let authority = self.authority(push);
        let entered: Vec<_> = references.iter().map(|one| authority.enter(one, false).err()).collect();
        if entered.iter().any(Option::is_some) {
            let refusals = entered.into_iter().map(|one| one.or_else(|| Some(another_section()))).collect();
            return Ok((Outcome { refusals, ..Outcome::default() }, Vec::new()));
        }
        if let Some(landed) = update.key.as_ref().and_then(|key| self.requests.find(key)) {
            return Ok((Outcome::landed_before(update, landed), Vec::new()));
        }
        let authorship = Authorship { by: &by, request: &push.request, time: now() };
        let drafted = match draft::draft((&self.catalog.table, &self.layers), &self.objects, update, authorship) {
            Ok(drafted) => drafted,
            Err(DraftError::Repository(error)) => return Err(error.into()),
            Err(DraftError::Conflict(conflict)) => {
                let (refusals, update) = (conflict.refusals(&references), Some(UpdateOutcome::Conflict(conflict)));
                return Ok((Outcome { refusals, update, ..Outcome::default() }, Vec::new()));
            }
            Err(DraftError::Invalid(mut faults)) => {
                let refusal = |one| Some(faults.remove(one).map_or_else(another_section, Refusal::of));
                let refusals = references.iter().map(refusal).collect();
                return Ok((Outcome { refusals, ..Outcome::default() }, Vec::new()));
            }
        };
        let judged = self.judged((self.objects.repo(), None), push, &drafted.updates, true);
        let Some((judge, judgement)) = judged else { return Ok((Outcome::put_off(push), Vec::new())) };
        let plan = || judge.plan(self.objects.repo(), &self.catalog, &drafted.updates, &judgement);
        // What somebody may not do tells nothing.
        let plan = (push.options.dry_run && !judgement.is_denied()).then(plan).transpose()?;
        if !judgement.changes.is_empty() && !push.options.dry_run {
            drafted.objects.iter().for_each(|id| self.objects.keep(*id));
        }
        let (mut outcome, moves) = self.stage_judged(push, judgement, by)?;
        outcome.plan = plan;
        if outcome.sequence.is_some() || outcome.plan.is_some() {
            outcome.notes.splice(0..0, drafted.notes);
        }
        if outcome.sequence.is_some() {
            let landed = moves.iter().filter_map(|one| one.landed(&self.catalog.table));
            outcome.update = Some(UpdateOutcome::Landed { refs: landed.collect(), again: false });
            self.checker.landed(&drafted.objects);
        }
        Ok((outcome, moves))
    }

    /// Writes the objects of everything that may land.
    pub(crate) fn stage_judged(&mut self, push: &Push, mut judgement: Judgement, by: String) -> anyhow::Result<Staged> {
        if push.options.dry_run {
            judgement.refuse_dry_run();
            judgement.changes.clear();
            judgement.secrets.clear();
        }
        if judgement.changes.is_empty() && judgement.secrets.is_empty() {
            return Ok((Outcome { refusals: judgement.refusals, ..Outcome::default() }, Vec::new()));
        }
        let ((continues, sequence), time) = (self.next_change(), now());
        let mut moves: Vec<Move> = judgement.changes.into_iter().map(|(name, new)| self.movement(name, new)).collect();
        let (deltas, requested) = (&judgement.deltas, judgement.secrets);
        let secrets = match self.judge.secrets.stage(&self.objects, &self.catalog, deltas, requested, (sequence, time))
        {
            Ok(secrets) => secrets,
            // Nothing is staged yet: this change is refused until that is repaired, and the others
            // go on.
            Err(cause) => {
                error!(error = chain(&*cause), request = push.request, "secrets cannot be sealed");
                let why = Refusal::new(
                    RefusalKind::Failed,
                    format!("the secrets that it needs cannot be sealed: {}", chain(&*cause)),
                );
                let refusals = judgement.refusals.into_iter().map(|refusal| refusal.or_else(|| Some(why.clone())));
                return Ok((Outcome { refusals: refusals.collect(), ..Outcome::default() }, Vec::new()));
            }
        };
        for (id, (tip, tree)) in &secrets.tips {
            moves.push(self.movement(RefName::Secrets(id.clone()), Some(*tip)));
            Arc::make_mut(&mut self.catalog).secrets.insert(id.clone(), *tree);
        }
        let mut notes = std::mem::take(&mut judgement.notes);
        let told = notes.len();
        notes.extend(secrets.notes.iter().cloned());
        let deltas = self.and_signed_anew(secrets.with_siblings(judgement.deltas, &self.catalog));
        let mut shared = SharedTrees::default();
        for (name, delta) in deltas {
            let Some(delta) = delta else {
                Arc::make_mut(&mut self.catalog).remove(&name);
                notes.push(format!("{name} is no longer composed; its hosts keep its last snapshot"));
                continue;
            };
            let Some((snapshot, note)) = self.compose(&name, delta, (&secrets, &mut shared), (sequence, time), &by)?
            else {
                continue;
            };
            let target = RefTarget { value: snapshot.commit, commit: snapshot.commit };
            moves.push(self.movement(RefName::Snapshot(name.clone()), Some(target)));
            notes.push(note);
            Arc::make_mut(&mut self.catalog).set_snapshot(&name, snapshot);
        }
        if moves.iter().any(|one| one.name == RefName::Policy) {
            notes.push(format!("#{sequence} landed; from now on this policy holds"));
        }
        if notes.len() == told {
            notes.push(format!("#{sequence} landed; no datacenter runs it"));
        }
        let entry = LedgerEntry {
            sequence,
            moves: moves.clone(),
            by,
            through: push.pusher.through.clone(),
            request: push.request.clone(),
            proven: Some(push.pusher.proven()),
            token: push.pusher.token(),
            policy: self.rights.version(),
            key: push.content.key().cloned(),
            continues,
            time,
        };
        entry.note_layers(self.objects.repo(), &self.catalog.table, &mut self.layers);
        entry.apply(&mut Arc::make_mut(&mut self.catalog).table, &mut self.requests);
        if moves.iter().any(|one| one.name == RefName::Policy) {
            self.rights.follow(self.objects.repo(), &self.catalog.table);
        }
        let tables = Tables { table: &self.catalog.table, requests: &self.requests, layers: &self.layers };
        self.ledger = ledger::write(&self.objects, Some(self.ledger), &entry, tables)?;
        self.sequence = sequence;
        Ok((Outcome { refusals: judgement.refusals, notes, sequence: Some(sequence), ..Outcome::default() }, moves))
    }

    /// Returns the committer of the pushed commits, for a pusher who did not prove a name.
    fn claimed(&self, changes: &RefChanges, through: &str) -> String {
        let tip = changes.values().flatten().next().and_then(|tip| self.repo.find_commit(tip.commit.into()).ok());
        let name = tip.and_then(|tip| tip.committer().name().ok().map(one_line));
        name.unwrap_or_else(|| format!("someone, {through}"))
    }

    fn movement(&self, name: RefName, new: Option<RefTarget>) -> Move {
        let old = self.catalog.table.target(&name).map_or(ObjectId::ZERO, |current| current.value);
        Move { name, old, new }
    }
}

#[cfg(test)]
mod tests {
    use conf_core::access::Principal;
    use conf_core::audit::AuditLog;
    use conf_core::daemon::Metrics;
    use conf_core::http::Who;

    use super::*;
    use crate::judge::{ChangeLimits, ProposalOptions, ReportingHosts};
    use crate::landing::audit::Audit;
    use crate::landing::push::Pusher;
    use crate::landing::told::Told;
    use crate::secrets::SecretStore;

    #[test]
    fn each_push_of_a_batch_counts_until_the_repository_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("central.git");
        store::init(&path).unwrap();
        let judge = Judge::new(ChangeLimits::default(), SecretStore::default(), ReportingHosts::default());
        let judge = Arc::new(judge);
        let (audit, told) =
            (Arc::new(Audit::open(&path).unwrap()), Told::new(&Metrics::new("test", "0"), AuditLog::default()));
        let checker = Arc::new(Checker::new(&path, judge.clone(), store::Landed::new(&path), audit, told));
        let mut staging = Staging::open(&path, judge, checker, (Rights::open(), None)).unwrap();
        let pusher = Pusher { principal: Principal::Anybody, through: "test".to_owned(), who: Who::User(1) };
        let push = Push::commits(Vec::new(), false, &pusher, ProposalOptions::default());
        staging.freshen().unwrap();
        for count in 1..=MOST_STAGED {
            staging.stage(&push).unwrap();
            assert_eq!(staging.staged, count);
        }
        staging.freshen().unwrap();
        assert_eq!(staging.staged, 0);
    }
}
