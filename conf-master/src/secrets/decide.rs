//! Decides which actions seal the declared secrets to their readers. Writes nothing, makes nothing.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::manifest::{self, DeclaredIn, InstanceManifest, PinRequest};
use conf_core::secret::{About, Declaration, Generate, HostKey, SecretValue, Source};
use libconf::name::{ComponentVersion, DatacenterName, HostName, RefName, SecretName, Segment};

use crate::catalog::{Catalog, DeclaredSecret, Delta, Deltas, Manifest};
use crate::fault::{Caused, Fault};
use crate::secrets::given::GivenValues;
use crate::text::{count, some_of};

/// The most hosts that a message names.
const MOST_NAMED: usize = 5;

/// An action on one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Makes a new value.
    Make(Generate),
    /// Takes a value that somebody gives.
    Take(SecretValue),
    /// Seals the existing value to other hosts than before.
    Seal,
    /// Removes it.
    Remove,
}

impl Action {
    /// Describes the action for people, without the value.
    pub(crate) fn words(&self, name: &SecretName, hosts: usize) -> String {
        let hosts = count(hosts, "host");
        match self {
            Action::Make(Generate::X509 { .. }) => format!("the secret {name} has a new certificate, for {hosts}"),
            Action::Make(_) => format!("the secret {name} has a new value, for {hosts}"),
            Action::Take(_) => format!("the secret {name} has the value that was given, for {hosts}"),
            Action::Seal => format!("the secret {name} is sealed to {hosts}"),
            Action::Remove => format!("the secret {name} is removed"),
        }
    }
}

/// The needs of the datacenters of one id.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// The actions; none for a secret that is as it should be.
    pub(crate) actions: BTreeMap<SecretName, Action>,
    /// The recipients of each declared secret, sorted, conf-master's own key among them.
    pub(crate) recipients: BTreeMap<SecretName, Vec<HostKey>>,
    /// What is wrong.
    pub(crate) faults: Vec<Caused>,
    /// Values that somebody must give first.
    pub(crate) needs: Vec<Caused>,
}

/// One datacenter as it would be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeclaringDatacenter<'a> {
    /// Its name.
    pub(crate) name: &'a DatacenterName,
    /// Its own `datacenter.yaml` and its class's.
    pub(crate) manifest: &'a Manifest,
}

/// Lists all datacenters of an id as they would be, and whether these are all that have a branch.
pub(crate) fn views<'a>(
    catalog: &'a Catalog,
    deltas: &'a Deltas,
    id: &Segment,
) -> (Vec<DeclaringDatacenter<'a>>, bool) {
    let of_id = |name: &DatacenterName| name.id == *id;
    let known = catalog.datacenters.iter().filter(|(name, _)| of_id(name));
    let mut views: BTreeMap<&DatacenterName, &Manifest> = known.map(|(name, one)| (name, &one.manifest)).collect();
    for (name, delta) in deltas.iter().filter(|(name, _)| of_id(name)) {
        match delta {
            Some(Delta { manifest: Some(manifest), .. }) => drop(views.insert(name, manifest)),
            Some(_) => {}
            None => drop(views.remove(name)),
        }
    }
    // A datacenter that cannot be resolved keeps its last snapshot, and its hosts keep their
    // secrets.
    let all_known = catalog.table.iter().all(|(reference, _)| match reference {
        RefName::Datacenter(name) if of_id(name) => {
            views.contains_key(name) || deltas.get(name).is_some_and(Option::is_none)
        }
        _ => true,
    });
    (views.into_iter().map(|(name, manifest)| DeclaringDatacenter { name, manifest }).collect(), all_known)
}

/// The needs of one declared secret, in all datacenters of its id together.
struct Wanted<'a> {
    source: &'a Source,
    first: (DeclaringDatacenter<'a>, &'a DeclaredSecret),
    recipients: BTreeSet<HostKey>,
}

/// Compares the declarations with the sealed secrets. `own` is conf-master's key; `given` has the
/// values of its environment.
pub(crate) fn decide(
    views: &[DeclaringDatacenter<'_>],
    all_known: bool,
    sealed: &BTreeMap<SecretName, About>,
    own: Option<&HostKey>,
    given: &GivenValues,
) -> Decision {
    let lost = |known: &About| own.is_some_and(|own| !known.recipients.contains(own));
    let mut decision = Decision::default();
    let wanted = wanted(views, own, &mut decision.faults);
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
                if lost(known) {
                    decision.faults.push(fault(&view, declared, format!("the secret `{name}` {LOST}")));
                } else {
                    decision.actions.insert(name.clone(), Action::Seal);
                }
            }
            (Source::Given, None) => match given.value(&view.name.id, name) {
                Some(value) => drop(decision.actions.insert(name.clone(), Action::Take(value))),
                None => decision.needs.push(fault(&view, declared, missing(given, view.name, name))),
            },
            _ => {}
        }
        decision.recipients.insert(name.clone(), recipients);
    }
    let alone: Vec<HostKey> = own.cloned().into_iter().collect();
    let undeclared = sealed.iter().filter(|(name, _)| all_known && !decision.recipients.contains_key(*name));
    for (name, _) in undeclared.filter(|(_, known)| known.recipients != alone && !lost(known)) {
        decision.actions.insert(name.clone(), Action::Seal);
    }
    decision
}

/// Collects the declared secrets that conf-master keeps, with the keys of their readers' hosts.
fn wanted<'a>(
    views: &[DeclaringDatacenter<'a>],
    own: Option<&HostKey>,
    faults: &mut Vec<Caused>,
) -> BTreeMap<&'a SecretName, Wanted<'a>> {
    let mut wanted: BTreeMap<&SecretName, Wanted<'_>> = BTreeMap::new();
    for view in views {
        let mut without_key: BTreeMap<&HostName, usize> = BTreeMap::new();
        let mut why = None;
        for (name, declared) in view.manifest.secrets.iter().filter(|(_, one)| one.declaration.source.is_central()) {
            let one = wanted.entry(name).or_insert_with(|| Wanted {
                source: &declared.declaration.source,
                first: (*view, declared),
                recipients: own.cloned().into_iter().collect(),
            });
            if *one.source != declared.declaration.source {
                let other = one.first.0.name;
                let reason = format!(
                    "{other} declares the secret `{name}` otherwise ({}), and the versions of one datacenter share their \
                     secrets; change both in one push, or give this one another name",
                    one.source
                );
                faults.push(fault(view, declared, reason));
                continue;
            }
            for (host, about) in readers(&view.manifest.instance, &view.manifest.requests, &declared.declaration) {
                if let Some(key) = &about.key {
                    one.recipients.insert(key.clone());
                } else {
                    without_key.insert(host, about.line);
                    why = why.or(Some(name));
                }
            }
        }
        faults.extend(why.map(|name| keyless(view, &without_key, name)));
    }
    wanted
}

const LOST: &str = "cannot be opened: it is sealed to another key of conf-master than the one in <repo>.identity; put the file \
                    of that time back, or give a new value with `conf-master secret rotate` or `secret set`";

fn missing(given: &GivenValues, datacenter: &DatacenterName, name: &SecretName) -> String {
    format!(
        "the secret `{name}` has no value; run `conf-master secret set {datacenter} {name} --file FILE` (or start conf-master \
         with {}), then push again",
        given.how_to_give(&datacenter.id, name)
    )
}

/// Lists the hosts of the inventory that run a component which may read a secret.
pub(crate) fn readers<'a>(
    instance: &'a InstanceManifest,
    requests: &'a BTreeMap<ComponentVersion, PinRequest>,
    declaration: &'a Declaration,
) -> impl Iterator<Item = (&'a HostName, &'a manifest::Host)> + use<'a> {
    let is_reader = |version: &&ComponentVersion| declaration.readers.contains(&version.component);
    let versions: Vec<&ComponentVersion> = requests.keys().filter(is_reader).collect();
    let runs = move |host: &HostName| versions.iter().any(|version| instance.runs(host, version));
    instance.hosts.iter().filter(move |(host, _)| runs(host))
}

/// Makes a fault at the declaration of a secret.
fn fault(view: &DeclaringDatacenter<'_>, declared: &DeclaredSecret, reason: String) -> Caused {
    let (own, class) = (RefName::Datacenter(view.name.clone()), view.manifest.instance.class_ref());
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

/// Makes a fault about hosts that would read a secret and have no key to seal it to.
fn keyless(view: &DeclaringDatacenter<'_>, hosts: &BTreeMap<&HostName, usize>, name: &SecretName) -> Caused {
    let named = some_of(hosts.keys().map(|host| format!("`{host}`")), MOST_NAMED);
    let (run, have, each) = if hosts.len() == 1 { ("runs", "has", "it") } else { ("run", "have", "each") };
    let reason = format!(
        "{} {run} a reader of the secret `{name}` and {have} no `key`; run `conf-local identity` on {each}, and write what it \
         prints here as key: ssh-ed25519 …",
        named.join(", ")
    );
    let own = RefName::Datacenter(view.name.clone());
    let line = hosts.values().copied().find(|line| *line > 0);
    let fault = Fault { datacenter: Some(view.name.clone()), ..Fault::of_file(&own, manifest::FILE, line, reason) };
    Caused { fault, causes: vec![own, view.manifest.instance.class_ref()] }
}

/// Finds names that differ only in case: they would share one variable, and one folder on a file
/// system that ignores case.
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
