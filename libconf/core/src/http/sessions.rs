//! The route by which a host opens a session.

use warp::Filter as _;

use crate::api::SessionRequest;
use crate::http::{
    answer::{Response, Routes},
    authenticator::Authenticator,
    request::{Request, request},
};

/// Bytes of a request, which has a few hundred.
const LONGEST: usize = 4 << 10;

/// `POST /api/v1/sessions`, for hosts that prove themselves by their keys.
pub fn session_routes(authenticator: Authenticator) -> Routes {
    warp::path!("api" / "v1" / "sessions")
        .and(warp::post())
        .and(request())
        .then(move |request| open(authenticator.clone(), request))
        .boxed()
}

async fn open(authenticator: Authenticator, request: Request) -> Response {
    if let Err(refusal) = request.check_query(&[]) {
        return refusal;
    }
    let peer = request.peer;
    match request.body.json::<SessionRequest>(LONGEST).await {
        Ok(asked) => authenticator.open_session(&asked, peer).await,
        Err(refusal) => refusal,
    }
}
