//! Turns `datacenter.yaml` into pins: the commit that each entry names, and what is wrong with the
//! entry.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::api::Pin;
use conf_core::manifest::{self, ClassManifest, DeclaredIn, InstanceManifest, PinRequest, Strictness};
use conf_core::settings;
use conf_core::snapshot::Component;
use git2::{ObjectType, Repository, Tree, TreeWalkMode, TreeWalkResult};
use libconf::name::{CommitId, ComponentName, DatacenterName, RefName, SecretName};

use crate::catalog::contents::Contents;
use crate::catalog::model::{Datacenter, DeclaredSecret, Delta, Manifest, Touched};
use crate::fault::{Caused, Fault};
use crate::store::Proposed;

/// Lists the refs that one entry reads.
pub(crate) fn reads(request: &PinRequest) -> BTreeSet<RefName> {
    let branch = RefName::Branch(request.component.component.clone(), request.branch.clone());
    BTreeSet::from([branch, request.reference()])
}

/// Lists the refs that hold a datacenter's two `datacenter.yaml`. A tag of a class needs the
/// branch of the class too.
pub(crate) fn manifests(name: &DatacenterName, instance: &InstanceManifest) -> BTreeSet<RefName> {
    let class = RefName::Class(instance.conf.class.clone());
    BTreeSet::from([RefName::Datacenter(name.clone()), class, instance.class_ref()])
}

/// What a datacenter would run, as far as it can be resolved, and what is wrong with the rest.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    /// The differences, without the components that have faults.
    pub(crate) delta: Delta,
    /// What is wrong.
    pub(crate) faults: Vec<Caused>,
}

/// Resolves a datacenter. With `before`, only the touched parts are looked at again; nothing that
/// `contents` knows is read again.
pub(crate) fn datacenter(
    (repo, contents): (&Repository, &Contents),
    refs: Proposed<'_>,
    name: &DatacenterName,
    before: Option<&Datacenter>,
    touched: &Touched,
) -> Resolved {
    let resolving = Resolving { repo, contents, refs, own: RefName::Datacenter(name.clone()), before, touched };
    let mut resolved = match before {
        Some(_) if !touched.manifest => resolving.pins(None),
        _ => match resolving.manifest() {
            Ok(manifest) => resolving.pins(Some(manifest)),
            Err(faults) => Resolved { faults, ..Resolved::default() },
        },
    };
    Caused::place_in(&mut resolved.faults, name);
    resolved
}

/// One datacenter while it is resolved.
struct Resolving<'a> {
    repo: &'a Repository,
    contents: &'a Contents,
    refs: Proposed<'a>,
    /// The datacenter's branch.
    own: RefName,
    before: Option<&'a Datacenter>,
    touched: &'a Touched,
}

/// Makes a fault in a `datacenter.yaml`.
fn fault(reference: &RefName, line: Option<usize>, reason: String, causes: Vec<RefName>) -> Caused {
    Caused { fault: Fault::of_file(reference, manifest::FILE, line, reason), causes }
}

/// Makes a fault that is all the fault of a ref of the same push which is refused.
fn following(reference: &RefName, line: usize, refused: &RefName, causes: Vec<RefName>) -> Caused {
    let reason = format!("this needs {}, which is refused in the same push", refused.short());
    let mut caused = fault(reference, Some(line), reason, causes);
    caused.fault.follows = true;
    caused
}

impl Resolving<'_> {
    /// Looks up the components that the manifest asks for; without a new manifest, those that were
    /// touched.
    fn pins(&self, manifest: Option<Manifest>) -> Resolved {
        let Some(current) = manifest.as_ref().or(self.before.map(|before| &before.manifest)) else {
            return Resolved::default();
        };
        let requests = &current.requests;
        // Where no `datacenter.yaml` changed, only the touched components can differ.
        let candidates: Vec<&PinRequest> = match manifest {
            Some(_) => requests.values().collect(),
            None => self.touched.components.iter().filter_map(|component| requests.get(component)).collect(),
        };
        let class = current.instance.class_ref();
        let (mut faults, mut components) = (Vec::new(), BTreeMap::new());
        for request in candidates {
            let component = &request.component;
            let known = self
                .before
                .and_then(|before| Some((before.manifest.requests.get(component)?, before.components.get(component)?)));
            if known.is_some_and(|(asked, _)| same_pin(asked, request)) && !self.touched.components.contains(component)
            {
                continue;
            }
            match self.pin(&class, request) {
                Ok(found) if known.is_some_and(|(_, known)| *known == found) => {}
                Ok(found) => drop(components.insert(component.clone(), Some(found))),
                Err(fault) => faults.push(fault),
            }
        }
        // Only another `datacenter.yaml` takes components away.
        let known = self.before.filter(|_| manifest.is_some()).into_iter().flat_map(|before| before.components.keys());
        components.extend(known.filter(|component| !requests.contains_key(component)).map(|gone| (gone.clone(), None)));
        Resolved { delta: Delta { manifest, components }, faults }
    }

    /// Reads the `datacenter.yaml` of the datacenter and of its class.
    fn manifest(&self) -> Result<Manifest, Vec<Caused>> {
        let (repo, own) = (self.repo, &self.own);
        let own_fault = |line, reason, causes| vec![fault(own, line, reason, causes)];
        let Some(tip) = self.refs.target(own) else {
            return Err(own_fault(None, "the datacenter has no branch".to_owned(), vec![own.clone()]));
        };
        // With ten thousand hosts the file is long; it is not read again where only the class
        // changed.
        let known = self.before.map(|before| &before.manifest).filter(|before| before.datacenter_commit == tip.commit);
        let instance = match known {
            Some(before) => before.instance.clone(),
            None => instance(repo, own, tip.commit)?,
        };
        let (class_ref, line) = (instance.class_ref(), Some(instance.conf.line));
        let (class_name, branch) = (class_ref.short(), RefName::Class(instance.conf.class.clone()));
        let Some(class_tip) = self.refs.target(&class_ref) else {
            return Err(vec![self.no_class(&class_ref, instance.conf.line)]);
        };
        if self.refs.changes.get(&branch) == Some(&None) {
            let reason = format!(
                "{} is still needed here, for its tag {class_name}; name another class before you delete it",
                branch.short()
            );
            return Err(own_fault(line, reason, vec![branch, own.clone()]));
        }
        if class_ref.is_tag() && !self.reaches(&branch, class_tip.commit) {
            if self.refs.refused.contains(&branch) {
                return Err(vec![following(own, instance.conf.line, &branch, vec![class_ref, own.clone()])]);
            }
            let reason =
                format!("the tag {class_name} is not on the branch {}; merge it, or name another tag", branch.short());
            return Err(own_fault(line, reason, vec![class_ref, branch, own.clone()]));
        }
        let class = self.contents.class(class_tip.commit, || class(repo, &class_ref, class_tip.commit))?;
        let requests = class.requests(&instance);
        let class = &class.manifest;
        let dangling = instance.dangling(class);
        if !dangling.is_empty() {
            let causes = vec![own.clone(), class_ref, branch];
            return Err(dangling.into_iter().map(|one| fault(own, one.line, one.reason, causes.clone())).collect());
        }
        let (mut secrets, mut faults) = (BTreeMap::new(), Vec::new());
        for (name, (declaration, declared_in)) in manifest::secrets(class, &instance) {
            // The class's may be for other datacenters of it: all of them are looked at together.
            let runs = |reader: &ComponentName| {
                declared_in == DeclaredIn::Class || requests.keys().any(|component| component.component == *reader)
            };
            for reader in declaration.readers.iter().filter(|reader| !runs(reader)) {
                // To find a similar name, all are compared.
                let near = if faults.len() < manifest::MOST_LOOKS {
                    manifest::nearest_component(&reader.to_string(), requests.keys())
                } else {
                    String::new()
                };
                let reason = no_reader(reader, name, "this datacenter", &near);
                let causes = vec![own.clone(), class_ref.clone(), branch.clone()];
                faults.push(fault(own, Some(declaration.line), reason, causes));
            }
            secrets.insert(name.clone(), DeclaredSecret { declaration: declaration.clone(), declared_in });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let tree = |commit: CommitId| repo.find_commit(commit.into()).map(|commit| commit.tree_id().into());
        let broken = |error: git2::Error| own_fault(None, error.message().to_owned(), vec![own.clone()]);
        Ok(Manifest {
            platform: manifest::platform(class, &instance),
            settings_compatibility: class.settings_compatibility,
            requests,
            secrets,
            datacenter_tree: tree(tip.commit).map_err(broken)?,
            datacenter_commit: tip.commit,
            class_tree: tree(class_tip.commit).map_err(broken)?,
            class_commit: class_tip.commit,
            instance,
        })
    }

    /// Says that the class is not there.
    fn no_class(&self, class: &RefName, line: usize) -> Caused {
        let (own, name) = (&self.own, class.short());
        if self.refs.refused.contains(class) {
            return following(own, line, class, vec![own.clone()]);
        }
        let reason = match self.refs.changes.get(class) {
            Some(None) => format!("{name} is still needed here; name another class before you delete it"),
            _ => format!("{name} does not exist; push it in the same push, or correct `conf`"),
        };
        fault(own, Some(line), reason, vec![class.clone(), own.clone()])
    }

    /// Looks up one entry: its branch, its tag, the content, and whether the content can be
    /// exported.
    fn pin(&self, class: &RefName, request: &PinRequest) -> Result<Component, Caused> {
        let component = &request.component.component;
        let declared = match request.declared_in {
            DeclaredIn::Instance => &self.own,
            DeclaredIn::Class => class,
        };
        let branch = RefName::Branch(component.clone(), request.branch.clone());
        let reference = request.reference();
        // The datacenter that names a tag of its class causes a change of the class.
        let causes = || vec![reference.clone(), branch.clone(), declared.clone(), self.own.clone(), class.clone()];
        let entry_fault =
            |reason: String| fault(declared, Some(request.line), format!("{component}: {reason}"), causes());
        // Who names what is not there causes that, not a component that is pushed beside it.
        let naming = || vec![declared.clone(), self.own.clone(), class.clone(), reference.clone(), branch.clone()];
        let missing = |needed: &RefName, reason: String| {
            if self.refs.refused.contains(needed) {
                return following(declared, request.line, needed, naming());
            }
            Caused { causes: naming(), ..entry_fault(reason) }
        };
        for read in [&branch, &reference] {
            if self.refs.changes.get(read) == Some(&None) {
                let words = "is still needed here; take the entry out before you delete it";
                return Err(entry_fault(format!("{} {words}", read.short())));
            }
        }
        let branch_name = branch.short();
        let tip = self.refs.target(&branch).ok_or_else(|| {
            let words = format!("there is no branch {branch_name}; push it in the same push, or correct `branch`");
            missing(&branch, words)
        })?;
        let commit = match &request.tag {
            None => tip.commit,
            Some(tag) => {
                let tag = format!("{component}/{tag}");
                let target = self.refs.target(&reference).ok_or_else(|| {
                    missing(&reference, format!("there is no tag {tag}; push refs/tags/{tag}, or write `tag: latest`"))
                })?;
                if !self.reaches(&branch, target.commit) {
                    let words = format!(
                        "the tag {tag} is not on the branch {branch_name}; merge it there, or name another tag"
                    );
                    // The tag first: it never moves, so a wrong one may not land.
                    let causes = [vec![reference.clone()], naming()].concat();
                    return Err(Caused { causes, ..missing(&branch, words) });
                }
                target.commit
            }
        };
        let broken = |error: git2::Error| entry_fault(error.message().to_owned());
        let tree = self.repo.find_commit(commit.into()).map_err(broken)?.tree_id();
        if !self.contents.is_good(tree.into(), request.raw) {
            let content = self.repo.find_tree(tree).map_err(broken)?;
            if let Some(found) = fault_in_content(&content, request.raw).map_err(broken)? {
                let fault = Fault::of_file(&reference, &found.file, found.line, found.reason);
                return Err(Caused { fault, causes: causes() });
            }
            self.contents.remember_good(tree.into(), request.raw);
        }
        let pin = Pin { component: request.component.clone(), branch: request.branch.clone(), commit };
        Ok(Component { pin, tree: tree.into() })
    }

    /// Tells whether `commit` is the branch's tip or behind it.
    fn reaches(&self, branch: &RefName, commit: CommitId) -> bool {
        self.refs.target(branch).is_some_and(|tip| {
            tip.commit == commit || self.repo.graph_descendant_of(tip.commit.into(), commit.into()).unwrap_or(false)
        })
    }
}

/// Says that nobody runs a reader of a secret: neither the class nor `datacenters`.
pub(crate) fn no_reader(reader: &ComponentName, secret: &SecretName, datacenters: &str, near: &str) -> String {
    format!(
        "`{reader}`, a reader of the secret `{secret}`, is run neither by the class nor by {datacenters}{near}; add it to `{}`, \
         or take it out here",
        reader.kind
    )
}

/// Tells whether two entries pin the same content.
fn same_pin(one: &PinRequest, other: &PinRequest) -> bool {
    (&one.branch, &one.tag, one.raw) == (&other.branch, &other.tag, other.raw)
}

/// Reads the `datacenter.yaml` of a datacenter's branch, strictly.
pub(crate) fn instance(
    repo: &Repository,
    reference: &RefName,
    commit: CommitId,
) -> Result<InstanceManifest, Vec<Caused>> {
    strictly(repo, reference, commit, |text| InstanceManifest::parse(text, Strictness::Strict))
}

/// Reads the `datacenter.yaml` of a class, strictly.
pub(crate) fn class(repo: &Repository, reference: &RefName, commit: CommitId) -> Result<ClassManifest, Vec<Caused>> {
    strictly(repo, reference, commit, |text| ClassManifest::parse(text, Strictness::Strict))
}

fn strictly<T>(
    repo: &Repository,
    reference: &RefName,
    commit: CommitId,
    parse: impl FnOnce(&str) -> Result<T, Vec<settings::Fault>>,
) -> Result<T, Vec<Caused>> {
    let fault = |line: Option<usize>, reason: String| Caused {
        fault: Fault::of_file(reference, manifest::FILE, line, reason),
        causes: vec![reference.clone()],
    };
    let read = || -> Result<Vec<u8>, git2::Error> {
        let tree = repo.find_commit(commit.into())?.tree()?;
        let Some(entry) = tree.get_name(manifest::FILE).filter(|entry| entry.kind() == Some(ObjectType::Blob)) else {
            return Err(git2::Error::from_str("the file is missing; it says what runs"));
        };
        Ok(repo.find_blob(entry.id())?.content().to_owned())
    };
    let bytes = read().map_err(|error| vec![fault(None, error.message().to_owned())])?;
    let text = String::from_utf8(bytes).map_err(|_| vec![fault(None, "the file is not UTF-8".to_owned())])?;
    parse(&text).map_err(|faults| faults.into_iter().map(|found| fault(found.line, found.reason)).collect())
}

/// Finds a file that a component may not have. The hosts check by the same code.
fn fault_in_content(tree: &Tree<'_>, raw: bool) -> Result<Option<settings::SettingsFault>, git2::Error> {
    let mut paths = Vec::new();
    tree.walk(TreeWalkMode::PreOrder, |folder, entry| {
        if entry.kind() == Some(ObjectType::Blob) {
            paths.push(format!("{folder}{}", String::from_utf8_lossy(entry.name_bytes())));
        }
        TreeWalkResult::Ok
    })?;
    Ok(settings::choose(paths.iter().map(String::as_str), raw).err())
}
