//! The templates of one component.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use git2::{ObjectType, Repository, Tree};
use serde_json::Value;

use crate::{
    git,
    layers::{self, Sources},
    render::{
        rendered::{Content, RenderError},
        secrets::Secrets,
    },
    settings::{SettingsFault, TEMPLATE_ENDING},
    template::{self, Job, Made, Rendering, Results},
};
use libconf::name::{ComponentVersion, HostName};

/// The outcome of a check of templates.
#[derive(Debug)]
pub struct TemplateCheck {
    /// What is wrong with the templates.
    pub faults: Vec<SettingsFault>,
    /// The processor time that the check took.
    pub spent: Duration,
    /// A template took all the time or memory that it may; for the next host it would most likely
    /// take as much again.
    pub endless: bool,
}

/// The templates of one component, read once for many hosts.
pub struct Templates {
    /// All text files, if one of the templates may include any of them; else the templates alone.
    texts: BTreeMap<String, String>,
}

impl Templates {
    /// Reads the templates in a component's tree; `None` when there are none.
    pub fn read(repo: &Repository, sources: &Sources<'_>) -> Result<Option<Self>, RenderError> {
        if sources.raw || !layers::has_templates(repo, sources)? {
            return Ok(None);
        }
        let mut files = BTreeMap::new();
        collect(repo, &repo.find_tree(sources.component_tree.into())?, "", &mut files)?;
        Self::of(&files)
    }

    pub(crate) fn of(files: &BTreeMap<String, Content>) -> Result<Option<Self>, RenderError> {
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
                Content::Link(_) if is_template => {
                    let made = &path[..path.len() - TEMPLATE_ENDING.len()];
                    let words = format!(
                        "a template may not be a link; put the file itself, or call the link {made} and let it lead to what \
                         the other template makes"
                    );
                    refuse(None, &words);
                }
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
            return Err(RenderError::Templates(faults));
        }
        let is_template = |path: &String| path.ends_with(TEMPLATE_ENDING);
        if !texts.iter().any(|(path, text)| is_template(path) && template::names_others(text)) {
            // The texts go to the process for every host, so only needed ones stay.
            texts.retain(|path, _| is_template(path));
        }
        Ok(Some(Templates { texts }))
    }

    /// Renders the templates for a host with these settings, and answers what is wrong.
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
        // A file that several templates include is at fault once.
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

/// The results by the path without `.j2`; all faults at once.
pub(crate) fn made(results: Results) -> Result<BTreeMap<String, Made>, RenderError> {
    let (mut made, mut faults) = (BTreeMap::new(), Vec::new());
    for (path, result) in results {
        match result {
            Ok(one) => drop(made.insert(path[..path.len() - TEMPLATE_ENDING.len()].to_owned(), one)),
            Err(fault) => faults.push(fault),
        }
    }
    faults.dedup();
    if faults.is_empty() { Ok(made) } else { Err(RenderError::Templates(faults)) }
}

/// A fault for every template whose result would have the path of another file or folder, in any
/// case of letters.
fn clashes(files: &BTreeMap<String, Content>) -> Vec<SettingsFault> {
    let mut faults = Vec::new();
    let mut taken: HashMap<String, &str> = HashMap::new();
    for path in files.keys() {
        taken.extend(path.match_indices('/').map(|(end, _)| (git::folded_name(&path[..end]), path.as_str())));
        if !path.ends_with(TEMPLATE_ENDING) {
            taken.insert(git::folded_name(path), path);
        }
    }
    for path in files.keys() {
        let Some(made) = path.strip_suffix(TEMPLATE_ENDING) else { continue };
        let name = made.rsplit('/').next().unwrap_or_default();
        let folded = git::folded_name(made);
        let reason = match (git::fault_in_name(name.as_bytes()), taken.get(&folded)) {
            _ if name.is_empty() => "it has no name but its ending; give it one".to_owned(),
            (Some(fault), _) => format!("it would be made into `{name}`: {fault}; rename it"),
            (None, Some(other)) => format!("it would be made into what {other} is already; rename one of the two"),
            (None, None) => {
                taken.insert(folded, path);
                continue;
            }
        };
        faults.push(SettingsFault { file: path.clone(), line: None, reason });
    }
    faults
}

/// Reads a folder that was checked by [`faults_in_tree`](crate::git::faults_in_tree): its names are
/// UTF-8, its depth and size bounded.
pub(crate) fn collect(
    repo: &Repository,
    tree: &Tree<'_>,
    above: &str,
    files: &mut BTreeMap<String, Content>,
) -> Result<(), git2::Error> {
    for entry in tree {
        let path = format!("{above}{}", String::from_utf8_lossy(entry.name_bytes()));
        if entry.kind() == Some(ObjectType::Tree) {
            collect(repo, &repo.find_tree(entry.id())?, &format!("{path}/"), files)?;
            continue;
        }
        let blob = repo.find_blob(entry.id())?;
        let content = match entry.filemode() {
            0o120_000 => Content::Link(String::from_utf8_lossy(blob.content()).into_owned()),
            mode => Content::File { bytes: blob.content().to_vec(), executable: mode == 0o100_755, secret: false },
        };
        files.insert(path, content);
    }
    Ok(())
}
