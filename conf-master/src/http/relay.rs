//! What changes something goes from a standby to its leader as it came, so that any of their
//! addresses will do. Git drops a credential where it is redirected.

use std::future::ready;
use std::time::Duration;

use conf_core::daemon::chain;
use conf_core::http::{Request, Response, Routes, request, stream};
use conf_core::upstream::{Upstream, UpstreamError};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use warp::{Filter as _, path::FullPath};

use crate::http::server::{Server, unavailable};
use crate::landing::Leader;

/// A request that was relayed once is not relayed again.
const RELAYED: HeaderName = HeaderName::from_static("x-conf-relayed");
/// What is passed on of a request, besides its body.
const ASKED: [HeaderName; 9] = [
    header::ACCEPT,
    header::AUTHORIZATION,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::USER_AGENT,
    HeaderName::from_static("git-protocol"),
    HeaderName::from_static("idempotency-key"),
];
/// What is passed on of an answer, besides its body.
const ANSWERED: [HeaderName; 6] = [
    header::CACHE_CONTROL,
    header::CONTENT_TYPE,
    header::ETAG,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("x-accel-buffering"),
];
/// 2 hours for the head of an answer: a body takes an hour at most, and a push is judged after it.
/// A leader that is dead is noticed by the connection.
const PATIENCE: Duration = Duration::from_secs(7200);

/// Matches what a standby passes on to its leader; nothing where this conf-master leads, or does
/// not know who does.
pub(crate) fn routes(server: &Server) -> Routes {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let asked = warp::method().and(warp::path::full()).and(query).and(warp::header::headers_cloned());
    let (of, server) = (server.clone(), server.clone());
    let only = |passes: bool| ready(if passes { Ok(()) } else { Err(warp::reject::not_found()) });
    let follows =
        warp::any().and_then(move || only(matches!(of.lander.published.borrow().leader, Some(Leader::At(_)))));
    let is_relayed = follows.untuple_one().and(asked).and_then(
        move |method: Method, path: FullPath, query: String, headers: HeaderMap| {
            only(!headers.contains_key(RELAYED) && changes(&method, path.as_str(), &query))
        },
    );
    let relayed = is_relayed.untuple_one().and(request()).then(move |request: Request| {
        let server = server.clone();
        async move { server.relay(request).await }
    });
    relayed.boxed()
}

/// Tells whether a request may change something, so that the leader has to see it.
fn changes(method: &Method, path: &str, query: &str) -> bool {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        // The refs that a push begins with.
        ["conf.git", "info", "refs"] => query == "service=git-receive-pack",
        // A session is known where it was opened; the others are between two servers, or read.
        ["conf.git", "git-upload-pack"]
        | ["api", "v1", "sessions" | "standby" | "succession"]
        | ["api", "v1", "policy", "test"]
        | ["api", "v1", "datacenters", _, _, "plan"] => false,
        _ => !matches!(*method, Method::GET | Method::HEAD),
    }
}

impl Server {
    async fn relay(&self, request: Request) -> Response {
        let leader = self.lander.published.borrow().leader.clone();
        let Some(Leader::At(url)) = leader else { return unavailable("this conf-master has just begun to lead") };
        let answer = match self.leader.at(&url) {
            Ok(server) => relay(&server, request).await.map_err(anyhow::Error::from),
            Err(cause) => Err(cause),
        };
        match answer {
            // A session of this standby is none of its leader.
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => {
                unavailable(&format!("this conf-master is a standby; ask {url}, its leader"))
            }
            Ok(answer) => answer,
            Err(cause) => unavailable(&format!("this conf-master is a standby, and its leader: {}", chain(&*cause))),
        }
    }
}

/// Passes a request on, with the credential that its sender showed, and streams both bodies. After
/// an error it may have been done or not.
async fn relay(server: &Upstream, request: Request) -> Result<Response, UpstreamError> {
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    let path = format!("{}{query}", request.path);
    let known = |name: &HeaderName| Some((name.clone(), request.headers.get(name)?.clone()));
    let headers = ASKED.iter().filter_map(known).chain([(RELAYED, HeaderValue::from_static("1"))]).collect();
    let answer = server.pass_on(request.method, &path, headers, request.body.into_stream(), PATIENCE).await?;
    let (status, head) = (answer.status(), answer.headers().clone());
    let mut response = stream(status, "application/octet-stream", answer.bytes_stream());
    for (name, value) in ANSWERED.iter().filter_map(|name| Some((name, head.get(name)?))) {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_something_is_passed_on_and_nothing_else() {
        let passes = |method: Method, path: &str, query: &str| changes(&method, path, query);
        for (path, query) in [
            ("/conf.git/git-receive-pack", ""),
            ("/api/v1/config/update", "wait=60"),
            ("/api/v1/tokens", ""),
            ("/api/v1/datacenters/lab/v1/hosts", ""),
            ("/api/v1/something/new", ""),
        ] {
            assert!(passes(Method::POST, path, query), "{path}");
        }
        assert!(passes(Method::GET, "/conf.git/info/refs", "service=git-receive-pack"));
        assert!(passes(Method::DELETE, "/api/v1/tokens/a", ""));
        for path in ["/conf.git/git-upload-pack", "/api/v1/standby", "/api/v1/datacenters/lab/v1/plan"] {
            assert!(!passes(Method::POST, path, ""), "{path}");
        }
        assert!(!passes(Method::GET, "/conf.git/info/refs", "service=git-upload-pack"));
        assert!(!passes(Method::GET, "/api/v1/tokens", ""));
    }
}
