//! Renders one component.

use std::collections::BTreeMap;

use git2::Repository;
use serde_json::Value;

use crate::{
    git::{self, TreeLimits},
    layers::{self, LayerError, Sources},
    render::{
        rendered::{RenderError, Rendered},
        secrets::Secrets,
        templates::{Templates, collect, put_results},
    },
    settings::{self, TEMPLATE_ENDING},
};
use libconf::name::{ComponentVersion, HostName};

/// Makes a component's files and settings as `host` has them; without a host, as one that the inventory says nothing of.
///
/// - `secrets`: those that the component may read; one that cannot be had is a fault only where it is asked for.
/// - Bounds: see [`template`]; templates are rendered in a process of their own, one component at a time.
pub fn render(
    repo: &Repository,
    sources: &Sources<'_>,
    component: &ComponentVersion,
    host: Option<&HostName>,
    secrets: &Secrets,
) -> Result<Rendered, RenderError> {
    let tree = sources.component_tree;
    let faults = git::faults_in_tree(repo, tree, &TreeLimits::default()).map_err(RenderError::Repository)?;
    if !faults.is_empty() {
        return Err(RenderError::Fault(faults.join("; ")));
    }
    let mut files = BTreeMap::new();
    let root = repo.find_tree(tree.into()).map_err(RenderError::Repository)?;
    collect(repo, &root, "", &mut files)?;
    // The layers look at the root alone; what may not be deeper is refused here.
    settings::choose(files.keys().map(String::as_str), sources.raw)
        .map_err(|fault| RenderError::Fault(fault.to_string()))?;
    let stack = layers::stack(repo, sources, &component.component, host).map_err(of_layers)?;
    let shown = Value::Object(stack.merged());
    if !sources.raw
        && let Some(templates) = Templates::of(&files).map_err(RenderError::Templates)?
    {
        put_results(&mut files, templates.on(sources, component, host, &shown, secrets).results)?;
    }
    let mut opened = shown.clone();
    let settings_shown = if secrets.put_into(&mut opened).map_err(RenderError::Fault)? {
        Some(settings::to_canonical(&shown))
    } else {
        None
    };
    Ok(Rendered { files, settings: settings::to_canonical(&opened), settings_shown })
}

/// What a component's templates come to on `host`, by the path of what they are made into.
pub fn templates(
    repo: &Repository,
    sources: &Sources<'_>,
    component: &ComponentVersion,
    host: Option<&HostName>,
    secrets: &Secrets,
) -> Result<BTreeMap<String, String>, RenderError> {
    let Some(templates) = Templates::read(repo, sources)? else { return Ok(BTreeMap::new()) };
    let stack = layers::stack(repo, sources, &component.component, host).map_err(of_layers)?;
    let mut faults = Vec::new();
    let mut made = BTreeMap::new();
    for (path, result) in templates.on(sources, component, host, &Value::Object(stack.merged()), secrets).results {
        match result {
            Ok(one) => drop(made.insert(path[..path.len() - TEMPLATE_ENDING.len()].to_owned(), one.text)),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(made) } else { Err(RenderError::Templates(faults)) }
}

fn of_layers(error: LayerError) -> RenderError {
    match error {
        LayerError::Repository(cause) => RenderError::Repository(cause),
        faults @ LayerError::Faults(_) => RenderError::Fault(faults.to_string()),
    }
}
