//! Decides what of a push may land, ref by ref. Writes nothing.

pub mod compatibility;
pub mod endless;
pub mod plan;
pub mod schema;
pub mod validate;

use std::collections::BTreeMap;

use conf_core::git;
use git2::Repository;
use libconf::name::{DatacenterName, ObjectId, RefName};

use crate::{
    catalog::{
        Catalog, Delta,
        resolve::{self, Caused},
    },
    fault::refusal::{Fault, Kind, Refusal},
    judge::validate::Validator,
    landing::Options,
    secrets::Asked,
    store::refs::{Proposed, Target},
};

/// One ref that somebody wants to be otherwise, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The ref's full name, unchecked.
    pub name: String,
    /// What the pusher believes that it holds; zero to create it.
    pub old: ObjectId,
    /// What it shall hold; zero to delete it.
    pub new: ObjectId,
}

/// What may land, and why the rest may not.
#[derive(Debug, Default)]
pub struct Judgement {
    /// For each wish, in order: `None` when it may land, else why not.
    pub refusals: Vec<Option<Refusal>>,
    /// What may land: each ref's new target; `None` deletes it.
    pub changes: BTreeMap<RefName, Option<Target>>,
    /// What that does to each datacenter that it touches; `None` where its branch goes.
    pub deltas: BTreeMap<DatacenterName, Option<Delta>>,
    /// What is asked for of secrets besides what they declare.
    pub secrets: Asked,
    /// What whoever made the change should know.
    pub notes: Vec<String>,
}

impl Judgement {
    /// True when nothing at all may land.
    pub fn refuses_all(&self) -> bool {
        self.refusals.iter().all(Option::is_some)
    }
}

/// Judges a push against what is. With `atomic`, all of it may land or nothing.
pub fn judge(
    catalog: &Catalog,
    repo: &Repository,
    validator: &Validator,
    wishes: &[Wish],
    atomic: bool,
    options: Options,
) -> Judgement {
    let (refusals, places) = (vec![None; wishes.len()], BTreeMap::new());
    let notes = BTreeMap::new();
    let mut judging = Judging { catalog, repo, validator, options, refusals, places, notes };
    let mut changes = BTreeMap::new();
    for (place, wish) in wishes.iter().enumerate() {
        match judging.alone(wish) {
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
            *refusal = Some(Refusal::new(Kind::Together, "another ref of this atomic push is refused"));
        }
        changes.clear();
        deltas.clear();
        broken.clear();
    }
    let mut notes = judging.notes;
    notes.retain(|name, _| changes.contains_key(name));
    let notes = notes.into_values().chain(broken).collect();
    Judgement { refusals: judging.refusals, changes, deltas, secrets: Asked::new(), notes }
}

/// What becomes of each datacenter.
type Deltas = BTreeMap<DatacenterName, Option<Delta>>;

struct Judging<'a> {
    catalog: &'a Catalog,
    repo: &'a Repository,
    validator: &'a Validator,
    options: Options,
    refusals: Vec<Option<Refusal>>,
    places: BTreeMap<RefName, usize>,
    /// What there is to say of a ref that may land.
    notes: BTreeMap<RefName, String>,
}

impl Judging<'_> {
    /// What can be said of one ref without looking at the others.
    fn alone(&mut self, wish: &Wish) -> Result<(RefName, Option<Target>), Refusal> {
        let name: RefName = wish.name.parse().map_err(|error: libconf::name::BadName| error.to_string())?;
        if name.is_reserved() {
            return Err(format!("{} is written by conf-master alone", name.short()).into());
        }
        let current = self.catalog.table.target(&name);
        if current.map_or(ObjectId::ZERO, |current| current.value) != wish.old {
            return Err(Refusal::new(Kind::Stale, "it has changed meanwhile; fetch, merge and push again"));
        }
        if wish.new.is_zero() {
            return match current {
                Some(_) => Ok((name, None)),
                None => Err("it does not exist".into()),
            };
        }
        let target = Target::read(self.repo, wish.new, name.is_tag())?;
        if let Some(current) = current {
            self.forward(&name, current, target)?;
        }
        let broken = |error: git2::Error| format!("its files cannot be read: {}", error.message());
        let faults = git::faults_in_commit(self.repo, target.commit, &self.validator.limits.tree).map_err(broken)?;
        if !faults.is_empty() {
            let fault = |reason: String| Fault { reference: Some(name.short()), ..Fault::new(reason) };
            return Err(Refusal::of(faults.into_iter().map(fault).collect()));
        }
        let told = |faults: Vec<Caused>| Refusal::of(faults.into_iter().map(|caused| caused.fault).collect());
        match &name {
            RefName::Class(_) | RefName::ClassTag(..) => {
                resolve::class(self.repo, &name, target.commit).map_err(told)?;
            }
            RefName::Datacenter(_) => drop(resolve::instance(self.repo, &name, target.commit).map_err(told)?),
            _ => {}
        }
        if matches!(name, RefName::Branch(..)) {
            let before = current.map(|current| current.commit);
            let comparisons = &self.validator.comparisons;
            let judged = compatibility::branch(self.repo, comparisons, &name, before, target.commit).map_err(broken)?;
            self.notes.extend(judged?.map(|note| (name.clone(), note)));
        }
        Ok((name, Some(target)))
    }

    /// A branch only moves forward, a tag not at all.
    fn forward(&self, name: &RefName, current: Target, target: Target) -> Result<(), String> {
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

    /// Resolves every datacenter that is touched; takes out the refs that cause faults until none is left. Beside what becomes of
    /// them stands what there is to say of that.
    fn together(&mut self, changes: &mut BTreeMap<RefName, Option<Target>>) -> (Deltas, Vec<String>) {
        loop {
            let mut deltas = BTreeMap::new();
            let (mut faults, mut notes) = (Vec::new(), Vec::new());
            for (name, touched) in self.catalog.touched(changes.keys()) {
                if changes.get(&RefName::Datacenter(name.clone())) == Some(&None) {
                    deltas.insert(name, None);
                    continue;
                }
                let before = self.catalog.datacenters.get(&name);
                let refs = Proposed { table: &self.catalog.table, changes };
                let resolved = resolve::datacenter(self.repo, refs, &name, before, &touched);
                faults.extend(resolved.faults);
                let may_shrink = self.options.allow_shrink;
                let unread = |error: git2::Error| Caused {
                    fault: Fault::new(format!("what {name} would run cannot be read: {}", error.message())),
                    causes: Vec::new(),
                };
                match self.validator.faults(self.repo, &name, before, &resolved.delta, may_shrink) {
                    Ok(found) => faults.extend(found),
                    Err(error) => faults.push(unread(error)),
                }
                let settled = before.map(|before| {
                    compatibility::settings(self.validator, self.repo, &name, before, &resolved.delta, changes)
                });
                match settled.transpose() {
                    Ok(settled) => {
                        let settled = settled.unwrap_or_default();
                        faults.extend(settled.faults);
                        notes.extend(settled.notes);
                    }
                    Err(error) => faults.push(unread(error)),
                }
                deltas.insert(name, Some(resolved.delta));
            }
            match self.validator.secrets.faults(self.repo, self.catalog, &deltas) {
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

    /// Refuses the refs of this push that cause the faults. Takes out at least one.
    fn blame(&mut self, changes: &mut BTreeMap<RefName, Option<Target>>, faults: Vec<Caused>) {
        let mut told: BTreeMap<RefName, Vec<Fault>> = BTreeMap::new();
        for Caused { fault, causes } in faults {
            match causes.into_iter().find(|cause| changes.contains_key(cause)) {
                Some(cause) => told.entry(cause).or_default().push(fault),
                // Nobody stands out: all that touches this datacenter is refused.
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
