//! Secrets at the centre: made or taken when a datacenter declares them, sealed to its readers' hosts, kept until rotated.
//!
//! Read in this order: [`decide`] compares what the datacenters of one id declare with what is sealed, and writes nothing;
//! [`make`] makes values; [`branch`] reads and writes `refs/heads/secrets/<id>`; [`order`] is what people ask for,
//! [`renew`] what the clock does, [`list`] what they may know.
//!
//! Always true:
//! - A value is made for a change that lands, never for one that is refused or only tried.
//! - What is no longer declared is kept, sealed to conf-master alone: a mistake in a `datacenter.yaml` loses no value.
//! - No value is logged, shown, or part of an error.

pub mod branch;
pub mod decide;
pub mod list;
pub mod make;
pub mod order;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    str::FromStr,
};

use conf_core::{
    manifest::DeclaredIn,
    secret::{self, About, Declaration, HostKey, Identity, IdentityError, SecretValue},
};
use git2::Repository;
use libconf::name::{
    ComponentName, ComponentVersion, DatacenterName, ObjectId, RefName, SecretName, Segment, Sequence,
};
use zeroize::Zeroizing;

use crate::secrets::decide::{Action, Decision};
use crate::{
    catalog::{Catalog, Datacenter, Delta, resolve::Caused},
    store::refs::Target,
};

/// What a datacenter declares, and whose file says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// What is declared.
    pub declaration: Declaration,
    /// Whose `datacenter.yaml` says it.
    pub declared_in: DeclaredIn,
}

/// Where conf-master's own key for secrets stands: `<repo>.identity`.
pub fn identity_path(repo: &Path) -> PathBuf {
    let mut path = repo.as_os_str().to_owned();
    path.push(".identity");
    PathBuf::from(path)
}

/// What begins the names of the variables that give values, where nothing else is said.
const VARIABLES: &str = "CONF_SECRET_";

/// Whose given secrets come from the environment: `ID[=PREFIX]`, with what begins the names of its variables.
///
/// The operator names them: whoever may push a datacenter may declare any name in it, and would get the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretsFor {
    /// The datacenters' id.
    pub id: Segment,
    /// What begins the names.
    pub prefix: String,
}

impl FromStr for SecretsFor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, prefix) = text.split_once('=').unwrap_or((text, VARIABLES));
        if prefix.is_empty() {
            return Err("the prefix is empty; write ID, or ID=PREFIX as in us-west=US_WEST_".to_owned());
        }
        let id = id.parse().map_err(|bad| format!("{bad}"))?;
        Ok(SecretsFor { id, prefix: prefix.to_owned() })
    }
}

/// Keeps the sealed secrets: conf-master's own key, and the values that its environment gives.
///
/// Without a key, as in `conf-master check`, it can say what is wrong and do nothing.
#[derive(Debug, Default)]
pub struct Keeper {
    identity: Option<Identity>,
    given: Given,
}

/// Values from the environment, by the names of their variables; and who gets them.
#[derive(Default)]
struct Given {
    values: BTreeMap<String, Zeroizing<String>>,
    prefixes: BTreeMap<Segment, String>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// What landing a change does to secrets.
#[derive(Debug, Default)]
pub struct Staged {
    /// Each id's next commit and its tree.
    pub tips: BTreeMap<Segment, (Target, ObjectId)>,
    /// The secrets of each id that are sealed anew.
    pub changed: BTreeMap<Segment, BTreeSet<SecretName>>,
    /// What to tell.
    pub notes: Vec<String>,
}

impl Staged {
    /// The deltas of a change, with every other datacenter whose snapshot holds secrets that it changes.
    pub fn with_siblings(
        &self,
        mut deltas: BTreeMap<DatacenterName, Option<Delta>>,
        catalog: &Catalog,
    ) -> BTreeMap<DatacenterName, Option<Delta>> {
        for name in catalog.datacenters.keys().filter(|name| self.changed.contains_key(&name.id)) {
            deltas.entry(name.clone()).or_insert_with(|| Some(Delta::default()));
        }
        deltas
    }

    /// What of a datacenter reads a secret that is sealed anew.
    pub fn readers(&self, id: &Segment, datacenter: &Datacenter) -> BTreeSet<ComponentVersion> {
        let changed = self.changed.get(id).into_iter().flatten();
        let readers: BTreeSet<&ComponentName> =
            changed.filter_map(|name| datacenter.secrets.get(name)).flat_map(|one| &one.declaration.readers).collect();
        datacenter.components.keys().filter(|version| readers.contains(&version.component)).cloned().collect()
    }
}

/// What is asked for besides what is declared, for each id.
pub type Asked = BTreeMap<Segment, BTreeMap<SecretName, Action>>;

impl Keeper {
    /// Reads the key beside `repo`, or makes it where there is none, and takes the values that the environment gives to some.
    pub fn open(repo: &Path, secrets_for: &[SecretsFor]) -> Result<Self, IdentityError> {
        let path = identity_path(repo);
        let (identity, was_made) = Identity::load_or_create(&path)?;
        if was_made {
            tracing::info!(path = %path.display(), "a new key for secrets was made; back it up with the repository");
        }
        Ok(Keeper { identity: Some(identity), given: Given::from_environment(secrets_for) })
    }

    /// The key that everything is sealed to besides the hosts'.
    fn own_key(&self) -> Option<&HostKey> {
        self.identity.as_ref().map(Identity::recipient)
    }

    fn given(&self, id: &Segment, name: &SecretName) -> Option<SecretValue> {
        let variable = variable(self.given.prefixes.get(id)?, name);
        self.given.values.get(&variable).map(|value| SecretValue::Text(value.clone()))
    }

    /// How conf-master is to be started so that the environment gives a value.
    fn variable(&self, id: &Segment, name: &SecretName) -> String {
        match self.given.prefixes.get(id) {
            Some(prefix) => format!("{} in its environment", variable(prefix, name)),
            None => format!("--secrets-for {id}, and {} in its environment", variable(VARIABLES, name)),
        }
    }

    /// What is wrong with the secrets of every id that a change touches, and, apart, which values somebody must give first.
    pub fn faults(
        &self,
        repo: &Repository,
        catalog: &Catalog,
        deltas: &BTreeMap<DatacenterName, Option<Delta>>,
    ) -> anyhow::Result<(Vec<Caused>, Vec<Caused>)> {
        let (mut faults, mut needs) = (Vec::new(), Vec::new());
        for id in touched(deltas) {
            let decision = self.decide(repo, catalog, deltas, &id)?;
            faults.extend(decision.faults);
            needs.extend(decision.needs);
        }
        Ok((faults, needs))
    }

    /// What the datacenters of one id would need.
    fn decide(
        &self,
        repo: &Repository,
        catalog: &Catalog,
        deltas: &BTreeMap<DatacenterName, Option<Delta>>,
        id: &Segment,
    ) -> anyhow::Result<Decision> {
        let (views, all_known) = decide::views(catalog, deltas, id);
        let sealed = branch::abouts(repo, catalog.secrets.get(id).copied())?;
        Ok(decide::decide(&views, all_known, &sealed, self))
    }

    /// Makes and seals what a judged change needs, and writes it; moves no ref.
    pub fn stage(
        &self,
        repo: &Repository,
        catalog: &Catalog,
        deltas: &BTreeMap<DatacenterName, Option<Delta>>,
        mut asked: Asked,
        (sequence, time): (Sequence, i64),
    ) -> anyhow::Result<Staged> {
        let mut staged = Staged::default();
        let mut ids = touched(deltas);
        ids.extend(asked.keys().cloned());
        for id in ids {
            let decision = self.decide(repo, catalog, deltas, &id)?;
            let mut actions = decision.actions;
            actions.append(&mut asked.remove(&id).unwrap_or_default());
            if actions.is_empty() {
                continue;
            }
            let Some(own) = self.own_key() else { anyhow::bail!("without a key no secret can be sealed") };
            let tree = catalog.secrets.get(&id).copied();
            let (mut words, mut edits) = (Vec::new(), BTreeMap::new());
            for (name, action) in actions {
                let recipients = decision.recipients.get(&name).cloned().unwrap_or_else(|| vec![own.clone()]);
                words.push(action.words(&name, recipients.len() - 1));
                let known = || branch::about(repo, tree, &name);
                let (value, about) = match action {
                    Action::Remove => {
                        edits.insert(name, None);
                        continue;
                    }
                    Action::Seal => {
                        let about = known()?;
                        (self.value(repo, tree, &id, &name)?, About { recipients: recipients.clone(), ..about })
                    }
                    Action::Make(generate) => {
                        let (value, valid_until) = make::value(&generate, time)?;
                        let source = secret::Source::Generate(generate).to_string();
                        (value, About { sequence, made: time, source, recipients: recipients.clone(), valid_until })
                    }
                    Action::Take(value) => {
                        let source = secret::Source::Given.to_string();
                        let about =
                            About { sequence, made: time, source, recipients: recipients.clone(), valid_until: None };
                        (value, about)
                    }
                };
                let sealed = secret::seal(&value, &id, &name, &recipients)?;
                edits.insert(name, Some((sealed, about)));
            }
            let parent = catalog.table.target(&RefName::Secrets(id.clone())).map(|tip| tip.commit);
            let (commit, tree) = branch::write(repo, parent, tree, &edits, &words.join("; "), (sequence, time))?;
            staged.tips.insert(id.clone(), (Target { value: commit, commit }, tree));
            staged.changed.insert(id.clone(), edits.into_keys().collect());
            staged.notes.extend(words.into_iter().map(|words| format!("{id}: {words}")));
        }
        Ok(staged)
    }

    /// Opens a value that is sealed to conf-master.
    fn value(
        &self,
        repo: &Repository,
        tree: Option<ObjectId>,
        id: &Segment,
        name: &SecretName,
    ) -> anyhow::Result<SecretValue> {
        let Some(identity) = &self.identity else { anyhow::bail!("without a key no secret can be opened") };
        let sealed = branch::sealed(repo, tree, name)?;
        secret::open(identity, &sealed, id, name).map_err(|cause| anyhow::anyhow!("the secret {name} of {id}: {cause}"))
    }
}

/// The variable that gives a secret's value.
fn variable(prefix: &str, name: &SecretName) -> String {
    format!("{prefix}{}", name.as_str().to_ascii_uppercase())
}

impl Given {
    fn from_environment(secrets_for: &[SecretsFor]) -> Self {
        let mut given = Given::default();
        given.prefixes.extend(secrets_for.iter().map(|one| (one.id.clone(), one.prefix.clone())));
        for (variable, value) in std::env::vars_os() {
            let Some(variable) = variable.to_str() else { continue };
            if !given.prefixes.values().any(|prefix| variable.starts_with(prefix)) {
                if variable.starts_with(VARIABLES) {
                    tracing::warn!(variable, "it is given to nobody; --secrets-for ID says to which datacenters");
                }
                continue;
            }
            if let Ok(value) = value.into_string() {
                given.values.insert(variable.to_owned(), Zeroizing::new(value));
            } else {
                tracing::warn!(variable, "its value is not UTF-8, and is passed over; encode it as base64");
            }
        }
        given
    }
}

/// The ids whose datacenters declare something else after a change, or run something else.
fn touched(deltas: &BTreeMap<DatacenterName, Option<Delta>>) -> BTreeSet<Segment> {
    let touched = deltas.iter().filter(|(_, delta)| delta.as_ref().is_none_or(|delta| delta.manifest.is_some()));
    touched.map(|(name, _)| name.id.clone()).collect()
}
