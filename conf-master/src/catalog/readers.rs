//! Which datacenters read which branch or tag of a component.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use libconf::name::{ComponentVersion, DatacenterName, RefName};

use crate::catalog::model::Requests;
use crate::catalog::resolve;

/// The datacenters that ask for components. Those of one class mostly ask for the same: what they
/// read is listed once for all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readers(Vec<Group>);

/// Datacenters that share their requests.
#[derive(Clone, Debug)]
struct Group {
    requests: Arc<Requests>,
    /// For each ref, the components that are read from it.
    reads: Arc<HashMap<RefName, Vec<ComponentVersion>>>,
    datacenters: BTreeSet<DatacenterName>,
}

impl Readers {
    /// Adds a datacenter, which must not be there.
    pub(crate) fn add(&mut self, name: &DatacenterName, requests: &Arc<Requests>) {
        if let Some(group) = self.0.iter_mut().find(|group| Arc::ptr_eq(&group.requests, requests)) {
            group.datacenters.insert(name.clone());
            return;
        }
        let mut reads: HashMap<RefName, Vec<ComponentVersion>> = HashMap::new();
        for request in requests.values() {
            for read in resolve::reads(request) {
                reads.entry(read).or_default().push(request.component.clone());
            }
        }
        let (requests, datacenters) = (requests.clone(), BTreeSet::from([name.clone()]));
        self.0.push(Group { requests, reads: Arc::new(reads), datacenters });
    }

    /// Takes a datacenter out.
    pub(crate) fn remove(&mut self, name: &DatacenterName) {
        self.0.retain_mut(|group| !group.datacenters.remove(name) || !group.datacenters.is_empty());
    }

    /// Finds the datacenters that read a ref, and for which components.
    pub(crate) fn of<'a>(
        &'a self,
        name: &'a RefName,
    ) -> impl Iterator<Item = (&'a DatacenterName, &'a [ComponentVersion])> {
        let groups = self.0.iter().filter_map(move |group| Some((&group.datacenters, group.reads.get(name)?)));
        groups.flat_map(|(datacenters, components)| datacenters.iter().map(move |one| (one, components.as_slice())))
    }
}

#[cfg(test)]
mod tests {
    use conf_core::manifest::{ClassManifest, InstanceManifest, Strictness};
    use libconf::name::ObjectId;

    use super::*;
    use crate::catalog::Contents;

    #[test]
    fn datacenters_of_a_class_share_what_they_ask_for_and_all_are_found() {
        let contents = Contents::default();
        let text = "services: [{name: web, branch: master}, {name: api, branch: master, tag: v1}]\n";
        let read = || ClassManifest::parse(text, Strictness::Strict);
        let class = contents.class(ObjectId::ZERO, read).unwrap();
        let requests = |own: &str| {
            let text = format!("conf: datacenter-configuration/a/latest\n{own}");
            class.requests(&InstanceManifest::parse(&text, Strictness::Strict).unwrap())
        };
        let [one, two] = ["", "platform: {a: 1}\n"].map(requests);
        assert!(Arc::ptr_eq(&one, &two));
        let three = requests("services: [{name: web, branch: next}]\n");
        let mut readers = Readers::default();
        for (name, requests) in [("one/v1", &one), ("two/v1", &two), ("three/v1", &three)] {
            readers.add(&name.parse().unwrap(), requests);
        }
        let of = |readers: &Readers, name: &str| {
            let name = name.parse().unwrap();
            let found = readers.of(&name).map(|(name, components)| format!("{name}: {}", components[0]));
            found.collect::<Vec<_>>()
        };
        let both = ["one/v1: services/web/latest", "two/v1: services/web/latest"];
        assert_eq!(of(&readers, "refs/heads/services/web/master"), both);
        assert_eq!(of(&readers, "refs/heads/services/web/next"), ["three/v1: services/web/latest"]);
        // A tag is read with its branch.
        for name in ["refs/heads/services/api/master", "refs/tags/services/api/v1"] {
            assert_eq!(of(&readers, name).len(), 3, "{name}");
        }
        readers.remove(&"one/v1".parse().unwrap());
        readers.remove(&"three/v1".parse().unwrap());
        assert_eq!(of(&readers, "refs/heads/services/web/master"), both[1..]);
        assert!(of(&readers, "refs/heads/services/web/next").is_empty());
    }
}
