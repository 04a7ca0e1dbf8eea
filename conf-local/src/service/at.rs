//! `GET /v1/at/<w>`: the folder that was the datacenter's newest at a change.

use conf_core::http::{self as answer, Request};
use http::StatusCode;
use libconf::name::Sequence;
use serde::{Deserialize, Serialize};

use crate::{
    on_demand::Unavailable,
    service::{
        refusal::{Answer, Refusal, ok, patience, refusal, user},
        routes::Service,
    },
};

#[derive(Debug, Deserialize)]
pub(crate) struct AtQuery {
    timeout: Option<f64>,
}

impl Service {
    /// Waits at most as long as the caller allows. The folder stays for the time of the retention
    /// from the answer on.
    pub(crate) async fn at(&self, change: String, query: AtQuery, request: Request) -> Answer {
        let user = user(&request);
        let change: Sequence = change.parse().map_err(|error| refusal(StatusCode::BAD_REQUEST, error))?;
        let found = self.demand.at(change, patience(query.timeout)?, user).await;
        ok(&found.map_err(|error| refuse(&error))?)
    }
}

/// The body of a refusal.
#[derive(Debug, Serialize)]
struct RefusalBody {
    /// For people, as in every refusal.
    error: String,
    /// For programs: libconf takes `none-so-old` and `replaced` as final, and asks again after all
    /// others.
    reason: &'static str,
}

fn refuse(error: &Unavailable) -> Refusal {
    let (status, reason) = match error {
        Unavailable::Nothing => (StatusCode::SERVICE_UNAVAILABLE, "nothing-exported"),
        Unavailable::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        Unavailable::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        Unavailable::TooOld(_) => (StatusCode::NOT_FOUND, "none-so-old"),
        Unavailable::Replaced { .. } => (StatusCode::GONE, "replaced"),
        Unavailable::Late { .. } => (StatusCode::GATEWAY_TIMEOUT, "not-in-time"),
        Unavailable::Nobody { .. } => (StatusCode::BAD_GATEWAY, "nobody-has-it"),
        Unavailable::Broken(_) => (StatusCode::INTERNAL_SERVER_ERROR, "broken"),
    };
    answer::json(status, &RefusalBody { error: error.to_string(), reason }).into()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn every_refusal_has_its_reason() {
        let (change, missing) = (Sequence(3), "s1 is away".to_owned());
        for (error, status, reason) in [
            (Unavailable::Nothing, 503, "nothing-exported"),
            (Unavailable::Busy, 503, "busy"),
            (Unavailable::Stopping, 503, "stopping"),
            (Unavailable::TooOld(change), 404, "none-so-old"),
            (Unavailable::Replaced { change, last: Sequence(2), first: Sequence(2000) }, 410, "replaced"),
            (Unavailable::Late { change, missing: missing.clone() }, 504, "not-in-time"),
            (Unavailable::Nobody { change, missing }, 502, "nobody-has-it"),
            (Unavailable::Broken("the disk is full".to_owned()), 500, "broken"),
        ] {
            let response = *refuse(&error).0;
            assert_eq!(response.status(), status, "{error}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body, json!({"error": error.to_string(), "reason": reason}));
        }
    }
}
