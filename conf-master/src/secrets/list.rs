//! What may be known of a datacenter's secrets: everything but the values.

use std::collections::BTreeMap;

use anyhow::Context as _;
use conf_core::{
    manifest::{self, ClassManifest, InstanceManifest, PinRequest, Strictness},
    settings,
    snapshot::Snapshot,
};
use git2::Repository;
use libconf::name::{ComponentName, ComponentVersion, HostName, ObjectId, SecretName, Sequence};
use serde::{Deserialize, Serialize};

use crate::inspect::deployments::when;
use crate::secrets::{
    Declared, branch,
    decide::{View, readers},
};

/// One secret of a datacenter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: SecretName,
    /// Where its value comes from, in words; of one that this datacenter does not declare, where it came from.
    pub source: String,
    /// This datacenter declares it.
    pub declared: bool,
    /// The components that may read it.
    pub readers: Vec<ComponentName>,
    /// The hosts of the inventory that run one of them.
    pub hosts: Vec<HostName>,
    /// The change that made the value; nothing where it is read on the hosts.
    pub sequence: Option<Sequence>,
    /// When that was, RFC 3339, UTC.
    pub made: Option<String>,
    /// How old the value is.
    pub age_seconds: Option<i64>,
    /// When a certificate ends, RFC 3339, UTC.
    pub valid_until: Option<String>,
}

/// All secrets of a snapshot's datacenter, those included that are kept and not declared, in order of name.
pub fn list(repo: &Repository, snapshot: &Snapshot, now: i64) -> anyhow::Result<Vec<Listed>> {
    let class = text(repo, snapshot.class_tree(repo)?)?;
    let class = ClassManifest::parse(&class, Strictness::Lenient).map_err(|faults| unreadable(&faults))?;
    let instance = text(repo, snapshot.datacenter_tree(repo)?)?;
    let instance = InstanceManifest::parse(&instance, Strictness::Lenient).map_err(|faults| unreadable(&faults))?;
    let declared = manifest::secrets(&class, &instance).into_iter().map(|(name, (declaration, declared_in))| {
        (name.clone(), Declared { declaration: declaration.clone(), declared_in })
    });
    let declared: BTreeMap<SecretName, Declared> = declared.collect();
    let requests = manifest::pins(&class, &instance).into_iter().map(|one| (one.component.clone(), one));
    let requests: BTreeMap<ComponentVersion, PinRequest> = requests.collect();
    let mut sealed = branch::abouts(repo, snapshot.secrets_tree(repo)?)?;
    let view = View { name: &snapshot.datacenter, instance: &instance, requests: &requests, secrets: &declared };
    let mut listed = Vec::new();
    for (name, one) in &declared {
        let about = sealed.remove(name);
        listed.push(Listed {
            name: name.clone(),
            source: one.declaration.source.to_string(),
            declared: true,
            readers: one.declaration.readers.clone(),
            hosts: readers(&view, &one.declaration).map(|(host, _)| host.clone()).collect(),
            sequence: about.as_ref().map(|about| about.sequence),
            made: about.as_ref().map(|about| when(about.made)),
            age_seconds: about.as_ref().map(|about| now - about.made),
            valid_until: about.and_then(|about| about.valid_until).map(when),
        });
    }
    listed.extend(sealed.into_iter().map(|(name, about)| Listed {
        name,
        source: about.source,
        declared: false,
        readers: Vec::new(),
        hosts: Vec::new(),
        sequence: Some(about.sequence),
        made: Some(when(about.made)),
        age_seconds: Some(now - about.made),
        valid_until: about.valid_until.map(when),
    }));
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(listed)
}

fn text(repo: &Repository, tree: ObjectId) -> anyhow::Result<String> {
    let tree = repo.find_tree(tree.into())?;
    let entry = tree.get_name(manifest::FILE).context("a snapshot without a datacenter.yaml")?;
    Ok(String::from_utf8_lossy(repo.find_blob(entry.id())?.content()).into_owned())
}

fn unreadable(faults: &[settings::Fault]) -> anyhow::Error {
    anyhow::anyhow!("a datacenter.yaml cannot be read: {faults:?}")
}
