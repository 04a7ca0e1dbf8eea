//! What is to be exported, decided from a snapshot alone, and rendered where it is not as before.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use conf_core::{
    layers::{Ingredients, Sources},
    render::{self, RenderError},
    snapshot::{self, Component, Snapshot},
    template,
};
use git2::Repository as Git;
use libconf::name::{ComponentVersion, HostName};

use crate::transaction::{Host, TransactionError};
use crate::{
    export::{Contents, Kept},
    snapshot::declared::{self, Declared},
};

/// What is exported, and what it was made from.
pub(crate) struct Model {
    pub(crate) snapshot: Snapshot,
    pub(crate) declared: Arc<Declared>,
    pub(crate) inputs: BTreeMap<ComponentVersion, Component>,
}

impl Model {
    pub(crate) fn sources(&self, name: &ComponentVersion, component: &Component) -> Sources<'_> {
        self.declared.sources(name, component)
    }

    pub(crate) fn ingredients(
        &self,
        git: &Git,
        name: &ComponentVersion,
        component: &Component,
        host: &HostName,
    ) -> Result<Ingredients, TransactionError> {
        let overrides = self.declared.overrides.each_ref();
        Ingredients::new(git, &self.sources(name, component), overrides, name, Some(host))
            .map_err(TransactionError::Damaged)
    }

    /// Lets components keep what they had, each for its reason. False when all of them have that already.
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
            tracing::warn!(component = %name, reason, "held back; its files of before stay");
            changed = true;
            contents.remove(&name);
            self.keep(&name, have, contents);
            faults.insert(name, reason);
        }
        changed
    }

    /// What stays of `have` in place of a component that cannot be used: its own files, or, where it had none, those of the
    /// versions that it replaces.
    fn keep(&self, name: &ComponentVersion, have: &Contents, contents: &mut Contents) {
        let replaces = |old: &ComponentVersion| old.component == name.component && !self.inputs.contains_key(old);
        let stays = |old: &ComponentVersion| if have.contains_key(name) { old == name } else { replaces(old) };
        contents.extend(have.iter().filter(|(old, _)| stays(old)).map(|(old, hash)| (old.clone(), *hash)));
    }

    /// True for what the snapshot holds, and for what stays in place of something of it that could not be used.
    pub(crate) fn accounts_for<T>(&self, name: &ComponentVersion, faults: &BTreeMap<ComponentVersion, T>) -> bool {
        self.inputs.contains_key(name) || faults.keys().any(|fault| fault.component == name.component)
    }
}

impl Host {
    /// What is wanted, decided from the snapshot alone; what `before` was made from is not read again.
    pub(crate) fn next(
        &self,
        git: &Git,
        snapshot: &Snapshot,
        before: Option<&Model>,
    ) -> Result<Model, TransactionError> {
        // Without the snapshot before (a repository begun anew) all of the new one is looked at.
        let difference =
            before.and_then(|before| Some((before, snapshot::compare(git, Some(&before.snapshot), snapshot).ok()?)));
        let sealed = declared::sealed_tree(git, snapshot)?;
        let Some((before, difference)) = difference.filter(|(before, difference)| {
            !difference.datacenter && !difference.class && before.declared.sealed_tree == sealed
        }) else {
            return self.model_of(git, snapshot);
        };
        let declared = before.declared.clone();
        let mut inputs = before.inputs.clone();
        for (name, change) in difference.components {
            match change.after {
                Some(after) if declared.selection.contains(&name) => drop(inputs.insert(name, after)),
                _ => drop(inputs.remove(&name)),
            }
        }
        Ok(Model { snapshot: snapshot.clone(), declared, inputs })
    }

    pub(crate) fn model_of(&self, git: &Git, snapshot: &Snapshot) -> Result<Model, TransactionError> {
        let declared = Arc::new(Declared::read(git, snapshot, &self.name)?);
        let mut inputs = snapshot.components(git)?;
        inputs.retain(|name, _| declared.selection.contains(name));
        Ok(Model { snapshot: snapshot.clone(), declared, inputs })
    }

    /// Renders what is not as it was, and answers what the next export holds, and what could not be rendered.
    pub(crate) fn stage(
        &mut self,
        git: &Git,
        next: &Model,
        have: &Kept,
        anew: bool,
    ) -> Result<(Contents, BTreeMap<ComponentVersion, String>), TransactionError> {
        let staged = self.stage_each(git, next, have, anew);
        // Nothing of the secrets stays anywhere.
        template::rest();
        staged
    }

    fn stage_each(
        &mut self,
        git: &Git,
        next: &Model,
        have: &Kept,
        anew: bool,
    ) -> Result<(Contents, BTreeMap<ComponentVersion, String>), TransactionError> {
        let before = self.model.as_ref().filter(|_| !anew);
        let old_faults = have.header.as_ref().map(|header| &header.faults);
        let mut contents = Contents::new();
        let mut faults = BTreeMap::new();
        // Those made from the same are rendered once.
        let mut rendered: BTreeMap<Ingredients, Result<_, String>> = BTreeMap::new();
        let mut look = self.keyring.look(git);
        for (name, component) in &next.inputs {
            let same = match before.and_then(|before| Some((before, before.inputs.get(name)?))) {
                None => false,
                Some((before, old)) => {
                    let declared_alike = Arc::ptr_eq(&before.declared, &next.declared) && old.tree == component.tree;
                    declared_alike
                        || before.ingredients(git, name, old, &self.name)?
                            == next.ingredients(git, name, component, &self.name)?
                }
            };
            let old = have.contents.get(name);
            if same
                && let Some(fault) = old_faults.and_then(|faults| faults.get(name))
                && !self.place.held_back(name)
            {
                faults.insert(name.clone(), fault.clone());
                next.keep(name, &have.contents, &mut contents);
                continue;
            }
            if same
                && let Some(old) = old
                && !self.place.held_back(name)
            {
                contents.insert(name.clone(), *old);
                continue;
            }
            let sources = next.sources(name, component);
            let result = match rendered.entry(next.ingredients(git, name, component, &self.name)?) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(
                    match render::render(git, &sources, name, Some(&self.name), &look.of(&sources, &name.component)) {
                        Ok(rendering) => Ok(self.export.stage(&rendering, anew)?),
                        Err(fault @ (RenderError::Fault(_) | RenderError::Templates(_))) => Err(fault.to_string()),
                        Err(RenderError::Repository(cause)) => return Err(TransactionError::Damaged(cause)),
                    },
                ),
            };
            match result {
                Ok(hash) => drop(contents.insert(name.clone(), *hash)),
                Err(reason) => {
                    // It keeps what it had, and the others go on.
                    tracing::warn!(component = %name, reason, "cannot be rendered; its files of before stay");
                    faults.insert(name.clone(), reason.clone());
                    next.keep(name, &have.contents, &mut contents);
                }
            }
        }
        Ok((contents, faults))
    }
}
