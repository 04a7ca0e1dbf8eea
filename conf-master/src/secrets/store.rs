//! Conf-master's own key for secrets, and what it does with it: sealing, opening, making values.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use conf_core::git::ObjectStore;
use conf_core::secret::{self, About, HostKey, Identity, SecretValue, Source};
use git2::Repository;
use libconf::name::{ComponentName, ComponentVersion, ObjectId, RefName, SecretName, Segment, Sequence};

use crate::catalog::{Catalog, Delta, Deltas, Manifest};
use crate::fault::Caused;
use crate::secrets::decide::{self, Action, Decision};
use crate::secrets::given::{GivenValues, SecretsFor};
use crate::secrets::{branch, left, make, own_key};
use crate::store::RefTarget;

/// Keeps the sealed secrets: conf-master's own key, and the values that its environment gives.
///
/// Without a key, as in `conf-master check`, it finds faults and does nothing else.
#[derive(Debug, Default)]
pub(crate) struct SecretStore {
    identity: Option<Arc<Identity>>,
    /// The values that the environment gives.
    pub(crate) given: GivenValues,
}

/// The secrets that a change seals anew, written and not landed yet.
#[derive(Debug, Default)]
pub(crate) struct StagedSecrets {
    /// Each id's next commit and its tree.
    pub(crate) tips: BTreeMap<Segment, (RefTarget, ObjectId)>,
    /// The secrets of each id that are sealed anew.
    pub(crate) changed: BTreeMap<Segment, BTreeSet<SecretName>>,
    /// What the author of the change is told.
    pub(crate) notes: Vec<String>,
}

impl StagedSecrets {
    /// Adds to the deltas of a change every other datacenter whose snapshot holds secrets that the
    /// change seals anew.
    pub(crate) fn with_siblings(&self, mut deltas: Deltas, catalog: &Catalog) -> Deltas {
        for name in catalog.datacenters.keys().filter(|name| self.changed.contains_key(&name.id)) {
            deltas.entry(name.clone()).or_insert_with(|| Some(Delta::default()));
        }
        deltas
    }

    /// Finds the components of a datacenter that read a secret which is sealed anew.
    pub(crate) fn readers(&self, id: &Segment, manifest: &Manifest) -> BTreeSet<ComponentVersion> {
        let changed = self.changed.get(id).into_iter().flatten();
        let declared = changed.filter_map(|name| manifest.secrets.get(name));
        let readers: BTreeSet<&ComponentName> = declared.flat_map(|one| &one.declaration.readers).collect();
        if readers.is_empty() {
            return BTreeSet::new();
        }
        manifest.requests.keys().filter(|version| readers.contains(&version.component)).cloned().collect()
    }
}

/// The actions that people and the clock request for each id, besides those that the declarations
/// need.
pub(crate) type RequestedActions = BTreeMap<Segment, BTreeMap<SecretName, Action>>;

impl SecretStore {
    /// Reads the key beside `repo`, or makes one, and takes the values that the environment gives
    /// to some ids.
    pub(crate) fn open(repo: &Path, secrets_for: &[SecretsFor]) -> anyhow::Result<Self> {
        let identity = Some(own_key::load(repo)?);
        Ok(SecretStore { identity, given: GivenValues::from_environment(secrets_for) })
    }

    /// Returns conf-master's own key.
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.clone()
    }

    /// Returns the key that everything is sealed to besides the hosts' keys.
    fn own_key(&self) -> Option<&HostKey> {
        self.identity.as_deref().map(Identity::recipient)
    }

    /// Finds what is wrong with the secrets of every id that a change touches, and, apart from
    /// that, which values somebody must give first.
    pub(crate) fn faults(
        &self,
        repo: &Repository,
        catalog: &Catalog,
        deltas: &Deltas,
    ) -> anyhow::Result<(Vec<Caused>, Vec<Caused>)> {
        let (mut faults, mut needs) = (Vec::new(), Vec::new());
        for id in touched(deltas) {
            let decision = self.decide(repo, catalog, deltas, &id)?;
            faults.extend(decision.faults);
            needs.extend(decision.needs);
        }
        Ok((faults, needs))
    }

    /// Decides what the datacenters of one id would need.
    fn decide(&self, repo: &Repository, catalog: &Catalog, deltas: &Deltas, id: &Segment) -> anyhow::Result<Decision> {
        let (views, all_known) = decide::views(catalog, deltas, id);
        let sealed = branch::abouts(repo, catalog.secrets.get(id).copied())?;
        Ok(decide::decide(&views, all_known, &sealed, self.own_key(), &self.given))
    }

    /// Makes and seals the secrets that a judged change needs, and writes their commits; moves no
    /// ref.
    pub(crate) fn stage(
        &self,
        store: &impl ObjectStore,
        catalog: &Catalog,
        deltas: &Deltas,
        mut requested: RequestedActions,
        (sequence, time): (Sequence, i64),
    ) -> anyhow::Result<StagedSecrets> {
        let repo = store.repo();
        let mut staged = StagedSecrets::default();
        let mut ids = touched(deltas);
        ids.extend(requested.keys().cloned());
        for id in ids {
            let decision = self.decide(repo, catalog, deltas, &id)?;
            let mut actions = decision.actions;
            actions.append(&mut requested.remove(&id).unwrap_or_default());
            if actions.is_empty() {
                continue;
            }
            let own = self.own_key().context("without a key no secret can be sealed")?;
            let tree = catalog.secrets.get(&id).copied();
            let (mut words, mut edits, hosts) = (Vec::new(), BTreeMap::new(), left::hosts(catalog, &id));
            for (name, action) in actions {
                let recipients = decision.recipients.get(&name).cloned().unwrap_or_else(|| vec![own.clone()]);
                words.push(action.words(&name, recipients.len() - 1));
                let about = |source: Source, valid_until, recipients| About {
                    sequence,
                    made: time,
                    source: source.to_string(),
                    recipients,
                    valid_until,
                    left: Vec::new(),
                };
                let (value, about) = match action {
                    Action::Remove => {
                        edits.insert(name, None);
                        continue;
                    }
                    Action::Seal => {
                        let mut about = branch::about(repo, tree, &name)?;
                        words.extend(left::note(&mut about, &name, &recipients, &hosts, sequence));
                        (self.value(repo, tree, &id, &name)?, About { recipients, ..about })
                    }
                    Action::Make(generate) => {
                        let (value, valid_until) = make::value(&generate, time)?;
                        (value, about(Source::Generate(generate), valid_until, recipients))
                    }
                    Action::Take(value) => (value, about(Source::Given, None, recipients)),
                };
                let sealed = secret::seal(&value, &id, &name, &about.recipients)?;
                edits.insert(name, Some((sealed, about)));
            }
            let parent = catalog.table.target(&RefName::Secrets(id.clone())).map(|tip| tip.commit);
            let (commit, tree) = branch::write(store, parent, tree, &edits, &words.join("; "), (sequence, time))?;
            staged.tips.insert(id.clone(), (RefTarget { value: commit, commit }, tree));
            staged.changed.insert(id.clone(), edits.into_keys().collect());
            staged.notes.extend(words.into_iter().map(|words| format!("{id}: {words}")));
        }
        Ok(staged)
    }

    /// Opens a value that is sealed to conf-master.
    pub(crate) fn value(
        &self,
        repo: &Repository,
        tree: Option<ObjectId>,
        id: &Segment,
        name: &SecretName,
    ) -> anyhow::Result<SecretValue> {
        let identity = self.identity.as_deref().context("without a key no secret can be opened")?;
        let sealed = branch::sealed(repo, tree, name)?;
        secret::open(identity, &sealed, id, name).map_err(|cause| anyhow::anyhow!("the secret {name} of {id}: {cause}"))
    }
}

/// Finds the ids whose datacenters declare or run something else after a change.
pub(crate) fn touched(deltas: &Deltas) -> BTreeSet<Segment> {
    let touched = deltas.iter().filter(|(_, delta)| delta.as_ref().is_none_or(|delta| delta.manifest.is_some()));
    touched.map(|(name, _)| name.id.clone()).collect()
}
