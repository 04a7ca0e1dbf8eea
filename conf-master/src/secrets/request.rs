//! What people and the clock request besides what is declared: a given value, a new value, its
//! removal, renewal.

use std::collections::BTreeMap;

use conf_core::daemon::chain;
use conf_core::manifest::nearest;
use conf_core::secret::{About, SecretValue, Source};
use git2::Repository;
use libconf::name::{DatacenterName, ObjectId, RefName, SecretName, Segment};

use crate::catalog::{Catalog, DeclaredSecret};
use crate::fault::{Refusal, RefusalKind};
use crate::secrets::decide::Action;
use crate::secrets::store::{RequestedActions, SecretStore};
use crate::secrets::{branch, make};
use crate::text::list_or_none;

/// The most secrets that may be given to the datacenters of one id.
const MOST_NAMES: usize = 1000;
/// When this many ids have secrets, an id without a datacenter gets no more.
const MOST_IDS: usize = 1000;

/// A request about secrets; it lands as a change of its own.
#[derive(Clone, Debug)]
pub(crate) enum SecretRequest {
    /// Takes a value for a given secret, whether it is declared yet or not.
    Set(DatacenterName, SecretName, SecretValue),
    /// Makes a new value, or takes the one that the environment gives now.
    Rotate(DatacenterName, SecretName),
    /// Forgets the value of a secret that no datacenter of the id declares any more.
    Remove(DatacenterName, SecretName),
    /// Issues anew every certificate of an id that has lived two thirds of its life at this second
    /// since 1970.
    Renew(Segment, i64),
}

impl SecretRequest {
    /// Returns the branch that the request would move.
    pub(crate) fn reference(&self) -> RefName {
        RefName::Secrets(self.id().clone())
    }

    /// Returns the id whose secrets it is about.
    pub(crate) fn id(&self) -> &Segment {
        match self {
            SecretRequest::Set(datacenter, ..)
            | SecretRequest::Rotate(datacenter, _)
            | SecretRequest::Remove(datacenter, _) => &datacenter.id,
            SecretRequest::Renew(id, _) => id,
        }
    }

    /// Returns the datacenter that it names.
    pub(crate) fn datacenter(&self) -> Option<&DatacenterName> {
        match self {
            SecretRequest::Set(datacenter, ..)
            | SecretRequest::Rotate(datacenter, _)
            | SecretRequest::Remove(datacenter, _) => Some(datacenter),
            SecretRequest::Renew(..) => None,
        }
    }

    /// Works out the actions that the request needs, or why it is refused. Changes nothing.
    pub(crate) fn actions(
        &self,
        repo: &Repository,
        catalog: &Catalog,
        store: &SecretStore,
    ) -> Result<RequestedActions, Refusal> {
        let id = self.id();
        let tree = catalog.secrets.get(id).copied();
        let sealed = branch::abouts(repo, tree).map_err(|cause| {
            Refusal::new(RefusalKind::Failed, format!("the secrets cannot be read: {}", chain(&*cause)))
        })?;
        let lookup = Lookup { repo, catalog, id, tree, sealed };
        let actions = match self {
            SecretRequest::Set(_, name, value) => BTreeMap::from([(name.clone(), lookup.set(name, value)?)]),
            SecretRequest::Rotate(of, name) => BTreeMap::from([(name.clone(), lookup.rotate(store, of, name)?)]),
            SecretRequest::Remove(_, name) => BTreeMap::from([(name.clone(), lookup.remove(name)?)]),
            SecretRequest::Renew(_, now) => lookup.due(*now),
        };
        Ok(if actions.is_empty() { RequestedActions::new() } else { BTreeMap::from([(id.clone(), actions)]) })
    }
}

/// The state of one id's secrets that a request is held against.
struct Lookup<'a> {
    repo: &'a Repository,
    catalog: &'a Catalog,
    id: &'a Segment,
    tree: Option<ObjectId>,
    sealed: BTreeMap<SecretName, About>,
}

impl Lookup<'_> {
    fn rotate(&self, store: &SecretStore, datacenter: &DatacenterName, name: &SecretName) -> Result<Action, String> {
        let known = self.catalog.datacenters.get(datacenter);
        let known = known.ok_or_else(|| {
            let names: Vec<String> = self.catalog.datacenters.keys().map(ToString::to_string).collect();
            let near = nearest(&datacenter.to_string(), names.iter().map(String::as_str));
            format!("there is no datacenter {datacenter}{near}")
        })?;
        let declared = &known.manifest.secrets;
        let one = declared.get(name).ok_or_else(|| {
            let near = nearest(name.as_str(), declared.keys().map(SecretName::as_str));
            format!("{datacenter} declares no secret `{name}`{near}; it declares: {}", list_or_none(declared.keys()))
        })?;
        match &one.declaration.source {
            Source::Generate(generate) => Ok(Action::Make(generate.clone())),
            Source::Given => {
                let now = store.value(self.repo, self.tree, self.id, name).ok();
                let given = store.given.value(self.id, name).filter(|given| Some(given) != now.as_ref());
                given.map(Action::Take).ok_or_else(|| {
                    format!(
                        "the secret `{name}` is given; run `conf-master secret set {datacenter} {name} --file FILE` (or \
                         start conf-master with {} and a new value)",
                        store.given.how_to_give(self.id, name)
                    )
                })
            }
            source => Err(read_on_hosts(name, source)),
        }
    }

    fn set(&self, name: &SecretName, value: &SecretValue) -> Result<Action, String> {
        match self.declared(name).map(|one| &one.declaration.source) {
            None | Some(Source::Given) => {}
            Some(Source::Generate(_)) => {
                return Err(format!(
                    "the secret `{name}` is generated; `conf-master secret rotate` makes a new value, or take `generate` \
                     out first"
                ));
            }
            Some(source) => return Err(read_on_hosts(name, source)),
        }
        let id = self.id;
        let has_branch = self.catalog.table.datacenters().iter().any(|one| one.id == *id);
        // A value may come before its datacenter, but the number of such ids is bounded.
        if !has_branch && self.tree.is_none() && self.catalog.secrets.len() >= MOST_IDS {
            return Err(format!(
                "there is no datacenter of the id {id}, and {MOST_IDS} ids have secrets already; push its branch first"
            ));
        }
        if !self.sealed.contains_key(name) && self.sealed.len() >= MOST_NAMES {
            return Err(format!("{id} has {MOST_NAMES} secrets already; remove one that nobody needs"));
        }
        if let Some(twin) = self.sealed.keys().find(|twin| twin.variable() == name.variable() && *twin != name) {
            return Err(format!("the secret `{name}` differs from `{twin}` only in case; give it another name"));
        }
        Ok(Action::Take(value.clone()))
    }

    fn remove(&self, name: &SecretName) -> Result<Action, String> {
        if !self.sealed.contains_key(name) {
            let near = nearest(name.as_str(), self.sealed.keys().map(SecretName::as_str));
            return Err(format!("no value of the secret `{name}` is kept for {}{near}", self.id));
        }
        let datacenters = self.catalog.table.datacenters().into_iter().filter(|one| one.id == *self.id);
        // A datacenter that cannot be resolved may declare it.
        let declares = |one: DatacenterName| {
            self.catalog.datacenters.get(&one).is_none_or(|known| known.manifest.secrets.contains_key(name))
        };
        if datacenters.into_iter().any(declares) {
            return Err(format!("the secret `{name}` is declared; take it out of datacenter.yaml first"));
        }
        Ok(Action::Remove)
    }

    /// Finds the first declaration of a secret among the datacenters of the id; all that landed are
    /// alike.
    fn declared(&self, name: &SecretName) -> Option<&DeclaredSecret> {
        let mut of_id = self.catalog.datacenters.iter().filter(|(datacenter, _)| datacenter.id == *self.id);
        of_id.find_map(|(_, known)| known.manifest.secrets.get(name))
    }

    /// Finds the certificates of the id that have lived two thirds of their life.
    fn due(&self, now: i64) -> BTreeMap<SecretName, Action> {
        let mut due = BTreeMap::new();
        for (name, about) in &self.sealed {
            let Some(until) = about.valid_until.filter(|until| make::is_due(about.made, *until, now)) else { continue };
            tracing::debug!(id = %self.id, %name, until, "a certificate is due");
            if let Some(Source::Generate(generate)) = self.declared(name).map(|one| &one.declaration.source) {
                due.insert(name.clone(), Action::Make(generate.clone()));
            }
        }
        due
    }
}

fn read_on_hosts(name: &SecretName, source: &Source) -> String {
    format!("the secret `{name}` is the hosts' own ({source}); change it there")
}

#[cfg(test)]
mod tests {
    use conf_core::secret::Identity;
    use libconf::name::Sequence;
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn values_without_a_declaration_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let key = Identity::create(&folder.path().join("key")).unwrap().recipient().clone();
        let about = About {
            sequence: Sequence(1),
            made: 0,
            source: "given".into(),
            recipients: vec![key],
            valid_until: None,
            left: Vec::new(),
        };
        let names = (0..MOST_NAMES).map(|number| format!("name{number}").parse().unwrap());
        let edits = names.map(|name| (name, Some((b"sealed".to_vec(), about.clone())))).collect();
        let (_, full) = branch::write(&repo, None, None, &edits, "full", (Sequence(1), 0)).unwrap();
        let mut catalog = Catalog::default();
        catalog.secrets.insert("full".parse().unwrap(), full);
        let set = |catalog: &Catalog, datacenter: &str, name: &str| {
            let value = SecretValue::Text(Zeroizing::new("x".to_owned()));
            let request = SecretRequest::Set(datacenter.parse().unwrap(), name.parse().unwrap(), value);
            request.actions(&repo, catalog, &SecretStore::default()).map(drop).map_err(|why| why.reason)
        };
        assert_eq!(set(&catalog, "full/v1", "name7"), Ok(()), "one that is there");
        assert!(set(&catalog, "full/v1", "another").unwrap_err().contains("1000 secrets already"));
        assert_eq!(set(&catalog, "new/v1", "another"), Ok(()), "before its datacenter");
        catalog.secrets.extend((1..MOST_IDS).map(|number| (format!("id{number}").parse().unwrap(), full)));
        assert!(set(&catalog, "new/v1", "another").unwrap_err().contains("push its branch first"));
        assert_eq!(set(&catalog, "full/v1", "name7"), Ok(()));
    }
}
