//! A component as a host would get it: settings and rendered files, with the names of secrets in
//! place of their values.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use conf_core::git::{self, TreeLimits};
use conf_core::render::{self, Content, RenderError, Secrets};
use conf_core::snapshot::Snapshot;
use git2::Repository;
use libconf::name::{CommitId, ComponentSelector, ComponentVersion, DatacenterName, HostName, RoleName, Sequence};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::inspect::error::InspectError;
use crate::inspect::running::Running;

/// The most bytes of an answer; Git serves larger components.
const MOST_BYTES: usize = 64 << 20;

/// The host for which a component is rendered.
#[derive(Clone, Debug)]
pub(crate) enum Audience {
    /// A host by its name; a host that is not listed gets what all hosts have in common.
    Host(HostName),
    /// A host that has one role and nothing else.
    Role(RoleName),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Conf {
    /// The datacenter.
    pub(crate) datacenter: DatacenterName,
    /// The component.
    pub(crate) component: ComponentVersion,
    /// The host; for a role, the name of a host that stands for all of its hosts.
    pub(crate) host: HostName,
    /// The change.
    pub(crate) sequence: Sequence,
    /// The snapshot of that change.
    pub(crate) commit: CommitId,
    /// The settings after all layers, with `{"$secret": "NAME"}` for each secret.
    pub(crate) settings: Value,
    /// The files by their paths, as they would be exported.
    pub(crate) files: BTreeMap<String, ConfFile>,
    /// The secrets that the component may read.
    pub(crate) secrets: Vec<String>,
}

/// One file: exactly one of `text`, `base64` and `link`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConfFile {
    /// The content, when it is UTF-8, with `<secret NAME>` for each secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// The content otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<String>,
    /// The target of a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
    /// It may be executed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) executable: bool,
    /// It contains a secret: on a host only its owner may read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) secret: bool,
}

/// Renders a component of a snapshot as hosts do.
pub(crate) fn conf(
    repo: &Repository,
    snapshot: &Snapshot,
    selector: &ComponentSelector,
    audience: &Audience,
) -> Result<Conf, InspectError> {
    let mut running = Running::find(repo, snapshot, selector)?;
    let host = match audience {
        Audience::Host(host) => running.on(host).map(|()| host.clone())?,
        Audience::Role(role) => running.stand_in(role)?,
    };
    let sources = running.sources();
    // The limit is checked before anything is read: templates may produce more, but the size of
    // their sources is known.
    let most = TreeLimits { total_bytes: MOST_BYTES, ..TreeLimits::most() };
    let faults = git::faults_in_tree(repo, sources.component_tree, &most, sources.links.links())?;
    if !faults.is_empty() {
        let faults = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let words = format!("{} cannot be shown: {faults}; fetch its branch by Git", running.name);
        return Err(InspectError::NotThere(words));
    }
    let secrets = Secrets::by_name(&sources, &running.name.component);
    let rendered = match render::render(repo, &sources, &running.name, Some(&host), &secrets) {
        Ok(rendered) => rendered,
        Err(RenderError::Repository(cause)) => return Err(cause.into()),
        Err(fault) => {
            return Err(InspectError::NotThere(format!("{host} cannot render {}: {fault}", running.name)));
        }
    };
    let bytes: usize =
        rendered.files.values().map(|one| if let Content::File { bytes, .. } = one { bytes.len() } else { 0 }).sum();
    if bytes > MOST_BYTES {
        let words = format!(
            "{} has {bytes} bytes of files; at most {MOST_BYTES} are shown, fetch its branch by Git",
            running.name
        );
        return Err(InspectError::NotThere(words));
    }
    let names = sources.secrets_of(&running.name.component).map(|(name, _)| name.to_string()).collect();
    let settings = serde_json::from_slice(rendered.settings_shown.as_deref().unwrap_or(&rendered.settings))?;
    Ok(Conf {
        datacenter: snapshot.datacenter.clone(),
        component: running.name.clone(),
        host,
        sequence: snapshot.sequence,
        commit: snapshot.commit,
        settings,
        files: rendered.files.into_iter().map(|(path, content)| (path, file(content))).collect(),
        secrets: names,
    })
}

fn file(content: Content) -> ConfFile {
    match content {
        Content::Link(link) => ConfFile { link: Some(link), ..ConfFile::default() },
        Content::File { bytes, executable, secret } => {
            let (text, base64) = match String::from_utf8(bytes) {
                Ok(text) => (Some(text), None),
                Err(other) => (None, Some(BASE64_STANDARD.encode(other.as_bytes()))),
            };
            ConfFile { text, base64, link: None, executable, secret }
        }
    }
}
