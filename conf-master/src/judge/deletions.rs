//! Deletions that take away a datacenter, a class, or the last branch of a component: each must be
//! named, so that a slip of the hand or `git push --mirror` takes nothing away.

use std::collections::BTreeSet;

use libconf::name::{ComponentName, DatacenterName, RefName};

use crate::catalog::Catalog;
use crate::fault::{Caused, Fault};
use crate::store::RefChanges;
use crate::text::{count, some_of};

/// The most hosts or datacenters that a refusal names.
const MOST_NAMED: usize = 5;

/// Finds the deletions that must be named by `-o delete=<ref>`, and that `named` does not hold.
pub(crate) fn unnamed(catalog: &Catalog, changes: &RefChanges, named: &BTreeSet<RefName>) -> Vec<Caused> {
    let deleted = changes.iter().filter(|(name, new)| new.is_none() && !named.contains(name)).map(|(name, _)| name);
    let deleted: Vec<&RefName> = deleted.collect();
    if deleted.is_empty() {
        return Vec::new();
    }
    let proposed = catalog.proposed(changes);
    let all = catalog.table.iter().map(|(name, _)| name).chain(changes.keys());
    let kept: BTreeSet<&ComponentName> = all.filter(|name| proposed.target(name).is_some()).filter_map(of).collect();
    let lost = deleted.into_iter().filter_map(|name| {
        let loss = match name {
            RefName::Datacenter(datacenter) => of_datacenter(catalog, datacenter),
            RefName::Class(class) => format!("the class {class}, which {}", run_by(catalog, name)),
            RefName::Branch(component, _) if !kept.contains(component) => {
                format!("the last branch of {component}, which {}", run_by(catalog, name))
            }
            _ => return None,
        };
        let short = name.short();
        let reason = format!("this would delete {loss}; if you mean it, push again with `-o delete={short}`");
        Some(Caused { fault: Fault::new(reason), causes: vec![name.clone()] })
    });
    lost.collect()
}

/// Returns the component whose branch this is.
fn of(name: &RefName) -> Option<&ComponentName> {
    match name {
        RefName::Branch(component, _) => Some(component),
        _ => None,
    }
}

/// Says what goes with a datacenter.
fn of_datacenter(catalog: &Catalog, name: &DatacenterName) -> String {
    let Some(datacenter) = catalog.datacenter(name) else {
        return format!("the datacenter {name}: its hosts would keep their last files, and get no change any more");
    };
    let hosts = &datacenter.manifest.instance.hosts;
    let hosts = match hosts.len() {
        0 => "all of its hosts".to_owned(),
        many => format!("its {} ({})", count(many, "host"), some_of(hosts.keys(), MOST_NAMED).join(", ")),
    };
    let components = count(datacenter.components.len(), "component");
    format!("the datacenter {name} with {components}: {hosts} would keep their last files, and get no change any more")
}

/// Says which datacenters run what this ref holds.
fn run_by(catalog: &Catalog, name: &RefName) -> String {
    let readers = catalog.readers(name);
    match readers.len() {
        0 => "no datacenter runs".to_owned(),
        1 => format!("{} runs", some_of(readers, 1).join("")),
        many => format!("{} run ({})", count(many, "datacenter"), some_of(readers, MOST_NAMED).join(", ")),
    }
}
