//! Lists the rights that a judged change needs: for each ref, what is done to it, and which
//! datacenters that affects.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::access::Verb;
use git2::Repository;
use libconf::name::{DatacenterName, RefName, Segment};

use crate::catalog::{Catalog, Datacenter, Delta, Deltas, Manifest, resolve};
use crate::judge::rights::keys;
use crate::secrets::recipients::{self, NewRecipients};
use crate::store::RefChanges;

/// A right that a change needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// The ref that changes.
    pub(crate) reference: RefName,
    /// What is done to it.
    pub(crate) verb: Verb,
    /// The datacenters that are affected.
    pub(crate) datacenters: BTreeSet<DatacenterName>,
    /// Why, where what is done does not say it.
    pub(crate) why: Option<String>,
}

/// A change that is judged to its end.
pub(crate) struct JudgedChange<'a> {
    /// Where its objects are read.
    pub(crate) repo: &'a Repository,
    /// The state before it.
    pub(crate) catalog: &'a Catalog,
    /// The refs that it moves.
    pub(crate) changes: &'a RefChanges,
    /// What it does to each datacenter.
    pub(crate) deltas: &'a Deltas,
    /// The refs that go beyond what everybody may, and the right for that.
    pub(crate) beyond: &'a BTreeSet<(RefName, Verb)>,
}

/// The right that is needed to make, move or delete a ref.
pub(crate) fn verb(name: &RefName, is_deleted: bool) -> Verb {
    match name {
        RefName::Policy | RefName::Access | RefName::Keys => Verb::Administer,
        _ if is_deleted => Verb::Delete,
        name if name.is_tag() => Verb::Tag,
        _ => Verb::Push,
    }
}

impl Need {
    /// What a request about the secrets of an id needs. The datacenter that it names counts,
    /// whether it is there yet or not.
    pub(crate) fn of_secrets(catalog: &Catalog, id: &Segment, named: Option<&DatacenterName>) -> Self {
        let mut datacenters = versions(catalog, &BTreeSet::from([id]));
        datacenters.extend(named.cloned());
        Need { reference: RefName::Secrets(id.clone()), verb: Verb::Secrets, datacenters, why: None }
    }
}

impl JudgedChange<'_> {
    /// Lists the rights that the change needs.
    pub(crate) fn needs(&self) -> Result<Vec<Need>, git2::Error> {
        let affected = self.affected();
        let mut wanted = self.beyond.clone();
        for (name, new) in self.changes {
            wanted.insert((name.clone(), verb(name, new.is_none())));
            if let Some(new) = new {
                let verbs = keys::changed(self.repo, name, self.catalog.table.place(name), new.commit)?;
                wanted.extend(verbs.into_iter().map(|verb| (name.clone(), verb)));
            }
        }
        for (name, before, after) in self.datacenters() {
            let own = RefName::Datacenter(name.clone());
            let verbs = match (before, after) {
                (Some(before), Some(after)) => keys::of_another_class(&before.manifest, after),
                // The owner of an id decides who shares its secrets.
                (None, Some(_)) if self.has_secrets(&name.id) => BTreeSet::from([Verb::Secrets]),
                _ => BTreeSet::new(),
            };
            if self.changes.contains_key(&own) {
                wanted.extend(verbs.into_iter().map(|verb| (own.clone(), verb)));
            }
        }
        let mut sealed = self.sealed();
        let mut needs: Vec<Need> = Vec::new();
        for (reference, verb) in wanted {
            let mut datacenters = affected.get(&reference).cloned().unwrap_or_default();
            let mut why = None;
            if verb == Verb::Secrets {
                // The versions of one id share its secrets.
                let ids = datacenters.iter().map(|one| &one.id).collect();
                let siblings = versions(self.catalog, &ids);
                datacenters.extend(siblings);
                why = sealed.remove(&reference).map(|new| NewRecipients::why(&new));
            }
            needs.push(Need { reference, verb, datacenters, why });
        }
        needs.extend(sealed.into_iter().map(|(reference, new)| {
            let mut datacenters: BTreeSet<DatacenterName> = new.iter().map(|one| one.datacenter.clone()).collect();
            datacenters.extend(versions(self.catalog, &new.iter().map(|one| &one.datacenter.id).collect()));
            Need { reference, verb: Verb::Secrets, datacenters, why: Some(NewRecipients::why(&new)) }
        }));
        Ok(needs)
    }

    /// Finds the refs by which hosts come to read secrets that they do not read now: by a role, a
    /// component or a key of theirs, or since a datacenter runs a reader from then on.
    fn sealed(&self) -> BTreeMap<RefName, Vec<NewRecipients>> {
        let mut sealed: BTreeMap<RefName, Vec<NewRecipients>> = BTreeMap::new();
        for new in recipients::new(self.catalog, self.deltas) {
            let before = self.catalog.datacenter(&new.datacenter).map(|before| &before.manifest);
            let after = self.deltas.get(&new.datacenter).and_then(|delta| delta.as_ref()?.manifest.as_ref());
            let classes = before.into_iter().chain(after).map(|manifest| manifest.instance.class_ref());
            let causes = classes.chain([RefName::Datacenter(new.datacenter.clone())]);
            let causes: BTreeSet<RefName> = causes.filter(|cause| self.changes.contains_key(cause)).collect();
            // Where nobody knows which ref does it, each needs the right.
            let all = || self.changes.keys().cloned().collect();
            for cause in if causes.is_empty() { all() } else { causes } {
                sealed.entry(cause).or_default().push(new.clone());
            }
        }
        sealed
    }

    /// The datacenters that the change touches and does not delete: each as it is, and its new
    /// manifest where that is another one.
    fn datacenters(&self) -> impl Iterator<Item = (&DatacenterName, Option<&Datacenter>, Option<&Manifest>)> {
        let live = self.deltas.iter().filter_map(|(name, delta)| Some((name, delta.as_ref()?)));
        live.map(|(name, delta)| (name, self.catalog.datacenter(name), delta.manifest.as_ref()))
    }

    /// True when an id has secrets already, sealed or declared.
    fn has_secrets(&self, id: &Segment) -> bool {
        let mut of_id = self.catalog.datacenters.iter().filter(|(name, _)| name.id == *id);
        self.catalog.secrets.contains_key(id) || of_id.any(|(_, one)| !one.manifest.secrets.is_empty())
    }

    /// Finds the datacenters that each ref of the change affects.
    fn affected(&self) -> BTreeMap<RefName, BTreeSet<DatacenterName>> {
        let mut affected: BTreeMap<RefName, BTreeSet<DatacenterName>> = BTreeMap::new();
        for (name, delta) in self.deltas {
            let before = self.catalog.datacenter(name);
            let causes: BTreeSet<RefName> = match delta {
                None => BTreeSet::new(),
                Some(delta) => causes(before, delta),
            };
            let own = RefName::Datacenter(name.clone());
            let causes = causes.into_iter().chain([own]).filter(|cause| self.changes.contains_key(cause));
            let causes: BTreeSet<RefName> = causes.collect();
            let changes_nothing = delta.as_ref().is_some_and(|delta| is_empty(before, delta));
            if causes.is_empty() && !changes_nothing {
                // Nobody knows which ref does it, so that each needs the right.
                self.changes.keys().for_each(|cause| {
                    affected.entry(cause.clone()).or_default().insert(name.clone());
                });
            }
            causes.into_iter().for_each(|cause| {
                affected.entry(cause).or_default().insert(name.clone());
            });
        }
        affected
    }
}

/// Lists the refs besides its own branch that a difference of a datacenter comes from.
fn causes(before: Option<&Datacenter>, delta: &Delta) -> BTreeSet<RefName> {
    let mut causes = BTreeSet::new();
    let old = before.map(|before| &before.manifest);
    let manifests = || delta.manifest.iter().chain(old);
    if let Some(new) = &delta.manifest
        && old.is_none_or(|old| old.class_tree != new.class_tree)
    {
        causes.extend(manifests().map(|manifest| manifest.instance.class_ref()));
    }
    for component in delta.components.keys() {
        let requests = manifests().filter_map(|manifest| manifest.requests.get(component));
        causes.extend(requests.flat_map(resolve::reads));
    }
    causes
}

/// True when a datacenter is what it was.
fn is_empty(before: Option<&Datacenter>, delta: &Delta) -> bool {
    let trees = before.map(|before| before.manifest.trees());
    let is_same = delta.manifest.as_ref().is_none_or(|new| trees == Some(new.trees()));
    is_same && delta.components.is_empty()
}

/// The datacenters of some ids.
fn versions(catalog: &Catalog, ids: &BTreeSet<&Segment>) -> BTreeSet<DatacenterName> {
    let names = catalog.table.datacenters().into_iter();
    names.filter(|name| ids.contains(&name.id)).collect()
}
