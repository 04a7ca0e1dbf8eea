//! Who would read a secret after a change that does not read it now.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::secret::HostKey;
use libconf::name::{DatacenterName, HostName, SecretName};

use crate::catalog::{Catalog, Deltas, Manifest};
use crate::secrets::decide::{self, DeclaringDatacenter};
use crate::secrets::store::touched;
use crate::text::first_and_more;

/// Hosts of one datacenter to which a secret would be sealed, and to whose keys it is not sealed
/// now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewRecipients {
    /// The datacenter that makes them recipients.
    pub(crate) datacenter: DatacenterName,
    /// The secret.
    pub(crate) secret: SecretName,
    /// The first of them.
    pub(crate) first: HostName,
    /// How many more there are.
    pub(crate) more: usize,
}

impl NewRecipients {
    /// Says why such a change needs a right; `all` is not empty.
    pub(crate) fn why(all: &[Self]) -> String {
        let Some((NewRecipients { datacenter, secret, first, more }, others)) = all.split_first() else {
            return String::new();
        };
        let host = first_and_more(format!("the host `{first}` of {datacenter}"), *more);
        let others = match others.len() {
            0 => String::new(),
            1 => ", and one more secret".to_owned(),
            number => format!(", and {number} more secrets"),
        };
        format!(
            "it is needed because the change would seal the secret `{secret}` to {host}, which cannot open it now{others}"
        )
    }
}

/// Lists whom a change makes recipients of secrets. The versions of one id share their secrets: a
/// host that reads one in one version may read it in another.
pub(crate) fn new(catalog: &Catalog, deltas: &Deltas) -> Vec<NewRecipients> {
    let mut found = Vec::new();
    for id in touched(deltas) {
        let after = decide::views(catalog, deltas, &id).0;
        let of_id = catalog.datacenters.iter().filter(|(name, _)| name.id == id);
        let before: Vec<&Manifest> = of_id.map(|(_, one)| &one.manifest).collect();
        let mut known: BTreeMap<&SecretName, BTreeSet<&HostKey>> = BTreeMap::new();
        for (secret, _, key) in before.iter().copied().flat_map(recipients) {
            known.entry(secret).or_default().insert(key);
        }
        for DeclaringDatacenter { name, manifest } in after {
            // One that does not change makes nobody a recipient.
            if !before.iter().any(|before| std::ptr::eq(*before, manifest)) {
                add(name, manifest, &known, &mut found);
            }
        }
    }
    found
}

fn add(
    datacenter: &DatacenterName,
    manifest: &Manifest,
    known: &BTreeMap<&SecretName, BTreeSet<&HostKey>>,
    found: &mut Vec<NewRecipients>,
) {
    let mut new: BTreeMap<&SecretName, (&HostName, usize)> = BTreeMap::new();
    for (secret, host, key) in recipients(manifest) {
        if !known.get(secret).is_some_and(|known| known.contains(key)) {
            new.entry(secret).and_modify(|(_, more)| *more += 1).or_insert((host, 0));
        }
    }
    found.extend(new.into_iter().map(|(secret, (first, more))| NewRecipients {
        datacenter: datacenter.clone(),
        secret: secret.clone(),
        first: first.clone(),
        more,
    }));
}

/// The hosts of a datacenter to which each of its secrets is sealed, with their keys.
fn recipients(manifest: &Manifest) -> impl Iterator<Item = (&SecretName, &HostName, &HostKey)> {
    let central = manifest.secrets.iter().filter(|(_, one)| one.declaration.source.is_central());
    central.flat_map(|(secret, one)| {
        let readers = decide::readers(&manifest.instance, &manifest.requests, &one.declaration);
        readers.filter_map(move |(host, about)| Some((secret, host, about.key.as_ref()?)))
    })
}
