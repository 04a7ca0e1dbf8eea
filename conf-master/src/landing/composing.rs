//! The next snapshot of a datacenter that a staged change touches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context as _;
use conf_core::git::ObjectStore as _;
use conf_core::snapshot::{Component, Composition, SharedTrees, Snapshot};
use libconf::name::{ComponentVersion, DatacenterName, RefName, SecretName, Sequence};

use crate::catalog::Delta;
use crate::landing::push::Anew;
use crate::landing::staging::Staging;
use crate::secrets::StagedSecrets;
use crate::text::first_and_more;

impl Staging {
    /// Composes a datacenter's next snapshot; `None` when it would not differ.
    pub(crate) fn compose(
        &mut self,
        name: &DatacenterName,
        delta: Delta,
        (secrets, shared): (&StagedSecrets, &mut SharedTrees),
        (sequence, time): (Sequence, i64),
        by: &str,
    ) -> anyhow::Result<Option<(Snapshot, String)>> {
        let known = self.catalog.datacenter(name);
        let manifest = delta.manifest.as_ref().or(known.map(|known| &known.manifest));
        let readers = manifest.map(|manifest| secrets.readers(&name.id, manifest)).unwrap_or_default();
        let told = self.judge.summary(self.objects.repo(), name, known, &delta, readers)?;
        let before = known.map(|known| known.manifest.trees());
        let components = delta.components.clone();
        Arc::make_mut(&mut self.catalog).apply_delta(name, delta);
        let datacenter = self.catalog.datacenter(name).context("a datacenter that was just resolved")?;
        let manifest = &datacenter.manifest;
        let changed = secrets.changed.get(&name.id);
        if components.is_empty()
            && changed.is_none()
            && before == Some(manifest.trees())
            && datacenter.snapshot.is_some()
            && self.anew.is_none()
        {
            return Ok(None);
        }
        let note = format!("{name} #{sequence}: {told}");
        let composition = Composition {
            datacenter: name.clone(),
            sequence,
            epoch: self.epoch(),
            time,
            // A datacenter that was deleted and made again continues its old chain.
            parent: self.catalog.table.target(&RefName::Snapshot(name.clone())).map(|tip| tip.commit),
            base: datacenter.snapshot.as_ref().map(|snapshot| snapshot.tree),
            summary: match self.anew {
                Some(Anew::Key) => "another key signs".to_owned(),
                Some(Anew::Epoch(_)) => format!("the history goes on after #{}", self.sequence),
                None => summary(&components, changed.filter(|_| before == Some(manifest.trees()))),
            },
            components,
            datacenter_tree: manifest.datacenter_tree,
            datacenter_commit: manifest.datacenter_commit,
            class_tree: manifest.class_tree,
            class: (manifest.instance.class_ref(), manifest.class_commit),
            secrets_tree: self.catalog.secrets.get(&name.id).copied(),
            by: by.to_owned(),
        };
        let commit = shared.compose(&self.objects, &composition, &self.key)?;
        Ok(Some((Snapshot::read(self.objects.repo(), commit)?, note)))
    }
}

/// Names what changed: components, or secrets alone.
fn summary(
    components: &BTreeMap<ComponentVersion, Option<Component>>,
    secrets: Option<&BTreeSet<SecretName>>,
) -> String {
    let names = components.iter().map(|(name, content)| format!("{}{name}", if content.is_none() { "-" } else { "" }));
    let names: BTreeSet<String> = names.collect();
    match (names.first(), secrets.and_then(|secrets| Some((secrets.first()?, secrets.len())))) {
        (Some(first), _) => first_and_more(first, names.len() - 1),
        (None, Some((first, count))) => first_and_more(format!("the secret {first}"), count - 1),
        (None, None) => "the datacenter itself".to_owned(),
    }
}
