//! The ingredients of a component on one host. Only templates are read, each tree once.

use git2::Repository;
use sha2::{Digest as _, Sha256};

use crate::{
    layers::{
        layer::{LinkPolicy, Sources, overlays},
        overrides::Overrides,
        variables::variables,
    },
    secret::Source,
    settings,
    template::Uses,
};
use libconf::name::{ComponentName, ComponentVersion, HostName, ObjectId, SecretName};

/// Equal ingredients give equal files and settings, and equal faults.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ingredients {
    tree: ObjectId,
    raw: bool,
    /// The component's entry lets its links lead anywhere.
    any_links: bool,
    /// The class's override and the datacenter's.
    overrides: [Option<ObjectId>; 2],
    /// The SHA-256 of each patch of roles and host, in canonical form.
    overlays: Vec<[u8; 32]>,
    /// The component's name, if it has a layer: faults in layers name the component.
    layered: Option<ComponentName>,
    /// The SHA-256 of all that templates read of platform, datacenter, host and component; `None`
    /// without templates.
    facts: Option<[u8; 32]>,
    /// The secrets of the component: the source of each, and its sealed value.
    secrets: Vec<(SecretName, Source, Option<ObjectId>)>,
}

impl Ingredients {
    /// The ingredients of `component` on `host`; `class` and `datacenter` are the overrides in the
    /// trees of `sources`.
    pub fn new(
        repo: &Repository,
        sources: &Sources<'_>,
        [class, datacenter]: [&Overrides; 2],
        component: &ComponentVersion,
        host: Option<&HostName>,
    ) -> Result<Self, git2::Error> {
        let (tree, raw, any_links) = (sources.component_tree, sources.raw, sources.links != LinkPolicy::Inside);
        if raw {
            return Ok(Ingredients {
                tree,
                raw,
                any_links,
                overrides: [None; 2],
                overlays: Vec::new(),
                layered: None,
                facts: None,
                secrets: Vec::new(),
            });
        }
        let name = &component.component;
        let overrides = [class, datacenter].map(|overrides| overrides.files.get(name).copied());
        let overlays: Vec<_> = overlays(sources.instance, name, host)
            .map(|(_, overlay)| Sha256::digest(settings::to_canonical(&overlay.values.clone().into())).into())
            .collect();
        let layered = overrides.iter().any(Option::is_some) || !overlays.is_empty();
        let layered = layered.then(|| name.clone());
        let facts = match &*Uses::of(repo, tree)? {
            Uses::NoTemplates => None,
            uses => uses.facts(&variables(sources, component, host)),
        };
        let secrets = sources
            .secrets_of(name)
            .map(|(secret, declared)| (secret.clone(), declared.source.clone(), sources.sealed.get(secret).copied()));
        Ok(Ingredients { tree, raw, any_links, overrides, overlays, layered, facts, secrets: secrets.collect() })
    }
}
