//! The templates of one component.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use git2::{ObjectType, Repository, Tree};
use serde_json::Value;

use crate::{
    layers::{self, Sources},
    render::{
        rendered::{Content, RenderError},
        secrets::Secrets,
    },
    settings::{SettingsFault, TEMPLATE_ENDING},
    template::{self, Job, Rendering},
};
use libconf::name::{ComponentVersion, HostName};

/// What a look at templates came to.
#[derive(Debug)]
pub struct TemplateCheck {
    /// What is wrong with them.
    pub faults: Vec<SettingsFault>,
    /// The processor time that it took.
    pub spent: Duration,
    /// One of them took all the time or memory that it may; on the next host it would most likely take as much again.
    pub endless: bool,
}

/// The templates of one component, read once for many hosts.
pub struct Templates {
    /// All files that are text, where one of the templates may include any; else the templates alone.
    texts: BTreeMap<String, String>,
}

impl Templates {
    /// Reads them from a component's tree; `None` where there are none.
    pub fn read(repo: &Repository, sources: &Sources<'_>) -> Result<Option<Self>, RenderError> {
        if sources.raw || !layers::has_templates(repo, sources).map_err(RenderError::Repository)? {
            return Ok(None);
        }
        let mut files = BTreeMap::new();
        let root = repo.find_tree(sources.component_tree.into()).map_err(RenderError::Repository)?;
        collect(repo, &root, "", &mut files)?;
        Self::of(&files).map_err(RenderError::Templates)
    }

    pub(crate) fn of(files: &BTreeMap<String, Content>) -> Result<Option<Self>, Vec<SettingsFault>> {
        if !files.keys().any(|path| path.ends_with(TEMPLATE_ENDING)) {
            return Ok(None);
        }
        let mut faults = clashes(files);
        let mut texts = BTreeMap::new();
        for (path, content) in files {
            let is_template = path.ends_with(TEMPLATE_ENDING);
            let mut refuse = |line, reason: &str| {
                faults.push(SettingsFault { file: path.clone(), line, reason: reason.to_owned() });
            };
            match content {
                Content::Link(_) if is_template => refuse(None, "a template may not be a link; put the file itself"),
                Content::Link(_) => {}
                Content::File { bytes, .. } => match std::str::from_utf8(bytes) {
                    Ok(text) => drop(texts.insert(path.clone(), text.to_owned())),
                    Err(bad) if is_template => {
                        let line = bytes[..bad.valid_up_to()].split(|byte| *byte == b'\n').count();
                        refuse(Some(line), "it is not UTF-8 text; save it as UTF-8");
                    }
                    Err(_) => {}
                },
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let is_template = |path: &String| path.ends_with(TEMPLATE_ENDING);
        let names_others = |(path, text): (&String, &String)| is_template(path) && template::names_others(text);
        if !texts.iter().any(names_others) {
            // They are handed over for every host.
            texts.retain(|path, _| is_template(path));
        }
        Ok(Some(Templates { texts }))
    }

    /// Renders them for a host with these settings, to see what is wrong.
    pub fn look(
        &self,
        sources: &Sources<'_>,
        component: &ComponentVersion,
        host: Option<&HostName>,
        settings: &Value,
        secrets: &Secrets,
    ) -> TemplateCheck {
        let Rendering { results, spent, endless } = self.on(sources, component, host, settings, secrets);
        let mut faults: Vec<SettingsFault> = results.into_values().filter_map(Result::err).collect();
        // One that several include is at fault once.
        faults.dedup();
        TemplateCheck { faults, spent, endless }
    }

    pub(crate) fn on(
        &self,
        sources: &Sources<'_>,
        component: &ComponentVersion,
        host: Option<&HostName>,
        settings: &Value,
        secrets: &Secrets,
    ) -> Rendering {
        let mut variables = layers::variables(sources, component, host);
        variables.insert("settings".to_owned(), settings.clone());
        template::render(Job { files: self.texts.clone(), variables, secrets: secrets.given.clone() })
    }
}

/// Puts in the place of each template what it came to.
pub(crate) fn put_results(
    files: &mut BTreeMap<String, Content>,
    results: template::Results,
) -> Result<(), RenderError> {
    let mut faults = Vec::new();
    for (path, result) in results {
        match result {
            Err(fault) => faults.push(fault),
            Ok(made) => {
                let executable = matches!(files.remove(&path), Some(Content::File { executable: true, .. }));
                let content =
                    Content::File { bytes: made.text.into_bytes(), executable, secret: !made.secrets.is_empty() };
                files.insert(path[..path.len() - TEMPLATE_ENDING.len()].to_owned(), content);
            }
        }
    }
    faults.dedup();
    if faults.is_empty() { Ok(()) } else { Err(RenderError::Templates(faults)) }
}

/// Templates that would be made into what is there already.
fn clashes(files: &BTreeMap<String, Content>) -> Vec<SettingsFault> {
    let mut faults = Vec::new();
    let mut there: HashMap<String, &str> = HashMap::new();
    let made = |path: &str| path.strip_suffix(TEMPLATE_ENDING).unwrap_or(path).to_lowercase();
    for path in files.keys().filter(|path| !path.ends_with(TEMPLATE_ENDING)) {
        // Folders are there as well.
        there.extend(path.match_indices('/').map(|(end, _)| (path[..end].to_lowercase(), path.as_str())));
        there.insert(path.to_lowercase(), path);
    }
    for path in files.keys().filter(|path| path.ends_with(TEMPLATE_ENDING)) {
        there.extend(path.match_indices('/').map(|(end, _)| (path[..end].to_lowercase(), path.as_str())));
    }
    for path in files.keys().filter(|path| path.ends_with(TEMPLATE_ENDING)) {
        let made = made(path);
        let reason = match there.get(&made) {
            _ if made.is_empty() || made.ends_with('/') => "it has no name but its ending; give it one".to_owned(),
            Some(other) => format!("it would be made into what {other} is already; rename one of the two"),
            None => {
                there.insert(made, path);
                continue;
            }
        };
        faults.push(SettingsFault { file: path.clone(), line: None, reason });
    }
    faults
}

/// Reads a folder that [`safety`] has looked at: its names are plain UTF-8, its depth and size bounded.
pub(crate) fn collect(
    repo: &Repository,
    tree: &Tree<'_>,
    above: &str,
    files: &mut BTreeMap<String, Content>,
) -> Result<(), RenderError> {
    for entry in tree {
        let path = format!("{above}{}", String::from_utf8_lossy(entry.name_bytes()));
        if entry.kind() == Some(ObjectType::Tree) {
            let inner = repo.find_tree(entry.id()).map_err(RenderError::Repository)?;
            collect(repo, &inner, &format!("{path}/"), files)?;
            continue;
        }
        let blob = repo.find_blob(entry.id()).map_err(RenderError::Repository)?;
        let content = match entry.filemode() {
            0o120_000 => Content::Link(String::from_utf8_lossy(blob.content()).into_owned()),
            mode => Content::File { bytes: blob.content().to_vec(), executable: mode == 0o100_755, secret: false },
        };
        files.insert(path, content);
    }
    Ok(())
}
