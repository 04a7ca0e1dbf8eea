//! The few calls of Consul's HTTP API that pointers need, held in memory: for a trial on one machine.
//!
//! The publisher fills it at start like any Consul. Indexes begin at the time of the start, so that they go up across
//! restarts, too.

#![expect(clippy::result_large_err, reason = "a refusal is an answer like any other")]

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
use http::{Method, StatusCode, header::HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use warp::Filter;

/// Consul's own limit.
const LONGEST_VALUE: usize = 512 << 10;
/// Of a transaction's text: 64 of the longest values would be 43 MB; pointers are 60 bytes.
const LONGEST_TRANSACTION: usize = 4 << 20;
/// Of all keys and values together.
const MOST_BYTES: usize = 64 << 20;
const LONGEST_KEY: usize = 512;
/// Consul's own default and limit.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// The keys and values.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    index: u64,
    last_deletion: u64,
    bytes: usize,
    keys: BTreeMap<String, Stored>,
}

#[derive(Clone, Debug)]
struct Stored {
    value: Bytes,
    flags: u64,
    created: u64,
    modified: u64,
}

/// The routes of `/v1/kv/…`, `/v1/txn` and `/v1/status/leader`.
pub fn routes(store: Arc<Store>) -> Routes {
    let under = warp::path("v1").and(warp::path("kv").or(warp::path("txn")).unify().or(warp::path("status")).unify());
    under.and(web::request()).then(move |request| answer(Arc::clone(&store), request)).boxed()
}

async fn answer(store: Arc<Store>, request: Request) -> Response {
    let result = match (request.method.clone(), request.path.as_str()) {
        (Method::PUT, "/v1/txn") => store.transaction(request).await,
        (Method::GET, "/v1/status/leader") => Ok(web::json(StatusCode::OK, "embedded")),
        (method, path) => match (method, path.strip_prefix("/v1/kv/")) {
            (Method::GET, Some(key)) => store.read(key, &Query::of(&request.query)).await,
            (Method::PUT, Some(key)) => {
                let query = Query::of(&request.query);
                match request.body.bytes(LONGEST_VALUE).await {
                    Ok(value) => store.write(key, &query, value),
                    Err(refusal) => Err(refusal),
                }
            }
            (Method::DELETE, Some(key)) => store.delete(key, &Query::of(&request.query)),
            _ => {
                Err(web::error(StatusCode::NOT_FOUND, "the embedded server knows /v1/kv/…, /v1/txn, /v1/status/leader"))
            }
        },
    };
    result.unwrap_or_else(|refusal| refusal)
}

type Answer = Result<Response, Response>;

impl Store {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
        let inner = Inner { index: now, last_deletion: now, bytes: 0, keys: BTreeMap::new() };
        Arc::new(Store { inner: Mutex::new(inner), changed: watch::Sender::new(now), closed: AtomicBool::new(false) })
    }

    /// Answers all who wait, at once and from now on: the program ends.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.changed.send_modify(|_| ());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `change` under the lock with the next index; wakes the waiting ones when it says that something changed.
    fn change<T>(&self, change: impl FnOnce(&mut Inner, u64) -> (bool, T)) -> T {
        let mut inner = self.lock();
        let next = inner.index + 1;
        let (changed, answer) = change(&mut inner, next);
        if changed {
            inner.index = next;
            self.changed.send_replace(next);
        }
        answer
    }

    async fn read(&self, key: &str, query: &Query<'_>) -> Answer {
        check_key(key, query.has("recurse") || query.has("keys"))?;
        let seen = query.number("index")?.unwrap_or(0);
        let wait =
            query.get("wait").map(|text| duration(text).ok_or_else(|| bad("wait is not a duration"))).transpose()?;
        let wait = wait.filter(|wait| !wait.is_zero()).unwrap_or(DEFAULT_WAIT).min(LONGEST_WAIT);
        let deadline = tokio::time::Instant::now() + wait + wait.mul_f64(rand::random::<f64>() / 16.0);
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            let (index, found) = self.find(key, query);
            let over = tokio::time::Instant::now() >= deadline || self.closed.load(Ordering::Relaxed);
            if seen == 0 || index > seen || over {
                return Ok(found_answer(query, index, &found));
            }
            // Either the time is up or something changed: look again in both cases.
            let _ = tokio::time::timeout_at(deadline, changes.changed()).await;
        }
    }

    fn find(&self, key: &str, query: &Query<'_>) -> (u64, Vec<(String, Stored)>) {
        let inner = self.lock();
        if query.has("recurse") || query.has("keys") {
            let from = inner.keys.range::<str, _>((Bound::Included(key), Bound::Unbounded));
            let found: Vec<_> = from
                .take_while(|(name, _)| name.starts_with(key))
                .map(|(name, stored)| (name.clone(), stored.clone()))
                .collect();
            let newest = found.iter().map(|(_, stored)| stored.modified).max();
            (newest.map_or(inner.index, |newest| newest.max(inner.last_deletion)), found)
        } else {
            match inner.keys.get(key) {
                Some(stored) => (stored.modified, vec![(key.to_owned(), stored.clone())]),
                None => (inner.index, Vec::new()),
            }
        }
    }

    fn write(&self, key: &str, query: &Query<'_>, value: Bytes) -> Answer {
        check_key(key, false)?;
        query.refuse(&["acquire", "release"])?;
        let flags = query.number("flags")?.unwrap_or(0);
        let cas = query.number("cas")?;
        let done = self.change(|inner, next| {
            if cas.is_some_and(|index| !inner.stands_at(key, index)) {
                return (false, Ok(false));
            }
            match inner.set(key, value, flags, next) {
                Ok(()) => (true, Ok(true)),
                Err(full) => (false, Err(full)),
            }
        });
        done.map(|done| web::json(StatusCode::OK, &done)).map_err(full)
    }

    fn delete(&self, key: &str, query: &Query<'_>) -> Answer {
        let recurse = query.has("recurse");
        check_key(key, recurse)?;
        let cas = query.number("cas")?;
        let done = self.change(|inner, next| {
            if cas.is_some_and(|index| !inner.stands_at(key, index)) {
                return (false, false);
            }
            let under = |name: &&String| if recurse { name.starts_with(key) } else { *name == key };
            let gone: Vec<String> = inner.keys.keys().filter(under).cloned().collect();
            for name in &gone {
                inner.remove(name, next);
            }
            (!gone.is_empty(), true)
        });
        Ok(web::json(StatusCode::OK, &done))
    }

    async fn transaction(&self, request: Request) -> Answer {
        let operations: Vec<Wrapped<Operation>> = request.body.json(LONGEST_TRANSACTION).await?;
        if operations.len() > MOST_OPERATIONS {
            let words =
                format!("{} operations in one transaction; {MOST_OPERATIONS} may stand there", operations.len());
            return Err(web::error(StatusCode::PAYLOAD_TOO_LARGE, words));
        }
        let mut steps = Vec::new();
        for Wrapped { kv } in operations {
            check_key(&kv.key, false)?;
            let value =
                BASE64.decode(kv.value.as_deref().unwrap_or_default()).map_err(|_| bad("a value is not base64"))?;
            if value.len() > LONGEST_VALUE {
                return Err(web::error(StatusCode::PAYLOAD_TOO_LARGE, "a value is longer than 512 KiB"));
            }
            if !VERBS.contains(&kv.verb.as_str()) {
                return Err(bad(&format!("the embedded server knows the verbs {}", VERBS.join(", "))));
            }
            steps.push((kv, Bytes::from(value)));
        }
        let (results, errors) = self.change(|inner, next| inner.run(&steps, next));
        let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::CONFLICT };
        let results = errors.is_empty().then_some(results);
        let errors = (!errors.is_empty()).then_some(errors);
        Ok(web::json(status, &serde_json::json!({ "Results": results, "Errors": errors })))
    }
}

const VERBS: [&str; 7] = ["set", "cas", "get", "delete", "delete-cas", "check-index", "check-not-exists"];

impl Inner {
    fn stands_at(&self, key: &str, index: u64) -> bool {
        self.keys.get(key).map_or(0, |stored| stored.modified) == index
    }

    fn set(&mut self, key: &str, value: Bytes, flags: u64, index: u64) -> Result<(), Full> {
        let before = self.keys.get(key);
        let freed = before.map_or(0, |stored| key.len() + stored.value.len());
        let bytes = self.bytes - freed + key.len() + value.len();
        if bytes > MOST_BYTES {
            return Err(Full);
        }
        let created = before.map_or(index, |stored| stored.created);
        self.bytes = bytes;
        self.keys.insert(key.to_owned(), Stored { value, flags, created, modified: index });
        Ok(())
    }

    fn remove(&mut self, key: &str, index: u64) {
        if let Some(stored) = self.keys.remove(key) {
            self.bytes -= key.len() + stored.value.len();
            self.last_deletion = index;
        }
    }

    /// All of a transaction or nothing of it.
    fn run(&mut self, steps: &[(Operation, Bytes)], next: u64) -> (bool, (Vec<Wrapped<Shown>>, Vec<Fault>)) {
        let mut undo: Vec<(String, Option<Stored>)> = Vec::new();
        let (deletion_before, mut results, mut faults) = (self.last_deletion, Vec::new(), Vec::new());
        for (at, (operation, value)) in steps.iter().enumerate() {
            let key = &operation.key;
            let before = self.keys.get(key).cloned();
            let there = before.as_ref().map(|stored| stored.modified);
            let expected = match operation.verb.as_str() {
                "cas" => operation.index == there.unwrap_or(0),
                "delete-cas" | "check-index" => there == Some(operation.index),
                "get" => there.is_some(),
                "check-not-exists" => there.is_none(),
                _ => true,
            };
            if !expected {
                faults
                    .push(Fault { op_index: at, what: format!("{}: key {key:?} is not as expected", operation.verb) });
                continue;
            }
            match operation.verb.as_str() {
                "set" | "cas" => {
                    undo.push((key.clone(), before));
                    match self.set(key, value.clone(), operation.flags, next) {
                        Ok(()) => results.push(Wrapped { kv: Shown::of(key, &self.keys[key], false) }),
                        Err(Full) => faults.push(Fault { op_index: at, what: Full.to_string() }),
                    }
                }
                "delete" | "delete-cas" => {
                    undo.push((key.clone(), before));
                    self.remove(key, next);
                }
                verb => {
                    if let Some(stored) = before {
                        results.push(Wrapped { kv: Shown::of(key, &stored, verb == "get") });
                    }
                }
            }
        }
        if faults.is_empty() {
            return (!undo.is_empty(), (results, faults));
        }
        for (key, before) in undo.into_iter().rev() {
            self.remove(&key, deletion_before);
            if let Some(stored) = before {
                self.bytes += key.len() + stored.value.len();
                self.keys.insert(key, stored);
            }
        }
        self.last_deletion = deletion_before;
        (false, (Vec::new(), faults))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the embedded server holds no more than {MOST_BYTES} bytes; use a Consul for this")]
struct Full;

fn full(full: Full) -> Response {
    web::error(StatusCode::INSUFFICIENT_STORAGE, full)
}

fn bad(words: &str) -> Response {
    web::error(StatusCode::BAD_REQUEST, words)
}

fn check_key(key: &str, prefix: bool) -> Result<(), Response> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b',' | b'.' | b'_' | b'/' | b'-');
    match key {
        "" if !prefix => Err(bad("a key cannot be empty")),
        key if key.len() <= LONGEST_KEY && key.bytes().all(allowed) => Ok(()),
        _ => Err(bad("a key is at most 512 letters, digits and ',._/-'")),
    }
}

fn found_answer(query: &Query<'_>, index: u64, found: &[(String, Stored)]) -> Response {
    let mut response = match found {
        [] => web::bytes_of(StatusCode::NOT_FOUND, "text/plain", Bytes::new()),
        [(_, stored), ..] if query.has("raw") => {
            web::bytes_of(StatusCode::OK, "application/octet-stream", stored.value.clone())
        }
        found if query.has("keys") => {
            web::json(StatusCode::OK, &found.iter().map(|(name, _)| name).collect::<Vec<_>>())
        }
        found => {
            let shown: Vec<Shown> = found.iter().map(|(name, stored)| Shown::of(name, stored, true)).collect();
            web::json(StatusCode::OK, &shown)
        }
    };
    let headers = response.headers_mut();
    headers.insert("X-Consul-Index", HeaderValue::from(index));
    headers.insert("X-Consul-Knownleader", HeaderValue::from_static("true"));
    headers.insert("X-Consul-Lastcontact", HeaderValue::from_static("0"));
    response
}

/// Go's form of a duration: `90s`, `1m30s`, `250ms`; a plain number means nanoseconds there, and is refused here.
fn duration(text: &str) -> Option<Duration> {
    let mut whole = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let number = rest[..digits].parse::<u64>().ok()?;
        let unit = &rest[digits..];
        let length = unit.find(|character: char| character.is_ascii_digit()).unwrap_or(unit.len());
        let one = match &unit[..length] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        whole = whole.checked_add(one)?;
        rest = &unit[length..];
    }
    (!text.is_empty()).then_some(whole)
}

/// What follows `?`.
struct Query<'q>(HashMap<&'q str, &'q str>);

impl<'q> Query<'q> {
    fn of(text: &'q str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn get(&self, name: &str) -> Option<&'q str> {
        self.0.get(name).copied()
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Response> {
        let number = |text: &str| text.parse().map_err(|_| bad(&format!("{name} must be a number")));
        self.get(name).map(number).transpose()
    }

    fn refuse(&self, names: &[&str]) -> Result<(), Response> {
        match names.iter().find(|name| self.has(name)) {
            Some(name) => Err(bad(&format!("the embedded server does not know {name}"))),
            None => Ok(()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Wrapped<T> {
    #[serde(rename = "KV")]
    kv: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Operation {
    verb: String,
    key: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    flags: u64,
    #[serde(default)]
    index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    lock_index: u64,
    key: String,
    flags: u64,
    value: Option<String>,
    create_index: u64,
    modify_index: u64,
}

impl Shown {
    fn of(key: &str, stored: &Stored, with_value: bool) -> Self {
        Shown {
            lock_index: 0,
            key: key.to_owned(),
            flags: stored.flags,
            value: (with_value && !stored.value.is_empty()).then(|| BASE64.encode(&stored.value)),
            create_index: stored.created,
            modify_index: stored.modified,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Fault {
    op_index: usize,
    what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "5", "s", "5x", "-1s", "99999999999999999999s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
