//! `GET /v1/at/<w>`: the folder that was the datacenter's newest at a change.

use http::StatusCode;
use libconf::{
    name::Sequence,
    tier::http::{self as answer, Response},
};
use serde::Deserialize;

use super::{Refusal, Service, patience, refusal};
use crate::demand::Unavailable;

#[derive(Debug, Deserialize)]
pub(super) struct AtQuery {
    timeout: Option<f64>,
}

impl Service {
    /// Waits at most as long as the caller allows; the folder is kept for the time of the retention from the answer on.
    pub(super) async fn at(&self, change: &str, query: AtQuery) -> Result<Response, Refusal> {
        let change: Sequence = change.parse().map_err(|error| refusal(StatusCode::BAD_REQUEST, error))?;
        let found = tokio::select! {
            found = self.demand.at(change, patience(query.timeout)?) => found,
            () = self.stop.cancelled() => Err(Unavailable::Stopping),
        };
        found.map(|found| answer::json(StatusCode::OK, &found)).map_err(|error| refuse(&error))
    }
}

fn refuse(error: &Unavailable) -> Refusal {
    let status = match error {
        Unavailable::Nothing | Unavailable::Busy | Unavailable::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        Unavailable::TooOld(_) => StatusCode::NOT_FOUND,
        Unavailable::Late { .. } => StatusCode::GATEWAY_TIMEOUT,
        Unavailable::Nobody { .. } => StatusCode::BAD_GATEWAY,
        Unavailable::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(status, error)
}
