//! What a change would take away, and where: each loss in one sentence.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::layers::{self, Stack};
use conf_core::settings::{JsonPointer, SCHEMA_FILE, TEMPLATE_ENDING};
use git2::{ObjectType, Repository, TreeWalkMode, TreeWalkResult};
use libconf::name::{ComponentName, ComponentVersion, HostName};
use serde_json::{Map, Value};

use crate::catalog::{Datacenter, DatacenterChange, DatacenterView};
use crate::judge::hosts::{self, Differing};
use crate::text::{count, some_of};

/// The most sentences about one datacenter; the others are counted.
const MOST_LOSSES: usize = 50;
/// The most files, keys and hosts that a sentence names.
const MOST_NAMED: usize = 5;

/// Says what the end of a datacenter takes away.
pub(crate) fn of_datacenter(datacenter: &Datacenter) -> String {
    let instance = &datacenter.manifest.instance;
    let mut versions: BTreeMap<&ComponentName, Vec<&ComponentVersion>> = BTreeMap::new();
    datacenter.components.keys().for_each(|name| versions.entry(&name.component).or_default().push(name));
    let of = versions.iter().map(|(component, versions)| {
        let hosts = instance.hosts.keys().filter(|host| versions.iter().any(|one| instance.runs(host, one)));
        let hosts = some_of(hosts, MOST_NAMED);
        format!("{component} ({})", hosts::named(hosts, instance.is_open(), !instance.hosts.is_empty()))
    });
    format!("all later updates of {}: the files stay as they are", some_of(of, MOST_NAMED).join(", "))
}

/// Says what a change of a datacenter takes away.
pub(crate) fn of_change(
    repo: &Repository,
    change: &DatacenterChange<'_>,
    differing: &Differing,
) -> Result<Vec<String>, git2::Error> {
    let Some(before) = &change.before else { return Ok(Vec::new()) };
    let finding = Finding { repo, change, before, after: &change.after };
    let mut losses = Vec::new();
    let class = |view: &DatacenterView<'_>| view.class_ref().short();
    if class(before) != class(&change.after) {
        losses.push(format!("its class {}: {} comes in its place", class(before), class(&change.after)));
    }
    let known = before.manifest.requests.keys();
    let (mut stay, mut go): (Vec<&ComponentVersion>, Vec<&ComponentVersion>) =
        known.partition(|name| change.after.component(name).is_some());
    stay.retain(|name| differing.contains_key(*name));
    go.retain(|name| before.component(name).is_some() && !change.after.manifest.requests.contains_key(*name));
    for name in go {
        finding.gone(name, &mut losses)?;
    }
    for name in stay {
        finding.pinned_back(name, name, &mut losses)?;
        finding.content(name, name, &mut losses)?;
    }
    finding.secrets(&mut losses);
    if let more @ 1.. = losses.len().saturating_sub(MOST_LOSSES) {
        losses.truncate(MOST_LOSSES);
        losses.push(format!("and {more} more"));
    }
    Ok(losses)
}

struct Finding<'a, 'v> {
    repo: &'a Repository,
    change: &'a DatacenterChange<'v>,
    before: &'a DatacenterView<'v>,
    after: &'a DatacenterView<'v>,
}

impl Finding<'_, '_> {
    /// Finds what goes with a component: all of it, unless another version comes in its place.
    fn gone(&self, name: &ComponentVersion, losses: &mut Vec<String>) -> Result<(), git2::Error> {
        let is_new = |one: &&ComponentVersion| {
            one.component == name.component && !self.before.manifest.requests.contains_key(*one)
        };
        let mut new = self.after.manifest.requests.keys().filter(is_new);
        let place = self.on_hosts([&name.component]);
        match (new.next(), new.next()) {
            (Some(new), None) if self.after.component(new).is_some() => {
                losses.push(format!("the path {name}, {place}: programs must read {new} instead"));
                self.pinned_back(name, new, losses)?;
                self.content(name, new, losses)
            }
            _ => {
                let files = match self.files(self.before, name)?.len() {
                    1 => "its only file".to_owned(),
                    many => format!("all of its {}", count(many, "file")),
                };
                losses.push(format!("{name}, {files}, {place}"));
                Ok(())
            }
        }
    }

    /// Finds a component that goes back to an earlier commit.
    fn pinned_back(
        &self,
        old: &ComponentVersion,
        new: &ComponentVersion,
        losses: &mut Vec<String>,
    ) -> Result<(), git2::Error> {
        let (Some(before), Some(after)) = (self.before.component(old), self.after.component(new)) else {
            return Ok(());
        };
        let (ahead, behind) = self.repo.graph_ahead_behind(after.pin.commit.into(), before.pin.commit.into())?;
        if ahead == 0 && behind > 0 {
            losses.push(format!(
                "{} goes back {}, from {} to {}, {}",
                subject(old, new),
                count(behind, "commit"),
                before.pin.commit.short(),
                after.pin.commit.short(),
                self.on_hosts([&old.component])
            ));
        }
        Ok(())
    }

    /// Finds the files, the schema and the keys of settings that a component loses.
    fn content(
        &self,
        old: &ComponentVersion,
        new: &ComponentVersion,
        losses: &mut Vec<String>,
    ) -> Result<(), git2::Error> {
        let (mut before, mut after) = (self.files(self.before, old)?, self.files(self.after, new)?);
        let schemas = [&mut before, &mut after].map(|files| files.remove(SCHEMA_FILE));
        let (subject, place) = (subject(old, new), self.on_hosts([&old.component]));
        let lost: Vec<&String> = before.difference(&after).collect();
        if !lost.is_empty() {
            let (number, all) = (lost.len(), count(before.len(), "file"));
            let named = some_of(lost, MOST_NAMED).join(", ");
            losses.push(format!("{subject}: {number} of the {all} ({named}), {place}"));
        }
        if schemas == [true, false] {
            losses.push(format!(
                "{subject}: the schema {SCHEMA_FILE}, {place}: nothing would check the settings any more"
            ));
        }
        let (was, is) = (self.stack(self.before, old), self.stack(self.after, new));
        let mut alike: BTreeMap<Vec<String>, (usize, Vec<Option<HostName>>)> = BTreeMap::new();
        let groups =
            if old == new { self.change.groups(self.repo, new)? } else { self.after.groups(self.repo, new)? };
        for group in groups {
            if self.before.ingredients(self.repo, old, group.host())?.is_none() {
                continue;
            }
            let before = on_host(was.as_ref(), self.before, old, group.host());
            let after = on_host(is.as_ref(), self.after, new, group.host());
            let mut keys = Vec::new();
            lost_keys(&before, Some(&after), &JsonPointer::default(), &mut keys);
            if !keys.is_empty() {
                keys.sort();
                let (_, hosts) = alike.entry(keys).or_insert((leaves(&before), Vec::new()));
                let keeps = |host: &HostName| self.after.manifest.instance.shuts_out(host);
                if group.hosts.is_empty() {
                    hosts.push(None);
                } else {
                    hosts.extend(group.hosts.into_iter().filter(|host| !keeps(host)).map(Some));
                }
            }
        }
        for (keys, (all, mut hosts)) in alike {
            if hosts.is_empty() {
                continue;
            }
            hosts.sort();
            let place = if hosts == [None] {
                place.clone()
            } else {
                let named = hosts.iter().map(|host| host.as_ref().map_or("unlisted hosts", HostName::as_str));
                format!("on {}", some_of(named, MOST_NAMED).join(", "))
            };
            let share = match keys.len() {
                number if number == all => format!("all {}", count(all, "key")),
                number => format!("{number} of the {}", count(all, "key")),
            };
            let named = some_of(&keys, MOST_NAMED).join(", ");
            losses.push(format!("{subject}: {share} of the settings ({named}), {place}"));
        }
        Ok(())
    }

    /// Finds the components that may read a secret no more, although they run.
    fn secrets(&self, losses: &mut Vec<String>) {
        let runs: BTreeSet<&ComponentName> = self.after.manifest.requests.keys().map(|one| &one.component).collect();
        for (name, declared) in &self.before.manifest.secrets {
            let left = self.after.manifest.secrets.get(name);
            let reads = |reader: &&ComponentName| left.is_some_and(|left| left.declaration.readers.contains(reader));
            let gone: Vec<&ComponentName> = declared.declaration.readers.iter().filter(|one| !reads(one)).collect();
            if left.is_none() {
                let named = some_of(&gone, MOST_NAMED).join(", ");
                losses.push(format!(
                    "the secret {name}: it would not be declared any more, and {named} could no longer read it, {}",
                    self.on_hosts(gone)
                ));
                continue;
            }
            for reader in gone.into_iter().filter(|reader| runs.contains(reader)) {
                losses
                    .push(format!("the secret {name}: {reader} could no longer read it, {}", self.on_hosts([reader])));
            }
        }
    }

    /// Lists the files of a component by the names that readers see.
    fn files(&self, view: &DatacenterView<'_>, name: &ComponentVersion) -> Result<BTreeSet<String>, git2::Error> {
        let (mut files, raw) = (BTreeSet::new(), view.sources(name).is_some_and(|sources| sources.raw));
        let Some(component) = view.component(name) else { return Ok(files) };
        self.repo.find_tree(component.tree.into())?.walk(TreeWalkMode::PreOrder, |folder, entry| {
            if entry.kind() == Some(ObjectType::Blob) {
                let path = format!("{folder}{}", String::from_utf8_lossy(entry.name_bytes()));
                let shown = path.strip_suffix(TEMPLATE_ENDING).filter(|_| !raw).unwrap_or(&path);
                files.insert(shown.to_owned());
            }
            TreeWalkResult::Ok
        })?;
        Ok(files)
    }

    /// Reads the layers that all hosts have in common.
    fn stack(&self, view: &DatacenterView<'_>, name: &ComponentVersion) -> Option<Stack> {
        // Layers that cannot be read are refused elsewhere.
        layers::stack(self.repo, &view.sources(name)?, &name.component, None).ok()
    }

    /// Names the hosts that run one of some components before the change, without those that keep
    /// their files.
    fn on_hosts<'c>(&self, components: impl IntoIterator<Item = &'c ComponentName>) -> String {
        let (instance, components): (_, BTreeSet<_>) =
            (&self.before.manifest.instance, components.into_iter().collect());
        let known = self.before.manifest.requests.keys();
        let versions: Vec<&ComponentVersion> = known.filter(|one| components.contains(&one.component)).collect();
        let hosts = hosts::followed(self.change);
        let hosts = hosts.into_iter().filter(|host| versions.iter().any(|one| instance.runs(host, one)));
        let unlisted = instance.is_open() && self.after.manifest.instance.is_open();
        format!("on {}", hosts::named(some_of(hosts, MOST_NAMED), unlisted, hosts::lists_hosts(self.before)))
    }
}

/// Names a component; where another version comes in its place, both.
fn subject(old: &ComponentVersion, new: &ComponentVersion) -> String {
    if old == new { old.to_string() } else { format!("{new} in place of {old}") }
}

/// Returns the settings on a host.
fn on_host(
    common: Option<&Stack>,
    view: &DatacenterView<'_>,
    name: &ComponentVersion,
    host: Option<&HostName>,
) -> Map<String, Value> {
    let stack = common.cloned().map(|stack| stack.on_host(&view.manifest.instance, &name.component, host));
    stack.map(|stack| stack.merged()).unwrap_or_default()
}

/// Counts the values of settings: an object counts for its members.
fn leaves(settings: &Map<String, Value>) -> usize {
    let of = |value: &Value| match value {
        Value::Object(inner) if !inner.is_empty() => leaves(inner),
        _ => 1,
    };
    settings.values().map(of).sum()
}

/// Collects the keys of values that settings lose.
fn lost_keys(
    before: &Map<String, Value>,
    after: Option<&Map<String, Value>>,
    at: &JsonPointer,
    lost: &mut Vec<String>,
) {
    for (key, old) in before {
        let place = at.join(key);
        match (old, after.and_then(|after| after.get(key))) {
            (Value::Object(old), new) if !old.is_empty() => {
                lost_keys(old, new.and_then(Value::as_object), &place, lost);
            }
            (_, None) => lost.push(place.to_string()),
            (_, Some(_)) => {}
        }
    }
}
