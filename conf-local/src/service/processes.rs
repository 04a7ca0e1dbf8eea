//! `POST /v1/processes`: a process says which snapshot it runs on. `GET /v1/processes`: who has said so.

use conf_core::{
    daemon::chain,
    http::{self as answer, Peer, Request, Response, Routes},
};
use http::StatusCode;
use serde_json::json;
use warp::Filter;

use crate::service::processes_seen::{Reader, Said, SayError};
use crate::service::{Refusal, Service, from_here, refusal, sees_secrets, settle};

/// A process says at most 64 errors of some words each.
const MOST_BYTES: usize = 256 << 10;

pub(crate) fn routes(
    service: impl Filter<Extract = (Service,), Error = std::convert::Infallible> + Clone + Send + Sync + 'static,
) -> Routes {
    let path = || warp::path!("v1" / "processes");
    let list = path().and(warp::get()).and(service.clone()).and(answer::request()).map(
        |service: Service, request: Request| {
            settle(
                from_here(&request).map(|()| answer::json(StatusCode::OK, &service.processes.status(sees(&request)))),
            )
        },
    );
    let say = path()
        .and(warp::post())
        .and(service)
        .and(answer::request())
        .then(async |service: Service, request: Request| settle(service.say(request).await));
    list.boxed().or(say.boxed()).unify().boxed()
}

/// Whose words the asker may read.
pub(crate) fn sees(request: &Request) -> Reader {
    match request.peer {
        _ if sees_secrets(request) => Reader::All,
        Peer::Unix { uid, .. } => Reader::User(uid),
        Peer::Tcp(_) => Reader::Nobody,
    }
}

impl Service {
    async fn say(&self, request: Request) -> Result<Response, Refusal> {
        let Peer::Unix { uid, pid: Some(pid) } = request.peer else {
            let words = "only over the agent's Unix socket, where it can tell who asks; see --socket";
            return Err(refusal(StatusCode::FORBIDDEN, words));
        };
        let said: Said = request.body.json(MOST_BYTES).await.map_err(|refused| Refusal(Box::new(refused)))?;
        self.processes.say(pid, uid, said).map_err(|error| match &error {
            SayError::Process(_) => refusal(StatusCode::BAD_REQUEST, chain(&error)),
            SayError::TooMany { .. } => refusal(StatusCode::TOO_MANY_REQUESTS, &error),
        })?;
        Ok(answer::json(StatusCode::OK, &json!({})))
    }
}
