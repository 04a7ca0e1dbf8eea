//! What must be done so that what is declared is sealed to those who may read it. Writes nothing, makes nothing.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::{
    manifest::{self, DeclaredIn, InstanceManifest, PinRequest},
    secret::{About, Declaration, Generate, HostKey, SecretValue, Source},
};
use libconf::name::{ComponentVersion, DatacenterName, HostName, RefName, SecretName, Segment};

use crate::secrets::{Declared, Keeper};
use crate::{
    catalog::{Catalog, Delta, resolve::Caused},
    fault::refusal::Fault,
};

/// How many hosts a message names.
const MOST_NAMED: usize = 5;

/// What is done with one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A new value is made.
    Make(Generate),
    /// A value that somebody gives is taken.
    Take(SecretValue),
    /// The value that there is is sealed to others than before.
    Seal,
    /// It goes.
    Remove,
}

impl Action {
    /// What is done, for people; without the value.
    pub(crate) fn words(&self, name: &SecretName, hosts: usize) -> String {
        let hosts = format!("{hosts} host{}", if hosts == 1 { "" } else { "s" });
        match self {
            Action::Make(Generate::X509 { .. }) => format!("the secret {name} has a new certificate, for {hosts}"),
            Action::Make(_) => format!("the secret {name} has a new value, for {hosts}"),
            Action::Take(_) => format!("the secret {name} has the value that was given, for {hosts}"),
            Action::Seal => format!("the secret {name} is sealed to {hosts}"),
            Action::Remove => format!("the secret {name} is removed"),
        }
    }
}

/// What the datacenters of one id need.
#[derive(Debug, Default)]
pub struct Decision {
    /// What is to be done; nothing for what is as it should be.
    pub actions: BTreeMap<SecretName, Action>,
    /// To whom each declared secret is sealed, sorted, conf-master's own key among them.
    pub recipients: BTreeMap<SecretName, Vec<HostKey>>,
    /// What is wrong.
    pub faults: Vec<Caused>,
    /// Values that somebody must give first.
    pub needs: Vec<Caused>,
}

/// One datacenter as it would be.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Which.
    pub name: &'a DatacenterName,
    /// Its `datacenter.yaml`.
    pub instance: &'a InstanceManifest,
    /// What it runs.
    pub requests: &'a BTreeMap<ComponentVersion, PinRequest>,
    /// What it declares.
    pub secrets: &'a BTreeMap<SecretName, Declared>,
}

/// All datacenters of an id as they would be, and whether that is all that have a branch.
pub fn views<'a>(
    catalog: &'a Catalog,
    deltas: &'a BTreeMap<DatacenterName, Option<Delta>>,
    id: &Segment,
) -> (Vec<View<'a>>, bool) {
    let of_id = |name: &DatacenterName| name.id == *id;
    let mut views: BTreeMap<&DatacenterName, View<'a>> = BTreeMap::new();
    for (name, known) in catalog.datacenters.iter().filter(|(name, _)| of_id(name)) {
        let (instance, requests, secrets) = (&known.instance, &known.requests, &known.secrets);
        views.insert(name, View { name, instance, requests, secrets });
    }
    for (name, delta) in deltas.iter().filter(|(name, _)| of_id(name)) {
        let Some(delta) = delta else {
            views.remove(name);
            continue;
        };
        if let Some(manifest) = &delta.manifest {
            let (instance, requests, secrets) = (&manifest.instance, &manifest.requests, &manifest.secrets);
            views.insert(name, View { name, instance, requests, secrets });
        }
    }
    // One that cannot be resolved keeps its last snapshot, and what its hosts may read.
    let all_known = catalog.table.iter().all(|(reference, _)| match reference {
        RefName::Datacenter(name) if of_id(name) => {
            views.contains_key(name) || deltas.get(name).is_some_and(Option::is_none)
        }
        _ => true,
    });
    (views.into_values().collect(), all_known)
}

/// What one declared secret needs, in all datacenters of its id together.
struct Wanted<'a> {
    source: &'a Source,
    first: (View<'a>, &'a Declared),
    recipients: BTreeSet<HostKey>,
}

/// Compares what is declared with what is sealed.
pub fn decide(views: &[View<'_>], all_known: bool, sealed: &BTreeMap<SecretName, About>, keeper: &Keeper) -> Decision {
    let mut decision = Decision::default();
    let mut wanted: BTreeMap<&SecretName, Wanted<'_>> = BTreeMap::new();
    for view in views {
        let mut without_key: BTreeMap<&HostName, usize> = BTreeMap::new();
        let mut why = None;
        for (name, declared) in view.secrets.iter().filter(|(_, one)| one.declaration.source.is_central()) {
            let one = wanted.entry(name).or_insert_with(|| Wanted {
                source: &declared.declaration.source,
                first: (*view, declared),
                recipients: keeper.own_key().cloned().into_iter().collect(),
            });
            if *one.source != declared.declaration.source {
                let other = one.first.0.name;
                let reason = format!(
                    "{other} declares the secret `{name}` otherwise ({}), and the versions of one datacenter share their \
                     secrets; change both in one push, or give this one another name",
                    one.source
                );
                decision.faults.push(fault(view, declared, reason));
                continue;
            }
            for (host, about) in readers(view, &declared.declaration) {
                if let Some(key) = &about.key {
                    one.recipients.insert(key.clone());
                } else {
                    without_key.insert(host, about.line);
                    why = why.or(Some(name));
                }
            }
        }
        if let Some(name) = why {
            decision.faults.push(keyless(view, &without_key, name));
        }
    }
    twins(&wanted, sealed, &mut decision.faults);
    for (name, one) in wanted {
        let (view, declared) = one.first;
        let mut recipients = one.recipients;
        let known = sealed.get(name);
        if let Some(known) = known.filter(|_| !all_known) {
            recipients.extend(known.recipients.iter().cloned());
        }
        let recipients: Vec<HostKey> = recipients.into_iter().collect();
        match (one.source, known) {
            (Source::Generate(generate), known) if known.is_none_or(|known| known.source != one.source.to_string()) => {
                decision.actions.insert(name.clone(), Action::Make(generate.clone()));
            }
            (_, Some(known)) if known.recipients != recipients => {
                if lost(keeper, known) {
                    decision.faults.push(fault(&view, declared, format!("the secret `{name}` {LOST}")));
                } else {
                    decision.actions.insert(name.clone(), Action::Seal);
                }
            }
            (Source::Given, None) => match keeper.given(&view.name.id, name) {
                Some(value) => drop(decision.actions.insert(name.clone(), Action::Take(value))),
                None => decision.needs.push(fault(&view, declared, missing(keeper, view.name, name))),
            },
            _ => {}
        }
        decision.recipients.insert(name.clone(), recipients);
    }
    let own: Vec<HostKey> = keeper.own_key().cloned().into_iter().collect();
    let undeclared = sealed.iter().filter(|(name, _)| all_known && !decision.recipients.contains_key(*name));
    for (name, _) in undeclared.filter(|(_, known)| known.recipients != own && !lost(keeper, known)) {
        decision.actions.insert(name.clone(), Action::Seal);
    }
    decision
}

const LOST: &str = "cannot be opened: it is sealed to another key of conf-master than the one in <repo>.identity; put the file \
                    of that time back, or give a new value with `conf-master secret rotate` or `secret set`";

/// True when conf-master has another key than when this was sealed.
fn lost(keeper: &Keeper, known: &About) -> bool {
    keeper.own_key().is_some_and(|own| !known.recipients.contains(own))
}

fn missing(keeper: &Keeper, datacenter: &DatacenterName, name: &SecretName) -> String {
    format!(
        "the secret `{name}` has no value; run `conf-master secret set {datacenter} {name} --file FILE` (or start conf-master \
         with {}), then push again",
        keeper.variable(&datacenter.id, name)
    )
}

/// The listed hosts that run a component which may read a secret.
pub(crate) fn readers<'a>(
    view: &View<'a>,
    declaration: &'a Declaration,
) -> impl Iterator<Item = (&'a HostName, &'a manifest::Host)> + use<'a> {
    let is_reader = |version: &&ComponentVersion| declaration.readers.contains(&version.component);
    let versions: Vec<&ComponentVersion> = view.requests.keys().filter(is_reader).collect();
    let instance = view.instance;
    let runs = move |host: &HostName| versions.iter().any(|version| instance.runs(host, version));
    instance.hosts.iter().filter(move |(host, _)| runs(host))
}

/// A fault where a secret is declared.
fn fault(view: &View<'_>, declared: &Declared, reason: String) -> Caused {
    let (own, class) = (RefName::Datacenter(view.name.clone()), view.instance.class_ref());
    let file = match declared.declared_in {
        DeclaredIn::Instance => own.clone(),
        DeclaredIn::Class => class.clone(),
    };
    let fault = Fault {
        datacenter: Some(view.name.clone()),
        ..Fault::of_file(&file, manifest::FILE, Some(declared.declaration.line), reason)
    };
    Caused { fault, causes: vec![file, own, class] }
}

/// Hosts that would read a secret and have no key to seal it to.
fn keyless(view: &View<'_>, hosts: &BTreeMap<&HostName, usize>, name: &SecretName) -> Caused {
    let mut named: Vec<String> = hosts.keys().take(MOST_NAMED).map(|host| format!("`{host}`")).collect();
    if let more @ 1.. = hosts.len().saturating_sub(MOST_NAMED) {
        named.push(format!("{more} more"));
    }
    let (run, have, each) = if hosts.len() == 1 { ("runs", "has", "it") } else { ("run", "have", "each") };
    let reason = format!(
        "{} {run} a reader of the secret `{name}` and {have} no `key`; run `conf-local identity` on {each}, and write what it \
         prints here as key: ssh-ed25519 …",
        named.join(", ")
    );
    let own = RefName::Datacenter(view.name.clone());
    let line = hosts.values().copied().find(|line| *line > 0);
    let fault = Fault { datacenter: Some(view.name.clone()), ..Fault::of_file(&own, manifest::FILE, line, reason) };
    Caused { fault, causes: vec![own, view.instance.class_ref()] }
}

/// Names that differ only in case: they would share one variable, and one folder where a file system folds case.
fn twins(wanted: &BTreeMap<&SecretName, Wanted<'_>>, sealed: &BTreeMap<SecretName, About>, faults: &mut Vec<Caused>) {
    let mut seen: BTreeMap<String, &SecretName> = sealed.keys().map(|name| (name.variable(), name)).collect();
    for (name, one) in wanted {
        match seen.insert(name.variable(), name) {
            Some(twin) if twin != *name => {
                let (view, declared) = &one.first;
                let reason = format!("the secret `{name}` differs from `{twin}` only in case; give it another name");
                faults.push(fault(view, declared, reason));
            }
            _ => {}
        }
    }
}
