//! `GET /v1/config/…`: a component's settings, in the current snapshot or in one that is kept.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use conf_core::http::Request;
use http::{HeaderValue, StatusCode, header};
use libconf::name::{ComponentSelector, ComponentVersion, Sequence, Version};
use serde::Deserialize;

use crate::{
    export::{SHOWN, kept, sequences},
    service::{
        refusal::{Answer, Refusal, blocking, broken, component_of, is_privileged, nothing_yet, refusal},
        remembered::Settings,
        routes::Service,
    },
    state::Exported,
};

#[derive(Debug, Deserialize)]
pub(crate) struct SettingsQuery {
    pub(crate) sequence: Option<Sequence>,
}

/// A component in one snapshot.
pub(crate) struct FoundComponent {
    sequence: Sequence,
    pub(crate) component: ComponentVersion,
    /// The snapshot's own folder.
    pub(crate) directory: PathBuf,
}

impl Service {
    /// Returns the settings as they are on disk, with the headers `ETag` (the hash of the
    /// rendering), `Conf-Sequence` and `Conf-Component`. Only privileged callers get settings with
    /// secrets.
    pub(crate) async fn settings(&self, component: String, query: SettingsQuery, request: Request) -> Answer {
        let selector = component_of(&component)?;
        let known = request.header(header::IF_NONE_MATCH.as_str()).map(str::to_owned);
        let may_see = is_privileged(&request);
        // Those of the present snapshot stay in memory until the next switch.
        let exported = self.agent.view().exported.clone().filter(|_| query.sequence.is_none());
        let found = exported.as_ref().and_then(|exported| self.remembered.find(exported, &component, may_see));
        if let Some(found) = found {
            return Ok(found.answer(known.as_deref()));
        }
        let service = self.clone();
        let read = blocking(move || service.read(&selector, query.sequence, may_see)).await?;
        if let Some(exported) = exported {
            self.remembered.keep(&exported, &component, may_see, &read);
        }
        Ok(read.answer(known.as_deref()))
    }

    fn read(
        &self,
        selector: &ComponentSelector,
        sequence: Option<Sequence>,
        may_see: bool,
    ) -> Result<Settings, Refusal> {
        let found = self.find(selector, sequence)?;
        let settings = found.directory.join(format!("{}.json", found.component));
        let failed = |error: io::Error| broken(format_args!("cannot read {}: {error}", settings.display()));
        // The link leads to `…/store/<hash>/settings.json`, where the hash identifies the content.
        let link = fs::read_link(&settings).map_err(failed)?;
        let hash = link.parent().and_then(Path::file_name).and_then(|hash| hash.to_str()).unwrap_or_default();
        let file = settings.canonicalize().map_err(failed)?;
        // A file that not every user may read holds secrets; what others may see stands beside it.
        let shown = file.with_file_name(SHOWN);
        let is_secret = fs::metadata(&file).map_err(failed)?.mode() & 0o004 == 0 || shown.exists();
        let hide = is_secret && !may_see;
        let file = if hide { shown } else { file };
        let plain = |text: String| HeaderValue::try_from(text).map_err(broken);
        Ok(Settings {
            json: fs::read(&file).map_err(failed)?.into(),
            tag: plain(format!("\"{hash}{}\"", if hide { "-shown" } else { "" }))?,
            sequence: plain(found.sequence.to_string())?,
            component: plain(found.component.to_string())?,
            is_secret: is_secret && may_see,
        })
    }

    pub(crate) fn find(
        &self,
        selector: &ComponentSelector,
        sequence: Option<Sequence>,
    ) -> Result<FoundComponent, Refusal> {
        let view = self.agent.view();
        let exported = view.exported.as_ref().ok_or_else(nothing_yet)?;
        let (sequence, directory, versions) = match sequence.filter(|sequence| *sequence != exported.sequence) {
            None => {
                let versions = exported.matching(selector).map(|(component, _)| component.version.clone()).collect();
                (exported.sequence, exported.directory.clone(), versions)
            }
            Some(sequence) => {
                let directory = kept(&view.status.export, sequence);
                let directory = directory.ok_or_else(|| not_kept(&view.status.export, sequence))?;
                let versions = versions(&directory, selector).map_err(broken)?;
                (sequence, directory, versions)
            }
        };
        let component = choose(selector, versions, exported, sequence)?;
        Ok(FoundComponent { sequence, component, directory })
    }
}

/// Chooses the only version that the selector names.
pub(crate) fn choose(
    selector: &ComponentSelector,
    mut versions: Vec<Version>,
    exported: &Exported,
    sequence: Sequence,
) -> Result<ComponentVersion, Refusal> {
    match (versions.pop(), versions.is_empty()) {
        (Some(version), true) => Ok(ComponentVersion { component: selector.component.clone(), version }),
        (Some(version), false) => {
            versions.push(version);
            let versions: Vec<_> = versions.iter().map(|version| format!("{}/{version}", selector.component)).collect();
            let words = format!("{selector} runs in several versions, name one: {}", versions.join(", "));
            Err(refusal(StatusCode::BAD_REQUEST, words))
        }
        (None, _) => {
            let near = exported.near(selector);
            let words = format!(
                "change {sequence} has no {selector} for this host{near}; `conf-local status` shows what it runs"
            );
            Err(refusal(StatusCode::NOT_FOUND, words))
        }
    }
}

/// Lists the versions in an older snapshot's folder.
fn versions(directory: &Path, selector: &ComponentSelector) -> io::Result<Vec<Version>> {
    let entries = match fs::read_dir(directory.join(selector.component.to_string())) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound && directory.is_dir() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut versions = Vec::new();
    for entry in entries {
        // `<version>.json` is not a version's name.
        let version = entry?.file_name().to_str().and_then(|name| name.parse::<Version>().ok());
        versions.extend(version.filter(|version| selector.version.as_ref().is_none_or(|wanted| wanted == version)));
    }
    versions.sort();
    Ok(versions)
}

fn not_kept(export: &Path, sequence: Sequence) -> Refusal {
    let kept: Vec<String> = sequences(export).iter().map(ToString::to_string).collect();
    let words = format!("this host does not keep change {sequence}; it keeps {}", kept.join(", "));
    refusal(StatusCode::NOT_FOUND, words)
}
