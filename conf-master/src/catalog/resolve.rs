//! From `datacenter.yaml` to pins: what each entry names, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::api::Pin;
use conf_core::manifest::{self, ClassManifest, DeclaredIn, InstanceManifest, PinRequest, Strictness};
use conf_core::settings;
use conf_core::snapshot::Component;
use git2::{ObjectType, Repository, Tree, TreeWalkMode, TreeWalkResult};
use libconf::name::{CommitId, ComponentName, ComponentVersion, DatacenterName, RefName, SecretName};

use crate::catalog::model::{Datacenter, DeclaredSecret, Delta, Manifest, Touched};
use crate::fault::{Caused, Fault};
use crate::store::Proposed;

/// The refs that one entry reads.
pub(crate) fn reads(request: &PinRequest) -> BTreeSet<RefName> {
    let branch = RefName::Branch(request.component.component.clone(), request.branch.clone());
    BTreeSet::from([branch, request.reference()])
}

/// What a datacenter would run, as far as it can be told, and what is wrong with the rest.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    /// What would be different, without the components that have faults.
    pub(crate) delta: Delta,
    /// What is wrong.
    pub(crate) faults: Vec<Caused>,
}

/// Works out what a datacenter would run. With `before`, only what was touched is looked at again.
pub(crate) fn datacenter(
    repo: &Repository,
    refs: Proposed<'_>,
    name: &DatacenterName,
    before: Option<&Datacenter>,
    touched: &Touched,
) -> Resolved {
    let mut resolved = match before {
        Some(_) if !touched.manifest => pins(repo, refs, name, before, touched, None),
        _ => match read_manifest(repo, refs, name, before) {
            Ok(manifest) => pins(repo, refs, name, before, touched, Some(manifest)),
            Err(faults) => Resolved { faults, ..Resolved::default() },
        },
    };
    Caused::place_in(&mut resolved.faults, name);
    resolved
}

fn pins(
    repo: &Repository,
    refs: Proposed<'_>,
    name: &DatacenterName,
    before: Option<&Datacenter>,
    touched: &Touched,
    manifest: Option<Manifest>,
) -> Resolved {
    let requests = match (&manifest, before) {
        (Some(manifest), _) => &manifest.requests,
        (None, Some(before)) => &before.manifest.requests,
        (None, None) => return Resolved::default(),
    };
    // Where no `datacenter.yaml` changed, only the components that were touched can differ.
    let candidates: Vec<&PinRequest> = match manifest {
        Some(_) => requests.values().collect(),
        None => touched.components.iter().filter_map(|component| requests.get(component)).collect(),
    };
    let class = manifest.as_ref().map(|new| &new.instance).or(before.map(|before| &before.manifest.instance));
    let class = class.map(InstanceManifest::class_ref);
    let mut faults = Vec::new();
    let mut components = BTreeMap::new();
    for request in candidates {
        let component = &request.component;
        let known = before
            .and_then(|before| Some((before.manifest.requests.get(component)?, before.components.get(component)?)));
        if let Some((asked, _)) = known
            && same_question(asked, request)
            && !touched.components.contains(component)
        {
            continue;
        }
        match pin(repo, refs, name, class.as_ref(), request) {
            Ok(found) if known.is_some_and(|(_, known)| *known == found) => {}
            Ok(found) => drop(components.insert(component.clone(), Some(found))),
            Err(fault) => faults.push(fault),
        }
    }
    let gone = before.into_iter().flat_map(|before| before.components.keys());
    components.extend(gone.filter(|component| !requests.contains_key(component)).map(|gone| (gone.clone(), None)));
    Resolved { delta: Delta { manifest, components }, faults }
}

fn same_question(one: &PinRequest, other: &PinRequest) -> bool {
    (&one.branch, &one.tag, one.raw) == (&other.branch, &other.tag, other.raw)
}

fn read_manifest(
    repo: &Repository,
    refs: Proposed<'_>,
    name: &DatacenterName,
    before: Option<&Datacenter>,
) -> Result<Manifest, Vec<Caused>> {
    let own = RefName::Datacenter(name.clone());
    let fault = |reference: &RefName, line: Option<usize>, reason: String, causes: Vec<RefName>| {
        vec![Caused { fault: Fault::of_file(reference, manifest::FILE, line, reason), causes }]
    };
    let Some(tip) = refs.target(&own) else {
        return Err(fault(&own, None, "the datacenter has no branch".to_owned(), vec![own.clone()]));
    };
    // With ten thousand hosts it is long; where only the class changed it was read before.
    let instance = match before.map(|before| &before.manifest).filter(|before| before.datacenter_commit == tip.commit) {
        Some(before) => before.instance.clone(),
        None => instance(repo, &own, tip.commit)?,
    };
    let (class_ref, line) = (instance.class_ref(), Some(instance.conf.line));
    let branch = RefName::Class(instance.conf.class.clone());
    let Some(class_tip) = refs.target(&class_ref) else {
        if refs.changes.get(&class_ref) == Some(&None) {
            let reason = format!("{} is still needed here; name another class before you delete it", class_ref.short());
            return Err(fault(&own, line, reason, vec![class_ref, own.clone()]));
        }
        let reason = format!("{} does not exist; push it in the same push, or correct `conf`", class_ref.short());
        return Err(fault(&own, line, reason, vec![class_ref, own.clone()]));
    };
    if class_ref.is_tag() && !reaches(repo, refs, &branch, class_tip.commit) {
        let reason = format!(
            "the tag {} is not on the branch {}; merge it, or name another tag",
            class_ref.short(),
            branch.short()
        );
        return Err(fault(&own, line, reason, vec![class_ref, branch, own.clone()]));
    }
    let class = class(repo, &class_ref, class_tip.commit)?;
    let dangling = instance.dangling(&class);
    if !dangling.is_empty() {
        let causes = vec![own.clone(), class_ref.clone(), branch];
        let faults = dangling.into_iter().flat_map(|one| fault(&own, one.line, one.reason, causes.clone()));
        return Err(faults.collect());
    }
    let requests = manifest::pins(&class, &instance).into_iter().map(|request| (request.component.clone(), request));
    let requests: BTreeMap<ComponentVersion, PinRequest> = requests.collect();
    let secrets = secrets(&class, &instance, &requests).map_err(|faults| {
        let fault = |(declared_in, line, reason): FaultIn| {
            let file = if declared_in == DeclaredIn::Class { &class_ref } else { &own };
            fault(file, Some(line), reason, vec![file.clone(), own.clone(), class_ref.clone(), branch.clone()])
        };
        faults.into_iter().flat_map(fault).collect::<Vec<_>>()
    })?;
    let tree = |commit: CommitId| repo.find_commit(commit.into()).map(|commit| commit.tree_id().into());
    let broken = |error: git2::Error| fault(&own, None, error.message().to_owned(), vec![own.clone()]);
    Ok(Manifest {
        platform: manifest::platform(&class, &instance),
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

/// Whose `datacenter.yaml`, the line in it, and what is wrong there.
type FaultIn = (DeclaredIn, usize, String);

/// The secrets that a datacenter declares, or those with readers that it does not run.
fn secrets(
    class: &ClassManifest,
    instance: &InstanceManifest,
    requests: &BTreeMap<ComponentVersion, PinRequest>,
) -> Result<BTreeMap<SecretName, DeclaredSecret>, Vec<FaultIn>> {
    let (mut secrets, mut faults) = (BTreeMap::new(), Vec::new());
    for (name, (declaration, declared_in)) in manifest::secrets(class, instance) {
        let runs = |reader: &ComponentName| requests.keys().any(|component| component.component == *reader);
        for reader in declaration.readers.iter().filter(|reader| !runs(reader)) {
            let reason = format!(
                "`{reader}`, a reader of the secret `{name}`, is run neither by the class nor by this datacenter; add it to \
                 `{}`, or take it out here",
                reader.kind
            );
            faults.push((declared_in, declaration.line, reason));
        }
        secrets.insert(name.clone(), DeclaredSecret { declaration: declaration.clone(), declared_in });
    }
    if faults.is_empty() { Ok(secrets) } else { Err(faults) }
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
    parse: impl FnOnce(&str) -> Result<T, Vec<manifest::Fault>>,
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

/// Looks up one entry: its branch, its tag, the content, and whether the content can be exported.
fn pin(
    repo: &Repository,
    refs: Proposed<'_>,
    name: &DatacenterName,
    class: Option<&RefName>,
    request: &PinRequest,
) -> Result<Component, Caused> {
    let component = &request.component.component;
    let own = RefName::Datacenter(name.clone());
    let declared = match request.declared_in {
        DeclaredIn::Instance => own.clone(),
        DeclaredIn::Class => class.unwrap_or(&own).clone(),
    };
    let branch = RefName::Branch(component.clone(), request.branch.clone());
    let reference = request.reference();
    let fault = |reason: String| {
        let mut causes = vec![reference.clone(), branch.clone(), declared.clone(), own.clone()];
        // A class that is followed by tag is changed by the datacenter that names the tag.
        causes.extend(class.cloned());
        Caused { fault: Fault::of_file(&declared, manifest::FILE, Some(request.line), reason), causes }
    };
    for read in [&branch, &reference] {
        if refs.changes.get(read) == Some(&None) {
            return Err(fault(format!(
                "{component}: {} is still needed here; take the entry out before you delete it",
                read.short()
            )));
        }
    }
    let Some(tip) = refs.target(&branch) else {
        return Err(fault(format!(
            "{component}: there is no branch {}; push it in the same push, or correct `branch`",
            branch.short()
        )));
    };
    let commit = match &request.tag {
        None => tip.commit,
        Some(tag) => {
            let Some(target) = refs.target(&reference) else {
                return Err(fault(format!(
                    "{component}: there is no tag {component}/{tag}; push refs/tags/{component}/{tag}, or write `tag: latest`"
                )));
            };
            if !reaches(repo, refs, &branch, target.commit) {
                return Err(fault(format!(
                    "{component}: the tag {component}/{tag} is not on the branch {}; merge it there, or name another tag",
                    branch.short()
                )));
            }
            target.commit
        }
    };
    let broken = |error: git2::Error| fault(format!("{component}: {}", error.message()));
    let tree = repo.find_commit(commit.into()).and_then(|commit| commit.tree()).map_err(broken)?;
    if let Some(found) = fault_in_content(&tree, request.raw).map_err(broken)? {
        let causes = fault(String::new()).causes;
        return Err(Caused { fault: Fault::of_file(&reference, &found.file, found.line, found.reason), causes });
    }
    let pin = Pin { component: request.component.clone(), branch: request.branch.clone(), commit };
    Ok(Component { pin, tree: tree.id().into() })
}

/// True when `commit` is the branch's tip or behind it.
fn reaches(repo: &Repository, refs: Proposed<'_>, branch: &RefName, commit: CommitId) -> bool {
    refs.target(branch).is_some_and(|tip| {
        tip.commit == commit || repo.graph_descendant_of(tip.commit.into(), commit.into()).unwrap_or(false)
    })
}

/// Looks for what may not be among a component's files, as the hosts will, by the same code.
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
