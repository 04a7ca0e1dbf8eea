//! Renders the components that changed.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use conf_core::{
    daemon::chain,
    layers::Ingredients,
    render::{self, RenderError, Rendered, StoreHash},
    template,
};
use git2::Repository as Git;
use libconf::name::ComponentVersion;

use crate::{
    export::{Export, Header, KeptSnapshot},
    snapshot::SecretReader,
    transaction::{
        error::TransactionError,
        host::Host,
        model::{Draft, Model},
    },
};

/// Why a component has no new rendering.
enum NotStaged {
    /// Its content, or this host's configuration, is at fault. It stays so until one of them
    /// changes.
    HeldBack(String),
    /// The repository on this host lacks its content.
    Unreadable(git2::Error),
    /// The machine is at fault: no component could be written.
    Failed(TransactionError),
}

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
        let mut rendered: BTreeMap<Ingredients, Result<StoreHash, String>> = BTreeMap::new();
        let mut secrets = SecretReader::new(&self.identity, git, &self.secrets, anew);
        let stale = self.secrets.stale();
        for (name, component) in &next.inputs {
            let mut uses = next.manifests.host_sources(&self.secrets.offers, name);
            if !uses.is_empty() {
                self.secrets.recall(name, &mut uses);
                draft.secrets.insert(name.clone(), uses);
            }
            let ingredients = |model: &Model, component| model.ingredients(git, name, component, &self.name);
            let is_same =
                before.and_then(|before| Some((before, before.inputs.get(name)?))).is_some_and(|(before, old)| {
                    let unchanged = Arc::ptr_eq(&before.manifests, &next.manifests) && old.tree == component.tree;
                    let both = || Some((ingredients(before, old).ok()?, ingredients(next, component).ok()?));
                    unchanged || both().is_some_and(|(old, new)| old == new)
                });
            let tries_again = self.place.held_back(name) || self.unreadable.contains(name);
            let is_at_rest = !tries_again && !stale.contains(name) && !self.checks.runs_again(name);
            if is_same && is_at_rest {
                if let Some(fault) = old_faults.and_then(|faults| faults.get(name)) {
                    draft.keep(next, name, fault.clone(), &have.contents);
                    continue;
                }
                if let Some(old) = have.contents.get(name) {
                    draft.contents.insert(name.clone(), *old);
                    continue;
                }
            }
            let staged = match ingredients(next, component).map(|made_from| rendered.entry(made_from)) {
                Ok(Entry::Occupied(known)) => known.get().clone().map_err(NotStaged::HeldBack),
                Ok(Entry::Vacant(new)) => {
                    let sources = next.manifests.sources(name, component);
                    let secrets = secrets.of(&sources, &name.component);
                    let rendering = render::render(git, &sources, name, Some(&self.name), &secrets);
                    let staged = stage_one(&mut self.export, rendering, anew);
                    match &staged {
                        Ok(hash) => drop(new.insert(Ok(*hash))),
                        Err(NotStaged::HeldBack(reason)) => drop(new.insert(Err(reason.clone()))),
                        Err(_) => {}
                    }
                    staged
                }
                Err(cause) => Err(NotStaged::Unreadable(cause)),
            };
            if let Some(uses) = draft.secrets.get_mut(name) {
                secrets.date(uses);
            }
            // A component that is not staged keeps its earlier files, and the others go on.
            let reason = match staged {
                Ok(hash) => {
                    draft.contents.insert(name.clone(), hash);
                    continue;
                }
                Err(NotStaged::Failed(error)) => return Err(error),
                Err(NotStaged::HeldBack(reason)) => reason,
                Err(NotStaged::Unreadable(cause)) => {
                    let why = chain(&cause);
                    let reason = format!("the repository on this host lacks its content, which is fetched anew: {why}");
                    draft.unreadable.insert(name.clone());
                    draft.damage = Some(cause);
                    reason
                }
            };
            tracing::warn!(component = %name, reason, "cannot be rendered; its earlier files stay");
            draft.keep(next, name, reason, &have.contents);
        }
        Ok(draft)
    }
}

impl Host {
    /// Renders these components of the export again, and replaces their files in the store if they
    /// are not as they were written. False where that does not bring them back: then the whole
    /// export must be made again.
    pub(crate) fn render_again(&mut self, names: &BTreeSet<ComponentVersion>) -> Result<bool, TransactionError> {
        self.expect_held()?;
        let Some(model) = self.model.take() else { return Ok(false) };
        let done = self.render_each_again(&model, names);
        self.model = Some(model);
        // The process that renders must not keep secrets.
        template::rest();
        if done? {
            self.export.make_durable()?;
            return Ok(true);
        }
        Ok(false)
    }

    fn render_each_again(
        &mut self,
        model: &Model,
        names: &BTreeSet<ComponentVersion>,
    ) -> Result<bool, TransactionError> {
        let Some((_, kept)) = self.export.current() else { return Ok(false) };
        let is_of = |header: &Header| header.commit == model.snapshot.commit;
        let wanted = names.iter().map(|name| Some((name, *kept.contents.get(name)?, model.inputs.get(name)?)));
        let Some(wanted) = wanted.collect::<Option<Vec<_>>>().filter(|_| kept.header.as_ref().is_some_and(is_of))
        else {
            return Ok(false);
        };
        let git = self.git()?;
        let mut secrets = SecretReader::new(&self.identity, &git, &self.secrets, true);
        for (name, hash, component) in wanted {
            let sources = model.manifests.sources(name, component);
            let values = secrets.of(&sources, &name.component);
            let rendering = render::render(&git, &sources, name, Some(&self.name), &values);
            match stage_one(&mut self.export, rendering, true) {
                Ok(made) if made == hash => {}
                Ok(_) | Err(NotStaged::HeldBack(_)) => return Ok(false),
                Err(NotStaged::Unreadable(cause)) => return Err(TransactionError::Damaged(cause)),
                Err(NotStaged::Failed(error)) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Writes a rendering into the store.
fn stage_one(
    export: &mut Export,
    rendering: Result<Rendered, RenderError>,
    anew: bool,
) -> Result<StoreHash, NotStaged> {
    let rendering = rendering.map_err(|error| match error {
        RenderError::Repository(cause) => NotStaged::Unreadable(cause),
        fault => NotStaged::HeldBack(fault.to_string()),
    })?;
    export.stage(&rendering, anew).map_err(|error| {
        if error.is_of_machine() { NotStaged::Failed(error.into()) } else { NotStaged::HeldBack(chain(&error)) }
    })
}
