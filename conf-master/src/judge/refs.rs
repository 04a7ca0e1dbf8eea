//! Judges a push ref by ref, then all of its refs together.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use conf_core::access::Verb;
use conf_core::daemon::chain;
use git2::Repository;
use libconf::name::{BadName, CommitId, ObjectId, RefName};

use crate::catalog::{Catalog, Deltas, resolve};
use crate::fault::{Caused, Fault, Findings, Refusal, RefusalKind};
use crate::judge::compatibility::branch::{self, BranchComparison};
use crate::judge::effort::TOO_MUCH;
use crate::judge::knowledge::Judge;
use crate::judge::parallel::{self, Open};
use crate::judge::plan::ChangePlan;
use crate::judge::proposal::{Judgement, ProposalOptions, RefUpdate};
use crate::judge::rights::{self, Authority, JudgedChange};
use crate::judge::validate::effect;
use crate::judge::{content, deletions, suspicions};
use crate::store::{Place, Proposed, RefChanges, RefTarget};

/// The most faults in the files of one branch that a refusal tells.
const MOST_FAULTS: usize = 20;

/// The most branches and tags that one judgement compares with new ones, to find those that they
/// continue: each comparison may walk a whole history.
const MOST_SEARCHES: usize = 100;

impl Judge {
    /// Judges a push against the catalog. With `atomic`, all of it may land or nothing. With
    /// `open`, other threads help.
    pub(crate) fn judge(
        &self,
        (repo, open): (&Repository, Option<Open<'_>>),
        catalog: &Catalog,
        updates: &[RefUpdate],
        atomic: bool,
        options: &ProposalOptions,
    ) -> Judgement {
        let (refusals, places, notes) = (vec![None; updates.len()], BTreeMap::new(), BTreeMap::new());
        let searches = Cell::new(MOST_SEARCHES);
        let (refused, beyond) = (BTreeSet::new(), BTreeSet::new());
        let mut judging =
            Judging { judge: self, catalog, repo, open, options, refusals, places, refused, searches, notes, beyond };
        let mut changes = BTreeMap::new();
        for (place, update) in updates.iter().enumerate() {
            // What is refused for that is judged beside the landing thread, or pushed in steps.
            let judged = if self.effort.is_over() {
                Err(TOO_MUCH.to_owned().into())
            } else {
                self.effort.here(|| judging.alone(update))
            };
            match judged {
                Ok((name, target)) => {
                    judging.places.insert(name.clone(), place);
                    changes.insert(name, target);
                }
                Err(reason) => {
                    judging.refusals[place] = Some(reason);
                    judging.refused.extend(update.name.parse::<RefName>());
                }
            }
        }
        let (mut deltas, mut broken) = judging.together(&mut changes);
        if atomic && judging.refusals.iter().any(Option::is_some) {
            for refusal in judging.refusals.iter_mut().filter(|refusal| refusal.is_none()) {
                *refusal = Some(Refusal::new(RefusalKind::Together, "another ref of this atomic push is refused"));
            }
            changes.clear();
            deltas.clear();
            broken.clear();
        }
        let mut notes = judging.notes;
        notes.retain(|name, _| changes.contains_key(name));
        let notes = notes.into_values().flatten().chain(broken).collect();
        Judgement { refusals: judging.refusals, changes, deltas, notes, ..Judgement::default() }
    }

    /// Works out the effect of a judgement, with what the shrink guard and missing words for
    /// deletions hold back: people who ask want to see what they would allow.
    pub(crate) fn plan(
        &self,
        repo: &Repository,
        catalog: &Catalog,
        updates: &[RefUpdate],
        judgement: &Judgement,
    ) -> Result<ChangePlan, git2::Error> {
        let plan = |judged: &Judgement| {
            let suspicions = suspicions::of(repo, catalog, &judged.changes)?;
            let mut plan = ChangePlan::of(repo, catalog, &self.overrides, updates, judged)?;
            let diffs = plan.datacenters.iter_mut().flat_map(|one| &mut one.components).map(|one| &mut one.diff);
            diffs.for_each(|diff| suspicions.hide(diff));
            plan.notes.extend(suspicions.told);
            Ok(plan)
        };
        if judgement.refusals.iter().all(Option::is_none) {
            return plan(judgement);
        }
        let delete = updates.iter().filter(|update| update.new.is_zero());
        let delete = delete.filter_map(|update| update.name.parse().ok()).collect();
        let options = ProposalOptions { dry_run: true, allow_shrink: true, delete };
        let unlimited = self.with(&self.effort, Authority::unlimited());
        let allowed = unlimited.judge((repo, None), catalog, updates, false, &options);
        plan(&Judgement { refusals: judgement.refusals.clone(), ..allowed })
    }
}

/// One push while it is judged.
struct Judging<'a> {
    judge: &'a Judge,
    catalog: &'a Catalog,
    repo: &'a Repository,
    open: Option<Open<'a>>,
    options: &'a ProposalOptions,
    refusals: Vec<Option<Refusal>>,
    places: BTreeMap<RefName, usize>,
    /// The refs of this push that are refused.
    refused: BTreeSet<RefName>,
    /// How many more comparisons of histories there may be; see [`MOST_SEARCHES`].
    searches: Cell<usize>,
    /// What the pusher is told of a ref, if it lands.
    notes: BTreeMap<RefName, Vec<String>>,
    /// The branches whose own commits break compatibility.
    beyond: BTreeSet<(RefName, Verb)>,
}

impl Judging<'_> {
    /// Judges one ref without looking at the others.
    fn alone(&mut self, update: &RefUpdate) -> Result<(RefName, Option<RefTarget>), Refusal> {
        let name: RefName = update.name.parse().map_err(|error: BadName| error.to_string())?;
        if name.is_reserved() {
            return Err(format!("{} is written by conf-master alone", name.short()).into());
        }
        let Authority { rights, .. } = &self.judge.authority;
        self.judge.authority.enter(&name, update.new.is_zero())?;
        let Place { target: current, last, .. } = self.catalog.table.place(&name);
        if current.map_or(ObjectId::ZERO, |current| current.value) != update.old {
            return Err(Refusal::new(RefusalKind::Stale, "it has changed meanwhile; fetch, merge and push again"));
        }
        if update.new.is_zero() {
            return match current {
                Some(_) if name == RefName::Policy => {
                    rights::faults_in_policy(self.repo, None, &rights.tokens).map_err(Refusal::of)?;
                    Ok((name, None))
                }
                Some(_) => Ok((name, None)),
                None => Err("it does not exist".to_owned().into()),
            };
        }
        let target = RefTarget::read(self.repo, update.new, name.is_tag())?;
        if let Some(current) = current {
            self.forward(&name, current, target)?;
        }
        if let Some(last) = last.filter(|last| name.is_tag() && last.commit != target.commit) {
            return Err(format!(
                "this tag named {} until it was deleted, and a tag never moves, since hosts rely on it; push it there again, \
                 or give the new one another name",
                last.commit
            )
            .into());
        }
        let broken = |error: git2::Error| format!("its files cannot be read: {}", error.message());
        let found = self.tree(&name, current, target).map_err(broken)?;
        if !found.faults.is_empty() {
            return Err(found.faults.into());
        }
        let mut notes = found.notes;
        match &name {
            RefName::Class(_) | RefName::ClassTag(..) => drop(resolve::class(self.repo, &name, target.commit)?),
            RefName::Datacenter(_) => drop(resolve::instance(self.repo, &name, target.commit)?),
            RefName::Branch(..) => {
                let before = self.promised(current.or(last), target).map_err(broken)?;
                let comparisons = &self.judge.comparisons;
                match branch::compare(self.repo, comparisons, &name, before, target.commit).map_err(broken)? {
                    BranchComparison::Compatible => {}
                    BranchComparison::Declared(note) => {
                        self.beyond.insert((name.clone(), Verb::Breaking));
                        notes.push(note);
                    }
                    BranchComparison::Refused(refusal) => return Err(refusal),
                }
            }
            RefName::Policy => {
                let found = rights::faults_in_policy(self.repo, Some(target.commit), &rights.tokens);
                notes.extend(found.map_err(Refusal::of)?);
            }
            _ => {}
        }
        self.notes.insert(name.clone(), notes);
        Ok((name, Some(target)))
    }

    /// Finds another branch or tag of the same component whose content a new one continues.
    fn forerunner(&self, name: &RefName, target: RefTarget) -> Result<Option<RefTarget>, git2::Error> {
        let of = |name: &RefName| match name {
            RefName::Branch(component, _) | RefName::Tag(component, _) => Some(component.clone()),
            _ => None,
        };
        let Some(component) = of(name) else { return Ok(None) };
        let others = self.catalog.table.iter().filter(|(other, _)| of(other).as_ref() == Some(&component));
        for (_, other) in others {
            let Some(left) = self.searches.get().checked_sub(1) else { break };
            self.searches.set(left);
            let (old, new) = (other.commit.into(), target.commit.into());
            if old == new || self.repo.graph_descendant_of(new, old)? || self.repo.graph_descendant_of(old, new)? {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Checks every file of a branch or tag that moves from `before` to `after`.
    fn tree(&self, name: &RefName, before: Option<RefTarget>, after: RefTarget) -> Result<Findings, git2::Error> {
        let limits = &self.judge.validator.limits.tree;
        let faults = |target: RefTarget| content::faults(self.repo, name, target.commit, limits);
        let found = faults(after)?;
        let before = match before {
            None if !found.is_empty() => self.forerunner(name, after)?,
            before => before,
        };
        let known = before.filter(|_| !found.is_empty()).map(faults).transpose()?.unwrap_or_default();
        let found = found.into_iter().map(|fault| Caused { fault, causes: vec![name.clone()] });
        let mut found = Findings::since(&known, found.collect());
        if let more @ 1.. = found.faults.len().saturating_sub(MOST_FAULTS) {
            found.faults.truncate(MOST_FAULTS);
            let fault =
                Fault { reference: Some(name.short()), ..Fault::new(format!("{more} more faults are not shown")) };
            found.faults.push(Caused { fault, causes: vec![name.clone()] });
        }
        Ok(found)
    }

    /// Returns the commit whose promise a branch keeps at `target`: where it is, or was until it
    /// was deleted. One that is made anew where it was before, or earlier, keeps every promise.
    fn promised(&self, before: Option<RefTarget>, target: RefTarget) -> Result<Option<CommitId>, git2::Error> {
        let Some(before) = before.map(|before| before.commit) else { return Ok(None) };
        let goes_back = self.repo.graph_descendant_of(before.into(), target.commit.into())?;
        Ok(Some(before).filter(|_| !goes_back))
    }

    /// Refuses a branch that does not move forward, and a tag that moves.
    fn forward(&self, name: &RefName, current: RefTarget, target: RefTarget) -> Result<(), String> {
        if name.is_tag() {
            return Err("a tag never moves, since hosts rely on it; make a new one".to_owned());
        }
        match self.repo.graph_descendant_of(target.commit.into(), current.commit.into()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!(
                "this would rewind the branch: {} is not in the history of what you push; fetch and merge, or use \
                 `git revert` to go back",
                current.commit.short()
            )),
            Err(error) => Err(format!("its history cannot be read: {}", error.message())),
        }
    }

    /// Resolves every datacenter that is touched, and takes out the refs that cause faults until no
    /// fault is left. Returns the effect on each datacenter, and what the pusher is told.
    fn together(&mut self, changes: &mut RefChanges) -> (Deltas, Vec<String>) {
        loop {
            let mut deltas = BTreeMap::new();
            let (mut faults, mut notes, mut breaks) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
            let touched: Vec<_> = self.catalog.touched(changes.keys()).into_iter().collect();
            let refs = Proposed { refused: &self.refused, ..self.catalog.proposed(changes) };
            let (judge, catalog, may_shrink) = (self.judge, self.catalog, self.options.allow_shrink);
            let judged = parallel::each(self.repo, self.open, &touched, |repo, (name, touched)| {
                if changes.get(&RefName::Datacenter(name.clone())) == Some(&None) {
                    return None;
                }
                let before = catalog.datacenter(name);
                let resolved = resolve::datacenter((repo, &judge.contents), refs, name, before, touched);
                let found = judge.datacenter(repo, name, (before, &resolved.delta), changes, may_shrink);
                Some((resolved, found))
            });
            for ((name, _), judged) in touched.into_iter().zip(judged) {
                let Some((resolved, found)) = judged else {
                    deltas.insert(name, None);
                    continue;
                };
                faults.extend(resolved.faults);
                match found {
                    Ok(found) => {
                        faults.extend(found.faults);
                        notes.extend(found.notes);
                        breaks.extend(found.breaks);
                    }
                    Err(error) => faults.push(Caused {
                        fault: Fault::new(format!("what {name} would run cannot be read: {}", error.message())),
                        causes: Vec::new(),
                    }),
                }
                deltas.insert(name, Some(resolved.delta));
            }
            match effect::of_classes(self.repo, &self.judge.overrides, self.catalog, &deltas) {
                Ok(found) => {
                    faults.extend(found.faults);
                    notes.extend(found.notes);
                }
                Err(error) => faults.push(Caused {
                    fault: Fault::new(format!("a class cannot be read: {}", error.message())),
                    causes: Vec::new(),
                }),
            }
            match self.judge.secrets.faults(self.repo, self.catalog, &deltas) {
                Ok((found, needs)) => faults.extend(found.into_iter().chain(needs)),
                Err(error) => faults.push(Caused {
                    fault: Fault::new(format!("the sealed secrets cannot be read: {}", chain(&*error))),
                    causes: Vec::new(),
                }),
            }
            if faults.is_empty() {
                faults = deletions::unnamed(self.catalog, changes, &self.options.delete);
            }
            if !faults.is_empty() {
                self.blame(changes, faults);
                continue;
            }
            let denied = self.denied(changes, &deltas, breaks);
            if denied.is_empty() {
                return (deltas, notes.into_iter().collect());
            }
            // The rest is judged anew, without what is denied.
            denied.into_iter().for_each(|(name, refusal)| self.refuse(changes, name, refusal));
        }
    }

    /// Refuses the refs of a faultless change for which its author lacks a right.
    fn denied(&self, changes: &RefChanges, deltas: &Deltas, breaks: BTreeSet<RefName>) -> BTreeMap<RefName, Refusal> {
        if !self.judge.authority.is_limited() {
            return BTreeMap::new();
        }
        let (repo, catalog) = (self.repo, self.catalog);
        let mut beyond = self.beyond.clone();
        beyond.extend(breaks.into_iter().map(|name| (name, Verb::Breaking)));
        beyond.extend(self.shrinking(changes, deltas).into_iter().map(|name| (name, Verb::Shrink)));
        beyond.retain(|(name, _)| changes.contains_key(name));
        match (JudgedChange { repo, catalog, changes, deltas, beyond: &beyond }).needs() {
            Ok(needs) => self.judge.authority.denied(&needs),
            Err(error) => {
                let why = format!("which rights it needs cannot be read: {}", error.message());
                changes.keys().map(|name| (name.clone(), Refusal::new(RefusalKind::Failed, why.clone()))).collect()
            }
        }
    }

    /// Finds the refs that take away more than the shrink guard allows, where that was asked for.
    fn shrinking(&self, changes: &RefChanges, deltas: &Deltas) -> BTreeSet<RefName> {
        let mut shrinking = BTreeSet::new();
        for (name, delta) in deltas.iter().filter(|_| self.options.allow_shrink) {
            let (Some(before), Some(delta)) = (self.catalog.datacenter(name), delta) else { continue };
            let found = self.judge.datacenter(self.repo, name, (Some(before), delta), changes, false);
            // Without the guard there was no fault. Where nobody can tell, each ref needs the
            // right.
            let unknown = || vec![Caused { fault: Fault::default(), causes: Vec::new() }];
            for Caused { causes, .. } in found.map_or_else(|_| unknown(), |found| found.faults) {
                match causes.into_iter().find(|cause| changes.contains_key(cause)) {
                    Some(cause) => drop(shrinking.insert(cause)),
                    None => shrinking.extend(changes.keys().cloned()),
                }
            }
        }
        shrinking
    }

    /// Refuses the refs of this push that cause the faults. Takes out at least one ref.
    fn blame(&mut self, changes: &mut RefChanges, faults: Vec<Caused>) {
        let mut told: BTreeMap<RefName, Vec<Fault>> = BTreeMap::new();
        for Caused { fault, causes } in faults {
            match causes.into_iter().find(|cause| changes.contains_key(cause)) {
                Some(cause) => told.entry(cause).or_default().push(fault),
                // No ref of this push is a likely cause: all of them are refused.
                None => changes.keys().for_each(|name| told.entry(name.clone()).or_default().push(fault.clone())),
            }
        }
        for (name, faults) in told {
            self.refuse(changes, name, Refusal::of(faults));
        }
    }

    /// Takes a ref out.
    fn refuse(&mut self, changes: &mut RefChanges, name: RefName, refusal: Refusal) {
        changes.remove(&name);
        if let Some(place) = self.places.get(&name) {
            self.refusals[*place] = Some(refusal);
        }
        self.refused.insert(name);
    }
}
