//! Who set what in a component's settings, and what its schema says of them.

use conf_core::{
    http::{Response, Routes, error, json},
    settings::{self, Format},
};
use http::StatusCode;
use libconf::name::{BranchName, ComponentName, ComponentSelector, DatacenterName, HostName, RefName};
use serde::Deserialize;
use warp::Filter as _;

use crate::http::{Server, named};
use crate::{
    inspect::{
        doc::{self, Doc},
        explain,
    },
    landing::update::section::BRANCH,
};

#[derive(Deserialize)]
struct ExplainQuery {
    component: ComponentSelector,
    #[serde(default)]
    key: String,
    host: Option<HostName>,
}

#[derive(Deserialize)]
struct DocQuery {
    branch: Option<BranchName>,
}

/// `GET /api/v1/datacenters/<id>/<version>/explain?component=<kind>/<name>[/<version>][&key=K][&host=H]` and
/// `GET /api/v1/doc/<kind>/<name>[?branch=B]`
pub(crate) fn routes(server: Server) -> Routes {
    let with = warp::any().map(move || server.clone());
    let explain = warp::path!("api" / "v1" / "datacenters" / String / String / "explain")
        .and(warp::get())
        .and(warp::query::<ExplainQuery>())
        .and(with.clone())
        .then(|id: String, version: String, query: ExplainQuery, server: Server| async move {
            named(&id, &version, |name| server.explain(name, query)).await
        });
    let doc = warp::path!("api" / "v1" / "doc" / String / String)
        .and(warp::get())
        .and(warp::query::<DocQuery>())
        .and(with)
        .then(|kind: String, name: String, query: DocQuery, server: Server| async move {
            match format!("{kind}/{name}").parse() {
                Ok(component) => server.doc(component, query.branch).await,
                Err(bad) => error(StatusCode::BAD_REQUEST, bad),
            }
        });
    explain.boxed().or(doc.boxed()).unify().boxed()
}

impl Server {
    async fn explain(&self, name: DatacenterName, query: ExplainQuery) -> Response {
        let snapshot = match self.snapshot(&name) {
            Ok(snapshot) => snapshot,
            Err(answer) => return answer,
        };
        self.read(move |repo| {
            let explained = explain::explain(repo, &snapshot, &query.component, &query.key, query.host.as_ref())?;
            Ok(match explained {
                Ok(explanation) => json(StatusCode::OK, &explanation),
                Err(why) => error(StatusCode::NOT_FOUND, why),
            })
        })
        .await
    }

    async fn doc(&self, component: ComponentName, branch: Option<BranchName>) -> Response {
        let branch = match branch.map_or_else(|| BRANCH.parse(), Ok) {
            Ok(branch) => RefName::Branch(component.clone(), branch),
            Err(bad) => return error(StatusCode::BAD_REQUEST, bad),
        };
        self.read(move |repo| {
            let Ok(commit) = repo.refname_to_id(&branch.to_string()) else {
                return Ok(error(StatusCode::NOT_FOUND, format!("there is no branch {}", branch.short())));
            };
            let tree = repo.find_commit(commit)?.tree()?;
            let Some(entry) = tree.get_name(settings::SCHEMA_FILE) else {
                let words =
                    format!("{} has no {}, so nothing describes its settings", branch.short(), settings::SCHEMA_FILE);
                return Ok(error(StatusCode::NOT_FOUND, words));
            };
            let bytes = repo.find_blob(entry.id()).map(|blob| blob.content().to_vec()).unwrap_or_default();
            let schema = match settings::parse(settings::SCHEMA_FILE, Format::Json, &bytes) {
                Ok(schema) => schema.into(),
                Err(fault) => return Ok(error(StatusCode::UNPROCESSABLE_ENTITY, fault)),
            };
            let markdown = doc::markdown(&component, &schema);
            let doc = Doc { component, reference: branch.short(), commit: commit.into(), markdown };
            Ok(json(StatusCode::OK, &doc))
        })
        .await
    }
}
