//! The secret sources that hosts must offer: only a host's own file decides what it reads or runs,
//! so a change that relies on it says which hosts it relies on.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::secret::Source;
use libconf::name::{HostName, SourceName};

use crate::catalog::{DatacenterChange, DatacenterView};
use crate::judge::reporting::ReportingHosts;
use crate::secrets::decide::readers;
use crate::text::some_of;

/// The most hosts that a note names.
const MOST_NAMED: usize = 5;
/// The most sources of a datacenter that are told.
const MOST_SOURCES: usize = 20;

/// The hosts that read each source.
#[derive(Debug, Default, PartialEq, Eq)]
struct Users<'a> {
    listed: BTreeSet<&'a HostName>,
    /// Hosts that the inventory does not list read it too.
    unlisted: bool,
}

/// Says which hosts must offer a source that they did not need before. That one does not offer it
/// refuses nothing: its file may be written later.
pub(crate) fn notes(change: &DatacenterChange<'_>, reporting: &ReportingHosts) -> Vec<String> {
    if change.delta.manifest.is_none() {
        return Vec::new();
    }
    let after = users(&change.after);
    if after.is_empty() {
        return Vec::new();
    }
    let before = change.before.as_ref().map(users).unwrap_or_default();
    let (name, instance) = (change.after.name, &change.after.manifest.instance);
    let offering: BTreeMap<HostName, Vec<SourceName>> = reporting.ask(name).into_iter().collect();
    let offers = |host: &HostName, source| offering.get(host).is_some_and(|offered| offered.contains(source));
    let mut told = Vec::new();
    let mut more = 0;
    for (source, users) in after {
        let known = before.get(source);
        let is_new = |host: &&HostName| known.is_none_or(|known| !known.listed.contains(*host));
        let new: Vec<&HostName> = users.listed.iter().copied().filter(is_new).collect();
        let new_unlisted = users.unlisted && known.is_none_or(|known| !known.unlisted);
        if new.is_empty() && !new_unlisted {
            continue;
        }
        if told.len() == MOST_SOURCES {
            more += 1;
            continue;
        }
        let unlisted = offering.keys().filter(|host| new_unlisted && !instance.hosts.contains_key(*host));
        let missing: Vec<&HostName> = new.into_iter().chain(unlisted).filter(|host| !offers(host, source)).collect();
        let mut words = format!("hosts of {name} must offer secret source {source}");
        match some_of(&missing, MOST_NAMED).join(", ") {
            missing if missing.is_empty() => {}
            missing => words = format!("{words}; not known to offer it: {missing}"),
        }
        told.push(words);
    }
    if more > 0 {
        told.push(format!("hosts of {name} must offer {more} more secret sources"));
    }
    told
}

fn users<'a>(view: &'a DatacenterView<'_>) -> BTreeMap<&'a SourceName, Users<'a>> {
    let manifest = view.manifest;
    let mut found: BTreeMap<&SourceName, Users<'_>> = BTreeMap::new();
    for declared in manifest.secrets.values() {
        let Source::Host(source) = &declared.declaration.source else { continue };
        let users = found.entry(source).or_default();
        users
            .listed
            .extend(readers(&manifest.instance, &manifest.requests, &declared.declaration).map(|(host, _)| host));
        let runs_any = || manifest.requests.keys().any(|one| declared.declaration.readers.contains(&one.component));
        users.unlisted |= manifest.instance.is_open() && runs_any();
    }
    found.retain(|_, users| users.unlisted || !users.listed.is_empty());
    found
}
