//! What a change would do to a datacenter, before it is made.

use std::collections::BTreeMap;

use conf_core::http::{Request, Response, Routes, error, json, request};
use git2::Repository;
use http::StatusCode;
use libconf::name::{DatacenterName, ObjectId, RefName};
use serde::Deserialize;
use warp::Filter as _;

use crate::http::{Server, git, named};
use crate::{
    judge::Wish,
    landing::{Options, Push},
};

/// The most bytes of a question: a thousand refs, and some.
const BYTES: usize = 1 << 20;

/// The body of the request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Where each ref would be: a commit's full id, or the name of a branch or tag that is there.
    #[serde(default)]
    refs: BTreeMap<String, String>,
}

/// `POST /api/v1/datacenters/<id>/<version>/plan`
pub(crate) fn routes(server: Server) -> Routes {
    warp::path!("api" / "v1" / "datacenters" / String / String / "plan")
        .and(warp::post())
        .and(request())
        .then(move |id: String, version: String, request: Request| {
            let server = server.clone();
            async move { named(&id, &version, |name| server.plan(name, request)).await }
        })
        .boxed()
}

impl Server {
    async fn plan(&self, name: DatacenterName, request: Request) -> Response {
        if let Err(answer) = self.snapshot(&name) {
            return answer;
        }
        let through = git::pusher(&request).through;
        let asked: Asked = match request.body.json(BYTES).await {
            Ok(asked) => asked,
            Err(answer) => return answer,
        };
        let path = self.repo.clone();
        let resolved = tokio::task::spawn_blocking(move || {
            let repo = Repository::open_bare(path).map_err(|cause| cause.message().to_owned())?;
            asked.refs.iter().map(|(name, commit)| wish(&repo, name, commit)).collect::<Result<Vec<Wish>, String>>()
        });
        let wishes = match resolved.await.map_err(|cause| cause.to_string()).flatten() {
            Ok(wishes) => wishes,
            Err(words) => return error(StatusCode::UNPROCESSABLE_ENTITY, words),
        };
        let options = Options { dry_run: true, ..Options::default() };
        let push = Push {
            wishes,
            atomic: false,
            by: None,
            through,
            request: "plan".to_owned(),
            options,
            update: None,
            order: None,
        };
        let Some(mut plan) = self.lander.check(push, None).await.plan else {
            return error(
                StatusCode::SERVICE_UNAVAILABLE,
                "conf-master is busy or cannot read it; ask again in a moment",
            );
        };
        plan.datacenters.retain(|one| one.datacenter == name);
        json(StatusCode::OK, &plan)
    }
}

/// A ref that is supposed to be elsewhere, both ends looked up here.
fn wish(repo: &Repository, name: &str, commit: &str) -> Result<Wish, String> {
    let name: RefName = full(name, "refs/heads/").parse().map_err(|bad: libconf::name::BadName| bad.to_string())?;
    let old = repo.refname_to_id(&name.to_string()).map_or(ObjectId::ZERO, ObjectId::from);
    let there = |name: String| repo.refname_to_id(&name).ok().map(ObjectId::from);
    let by_id = commit.parse::<ObjectId>().ok();
    let by_name = || ["refs/heads/", "refs/tags/"].iter().find_map(|folder| there(full(commit, folder)));
    let new = by_id.or_else(by_name).ok_or_else(|| {
        format!(
            "the server has no {commit:?}; write a commit's full id, or the name of a branch or tag that is pushed. For what is \
             not pushed yet there is `git push -o dry-run`"
        )
    })?;
    Ok(Wish { name: name.to_string(), old, new })
}

fn full(name: &str, folder: &str) -> String {
    if name.starts_with("refs/") { name.to_owned() } else { format!("{folder}{name}") }
}
