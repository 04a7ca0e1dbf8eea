//! What people and the clock ask for besides what is declared: a given value, a new one, its removal, renewal.

use std::collections::BTreeMap;

use git2::Repository;
use libconf::{
    name::{DatacenterName, RefName, SecretName, Segment},
    tier::secret::{Generate, SecretValue, Source},
};

use super::{Asked, Declared, Keeper, branch, decide::Action, make};
use crate::{
    catalog::Catalog,
    refusal::{Kind, Refusal},
};

/// What is asked for; it lands as a change of its own.
#[derive(Clone, Debug)]
pub enum Order {
    /// To take a value for a secret that is given, whether it is declared yet or not.
    Set(DatacenterName, SecretName, SecretValue),
    /// To make a new value, or to take the one that the environment gives now.
    Rotate(DatacenterName, SecretName),
    /// To forget the value of a secret that nobody declares any more.
    Remove(DatacenterName, SecretName),
    /// To issue anew every certificate that has lived two thirds of its life at this second since 1970.
    Renew(i64),
}

impl Order {
    /// The branches that it is about, as far as it says so itself.
    pub fn references(&self) -> Vec<RefName> {
        match self {
            Order::Set(datacenter, ..) | Order::Rotate(datacenter, _) | Order::Remove(datacenter, _) => {
                vec![RefName::Secrets(datacenter.id.clone())]
            }
            Order::Renew(_) => Vec::new(),
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
            Order::Renew(now) => {
                let due = due(repo, catalog, *now).map_err(|cause| failed(&cause))?;
                let make = |(id, names): (Segment, BTreeMap<SecretName, Generate>)| {
                    (id, names.into_iter().map(|(name, generate)| (name, Action::Make(generate))).collect())
                };
                return Ok(due.into_iter().map(make).collect());
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
                match self.given(name).filter(|given| Some(given) != now.as_ref()) {
                    Some(given) => Ok(Action::Take(given)),
                    None => Err(format!(
                        "the secret `{name}` is given; run `conf-master secret set {datacenter} {name} --file FILE` (or start \
                         conf-master with a new {})",
                        name.variable()
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
pub(super) fn declared<'a>(catalog: &'a Catalog, id: &Segment, name: &SecretName) -> Option<&'a Declared> {
    let mut of_id = catalog.datacenters.iter().filter(|(datacenter, _)| datacenter.id == *id);
    of_id.find_map(|(_, known)| known.secrets.get(name))
}

/// The certificates of each id that have lived two thirds of their life.
fn due(
    repo: &Repository,
    catalog: &Catalog,
    now: i64,
) -> anyhow::Result<BTreeMap<Segment, BTreeMap<SecretName, Generate>>> {
    let mut due: BTreeMap<Segment, BTreeMap<SecretName, Generate>> = BTreeMap::new();
    for (id, tree) in &catalog.secrets {
        for (name, about) in branch::abouts(repo, Some(*tree))? {
            let Some(until) = about.valid_until.filter(|until| make::is_due(about.made, *until, now)) else { continue };
            tracing::debug!(%id, %name, until, "a certificate is due");
            if let Some(Source::Generate(generate)) = declared(catalog, id, &name).map(|one| &one.declaration.source) {
                due.entry(id.clone()).or_default().insert(name, generate.clone());
            }
        }
    }
    Ok(due)
}

fn failed(cause: &anyhow::Error) -> Refusal {
    Refusal::new(Kind::Failed, format!("the secrets cannot be read: {cause:#}"))
}
