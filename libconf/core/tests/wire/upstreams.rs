//! Servers that fail, refuse, or ask for a credential.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use conf_core::{
    git::{Depth, Durability, Step, replace_file},
    git_http::{UploadLimits, UploadPack, git_routes},
    http::{self as answers, Event},
    upstream::{self, Credentials, FetchError, UpstreamError, Upstreams},
};
use http::StatusCode;
use serde_json::{Value, json};
use warp::Filter;

use crate::site::{Repo, listen, upstreams};

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_is_tried_last() {
    // A server that takes 2 s has the next one asked too, and counts as silent.
    for _ in 0..5 {
        if is_prompt_with_one_that_fails().await {
            return;
        }
    }
    panic!("the answers took 2 s each time");
}

/// Asks servers of which the first one fails. False if that took so long that it says nothing.
async fn is_prompt_with_one_that_fails() -> bool {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = asked.clone();
    let broken = warp::any().map(move || {
        counter.fetch_add(1, SeqCst);
        answers::error(StatusCode::INTERNAL_SERVER_ERROR, "no disk")
    });
    let works = warp::any().map(|| answers::json(StatusCode::OK, &json!({"a": 1})));
    let ((first, _a), (second, _b)) = (listen(broken.boxed()).await, listen(works.boxed()).await);
    let servers = upstreams(&[&first, &second]);
    let since = Instant::now();
    for _ in 0..3 {
        assert_eq!(servers.get_json::<Value>("api").await.unwrap(), json!({"a": 1}));
    }
    if since.elapsed() >= Duration::from_secs(2) {
        return false;
    }
    assert_eq!(asked.load(SeqCst), 1, "asked again at once");
    assert!(servers.in_order()[0].url().as_str().starts_with(&second));
    servers.in_order()[1].report(true);
    assert!(servers.in_order()[0].url().as_str().starts_with(&first));
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let busy = warp::path("busy").map(|| {
        let mut response = answers::error(StatusCode::SERVICE_UNAVAILABLE, "starting");
        response.headers_mut().insert("retry-after", "7".parse().unwrap());
        response
    });
    let denied = warp::path("denied").map(|| answers::text(StatusCode::FORBIDDEN, ""));
    let page = warp::path("page").map(|| answers::text(StatusCode::OK, "<html>"));
    let routes = busy.or(denied).unify().or(page).unify().boxed();
    let (url, _stop) = listen(routes).await;
    let servers = upstreams(&[&url]);
    let ask = async |path: &str| servers.get_json::<Value>(path).await.unwrap_err();
    let error = ask("busy").await;
    assert_eq!(error.retry_after().map(|after| after.as_secs()), Some(7));
    assert!(error.to_string().contains("starting"), "{error}");
    let error = ask("denied").await;
    assert!(error.to_string().contains("--token-file"), "{error}");
    let error = ask("page").await;
    assert!(matches!(error, UpstreamError::Unexpected { .. }), "{error}");
    let error = upstreams(&["http://127.0.0.1:1"]).get_json::<Value>("x").await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Unreachable { .. }) && error.to_string().contains("127.0.0.1:1/x"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_read_again_when_its_file_changes() {
    let central = Repo::new();
    let first = central.snapshot(None, &[("web", "port: 1")]);
    let guard = warp::header::optional::<String>("authorization").and_then(|sent: Option<String>| async move {
        // base64 of conf:right
        match sent.as_deref() {
            Some("Basic Y29uZjpyaWdodA==" | "Bearer right") => Ok(()),
            _ => Err(warp::reject::not_found()),
        }
    });
    let git = git_routes(UploadPack::new(central.path.clone(), UploadLimits::default()), None);
    let json = warp::path("json").map(|| answers::json(StatusCode::OK, &1));
    let open = guard.untuple_one().and(git.or(json).unify());
    let denied = warp::any().map(|| answers::error(StatusCode::UNAUTHORIZED, "who are you?"));
    let (url, _stop) = listen(open.or(denied).unify().boxed()).await;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    replace_file(&file, b"wrong\n", 0o644, Durability::Full).unwrap();
    let servers = Upstreams::new(vec![url.parse().unwrap()], &Credentials::from_file(Some(file.clone()))).unwrap();
    let host = Repo::new();
    let step = Step { have: None, want: first, depth: Depth::One };
    let fetch = || async { upstream::fetch(&servers.in_order()[0], host.path.clone(), step).await };
    let error = fetch().await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Refused(cause) if cause.status() == Some(StatusCode::UNAUTHORIZED)),
        "{error:?}"
    );
    replace_file(&file, b"right\n", 0o644, Durability::Full).unwrap();
    assert_eq!(fetch().await.unwrap().requests, 1);
    assert_eq!(servers.get_json::<u8>("json").await.unwrap(), 1);
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(servers.get_json::<u8>("json").await.unwrap_err(), UpstreamError::Token { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_and_their_end_is_an_error() {
    let routes = warp::header::optional::<String>("last-event-id").map(|last: Option<String>| {
        let from = last.and_then(|id| id.parse::<u64>().ok()).unwrap_or(0);
        let events = (from + 1..=from + 2).map(|id| Event::json("snapshot", Some(id.to_string()), &json!({"n": id})));
        answers::events(futures_util::stream::iter(events))
    });
    let (url, _stop) = listen(routes.boxed()).await;
    let mut events = upstreams(&[&url]).events("api/v1/events?x=y", Some("5")).await.unwrap();
    let heartbeat = events.next().await.unwrap();
    assert_eq!((heartbeat.name.as_str(), heartbeat.id), ("heartbeat", None), "it comes at once, with the period");
    for id in ["6", "7"] {
        let event = events.next().await.unwrap();
        assert_eq!((event.name.as_str(), event.id.as_deref()), ("snapshot", Some(id)));
        assert_eq!(serde_json::from_str::<Value>(&event.data).unwrap()["n"], id.parse::<u64>().unwrap());
    }
    assert!(matches!(events.next().await.unwrap_err(), UpstreamError::Closed { .. }));
}
