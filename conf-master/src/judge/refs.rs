//! Judges a push ref by ref, then all of its refs together.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::git;
use git2::Repository;
use libconf::name::{BadName, ComponentVersion, DatacenterName, ObjectId, RefName};

use crate::catalog::{Catalog, Datacenter, DatacenterChange, Delta, Deltas, OverridesCache, resolve};
use crate::fault::{Caused, Fault, Refusal, RefusalKind};
use crate::judge::compatibility::branch::{self, BranchComparison, Comparisons};
use crate::judge::compatibility::settings;
use crate::judge::hosts;
use crate::judge::plan::ChangePlan;
use crate::judge::proposal::{Judgement, ProposalOptions, RefUpdate};
use crate::judge::reporting::ReportingHosts;
use crate::judge::validate::{ChangeLimits, Validator, effect};
use crate::secrets::SecretStore;
use crate::store::{RefChanges, RefTarget};

/// Judges changes, and remembers what was good.
#[derive(Debug)]
pub(crate) struct Judge {
    /// Checks the datacenters.
    pub(crate) validator: Validator,
    /// Compares the schemas of branches.
    pub(crate) comparisons: Comparisons,
    /// Keeps the sealed secrets, and knows which have values.
    pub(crate) secrets: SecretStore,
    /// The overrides of the trees that were read.
    pub(crate) overrides: OverridesCache,
    /// The hosts that report.
    pub(crate) reporting: ReportingHosts,
}

impl Judge {
    /// Makes a judge that remembers nothing yet.
    pub(crate) fn new(limits: ChangeLimits, secrets: SecretStore, reporting: ReportingHosts) -> Self {
        let (comparisons, overrides) = (Comparisons::default(), OverridesCache::default());
        Judge { validator: Validator::new(limits), comparisons, secrets, overrides, reporting }
    }

    /// Judges a push against the catalog. With `atomic`, all of it may land or nothing.
    pub(crate) fn judge(
        &self,
        repo: &Repository,
        catalog: &Catalog,
        updates: &[RefUpdate],
        atomic: bool,
        options: ProposalOptions,
    ) -> Judgement {
        let (refusals, places, notes) = (vec![None; updates.len()], BTreeMap::new(), BTreeMap::new());
        let mut judging = Judging { judge: self, catalog, repo, options, refusals, places, notes };
        let mut changes = BTreeMap::new();
        for (place, update) in updates.iter().enumerate() {
            match judging.alone(update) {
                Ok((name, target)) => {
                    judging.places.insert(name.clone(), place);
                    changes.insert(name, target);
                }
                Err(reason) => judging.refusals[place] = Some(reason),
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
        let notes = notes.into_values().chain(broken).collect();
        Judgement { refusals: judging.refusals, changes, deltas, notes, ..Judgement::default() }
    }

    /// Works out the effect of a judgement.
    pub(crate) fn plan(
        &self,
        repo: &Repository,
        catalog: &Catalog,
        updates: &[RefUpdate],
        judgement: &Judgement,
    ) -> Result<ChangePlan, git2::Error> {
        ChangePlan::of(repo, catalog, &self.overrides, updates, judgement)
    }

    /// Counts the components and hosts for which `delta` changes something; `readers` are the
    /// components whose secrets are sealed anew.
    pub(crate) fn summary(
        &self,
        repo: &Repository,
        name: &DatacenterName,
        before: Option<&Datacenter>,
        delta: &Delta,
        readers: BTreeSet<ComponentVersion>,
    ) -> Result<String, git2::Error> {
        let change = DatacenterChange::new(repo, &self.overrides, name, before, delta)?;
        change.map_or_else(|| Ok(String::new()), |change| hosts::summary(repo, &change, readers))
    }
}

/// One push while it is judged.
struct Judging<'a> {
    judge: &'a Judge,
    catalog: &'a Catalog,
    repo: &'a Repository,
    options: ProposalOptions,
    refusals: Vec<Option<Refusal>>,
    places: BTreeMap<RefName, usize>,
    /// What the pusher is told of a ref, if it lands.
    notes: BTreeMap<RefName, String>,
}

impl Judging<'_> {
    /// Judges one ref without looking at the others.
    fn alone(&mut self, update: &RefUpdate) -> Result<(RefName, Option<RefTarget>), Refusal> {
        let name: RefName = update.name.parse().map_err(|error: BadName| error.to_string())?;
        if name.is_reserved() {
            return Err(format!("{} is written by conf-master alone", name.short()).into());
        }
        let current = self.catalog.table.target(&name);
        if current.map_or(ObjectId::ZERO, |current| current.value) != update.old {
            return Err(Refusal::new(RefusalKind::Stale, "it has changed meanwhile; fetch, merge and push again"));
        }
        if update.new.is_zero() {
            return match current {
                Some(_) => Ok((name, None)),
                None => Err("it does not exist".to_owned().into()),
            };
        }
        let target = RefTarget::read(self.repo, update.new, name.is_tag())?;
        if let Some(current) = current {
            self.forward(&name, current, target)?;
        }
        let broken = |error: git2::Error| format!("its files cannot be read: {}", error.message());
        let faults =
            git::faults_in_commit(self.repo, target.commit, &self.judge.validator.limits.tree).map_err(broken)?;
        if !faults.is_empty() {
            let fault = |reason: String| Fault { reference: Some(name.short()), ..Fault::new(reason) };
            return Err(Refusal::of(faults.into_iter().map(fault).collect()));
        }
        match &name {
            RefName::Class(_) | RefName::ClassTag(..) => drop(resolve::class(self.repo, &name, target.commit)?),
            RefName::Datacenter(_) => drop(resolve::instance(self.repo, &name, target.commit)?),
            RefName::Branch(..) => {
                let before = current.map(|current| current.commit);
                let comparisons = &self.judge.comparisons;
                match branch::compare(self.repo, comparisons, &name, before, target.commit).map_err(broken)? {
                    BranchComparison::Compatible => {}
                    BranchComparison::Declared(note) => drop(self.notes.insert(name.clone(), note)),
                    BranchComparison::Refused(refusal) => return Err(refusal),
                }
            }
            _ => {}
        }
        Ok((name, Some(target)))
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
            let (mut faults, mut notes) = (Vec::new(), Vec::new());
            for (name, touched) in self.catalog.touched(changes.keys()) {
                if changes.get(&RefName::Datacenter(name.clone())) == Some(&None) {
                    deltas.insert(name, None);
                    continue;
                }
                let before = self.catalog.datacenters.get(&name);
                let resolved = resolve::datacenter(self.repo, self.catalog.proposed(changes), &name, before, &touched);
                faults.extend(resolved.faults);
                match self.datacenter(&name, before, &resolved.delta, changes) {
                    Ok((found, told)) => {
                        faults.extend(found);
                        notes.extend(told);
                    }
                    Err(error) => faults.push(Caused {
                        fault: Fault::new(format!("what {name} would run cannot be read: {}", error.message())),
                        causes: Vec::new(),
                    }),
                }
                deltas.insert(name, Some(resolved.delta));
            }
            match effect::of_classes(self.repo, &self.judge.overrides, self.catalog, &deltas) {
                Ok(found) => faults.extend(found),
                Err(error) => faults.push(Caused {
                    fault: Fault::new(format!("a class cannot be read: {}", error.message())),
                    causes: Vec::new(),
                }),
            }
            match self.judge.secrets.faults(self.repo, self.catalog, &deltas) {
                Ok((found, needs)) => faults.extend(found.into_iter().chain(needs)),
                Err(error) => faults.push(Caused {
                    fault: Fault::new(format!("the sealed secrets cannot be read: {error:#}")),
                    causes: Vec::new(),
                }),
            }
            if faults.is_empty() {
                return (deltas, notes);
            }
            self.blame(changes, faults);
        }
    }

    /// Checks one datacenter: its faults, and what the pusher is told.
    fn datacenter(
        &self,
        name: &DatacenterName,
        before: Option<&Datacenter>,
        delta: &Delta,
        changes: &RefChanges,
    ) -> Result<(Vec<Caused>, Vec<String>), git2::Error> {
        let change = DatacenterChange::new(self.repo, &self.judge.overrides, name, before, delta)?;
        let Some(change) = change else { return Ok((Vec::new(), Vec::new())) };
        let mut faults = self.judge.validator.faults(self.repo, &change, self.options.allow_shrink)?;
        let compared = settings::compare(self.repo, &change, changes)?;
        faults.extend(compared.faults);
        Ok((faults, compared.notes.into_iter().chain(self.judge.reporting.shut_out(&change)).collect()))
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
            changes.remove(&name);
            if let Some(place) = self.places.get(&name) {
                self.refusals[*place] = Some(Refusal::of(faults));
            }
        }
    }
}
