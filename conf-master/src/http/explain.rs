//! The layers that set a component's settings, and the description in its schema.

use conf_core::http::{Routes, Who, asker, error, json};
use conf_core::settings::{self, Format};
use http::StatusCode;
use libconf::name::{BranchName, ComponentName, ComponentSelector, DatacenterName, HostName, RefName};
use serde::Deserialize;
use warp::Filter as _;

use crate::http::server::{Answered, NamedDatacenter, Server, answer, datacenter, near_ref};
use crate::inspect::{Doc, InspectError, doc, explain};
use crate::landing::BRANCH;

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

/// `GET
/// /api/v1/datacenters/<id>/<version>/explain?component=<kind>/<name>[/<version>][&key=K][&host=H]`
/// and `GET /api/v1/doc/<kind>/<name>[?branch=B]`
pub(crate) fn routes(server: Server) -> Routes {
    let with = warp::any().map(move || server.clone());
    let explain = datacenter()
        .and(warp::path!("explain"))
        .and(warp::get())
        .and(warp::query())
        .and(asker())
        .and(with.clone())
        .then(|name: NamedDatacenter, query: ExplainQuery, who: Who, server: Server| {
            answer(async move { server.explain(&name?, query, who).await })
        });
    let doc = warp::path!("api" / "v1" / "doc" / String / String)
        .and(warp::get())
        .and(warp::query::<DocQuery>())
        .and(asker())
        .and(with)
        .then(|kind: String, name: String, query: DocQuery, who: Who, server: Server| {
            answer(async move {
                let component = format!("{kind}/{name}").parse().map_err(|bad| error(StatusCode::BAD_REQUEST, bad))?;
                server.doc(component, query.branch, who).await
            })
        });
    explain.boxed().or(doc.boxed()).unify().boxed()
}

impl Server {
    async fn explain(&self, name: &DatacenterName, query: ExplainQuery, who: Who) -> Answered {
        let snapshot = self.snapshot(name)?;
        self.read(who, move |repo| {
            let explained = explain::explain(repo, &snapshot, &query.component, &query.key, query.host.as_ref())?;
            Ok(json(StatusCode::OK, &explained))
        })
        .await
    }

    async fn doc(&self, component: ComponentName, branch: Option<BranchName>, who: Who) -> Answered {
        let branch = branch.map_or_else(|| BRANCH.parse(), Ok).map_err(|bad| error(StatusCode::BAD_REQUEST, bad))?;
        let branch = RefName::Branch(component.clone(), branch);
        self.read(who, move |repo| {
            let Ok(commit) = repo.refname_to_id(&branch.to_string()) else {
                return Err(InspectError::NotThere(format!(
                    "there is no branch {}{}",
                    branch.short(),
                    near_ref(repo, &branch)
                )));
            };
            let tree = repo.find_commit(commit)?.tree()?;
            let Some(entry) = tree.get_name(settings::SCHEMA_FILE) else {
                let words =
                    format!("{} has no {}, so nothing describes its settings", branch.short(), settings::SCHEMA_FILE);
                return Err(InspectError::NotThere(words));
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
