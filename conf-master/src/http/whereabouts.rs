//! `GET /api/v1/where`: which snapshots, conf-slaves and hosts hold an object.

use conf_core::http::{Routes, Who, asker, error, json};
use git2::ObjectType;
use http::StatusCode;
use libconf::name::{CommitId, ObjectId, RefName};
use serde::Deserialize;
use tokio::sync::Semaphore;
use warp::Filter as _;

use crate::delivery::WhereAnswer;
use crate::http::server::{Answered, Server, answer, unavailable};
use crate::inspect::{InspectError, whereabouts};

/// Searches at once: each may take 20 seconds of a processor.
static SEARCHING: Semaphore = Semaphore::const_new(1);

#[derive(Deserialize)]
struct Query {
    object: ObjectId,
}

/// `GET /api/v1/where?object=<id>`
pub(crate) fn routes(server: Server) -> Routes {
    warp::path!("api" / "v1" / "where")
        .and(warp::get())
        .and(warp::query())
        .and(asker())
        .then(move |query: Query, who: Who| {
            let server = server.clone();
            answer(async move { server.whereabouts(query.object, who).await })
        })
        .boxed()
}

impl Server {
    async fn whereabouts(&self, object: ObjectId, who: Who) -> Answered {
        let Ok(_searching) = SEARCHING.try_acquire() else {
            return Err(unavailable("another search is going on; ask again in a moment"));
        };
        if object.is_zero() {
            return Err(error(StatusCode::NOT_FOUND, "no object has this id"));
        }
        let newest: Vec<_> = self.lander.published.borrow().datacenters.values().cloned().collect();
        let tips: Vec<(RefName, CommitId)> = {
            let durable = self.lander.durable();
            let shown = durable.table.iter().filter(|(name, _)| !name.is_reserved());
            shown.map(|(name, target)| (name.clone(), target.commit)).collect()
        };
        let (hosts, landed) = (self.hosts.clone(), self.lander.landed.clone());
        self.read(who, move |repo| {
            let is_of_history =
                matches!(repo.odb()?.read_header(object.into()), Ok((_, ObjectType::Commit | ObjectType::Tag)));
            // What did not land is nowhere else, and may be of any size.
            if is_of_history && landed.missing([object].into())?.is_some() {
                return Err(InspectError::NotThere(format!("nothing that landed holds {object}: it never landed")));
            }
            let found = whereabouts::find(repo, object, &tips, &newest)?;
            Ok(json(StatusCode::OK, &WhereAnswer::new(found, &hosts)))
        })
        .await
    }
}
