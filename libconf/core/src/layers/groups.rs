//! Groups of hosts that share all that a component is made from, so that a check covers a whole
//! group.

use std::collections::BTreeMap;

use git2::Repository;

use crate::{
    layers::{
        layer::{Sources, overlays},
        variables::variables,
    },
    settings,
    template::Uses,
};
use libconf::name::{ComponentVersion, HostName};

/// Hosts whose settings and files of a component are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The group's listed hosts, in order of name; any one stands for all. The group without hosts
    /// stands for those that are not listed, where they run the component, or for the first host
    /// that will.
    pub hosts: Vec<HostName>,
}

impl Group {
    /// The host that stands for all; `None` for hosts that are not listed.
    pub fn host(&self) -> Option<&HostName> {
        self.hosts.first()
    }
}

/// Groups the hosts that run `component` by the layers of roles and hosts over it, and by the
/// variables that its templates read: the listed hosts, and those that are not listed, where these
/// run everything. The result is never empty; hosts without such a layer come first.
pub fn groups(
    repo: &Repository,
    sources: &Sources<'_>,
    component: &ComponentVersion,
) -> Result<Vec<Group>, git2::Error> {
    let instance = sources.instance;
    let uses = if sources.raw { None } else { Some(Uses::of(repo, sources.component_tree)?) };
    let uses = uses.filter(|uses| uses.may_read("host"));
    let mut groups: BTreeMap<_, Vec<HostName>> = BTreeMap::new();
    for host in instance.hosts.keys().filter(|host| instance.runs(host, component)) {
        let layers: Vec<_> = overlays(instance, &component.component, Some(host))
            .map(|(_, overlay)| settings::to_canonical(&overlay.values.clone().into()))
            .collect();
        let facts = uses.as_ref().and_then(|uses| uses.facts(&variables(sources, component, Some(host))));
        groups.entry((layers, facts)).or_default().push(host.clone());
    }
    let unlisted = (instance.is_open() || groups.is_empty()).then(|| Group { hosts: Vec::new() });
    Ok(groups.into_values().map(|hosts| Group { hosts }).chain(unlisted).collect())
}

/// True when the component has templates.
pub fn has_templates(repo: &Repository, sources: &Sources<'_>) -> Result<bool, git2::Error> {
    Ok(!sources.raw && *Uses::of(repo, sources.component_tree)? != Uses::NoTemplates)
}

/// True when the component's templates may read facts about the host.
pub fn differ_by_host(repo: &Repository, sources: &Sources<'_>) -> Result<bool, git2::Error> {
    Ok(!sources.raw && Uses::of(repo, sources.component_tree)?.may_read("host"))
}
