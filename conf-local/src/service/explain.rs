//! `GET /v1/explain/…`: the layers that set each key of a component's settings. `GET /v1/schema/…`:
//! its schema.

use std::{fs, io};

use conf_core::{
    daemon::chain,
    http::{self as answer, Request},
    layers::{self, Explained, LayerError, Origin},
    settings::{self, JsonPointer, MAX_BYTES},
    snapshot::{Component, Snapshot, SnapshotError},
};
use http::StatusCode;
use libconf::name::{CommitId, ComponentSelector, ComponentVersion, Sequence};
use serde::{Deserialize, Serialize};

use crate::{
    service::{
        refusal::{Answer, Refusal, blocking, broken, component_of, nothing_yet, ok, refusal},
        routes::Service,
        settings::{SettingsQuery, choose},
    },
    snapshot::Manifests,
};

#[derive(Debug, Deserialize)]
pub(crate) struct ExplainQuery {
    key: Option<String>,
}

/// The body of `GET /v1/explain/…`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    pub(crate) component: ComponentVersion,
    /// The exported change.
    pub(crate) sequence: Sequence,
    pub(crate) commit: CommitId,
    /// Every key, in order; empty if the component has no settings.
    pub(crate) keys: Vec<Explained>,
}

impl Service {
    /// Explains each key at or below `key`, in the snapshot that is exported now.
    pub(crate) async fn explain(&self, component: String, query: ExplainQuery, _: Request) -> Answer {
        let (service, selector) = (self.clone(), component_of(&component)?);
        ok(&blocking(move || service.explain_now(&selector, query.key.as_deref())).await?)
    }

    fn explain_now(&self, selector: &ComponentSelector, key: Option<&str>) -> Result<Explanation, Refusal> {
        let view = self.agent.view();
        let exported = view.exported.as_ref().ok_or_else(nothing_yet)?;
        let versions = exported.matching(selector).map(|(component, _)| component.version.clone()).collect();
        let name = choose(selector, versions, exported, exported.sequence)?;
        let git = self.repository.lend().map_err(|error| broken(chain(&error)))?;
        let unreadable = |error: SnapshotError| broken(chain(&error));
        let snapshot = Snapshot::read(&git, exported.commit).map_err(unreadable)?;
        let mut components = snapshot.components(&git).map_err(unreadable)?;
        let component = components.remove(&name).ok_or_else(|| broken(format_args!("{name} is in no snapshot")))?;

        let host = &view.status.host;
        let manifests = Manifests::read(&git, &snapshot, host, &[]).map_err(unreadable)?;
        let stack = layers::stack(&git, &manifests.sources(&name, &component), &name.component, Some(host));
        let stack = stack.map_err(|error| match error {
            LayerError::Repository(cause) => broken(chain(&cause)),
            faults @ LayerError::Faults(_) => {
                let words = format!("the export keeps earlier files of {name}: {faults}");
                refusal(StatusCode::UNPROCESSABLE_ENTITY, words)
            }
        })?;
        let Ok(pointer) = key.unwrap_or_default().parse::<JsonPointer>();
        let mut keys = stack.explain(Some(&pointer));
        if keys.is_empty() && !pointer.parts().is_empty() {
            let words = format!("no layer of {name} sets {pointer}; `conf-local explain {name}` shows what is set");
            return Err(refusal(StatusCode::NOT_FOUND, words));
        }
        for by in keys.iter_mut().flat_map(|key| &mut key.set_by) {
            (by.reference, by.commit) = reference(&snapshot, &component, &by.origin);
        }
        Ok(Explanation { component: name, sequence: snapshot.sequence, commit: snapshot.commit, keys })
    }

    /// Returns the component's exported `config.schema.json`, or `null` if there is none.
    pub(crate) async fn schema(&self, component: String, query: SettingsQuery, _: Request) -> Answer {
        let (service, selector) = (self.clone(), component_of(&component)?);
        blocking(move || service.read_schema(&selector, &query)).await
    }

    fn read_schema(&self, selector: &ComponentSelector, query: &SettingsQuery) -> Answer {
        let found = self.find(selector, query.sequence)?;
        let file = found.directory.join(found.component.to_string()).join(settings::SCHEMA_FILE);
        let failed = |error: io::Error| broken(format_args!("cannot read {}: {error}", file.display()));
        // A link may lead anywhere, to what only the agent may read.
        let bytes = match fs::symlink_metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"null".to_vec(),
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.is_file() => b"null".to_vec(),
            Ok(found) if found.len() > MAX_BYTES as u64 => {
                let words = format!("{} has more than {MAX_BYTES} bytes", settings::SCHEMA_FILE);
                return Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, words));
            }
            Ok(_) => fs::read(&file).map_err(failed)?,
        };
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
            let words = format!("{} is not JSON: {error}", settings::SCHEMA_FILE);
            return Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, words));
        }
        Ok(answer::bytes_of(StatusCode::OK, "application/json", bytes.into()))
    }
}

/// Returns the branch or tag of a layer, and its commit in the snapshot.
fn reference(snapshot: &Snapshot, component: &Component, origin: &Origin) -> (Option<String>, Option<CommitId>) {
    match origin {
        Origin::Component => {
            let (name, pin) = (&component.pin.component, &component.pin);
            let at = if name.version.is_latest() { pin.branch.to_string() } else { name.version.to_string() };
            (Some(format!("{}/{at}", name.component)), Some(pin.commit))
        }
        Origin::Class => match &snapshot.class {
            Some((name, commit)) => (Some(name.short()), Some(*commit)),
            None => (None, None),
        },
        Origin::Datacenter | Origin::Role(_) | Origin::Host(_) => {
            (Some(format!("datacenters/{}", snapshot.datacenter)), snapshot.datacenter_commit)
        }
    }
}
