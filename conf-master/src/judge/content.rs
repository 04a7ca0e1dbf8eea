//! What is wrong with the content of one branch or tag, whichever datacenters read it.

use conf_core::git::{self, Links, TreeLimits};
use conf_core::layers::Overrides;
use conf_core::manifest;
use conf_core::settings::{self, Format};
use git2::{ObjectType, Repository, Tree};
use libconf::name::{CommitId, Kind, RefName};

use crate::fault::Fault;

/// Finds the faults in the content of a branch or a tag. What depends on how a datacenter runs a
/// component is not judged here.
pub(crate) fn faults(
    repo: &Repository,
    reference: &RefName,
    commit: CommitId,
    limits: &TreeLimits,
) -> Result<Vec<Fault>, git2::Error> {
    let of_component = matches!(reference, RefName::Branch(..) | RefName::Tag(..));
    // How far the links of a component may lead is for each datacenter to say that runs it.
    // Who may do what is read elsewhere.
    let has_layers = !of_component && *reference != RefName::Policy;
    let links = if of_component { Links::Anywhere } else { Links::Inside };
    let found = git::faults_in_commit(repo, commit, limits, links)?;
    if !has_layers || !found.is_empty() {
        let of = |git::TreeFault { path: file, reason, .. }: git::TreeFault| {
            let reference = Some(reference.short());
            Fault { reference, file, ..Fault::new(reason) }
        };
        return Ok(found.into_iter().map(of).collect());
    }
    let tree = repo.find_commit(commit.into())?.tree()?;
    let mut faults: Vec<Fault> =
        slips(&tree).into_iter().map(|(file, reason)| Fault::of_file(reference, &file, None, reason)).collect();
    let overrides = Overrides::read(repo, tree.id().into())?;
    let stray = "this is not a layer; layers are overrides/<kind>/<name>.yaml, where <kind> is services, applications or devices";
    faults.extend(overrides.strays.iter().map(|path| Fault::of_file(reference, path, None, stray)));
    let own = tree.get_name(manifest::FILE).filter(|entry| entry.kind() == Some(ObjectType::Blob));
    let mut files: Vec<(String, git2::Oid)> =
        own.map(|entry| (manifest::FILE.to_owned(), entry.id())).into_iter().collect();
    files.extend(overrides.files.iter().map(|(component, id)| (Overrides::path(component), (*id).into())));
    for (path, id) in files {
        let blob = repo.find_blob(id)?;
        let found = settings::objections(&path, Format::Yaml, blob.content());
        faults.extend(found.into_iter().map(|one| Fault::of_file(reference, &one.file, one.line, one.reason)));
    }
    Ok(faults)
}

/// Entries at the root of a class or a datacenter that nothing reads, and whose names are nearly
/// those of what is read.
fn slips(tree: &Tree<'_>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in tree {
        let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
        let is_folder = entry.kind() == Some(ObjectType::Tree);
        if let Some(instead) = meant(&name, is_folder) {
            found.push((name, format!("nothing reads this; did you mean {instead}? Rename it, or take it out")));
        }
    }
    found
}

/// What an entry at the root was most likely meant to be.
fn meant(name: &str, is_folder: bool) -> Option<String> {
    let lower = name.to_lowercase();
    let (stem, ending) = lower.split_once('.').unwrap_or((&lower, ""));
    let is_near = |wanted: &str| strsim::damerau_levenshtein(stem, wanted) <= 2;
    if name == Overrides::FOLDER || name == manifest::FILE {
        return None;
    }
    if is_folder && let Ok(kind) = lower.parse::<Kind>() {
        return Some(format!("{}/{kind}", Overrides::FOLDER));
    }
    if is_near(Overrides::FOLDER) && (is_folder || matches!(ending, "yaml" | "yml" | "json")) {
        return Some(format!("{}/<kind>/<name>.yaml", Overrides::FOLDER));
    }
    let is_manifest = !is_folder && is_near("datacenter") && matches!(ending, "" | "yaml" | "yml" | "json" | "toml");
    is_manifest.then(|| manifest::FILE.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_nearly_those_of_what_is_read() {
        for (name, is_folder, want) in [
            ("override", true, Some("overrides/<kind>/<name>.yaml")),
            ("Overrides", true, Some("overrides/<kind>/<name>.yaml")),
            ("overides", true, Some("overrides/<kind>/<name>.yaml")),
            ("overrides.yaml", false, Some("overrides/<kind>/<name>.yaml")),
            ("services", true, Some("overrides/services")),
            ("datacenter.yml", false, Some("datacenter.yaml")),
            ("Datacenter.yaml", false, Some("datacenter.yaml")),
            ("datacentre.yaml", false, Some("datacenter.yaml")),
            ("data-center.json", false, Some("datacenter.yaml")),
            ("overrides", true, None),
            ("datacenter.yaml", false, None),
            ("README.md", false, None),
            ("datacenter.md", false, None),
            ("services", false, None),
            (".github", true, None),
            ("docs", true, None),
            ("tests", true, None),
        ] {
            assert_eq!(meant(name, is_folder).as_deref(), want, "{name}");
        }
    }
}
