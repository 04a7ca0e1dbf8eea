//! A stand-in for Consul, for a trial on one machine: the few calls of Consul's HTTP API that
//! pointers need, with the keys in memory.
//!
//! The publisher fills it at start like any Consul. Indexes begin at the time of the start, so that
//! they go up across restarts, too.

#![expect(clippy::result_large_err, reason = "a refusal is an answer like any other")]

mod query;
mod keys;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use conf_core::{
    consul::MOST_OPERATIONS,
    http::{self as web, Request, Response, Routes},
};
use http::{StatusCode, header::HeaderValue};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::{sync::watch, time::Instant};
use warp::Filter;

use crate::http::embedded::{
    keys::{Full, KeyTable, Operation, ShownKey, StoredKey, Wrapped},
    query::{Query, bad_request, check_key},
};

/// Bytes of a value: Consul's own limit.
const LONGEST_VALUE: usize = 512 << 10;
/// Bytes of a transaction's text. 64 of the longest values would be 43 MB; pointers have 60 bytes.
const LONGEST_TRANSACTION: usize = 4 << 20;
/// Consul's own default and limit.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A stand-in for Consul.
#[derive(Debug)]
pub struct EmbeddedConsul {
    table: Mutex<KeyTable>,
    changed: watch::Sender<u64>,
    closed: AtomicBool,
}

type Answer = Result<Response, Response>;

impl EmbeddedConsul {
    /// Makes one without keys.
    pub fn new() -> Arc<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
        let table = Mutex::new(KeyTable::new(now));
        Arc::new(EmbeddedConsul { table, changed: watch::Sender::new(now), closed: AtomicBool::new(false) })
    }

    /// Answers all waiting requests, at once and from now on, since the program ends.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.changed.send_modify(|_| ());
    }

    /// Makes the routes `/v1/kv/…`, `/v1/txn` and `/v1/status/leader`.
    pub fn routes(self: Arc<Self>) -> Routes {
        let calls = warp::path("kv").or(warp::path("txn")).unify().or(warp::path("status")).unify();
        let answer = move |request| {
            let consul = Arc::clone(&self);
            async move { consul.answer(request).await.unwrap_or_else(|refusal| refusal) }
        };
        warp::path("v1").and(calls).and(web::request()).then(answer).boxed()
    }

    async fn answer(&self, request: Request) -> Answer {
        let query = Query::of(&request.query);
        // A client may send the slashes of a key encoded. What is no text is no key either.
        let path = percent_decode_str(&request.path).decode_utf8_lossy().into_owned();
        match (request.method.as_str(), path.as_str(), path.strip_prefix("/v1/kv/")) {
            ("PUT", "/v1/txn", _) => self.transaction(request.body.json(LONGEST_TRANSACTION).await?),
            ("GET", "/v1/status/leader", _) => Ok(web::json(StatusCode::OK, "embedded")),
            ("GET", _, Some(key)) => self.read(key, &query).await,
            ("PUT", _, Some(key)) => self.write(key, &query, request.body.bytes(LONGEST_VALUE).await?),
            ("DELETE", _, Some(key)) => self.delete(key, &query),
            _ => {
                Err(web::error(StatusCode::NOT_FOUND, "the embedded server knows /v1/kv/…, /v1/txn, /v1/status/leader"))
            }
        }
    }

    /// Calls `change` with the next index. If it returns that something changed, wakes the waiting
    /// requests.
    fn change<T>(&self, change: impl FnOnce(&mut KeyTable, u64) -> (bool, T)) -> T {
        let mut table = self.table.lock();
        let next = table.index + 1;
        let (changed, answer) = change(&mut table, next);
        if changed {
            table.index = next;
            self.changed.send_replace(next);
        }
        answer
    }

    async fn read(&self, key: &str, query: &Query<'_>) -> Answer {
        let many = query.has("recurse") || query.has("keys");
        check_key(key, many)?;
        let seen = query.number("index")?.unwrap_or(0);
        let wait = query.duration("wait")?.filter(|wait| !wait.is_zero()).unwrap_or(DEFAULT_WAIT).min(LONGEST_WAIT);
        let deadline = Instant::now() + wait + wait.mul_f64(rand::random::<f64>() / 16.0);
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            let (index, found) = self.table.lock().find(key, many);
            let over = Instant::now() >= deadline || self.closed.load(Ordering::Relaxed);
            if seen == 0 || index > seen || over {
                return Ok(found_answer(query, index, &found));
            }
            // Looks again in both cases: after a change, and when the time is up.
            let _ = tokio::time::timeout_at(deadline, changes.changed()).await;
        }
    }

    fn write(&self, key: &str, query: &Query<'_>, value: Bytes) -> Answer {
        check_key(key, false)?;
        query.refuse(&["acquire", "release"])?;
        let flags = query.number("flags")?.unwrap_or(0);
        let cas = query.number("cas")?;
        let written = self.change(|table, next| {
            if cas.is_some_and(|index| table.index_of(key) != index) {
                return (false, Ok(false));
            }
            let written = table.set(key, value, flags, next);
            (written.is_ok(), written.map(|()| true))
        });
        let full = |full: Full| web::error(StatusCode::INSUFFICIENT_STORAGE, full);
        written.map(|written| web::json(StatusCode::OK, &written)).map_err(full)
    }

    fn delete(&self, key: &str, query: &Query<'_>) -> Answer {
        let recurse = query.has("recurse");
        check_key(key, recurse)?;
        let cas = query.number("cas")?;
        let deleted = self.change(|table, next| {
            if cas.is_some_and(|index| table.index_of(key) != index) {
                return (false, false);
            }
            (table.remove_all(key, recurse, next), true)
        });
        Ok(web::json(StatusCode::OK, &deleted))
    }

    fn transaction(&self, operations: Vec<Wrapped<Operation>>) -> Answer {
        if operations.len() > MOST_OPERATIONS {
            let words = format!("{} operations in one transaction; the most are {MOST_OPERATIONS}", operations.len());
            return Err(web::error(StatusCode::PAYLOAD_TOO_LARGE, words));
        }
        let mut steps = Vec::new();
        for Wrapped { kv } in operations {
            check_key(&kv.key, false)?;
            let value = BASE64
                .decode(kv.value.as_deref().unwrap_or_default())
                .map_err(|_| bad_request("a value is not base64"))?;
            if value.len() > LONGEST_VALUE {
                return Err(web::error(StatusCode::PAYLOAD_TOO_LARGE, "a value is longer than 512 KiB"));
            }
            steps.push((kv, Bytes::from(value)));
        }
        Ok(match self.change(|table, next| table.transaction(&steps, next)) {
            Ok(results) => web::json(StatusCode::OK, &json!({ "Results": results, "Errors": null })),
            Err(errors) => web::json(StatusCode::CONFLICT, &json!({ "Results": null, "Errors": errors })),
        })
    }
}

fn found_answer(query: &Query<'_>, index: u64, found: &[(String, StoredKey)]) -> Response {
    let mut response = match found {
        [] => web::bytes_of(StatusCode::NOT_FOUND, "text/plain", Bytes::new()),
        [(_, stored), ..] if query.has("raw") => {
            web::bytes_of(StatusCode::OK, "application/octet-stream", stored.value.clone())
        }
        found if query.has("keys") => {
            web::json(StatusCode::OK, &found.iter().map(|(name, _)| name).collect::<Vec<_>>())
        }
        found => {
            let shown: Vec<_> = found.iter().map(|(name, stored)| ShownKey::of(name, stored, true)).collect();
            web::json(StatusCode::OK, &shown)
        }
    };
    let headers = response.headers_mut();
    headers.insert("X-Consul-Index", HeaderValue::from(index));
    headers.insert("X-Consul-Knownleader", HeaderValue::from_static("true"));
    headers.insert("X-Consul-Lastcontact", HeaderValue::from_static("0"));
    response
}
