//! Checks whether a datacenter can be composed: its layers can be read, its settings are valid on
//! every host and within the limits, and it does not shrink suddenly.
//!
//! The hosts render by the same code. Only what a change touches is checked: components whose
//! content or layers differ, and one host of each group that shares all layers. Ingredients that
//! were good once are not checked again.

pub(crate) mod case;
pub(crate) mod content;
pub(crate) mod effect;
mod good;
pub(crate) mod shrink;
pub(crate) mod templates;

use std::collections::BTreeSet;
use std::sync::Arc;

use conf_core::http::{Share, Shares};
use conf_core::layers::{self, Group, LayerError, LinkPolicy, Origin, Overrides, Sources, Stack};
use conf_core::manifest;
use conf_core::render::{SecretFault, Secrets};
use conf_core::settings::SettingsFault;
use conf_core::{git, settings};
use git2::Repository;
use libconf::name::{ComponentVersion, HostName, ObjectId};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::catalog::{DatacenterChange, DatacenterView};
use crate::fault::{Caused, Fault, Findings};
use crate::judge::effort::Effort;
use crate::judge::hosts::{Differing, effects};
use crate::judge::schema::Schemas;
use crate::judge::schema::compile::FILE;
use crate::judge::schema::fault::SchemaFault;
use crate::judge::timeouts::TimeoutCache;
use crate::judge::validate::case::{Case, is_within};
use crate::judge::validate::good::{Good, MOST_GOOD};
use crate::judge::validate::shrink::MaxShrink;

/// The limits of what may land.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChangeLimits {
    /// The limits of a branch's tree.
    pub(crate) tree: git::TreeLimits,
    /// The most levels of lists and objects in settings.
    pub(crate) levels: usize,
    /// How much may be removed at once.
    pub(crate) shrink: MaxShrink,
}

impl Default for ChangeLimits {
    fn default() -> Self {
        ChangeLimits { tree: git::TreeLimits::landing(), levels: settings::MAX_DEPTH, shrink: MaxShrink::default() }
    }
}

/// The most groups of hosts whose settings are checked against a schema in one question.
const GROUPS_AT_ONCE: usize = 200;
/// The most places of one component that are told to be nested too deep.
const MOST_NESTED: usize = 1_000;
/// After this many templates without an end within a minute no other of the same peer is tried.
const MOST_TIMEOUTS: usize = 6;
/// Components whose templates are rendered at once, beside those on the landing thread; half of
/// them of one peer. Each has one of the processes that render.
const RENDERING: u64 = 2;
/// Those who wait for that: the judgements that go on at once are fewer.
const WAITING: usize = 1024;

/// Validates, and remembers what was good.
#[derive(Debug)]
pub(crate) struct Validator {
    /// The limits of what may land.
    pub(crate) limits: ChangeLimits,
    schemas: Schemas,
    /// The trees of components whose templates exceeded their time, and what was told of them.
    template_timeouts: Arc<TimeoutCache<ObjectId, SettingsFault>>,
    /// The places for those whose templates are rendered; `None` where nobody waits for one.
    rendering: Option<Shares>,
    effort: Arc<Effort>,
    good: Arc<Mutex<Good>>,
    good_content: Arc<Mutex<BTreeSet<Content>>>,
}

/// The content of a component as a datacenter runs it: its tree, whether it is raw, and where its
/// links may lead.
type Content = (ObjectId, bool, LinkPolicy);

impl Validator {
    /// Makes a validator with these limits, which remembers nothing yet.
    pub(crate) fn new(limits: ChangeLimits) -> Self {
        let template_timeouts = Arc::new(TimeoutCache::new(MOST_TIMEOUTS));
        Validator {
            limits,
            schemas: Schemas::default(),
            template_timeouts,
            rendering: Some(Shares::halves(RENDERING, WAITING)),
            effort: Arc::new(Effort::own()),
            good: Arc::default(),
            good_content: Arc::default(),
        }
    }

    /// Returns a validator that asks another process. Both remember what was good.
    pub(crate) fn beside(&self) -> Self {
        Validator { limits: self.limits, schemas: self.schemas.beside(), rendering: None, ..self.with(&self.effort) }
    }

    /// Returns the same validator, for one push.
    pub(crate) fn with(&self, effort: &Arc<Effort>) -> Self {
        Validator {
            limits: self.limits,
            schemas: self.schemas.with(effort.clone()),
            template_timeouts: self.template_timeouts.clone(),
            rendering: self.rendering.clone(),
            effort: effort.clone(),
            good: self.good.clone(),
            good_content: self.good_content.clone(),
        }
    }

    /// Waits for a process that renders; `None` where nobody waits for one.
    fn rendering(&self) -> Option<Share> {
        self.rendering.as_ref()?.take_blocking(self.effort.who(), 1).ok()
    }

    /// Finds everything that is wrong with the part of a datacenter that a change touches; for a
    /// new datacenter, with all of it. What was wrong before is a note. An error is the
    /// repository's, and nobody's fault.
    pub(crate) fn findings(
        &self,
        repo: &Repository,
        change: &DatacenterChange<'_>,
        may_shrink: bool,
    ) -> Result<Findings, git2::Error> {
        let (before, after) = (change.before.as_ref(), &change.after);
        let affected = change.affected(repo)?;
        let manifest = change.delta.manifest.is_some();
        let found = Vec::new();
        let checking = Checking { validator: self, repo, change: Some(change), before, after, may_shrink, found };
        let found = checking.all(manifest, affected)?;
        let known = match before.filter(|_| !found.is_empty()) {
            Some(before) => {
                let (after, found) = (before, Vec::new());
                let checking =
                    Checking { validator: self, repo, change: None, before: None, after, may_shrink: true, found };
                checking.all(manifest, &affected.iter().flat_map(|one| change.replaced_by(one)).collect())?
            }
            None => Vec::new(),
        };
        let known: Vec<Fault> = known.into_iter().map(|caused| caused.fault).collect();
        Ok(Findings::since(&known, found))
    }

    fn remember_content(&self, content: Content) {
        let mut good = self.good_content.lock();
        if good.len() >= MOST_GOOD {
            good.clear();
        }
        good.insert(content);
    }

    fn remember(&self, case: &Case) {
        if case.is_faulty {
            return;
        }
        self.good.lock().add(&case.ingredients);
    }
}

/// One check of one datacenter.
struct Checking<'a, 'v> {
    validator: &'a Validator,
    repo: &'a Repository,
    /// The change; `None` for the state before it, looked at for itself.
    change: Option<&'a DatacenterChange<'v>>,
    before: Option<&'a DatacenterView<'v>>,
    after: &'a DatacenterView<'v>,
    may_shrink: bool,
    found: Vec<Caused>,
}

impl Checking<'_, '_> {
    /// Checks these components, and what `datacenter.yaml` says where it differs.
    fn all(mut self, manifest: bool, affected: &BTreeSet<ComponentVersion>) -> Result<Vec<Caused>, git2::Error> {
        if manifest {
            self.found = effect::faults(self.after);
            self.components();
            self.hosts();
        }
        for component in affected {
            self.component(component)?;
        }
        Caused::place_in(&mut self.found, self.after.name);
        Ok(self.found)
    }

    /// Applies the shrink guard to the list of components.
    fn components(&mut self) {
        let Some(before) = self.before.filter(|_| !self.may_shrink) else { return };
        if let Some(reason) = self.validator.limits.shrink.components(before, self.after) {
            self.in_manifest(before, None, reason);
        }
    }

    /// Applies the shrink guard to the components of each listed host.
    fn hosts(&mut self) {
        let (Some(before), Some(change)) = (self.before.filter(|_| !self.may_shrink), self.change) else { return };
        let nothing = Differing::new();
        if let Some((host, reason)) = self.validator.limits.shrink.hosts(&effects(change, &nothing)) {
            let line = self.after.manifest.instance.hosts.get(host).map(|host| host.line);
            self.in_manifest(before, line, reason);
        }
    }

    /// Adds a fault in the `datacenter.yaml` that changed: the datacenter's, else its class's.
    /// `line` is of the datacenter's.
    fn in_manifest(&mut self, before: &DatacenterView<'_>, line: Option<usize>, reason: String) {
        let [class_changed, own_changed] =
            [0, 1].map(|which| before.manifest.trees()[which] != self.after.manifest.trees()[which]);
        let by_class = class_changed && !own_changed;
        let reference = if by_class { self.after.class_ref() } else { self.after.own_ref() };
        let causes = vec![reference.clone(), self.after.class_ref(), self.after.own_ref()];
        let line = line.filter(|_| !by_class);
        self.found.push(Caused { fault: Fault::of_file(&reference, manifest::FILE, line, reason), causes });
    }

    /// Adds a fault in a file of a component's layer, for which nothing else of the component can
    /// be checked.
    fn in_layer(&mut self, name: &ComponentVersion, origin: &Origin, fault: SettingsFault) {
        let reference = self.after.reference(name, origin);
        let fault = Fault::of_file(&reference, &fault.file, fault.line, fault.reason);
        let fault = Fault { hides_others: true, ..fault };
        let causes = self.after.causes(name, reference);
        // Two versions of a component may share a layer, and be caused by different branches.
        if !self.found.iter().any(|found| found.fault == fault && found.causes == causes) {
            self.found.push(Caused { fault, causes });
        }
    }

    /// Checks everything about one component.
    fn component(&mut self, name: &ComponentVersion) -> Result<(), git2::Error> {
        let Some(sources) = self.after.sources(name) else { return Ok(()) };
        let content = (sources.component_tree, sources.raw, sources.links);
        if !self.validator.good_content.lock().contains(&content) {
            let found = content::faults(self.repo, self.after, name, &sources)?;
            if found.is_empty() {
                self.validator.remember_content(content);
            }
            self.found.extend(found);
        }
        let groups = match self.change {
            Some(change) => change.groups(self.repo, name)?,
            None => self.after.groups(self.repo, name)?,
        };
        if self.is_settled(name, &groups)? {
            return Ok(());
        }
        let schema = if sources.raw { None } else { self.schema(sources.component_tree)? };
        let common = match layers::stack(self.repo, &sources, &name.component, None) {
            Ok(common) => common,
            Err(LayerError::Repository(error)) => return Err(error),
            Err(LayerError::Faults(faults)) => {
                for layers::LayerFault { origin, fault } in faults {
                    self.in_layer(name, &origin, fault);
                }
                // The schema itself is checked all the same.
                if let Some((id, bytes)) = schema {
                    self.against_schema(name, id, &bytes, &[]);
                }
                return Ok(());
            }
        };
        let old_common = self.old_common(name)?;
        let (mut cases, mut seen) = (Vec::new(), BTreeSet::new());
        for group in groups {
            let host = group.host();
            let Some(ingredients) = self.after.ingredients(self.repo, name, host)? else { continue };
            let known = match self.before {
                Some(before) => before.ingredients(self.repo, name, host)?,
                None => None,
            };
            if known.as_ref() == Some(&ingredients) {
                continue;
            }
            let told = self.found.len();
            let stack = common.clone().on_host(&self.after.manifest.instance, &name.component, host);
            let settings = stack.merged();
            // A host that did not run it has no settings to lose.
            if let (Some(old), Some(before), Some(_)) = (&old_common, self.before, &known) {
                let old = old.clone().on_host(&before.manifest.instance, &name.component, host).merged();
                self.keys(name, host, &stack, [&old, &settings]);
            }
            if let Some(known) = known.filter(|_| old_common.is_some() && self.found.len() == told) {
                self.validator.good.lock().add_step(&known, &ingredients);
            }
            if !self.validator.good.lock().has(&ingredients) && seen.insert(ingredients.clone()) {
                let (host, settings) = (host.cloned(), Value::Object(settings));
                cases.push(Case { host, ingredients, stack, settings, filled: None, is_faulty: false });
            }
        }
        self.nesting(name, &mut cases);
        self.secrets(name, &sources, &mut cases);
        let Validator { template_timeouts: timeouts, effort, .. } = self.validator;
        let trials = templates::Trials { timeouts, effort, place: &|| self.validator.rendering() };
        self.found.extend(templates::faults(self.repo, trials, self.after, name, &sources, &mut cases)?);
        match schema {
            None => cases.iter().for_each(|case| self.validator.remember(case)),
            Some((id, bytes)) => {
                for cases in cases.chunks(GROUPS_AT_ONCE) {
                    self.against_schema(name, id, &bytes, cases);
                }
            }
        }
        Ok(())
    }

    /// Stacks the layers of a component before the change, if it is held against them. What could
    /// not be read has no settings to lose.
    fn old_common(&self, name: &ComponentVersion) -> Result<Option<Stack>, git2::Error> {
        let before = self.before.filter(|_| !self.may_shrink);
        let Some(old) = before.and_then(|before| before.sources(name)) else { return Ok(None) };
        match layers::stack(self.repo, &old, &name.component, None) {
            Ok(old) => Ok(Some(old)),
            Err(LayerError::Repository(error)) => Err(error),
            Err(LayerError::Faults(_)) => Ok(None),
        }
    }

    /// Tells whether nothing of a component has to be looked at: what each of its groups of hosts
    /// would get was good once, and so was the step from what they have. What datacenters of one
    /// class share is looked at once.
    fn is_settled(&self, name: &ComponentVersion, groups: &[Group]) -> Result<bool, git2::Error> {
        for group in groups {
            let Some(new) = self.after.ingredients(self.repo, name, group.host())? else { continue };
            if !self.validator.good.lock().has(&new) {
                return Ok(false);
            }
            let Some(before) = self.before.filter(|_| !self.may_shrink) else { continue };
            let old = before.ingredients(self.repo, name, group.host())?;
            let Some(old) = old.filter(|old| *old != new) else { continue };
            if !self.validator.good.lock().has_step(&old, &new) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the schema in a component's tree.
    fn schema(&self, tree: ObjectId) -> Result<Option<(ObjectId, Vec<u8>)>, git2::Error> {
        let tree = self.repo.find_tree(tree.into())?;
        let Some(entry) = tree.get_name(FILE) else { return Ok(None) };
        // A folder or a link of that name is read as an empty schema, which is a fault.
        let bytes = self.repo.find_blob(entry.id()).map(|blob| blob.content().to_vec()).unwrap_or_default();
        Ok(Some((entry.id().into(), bytes)))
    }

    /// Applies the shrink guard to the keys of one component's settings on one group of hosts.
    fn keys(
        &mut self,
        name: &ComponentVersion,
        host: Option<&HostName>,
        stack: &Stack,
        [old, new]: [&Map<String, Value>; 2],
    ) {
        let (Some(before), Some(reason)) = (self.before, self.validator.limits.shrink.keys(old, new)) else { return };
        let content = before.component(name).map(|one| one.tree) != self.after.component(name).map(|one| one.tree);
        let files = [before, self.after].map(|view| view.overrides[0].files.get(&name.component));
        let (origin, file) = if content {
            let own = stack.layers.iter().find(|layer| layer.origin == Origin::Component);
            (Origin::Component, own.map(|layer| layer.file.clone()))
        } else if files[0] != files[1] {
            (Origin::Class, Some(Overrides::path(&name.component)))
        } else {
            (Origin::Datacenter, None)
        };
        let reference = self.after.reference(name, &origin);
        let fault = Fault { reference: Some(reference.short()), file, host: host.cloned(), ..Fault::new(reason) };
        self.found.push(Caused { fault, causes: self.after.causes(name, reference) });
    }

    /// Finds settings that are nested too deep.
    fn nesting(&mut self, name: &ComponentVersion, cases: &mut [Case]) {
        let levels = self.validator.limits.levels;
        let mut told = BTreeSet::new();
        for case in cases {
            for pointer in case.deeper_than(levels) {
                case.is_faulty = true;
                // A fault that all hosts have in common is told once.
                if told.len() < MOST_NESTED && told.insert(pointer.to_string()) {
                    let reason = format!("nested deeper than {levels} levels");
                    self.found.push(case.fault(self.after, name, SchemaFault::new(pointer.to_string(), reason)));
                }
            }
        }
    }

    /// Finds settings that ask for secrets they cannot have, and takes them out of `cases`. In the
    /// others, the name of each secret takes its place.
    fn secrets(&mut self, name: &ComponentVersion, sources: &Sources<'_>, cases: &mut Vec<Case>) {
        let secrets = Secrets::by_name(sources, &name.component);
        let mut told: BTreeSet<SecretFault> = BTreeSet::new();
        cases.retain_mut(|case| {
            let (filled, faults) = secrets.fill(&case.settings);
            case.filled = filled;
            let good = faults.is_empty();
            for fault in faults {
                if told.insert(fault.clone()) {
                    let mut found = case.fault(self.after, name, SchemaFault::new(fault.pointer, fault.reason));
                    found.fault.hides_others = true;
                    self.found.push(found);
                }
            }
            good
        });
    }

    /// Checks settings against their schema, and remembers those that are valid.
    fn against_schema(&mut self, name: &ComponentVersion, id: ObjectId, schema: &[u8], cases: &[Case]) {
        let settings: Vec<Value> =
            cases.iter().map(|case| case.filled.as_ref().unwrap_or(&case.settings).clone()).collect();
        match self.validator.schemas.check(id, schema, &settings) {
            Err(bad) => {
                let fault = SettingsFault { file: FILE.to_owned(), line: bad.line, reason: bad.reason };
                self.in_layer(name, &Origin::Component, fault);
            }
            Ok(found) => {
                // A fault that all hosts have in common is told once.
                let mut told: BTreeSet<(String, String)> = BTreeSet::new();
                for (case, mut faults) in cases.iter().zip(found) {
                    // The value of a secret is not known here, only its type.
                    let secrets = case.secret_places();
                    let in_secret = |fault: &SchemaFault| secrets.iter().any(|place| is_within(&fault.pointer, place));
                    faults.retain(|fault| fault.of_type || !in_secret(fault));
                    if faults.is_empty() {
                        self.validator.remember(case);
                    }
                    for fault in faults {
                        if told.insert((fault.pointer.clone(), fault.reason.clone())) {
                            self.found.push(case.fault(self.after, name, fault));
                        }
                    }
                }
            }
        }
    }
}
