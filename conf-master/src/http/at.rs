//! `GET /api/v1/at`: which snapshot of a datacenter was the newest at a change.

use std::sync::Arc;

use conf_core::http::{Routes, Who, asker, error, json};
use conf_core::snapshot::AroundChange;
use conf_core::{api::At, snapshot};
use http::StatusCode;
use libconf::name::{DatacenterName, Sequence};
use serde::Deserialize;
use warp::Filter as _;

use crate::http::server::{Answered, Server, answer, newest};
use crate::inspect::InspectError;

#[derive(Deserialize)]
struct Query {
    datacenter: DatacenterName,
    sequence: Sequence,
}

/// `GET /api/v1/at?datacenter=<id>/<version>&sequence=<w>`
pub(crate) fn routes(server: Server) -> Routes {
    warp::path!("api" / "v1" / "at")
        .and(warp::get())
        .and(warp::query())
        .and(asker())
        .then(move |query: Query, who: Who| {
            let server = server.clone();
            answer(async move { server.at(query, who).await })
        })
        .boxed()
}

impl Server {
    /// Everything that has landed is known here, so nothing is waited for: above the newest change
    /// there is none yet.
    async fn at(&self, query: Query, who: Who) -> Answered {
        let published = self.lander.published.borrow().clone();
        let newest = newest(&published, &query.datacenter)?.commit;
        let (change, central) = (query.sequence, published.sequence);
        if change > central {
            return Ok(json(StatusCode::OK, &At { central, at: None, next: None, watermark: None }));
        }
        let gaps = published.keys.iter().filter_map(|one| Some((one.continues?, one.from)));
        if let Some((last, first)) = gaps.into_iter().find(|(last, first)| *last < change && change < *first) {
            let words = format!("change {change} was replaced: the history goes on after {last} with {first}");
            return Err(error(StatusCode::GONE, words));
        }
        let watermarks = self.watermarks.clone();
        self.read(who, move |repo| match snapshot::around_change(repo, newest, change)? {
            AroundChange::Known { at, next } => {
                let watermark = if next.is_none() { watermarks.of(&published, &query.datacenter)? } else { None };
                let watermark = watermark.map(Arc::unwrap_or_clone);
                Ok(json(StatusCode::OK, &At { central, at, next, watermark }))
            }
            AroundChange::CutOff => {
                Err(InspectError::NotThere(format!("change {change} is too long ago; git still finds it")))
            }
        })
        .await
    }
}
