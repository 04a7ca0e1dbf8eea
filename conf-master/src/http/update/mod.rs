//! `POST /api/v1/config/update`: replaces sections, under an optimistic lock.

mod answer;
mod body;
#[cfg(test)]
mod fuzz_tests;

use std::time::Duration;

use conf_core::http::{Request, Routes, error, request};
use http::StatusCode;
use serde::Deserialize;
use warp::Filter as _;

use crate::http::server::{self, Answered, ConfigForm, Server, pusher, unavailable};
use crate::landing::{Push, UpdateOutcome};

/// The most bytes of one request: four times the text of one section, which may be escaped in it.
const BODY_BYTES: usize = 16 << 20;
/// How long delivery is waited for, unless the request says.
const DELIVERY: Duration = Duration::from_secs(30);
/// How long a landing is waited for. Far more than one takes: after that the outcome is unknown.
const LANDING: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct UpdateQuery {
    #[serde(default)]
    config: ConfigForm,
    wait: Option<WaitFor>,
    /// Seconds.
    timeout: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WaitFor {
    /// Every host runs it.
    Delivered,
}

/// The route.
pub(crate) fn routes(server: Server) -> Routes {
    warp::path!("api" / "v1" / "config" / "update")
        .and(warp::post())
        .and(warp::query())
        .and(request())
        .then(move |query: UpdateQuery, request: Request| {
            let server = server.clone();
            server::answer(async move { server.update(query, request).await })
        })
        .boxed()
}

impl Server {
    async fn update(&self, query: UpdateQuery, request: Request) -> Answered {
        request.check_query(&["config", "wait", "timeout"])?;
        let pusher = pusher(&request);
        let if_match = request.header("if-match").map(str::to_owned);
        let key = request.header("idempotency-key").map(str::to_owned);
        let bytes = request.body.bytes(BODY_BYTES).await?;
        // What was read out of them counts for their sender until it has landed.
        let _counted = bytes.clone();
        let read = move || body::read(&bytes, if_match.as_deref(), key.as_deref());
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|cause| error(StatusCode::INTERNAL_SERVER_ERROR, cause))??;
        let push = Push::sections(read.update.clone(), &pusher, read.options.clone());
        let Ok(outcome) = tokio::time::timeout(LANDING, self.lander.land(push)).await else {
            return Err(unavailable(
                "conf-master did not come to it in time, and it may land yet; send it again with the same \
                 Idempotency-Key to learn what became of it",
            ));
        };
        let mut delivery = None;
        if let (Some(WaitFor::Delivered), Some(UpdateOutcome::Landed { refs, .. })) = (query.wait, &outcome.update) {
            let wait = query.timeout.map_or(DELIVERY, Duration::from_secs);
            delivery = Some(self.deliver(refs, outcome.sequence.unwrap_or_default(), wait, pusher.who).await);
        }
        Ok(answer::answer(&read, outcome, query.config, delivery.as_ref()))
    }
}
