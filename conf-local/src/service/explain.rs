//! `GET /v1/explain/…` and `GET /v1/schema/…`: who set each key of a component's settings, and what its schema says.

use std::{fs, io};

use conf_core::{
    daemon::chain,
    http::{self as answer, Response},
    layers::{self, Explained, LayerError, Origin},
    settings::{self, JsonPointer, MAX_BYTES},
    snapshot::{Component, Snapshot},
};
use http::StatusCode;
use libconf::name::{CommitId, ComponentSelector, ComponentVersion, Sequence};
use serde::{Deserialize, Serialize};

use crate::service::{
    Refusal, Service, broken,
    config::{ConfigQuery, choose},
    nothing_yet, refusal,
};
use crate::snapshot::declared::Declared;

#[derive(Debug, Deserialize)]
pub(crate) struct ExplainQuery {
    key: Option<String>,
}

/// The body of `GET /v1/explain/…`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Which component.
    pub component: ComponentVersion,
    /// As of which change.
    pub sequence: Sequence,
    /// The snapshot of that change.
    pub commit: CommitId,
    /// Every key, in order; none when the component has no settings.
    pub keys: Vec<Explained>,
}

impl Service {
    /// Who set each key at or below `key`, in the snapshot that is exported now.
    pub(crate) async fn explain(&self, selector: ComponentSelector, query: ExplainQuery) -> Result<Response, Refusal> {
        let service = self.clone();
        let explained = tokio::task::spawn_blocking(move || service.explain_now(&selector, query.key.as_deref()));
        Ok(answer::json(StatusCode::OK, &explained.await.map_err(broken)??))
    }

    fn explain_now(&self, selector: &ComponentSelector, key: Option<&str>) -> Result<Explanation, Refusal> {
        let view = self.agent.view();
        let exported = view.exported.as_ref().ok_or_else(nothing_yet)?;
        let versions = exported.matching(selector).map(|(component, _)| component.version.clone()).collect();
        let name = choose(selector, versions, exported.sequence)?;
        let git = self.repository.lend().map_err(broken)?;
        let snapshot = Snapshot::read(&git, exported.commit).map_err(|error| broken(chain(&error)))?;
        let mut components = snapshot.components(&git).map_err(|error| broken(chain(&error)))?;
        let component = components.remove(&name).ok_or_else(|| broken(format_args!("{name} is in no snapshot")))?;

        let host = &view.status.host;
        let declared = Declared::read(&git, &snapshot, host).map_err(|error| broken(chain(&error)))?;
        let stack = layers::stack(&git, &declared.sources(&name, &component), &name.component, Some(host));
        let stack = stack.map_err(|error| match error {
            LayerError::Repository(cause) => broken(cause),
            faults @ LayerError::Faults(_) => {
                let words = format!("the export keeps older files of {name}: {faults}");
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
            (by.reference, by.commit) = place(&snapshot, &component, &by.origin);
        }
        Ok(Explanation { component: name, sequence: snapshot.sequence, commit: snapshot.commit, keys })
    }

    /// The component's `config.schema.json` as it is exported, `null` where there is none.
    pub(crate) async fn schema(&self, selector: ComponentSelector, query: ConfigQuery) -> Result<Response, Refusal> {
        let service = self.clone();
        let read = tokio::task::spawn_blocking(move || service.read_schema(&selector, &query));
        read.await.map_err(broken)?
    }

    fn read_schema(&self, selector: &ComponentSelector, query: &ConfigQuery) -> Result<Response, Refusal> {
        let found = self.find(selector, query.sequence)?;
        let file = found.directory.join(found.component.to_string()).join(settings::SCHEMA_FILE);
        let failed = |error: io::Error| broken(format_args!("cannot read {}: {error}", file.display()));
        let bytes = match fs::metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"null".to_vec(),
            Err(error) => return Err(failed(error)),
            Ok(found) if found.len() > MAX_BYTES as u64 => {
                let words = format!("{} has more than {MAX_BYTES} bytes", settings::SCHEMA_FILE);
                return Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, words));
            }
            Ok(_) => fs::read(&file).map_err(failed)?,
        };
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
            let words = format!("{} is no JSON: {error}", settings::SCHEMA_FILE);
            return Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, words));
        }
        Ok(answer::bytes_of(StatusCode::OK, "application/json", bytes.into()))
    }
}

/// The branch or tag of a layer, and its commit in the snapshot.
fn place(snapshot: &Snapshot, component: &Component, origin: &Origin) -> (Option<String>, Option<CommitId>) {
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
