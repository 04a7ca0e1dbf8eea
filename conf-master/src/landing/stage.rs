//! One change, staged: judged against what is and what was staged before it, its objects written. No ref moves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use conf_core::snapshot::{self, Composition, Snapshot};
use libconf::name::{ComponentVersion, DatacenterName, ObjectId, RefName, SecretName, Sequence};
use tracing::error;

use crate::landing::{Landing, Outcome, Push, one_line};
use crate::{
    catalog::Delta,
    fault::refusal::{Kind, Refusal},
    judge::{Judgement, judge, plan::Plan},
    landing::update::{self, Decision, Scratch, Update},
    secrets::{Staged, order::Order},
    store as repository,
    store::{
        idempotency::LandedRequest,
        ledger::{self, Entry, Move},
        refs::Target,
    },
};

impl Landing {
    /// Judges one push against what is staged so far, and writes its objects. No ref moves.
    pub(crate) fn stage(&mut self, push: &Push) -> anyhow::Result<(Outcome, Vec<Move>)> {
        if let Some(update) = &push.update {
            return self.stage_update(push, update);
        }
        if let Some(order) = &push.order {
            return self.stage_order(push, order);
        }
        let judgement = judge(&self.catalog, &self.repo, &self.validator, &push.wishes, push.atomic, push.options);
        let by = push.by.clone().unwrap_or_else(|| self.claimed(&judgement.changes, &push.through));
        self.stage_judged(push, judgement, by)
    }

    /// Stages what is asked for of secrets.
    fn stage_order(&mut self, push: &Push, order: &Order) -> anyhow::Result<(Outcome, Vec<Move>)> {
        let by = push.by.clone().unwrap_or_else(|| format!("someone, {}", push.through));
        let secrets = match self.validator.secrets.asked(&self.repo, &self.catalog, order) {
            Ok(secrets) => secrets,
            Err(why) => return Ok((Outcome::refused(push.wishes.len(), &why), Vec::new())),
        };
        let judgement = Judgement { refusals: vec![None; push.wishes.len()], secrets, ..Judgement::default() };
        self.stage_judged(push, judgement, by)
    }

    /// Makes the commits of an update from what is newest, and stages them like a push. What does not land is not kept.
    fn stage_update(&mut self, push: &Push, update: &Update) -> anyhow::Result<(Outcome, Vec<Move>)> {
        let references = update.references();
        if let Some(landed) = update.key.as_ref().and_then(|key| self.requests.find(key)) {
            return Ok((landed_before(update, landed, references.len()), Vec::new()));
        }
        let by = push.by.clone().unwrap_or_else(|| format!("someone, {}", push.through));
        let scratch = match self.scratch.take().filter(|scratch| !scratch.is_full()) {
            Some(scratch) => scratch,
            None => Scratch::open(&self.path)?,
        };
        let staged = self.stage_drafted(push, update, &scratch, &by, &references);
        self.scratch = Some(scratch);
        staged
    }

    fn stage_drafted(
        &mut self,
        push: &Push,
        update: &Update,
        scratch: &Scratch,
        by: &str,
        references: &[RefName],
    ) -> anyhow::Result<(Outcome, Vec<Move>)> {
        let drafted = update::draft(&self.catalog.table, scratch, update, by, &push.request, repository::now())?;
        let drafted = match drafted {
            Ok(drafted) => drafted,
            Err(not) => {
                let (refusals, decision) = not.refusals(references);
                return Ok((Outcome { refusals, decision, ..Outcome::default() }, Vec::new()));
            }
        };
        let judgement = judge(&self.catalog, scratch.repo(), &self.validator, &drafted.wishes, true, push.options);
        let plan = push
            .options
            .dry_run
            .then(|| Plan::of(&self.validator, scratch.repo(), &self.catalog, &drafted.wishes, &judgement));
        if !judgement.changes.is_empty() && !push.options.dry_run {
            scratch.keep(&drafted, &self.repo)?;
        }
        let (mut outcome, moves) = self.stage_judged(push, judgement, by.to_owned())?;
        outcome.plan = plan.transpose()?;
        if outcome.sequence.is_some() || outcome.plan.is_some() {
            outcome.notes.splice(0..0, drafted.notes);
        }
        if outcome.sequence.is_some() {
            let landed = moves.iter().filter_map(|one| one.landed(&self.catalog.table));
            outcome.decision = Some(Decision::Landed { refs: landed.collect(), again: false });
        }
        Ok((outcome, moves))
    }

    /// Writes the objects of what may land.
    fn stage_judged(
        &mut self,
        push: &Push,
        mut judgement: Judgement,
        by: String,
    ) -> anyhow::Result<(Outcome, Vec<Move>)> {
        if push.options.dry_run {
            only_tried(&mut judgement.refusals);
            judgement.changes.clear();
            judgement.secrets.clear();
        }
        if judgement.changes.is_empty() && judgement.secrets.is_empty() {
            return Ok((Outcome { refusals: judgement.refusals, ..Outcome::default() }, Vec::new()));
        }
        let (sequence, time) = (self.sequence.next(), repository::now());
        let mut moves: Vec<Move> = judgement.changes.into_iter().map(|(name, new)| self.movement(name, new)).collect();
        let (deltas, asked) = (&judgement.deltas, judgement.secrets);
        let secrets = match self.validator.secrets.stage(&self.repo, &self.catalog, deltas, asked, (sequence, time)) {
            Ok(secrets) => secrets,
            // Nothing is staged yet: this change waits until that is mended, and the others go on.
            Err(cause) => {
                error!(error = format!("{cause:#}"), request = push.request, "secrets cannot be sealed");
                let why = Refusal::new(Kind::Failed, format!("the secrets that it needs cannot be sealed: {cause:#}"));
                let refusals = judgement.refusals.into_iter().map(|refusal| refusal.or_else(|| Some(why.clone())));
                return Ok((Outcome { refusals: refusals.collect(), ..Outcome::default() }, Vec::new()));
            }
        };
        for (id, (tip, tree)) in &secrets.tips {
            moves.push(self.movement(RefName::Secrets(id.clone()), Some(*tip)));
            self.catalog.secrets.insert(id.clone(), *tree);
        }
        let mut notes = std::mem::take(&mut judgement.notes);
        let told = notes.len();
        notes.extend(secrets.notes.iter().cloned());
        let deltas = secrets.with_siblings(judgement.deltas, &self.catalog);
        for (name, delta) in deltas {
            let Some(delta) = delta else {
                self.catalog.remove(&name);
                notes.push(format!("{name} is no longer composed; its hosts keep its last snapshot"));
                continue;
            };
            let Some((snapshot, note)) = self.compose(&name, delta, &secrets, (sequence, time), &by)? else { continue };
            let target = Target { value: snapshot.commit, commit: snapshot.commit };
            moves.push(self.movement(RefName::Snapshot(name.clone()), Some(target)));
            notes.push(note);
            self.catalog.datacenters.entry(name).and_modify(|datacenter| datacenter.snapshot = Some(snapshot));
        }
        if notes.len() == told {
            notes.push(format!("#{sequence} landed; no datacenter runs it"));
        }
        let entry = Entry {
            sequence,
            moves: moves.clone(),
            by,
            through: push.through.clone(),
            request: push.request.clone(),
            key: push.update.as_ref().and_then(|update| update.key.clone()),
            time,
        };
        entry.apply(&mut self.catalog.table, &mut self.requests);
        self.ledger = ledger::write(&self.repo, Some(self.ledger), &entry, &self.catalog.table, &self.requests)?;
        self.sequence = sequence;
        Ok((Outcome { refusals: judgement.refusals, notes, sequence: Some(sequence), ..Outcome::default() }, moves))
    }

    /// Whom the pushed commits name, where the pusher did not prove a name.
    fn claimed(&self, changes: &BTreeMap<RefName, Option<Target>>, through: &str) -> String {
        let tip = changes.values().flatten().next().and_then(|tip| self.repo.find_commit(tip.commit.into()).ok());
        let name = tip.and_then(|tip| tip.committer().name().ok().map(one_line));
        name.unwrap_or_else(|| format!("someone, {through}"))
    }

    fn movement(&self, name: RefName, new: Option<Target>) -> Move {
        let old = self.catalog.table.target(&name).map_or(ObjectId::ZERO, |current| current.value);
        Move { name, old, new }
    }

    /// Composes a datacenter's next snapshot; `None` when it would be the same as before.
    fn compose(
        &mut self,
        name: &DatacenterName,
        delta: Delta,
        secrets: &Staged,
        (sequence, time): (Sequence, i64),
        by: &str,
    ) -> anyhow::Result<Option<(Snapshot, String)>> {
        let trees = |datacenter: &crate::catalog::Datacenter| (datacenter.datacenter_tree, datacenter.class_tree);
        let known = self.catalog.datacenters.get(name);
        let mut touched = self.validator.touched(&self.repo, name, known, &delta)?;
        let before = known.map(trees);
        let components = delta.components.clone();
        self.catalog.apply_delta(name, delta);
        let datacenter = self.catalog.datacenters.get(name).context("a datacenter that was just resolved")?;
        let changed = secrets.changed.get(&name.id);
        if components.is_empty()
            && changed.is_none()
            && before == Some(trees(datacenter))
            && datacenter.snapshot.is_some()
        {
            return Ok(None);
        }
        touched.extend(secrets.readers(&name.id, datacenter));
        let hosts = &datacenter.instance.hosts;
        let told = hosts.keys().filter(|host| {
            let selection = datacenter.instance.selection(host);
            touched.iter().any(|component| selection.contains(component))
        });
        let hosts = if hosts.is_empty() { "all hosts".to_owned() } else { count(told.count(), "host") };
        let note = format!("{name} #{sequence}: {}, {hosts}", count(touched.len(), "component"));
        let composition = Composition {
            datacenter: name.clone(),
            sequence,
            time,
            // A datacenter that was deleted and made again goes on where it was.
            parent: self.catalog.table.target(&RefName::Snapshot(name.clone())).map(|tip| tip.commit),
            base: datacenter.snapshot.as_ref().map(|snapshot| snapshot.tree),
            summary: summary(&components, changed.filter(|_| before == Some(trees(datacenter)))),
            components,
            datacenter_tree: datacenter.datacenter_tree,
            datacenter_commit: datacenter.datacenter_commit,
            class_tree: datacenter.class_tree,
            class: (datacenter.instance.class_ref(), datacenter.class_commit),
            secrets_tree: self.catalog.secrets.get(&name.id).copied(),
            by: by.to_owned(),
        };
        let commit = snapshot::compose(&self.repo, &composition, &self.key)?;
        Ok(Some((Snapshot::read(&self.repo, commit)?, note)))
    }
}

/// The answer to a request whose key is known already.
fn landed_before(update: &Update, landed: &LandedRequest, wishes: usize) -> Outcome {
    if update.key.as_ref().is_some_and(|key| key.is_of(landed)) {
        let decision = Some(Decision::Landed { refs: landed.refs.clone(), again: true });
        return Outcome {
            refusals: vec![None; wishes],
            sequence: Some(landed.sequence),
            decision,
            ..Outcome::default()
        };
    }
    let reason = format!(
        "another request landed under this idempotency key, as #{}; a new request needs a new key",
        landed.sequence
    );
    Outcome::refused(wishes, &Refusal::new(Kind::Invalid, reason))
}

/// What would have landed is refused as well.
pub(crate) fn only_tried(refusals: &mut [Option<Refusal>]) {
    for refusal in refusals.iter_mut().filter(|refusal| refusal.is_none()) {
        *refusal = Some(Refusal::new(Kind::DryRun, "dry run: nothing landed"));
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// What changed: components, or secrets alone.
fn summary(
    components: &BTreeMap<ComponentVersion, Option<snapshot::Component>>,
    secrets: Option<&BTreeSet<SecretName>>,
) -> String {
    let names: BTreeSet<String> = components
        .iter()
        .map(|(name, content)| format!("{}{name}", if content.is_none() { "-" } else { "" }))
        .collect();
    let mut names = names.into_iter();
    match (names.next(), names.count()) {
        (None, _) => match secrets.and_then(|secrets| Some((secrets.first()?, secrets.len() - 1))) {
            None => "the datacenter itself".to_owned(),
            Some((first, 0)) => format!("the secret {first}"),
            Some((first, more)) => format!("the secret {first} and {more} more"),
        },
        (Some(first), 0) => first,
        (Some(first), more) => format!("{first} and {more} more"),
    }
}
