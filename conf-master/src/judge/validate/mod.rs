//! Whether what a datacenter would run can be: layers that can be read, settings as their schema says on every host, within the
//! limits, and not suddenly much less.
//!
//! It is the code by which hosts render, and it looks at what a change touches, not at what exists: components whose content
//! or layers differ, and of their hosts one for all that share all layers. What was once found good is not looked at again.

mod shrink;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use conf_core::{
    git,
    layers::{self, Ingredients, LayerError, Origin, Overrides, Sources, Stack},
    manifest::{self, Overlay},
    render::{RenderError, SecretFault, Secrets, Templates},
    settings::{self, JsonPointer, SettingsFault},
};
use git2::Repository;
use libconf::name::{ComponentName, ComponentVersion, DatacenterName, HostName, ObjectId, RefName};
use serde_json::{Map, Value};

use crate::catalog::side::{self, Side};
pub use crate::judge::validate::shrink::MaxShrink;

use crate::{
    catalog::{Datacenter, Delta, resolve::Caused},
    fault::refusal::Fault,
    judge::{
        compatibility::Comparisons,
        endless::{Endless, Known},
        schema::{self, SchemaFault, Schemas},
    },
    secrets::Keeper,
};

/// What may not be passed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the tree of a branch.
    pub tree: git::TreeLimits,
    /// Levels of lists and objects in settings.
    pub levels: usize,
    /// How much may be removed at once.
    pub shrink: MaxShrink,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { tree: git::TreeLimits::default(), levels: settings::MAX_DEPTH, shrink: MaxShrink::default() }
    }
}

/// The most groups of hosts whose settings are held against a schema in one question.
const GROUPS_AT_ONCE: usize = 200;
/// The processor time that one look may spend on the templates of one component: landings wait for it. Honest ones take a
/// millisecond for each group of hosts.
const TEMPLATES: Duration = Duration::from_secs(20);
/// What was found good is remembered for so many groups of hosts; then all is forgotten.
const MOST_GOOD: usize = 200_000;
/// How many trees' overrides are remembered; then all are forgotten.
const MOST_OVERRIDES: usize = 1000;

/// Validates, and remembers what was good.
#[derive(Debug, Default)]
pub struct Validator {
    /// What may not be passed.
    pub limits: Limits,
    /// What keeps the sealed secrets, and knows which have values.
    pub secrets: Keeper,
    /// What was compared of schemas.
    pub comparisons: Comparisons,
    schemas: Schemas,
    /// Trees with templates that took all the time there is, and what was told of them.
    templates: Endless<SettingsFault>,
    good: Mutex<BTreeSet<Ingredients>>,
    overrides: Mutex<HashMap<ObjectId, Arc<Overrides>>>,
}

impl Validator {
    /// A validator with these limits, which remembers nothing yet.
    pub fn new(limits: Limits) -> Self {
        Validator { limits, ..Validator::default() }
    }

    /// One that can make and seal secrets.
    #[must_use]
    pub fn with_secrets(self, secrets: Keeper) -> Self {
        Validator { secrets, ..self }
    }

    /// Everything that is wrong with a datacenter after `delta`, of what it changes; with no `before`, of everything. An error
    /// is the repository's, and nobody's fault.
    pub fn faults(
        &self,
        repo: &Repository,
        name: &DatacenterName,
        before: Option<&Datacenter>,
        delta: &Delta,
        may_shrink: bool,
    ) -> Result<Vec<Caused>, git2::Error> {
        let overrides = |tree: ObjectId| self.overrides(repo, tree);
        let Some(after) = Side::after(name, before, delta, &overrides)? else { return Ok(Vec::new()) };
        let before = before.map(|before| Side::before(name, before, &overrides)).transpose()?;
        let mut looking =
            Looking { validator: self, repo, before: before.as_ref(), after: &after, may_shrink, found: Vec::new() };
        if delta.manifest.is_some() {
            looking.without_effect();
            looking.components();
        }
        for component in side::affected(repo, before.as_ref(), &after, delta)? {
            looking.component(&component)?;
        }
        let mut found = looking.found;
        found.iter_mut().for_each(|caused| caused.fault.datacenter = Some(name.clone()));
        Ok(found)
    }

    /// The components whose content or layers `delta` changes on some host, or that it removes.
    pub fn touched(
        &self,
        repo: &Repository,
        name: &DatacenterName,
        before: Option<&Datacenter>,
        delta: &Delta,
    ) -> Result<BTreeSet<ComponentVersion>, git2::Error> {
        let overrides = |tree: ObjectId| self.overrides(repo, tree);
        let mut touched: BTreeSet<ComponentVersion> = delta.components.keys().cloned().collect();
        if let Some(after) = Side::after(name, before, delta, &overrides)? {
            let before = before.map(|before| Side::before(name, before, &overrides)).transpose()?;
            touched.extend(side::affected(repo, before.as_ref(), &after, delta)?);
        }
        Ok(touched)
    }

    /// What stands in `overrides/` of a tree.
    pub(crate) fn overrides(&self, repo: &Repository, tree: ObjectId) -> Result<Arc<Overrides>, git2::Error> {
        let mut known = self.overrides.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(overrides) = known.get(&tree) {
            return Ok(overrides.clone());
        }
        let overrides = Arc::new(Overrides::read(repo, tree)?);
        if known.len() >= MOST_OVERRIDES {
            known.clear();
        }
        known.insert(tree, overrides.clone());
        Ok(overrides)
    }

    fn is_good(&self, ingredients: &Ingredients) -> bool {
        self.good.lock().unwrap_or_else(PoisonError::into_inner).contains(ingredients)
    }

    fn remember(&self, ingredients: Ingredients) {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= MOST_GOOD {
            good.clear();
        }
        good.insert(ingredients);
    }
}

/// One look at one datacenter.
struct Looking<'a> {
    validator: &'a Validator,
    repo: &'a Repository,
    before: Option<&'a Side<'a>>,
    after: &'a Side<'a>,
    may_shrink: bool,
    found: Vec<Caused>,
}

/// A group of hosts of which something is to be looked at.
struct Case {
    host: Option<HostName>,
    ingredients: Ingredients,
    stack: Stack,
    settings: Value,
    /// The same with something in the place of each secret.
    filled: Option<Value>,
}

impl Looking<'_> {
    fn fault(&mut self, reference: &RefName, file: &str, line: Option<usize>, reason: impl Into<String>) {
        let causes = vec![reference.clone(), self.after.class_ref(), self.after.own_ref()];
        self.found.push(Caused { fault: Fault::of_file(reference, file, line, reason), causes });
    }

    /// Layers over what the datacenter does not run: one without effect would mislead.
    fn without_effect(&mut self) {
        let mut runs: BTreeMap<&ComponentName, bool> = BTreeMap::new();
        for (name, request) in self.after.requests {
            *runs.entry(&name.component).or_default() |= !request.raw;
        }
        let why_not = |component: &ComponentName| match runs.get(component) {
            Some(true) => None,
            Some(false) => {
                Some(format!("{component} is pinned with `raw: true`, so it has no settings; take this out"))
            }
            None => Some(format!(
                "{component} is run neither by the class nor by {}; add it there, or take this out",
                self.after.name
            )),
        };
        let mut found: Vec<(RefName, String, Option<usize>, String)> = Vec::new();
        let references = [self.after.class_ref(), self.after.own_ref()];
        for (reference, overrides) in references.iter().zip(&self.after.overrides) {
            let stray = "this is no layer; layers are overrides/<kind>/<name>.yaml, where <kind> is services, applications or \
                         devices";
            found.extend(overrides.strays.iter().map(|path| (reference.clone(), path.clone(), None, stray.to_owned())));
            let useless = overrides.files.keys().filter_map(|component| {
                Some((reference.clone(), Overrides::path(component), None, why_not(component)?))
            });
            found.extend(useless);
        }
        let of_roles = self.after.instance.roles.values().flat_map(|role| &role.settings);
        let of_hosts = self.after.instance.hosts.values().flat_map(|host| &host.settings);
        let useless = of_roles.chain(of_hosts).filter_map(|(component, overlay): (&ComponentName, &Overlay)| {
            let line = overlay.lines.at(&JsonPointer::default());
            Some((self.after.own_ref(), manifest::FILE.to_owned(), line, why_not(component)?))
        });
        found.extend(useless);
        for (reference, file, line, reason) in found {
            self.fault(&reference, &file, line, reason);
        }
    }

    /// The shrink guard over the components.
    fn components(&mut self) {
        let Some(before) = self.before.filter(|_| !self.may_shrink) else { return };
        let Some(reason) = self.validator.limits.shrink.components(before, self.after) else { return };
        let by_class = before.trees[0] != self.after.trees[0] && before.trees[1] == self.after.trees[1];
        let reference = if by_class { self.after.class_ref() } else { self.after.own_ref() };
        self.fault(&reference, manifest::FILE, None, reason);
    }

    /// Everything about one component.
    fn component(&mut self, name: &ComponentVersion) -> Result<(), git2::Error> {
        let Some(sources) = self.after.sources(name) else { return Ok(()) };
        let schema = if sources.raw { None } else { self.schema(sources.component_tree)? };
        let common = match layers::stack(self.repo, &sources, &name.component, None) {
            Ok(common) => common,
            Err(LayerError::Repository(error)) => return Err(error),
            Err(LayerError::Faults(faults)) => {
                for layers::LayerFault { origin, fault } in faults {
                    let reference = self.after.reference(name, &origin);
                    let causes = self.after.causes(name, reference.clone());
                    let fault = Fault::of_file(&reference, &fault.file, fault.line, fault.reason);
                    self.found.push(Caused { fault, causes });
                }
                // Whether the schema is one can be said all the same.
                if let Some((id, bytes)) = schema {
                    self.against_schema(name, id, &bytes, &[]);
                }
                return Ok(());
            }
        };
        let old_common = match self.before.filter(|_| !self.may_shrink).and_then(|before| before.sources(name)) {
            Some(old) => layers::stack(self.repo, &old, &name.component, None).ok(),
            None => None,
        };
        let mut cases = Vec::new();
        for group in self.after.groups(self.repo, name)? {
            let host = group.host();
            let Some(ingredients) = self.after.ingredients(self.repo, name, host)? else { continue };
            if let Some(before) = self.before
                && before.ingredients(self.repo, name, host)?.as_ref() == Some(&ingredients)
            {
                continue;
            }
            let stack = common.clone().on_host(self.after.instance, &name.component, host);
            let settings = stack.merged();
            if let (Some(old), Some(before)) = (&old_common, self.before) {
                let old = old.clone().on_host(before.instance, &name.component, host).merged();
                self.keys(name, host, &stack, [&old, &settings]);
            }
            if !self.validator.is_good(&ingredients) {
                cases.push(Case {
                    host: host.cloned(),
                    ingredients,
                    stack,
                    settings: Value::Object(settings),
                    filled: None,
                });
            }
        }
        self.nesting(name, &mut cases);
        self.secrets(name, &sources, &mut cases);
        self.templates(name, &sources, &mut cases)?;
        match schema {
            None => cases.into_iter().for_each(|case| self.validator.remember(case.ingredients)),
            Some((id, bytes)) => {
                for cases in cases.chunks(GROUPS_AT_ONCE) {
                    self.against_schema(name, id, &bytes, cases);
                }
            }
        }
        Ok(())
    }

    /// The schema in a component's tree.
    fn schema(&self, tree: ObjectId) -> Result<Option<(ObjectId, Vec<u8>)>, git2::Error> {
        let tree = self.repo.find_tree(tree.into())?;
        let Some(entry) = tree.get_name(schema::FILE) else { return Ok(None) };
        // A folder or a link of that name is no schema, and says so when it is read as one.
        let bytes = self.repo.find_blob(entry.id()).map(|blob| blob.content().to_vec()).unwrap_or_default();
        Ok(Some((entry.id().into(), bytes)))
    }

    /// The shrink guard over the keys of one component's settings on one group of hosts.
    fn keys(
        &mut self,
        name: &ComponentVersion,
        host: Option<&HostName>,
        stack: &Stack,
        [old, new]: [&Map<String, Value>; 2],
    ) {
        let (Some(before), Some(reason)) = (self.before, self.validator.limits.shrink.keys(old, new)) else { return };
        let content = before.component(name).map(|one| one.tree) != self.after.component(name).map(|one| one.tree);
        let files = [before, self.after].map(|side| side.overrides[0].files.get(&name.component));
        let (origin, file) = if content {
            let own = stack.layers.iter().find(|layer| layer.origin == Origin::Component);
            (Origin::Component, own.map(|layer| layer.file.clone()))
        } else if files[0] != files[1] {
            (Origin::Class, Some(Overrides::path(&name.component)))
        } else {
            (Origin::Datacenter, None)
        };
        let reference = self.after.reference(name, &origin);
        let causes = self.after.causes(name, reference.clone());
        let fault = Fault { reference: Some(reference.short()), file, host: host.cloned(), ..Fault::new(reason) };
        self.found.push(Caused { fault, causes });
    }

    /// Settings that are nested too deep; takes them out of `cases`.
    fn nesting(&mut self, name: &ComponentVersion, cases: &mut Vec<Case>) {
        let levels = self.validator.limits.levels;
        cases.retain(|case| {
            let Some(pointer) = deeper(&case.settings, levels) else { return true };
            let reason = format!("nested deeper than {levels} levels");
            self.at(name, case, SchemaFault::new(pointer.to_string(), reason));
            false
        });
    }

    /// Settings that ask for secrets in vain; takes them out of `cases`. In the others, each is put by its name.
    fn secrets(&mut self, name: &ComponentVersion, sources: &Sources<'_>, cases: &mut Vec<Case>) {
        let secrets = Secrets::by_name(sources, &name.component);
        let mut told: BTreeSet<SecretFault> = BTreeSet::new();
        cases.retain_mut(|case| {
            let (filled, faults) = secrets.fill(&case.settings);
            case.filled = filled;
            let good = faults.is_empty();
            for fault in faults {
                if told.insert(fault.clone()) {
                    self.at(name, case, SchemaFault::new(fault.pointer, fault.reason));
                }
            }
            good
        });
    }

    /// Templates that cannot be rendered on some group of hosts; takes those out of `cases`.
    fn templates(
        &mut self,
        name: &ComponentVersion,
        sources: &Sources<'_>,
        cases: &mut Vec<Case>,
    ) -> Result<(), git2::Error> {
        let reference = self.after.reference(name, &Origin::Component);
        let causes = self.after.causes(name, reference.clone());
        let fault = |SettingsFault { file, line, reason }, host: Option<&HostName>| {
            let mut fault = Fault { host: host.cloned(), ..Fault::of_file(&reference, &file, line, reason) };
            fault.file = fault.file.filter(|file| !file.is_empty());
            Caused { fault, causes: causes.clone() }
        };
        let templates = match Templates::read(self.repo, sources) {
            Ok(Some(templates)) => templates,
            Ok(None) => return Ok(()),
            Err(RenderError::Repository(error)) => return Err(error),
            Err(RenderError::Templates(faults)) => {
                self.found.extend(faults.into_iter().map(|one| fault(one, None)));
                cases.clear();
                return Ok(());
            }
            Err(RenderError::Fault(reason)) => {
                self.fault(&reference, "", None, reason);
                return Ok(());
            }
        };
        if cases.is_empty() {
            return Ok(());
        }
        let without_place = |reason: &str| SettingsFault { file: String::new(), line: None, reason: reason.to_owned() };
        let endless = match self.validator.templates.known(sources.component_tree) {
            Known::Nothing => None,
            Known::Endless(told) => {
                let reason = format!("{} So it was less than a minute ago; then it is looked at again.", told.reason);
                Some(SettingsFault { reason, ..told })
            }
            Known::TooMany => {
                Some(without_place("other templates took up all the time there is; push again in a minute"))
            }
        };
        if let Some(endless) = endless {
            self.found.push(fault(endless, None));
            cases.clear();
            return Ok(());
        }
        let secrets = Secrets::by_name(sources, &name.component);
        let mut told = BTreeSet::new();
        let by_host = layers::differ_by_host(self.repo, sources)?;
        let (mut left, mut over) = (TEMPLATES, false);
        cases.retain(|case| {
            if over {
                return false;
            }
            if left.is_zero() {
                over = true;
                let words = "this component's templates take more than 20 s of processor time for all hosts together; let them \
                             do less, or let fewer variables differ by host";
                self.found.push(fault(without_place(words), None));
                return false;
            }
            let looked = templates.look(sources, name, case.host.as_ref(), &case.settings, &secrets);
            left = left.saturating_sub(looked.spent);
            if looked.endless {
                // On the next host it would take as long again.
                over = true;
                let told = looked.faults.first().cloned();
                self.validator.templates.remember(sources.component_tree, told.unwrap_or_else(|| without_place("")));
            }
            let good = looked.faults.is_empty();
            for one in looked.faults {
                // What many hosts have in common is told once, of the first.
                if told.insert((one.file.clone(), one.line, one.reason.clone())) {
                    let layered = case.stack.layers.iter().any(|layer| layer.origin.is_of_hosts());
                    self.found.push(fault(one, case.host.as_ref().filter(|_| by_host || layered)));
                }
            }
            good
        });
        Ok(())
    }

    /// Holds settings against their schema, and remembers those that are as it says.
    fn against_schema(&mut self, name: &ComponentVersion, id: ObjectId, schema: &[u8], cases: &[Case]) {
        // A secret stands there by its name.
        let places: Vec<Vec<String>> = cases.iter().map(|case| asked(&case.settings)).collect();
        let settings: Vec<Value> =
            cases.iter().map(|case| case.filled.as_ref().unwrap_or(&case.settings).clone()).collect();
        match self.validator.schemas.check(id, schema, &settings) {
            Err(bad) => {
                let reference = self.after.reference(name, &Origin::Component);
                let causes = self.after.causes(name, reference.clone());
                let fault = Fault::of_file(&reference, schema::FILE, bad.line, bad.reason);
                if !self.found.iter().any(|found| found.fault == fault) {
                    self.found.push(Caused { fault, causes });
                }
            }
            Ok(found) => {
                // What all hosts have in common is told once.
                let mut told: BTreeSet<(String, String)> = BTreeSet::new();
                for ((case, places), mut faults) in cases.iter().zip(places).zip(found) {
                    // What its value is like nobody knows here, but for its type.
                    faults
                        .retain(|fault| fault.of_type || !places.iter().any(|place| is_within(&fault.pointer, place)));
                    if faults.is_empty() {
                        self.validator.remember(case.ingredients.clone());
                    }
                    for fault in faults {
                        if told.insert((fault.pointer.clone(), fault.reason.clone())) {
                            self.at(name, case, fault);
                        }
                    }
                }
            }
        }
    }

    /// A fault at a place in the settings: in the file of the layer that had the last word there.
    fn at(&mut self, name: &ComponentVersion, case: &Case, SchemaFault { pointer, reason, .. }: SchemaFault) {
        let Ok(place) = pointer.parse::<JsonPointer>();
        // Where nothing is said of the place itself, what is around it lacks something.
        let mut around = (0..=place.parts().len()).rev().map(|length| {
            place.parts()[..length].iter().fold(JsonPointer::default(), |place, part| place.join(part)).to_string()
        });
        let layer = around.find_map(|place| Some((case.stack.winner(&place)?, place)));
        let (origin, file, line) = match &layer {
            Some((layer, place)) => (&layer.origin, layer.file.as_str(), layer.line_of(place)),
            None => match case.stack.layers.first() {
                Some(layer) => (&layer.origin, layer.file.as_str(), None),
                None => (&Origin::Component, schema::FILE, None),
            },
        };
        let reference = self.after.reference(name, origin);
        let causes = self.after.causes(name, reference.clone());
        let mut fault = Fault { pointer: Some(pointer), ..Fault::of_file(&reference, file, line, reason) };
        // What all hosts have in common is no one host's.
        if case.stack.layers.iter().any(|layer| layer.origin.is_of_hosts()) {
            fault.host.clone_from(&case.host);
        }
        self.found.push(Caused { fault, causes });
    }
}

/// True when a JSON Pointer leads to a place or to something in it.
fn is_within(pointer: &str, place: &str) -> bool {
    pointer.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The JSON Pointers at which a secret is asked for.
fn asked(settings: &Value) -> Vec<String> {
    fn look(value: &Value, at: &JsonPointer, found: &mut Vec<String>) {
        match value {
            asking if settings::asked_secret(asking).is_some() => found.push(at.to_string()),
            Value::Object(members) => members.iter().for_each(|(key, inner)| look(inner, &at.join(key), found)),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(number, inner)| look(inner, &at.join(&number.to_string()), found));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    look(settings, &JsonPointer::default(), &mut found);
    found
}

/// The first place that is nested deeper than so many levels.
fn deeper(value: &Value, levels: usize) -> Option<JsonPointer> {
    fn look(value: &Value, left: usize, at: &JsonPointer) -> Option<JsonPointer> {
        let mut inner: Box<dyn Iterator<Item = (String, &Value)>> = match value {
            Value::Array(_) | Value::Object(_) if left == 0 => return Some(at.clone()),
            Value::Array(items) => Box::new(items.iter().enumerate().map(|(number, item)| (number.to_string(), item))),
            Value::Object(members) => Box::new(members.iter().map(|(key, item)| (key.clone(), item))),
            _ => return None,
        };
        inner.find_map(|(key, item)| match item {
            Value::Array(_) | Value::Object(_) => look(item, left - 1, &at.join(&key)),
            _ => None,
        })
    }
    look(value, levels, &JsonPointer::default())
}
