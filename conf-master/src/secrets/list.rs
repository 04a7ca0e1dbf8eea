//! Lists a datacenter's secrets with everything but their values.

use std::collections::BTreeMap;

use conf_core::manifest::{self, PinRequest};
use conf_core::secret::About;
use conf_core::snapshot::Snapshot;
use git2::Repository;
use libconf::name::{ComponentName, ComponentVersion, HostName, SecretName, Sequence};
use serde::{Deserialize, Serialize};

use crate::secrets::branch;
use crate::secrets::decide::readers;
use crate::text::when;
use conf_core::snapshot::{Manifests, manifests};

/// One secret of a datacenter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedSecret {
    /// Its name.
    pub(crate) name: SecretName,
    /// The source of its value, in words; for a secret that this datacenter does not declare, the
    /// source at that time.
    pub(crate) source: String,
    /// This datacenter declares it.
    pub(crate) declared: bool,
    /// The components that may read it.
    pub(crate) readers: Vec<ComponentName>,
    /// The hosts of the inventory that run one of them.
    pub(crate) hosts: Vec<HostName>,
    /// The change that made the value; absent when the hosts read the value themselves.
    pub(crate) sequence: Option<Sequence>,
    /// The time of that change, RFC 3339, UTC.
    pub(crate) made: Option<String>,
    /// The age of the value.
    pub(crate) age_seconds: Option<i64>,
    /// The end of a certificate, RFC 3339, UTC.
    pub(crate) valid_until: Option<String>,
    /// The hosts that could open the value and are no readers any more: it should be rotated.
    #[serde(default)]
    pub(crate) left: Vec<LeftHost>,
}

/// A host that could open a value until a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftHost {
    /// Its name at that time.
    pub(crate) host: HostName,
    /// The change.
    pub(crate) since: Sequence,
}

/// Lists all secrets of a snapshot's datacenter, also those that are kept and not declared, in
/// order of name.
pub(crate) fn list(repo: &Repository, snapshot: &Snapshot, now: i64) -> anyhow::Result<Vec<ListedSecret>> {
    let Manifests { class, instance, .. } = manifests(repo, snapshot)?;
    let requests = manifest::pins(&class, &instance).into_iter().map(|one| (one.component.clone(), one));
    let requests: BTreeMap<ComponentVersion, PinRequest> = requests.collect();
    let mut sealed = branch::abouts(repo, snapshot.secrets_tree(repo)?)?;
    let listed = |name: &SecretName, source: String, about: Option<&About>| ListedSecret {
        name: name.clone(),
        source,
        declared: false,
        readers: Vec::new(),
        hosts: Vec::new(),
        sequence: about.map(|about| about.sequence),
        made: about.map(|about| when(about.made)),
        age_seconds: about.map(|about| now - about.made),
        valid_until: about.and_then(|about| about.valid_until).map(when),
        left: about.map(left).unwrap_or_default(),
    };
    let mut all = Vec::new();
    for (name, (declaration, _)) in manifest::secrets(&class, &instance) {
        let about = sealed.remove(name);
        all.push(ListedSecret {
            declared: true,
            readers: declaration.readers.clone(),
            hosts: readers(&instance, &requests, declaration).map(|(host, _)| host.clone()).collect(),
            ..listed(name, declaration.source.to_string(), about.as_ref())
        });
    }
    all.extend(sealed.iter().map(|(name, about)| listed(name, about.source.clone(), Some(about))));
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

fn left(about: &About) -> Vec<LeftHost> {
    about.left.iter().map(|left| LeftHost { host: left.host.clone(), since: left.since }).collect()
}
