//! Decides from a snapshot alone what to export.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use conf_core::{
    layers::Ingredients,
    snapshot::{self, Component, Snapshot, SnapshotError},
};
use git2::Repository as Git;
use libconf::name::{ComponentSelector, ComponentVersion, HostName};

use crate::{
    export::{Contents, Faults},
    snapshot::{Manifests, SourceUses},
};

/// A snapshot, and what it means for this host.
pub(crate) struct Model {
    pub(crate) snapshot: Snapshot,
    pub(crate) manifests: Arc<Manifests>,
    /// The components that this host runs.
    pub(crate) inputs: BTreeMap<ComponentVersion, Component>,
}

/// The next export: its renderings, and the components that keep earlier files, each with the
/// reason.
#[derive(Default)]
pub(crate) struct Draft {
    pub(crate) contents: Contents,
    pub(crate) faults: Faults,
    /// Those of `faults` whose content the repository lacks.
    pub(crate) unreadable: BTreeSet<ComponentVersion>,
    /// What the repository said of them.
    pub(crate) damage: Option<git2::Error>,
    /// The components that read secrets of this host, and the values that they got.
    pub(crate) secrets: BTreeMap<ComponentVersion, SourceUses>,
}

impl Model {
    /// Reads a snapshot. A host that it shuts out runs those of its components that it has:
    /// `exported` is what this host has of this very snapshot, which an agent may have exported
    /// that did not know of hosts that are shut out. `links` are the components whose links may
    /// lead anywhere on this host.
    pub(crate) fn read(
        git: &Git,
        snapshot: &Snapshot,
        host: &HostName,
        links: &[ComponentSelector],
        exported: Option<&Contents>,
    ) -> Result<Self, SnapshotError> {
        let manifests = Arc::new(Manifests::read(git, snapshot, host, links)?);
        let selection = &manifests.selection;
        let inputs = if selection.shut_out.is_some() {
            let names: BTreeSet<_> = exported.into_iter().flatten().map(|(name, _)| &name.component).collect();
            let mut inputs = snapshot.components_of(git, |name| names.contains(name))?;
            inputs.retain(|name, _| exported.is_some_and(|exported| exported.contains_key(name)));
            inputs
        } else {
            let mut inputs = snapshot.components_of(git, |name| selection.may_contain(name))?;
            inputs.retain(|name, _| selection.contains(name));
            inputs
        };
        Ok(Model { snapshot: snapshot.clone(), manifests, inputs })
    }

    /// Does the same, but reads only the difference from `before`, if there is one.
    pub(crate) fn read_after(
        before: Option<&Model>,
        git: &Git,
        snapshot: &Snapshot,
        host: &HostName,
        links: &[ComponentSelector],
        exported: Option<&Contents>,
    ) -> Result<Self, SnapshotError> {
        // Without the snapshot before (in a new repository) all of the new one is read.
        let difference =
            before.and_then(|before| Some((before, snapshot::compare(git, Some(&before.snapshot), snapshot).ok()?)));
        let secrets_tree = snapshot.secrets_tree(git)?;
        let Some((before, difference)) = difference.filter(|(before, difference)| {
            !difference.datacenter && !difference.class && before.manifests.secrets_tree == secrets_tree
        }) else {
            return Model::read(git, snapshot, host, links, exported);
        };
        let manifests = before.manifests.clone();
        let mut inputs = before.inputs.clone();
        for (name, change) in difference.components {
            match change.after {
                Some(after) if manifests.selection.contains(&name) => drop(inputs.insert(name, after)),
                _ => drop(inputs.remove(&name)),
            }
        }
        Ok(Model { snapshot: snapshot.clone(), manifests, inputs })
    }

    pub(crate) fn ingredients(
        &self,
        git: &Git,
        name: &ComponentVersion,
        component: &Component,
        host: &HostName,
    ) -> Result<Ingredients, git2::Error> {
        let sources = self.manifests.sources(name, component);
        Ingredients::new(git, &sources, self.manifests.overrides.each_ref(), name, Some(host))
    }

    /// True for a component of the snapshot, and for one that stays in place of a component that
    /// could not be used.
    pub(crate) fn accounts_for(&self, name: &ComponentVersion, faults: &Faults) -> bool {
        self.inputs.contains_key(name) || faults.keys().any(|fault| fault.component == name.component)
    }
}

impl Draft {
    /// Lets components keep their earlier files, each for its reason. False if all of them have
    /// these already.
    pub(crate) fn hold_back(&mut self, model: &Model, reasons: Faults, have: &Contents) -> bool {
        let mut changed = false;
        for (name, reason) in reasons {
            if have.get(&name) == self.contents.get(&name) {
                continue;
            }
            tracing::warn!(component = %name, reason, "held back; its earlier files stay");
            changed = true;
            self.contents.remove(&name);
            self.keep(model, &name, reason, have);
        }
        changed
    }

    /// Keeps files of `have` in place of a component that cannot be used: its own, or, if it had
    /// none, those of the versions that it replaces.
    pub(crate) fn keep(&mut self, model: &Model, name: &ComponentVersion, reason: String, have: &Contents) {
        let replaces = |old: &ComponentVersion| old.component == name.component && !model.inputs.contains_key(old);
        let stays = |old: &ComponentVersion| if have.contains_key(name) { old == name } else { replaces(old) };
        self.contents.extend(have.iter().filter(|(old, _)| stays(old)).map(|(old, hash)| (old.clone(), *hash)));
        self.faults.insert(name.clone(), reason);
    }
}
