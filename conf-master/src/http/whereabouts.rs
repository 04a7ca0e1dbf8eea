//! `GET /api/v1/where`: which snapshots, conf-slaves and hosts hold an object.

use std::time::Duration;

use conf_core::http::{Routes, Who, asker, error, json};
use git2::ObjectType;
use http::StatusCode;
use libconf::name::{CommitId, ObjectId, RefName};
use serde::Deserialize;
use warp::Filter as _;

use crate::delivery::WhereAnswer;
use crate::http::server::{Answered, Server, answer, unavailable};
use crate::inspect::{InspectError, whereabouts};

/// Searches at once: each may take 20 seconds of a processor.
pub(crate) const SEARCHES_AT_ONCE: u64 = 1;
/// Those that wait for that, half of them of one peer, and how long each of them waits.
pub(crate) const SEARCHES_WAITING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

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
        if object.is_zero() {
            return Err(error(StatusCode::NOT_FOUND, "no object has this id"));
        }
        let Ok(searching) = self.searching.take(who, 1, PATIENCE).await else {
            return Err(unavailable("others search at this time; ask again in a moment"));
        };
        let newest: Vec<_> = self.lander.published.borrow().datacenters.values().cloned().collect();
        let tips: Vec<(RefName, CommitId)> = {
            let durable = self.lander.durable();
            let shown = durable.table.iter().filter(|(name, _)| !name.is_reserved());
            shown.map(|(name, target)| (name.clone(), target.commit)).collect()
        };
        let (hosts, landed) = (self.hosts.clone(), self.lander.landed.clone());
        self.read_now(who, move |repo| {
            // The place is held to the end, even when the reader has gone.
            let _searching = searching;
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
