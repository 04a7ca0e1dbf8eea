//! What hosts cannot export of a component's content as its datacenter runs it, and what its author
//! hardly meant.

use std::path::Path;

use conf_core::git::{self, TreeLimits};
use conf_core::layers::{Origin, Sources};
use conf_core::settings::{self, SCHEMA_FILE, SettingsFault, TEMPLATE_ENDING};
use git2::{ObjectType, Repository, Tree, TreeWalkMode, TreeWalkResult};
use libconf::name::ComponentVersion;

use crate::catalog::DatacenterView;
use crate::fault::{Caused, Fault};

/// Finds the faults in the content of one component of a datacenter.
pub(crate) fn faults(
    repo: &Repository,
    view: &DatacenterView<'_>,
    name: &ComponentVersion,
    sources: &Sources<'_>,
) -> Result<Vec<Caused>, git2::Error> {
    // Each host asks the same by the same function.
    let of_tree = git::faults_in_tree(repo, sources.component_tree, &TreeLimits::most(), sources.links.links())?;
    let mut found: Vec<SettingsFault> = of_tree
        .into_iter()
        .map(|fault| {
            let remedy = sources.links.remedy(&name.component);
            let reason = if fault.leads_out { format!("{}; {remedy}", fault.reason) } else { fault.reason };
            SettingsFault { file: fault.path.unwrap_or_default(), line: None, reason }
        })
        .collect();
    if !sources.raw {
        let tree = repo.find_tree(sources.component_tree.into())?;
        found.extend(links_to_templates(repo, &tree)?);
        found.extend(at_root(&tree));
        found.extend(in_settings(repo, &tree)?);
    }
    let reference = view.reference(name, &Origin::Component);
    let caused = |SettingsFault { file, line, reason }| {
        let mut fault = Fault::of_file(&reference, &file, line, reason);
        fault.file = fault.file.filter(|file| !file.is_empty());
        Caused { fault, causes: view.causes(name, reference.clone()) }
    };
    Ok(found.into_iter().map(caused).collect())
}

/// Finds links that lead to a template: hosts get only what the template makes, so that such a link
/// would lead nowhere.
fn links_to_templates(repo: &Repository, tree: &Tree<'_>) -> Result<Vec<SettingsFault>, git2::Error> {
    let mut links = Vec::new();
    tree.walk(TreeWalkMode::PreOrder, |folder, entry| {
        if entry.filemode() == 0o120_000 {
            links.push((folder.to_owned(), String::from_utf8_lossy(entry.name_bytes()).into_owned(), entry.id()));
        }
        TreeWalkResult::Ok
    })?;
    let mut found = Vec::new();
    for (folder, name, id) in links {
        let target = String::from_utf8_lossy(repo.find_blob(id)?.content()).into_owned();
        let Some(made) = target.strip_suffix(TEMPLATE_ENDING) else { continue };
        let Some(path) = within(&folder, &target) else { continue };
        let is_folder = tree.get_path(Path::new(&path)).is_ok_and(|entry| entry.kind() == Some(ObjectType::Tree));
        if !is_folder {
            let reason =
                format!("it leads to the template {target}, and hosts get what that makes; let it lead to {made}");
            found.push(SettingsFault { file: format!("{folder}{name}"), line: None, reason });
        }
    }
    Ok(found)
}

/// The path to which a link in `folder` leads within the component; `None` if it leads out.
fn within(folder: &str, target: &str) -> Option<String> {
    let mut path: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    if target.starts_with('/') {
        return None;
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(path.pop()?),
            part => path.push(part),
        }
    }
    Some(path.join("/"))
}

/// Finds files whose names are nearly those of the settings and the schema.
fn at_root(tree: &Tree<'_>) -> Vec<SettingsFault> {
    let files = tree.iter().filter(|entry| entry.kind() == Some(ObjectType::Blob));
    let names = files.map(|entry| String::from_utf8_lossy(entry.name_bytes()).into_owned());
    names.filter_map(|name| Some(SettingsFault { reason: slip(&name)?, file: name, line: None })).collect()
}

/// What is wrong with a name at the root of a component.
fn slip(name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    let is_settings = |name: &str| settings::choose([name], false).is_ok_and(|found| found.is_some());
    if name == SCHEMA_FILE || is_settings(name) {
        return None;
    }
    if is_settings(&lower) {
        return Some(format!("nothing reads this as the settings; rename it to {lower}"));
    }
    if lower.strip_suffix(TEMPLATE_ENDING) == Some(SCHEMA_FILE) {
        return Some(format!("a schema is no template; write {SCHEMA_FILE}"));
    }
    let ending = lower.strip_prefix("config.schema.");
    let is_schema = matches!(ending, Some("yaml" | "yml" | "toml" | "conf" | "json5" | "jsonc"))
        || strsim::damerau_levenshtein(&lower, SCHEMA_FILE) <= 2;
    is_schema.then(|| {
        format!("nothing reads this as the schema; write it as JSON into {SCHEMA_FILE}, or give it another name")
    })
}

/// Finds values of the component's own settings that would be read as something else than they say.
fn in_settings(repo: &Repository, tree: &Tree<'_>) -> Result<Vec<SettingsFault>, git2::Error> {
    let files = tree.iter().filter(|entry| entry.kind() == Some(ObjectType::Blob) && entry.filemode() != 0o120_000);
    let names: Vec<String> = files.map(|entry| String::from_utf8_lossy(entry.name_bytes()).into_owned()).collect();
    let chosen = settings::choose(names.iter().map(String::as_str), false).ok().flatten();
    let Some((file, format)) = chosen else { return Ok(Vec::new()) };
    let Some(entry) = tree.get_name(file) else { return Ok(Vec::new()) };
    Ok(settings::objections(file, format, repo.find_blob(entry.id())?.content()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_nearly_those_of_settings_and_schema() {
        for (name, word) in [
            ("Config.yaml", "config.yaml"),
            ("config.YML", "config.yml"),
            ("config.schema.yaml", SCHEMA_FILE),
            ("config.schema.json5", SCHEMA_FILE),
            ("config-schema.json", SCHEMA_FILE),
            ("config.shema.json", SCHEMA_FILE),
            ("Config.Schema.json", SCHEMA_FILE),
            ("config.schema.json.j2", "no template"),
        ] {
            assert!(slip(name).is_some_and(|reason| reason.contains(word)), "{name}: {:?}", slip(name));
        }
        for name in
            ["config.yaml", "config.json", SCHEMA_FILE, "configs.yaml", "config2.json", "schema.json", "app.yaml"]
        {
            assert_eq!(slip(name), None, "{name}");
        }
    }

    #[test]
    fn links_are_followed_by_their_text() {
        for (folder, target, want) in [
            ("", "a.j2", Some("a.j2")),
            ("d/e/", "../a.j2", Some("d/a.j2")),
            ("d/", "./x/../a.j2", Some("d/a.j2")),
            ("d/", "../../a.j2", None),
            ("", "/a.j2", None),
        ] {
            assert_eq!(within(folder, target).as_deref(), want, "{folder} {target}");
        }
    }
}
