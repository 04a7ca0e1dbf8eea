//! `GET /api/v1/at`: which snapshot of a datacenter was the newest at a change.

use std::sync::Arc;

use conf_core::http::{Routes, error, json};
use conf_core::snapshot::AroundChange;
use conf_core::{api::At, snapshot};
use http::StatusCode;
use libconf::name::{DatacenterName, Sequence};
use serde::Deserialize;
use tokio::sync::Semaphore;
use warp::Filter as _;

use crate::http::server::{Answered, Server, answer, newest};
use crate::inspect::InspectError;

/// Chains that are followed at once; the others wait their turn.
static READING: Semaphore = Semaphore::const_new(4);

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
        .then(move |query: Query| {
            let server = server.clone();
            answer(async move { server.at(query).await })
        })
        .boxed()
}

impl Server {
    /// Everything that has landed is known here, so nothing is waited for: above the newest change
    /// there is none yet.
    async fn at(&self, query: Query) -> Answered {
        let published = self.lander.published.borrow().clone();
        let newest = newest(&published, &query.datacenter)?.commit;
        let (change, central) = (query.sequence, published.sequence);
        if change > central {
            return Ok(json(StatusCode::OK, &At { central, at: None, next: None, watermark: None }));
        }
        let Ok(_reading) = READING.acquire().await else {
            return Err(error(StatusCode::SERVICE_UNAVAILABLE, "conf-master is stopping"));
        };
        let watermarks = self.watermarks.clone();
        self.read(move |repo| match snapshot::around_change(repo, newest, change)? {
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
