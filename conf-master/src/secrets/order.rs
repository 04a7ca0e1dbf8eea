//! What people and the clock ask for besides what is declared: a given value, a new one, its removal, renewal.

use std::collections::BTreeMap;

use conf_core::secret::{Generate, SecretValue, Source};
use git2::Repository;
use libconf::name::{DatacenterName, RefName, SecretName, Segment};

use crate::secrets::{Asked, Declared, Keeper, branch, decide::Action, make};
use crate::{
    catalog::Catalog,
    fault::refusal::{Kind, Refusal},
};

/// The most secrets that may be given to the datacenters of one id.
const MOST_NAMES: usize = 1000;
/// So many ids may have secrets before one without a datacenter is refused some.
const MOST_IDS: usize = 1000;

/// What is asked for; it lands as a change of its own.
#[derive(Clone, Debug)]
pub enum Order {
    /// To take a value for a secret that is given, whether it is declared yet or not.
    Set(DatacenterName, SecretName, SecretValue),
    /// To make a new value, or to take the one that the environment gives now.
    Rotate(DatacenterName, SecretName),
    /// To forget the value of a secret that nobody declares any more.
    Remove(DatacenterName, SecretName),
    /// To issue anew every certificate of an id that has lived two thirds of its life at this second since 1970.
    Renew(Segment, i64),
}

impl Order {
    /// The branches that it is about, as far as it says so itself.
    pub fn references(&self) -> Vec<RefName> {
        match self {
            Order::Set(datacenter, ..) | Order::Rotate(datacenter, _) | Order::Remove(datacenter, _) => {
                vec![RefName::Secrets(datacenter.id.clone())]
            }
            Order::Renew(id, _) => vec![RefName::Secrets(id.clone())],
        }
    }
}

impl Keeper {
    /// What an order comes to, or why not. Changes nothing.
    pub fn asked(&self, repo: &Repository, catalog: &Catalog, order: &Order) -> Result<Asked, Refusal> {
        let (datacenter, name, action) = match order {
            Order::Set(datacenter, name, value) => (datacenter, name, set(repo, catalog, datacenter, name, value)?),
            Order::Rotate(datacenter, name) => (datacenter, name, self.rotate(repo, catalog, datacenter, name)?),
            Order::Remove(datacenter, name) => (datacenter, name, remove(repo, catalog, datacenter, name)?),
            Order::Renew(id, now) => {
                let due = due(repo, catalog, id, *now).map_err(|cause| failed(&cause))?;
                let make: BTreeMap<_, _> =
                    due.into_iter().map(|(name, generate)| (name, Action::Make(generate))).collect();
                return Ok(if make.is_empty() { Asked::new() } else { Asked::from([(id.clone(), make)]) });
            }
        };
        Ok(Asked::from([(datacenter.id.clone(), BTreeMap::from([(name.clone(), action)]))]))
    }

    fn rotate(
        &self,
        repo: &Repository,
        catalog: &Catalog,
        datacenter: &DatacenterName,
        name: &SecretName,
    ) -> Result<Action, Refusal> {
        let Some(known) = catalog.datacenters.get(datacenter) else {
            return Err(format!("there is no datacenter {datacenter}").into());
        };
        let Some(one) = known.secrets.get(name) else {
            let known: Vec<&str> = known.secrets.keys().map(SecretName::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!("{datacenter} declares no secret `{name}`; it declares: {known}").into());
        };
        match &one.declaration.source {
            Source::Generate(generate) => Ok(Action::Make(generate.clone())),
            Source::Given => {
                let id = &datacenter.id;
                let now = self.value(repo, catalog.secrets.get(id).copied(), id, name).ok();
                match self.given(id, name).filter(|given| Some(given) != now.as_ref()) {
                    Some(given) => Ok(Action::Take(given)),
                    None => Err(format!(
                        "the secret `{name}` is given; run `conf-master secret set {datacenter} {name} --file FILE` (or start \
                         conf-master with {} and a new value)",
                        self.variable(id, name)
                    )
                    .into()),
                }
            }
            source => Err(format!("the secret `{name}` is read on the hosts ({source}); change it there").into()),
        }
    }
}

fn set(
    repo: &Repository,
    catalog: &Catalog,
    datacenter: &DatacenterName,
    name: &SecretName,
    value: &SecretValue,
) -> Result<Action, Refusal> {
    match declared(catalog, &datacenter.id, name).map(|one| &one.declaration.source) {
        None | Some(Source::Given) => {}
        Some(Source::Generate(_)) => {
            let words = "is generated; `conf-master secret rotate` makes a new value, or take `generate` out first";
            return Err(format!("the secret `{name}` {words}").into());
        }
        Some(source) => {
            return Err(format!("the secret `{name}` is read on the hosts ({source}); change it there").into());
        }
    }
    let sealed = branch::abouts(repo, catalog.secrets.get(&datacenter.id).copied()).map_err(|cause| failed(&cause))?;
    let has_branch = catalog.table.iter().any(|(reference, _)| match reference {
        RefName::Datacenter(one) => one.id == datacenter.id,
        _ => false,
    });
    // A value may come before the datacenter does, but not without end.
    if !has_branch && !catalog.secrets.contains_key(&datacenter.id) && catalog.secrets.len() >= MOST_IDS {
        return Err(format!(
            "there is no datacenter of the id {}, and {MOST_IDS} ids have secrets already; push its branch first",
            datacenter.id
        )
        .into());
    }
    if !sealed.contains_key(name) && sealed.len() >= MOST_NAMES {
        return Err(format!("{} has {MOST_NAMES} secrets already; remove one that nobody needs", datacenter.id).into());
    }
    if let Some(twin) = sealed.keys().find(|twin| twin.variable() == name.variable() && *twin != name) {
        return Err(format!("the secret `{name}` differs from `{twin}` only in case; give it another name").into());
    }
    Ok(Action::Take(value.clone()))
}

fn remove(
    repo: &Repository,
    catalog: &Catalog,
    datacenter: &DatacenterName,
    name: &SecretName,
) -> Result<Action, Refusal> {
    let sealed = branch::abouts(repo, catalog.secrets.get(&datacenter.id).copied()).map_err(|cause| failed(&cause))?;
    if !sealed.contains_key(name) {
        return Err(format!("no value of the secret `{name}` is kept for {}", datacenter.id).into());
    }
    let declares = |(reference, _): (&RefName, _)| match reference {
        RefName::Datacenter(one) if one.id == datacenter.id => match catalog.datacenters.get(one) {
            Some(known) => known.secrets.contains_key(name),
            // What cannot be resolved may declare it.
            None => true,
        },
        _ => false,
    };
    if catalog.table.iter().any(declares) {
        return Err(format!("the secret `{name}` is declared; take it out of datacenter.yaml first").into());
    }
    Ok(Action::Remove)
}

/// The first declaration of a secret among the datacenters of an id; all that land are alike.
pub(crate) fn declared<'a>(catalog: &'a Catalog, id: &Segment, name: &SecretName) -> Option<&'a Declared> {
    let mut of_id = catalog.datacenters.iter().filter(|(datacenter, _)| datacenter.id == *id);
    of_id.find_map(|(_, known)| known.secrets.get(name))
}

/// The certificates of an id that have lived two thirds of their life.
fn due(repo: &Repository, catalog: &Catalog, id: &Segment, now: i64) -> anyhow::Result<BTreeMap<SecretName, Generate>> {
    let mut due = BTreeMap::new();
    for (name, about) in branch::abouts(repo, catalog.secrets.get(id).copied())? {
        let Some(until) = about.valid_until.filter(|until| make::is_due(about.made, *until, now)) else { continue };
        tracing::debug!(%id, %name, until, "a certificate is due");
        if let Some(Source::Generate(generate)) = declared(catalog, id, &name).map(|one| &one.declaration.source) {
            due.insert(name, generate.clone());
        }
    }
    Ok(due)
}

fn failed(cause: &anyhow::Error) -> Refusal {
    Refusal::new(Kind::Failed, format!("the secrets cannot be read: {cause:#}"))
}

#[cfg(test)]
mod tests {
    use conf_core::secret::{About, Identity};
    use libconf::name::Sequence;
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn values_that_nobody_declares_have_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let key = Identity::create(&folder.path().join("key")).unwrap().recipient().clone();
        let about =
            About { sequence: Sequence(1), made: 0, source: "given".into(), recipients: vec![key], valid_until: None };
        let names = (0..MOST_NAMES).map(|number| format!("name{number}").parse().unwrap());
        let edits = names.map(|name| (name, Some((b"sealed".to_vec(), about.clone())))).collect();
        let (_, full) = branch::write(&repo, None, None, &edits, "full", (Sequence(1), 0)).unwrap();
        let mut catalog = Catalog::default();
        catalog.secrets.insert("full".parse().unwrap(), full);
        let set = |catalog: &Catalog, datacenter: &str, name: &str| {
            let value = SecretValue::Text(Zeroizing::new("x".to_owned()));
            let order = Order::Set(datacenter.parse().unwrap(), name.parse().unwrap(), value);
            Keeper::default().asked(&repo, catalog, &order).map(drop).map_err(|why| why.reason)
        };
        assert_eq!(set(&catalog, "full/v1", "name7"), Ok(()), "one that is there");
        assert!(set(&catalog, "full/v1", "another").unwrap_err().contains("1000 secrets already"));
        assert_eq!(set(&catalog, "new/v1", "another"), Ok(()), "before its datacenter");
        catalog.secrets.extend((1..MOST_IDS).map(|number| (format!("id{number}").parse().unwrap(), full)));
        assert!(set(&catalog, "new/v1", "another").unwrap_err().contains("push its branch first"));
        assert_eq!(set(&catalog, "full/v1", "name7"), Ok(()));
    }
}
