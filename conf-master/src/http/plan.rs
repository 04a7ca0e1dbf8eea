//! The effect of a change on a datacenter, before the change is made.

use std::collections::BTreeMap;

use conf_core::http::{Request, Routes, error, json, request};
use git2::Repository;
use http::StatusCode;
use libconf::name::{DatacenterName, ObjectId, RefName};
use serde::Deserialize;
use warp::Filter as _;

use crate::fault::RefusalKind;
use crate::http::server::{
    Answered, CROWDED, NamedDatacenter, PATIENCE, Server, answer, datacenter, near_ref, pusher, refused, unavailable,
};
use crate::judge::{ProposalOptions, RefUpdate};
use crate::landing::Push;

/// The most bytes of a question: enough for a thousand refs.
const BYTES: usize = 1 << 20;
/// The most refs of a question, as of a push.
const MOST_REFS: usize = 1000;
/// The most new refs that a plan names.
const MOST_NAMED: usize = 10;

/// The body of the request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanBody {
    /// The supposed commit of each ref: a full id, or the name of a branch or tag on the server.
    #[serde(default)]
    refs: BTreeMap<String, String>,
}

/// `POST /api/v1/datacenters/<id>/<version>/plan`
pub(crate) fn routes(server: Server) -> Routes {
    datacenter()
        .and(warp::path!("plan"))
        .and(warp::post())
        .and(request())
        .then(move |name: NamedDatacenter, request: Request| {
            let server = server.clone();
            answer(async move { server.plan(&name?, request).await })
        })
        .boxed()
}

impl Server {
    async fn plan(&self, name: &DatacenterName, request: Request) -> Answered {
        request.check_query(&[])?;
        self.snapshot(name)?;
        let (pusher, asker) = (pusher(&request), request.who());
        let PlanBody { refs } = request.body.json(BYTES).await?;
        if refs.len() > MOST_REFS {
            let words = format!("{} refs are too many for one plan; {MOST_REFS} is the most", refs.len());
            return Err(error(StatusCode::UNPROCESSABLE_ENTITY, words));
        }
        let rights = self.lander.published.borrow().rights.clone();
        let who = &request.principal;
        if !refs.is_empty() && !rights.is_open && !rights.policy.changes_something(who) {
            let words = format!("{who} may change nothing, and so plans nothing; what is there needs no `refs`");
            return Err(error(StatusCode::FORBIDDEN, words));
        }
        // Names of what somebody does not read are not for him.
        let hints = rights.is_open || rights.policy.reads_everything(who);
        let (path, landed) = (self.repo.clone(), self.lander.landed.clone());
        let Ok(reading) = self.reading.take(asker, 1, PATIENCE).await else { return Err(unavailable(CROWDED)) };
        let resolved = tokio::task::spawn_blocking(move || {
            let _reading = reading;
            let repo = Repository::open_bare(path).map_err(|cause| cause.message().to_owned())?;
            let updates = refs.iter().map(|(name, commit)| update(&repo, name, commit, hints));
            let updates = updates.collect::<Result<Vec<_>, String>>()?;
            let ids = updates.iter().map(|(_, update)| update.new).filter(|new| !new.is_zero());
            if let Some(id) = landed.missing(ids.collect()).map_err(|cause| cause.message().to_owned())? {
                return Err(unknown(&id.to_string(), ""));
            }
            let notes = updates.iter().filter_map(|(name, update)| new_ref(&repo, name, update, hints));
            let notes: Vec<String> = notes.take(MOST_NAMED).collect();
            Ok((updates.into_iter().map(|(_, update)| update).collect(), notes))
        });
        let updates = resolved.await.map_err(|cause| cause.to_string()).flatten();
        let (updates, notes): (Vec<RefUpdate>, _) =
            updates.map_err(|words| error(StatusCode::UNPROCESSABLE_ENTITY, words))?;
        let options = ProposalOptions { dry_run: true, ..ProposalOptions::default() };
        let push = Push { request: "plan".to_owned(), ..Push::commits(updates, false, &pusher, options) };
        let outcome = self.lander.check(push, None).await;
        let Some(mut plan) = outcome.plan else {
            if outcome.refusals.iter().flatten().any(|one| one.kind == RefusalKind::Denied) {
                return Err(refused(outcome.refusals));
            }
            let words = "conf-master is busy or cannot read its repository; ask again in a moment";
            return Err(error(StatusCode::SERVICE_UNAVAILABLE, words));
        };
        plan.datacenters.retain(|one| one.datacenter == *name);
        plan.notes.splice(0..0, notes);
        Ok(json(StatusCode::OK, &plan))
    }
}

/// Makes the update of a ref to a supposed commit; both commits are looked up here.
fn update(repo: &Repository, name: &str, commit: &str, hints: bool) -> Result<(RefName, RefUpdate), String> {
    let name: RefName = full(name, "refs/heads/").parse().map_err(|bad: libconf::name::BadName| bad.to_string())?;
    let old = repo.refname_to_id(&name.to_string()).map_or(ObjectId::ZERO, ObjectId::from);
    let there = |name: String| repo.refname_to_id(&name).ok().map(ObjectId::from);
    let by_id = commit.parse::<ObjectId>().ok();
    let by_name = || ["refs/heads/", "refs/tags/"].iter().find_map(|folder| there(full(commit, folder)));
    let new = by_id.or_else(by_name).ok_or_else(|| {
        let wanted = full(commit, "refs/heads/").parse();
        let near = wanted.ok().filter(|_| hints).map(|wanted| near_ref(repo, &wanted)).unwrap_or_default();
        unknown(commit, &near)
    })?;
    let update = RefUpdate { name: name.to_string(), old, new };
    Ok((name, update))
}

/// Says that nothing landed under this name or id.
fn unknown(commit: &str, near: &str) -> String {
    format!(
        "the server has no {commit:?}{near}; write a commit's full id, or the name of a branch or tag that is pushed. For what is \
         not pushed yet there is `git push -o dry-run`"
    )
}

/// Says that the server does not have the ref: somebody may have mistyped it.
fn new_ref(repo: &Repository, name: &RefName, update: &RefUpdate, hints: bool) -> Option<String> {
    if update.old != ObjectId::ZERO || update.new.is_zero() {
        return None;
    }
    let near = if name.is_tag() || !hints { String::new() } else { near_ref(repo, name) };
    Some(format!("the server has no {} yet{near}: this is the plan of a new one", name.short()))
}

fn full(name: &str, folder: &str) -> String {
    if name.starts_with("refs/") { name.to_owned() } else { format!("{folder}{name}") }
}
