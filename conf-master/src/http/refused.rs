//! The records of refused requests.

use conf_core::http::{Routes, error, json};
use http::StatusCode;
use libconf::name::DatacenterName;
use serde::Deserialize;
use warp::Filter as _;

use crate::http::server::{Server, answer};

/// The most records in one answer.
const MOST: usize = 1000;

#[derive(Deserialize)]
struct Query {
    limit: Option<usize>,
    datacenter: Option<DatacenterName>,
}

/// `GET /api/v1/refused[?limit=N][&datacenter=<id>/<version>]`: a list of records, newest first.
pub(crate) fn routes(server: Server) -> Routes {
    warp::path!("api" / "v1" / "refused")
        .and(warp::get())
        .and(warp::query::<Query>())
        .then(move |query: Query| {
            let audit = server.lander.audit.clone();
            answer(async move {
                let limit = query.limit.unwrap_or(50).min(MOST);
                let wanted = move || {
                    audit.newest(limit, |record| query.datacenter.as_ref().is_none_or(|one| record.concerns(one)))
                };
                let records = tokio::task::spawn_blocking(wanted).await.map_err(std::io::Error::other).flatten();
                let records = records.map_err(|cause| {
                    tracing::error!(%cause, "cannot read the records of what was refused");
                    error(StatusCode::INTERNAL_SERVER_ERROR, "conf-master cannot read its records; its log says why")
                })?;
                Ok(json(StatusCode::OK, &records))
            })
        })
        .boxed()
}
