//! Renders one component.

use std::collections::BTreeMap;

use git2::Repository;
use serde_json::Value;

use crate::{
    git::{self, TreeLimits},
    layers::{self, LayerError, Sources, Stack},
    render::{
        rendered::{Content, RenderError, Rendered},
        secrets::Secrets,
        templates::{Templates, collect, made},
    },
    settings::{self, TEMPLATE_ENDING},
};
use libconf::name::{ComponentVersion, HostName};

/// Makes a component's files and settings as `host` has them; without a host, as one has them
/// that has no roles and no settings of its own.
///
/// - `secrets`: those that the component may read; one that cannot be had is a fault only where it
///   is asked for.
/// - Bounds: see [`template`](crate::template); templates are rendered in a process of their own,
///   one component at a time.
pub fn render(
    repo: &Repository,
    sources: &Sources<'_>,
    component: &ComponentVersion,
    host: Option<&HostName>,
    secrets: &Secrets,
) -> Result<Rendered, RenderError> {
    let tree = sources.component_tree;
    let faults = git::faults_in_tree(repo, tree, &TreeLimits::most(), sources.links.links())?;
    if !faults.is_empty() {
        let mut words: Vec<String> = faults.iter().map(ToString::to_string).collect();
        if faults.iter().any(|fault| fault.leads_out) {
            words.push(sources.links.remedy(&component.component));
        }
        return Err(RenderError::Fault(words.join("; ")));
    }
    let mut files = BTreeMap::new();
    collect(repo, &repo.find_tree(tree.into())?, "", &mut files)?;
    // The layers look at the root alone; this looks at deeper templates too.
    settings::choose(files.keys().map(String::as_str), sources.raw)
        .map_err(|fault| RenderError::Fault(fault.to_string()))?;
    let shown = Value::Object(stack(repo, sources, component, host)?.merged());
    if let Some(templates) = if sources.raw { None } else { Templates::of(&files)? } {
        for (path, one) in made(templates.on(sources, component, host, &shown, secrets).results)? {
            let template = files.remove(&format!("{path}{TEMPLATE_ENDING}"));
            let executable = matches!(template, Some(Content::File { executable: true, .. }));
            let secret = !one.secrets.is_empty();
            files.insert(path, Content::File { bytes: one.text.into_bytes(), executable, secret });
        }
    }
    let (filled, faults) = secrets.fill(&shown);
    if let Some(fault) = faults.first() {
        return Err(RenderError::Fault(format!("the settings ask at {} for {}", fault.pointer, fault.reason)));
    }
    let shown = settings::to_canonical(&shown);
    let (settings, settings_shown) = match filled {
        Some(filled) => (settings::to_canonical(&filled), Some(shown)),
        None => (shown, None),
    };
    Ok(Rendered { files, settings, settings_shown })
}

/// The texts that a component's templates make on `host`, by the path without `.j2`.
pub fn templates(
    repo: &Repository,
    sources: &Sources<'_>,
    component: &ComponentVersion,
    host: Option<&HostName>,
    secrets: &Secrets,
) -> Result<BTreeMap<String, String>, RenderError> {
    let Some(templates) = Templates::read(repo, sources)? else { return Ok(BTreeMap::new()) };
    let settings = Value::Object(stack(repo, sources, component, host)?.merged());
    let made = made(templates.on(sources, component, host, &settings, secrets).results)?;
    Ok(made.into_iter().map(|(path, one)| (path, one.text)).collect())
}

fn stack(
    repo: &Repository,
    sources: &Sources<'_>,
    component: &ComponentVersion,
    host: Option<&HostName>,
) -> Result<Stack, RenderError> {
    layers::stack(repo, sources, &component.component, host).map_err(|error| match error {
        LayerError::Repository(cause) => RenderError::Repository(cause),
        faults @ LayerError::Faults(_) => RenderError::Fault(faults.to_string()),
    })
}
