//! Renders the components that changed.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use conf_core::{
    layers::Ingredients,
    render::{self, RenderError},
    template,
};
use git2::Repository as Git;

use crate::{
    export::KeptSnapshot,
    snapshot::SecretReader,
    transaction::{
        error::TransactionError,
        host::Host,
        model::{Draft, Model},
    },
};

impl Host {
    /// Renders the components that changed into the store. With `anew`, renders all of them.
    pub(crate) fn stage(
        &mut self,
        git: &Git,
        next: &Model,
        have: &KeptSnapshot,
        anew: bool,
    ) -> Result<Draft, TransactionError> {
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
    ) -> Result<Draft, TransactionError> {
        let before = self.model.as_ref().filter(|_| !anew);
        let old_faults = have.header.as_ref().map(|header| &header.faults);
        let mut draft = Draft::default();
        // Components with the same ingredients are rendered once.
        let mut rendered: BTreeMap<Ingredients, Result<_, String>> = BTreeMap::new();
        let mut secrets = SecretReader::new(&self.identity, git);
        for (name, component) in &next.inputs {
            let ingredients = |model: &Model, component| {
                model.ingredients(git, name, component, &self.name).map_err(TransactionError::Damaged)
            };
            let same = match before.and_then(|before| Some((before, before.inputs.get(name)?))) {
                None => false,
                Some((before, old)) => {
                    let unchanged = Arc::ptr_eq(&before.manifests, &next.manifests) && old.tree == component.tree;
                    unchanged || ingredients(before, old)? == ingredients(next, component)?
                }
            };
            if same && !self.place.held_back(name) {
                if let Some(fault) = old_faults.and_then(|faults| faults.get(name)) {
                    draft.keep(next, name, fault.clone(), &have.contents);
                    continue;
                }
                if let Some(old) = have.contents.get(name) {
                    draft.contents.insert(name.clone(), *old);
                    continue;
                }
            }
            let result = match rendered.entry(ingredients(next, component)?) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let sources = next.manifests.sources(name, component);
                    let secrets = secrets.of(&sources, &name.component);
                    new.insert(match render::render(git, &sources, name, Some(&self.name), &secrets) {
                        Ok(rendering) => Ok(self.export.stage(&rendering, anew)?),
                        Err(fault @ (RenderError::Fault(_) | RenderError::Templates(_))) => Err(fault.to_string()),
                        Err(RenderError::Repository(cause)) => return Err(TransactionError::Damaged(cause)),
                    })
                }
            };
            match result {
                Ok(hash) => drop(draft.contents.insert(name.clone(), *hash)),
                Err(reason) => {
                    // It keeps its earlier files, and the others go on.
                    tracing::warn!(component = %name, reason, "cannot be rendered; its earlier files stay");
                    draft.keep(next, name, reason.clone(), &have.contents);
                }
            }
        }
        Ok(draft)
    }
}
