//! Decides from a snapshot alone what to export, and renders the components that changed.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use conf_core::{
    layers::Ingredients,
    render::{self, RenderError},
    snapshot::{self, Component, Snapshot},
    template,
};
use git2::Repository as Git;
use libconf::name::{ComponentVersion, HostName};

use crate::{
    export::{Contents, KeptSnapshot},
    snapshot::{manifests::Manifests, secrets::SecretReader},
    transaction::{error::TransactionError, host::Host},
};

/// A snapshot, and what it means for this host.
pub(crate) struct Model {
    pub(crate) snapshot: Snapshot,
    pub(crate) manifests: Arc<Manifests>,
    /// The components that this host runs.
    pub(crate) inputs: BTreeMap<ComponentVersion, Component>,
}

impl Model {
    fn ingredients(
        &self,
        git: &Git,
        name: &ComponentVersion,
        component: &Component,
        host: &HostName,
    ) -> Result<Ingredients, TransactionError> {
        let overrides = self.manifests.overrides.each_ref();
        Ingredients::new(git, &self.manifests.sources(name, component), overrides, name, Some(host))
            .map_err(TransactionError::Damaged)
    }

    /// Lets components keep their earlier files, each for its reason. False if all of them have these already.
    pub(crate) fn hold_back(
        &self,
        why: BTreeMap<ComponentVersion, String>,
        have: &Contents,
        contents: &mut Contents,
        faults: &mut BTreeMap<ComponentVersion, String>,
    ) -> bool {
        let mut changed = false;
        for (name, reason) in why {
            if have.get(&name) == contents.get(&name) {
                continue;
            }
            tracing::warn!(component = %name, reason, "held back; its earlier files stay");
            changed = true;
            contents.remove(&name);
            self.keep(&name, have, contents);
            faults.insert(name, reason);
        }
        changed
    }

    /// Keeps files of `have` in place of a component that cannot be used: its own, or, if it had none, those of the
    /// versions that it replaces.
    fn keep(&self, name: &ComponentVersion, have: &Contents, contents: &mut Contents) {
        let replaces = |old: &ComponentVersion| old.component == name.component && !self.inputs.contains_key(old);
        let stays = |old: &ComponentVersion| if have.contains_key(name) { old == name } else { replaces(old) };
        contents.extend(have.iter().filter(|(old, _)| stays(old)).map(|(old, hash)| (old.clone(), *hash)));
    }

    /// True for a component of the snapshot, and for one that stays in place of a component that could not be used.
    pub(crate) fn accounts_for<T>(&self, name: &ComponentVersion, faults: &BTreeMap<ComponentVersion, T>) -> bool {
        self.inputs.contains_key(name) || faults.keys().any(|fault| fault.component == name.component)
    }
}

impl Host {
    /// Decides from the snapshot alone what to export. Reads only the difference from `before`, if there is one.
    pub(crate) fn next(
        &self,
        git: &Git,
        snapshot: &Snapshot,
        before: Option<&Model>,
    ) -> Result<Model, TransactionError> {
        // Without the snapshot before (in a new repository) all of the new one is read.
        let difference =
            before.and_then(|before| Some((before, snapshot::compare(git, Some(&before.snapshot), snapshot).ok()?)));
        let secrets_tree = snapshot.secrets_tree(git)?;
        let Some((before, difference)) = difference.filter(|(before, difference)| {
            !difference.datacenter && !difference.class && before.manifests.secrets_tree == secrets_tree
        }) else {
            return self.model_of(git, snapshot);
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

    pub(crate) fn model_of(&self, git: &Git, snapshot: &Snapshot) -> Result<Model, TransactionError> {
        let manifests = Arc::new(Manifests::read(git, snapshot, &self.name)?);
        let mut inputs = snapshot.components(git)?;
        inputs.retain(|name, _| manifests.selection.contains(name));
        Ok(Model { snapshot: snapshot.clone(), manifests, inputs })
    }

    /// Renders the components that changed. Returns the contents of the next export, and the components that could
    /// not be rendered, with the reason.
    pub(crate) fn stage(
        &mut self,
        git: &Git,
        next: &Model,
        have: &KeptSnapshot,
        anew: bool,
    ) -> Result<(Contents, BTreeMap<ComponentVersion, String>), TransactionError> {
        let staged = self.stage_each(git, next, have, anew);
        // The process that renders must not keep secrets.
        template::rest();
        staged
    }

    fn stage_each(
        &mut self,
        git: &Git,
        next: &Model,
        have: &KeptSnapshot,
        anew: bool,
    ) -> Result<(Contents, BTreeMap<ComponentVersion, String>), TransactionError> {
        let before = self.model.as_ref().filter(|_| !anew);
        let old_faults = have.header.as_ref().map(|header| &header.faults);
        let mut contents = Contents::new();
        let mut faults = BTreeMap::new();
        // Components with the same ingredients are rendered once.
        let mut rendered: BTreeMap<Ingredients, Result<_, String>> = BTreeMap::new();
        let mut secrets = SecretReader::new(&self.identity, git);
        for (name, component) in &next.inputs {
            let same = match before.and_then(|before| Some((before, before.inputs.get(name)?))) {
                None => false,
                Some((before, old)) => {
                    let unchanged = Arc::ptr_eq(&before.manifests, &next.manifests) && old.tree == component.tree;
                    unchanged
                        || before.ingredients(git, name, old, &self.name)?
                            == next.ingredients(git, name, component, &self.name)?
                }
            };
            if same && !self.place.held_back(name) {
                if let Some(fault) = old_faults.and_then(|faults| faults.get(name)) {
                    faults.insert(name.clone(), fault.clone());
                    next.keep(name, &have.contents, &mut contents);
                    continue;
                }
                if let Some(old) = have.contents.get(name) {
                    contents.insert(name.clone(), *old);
                    continue;
                }
            }
            let sources = next.manifests.sources(name, component);
            let result = match rendered.entry(next.ingredients(git, name, component, &self.name)?) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(
                    match render::render(git, &sources, name, Some(&self.name), &secrets.of(&sources, &name.component))
                    {
                        Ok(rendering) => Ok(self.export.stage(&rendering, anew)?),
                        Err(fault @ (RenderError::Fault(_) | RenderError::Templates(_))) => Err(fault.to_string()),
                        Err(RenderError::Repository(cause)) => return Err(TransactionError::Damaged(cause)),
                    },
                ),
            };
            match result {
                Ok(hash) => drop(contents.insert(name.clone(), *hash)),
                Err(reason) => {
                    // It keeps its earlier files, and the others go on.
                    tracing::warn!(component = %name, reason, "cannot be rendered; its earlier files stay");
                    faults.insert(name.clone(), reason.clone());
                    next.keep(name, &have.contents, &mut contents);
                }
            }
        }
        Ok((contents, faults))
    }
}
